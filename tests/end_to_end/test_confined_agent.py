"""An agent under the limits of its unit, without systemd: nobody's user, a read-only machine, one folder to write to, no capabilities.

It joins, takes a model, serves and comes again. What a unit adds to this (the filter of system calls) systemd alone can give.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.checkpoints import TinyGlm, write_checkpoint
from tests.support.disks import needs_mounts
from tests.support.processes import ROOT, Glmfleet, wait_for

NOBODY = 65534
UNREACHED = 77
# $1: the agent's folder, to be seen at /mnt/state; then what has to stay readable though its home is hidden.
CONFINED = """
set -e
state=$1; shift
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/state; mount --bind "$state" /mnt/state
number=0
for kept in "$PREFIX" "$VENV" "$SOURCE"; do
  number=$((number + 1)); mkdir /mnt/kept$number; mount --bind "$kept" /mnt/kept$number
done
for hidden in /home /root; do [ ! -d $hidden ] || mount -t tmpfs -o mode=755 tmpfs $hidden; done
number=0
for kept in "$PREFIX" "$VENV" "$SOURCE"; do
  number=$((number + 1)); [ -d "$kept" ] || { mkdir -p "$kept"; mount --bind /mnt/kept$number "$kept"; }
done
mount -o remount,bind,ro /
mount -t tmpfs -o mode=1777 tmpfs /tmp
cd /mnt/state
alone="setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs --bounding-set -all --inh-caps -all"
$alone test -r "$SOURCE/pyproject.toml" -a -x "$VENV/bin/python" || exit 77
exec $alone "$@"
"""
# As MemoryDenyWriteExecute: PR_SET_MDWE of Linux 6.3; an older kernel knows it not.
NO_NEW_CODE = "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
needs_tools = pytest.mark.skipif(
    not (shutil.which("unshare") and shutil.which("setpriv")), reason="needs unshare and setpriv of util-linux"
)


@contextmanager
def agent(state: Path, port: int, token: str) -> Iterator[subprocess.Popen[str]]:
    words = ["--state", "/mnt/state/device", "--name", "gate-7", "--port", str(port), "--interface", "127.0.0.1"]
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", CONFINED, "sh", str(state)]
    environment = {
        "PATH": os.environ["PATH"],
        "PREFIX": sys.base_prefix,
        "VENV": sys.prefix,
        "SOURCE": str(ROOT),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "GLMFLEET_TOKEN": token,
    }
    with (state.parent / "agent.log").open("a") as log:
        process = subprocess.Popen(
            [*command, f"{sys.prefix}/bin/python", "-P", "-c", NO_NEW_CODE, "-P", "-m", "device", *words],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
            text=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def status(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


@needs_mounts
@needs_tools
@pytest.mark.long
def test_it_joins_takes_a_model_and_serves(tmp_path: Path) -> None:
    state, port = tmp_path / "state", free_port()
    state.mkdir(mode=0o700)
    os.chown(state, NOBODY, NOBODY)
    glmfleet = Glmfleet(tmp_path / "home")
    checkpoint = write_checkpoint(tmp_path / "tiny", TinyGlm(layers=2, max_positions=2048))
    assert glmfleet("model", "import", checkpoint, "--name", "tiny").returncode == 0
    with glmfleet.serving("--seed", f"127.0.0.1:{port}"):
        token = glmfleet("devices", "token").stdout.strip()
        with agent(state, port, token) as process:
            wait_for(lambda: process.poll() is not None or glmfleet.states().get("gate-7") == "online", 60)
            if process.poll() == UNREACHED:
                pytest.skip("nobody's user cannot reach this source tree or its Python")
            assert process.poll() is None, (tmp_path / "agent.log").read_text()
            found = status(process.pid)
            assert found["Uid"].split() == [str(NOBODY)] * 4
            assert (found["NoNewPrivs"], int(found["CapBnd"], 16), int(found["CapEff"], 16)) == ("1", 0, 0)
            root = next(line for line in Path(f"/proc/{process.pid}/mounts").read_text().splitlines() if line.split()[1] == "/")
            assert root.split()[3].split(",")[0] == "ro"
            deployed = glmfleet("deploy", "tiny")
            assert deployed.returncode == 0, deployed.stderr
            before = glmfleet("generate", "Hello", "--max-tokens", 8, "--temperature", 0)
            assert before.returncode == 0, before.stderr
        with agent(state, port, token):
            wait_for(lambda: glmfleet.deployed() == ["ready"], 60)
            again = glmfleet("generate", "Hello", "--max-tokens", 8, "--temperature", 0)
            assert (again.returncode, again.stdout) == (0, before.stdout)
    log = (tmp_path / "agent.log").read_text()
    assert "Traceback" not in log
    assert {path.owner() for path in state.rglob("*")} == {"nobody"}
