from __future__ import annotations

import logging

import pytest

from protos.sparing import Sparing

LOG = logging.getLogger("tests.sparing")


def test_what_comes_again_and_again_is_told_once_in_a_while_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    say = Sparing(LOG, 10.0, lambda: now[0])
    with caplog.at_level(logging.INFO, LOG.name):
        for n in range(1000):
            say(logging.WARNING, "stranger %d", n, error=ValueError("x"))
        now[0] += 10
        say(logging.WARNING, "stranger %d", 7)
        now[0] += 10
        say(logging.WARNING, "stranger %d", 8)
    assert [record.getMessage() for record in caplog.records] == [
        "stranger 0",
        "stranger 7 (999 more like this since the last line)",
        "stranger 8",
    ]
    assert caplog.records[0].exc_info is not None
