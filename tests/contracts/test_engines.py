"""What computes a stage: graphs on onnxruntime, and programs on the functional machine, behind one interface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from device.engine.engine import Engine, Output, Rows, Tokens
from device.engine.opening import open_stage
from device.stage_spec import StageSpec, parse_spec
from protos.chip.wire import core_message
from protos.decoding import DecodeMode
from protos.errors import InvalidInput
from protos.manifest import Manifest
from protos.v1 import device_pb2 as pb
from quantize.artifact.store import ArtifactStore
from sim_devices.chip.engine import open_programs
from tests.support.checkpoints import TinyGlm
from tests.support.chips import CODESIGNED
from tests.support.goldens import NAMES, import_golden
from tests.support.ring import add_programs, load_requests, tiny_model

KINDS = ("graphs", "programs")
# Grouped heads; experts; a latent whose values are its keys.
MODELS = ("tiny", "glm-4.5", "glm-4.7-flash")
ALL_MODELS = pytest.mark.parametrize("model", MODELS, indirect=True)
IDS = np.array([3, 1, 4, 1, 5, 9, 2, 6], np.int64)


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Manifest, ArtifactStore]:
    name = getattr(request, "param", "tiny")
    return tiny_model(tmp_path, TinyGlm(layers=2)) if name == "tiny" else import_golden(name, tmp_path)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def opened(
    kind: str, model: tuple[Manifest, ArtifactStore], *, stage: int = 0, stages: int = 1, decode: DecodeMode = "rows"
) -> tuple[Engine, Output | None, StageSpec]:
    manifest, store = model
    hops = [pb.Hop(device_id=f"{number}" * 16, address="127.0.0.1:1") for number in range(2, 2 + stages)]
    message = load_requests(manifest, hops, context=32, decode=decode)[stage]
    if kind == "graphs":
        spec = parse_spec(message)
        return *open_stage(spec, store.blob_folder, 1, None), spec
    accelerator = pb.Accelerator(core=core_message(CODESIGNED))
    add_programs(message, manifest, store, pb.DeviceDescription(dialects=["glm-isa"], accelerator=accelerator))
    spec = parse_spec(message)
    return *open_programs(CODESIGNED, spec, store.blob_folder, 1, None), spec


@ALL_MODELS
def test_chunks_of_a_prompt_give_the_rows_of_the_whole(kind: str, model: tuple[Manifest, ArtifactStore]) -> None:
    engine, _, _ = opened(kind, model)
    whole = engine.prefill(0, 0, 0, IDS).copy()
    first = engine.prefill(0, 1, 0, IDS[:4]).copy()
    rest = engine.prefill(0, 1, 4, IDS[4:]).copy()
    assert whole.shape == (8, model[0].config.hidden_size)
    assert np.array_equal(np.concatenate([first, rest]), whole)


def test_a_row_depends_on_no_company(kind: str, model: tuple[Manifest, ArtifactStore]) -> None:
    engine, _, _ = opened(kind, model)
    for slot in (0, 2, 3):
        engine.prefill(0, slot, 0, IDS[:4] if slot != 3 else IDS[4:])
    alone = engine.decode(0, [0], [4], IDS[4:5]).copy()
    together = engine.decode(0, [2, 3], [4, 4], IDS[4:6]).copy()
    assert np.array_equal(alone[0], together[0])
    assert not np.array_equal(together[0], together[1])
    assert engine.groups[0].lengths == [5, 0, 5, 5]


def test_rows_of_a_cache_are_swapped_copied_and_carried_elsewhere(kind: str, model: tuple[Manifest, ArtifactStore]) -> None:
    engine, _, _ = opened(kind, model)
    engine.prefill(0, 0, 0, IDS)
    expected = engine.decode(0, [0], [8], IDS[:1]).copy()
    group = engine.groups[0]
    group.lengths[0] = 8
    group.copy(0, 1, 8)
    group.swap(1, 2)
    assert np.array_equal(engine.decode(0, [2], [8], IDS[:1]), expected)
    other, _, _ = opened(kind, model)
    other.groups[0].put(3, 0, 8, group.rows(0, 0, 8))
    assert np.array_equal(other.decode(0, [3], [8], IDS[:1]), expected)
    group.free_all()
    assert group.lengths == [0] * 4


@ALL_MODELS
def test_runs_of_several_slots_give_the_rows_of_a_prefill(kind: str, model: tuple[Manifest, ArtifactStore]) -> None:
    """Whatever their lengths, in company and alone, and over rows of drafts that were not taken."""
    engine, _, _ = opened(kind, model, decode="pairs")
    texts = [np.array([*IDS, 7, 1, 8, 2, 8, 1], np.int64), np.array([*IDS[::-1], 3, 3, 5, 9, 4, 4], np.int64)]
    whole = [engine.prefill(0, slot, 0, text).copy() for slot, text in enumerate(texts)]
    engine.groups[0].free_all()
    group, done = engine.groups[0], [3, 4]
    for slot, text, count in zip((0, 2), texts, done, strict=True):
        engine.prefill(0, slot, 0, text[:count])
    for counts in ([1, 3], [2, 1], [3, 3], [1, 1]):
        fed = np.concatenate([text[at : at + count] for text, at, count in zip(texts, done, counts, strict=True)])
        wrong = fed.copy()
        wrong[[counts[0] - 1, -1]] += 1
        engine.extend(0, [0, 2], done, counts, wrong)
        rows = engine.extend(0, [0, 2], done, counts, fed)
        expected = [before[at : at + count] for before, at, count in zip(whole, done, counts, strict=True)]
        assert np.array_equal(rows, np.concatenate(expected))
        assert [group.lengths[slot] for slot in (0, 2)] == [at + 1 for at in done]
        done = [at + count for at, count in zip(done, counts, strict=True)]
    assert np.array_equal(engine.extend(0, [2], [done[1]], [1], texts[1][done[1] :][:1]), whole[1][done[1] :][:1])
    with pytest.raises(InvalidInput, match="a run of"):
        engine.extend(0, [0], [done[0] + 1], [2], IDS[:2])
    with pytest.raises(InvalidInput, match="a run of"):
        engine.extend(0, [0], [1], [33], np.ones(33, np.int64))


@pytest.mark.parametrize(("slot", "start", "count"), [(0, 1, 2), (1, 0, 40)], ids=["behind its rows", "beyond the context"])
def test_rows_at_another_place_are_refused(kind: str, model: tuple[Manifest, ArtifactStore], slot: int, start: int, count: int) -> None:
    engine, _, _ = opened(kind, model)
    with pytest.raises(InvalidInput, match="into a slot that holds 0 of 32"):
        engine.prefill(0, slot, start, np.ones(count, np.int64))
    with pytest.raises(InvalidInput, match="decode at 1 in a slot that holds 0 of 32"):
        engine.decode(0, [slot], [1], IDS[:1])


def test_stages_of_a_ring_give_what_one_gives(kind: str, model: tuple[Manifest, ArtifactStore]) -> None:
    whole, output, _ = opened(kind, model)
    assert output
    rows: Rows | Tokens = IDS
    for stage in range(2):
        part, head, spec = opened(kind, model, stage=stage, stages=2)
        assert (head is not None) == spec.is_head
        rows = part.prefill(0, 0, 0, rows).copy()
    expected = whole.prefill(0, 0, 0, IDS).copy()
    assert np.array_equal(rows, expected)
    logits = output.logits(expected).copy()
    assert logits.shape == (8, model[0].config.vocab_size)
    assert np.array_equal(output.logits(expected[2:4]), logits[2:4])


@ALL_MODELS
def test_both_give_nearly_the_same_logits(model: tuple[Manifest, ArtifactStore]) -> None:
    """Sums of floats come in another order."""
    found = []
    for kind in KINDS:
        engine, output, _ = opened(kind, model)
        assert output
        found.append(output.logits(engine.prefill(0, 0, 0, IDS)).copy())
    size = np.sqrt(np.square(found[0]).mean())
    assert np.abs(found[0] - found[1]).max() < 0.05 * size
    assert np.array_equal(found[0].argmax(axis=1), found[1].argmax(axis=1))


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_every_family_gives_the_same_text(name: str, tmp_path: Path) -> None:
    """16 best tokens. Logits differ by up to 6 % of their size, where a level of an activation is rounded the other way."""
    model, texts = import_golden(name, tmp_path), []
    for kind in KINDS:
        engine, output, _ = opened(kind, model)
        assert output
        hidden, text = engine.prefill(0, 0, 0, IDS[:6]), list[int]()
        for position in range(6, 22):
            text.append(int(output.logits(hidden[-1:].copy())[0].argmax()))
            hidden = engine.decode(0, [0], [position], np.array(text[-1:], np.int64))
        texts.append(text)
    assert texts[0] == texts[1]
