from __future__ import annotations

import importlib
import subprocess
import sys
from importlib import metadata

import pytest
import typer

from fleet.cli.main import ENTRIES, compose, main
from fleet.home import Home
from tests.support.command import Command


def commands() -> list[list[str]]:
    """Every command there is, groups' too."""
    found = []
    for entry in ENTRIES:
        attribute = getattr(importlib.import_module(entry.module), entry.attribute)
        if isinstance(attribute, typer.Typer):
            found += [
                [entry.name, str(command.name or getattr(command.callback, "__name__", ""))] for command in attribute.registered_commands
            ]
            found += [[entry.name, below.name] for below in entry.below]
        else:
            found.append([entry.name])
    return found


def test_help_names_every_command(glmfleet: Command) -> None:
    code, out, _ = glmfleet("--help")
    assert code == 0
    assert all(f" {entry.name} " in out for entry in ENTRIES)


def test_help_loads_no_command() -> None:
    """So that it takes a fraction of a second."""
    heavy = ("httpx", "fastapi", "onnx", "sqlalchemy")
    program = f"import sys; from fleet.cli.main import main; main(['--help']); print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_without_arguments_it_shows_the_help(glmfleet: Command) -> None:
    code, out, _ = glmfleet()
    assert code == 0
    assert "glmfleet demo" in out


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(glmfleet: Command, command: list[str]) -> None:
    code, out, _ = glmfleet(*command, "--help")
    assert code == 0
    assert f"Example: glmfleet {' '.join(command)}" in out


@pytest.mark.parametrize(
    "entry", [entry for one in ENTRIES for entry in (one, *one.below) if entry.attribute != "app"], ids=lambda entry: entry.name
)
def test_the_summary_in_the_table_is_the_start_of_the_commands_own_help(entry: object) -> None:
    name, module, attribute, summary = (getattr(entry, field) for field in ("name", "module", "attribute", "summary"))
    text = getattr(importlib.import_module(module), attribute).__doc__
    assert text.startswith(summary.removesuffix(".")), name


def test_completion_knows_every_commands_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_GLMFLEET_COMPLETE", "complete_bash")
    modules = [command.callback.__module__ for command in compose([]).registered_commands]
    assert modules
    assert "fleet.cli.main" not in modules


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["moon"], "No such command 'moon'"),
        (["devices", "--moon"], "No such option: --moon"),
        (["plan"], "Missing argument"),
        (["model"], "Missing command"),
        (["plan", "tiny", "--stages", "0"], "Invalid value for '--stages'"),
        (["telemetry", "--since", "soon"], "not a duration: 'soon'"),
        (["generate"], "a prompt is missing"),
        (["generate", "--prompt-ids", "1,x"], "not token ids: '1,x'"),
        (["generate", "hello", "--prompt-ids", "1"], "--prompt-ids goes without a prompt"),
    ],
)
def test_a_wrong_command_line_is_two_lines_and_exit_code_2(glmfleet: Command, arguments: list[str], wrong: str) -> None:
    code, out, err = glmfleet(*arguments)
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert first.startswith("error: ")
    assert wrong in first
    assert second.startswith("  see: glmfleet")


@pytest.mark.parametrize(
    "command", [["devices"], ["deployments"], ["plan", "tiny"], ["generate", "hello"], ["chat"], ["telemetry"], ["undeploy", "x"]]
)
def test_without_a_coordinator_it_says_how_to_start_one(glmfleet: Command, home: Home, command: list[str]) -> None:
    code, out, err = glmfleet(*command, "--home", home.path)
    assert (code, out) == (1, "")
    advice = f"  start one: glmfleet serve --home {home.path}; or use another machine's: glmfleet login ADDRESS\n"
    assert err == f"error: no coordinator is running for this home ({home.path})\n{advice}"


def test_the_home_may_stand_before_or_after_the_command(glmfleet: Command, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, after = glmfleet("devices", "--home", home.path)
    _, _, before = glmfleet("--home", home.path, "devices")
    monkeypatch.setenv("GLMFLEET_HOME", str(home.path))
    _, _, by_variable = glmfleet("devices")
    assert str(home.path) in after
    assert after == before
    assert after.replace(f" --home {home.path}", "") == by_variable  # which need not be said when the variable says it


def test_a_home_that_is_a_file_is_a_mistake_not_a_traceback(glmfleet: Command, home: Home) -> None:
    file = home.path / "file"
    file.touch()
    code, _, err = glmfleet("devices", "--home", file)
    assert code == 1
    assert err.splitlines()[0] == f"error: the home {file} is not a folder"


def test_a_defect_is_one_line_unless_debugging(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_arguments: object) -> typer.Typer:
        raise RuntimeError("a bug\nwith a second line")

    monkeypatch.setattr("fleet.cli.main.compose", broken)
    assert main(["devices"]) == 1
    assert capsys.readouterr().err.splitlines()[0] == "error: a defect of glmfleet: RuntimeError: a bug"
    monkeypatch.setenv("GLMFLEET_DEBUG", "1")
    main(["devices"])
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error() -> None:
    program = "import sys; from fleet.cli.main import main; sys.exit(main(['sim', 'profiles', '--json']))"
    done = subprocess.run(f'{sys.executable} -c "{program}" | head -c 1', shell=True, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"glmfleet {metadata.version('glmfleet')}\n"
