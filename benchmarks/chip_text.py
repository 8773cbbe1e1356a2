"""Text of a compiled model beside onnxruntime's: greedy tokens, and the divergence of the logits.

    python -m benchmarks.chip_text --prompts 10 --tokens 64

The functional machine runs the programs of the default model (a prompt's, and a token's); onnxruntime runs the stage graph of a
device. Both take the tokens that onnxruntime chose, so that every row of logits is compared; texts are equal where all best tokens are.
As a yardstick onnxruntime is compared with itself, token by token and in one run: its sums of floats then come in other orders too.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.models import BenchModel
from fleet.home import Home
from protos.chip.core import Core
from quantize.artifact.store import ArtifactStore
from quantize.compiler.compile import compile_stage
from quantize.compiler.ir import Shape
from quantize.compiler.lowering import Stage
from quantize.hub.catalog import DEFAULT_MODEL
from sim_devices.chip.core_profiles import load_core
from sim_devices.chip.functional import Machine
from sim_devices.chip.memory import weights_of
from tests.quantize.stages import Pipeline

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Compared:
    """One prompt: rows of logits, of how many the best token is the same, and the mean divergence of onnxruntime's from the machine's;
    `own_equal` and `own_kl` are onnxruntime's from itself in one run."""

    seed: int
    equal: int
    own_equal: int
    rows: int
    kl: float
    own_kl: float
    seconds_per_token: float

    @property
    def same_text(self) -> bool:
        return self.equal == self.rows


def compare(model: BenchModel, core: Core, seed: int, prompt: int, tokens: int) -> Compared:
    manifest, context = model.manifest, prompt + tokens
    stage = Stage(manifest, range(manifest.config.layers), True, True)

    def machine(rows: int) -> Machine:
        program = compile_stage(manifest, stage.parts, core, Shape(1, rows, context)).program
        return Machine(program, core, weights_of(program, manifest, model.blob_folder))

    ids = np.array(model.prompt(prompt, seed), np.int64)
    columns = manifest.config.vocab_size
    pipeline, first, then = Pipeline(manifest, model.blob_folder, level=4, capacity=context), machine(prompt), machine(1)
    theirs = pipeline.step(ids[None], [0])[0, -1]
    first.run([0], {"ids": ids.astype(np.int32)})
    for name in first.dram.names("cache"):
        then.dram.region(name)[...] = first.dram.region(name)
    ours = first.output("logits", columns)[0]
    equal, divergence, spent = 0, 0.0, 0.0
    rows, chosen = [], []
    for number in range(tokens):
        rows.append(theirs)
        equal += int(theirs.argmax() == ours.argmax())
        divergence += kl(theirs, ours)
        token = np.array([theirs.argmax()])
        if number < tokens - 1:
            at = prompt + number
            chosen.append(token)
            theirs = pipeline.step(token[None], [at])[0, 0]
            begin = time.perf_counter()
            then.run([at], {"ids": token.astype(np.int32)})
            spent += time.perf_counter() - begin
            ours = then.output("logits", columns)[0]
    again = Pipeline(manifest, model.blob_folder, level=4, capacity=context)
    own = again.step(np.concatenate([ids, *chosen])[None], [0])[0, prompt - 1 :]
    own_equal = sum(int(first.argmax() == second.argmax()) for first, second in zip(rows, own, strict=True))
    own_kl = sum(kl(first, second) for first, second in zip(rows, own, strict=True)) / tokens
    return Compared(seed, equal, own_equal, tokens, divergence / tokens, own_kl, spent / max(tokens - 1, 1))


def kl(expected: Floats, found: Floats) -> float:
    """Of two rows of logits."""
    p, q = (row.astype(np.float64) - row.max() for row in (expected, found))
    p, q = (row - np.log(np.exp(row).sum()) for row in (p, q))
    return float((np.exp(p) * (p - q)).sum())


def _model(home: Path | None) -> BenchModel:
    root = Home.open(home).artifacts
    store = ArtifactStore(root)
    return BenchModel(DEFAULT_MODEL, root, store.load(DEFAULT_MODEL), Path(), store.blob_folder, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="seed of the first prompt")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--chip", default="hbm-card")
    parser.add_argument("--home", type=Path, help="a home that holds the default model already")
    arguments = parser.parse_args()
    model, core = _model(arguments.home), load_core(arguments.chip).core("codesigned")
    found = []
    for seed in range(arguments.first, arguments.first + arguments.prompts):
        found.append(compare(model, core, seed, arguments.prompt, arguments.tokens))
        print(json.dumps(asdict(found[-1])), flush=True)
    same = sum(one.same_text for one in found)
    print(f"{same} of {len(found)} texts are the same; mean KL {np.mean([one.kl for one in found]):.2e}")


if __name__ == "__main__":
    main()
