from __future__ import annotations

import os
import signal

import pytest

from fleet.cli.signals import Signals


def test_the_first_is_heard_and_later_ones_are_not() -> None:
    with Signals():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_ends_with_its_own_code() -> None:
    with Signals(), pytest.raises(SystemExit) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == 128 + signal.SIGTERM


def test_held_signals_wait_for_the_end_of_the_outermost_hold() -> None:
    reached = []

    def work(signals: Signals) -> None:
        with signals.held():
            with signals.held():
                os.kill(os.getpid(), signal.SIGINT)
            reached.append("inside")
        reached.append("after")

    with Signals() as signals, pytest.raises(KeyboardInterrupt):
        work(signals)
    assert reached == ["inside"]


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Signals() as signals:
        signals.ignore()
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_what_is_ignored_from_outside_stays_ignored() -> None:
    """As by `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
