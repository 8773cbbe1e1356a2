"""The product as people install it: built, put into an environment of its own, and called in an empty or a hostile folder.

By itself this installs the wheel beside the dependencies of the tests. With GLMFLEET_INSTALLED=all (`make installed`) it installs wheel and
sdist as people do, by pip, pipx and uv, with all dependencies fetched.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.checkpoints import TinyGlm, write_checkpoint
from tests.support.distributions import Installed, beside_these_dependencies, build, by_pipx, by_uv, hostile_folder, in_a_venv
from tests.support.processes import ROOT, processes_naming, wait_for

ALL = os.environ.get("GLMFLEET_INSTALLED") == "all"
WHEEL, SDIST = 1, 0
WAYS: dict[str, tuple[int, Callable[[Path, Path], Path]]] = (
    {
        "wheel-by-pip": (WHEEL, in_a_venv),
        "sdist-by-pip": (SDIST, in_a_venv),
        "wheel-by-pipx": (WHEEL, by_pipx),
        "sdist-by-uv": (SDIST, by_uv),
    }
    if ALL
    else {"wheel": (WHEEL, beside_these_dependencies)}
)
# Every command, those below a group too, asked for its help in one process: what a module needs is imported then.
HELP = """
import contextlib, io, json, sys
import typer
from fleet.cli.main import compose, main, ENTRIES
whole = typer.main.get_command(compose([entry.name for entry in ENTRIES]))
names = [[]]
for name, command in whole.commands.items():
    names += [[name], *([name, below] for below in getattr(command, "commands", {}))]
for words in names:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = main([*words, "--help"])
    assert code == 0 and "Usage: glmfleet" in said.getvalue(), (words, code, said.getvalue())
print(json.dumps({"commands": len(names), "where": sys.modules["fleet"].__file__}))
"""
# The command, where these modules are not installed.
WITHOUT = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from fleet.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
COORDINATOR = (
    "fastapi",
    "uvicorn",
    "sqlalchemy",
    "alembic",
    "httpx",
    "onnx",
    "gguf",
    "safetensors",
    "huggingface_hub",
    "jinja2",
    "tokenizers",
)
AGENT = ("onnxruntime", "zeroconf", "cryptography", "psutil")
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800 if ALL else 180), pytest.mark.xdist_group("installed")]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build(tmp_path_factory.mktemp("build"), isolated=ALL)


@pytest.fixture(scope="module", params=WAYS)
def script(request: pytest.FixtureRequest, distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    which, install = WAYS[request.param]
    return install(distributions[which], tmp_path_factory.mktemp("installed"))


@pytest.fixture
def empty(script: Path, tmp_path: Path) -> Installed:
    (tmp_path / "empty").mkdir()
    return Installed(tmp_path / "home", script=script, folder=tmp_path / "empty")


@pytest.fixture
def hostile(script: Path, tmp_path: Path) -> Installed:
    """Called in a folder with modules that must not be imported; `hostile_folder` says where they leave their mark."""
    (tmp_path / "temporary").mkdir()
    environment = {"TMPDIR": str(tmp_path / "temporary")}
    return Installed(tmp_path / "home", script=script, folder=tmp_path / "hostile", environment=environment)


def test_the_sdist_has_what_the_wheel_is_built_of(distributions: tuple[Path, Path]) -> None:
    """And the wheel has every file of ours that is no test."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    packages = ("protos/", "quantize/", "device/", "sim_devices/", "fleet/")
    ours = {name for name in listing.stdout.splitlines() if name.startswith(packages) and (ROOT / name).is_file()}
    with zipfile.ZipFile(distributions[WHEEL]) as wheel, tarfile.open(distributions[SDIST]) as sdist:
        packed = set(wheel.namelist())
        assert packed >= ours
        assert {name.partition("/")[0] for name in packed if ".dist-info/" not in name} == {name.strip("/") for name in packages}
        assert {name.partition("/")[2] for name in sdist.getnames()} >= {*ours, "LICENSE", "README.md", "pyproject.toml"}


