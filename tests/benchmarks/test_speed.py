from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.engine import EngineAlone, whole_model_spec
from benchmarks.figures import rows
from benchmarks.machine import describe, read_bandwidth
from benchmarks.models import EDGE, BenchModel, numbered_words
from benchmarks.speed import CONTEXT, Settings, _groups, _save, entry, run, table
from benchmarks.targets import BUSY_CPU, ENGINE, IDLE_CPU, PRODUCT, TARGETS, key, needed_name, peak_name
from benchmarks.worker import Ask
from fleet.cli.versions import EngineVersion
from protos.errors import InvalidInput
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.formats import open_checkpoint
from quantize.importing.importer import import_model
from quantize.quality.walk import Walk
from quantize.quality.windows import Window
from tests.support.checkpoints import TinyGlm, write_checkpoint

WHOLE = Settings("tiny", 2, 1, 1, 1, (1, 2, 4), (1, 16), (1,), 6, peer=True, beside=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> BenchModel:
    folder = tmp_path_factory.mktemp("tiny")
    store = ArtifactStore(folder / "store")
    path = write_checkpoint(folder / "checkpoint", TinyGlm(layers=4, max_positions=2 * CONTEXT))
    (path / "tokenizer.json").write_bytes(numbered_words(272))
    with open_checkpoint(path) as checkpoint:
        manifest = import_model(checkpoint, store, "tiny")
    return BenchModel("tiny", folder / "store", manifest, folder / "none.gguf", store.blob_folder, text=False)


@pytest.mark.parametrize("model", TARGETS)
def test_everything_that_a_target_compares_is_measured(model: str, tiny: BenchModel) -> None:
    measured = {name for group in _groups(WHOLE, tiny, 0, 8) for name, _, _ in group}
    measured |= {BUSY_CPU, IDLE_CPU, *(name(when) for name in (peak_name, needed_name) for when in ("first", "mapped"))}
    assert {name for target in TARGETS[model] for name in (target.over, target.under)} <= measured


def test_prompts_differ_between_rounds_and_not_between_contenders(tiny: BenchModel) -> None:
    first, second = ([ask.prompts for group in _groups(WHOLE, tiny, number, 8) for _, _, ask in group] for number in (0, 1))
    assert first[0] == first[1]  # engine and llama.cpp
    one, other = ({prompt[:4] for prompts in each for prompt in prompts} for each in (first, second))
    assert not one & other


def test_the_engine_decodes_what_it_should(tiny: BenchModel) -> None:
    prompt = tuple(tiny.prompt(21, 5))
    engine = EngineAlone(whole_model_spec(tiny.manifest, 64, chunk=10), tiny.blob_folder, 1)
    first = engine._prefill(0, prompt)
    (logits,) = next(Walk([EngineVersion(tiny.manifest, tiny.blob_folder, 64)], [Window(np.array(prompt))]).logits())
    assert first == logits[-1].argmax()
    assert engine.measure(Ask("decode", (prompt, prompt[:7]), 3))["tokens_per_second"] > 0
    with pytest.raises(InvalidInput, match="beside"):
        engine.measure(Ask("beside", (prompt,)))


@pytest.mark.long
def test_a_whole_run_but_for_the_peer(tiny: BenchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real agents, a coordinator and a client, each a process: the figures themselves are not judged."""
    monkeypatch.setattr("benchmarks.speed._IDLE_SECONDS", 1.0)
    settings = Settings("tiny", 1, 1, 1, 1, (1, 2), (1,), (1,), 240, peer=False, beside=True)
    told: list[str] = []
    record = run(settings, tiny, told.append)
    assert told[-1] == "round 1 of 1"
    # CPU time is counted in ticks of 10 ms: an idle second may have none.
    assert all(value >= 0 if "idle" in name else value > 0 for name, values in record.samples.items() for value in values)
    for name in (key(ENGINE, "decode", 1), key(PRODUCT, "decode", 1), key(PRODUCT, "decode", 1, 2), key(PRODUCT, "beside", 1000)):
        assert len(record.samples[name]) == 1
    made = entry(settings, BenchModel(EDGE, *list(vars(tiny).values())[1:]), describe(1), record)
    path = tmp_path / "speed.json"
    _save(made, path)
    _save(made, path)
    (kept,) = json.loads(path.read_text())
    assert kept["figures"][key(ENGINE, "decode", 1)]["rounds"] == 1
    lines = list(table(rows(TARGETS[EDGE], record.samples)))
    assert any(line.startswith("| product ÷ engine, decode | ≥ 0.95 |") for line in lines)


def test_bandwidth_is_bytes_over_the_best_time() -> None:
    ticks = iter([0.0, 4.0, 10.0, 12.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0])
    assert read_bandwidth(2, 1000, clock=lambda: next(ticks)) == 2 * 1000 / 2.0
