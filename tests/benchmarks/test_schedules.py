"""Schedules of catastrophes: none ends wrong, the same seed gives the same, and defects are found."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest

from benchmarks.schedules import Members, Violation, made_members, run
from benchmarks.toy_model import ToyEngine
from device.pipeline import mirrored
from device.pipeline.kept import KeptRows
from device.pipeline.stage import Stage
from protos.v1 import pipeline_pb2 as pb


@pytest.fixture(scope="module")
def members() -> Iterator[Members]:
    with made_members() as made:
        yield made


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("first", [1, *(pytest.param(first, marks=pytest.mark.long) for first in range(101, 1001, 100))])
def test_no_schedule_ends_wrong(members: Members, first: int) -> None:
    told = [run(seed, members) for seed in range(first, first + (6 if first == 1 else 100))]
    assert sum(len(one.faults) for one in told) > len(told)
    assert sum(one.attempts for one in told) > sum(one.answers for one in told)


@pytest.mark.parametrize("seed", [10674, 11921])
def test_an_answer_whose_release_was_lost_is_not_open_for_long(members: Members, seed: int) -> None:
    """The ring breaks between an answer's last token and its release, and nobody asks for another ring."""
    run(seed, members)


def test_the_same_seed_gives_the_same(members: Members) -> None:
    assert run(7, members) == run(7, members) != run(8, members)


def _run_all(seeds: Iterable[int], members: Members) -> None:
    for seed in seeds:
        run(seed, members)


def _take_rows(stage: Stage, rows: pb.MirroredRows, *, of: Callable[..., Any] = mirrored.take_rows) -> None:
    """One row of a slot is lost on its way, and the next takes its place."""
    of(stage, rows)
    if rows.start > 4:
        group, slot = stage.kept.place(rows.key) or (0, 0)
        cache: Any = stage.engine.groups[group]
        cache.cache[slot][4] = cache.cache[slot][3]


async def _join_ring(stage: Stage, ring_id: str, wanted: Iterable[KeptRows] | None = None) -> Any:
    """Rows are kept where they are, whatever the head has there."""
    stage.ring_id = ring_id
    stage.set_aside()
    return tuple(wanted) if wanted is not None else stage.kept.arrange(stage.engine.groups, None)


def _extend(engine: ToyEngine, group: int, slots: Sequence[int], *more: Any, of: Callable[..., Any] = ToyEngine.extend) -> Any:
    """Drafts count as rows that stay, whether they were taken or not."""
    made, held = of(engine, group, slots, *more), engine.groups[group]
    for slot in slots:
        held.lengths[slot], held.drafted[slot] = held.lengths[slot] + held.drafted[slot], 0
    return made


@pytest.mark.parametrize(
    ("where", "name", "defect"),
    [(mirrored, "take_rows", _take_rows), (Stage, "join_ring", _join_ring), (ToyEngine, "extend", _extend)],
    ids=["rows", "places", "drafts"],
)
@pytest.mark.long
def test_defects_are_found(members: Members, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, defect: Callable[..., Any]) -> None:
    monkeypatch.setattr(where, name, defect)
    with pytest.raises(Violation):
        _run_all(range(1, 101), members)
