"""The house: which package and which folder within it may import which (ARCHITECTURE.md), circles, and hidden imports."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, wraps
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
# Folders within a package, lowest floor first; modules of the package itself ("") are its ground floor. A folder may import from those
# before it, and never from those after it.
FLOORS = {
    "protos": ("v1", "", "physics", "chip", "net"),
    "quantize": ("", "layers", "architectures", "checkpoints", "hub", "quality", "artifact", "compiler", "importing"),
    "device": ("power", "", "text", "engine", "pipeline", "agent"),
    "sim_devices": ("", "chip", "hollow"),
    "fleet": (
        "",
        "store",
        "planning",
        "trust",
        "telemetry",
        "devices",
        "enrolling",
        "deploying",
        "answering",
        "service",
        "page",
        "api",
        "cli",
    ),
}
# Of the folders below, those that a folder must not import all the same: each pair is two things that change for different reasons.
NEVER = {
    "quantize.hub": {"quantize.layers", "quantize.architectures"},
    "quantize.quality": {"quantize.layers", "quantize.architectures", "quantize.checkpoints", "quantize.hub"},
    "quantize.artifact": {"quantize.hub"},
    "quantize.compiler": {"quantize.checkpoints", "quantize.hub", "quantize.quality"},
    "quantize.importing": {"quantize.hub", "quantize.quality", "quantize.compiler"},
    "device.engine": {"device.text"},
    "device.pipeline": {"device.text"},
    "device.agent": {"device.text"},
    "fleet.planning": {"fleet.store"},
    "fleet.trust": {"fleet.store"},
    "fleet.telemetry": {"fleet.planning", "fleet.trust"},
    "fleet.devices": {"fleet.store", "fleet.planning", "fleet.trust"},
    "fleet.enrolling": {"fleet.store", "fleet.planning", "fleet.telemetry"},
    "fleet.deploying": {"fleet.trust", "fleet.enrolling"},
    "fleet.answering": {"fleet.store", "fleet.trust", "fleet.devices", "fleet.enrolling"},
    "fleet.api": {"fleet.store", "fleet.trust"},
}
LONGEST_FILE = 400  # lines
# What a role's installation does not bring (pyproject.toml, extras).
FOREIGN = {
    "protos": {"onnxruntime", "onnx", "zeroconf", "cryptography", "fastapi", "typer", "sqlalchemy"},
    "quantize": {"fastapi", "typer", "sqlalchemy", "zeroconf", "onnxruntime"},
    "device": {"onnx", "fastapi", "typer", "rich", "sqlalchemy", "safetensors", "gguf", "uvicorn"},
    "sim_devices": {"onnx", "fastapi", "typer", "rich", "sqlalchemy", "safetensors", "gguf", "uvicorn"},
    "fleet": {"onnxruntime"},
}
MODULES = sorted(path for package in OURS for path in (ROOT / package).rglob("*.py") if "_pb2" not in path.name)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
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


KNOWN = {module_name(path) for path in MODULES}


@cache
def imports_of(path: Path) -> tuple[tuple[str, int], ...]:
    return tuple(imports(tree_of(path)))


def each_module(rule: Callable[[Path], None]) -> Callable[[], None]:
    """Holds `rule` for every module, and tells of all that break it. One test: hundreds would cost more than what they ask."""

    @wraps(rule)
    def holds() -> None:
        broken = []
        for path in MODULES:
            try:
                rule(path)
            except AssertionError as error:
                broken.append(f"{module_name(path)}: {error}")
        assert not broken, "\n".join(broken)

    del holds.__wrapped__  # pytest would ask for a fixture `path`
    return holds


def within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


@each_module
def test_imports_only_what_its_layer_may(path: Path) -> None:
    name = module_name(path)
    layer = "fleet.cli" if within(name, {"fleet.cli"}) else name.partition(".")[0]
    own = name.partition(".")[0]
    for imported, line in imports_of(path):
        root = imported.partition(".")[0]
        if root in OURS:
            assert within(imported, MAY_IMPORT[layer] | {own}), f"{name}:{line} imports {imported}"
        assert root not in FOREIGN[own] or layer == "fleet.cli", f"{name}:{line} imports {imported}, which its role does not install"


@each_module
def test_no_import_is_hidden(path: Path) -> None:
    tree = tree_of(path)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    hidden = [imported for node in functions for imported, _ in imports(node) if imported.partition(".")[0] in OURS]
    if not within(module_name(path), {"fleet.cli"}):  # a command loads what it needs when it runs
        assert not hidden, f"{module_name(path)} hides imports in functions: {hidden}"
    assert "TYPE_CHECKING" not in path.read_text()


def folder_of(module: str) -> str:
    return module if (ROOT / module.replace(".", "/")).is_dir() and module != "sim_devices.profiles" else module.rpartition(".")[0]


def folders_imported(path: Path) -> Iterator[tuple[str, int]]:
    for imported, line in imports_of(path):
        target = imported if imported in KNOWN or "_pb2" in imported else imported.rpartition(".")[0]
        if target.partition(".")[0] in OURS:
            yield (".".join(target.split(".")[:-1]) if "_pb2" in target else folder_of(target)), line


def refusal(importer: str, imported: str) -> str:
    """Why code in folder `importer` may not import from folder `imported`; "" where it may."""
    package, _, wing = importer.partition(".")
    other_package, _, other = imported.partition(".")
    if package != other_package or wing == other:
        return ""
    floors = FLOORS[package]
    unknown = [name for name in (wing, other) if name not in floors]
    if unknown:
        return f"{package}/{unknown[0]} has no floor yet: give it one in FLOORS"
    if floors.index(other) > floors.index(wing):
        return f"{imported} lies above {importer}"
    return f"{importer} must know nothing of {imported}" if imported in NEVER.get(importer, set()) else ""


@each_module
def test_imports_only_from_the_floors_below(path: Path) -> None:
    name = module_name(path)
    if name.endswith(".__main__"):  # a program's composition root
        return
    for folder, line in folders_imported(path):
        assert not (why := refusal(folder_of(name), folder)), f"{name}:{line}: {why}"


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("fleet.planning", "fleet.devices"),
        ("fleet.answering", "fleet.devices"),
        ("fleet", "fleet.cli"),
        ("device.engine", "device.pipeline"),
    ],
)
def test_an_import_against_the_table_is_refused(importer: str, imported: str) -> None:
    assert refusal(importer, imported)
    assert not refusal("fleet.cli", imported)


def test_no_circle_between_folders() -> None:
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        name = module_name(path)
        if not name.endswith(".__main__"):
            graph.setdefault(folder_of(name), set()).update(folder for folder, _ in folders_imported(path))
    _assert_acyclic({folder: targets - {folder} for folder, targets in graph.items()})


def test_benchmarks_and_tests_stay_short_too() -> None:
    paths = [path for folder in ("benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert paths
    assert [path.name for path in paths if len(path.read_text().splitlines()) > LONGEST_FILE] == []


@each_module
def test_files_stay_short_and_of_one_purpose(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    assert ast.get_docstring(tree_of(path)), "a module says in its first line what it is for"


def test_no_circles() -> None:
    known = {module_name(path) for path in MODULES}
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        found = {imported for imported, _ in imports_of(path)}
        targets = {item if item in known else item.rpartition(".")[0] for item in found}
        graph[module_name(path)] = (targets & known) - {module_name(path)}
    _assert_acyclic(graph)


def _assert_acyclic(graph: dict[str, set[str]]) -> None:
    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> None:
        assert node not in trail, "circle: " + " -> ".join([*trail[trail.index(node) :], node])
        if node not in done:
            for target in graph.get(node, ()):
                visit(target, (*trail, node))
            done.add(node)

    for node in graph:
        visit(node, ())


def test_onnxruntime_is_loaded_in_one_place_where_its_reporting_is_off() -> None:
    loading = {module_name(path) for path in MODULES for imported, _ in imports_of(path) if "onnxruntime" in imported}
    assert loading
    assert all(within(name, {"device.engine"}) for name in loading)


def test_the_hubs_library_is_loaded_in_one_place_where_its_reporting_is_off() -> None:
    loading = {module_name(path) for path in MODULES for imported, _ in imports_of(path) if "huggingface_hub" in imported}
    assert loading == {"quantize.hub.pull"}


def test_a_family_describes_and_computes_nothing() -> None:
    """Of quantize.layers it knows the operators alone, so that another interpreter needs no change of it."""
    described = {module_name(path): path for path in MODULES if within(module_name(path), {"quantize.architectures"})}
    described["quantize.layers.operators"] = ROOT / "quantize/layers/operators.py"
    for name, path in described.items():
        used = {imported for imported, _ in imports_of(path)}
        assert not any(within(imported, {"onnx", "numpy"}) for imported in used), name
        assert all(within(imported, {"quantize.layers.operators"}) for imported in used if within(imported, {"quantize.layers"})), name
    assert len(described) > 6


def test_onnxruntime_reports_to_nobody(tmp_path: Path) -> None:
    """Its reporting leaves a file in the temporary folder as soon as it is loaded."""
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"} | {"TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", "import device.engine.session"], cwd=ROOT, env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def test_time_and_energy_of_runs_are_asked_through_one_seam() -> None:
    """Beside the roofline itself nobody knows its formulas: another timing model must be able to take its place everywhere."""
    inner = {
        "protos.physics.roofline.times",
        "protos.physics.roofline.dynamic_joules",
        "protos.physics.roofline.Times",
        "protos.physics.work",
    }
    for path in [*MODULES, *(ROOT / "benchmarks").glob("*.py")]:
        if not within(module_name(path), {"protos.physics"}):
            found = [imported for imported, _ in imports_of(path) if within(imported, inner)]
            assert not found, f"{module_name(path)} imports {found}"


def test_the_dialect_has_one_name() -> None:
    holding = {module_name(path) for path in MODULES if '"com.microsoft.nbits"' in path.read_text()}
    assert holding == {"protos.dialects"}
