"""The engine: a sequence's rows are the same bits whatever the chunks, the company and the slot; and what does not fit is refused."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device.engine.engine import Rows
from device.engine.stage import OutputHead, StageEngine
from device.stage_spec import StageSpec
from protos.errors import InvalidInput
from tests.support.checkpoints import TinyGlm
from tests.support.stage_specs import TinyStages

CONTEXT, SLOTS = 64, 6
WIDE = TinyGlm(hidden_size=320, layers=2, heads=4, kv_heads=2, head_dim=32, intermediate_size=384, max_positions=CONTEXT)
NARROW = TinyGlm(layers=2, max_positions=CONTEXT)


@dataclass(frozen=True)
class Model:
    spec: StageSpec
    folder: Path

    def engine(self, **changes: Any) -> StageEngine:
        return StageEngine(replace(self.spec, shape=replace(self.spec.shape, **changes)), self.folder, 1)


KINDS = {
    "block 32, rows of 1": (NARROW, 32, "float32"),
    "block 128, rows of 2": (WIDE, 128, "float32"),
    "block 32, int8 cache": (NARROW, 32, "int8"),
    "block 128, int8 cache": (WIDE, 128, "int8"),
}


@pytest.fixture(scope="module", params=list(KINDS.values()), ids=list(KINDS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    shape, block_size, kv_dtype = request.param
    stages = TinyStages.make(tmp_path_factory.mktemp("model"), shape, block_size)
    (spec,) = stages.specs(context=CONTEXT, slots=SLOTS, chunk=CONTEXT, kv_dtype=kv_dtype)
    assert spec.shape.row_multiple == (1 if block_size == 32 else 2)
    return Model(spec, stages.blob_folder)


def tokens(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 250, count)


def alone(engine: StageEngine, ids: np.ndarray, prompt: int, slot: int = 0, group: int = 0) -> Rows:
    """The prompt at once, then a token a step: hidden rows of all."""
    parts = [engine.prefill(group, slot, 0, ids[:prompt])]
    parts += [engine.decode(group, [slot], [position], ids[position : position + 1]) for position in range(prompt, len(ids))]
    return np.concatenate(parts)


@pytest.mark.parametrize("count", [2, 7, 33, 40])
@pytest.mark.parametrize("cuts", [(2,), (4, 6), (16,), (2, 4, 6, 8, 10), (32,)])
def test_prefill_in_even_chunks_is_one_prefill(model: Model, count: int, cuts: tuple[int, ...]) -> None:
    ids = tokens(count)
    whole = model.engine().prefill(0, 0, 0, ids)
    engine, edges = model.engine(), [0, *(cut for cut in cuts if cut < count), count]
    parts = [engine.prefill(0, 0, start, ids[start:stop]) for start, stop in itertools.pairwise(edges)]
    assert np.array_equal(np.concatenate(parts), whole)
    # And what comes after reads the same cache.
    assert np.array_equal(engine.decode(0, [0], [count], ids[:1]), alone(model.engine(), np.append(ids, ids[0]), count)[-1:])


def test_company_holes_moves_and_slots_do_not_show(model: Model) -> None:
    prompts, steps = (9, 2, 14, 5), 8
    ids = [tokens(prompt + steps, seed) for seed, prompt in enumerate(prompts)]
    expected = [alone(model.engine(), one, prompt) for one, prompt in zip(ids, prompts, strict=True)]
    engine = model.engine()
    slots = {0: 0, 1: 2, 2: 3, 3: 5}  # slots 1 and 4 stay holes
    got: list[list[Rows]] = [[engine.prefill(0, slots[which], 0, ids[which][:prompt])] for which, prompt in enumerate(prompts)]

    def decode(who: Sequence[int], done: int) -> None:
        order = sorted(who, key=lambda which: slots[which])
        positions = [prompts[which] + done for which in order]
        rows = np.array([ids[which][position] for which, position in zip(order, positions, strict=True)])
        hidden = engine.decode(0, [slots[which] for which in order], positions, rows)
        for which, row in zip(order, hidden, strict=True):
            got[which].append(row[None])

    for done in range(3):
        decode(range(4), done)
    # A neighbour that is prefilled in chunks between the steps.
    stranger = tokens(12, 99)
    engine.prefill(0, 4, 0, stranger[:4])
    decode(range(4), 3)
    engine.prefill(0, 4, 4, stranger[4:12])
    # One of them alone, while the others' slots are dummies; then all again.
    for who, done in (((2,), 4), ((0, 1, 3), 4), (range(4), 5)):
        decode(who, done)
    # The highest moves into a hole.
    engine.groups[0].swap(5, 1)
    slots[3] = 1
    for done in (6, 7):
        decode(range(4), done)
    for which in range(4):
        assert np.array_equal(np.concatenate(got[which]), expected[which]), which
    # The stranger was not harmed by the steps between its chunks either.
    last = engine.decode(0, [4], [12], stranger[:1])
    assert np.array_equal(last, alone(model.engine(), np.append(stranger, stranger[0]), 12)[-1:])


def test_groups_do_not_touch_each_other(model: Model) -> None:
    ids = tokens(12)
    expected = alone(model.engine(), ids, 8)
    engine = model.engine(groups=2)
    engine.prefill(1, 0, 0, tokens(20, 5))
    assert np.array_equal(alone(engine, ids, 8, slot=0, group=0), expected)
    assert np.array_equal(alone(engine, ids, 8, slot=3, group=1), expected)


def test_a_freed_slot_remembers_nothing(model: Model) -> None:
    ids, engine = tokens(12), model.engine()
    expected = alone(model.engine(), ids, 7)
    engine.prefill(0, 0, 0, tokens(40, 3))
    engine.groups[0].lengths[0] = 0
    assert np.array_equal(alone(engine, ids, 7), expected)


def test_full_context_beside_another(model: Model) -> None:
    """The context is as long as the rotary tables: a full slot must not be turned by what lies behind them."""
    ids, engine = tokens(CONTEXT), model.engine()
    full = alone(engine, ids, CONTEXT - 3)
    assert full.shape == (CONTEXT, model.spec.shape.hidden_size)
    assert np.isfinite(full).all()
    assert np.array_equal(full, alone(model.engine(), ids, CONTEXT - 3, slot=4))
    other = tokens(8, 1)
    assert np.array_equal(alone(engine, other, 5, slot=1), alone(model.engine(), other, 5))
    with pytest.raises(InvalidInput):
        engine.decode(0, [0], [CONTEXT], ids[:1])
    engine.groups[0].lengths[0] = 0
    assert np.array_equal(engine.prefill(0, 0, 0, ids), model.engine().prefill(0, 2, 0, ids))


@pytest.mark.parametrize("start", [0, 4, 6, CONTEXT - 4, 2**32 - 1])
def test_rows_go_where_the_last_ended_or_nowhere(model: Model, start: int) -> None:
    engine, ids = model.engine(), tokens(16)
    engine.prefill(0, 0, 0, ids[:5])
    with pytest.raises(InvalidInput, match="holds 5 of 64"):
        engine.prefill(0, 0, start, ids[:4])
    with pytest.raises(InvalidInput, match="holds 5 of 64"):
        engine.decode(0, [0], [start], ids[:1])
    assert engine.groups[0].lengths == [5, 0, 0, 0, 0, 0]
    engine.decode(0, [0], [5], ids[:1])


def test_more_than_the_context_is_refused(model: Model) -> None:
    engine = model.engine(context=33)
    for count in (33, 34, 60):  # an odd count is padded by one
        with pytest.raises(InvalidInput):
            engine.prefill(0, 0, 0, tokens(count))
    assert engine.prefill(0, 0, 0, tokens(32)).shape[0] == 32
    engine.decode(0, [0], [32], tokens(1))
    with pytest.raises(InvalidInput):
        engine.decode(0, [0], [33], tokens(1))


def test_a_head_s_logits_do_not_depend_on_the_number_of_rows(model: Model) -> None:
    head = OutputHead(model.spec, model.folder, 1)
    rows = np.random.default_rng(1).standard_normal((7, model.spec.shape.hidden_size)).astype(np.float32)
    single = np.concatenate([head.logits(row[None]).copy() for row in rows])
    for count in (1, 2, 3, 6, 7):
        assert np.array_equal(head.logits(rows[:count]), single[:count])


def test_a_missing_blob_is_refused_in_one_line(model: Model, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="a blob of the stage graph cannot be read: No such file") as refused:
        StageEngine(model.spec, tmp_path, 1)
    assert "\n" not in refused.value.detail
    with pytest.raises(InvalidInput):
        OutputHead(model.spec, tmp_path, 1)


@pytest.mark.parametrize("changes", [{"kv_heads": 1}, {"head_dim": 8}, {"hidden_size": 64}, {"first_layer": 1}, {"stop_layer": 3}], ids=str)
def test_a_graph_of_another_shape_is_refused(model: Model, changes: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match="stage graph's"):
        model.engine(**changes)


def test_a_graph_with_another_type_of_cache_is_refused(model: Model) -> None:
    other = {"float32": "int8", "int8": "float32"}[model.spec.shape.kv_dtype]
    with pytest.raises(InvalidInput, match=f"cache is not {other}"):
        model.engine(kv_dtype=other)


def test_graphs_in_each_other_s_place_are_refused(model: Model) -> None:
    with pytest.raises(InvalidInput, match="input_ids"):
        StageEngine(replace(model.spec, graph=model.spec.head_graph), model.folder, 1)
    with pytest.raises(InvalidInput, match="hidden_in"):
        StageEngine(replace(model.spec, stage=1), model.folder, 1)
    with pytest.raises(InvalidInput, match="input_ids"):
        OutputHead(replace(model.spec, head_graph=model.spec.graph), model.folder, 1)
    with pytest.raises(InvalidInput, match="logits is"):
        OutputHead(replace(model.spec, shape=replace(model.spec.shape, vocab_size=99)), model.folder, 1)
