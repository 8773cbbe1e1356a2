"""What chaos makes of what it saw; that it sees it is tried with processes by the command itself (`make chaos`)."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from fleet.answering.views import GenerateRequest
from fleet.cli.chaos_load import Asked, Load, flaw_of, requests
from fleet.cli.chaos_report import Course, draw, verdict, words
from fleet.home import Home
from protos.errors import Busy, Unavailable
from sim_devices.chaos import troubles
from tests.support.fake_coordinator import CHUNKS, FakeCoordinator

EXPECTED = [7, 8, 9, 7, 5, 6, 4]
TOLD = [token for chunk in CHUNKS for token in chunk.token_ids]


@pytest.mark.parametrize(
    ("tokens", "whole", "flaw"),
    [
        (EXPECTED, True, None),
        (EXPECTED[:3], False, None),  # an error said that it is not all
        ([], False, None),
        (EXPECTED[:3], True, "lost"),
        ([7, 8, 9, 5, 6, 4], True, "lost"),
        ([7, 8, 9, 8, 9, 7, 5, 6, 4], True, "repeated"),
        ([*EXPECTED, 4], True, "repeated"),
        ([7, 8, 1, 7, 5, 6, 4], True, "wrong"),
        ([7, 8, 1], False, "wrong"),
        ([*EXPECTED, 1], True, "wrong"),
    ],
)
def test_how_an_answer_differs(tokens: list[int], whole: bool, flaw: str | None) -> None:
    assert flaw_of(tokens, EXPECTED, whole=whole) == flaw


def test_requests_can_be_compared_token_by_token() -> None:
    made = requests(5)
    assert made == requests(5) != requests(6)
    assert {request.sampling.temperature for request in made} == {0.0, 0.8}
    assert all(request.ignore_eos and request.sampling.seed is not None and request.max_tokens for request in made)


@pytest.mark.parametrize(("expected", "flaw"), [(TOLD, None), ([*TOLD[:1], 1], "wrong")])
def test_a_client_hears_its_answers_out(served: Home, coordinator: FakeCoordinator, expected: list[int], flaw: str | None) -> None:
    load = Load(served, [(GenerateRequest(prompt_ids=(5,)), expected)], seed=1)
    load.run(2, 0.01)
    assert len(load.asked) == 2
    assert all((one.flaw, one.error, one.tokens) == (flaw, "", len(TOLD)) for one in load.asked)
    assert len(load.token_times) == 2 * len(TOLD)


def test_an_error_in_the_middle_has_its_name(served: Home, coordinator: FakeCoordinator) -> None:
    coordinator.error, coordinator.error_at = Unavailable("a board died"), 1
    load = Load(served, [(GenerateRequest(prompt_ids=(5,)), TOLD)], seed=1)
    load.run(1, 0.01)
    [one] = load.asked
    assert (one.error, one.detail, one.flaw) == ("Unavailable", "a board died", None)


def test_who_is_told_to_come_back_comes_back(served: Home, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator.error = Busy("the queue is full")

    def patient(seconds: float) -> None:
        coordinator.error = None

    monkeypatch.setattr("fleet.cli.chaos_load.time.sleep", patient)
    load = Load(served, [(GenerateRequest(prompt_ids=(5,)), TOLD)], seed=1)
    load.run(1, 0.01)
    assert [(one.error, one.flaw) for one in load.asked] == [("", None)]


GOOD = Asked(0.0, 2.0, 10, 0.5)
BAD = {
    "a wrong token": [Asked(0.0, 2.0, 10, 0.5, flaw="wrong")],
    "too many errors": [Asked(0.0, 2.0, 1, 0.5, "Unavailable", "x")] * 2,
    "no request at all": None,
}


@pytest.mark.parametrize("how", BAD)
def test_a_fleet_fails(how: str) -> None:
    others = BAD[how]
    assert verdict([GOOD] * 250, [], 10.0, []).passed
    assert not verdict([] if others is None else [GOOD] * 250 + others, [], 10.0, []).passed
    assert not verdict([GOOD], [], 10.0, ["dev-1 is offline"]).passed


def test_the_verdict_in_words_and_as_a_picture(tmp_path: Path) -> None:
    coming = troubles(1, 60, 10, ["dev-1", "a-name-of-a-device-that-is-forty-letters"])
    told = verdict([GOOD, *BAD["too many errors"]], coming, 60.0, ["1 sequence still open on devices"])  # type: ignore[misc]
    lines = list(words(told))
    assert lines[1] == "answered whole: 1 of 3 (33.3 %; at least 99.5 % are asked for)"
    assert lines[2] == "  Unavailable: 2"
    assert lines[-2:] == ["left behind: 1 sequence still open on devices", "the fleet FAILED"]
    picture = ElementTree.fromstring(draw(Course(60.0, [0.1, 0.2, 59.9], coming, [3.0]), "4 devices & trouble"))
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert "4 devices & trouble" in texts
    assert set(texts) >= {one.what for one in coming}
