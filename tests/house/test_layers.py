"""The house: which package may import which (ARCHITECTURE.md, Layers), circles, and hidden imports."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = {"protos", "quantize", "device", "sim_devices", "fleet"}
MAY_IMPORT = {
    "protos": set(),
    "quantize": {"protos"},
    "device": {"protos"},
    "sim_devices": {"device", "protos"},
    "fleet": {"protos", "quantize", "device.text"},
    "fleet.cli": OURS,  # the composition root for people
}
# What a role's installation does not bring (pyproject.toml, extras).
FOREIGN = {
    "protos": {"onnxruntime", "onnx", "zeroconf", "cryptography", "fastapi", "typer", "sqlalchemy"},
    "quantize": {"fastapi", "typer", "sqlalchemy", "zeroconf", "onnxruntime"},
    "device": {"onnx", "fastapi", "typer", "rich", "sqlalchemy", "safetensors", "gguf", "uvicorn"},
    "sim_devices": {"onnx", "fastapi", "typer", "rich", "sqlalchemy", "safetensors", "gguf", "uvicorn"},
    "fleet": {"onnxruntime"},
}
MODULES = sorted(path for package in OURS for path in (ROOT / package).rglob("*.py") if "_pb2" not in path.name)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"relative import in line {node.lineno}"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_only_what_its_layer_may(path: Path) -> None:
    name = module_name(path)
    layer = "fleet.cli" if within(name, {"fleet.cli"}) else name.partition(".")[0]
    own = name.partition(".")[0]
    for imported, line in imports(ast.parse(path.read_text())):
        root = imported.partition(".")[0]
        if root in OURS:
            assert within(imported, MAY_IMPORT[layer] | {own}), f"{name}:{line} imports {imported}"
        assert root not in FOREIGN[own] or layer == "fleet.cli", f"{name}:{line} imports {imported}, which its role does not install"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_no_import_is_hidden(path: Path) -> None:
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    hidden = [imported for node in functions for imported, _ in imports(node) if imported.partition(".")[0] in OURS]
    if not within(module_name(path), {"fleet.cli"}):  # a command loads what it needs when it runs
        assert not hidden, f"{module_name(path)} hides imports in functions: {hidden}"
    assert "TYPE_CHECKING" not in path.read_text()


def test_no_circles() -> None:
    known = {module_name(path) for path in MODULES}
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        found = {imported for imported, _ in imports(ast.parse(path.read_text()))}
        targets = {item if item in known else item.rpartition(".")[0] for item in found}
        graph[module_name(path)] = (targets & known) - {module_name(path)}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, "circle: " + " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for target in graph[module]:
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_onnxruntime_is_loaded_in_one_place_where_its_reporting_is_off() -> None:
    loading = {module_name(path) for path in MODULES for imported, _ in imports(ast.parse(path.read_text())) if "onnxruntime" in imported}
    assert loading
    assert all(within(name, {"device.engine"}) for name in loading)


def test_the_hubs_library_is_loaded_in_one_place_where_its_reporting_is_off() -> None:
    loading = {
        module_name(path) for path in MODULES for imported, _ in imports(ast.parse(path.read_text())) if "huggingface_hub" in imported
    }
    assert loading == {"quantize.hub.pull"}


def test_onnxruntime_reports_to_nobody(tmp_path: Path) -> None:
    """Its reporting leaves a file in the temporary folder as soon as it is loaded."""
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"} | {"TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", "import device.engine.session"], cwd=ROOT, env=environment, check=True)
    assert list(tmp_path.iterdir()) == []
