"""Several hosts on one machine, each a network namespace, joined by switches: made and removed by whoever enters `Network`.

Nothing of it is seen by the machine's own network. It needs root and the command `ip`; `needs_hosts` skips a test where these are missing.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

ROOT = Path(__file__).resolve().parents[2]
_numbers = itertools.count()


@functools.cache
def why_not() -> str:
    """Why hosts cannot be made here; "" when they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "the command `ip` is missing (iproute2)"
    name = f"glmfleet-trial-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


needs_hosts = pytest.mark.skipif(bool(why_not()), reason=why_not())
# The kernel has one wall clock for all. libfaketime changes what libc says, and so what BoringSSL within gRPC takes for today, too.
CLOCK = next(map(str, Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), "")
needs_clocks = pytest.mark.skipif(not CLOCK, reason="libfaketime is missing (apt install libfaketime)")


class Program:
    """A process on a host that says JSON objects, one a line, on stdout."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.said: list[dict[str, Any]] = []
        self.log = log
        self._lines: queue.Queue[str] = queue.Queue()
        with log.open("w") as errors:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, cwd=ROOT)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, wanted: Callable[[dict[str, Any]], object], seconds: float = 15.0) -> dict[str, Any]:
        """The next object that is `wanted`; fails the test when none comes in the time."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(
                    f"not within {seconds:g} s; it said {self.said[-5:]} and logged {self.log.read_text()[-2000:]}"
                ) from None
            self.said.append(json.loads(line))
            if wanted(self.said[-1]):
                return self.said[-1]

    def since(self, moment: float, wanted: Callable[[dict[str, Any]], object], seconds: float) -> dict[str, Any]:
        """As `wait_for`, of what it said later than `moment` by its own word ("at"), whether it was read already or not."""

        def good(said: dict[str, Any]) -> bool:
            return bool(said.get("at", 0.0) > moment and wanted(said))

        return next((said for said in self.said if good(said)), None) or self.wait_for(good, seconds)

    def within(self, seconds: float) -> list[dict[str, Any]]:
        """All that it says in this time."""
        deadline, first = time.monotonic() + seconds, len(self.said)
        with contextlib.suppress(queue.Empty):
            while True:
                self.said.append(json.loads(self._lines.get(timeout=max(0.0, deadline - time.monotonic()))))
        return self.said[first:]

    def tell(self, **facts: object) -> None:
        """A JSON object on its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(facts) + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """It has 10 s for that, then it is killed. `process.terminate()` before, where several end at once."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)


class Host:
    """A namespace with loopback. IPv6 addresses are good at once, unless the kernel is to look for `duplicates`, which takes seconds."""

    def __init__(self, name: str, namespace: str, folder: Path, ipv6: bool, duplicates: bool, clock: str) -> None:
        self.name = name
        wrong = {"LD_PRELOAD": CLOCK, "FAKETIME": clock, "FAKETIME_DONT_FAKE_MONOTONIC": "1"} if clock else {}
        self._clock = ["env", *(f"{key}={value}" for key, value in wrong.items())]
        self.namespace = namespace
        self._folder = folder
        self._ports = itertools.count()
        self.programs: list[Program] = []
        _run("ip", "netns", "add", namespace)
        set_so = [f"accept_dad={int(duplicates)}", *([] if ipv6 else ["disable_ipv6=1"])]
        self.run("sysctl", "-qw", *(f"net.ipv6.conf.{where}.{setting}" for where in ("all", "default") for setting in set_so))
        self.ip("link set lo up")

    def command(self, *words: str) -> list[str]:
        """The command that runs `words` here, under this host's own name and by its own clock."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name]
        return ["ip", "netns", "exec", self.namespace, *named, *self._clock, *words]

    def run(self, *command: str) -> None:
        """Raises CalledProcessError."""
        _run(*self.command(*command))

    def output(self, *command: str) -> str:
        """What it says on stdout, however it ends."""
        return subprocess.run(self.command(*command), capture_output=True, text=True, cwd=ROOT).stdout

    def ip(self, arguments: str) -> None:
        """`ip` on this host, for example "addr add 192.168.7.2/24 dev eth0"."""
        _run("ip", "-n", self.namespace, *arguments.split())

    def ip_each(self, arguments: Iterable[str]) -> None:
        """`ip` for each of these, quickly."""
        _run("ip", "-n", self.namespace, "-batch", "-", told="\n".join(arguments))

    def sent_bytes(self, interface: str) -> int:
        """Of all frames that left it."""
        return int(self.output("cat", f"/sys/class/net/{interface}/statistics/tx_bytes"))

    def bridge(self, name: str, address: str) -> None:
        """A bridge as containers and hotspots make, with something on it."""
        port = f"{name}-p"
        for arguments in (
            f"link add {name} type bridge",
            f"link add {port} type veth peer name {port}x",
            f"link set {port} master {name}",
            f"addr add {address} dev {name}",
            f"link set {name} up",
            f"link set {port} up",
            f"link set {port}x up",
        ):
            self.ip(arguments)

    @property
    def log(self) -> str:
        """What its programs have logged."""
        return "".join(program.log.read_text() for program in self.programs)

    def start(self, module: str, *arguments: str) -> Program:
        """`python -m module` on this host."""
        log = self._folder / f"{self.name}-{len(self.programs)}.log"
        program = Program(self.command(sys.executable, "-m", module, *arguments), log)
        self.programs.append(program)
        return program


class Network:
    """A context manager: hosts and their programs end with it. `folder` keeps the programs' logs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hosts: list[Host] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        programs = [program for host in self._hosts for program in host.programs]
        for program in programs:
            program.process.terminate()
        with contextlib.ExitStack() as stack:
            for host in self._hosts:
                stack.callback(_run, "ip", "netns", "del", host.namespace)
            for program in programs:
                stack.callback(program.end)

    def host(self, name: str, *, ipv6: bool = True, duplicates: bool = False, clock: str = "") -> Host:
        """`clock`: by how much it is wrong, for example "+1h" or "-30s"; see `needs_clocks`."""
        host = Host(name, f"glmfleet-{os.getpid()}-{next(_numbers)}", self._folder, ipv6, duplicates, clock)
        self._hosts.append(host)
        return host

    def switch(self) -> Host:
        """A host that is a switch: its bridge `lan` joins what is plugged into it."""
        switch = self.host("switch")
        switch.ip("link add lan type bridge mcast_snooping 0")
        switch.ip("link set lan up")
        return switch

    def plug(self, host: Host, switch: Host, interface: str = "eth0", *addresses: str) -> None:
        """A cable from a new interface of the host to the switch. Without addresses it has the one that IPv6 gives itself."""
        port = f"port{next(switch._ports)}"
        switch.ip(f"link add {port} type veth peer name {interface} netns {host.namespace}")
        switch.ip(f"link set {port} master lan up")
        for address in addresses:
            host.ip(f"addr add {address} dev {interface}")
        host.ip(f"link set {interface} up")


def _run(*command: str, told: str = "") -> None:
    done = subprocess.run(command, capture_output=True, text=True, input=told)
    assert not done.returncode, f"{' '.join(command)}: {done.stderr}"
