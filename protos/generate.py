"""Makes the committed stubs from the .proto files, or (--check) tells whether they have drifted."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("protos/v1")


def generate(out: Path) -> None:
    """Write all stubs below `out`. Raises CalledProcessError when protoc refuses a file."""
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / FOLDER).glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
    # protoc looks for its plugins on the path; they lie beside this interpreter, whose environment need not be activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    subprocess.run([*command, f"--mypy_grpc_out={out}", *files], cwd=ROOT, check=True, env={**os.environ, "PATH": path})
    for name in ("chip", "graph", "manifest", "telemetry"):  # no services: nothing but a header
        for ending in ("_pb2_grpc.py", "_pb2_grpc.pyi"):
            (out / FOLDER / f"{name}{ending}").unlink(missing_ok=True)


def drifted() -> list[str]:
    """Names of committed stubs that differ from what the .proto files give."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        generate(out)
        made = {path.relative_to(out): path.read_bytes() for path in out.rglob("*_pb2*")}
        have = {path.relative_to(ROOT): path.read_bytes() for path in (ROOT / FOLDER).glob("*_pb2*")}
    return sorted(str(path) for path in made.keys() | have.keys() if made.get(path) != have.get(path))


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        stale = drifted()
        if stale:
            sys.exit("stubs have drifted from the .proto files (run `make protos`): " + ", ".join(stale))
        print("stubs are true to the .proto files")
    else:
        generate(ROOT)
