"""A command that tells watts: real processes, whatever they print."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from device.power.command import FRESH_SECONDS, CommandSensor, parse_watts
from protos.errors import InvalidInput
from tests.support.processes import wait_for


def python(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


@pytest.mark.parametrize(("line", "watts"), [("5\n", 5.0), (" 3.25 \n", 3.25), ("0", 0.0), ("1e3", 1000.0)])
def test_a_line_is_a_number_of_watts(line: str, watts: float) -> None:
    assert parse_watts(line) == watts


@pytest.mark.parametrize("line", ["", "5 W", "-1", "nan", "inf", "1e9"])
def test_what_is_no_power_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        parse_watts(line)


def test_the_last_line_counts_while_it_is_fresh() -> None:
    now = 100.0
    sensor = CommandSensor(python("import time; print(4.5, flush=True); print(6.5, flush=True); time.sleep(60)"), clock=lambda: now)
    wait_for(lambda: sensor.watts() == 6.5, 10)
    now += FRESH_SECONDS
    assert sensor.watts() == 6.5
    now += 0.1
    assert sensor.watts() is None
    sensor.close()
    assert sensor._process
    assert sensor._process.poll() is not None


def test_a_command_that_ends_is_started_again(tmp_path: Path) -> None:
    count = tmp_path / "count"
    code = f"import pathlib; p = pathlib.Path({str(count)!r}); p.open('a').write('x'); print(len(p.read_text()))"
    sensor = CommandSensor(python(code), again_seconds=0.01)
    wait_for(lambda: (sensor.watts() or 0) >= 3, 10)
    sensor.close()


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (python("print('5 W')"), "is no power in watts"),
        (python("raise SystemExit(3)"), "exit code 3"),
        ("/no/such/program", "No such file"),
    ],
)
def test_what_is_wrong_is_said_once(command: str, why: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        sensor = CommandSensor(command, again_seconds=0.01)
        wait_for(lambda: why in caplog.text, 10)
        runs = _counted(sensor)
        wait_for(lambda: runs() >= 2, 10)
        sensor.close()
    assert caplog.text.count(why) == 1
    assert sensor.watts() is None


def _counted(sensor: CommandSensor) -> Callable[[], int]:
    """How often it was tried since."""
    tries, once = [0], sensor._once

    def counted() -> tuple[bool, str]:
        tries[0] += 1
        return once()

    sensor._once = counted  # type: ignore[method-assign]
    return lambda: tries[0]


@pytest.mark.parametrize(("command", "why"), [("", "is empty"), ("echo 'five", "cannot be split")])
def test_what_is_no_command_is_refused_at_once(command: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        CommandSensor(command)
