"""The device's engine alone, in one process: layers, cache and output head, without ring, wire or scheduler."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.worker import Ask, Figures, answer, unknown
from device.engine.stage import OutputHead, StageEngine
from device.stage_spec import StageSpec, parse_spec
from fleet.deploying.desired import new_desired
from fleet.deploying.load_order import load_request
from fleet.planning.plan import Plan, StagePlan
from protos.manifest import Manifest
from quantize.artifact.store import ArtifactStore
from quantize.parts import stage_parts

SLOTS = 16


class EngineAlone:
    """The whole model as one stage with one group of SLOTS slots."""

    def __init__(self, spec: StageSpec, blob_folder: Path, threads: int) -> None:
        start = time.perf_counter()
        self._engine = StageEngine(spec, blob_folder, threads)
        self._head = OutputHead(spec, blob_folder, threads)
        self.load_seconds = time.perf_counter() - start
        self._chunk = spec.shape.prefill_chunk

    def measure(self, ask: Ask) -> Figures:
        self._engine.groups[0].free_all()
        if ask.what == "prefill":
            start = time.perf_counter()
            self._prefill(0, ask.prompts[0])
            return {"seconds": time.perf_counter() - start}
        if ask.what != "decode":
            raise unknown(ask)
        tokens = np.array([self._prefill(slot, prompt) for slot, prompt in enumerate(ask.prompts)], np.int64)
        slots = list(range(len(ask.prompts)))
        start = time.perf_counter()
        for step in range(ask.tokens):
            positions = [len(prompt) + step for prompt in ask.prompts]
            hidden = self._engine.decode(0, slots, positions, tokens)
            tokens = self._head.logits(hidden).argmax(axis=1)
        seconds = time.perf_counter() - start
        return {"tokens_per_second": ask.tokens * len(slots) / seconds}

    def _prefill(self, slot: int, prompt: tuple[int, ...]) -> int:
        for start in range(0, len(prompt), self._chunk):
            hidden = self._engine.prefill(0, slot, start, np.array(prompt[start : start + self._chunk], np.int64))
        return int(self._head.logits(hidden[-1:])[0].argmax())


def whole_model_spec(manifest: Manifest, context: int, slots: int = SLOTS, chunk: int = 128) -> StageSpec:
    """What a coordinator would have a device load that holds everything."""
    layers = manifest.config.layers
    stage = StagePlan(
        device_id="benchmark",
        device_name="benchmark",
        profile="cpu",
        simulated=False,
        first_layer=0,
        stop_layer=layers,
        parts=stage_parts(manifest, 0, layers, head=True),
        weight_bytes=0,
        kv_bytes=0,
        memory_bytes=0,
        push_bytes=0,
        decode_seconds=0.0,
        decode_joules=None,
    )
    plan = Plan(
        model="benchmark",
        manifest_digest=manifest.digest,
        objective="latency",
        context=context,
        groups=1,
        slots_per_group=slots,
        prefill_chunk=chunk,
        stages=(stage,),
        decode_tokens_per_second=0.0,
        joules_per_token=None,
        hop_bytes=0,
        why=(),
    )
    desired = new_desired("benchmark", 1, (plan,), None)
    return parse_spec(load_request(manifest, desired, desired.pipelines[0], 0, None))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("artifacts", type=Path)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=1280)
    options = parser.parse_args()
    store = ArtifactStore(options.artifacts)
    spec = whole_model_spec(store.load(options.model), options.context)
    answer(EngineAlone(spec, store.blob_folder, options.threads).measure)


if __name__ == "__main__":
    main()
