"""An explicit zero, or nothing, is what was said: no option takes it for one that was left out."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.home import Home
from tests.support.command import Command

MEMORY = [("0", "0 bytes"), ("1.5", "1.5 bytes"), ("", "not a size"), ("0.0GiB", "0 bytes")]


@pytest.mark.parametrize("command", [("sim", "up"), ("device", "run")])
@pytest.mark.parametrize(("size", "why"), MEMORY)
def test_a_memory_of_nothing_is_refused(glmfleet: Command, home: Home, command: tuple[str, str], size: str, why: str) -> None:
    code, _, err = glmfleet(*command, "--memory", size, "--home", home.path)
    assert (code, why in err.splitlines()[0]) == (2, True), err
    assert list(home.sim.glob("*")) == []


ZEROS: list[tuple[Any, ...]] = [
    ("sim", "up", "--devices", 0),
    ("sim", "up", "--hollow", 0),
    ("sim", "up", "--profile", ","),
    ("sim", "predict", "tiny", "--profile", ""),
    ("sim", "predict", "tiny", "--profile", "rk3588", "--years", 0),
    ("sim", "predict", "tiny", "--profile", "rk3588", "--streams", 0),
    ("demo", "--devices", 0),
    ("plan", "tiny", "--stages", 0),
    ("plan", "tiny", "--context", 0),
    ("plan", "tiny", "--slots", 0),
    ("plan", "tiny", "--devices", ","),
    ("deploy", "tiny", "--replicas", 0),
    ("generate", "x", "--max-tokens", 0),
    ("chat", "--max-tokens", 0),
    ("telemetry", "--since", 0),
    ("model", "eval", "tiny", "--tokens", 0),
]


@pytest.mark.parametrize("words", ZEROS, ids=lambda words: " ".join(map(str, words)))
def test_a_zero_is_refused_where_it_means_nothing(glmfleet: Command, home: Home, words: tuple[Any, ...]) -> None:
    code, _, err = glmfleet(*words, "--home", home.path)
    assert code == 2, err


@pytest.mark.parametrize("command", [("pull", "smollm2-135m"), ("import", "nowhere", "--name", "x")])
def test_a_block_size_of_zero_is_refused_before_anything_is_read(glmfleet: Command, home: Home, command: tuple[str, ...]) -> None:
    code, _, err = glmfleet("model", *command, "--block-size", 0, "--home", home.path)
    assert code == 1
    assert "block size 0" in err


@pytest.mark.parametrize("option", ["--memory", "--threads"])
@pytest.mark.parametrize("program", ["device.__main__", "sim_devices.__main__"])
def test_the_agents_take_no_zero(program: str, option: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    main = __import__(program, fromlist=["main"]).main
    words = ["--state", "x", "--name", "x", "--profile", "rk3588", "--port", "0"] if program.startswith("sim") else ["--state", "x"]
    monkeypatch.setattr("sys.argv", ["agent", *words, option, "0"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"argument {option}: must be above 0" in capsys.readouterr().err
