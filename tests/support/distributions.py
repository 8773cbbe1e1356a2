"""Built distributions of this source tree, and environments of their own that they are installed into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.processes import ROOT, Glmfleet

EXTRAS = "coordinator,device,text,sim"
# What would be run in the place of a module of ours or of a dependency, were it found in the folder that a command is called in.
HOSTILE = ("protos", "fleet", "device", "quantize", "sim_devices", "numpy", "typer", "grpc", "onnxruntime", "pip", "json", "sitecustomize")


@dataclass(frozen=True)
class Installed(Glmfleet):
    """The script of an installation, called in `folder`, with nothing of the source tree in reach."""

    script: Path = Path()
    folder: Path = Path()
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return self._anew(arguments, timeout)  # what is loaded here is the source tree

    def _command(self, arguments: tuple[object, ...]) -> list[str]:
        return [str(self.script), *(str(each) for each in arguments)]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONSAFEPATH", "VIRTUAL_ENV"}}
        return {**kept, "GLMFLEET_HOME": str(self.home), "PWD": str(self.folder), "COLUMNS": "80", "NO_COLOR": "1", **self.environment}

    def _folder(self) -> Path | None:
        return self.folder


def build(target: Path, *, isolated: bool = False) -> tuple[Path, Path]:
    """(the sdist, the wheel that is built of it), from what git tracks or would. `isolated`: with tools that pip fetches for it."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    source = target / "source"
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    options = [] if isolated else ["--no-isolation"]
    _checked([sys.executable, "-P", "-m", "build", *options, "--outdir", str(target / "dist"), str(source)])
    [sdist], [wheel] = (target / "dist").glob("*.tar.gz"), (target / "dist").glob("*.whl")
    return sdist, wheel


def beside_these_dependencies(wheel: Path, folder: Path) -> Path:
    """The script of the wheel in an environment that has this one's dependencies, and not the source tree; within seconds, off line."""
    _checked([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    _checked(
        [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    )
    site = Path(_checked([str(folder / "bin" / "python"), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    # A folder named in a .pth is searched, but its own .pth files, the source tree's among them, are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "glmfleet"


def in_a_venv(distribution: Path, folder: Path) -> Path:
    """The script, with all that the distribution asks for, fetched by pip."""
    _checked([sys.executable, "-m", "venv", str(folder)])
    _checked([str(folder / "bin" / "python"), "-m", "pip", "install", "-q", f"{distribution}[{EXTRAS}]"])
    return folder / "bin" / "glmfleet"


def by_pipx(distribution: Path, folder: Path) -> Path:
    """As `in_a_venv`, by `pipx install`."""
    places = {"PIPX_HOME": str(folder / "home"), "PIPX_BIN_DIR": str(folder / "bin"), "PIPX_MAN_DIR": str(folder / "man")}
    _checked([sys.executable, "-m", "pipx", "install", "--python", sys.executable, f"{distribution}[{EXTRAS}]"], places)
    return folder / "bin" / "glmfleet"


def by_uv(distribution: Path, folder: Path) -> Path:
    """As `in_a_venv`, by `uv tool install`."""
    places = {"UV_TOOL_DIR": str(folder / "tools"), "UV_TOOL_BIN_DIR": str(folder / "bin")}
    uv = Path(sys.executable).with_name("uv")
    _checked([str(uv), "tool", "install", "-q", "--python", sys.executable, f"glmfleet[{EXTRAS}] @ {distribution.as_uri()}"], places)
    return folder / "bin" / "glmfleet"


def hostile_folder(folder: Path) -> Path:
    """The file that is there once a module of `folder` was imported."""
    folder.mkdir(parents=True, exist_ok=True)
    seen = folder.with_name(f"{folder.name}.imported")
    program = f"open({str(seen)!r}, 'a').write(__name__ + '\\n')\nraise SystemExit('imported from the folder that we stand in')\n"
    for number, name in enumerate(HOSTILE):
        path = folder / f"{name}.py" if number % 2 else folder / name / "__init__.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(program)
    return seen


def _checked(command: list[str], environment: dict[str, str] | None = None) -> str:
    """What it says on stdout; fails with all that it said."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**kept, **(environment or {})}, timeout=900)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