def test_every_command_has_its_help_in_an_empty_folder(empty: Installed) -> None:
    interpreter = empty.script.resolve().with_name("python")
    done = subprocess.run([str(interpreter), "-P", "-c", HELP], cwd=empty.folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["commands"] > 30
    assert not Path(said["where"]).is_relative_to(ROOT)
    assert empty("--version").stdout.startswith("glmfleet ")
    assert os.listdir(empty.folder) == []


def test_a_fleet_comes_up_and_answers(hostile: Installed, tmp_path: Path) -> None:
    """Import, simulated devices, coordinator, deployment and answer, in a folder whose modules must not be imported."""
    seen = hostile_folder(hostile.folder)
    checkpoint = write_checkpoint(tmp_path / "tiny", TinyGlm(layers=2, max_positions=2048))
    imported = hostile("model", "import", checkpoint, "--name", "smollm2-135m")
    assert imported.returncode == 0, imported.stderr
    shown = hostile("demo", "--devices", 2, "--prompt", "Name three colours.", timeout=120)
    assert shown.returncode == 0, shown.stderr
    assert "== What it cost" in shown.stdout
    assert not seen.exists(), seen.read_text()


def test_an_agent_runs(hostile: Installed) -> None:
    """`device run` goes on as another program: this one too takes nothing from the folder."""
    seen = hostile_folder(hostile.folder)
    agent = hostile.start("device", "run", "--port", 0, "--interface", "127.0.0.1")
    try:
        assert agent.stderr is not None
        lines = iter(agent.stderr.readline, "")
        fingerprint = next((line for line in lines if "its fingerprint:" in line), "")
        assert fingerprint, seen.read_text() if seen.exists() else agent.wait(10)
        assert not seen.exists(), seen.read_text()
    finally:
        agent.send_signal(signal.SIGTERM)
        rest = threading.Thread(target=agent.stderr.read)
        rest.start()
        assert agent.wait(15) == 0
        rest.join()
        for pipe in (agent.stdout, agent.stderr):
            assert pipe is not None
            pipe.close()
    wait_for(lambda: processes_naming(str(hostile.home)) == [], 5)


def test_a_board_needs_the_agent_alone(empty: Installed) -> None:
    done = without(empty, COORDINATOR, "device", "run", "--insecure", "--port", "99999")
    assert "Invalid value for '--port'" in done.stderr
    assert "ExecStart=" in without(empty, COORDINATOR, "service", "install", "device", "--user", "--print").stdout
    done = without(empty, COORDINATOR, "device", "leave")
    assert (done.returncode, done.stderr) == (0, "it belonged to no fleet\n")


@pytest.mark.parametrize(
    ("absent", "words", "lacking", "parts"),
    [
        (COORDINATOR, ["serve"], "fastapi", "glmfleet[coordinator,device,text,sim]"),
        (COORDINATOR, ["model", "list"], "tokenizers", "glmfleet[coordinator,device,text,sim]"),
        (AGENT, ["device", "run"], "cryptography", "glmfleet[device]"),
    ],
)
def test_a_command_whose_part_is_not_installed_says_which(
    empty: Installed, absent: tuple[str, ...], words: list[str], lacking: str, parts: str
) -> None:
    """`pipx install glmfleet` installs the command and none of its parts."""
    assert without(empty, absent, "--help").returncode == 0
    done = without(empty, absent, *words)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first == f"error: this command needs {lacking}, which is not installed"
    assert second == f"  install glmfleet with its parts: pipx install --force '{parts}'"


def without(installed: Installed, absent: tuple[str, ...], *words: str) -> subprocess.CompletedProcess[str]:
    interpreter = installed.script.resolve().with_name("python")
    command = [str(interpreter), "-P", "-c", WITHOUT.format(absent=absent), "--home", str(installed.home), *words]
    return subprocess.run(command, cwd=installed.folder, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.skipif(not ALL, reason="`make installed` asks each command for its help as a process of its own")
def test_every_command_as_a_process(empty: Installed) -> None:
    for words in (
        [],
        *([name] for name in ("demo", "model", "sim", "device", "serve", "devices", "doctor", "plan", "deploy", "chat", "bench")),
    ):
        done = empty(*words, "--help")
        assert done.returncode == 0, done.stderr
        assert "Usage: glmfleet" in done.stdout
    told = empty("doctor", "--json")
    assert told.returncode in (0, 1), told.stderr
    json.loads(told.stdout)
