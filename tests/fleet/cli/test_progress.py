from __future__ import annotations

import io

import pytest

from fleet.cli.progress import LINE_EVERY_SECONDS, PlainLines, progress


def test_plain_lines_come_at_the_start_at_the_end_and_now_and_then() -> None:
    clock = [0.0]
    out = io.StringIO()
    report = PlainLines(out, lambda: clock[0])
    for done in range(100):
        report("push", done, 100)
    assert out.getvalue() == "push: 0 %\n"
    clock[0] += LINE_EVERY_SECONDS
    report("push", 50, 100)
    report("push", 100, 100)
    report("push", 100, 100)
    assert out.getvalue() == "push: 0 %\npush: 50 %\npush: 100 %\n"


def test_nothing_to_do_is_done() -> None:
    out = io.StringIO()
    PlainLines(out, lambda: 0.0)("push", 0, 0)
    assert out.getvalue() == "push: 100 %\n"


@pytest.mark.parametrize("of_bytes", [True, False])
def test_without_a_terminal_there_are_no_bars_and_nothing_on_stdout(capsys: pytest.CaptureFixture[str], of_bytes: bool) -> None:
    with progress(of_bytes=of_bytes) as report:
        report("push", 1, 1)
    assert capsys.readouterr() == ("", "push: 100 %\n")
