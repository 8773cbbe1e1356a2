"""The standard streams: closed, full, of another encoding, or fed with what is no text."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.answering.views import GenerateRequest
from fleet.cli.output import note, print_json, say
from fleet.home import Home
from tests.support.command import Command
from tests.support.fake_coordinator import FakeCoordinator

LATIN = b"caf\xe9"
PROGRAM = f"{sys.executable} -c 'from fleet.cli.main import run; run()'"
NO_ROOM = "error: standard output takes no more: No space left on device\n  send it elsewhere, or make room there\n"


@pytest.mark.parametrize(
    ("line", "code", "out", "err"),
    [
        ("{} --version >&-", 0, "", ""),
        ("{} bogus 2>&-", 2, "", ""),
        ("{} --version > /dev/full", 1, "", NO_ROOM),
        ("PYTHONIOENCODING=ascii {} undeploy 'caf\u00e9' --home /dev/null", 1, "", "error: the home /dev/null is not a folder"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith(("{", "P")) else "",
)
def test_the_caller_s_descriptors(line: str, code: int, out: str, err: str) -> None:
    done = subprocess.run(["bash", "-c", line.format(PROGRAM)], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stdout.strip() == out
    assert done.stderr.startswith(err)
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stderr


def wrapped(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding, "backslashreplace")


def written(stream: io.TextIOWrapper) -> bytes:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_json_is_json_on_any_terminal(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    value = {"text": "caf\u00e9 \u4e2d \U0001f600", "half": "\udce9"}
    stream = wrapped(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    print_json(value)
    assert json.loads(written(stream).decode("utf-8")) == value


def test_what_a_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = wrapped("ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    say("25 \u00b0C")
    assert written(stream) == b"25 \\xb0C\n"


def test_an_answer_reaches_a_terminal_that_cannot_show_it(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    del coordinator
    stream = wrapped("ascii")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        code, _, err = glmfleet("generate", "caf\u00e9", "--home", served.path)
    assert (code, written(stream)) == (0, b"Paris is\n"), err


def test_notes_that_nobody_takes_end_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    note("how far it is")


@pytest.mark.parametrize("command", [["generate", "-"], ["chat"]])
@pytest.mark.parametrize(("data", "errors"), [(LATIN, "strict"), (LATIN, "surrogateescape")])
def test_input_that_is_no_text_is_one_line(
    glmfleet: Command,
    served: Home,
    coordinator: FakeCoordinator,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    data: bytes,
    errors: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8", errors))
    code, _, err = glmfleet(*command, "--home", served.path)
    assert (code, err.splitlines()[-2:]) == (1, ["error: standard input is not text in UTF-8", "  convert it: iconv -f latin1 -t UTF-8"])
    assert coordinator.asked == []


def test_input_of_another_encoding_is_read_in_it(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LATIN), "latin-1"))
    assert glmfleet("generate", "-", "--home", served.path)[0] == 0
    (request,) = coordinator.asked
    assert isinstance(request, GenerateRequest)
    assert request.prompt == "caf\u00e9"


@pytest.mark.parametrize(
    "words", [["generate", "caf\udce9"], ["deploy", "tiny", "--name", "\udce9"], ["devices", "--home", "/tmp/\udce9"], ["\udce9"]]
)
def test_an_argument_that_is_no_text_is_one_line(glmfleet: Command, words: list[str]) -> None:
    code, _, err = glmfleet(*words)
    assert (code, err.count("\n")) == (2, 2)
    assert "is not text in utf-8" in err.splitlines()[0]


def test_only_a_file_is_advised_to_be_renamed(glmfleet: Command, tmp_path: Path) -> None:
    assert "rename" not in glmfleet("generate", "a\udcff")[2]
    path = f"{tmp_path}/a\udcff"
    Path(path).touch()
    assert "rename the file" in glmfleet("model", "import", path)[2]


@pytest.mark.parametrize("name", ["tiny?x", "tiny#x", "tiny%3Fx"])
def test_a_name_is_one_step_of_a_path(glmfleet: Command, served: Home, coordinator: FakeCoordinator, name: str) -> None:
    glmfleet("undeploy", name, "--home", served.path)
    assert coordinator.asked == [name]
