from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from fleet.cli import logs
from fleet.cli.logs import line_text
from fleet.devices.views import LogView
from protos.recent_log import LogLine


def line(number: int) -> LogLine:
    return LogLine(number, 1e9 + number, "WARNING", "device.blobs", f"line {number}")


@dataclass
class Told:
    """A coordinator whose log is another each time it is asked; then Ctrl-C."""

    views: list[LogView]
    asked: list[tuple[str, int, int]] = field(default_factory=list)

    def logs(self, device: str = "", after: int = 0, most: int = 100) -> LogView:
        self.asked.append((device, after, most))
        if not self.views:
            raise KeyboardInterrupt
        return self.views.pop(0)


def test_a_line_has_its_time_level_logger_and_text() -> None:
    assert line_text(line(3)).split(" ", 2)[2] == "WARNING device.blobs: line 3"


def test_followed_are_new_lines_a_gap_and_a_start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(logs, "FOLLOW_SECONDS", 0.0)
    told = Told(
        [
            LogView("d", "one", (line(2),)),
            LogView("d", "one", ()),
            LogView("d", "one", (line(5),)),
            LogView("d", "two", ()),
            LogView("d", "two", (line(1),)),
        ]
    )
    with pytest.raises(KeyboardInterrupt):
        logs._follow(told, "d", LogView("d", "one", (line(1),)))  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert [text.rpartition(" ")[2] for text in out.splitlines()] == ["2", "5", "1"]
    assert err.splitlines() == ["2 lines were not kept", "it was started again"]
    assert [after for _, after, _ in told.asked] == [1, 2, 2, 5, 0, 1]
