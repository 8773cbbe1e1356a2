from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from protos.recent_log import MOST_CHARACTERS, MOST_LINES, RecentLog, recent_log


@contextmanager
def kept() -> Iterator[tuple[RecentLog, logging.Logger]]:
    log, logger = RecentLog(), logging.getLogger("of.a.test")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(log)
    try:
        yield log, logger
    finally:
        logger.removeHandler(log)
        logger.propagate = True


def test_the_last_lines_are_kept_in_order_and_counted() -> None:
    with kept() as (log, logger):
        for number in range(MOST_LINES + 5):
            logger.info("line %d", number)
        found = log.lines()
        assert [line.number for line in found] == list(range(6, MOST_LINES + 6))
        assert (found[-1].text, found[-1].level, found[-1].logger) == (f"line {MOST_LINES + 4}", "INFO", "of.a.test")
        assert [line.number for line in log.lines(after=MOST_LINES, most=2)] == [MOST_LINES + 4, MOST_LINES + 5]
        assert log.lines(after=MOST_LINES + 5) == ()


def test_only_what_prints_and_no_more_than_has_room() -> None:
    with kept() as (log, logger):
        logger.debug("nobody is told")
        logger.warning("red: \x1b[31m\r\n%s", "x" * 2 * MOST_CHARACTERS)
        logger.warning("%d", "no number")
        [line, other] = log.lines()
        assert line.text.startswith("red:  [31m  x")
        assert len(line.text) == MOST_CHARACTERS
        assert other.text == "%d"


def test_an_error_is_named_without_its_traceback() -> None:
    with kept() as (log, logger):
        try:
            raise OSError("the disk is full")
        except OSError:
            logger.exception("nothing was written")
        assert [line.text for line in log.lines()] == ["nothing was written: OSError: the disk is full"]


def test_there_is_one_in_a_process() -> None:
    try:
        assert recent_log() is recent_log()
        assert logging.getLogger().handlers.count(recent_log()) == 1
    finally:
        logging.getLogger().removeHandler(recent_log())
        recent_log.cache_clear()
