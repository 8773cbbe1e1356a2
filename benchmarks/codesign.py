"""What is claimed of chips that were designed together with GLM, beside what programs for such chips give.

    python -m benchmarks.codesign

Each claim is a row of a table in Markdown: what was said, what comes out, from which mechanisms, and a verdict: derived; needs an
assumption, which is named; contradicts. It takes two minutes of one core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from benchmarks.models import glm_edge
from protos.chip.core import Core
from protos.chip.timing import Timing, time_program
from protos.manifest import ModelConfig, Quantization
from quantize.compiler.compile import compile_stage
from quantize.compiler.ir import Shape
from quantize.compiler.ladder import ladder, unmade
from quantize.compiler.lowering import Stage
from sim_devices.chip.core_profiles import load_core

EIGHT, FOUR = Quantization(8, 128, True), Quantization(4, 128, True)
EDGE = glm_edge().config
# 130 billion parameters in GLM's form: 70 layers, 8 key heads of 128. GLM-130B itself has another form, which nobody imports.
LARGE = replace(EDGE, hidden_size=12288, layers=70, heads=96, kv_heads=8, intermediate_size=32768, vocab_size=150_528, max_positions=4096)
GLM_2B = replace(EDGE, hidden_size=2048, layers=36, heads=32, kv_heads=32, head_dim=64, rotary_dim=64, intermediate_size=5504)
LARGE_SHAPE = Shape(sequences=42, rows=1, context=2048, kv_dtype="float16")
CARD_PER_HOUR = 1.5


@dataclass(frozen=True)
class Verdict:
    """One row. `verdict` begins with "derived", "needs" or "contradicts"."""

    claim: str
    found: str
    mechanisms: str
    verdict: str


def timed(config: ModelConfig, core: Core, shape: Shape, quantization: Quantization = EIGHT, layers: int | None = None) -> Timing:
    """Of a token of each sequence; of the first layers alone where that is asked."""
    manifest = unmade(config, quantization)
    stage = Stage(manifest, range(config.layers if layers is None else layers), layers is None, layers is None)
    return time_program(compile_stage(manifest, stage.parts, core, shape).program, core)


def whole_model(config: ModelConfig, core: Core, shape: Shape, quantization: Quantization = EIGHT) -> float:
    """Seconds of a model of many equal layers, from three of them and from one: what a layer adds."""
    one, three = (timed(config, core, shape, quantization, layers).seconds for layers in (1, 3))
    return one + (config.layers - 1) * (three - one) / 2


def edge_ladder() -> Iterator[str]:
    chip = load_core("hbm-card")
    shape = Shape(kv_dtype="float16")
    yield "| with | ms | of peak bandwidth | W | J/token |\n|---|---|---|---|---|"
    for rung in ladder(unmade(EDGE, EIGHT), chip.core("generic"), chip.core("codesigned"), shape):
        timing = rung.timing
        yield (
            f"| {rung.name} | {1e3 * timing.seconds:.2f} | {100 * timing.dram_utilisation:.0f} % | "
            f"{rung.watts:.0f} | {rung.joules_per_token:.3f} |"
        )


def large_model() -> Verdict:
    chip = load_core("hbm-card")
    streams = replace(chip.core("generic"), mechanisms=frozenset({"shadow", "stream"}))
    before, after = (whole_model(LARGE, core, LARGE_SHAPE) for core in (streams, chip.core("codesigned")))
    generic = whole_model(LARGE, chip.core("generic"), LARGE_SHAPE)
    cost = [CARD_PER_HOUR / 3600 * seconds / LARGE_SHAPE.tokens * 1e6 for seconds in (generic, before, after)]
    change = 100 * (after / before - 1)
    return Verdict(
        "130B on one card: 120 → 85 ms (-29 %), $1.20 → $0.85 for a million tokens",
        f"int8, 42 sequences x 2,048: generic {1e3 * generic:.0f} ms, streaming {1e3 * before:.0f}, co-designed {1e3 * after:.0f} "
        f"({change:+.0f} % against streaming, {100 * (after / generic - 1):+.0f} % against generic); "
        f"${cost[0]:.2f}, ${cost[1]:.2f}, ${cost[2]:.2f} at ${CARD_PER_HOUR} an hour",
        "shadow, stream, fused softmax, one launch",
        "needs a card of 160 GB (130 GB of int8 do not fit 80) and a generic chip that drains its arrays",
    )


def edge_bandwidth() -> Verdict:
    chip = load_core("hbm-card")
    rungs = {
        one.name: one.timing
        for one in ladder(unmade(EDGE, EIGHT), chip.core("generic"), chip.core("codesigned"), Shape(kv_dtype="float16"))
    }
    cheap, last = rungs["cheap launch"], rungs["one launch, prefetch across operations"]
    return Verdict(
        "65 → 88 % of the bandwidth",
        f"1.5B on 2 TB/s: {100 * cheap.dram_utilisation:.0f} → {100 * last.dram_utilisation:.0f} %, "
        f"{100 * (last.seconds / cheap.seconds - 1):+.0f} % time; from generic {100 * rungs['generic'].dram_utilisation:.0f} %",
        "one launch, prefetch across operations",
        "derived for 1.5B; at 130B operators are too long for launches to be a third of the time",
    )


def power() -> Verdict:
    chip = load_core("hbm-card")
    generic, codesigned = (timed(EDGE, chip.core(variant), Shape(kv_dtype="float16")) for variant in ("generic", "codesigned"))
    watts = [sum(timing.joules.values()) / timing.seconds for timing in (generic, codesigned)]
    joules = [sum(timing.joules.values()) for timing in (generic, codesigned)]
    return Verdict(
        "400 → 350 W",
        f"1.5B: {watts[0]:.0f} → {watts[1]:.0f} W, {joules[0]:.3f} → {joules[1]:.3f} J/token",
        "all",
        "contradicts: bytes per second rise, and DRAM's power with them; energy per token falls",
    )


def journey() -> Verdict:
    chip = load_core("horizon-journey-5")
    shape = Shape(kv_dtype="float16")
    generic = timed(GLM_2B, chip.core("generic"), shape, layers=4)
    fused = timed(GLM_2B, chip.core("codesigned"), shape, layers=4)
    four = timed(GLM_2B, chip.core("codesigned"), shape, FOUR, layers=4)
    joules = [sum(timing.joules.values()) for timing in (generic, fused, four)]
    watts = [joule / timing.seconds for joule, timing in zip(joules, (generic, fused, four), strict=True)]
    return Verdict(
        "Journey 5: -40 % power with GLM-2B",
        f"4 layers of its width: {watts[0]:.1f} → {watts[1]:.1f} W by fusion, {watts[2]:.1f} W at 4 bits; "
        f"J/token {100 * (joules[1] / joules[0] - 1):+.0f} %, {100 * (joules[2] / joules[0] - 1):+.0f} %",
        "all, then 4 bits",
        "needs 4 bits for energy; contradicts for power, which the DRAM that is busy draws",
    )


def tensor_cores() -> Verdict:
    chip = load_core("enflame-yunsui-t20")
    shape = Shape(rows=128, context=512, kv_dtype="float16")
    generic, codesigned = (timed(EDGE, chip.core(variant), shape, layers=2) for variant in ("generic", "codesigned"))
    return Verdict(
        "Enflame: tensor cores 70 → 95 %, throughput +25 %",
        f"prefill of 128 rows: arrays {100 * generic.array_utilisation:.0f} → {100 * codesigned.array_utilisation:.0f} % of peak, "
        f"throughput {100 * (generic.seconds / codesigned.seconds - 1):+.0f} %",
        "stream, one launch",
        "needs a vector unit that keeps up with sums by blocks, and K in one piece; blocks of 128 drain every 128 cycles",
    )


def mlu370() -> Verdict:
    chip = load_core("cambricon-mlu370-x8")
    shape = Shape(kv_dtype="float16")
    generic, codesigned = (timed(EDGE, chip.core(variant), shape) for variant in ("generic", "codesigned"))
    change = 100 * (codesigned.seconds / generic.seconds - 1)
    return Verdict(
        "MLU370: -29 % latency",
        f"1.5B: {1e3 * generic.seconds:.2f} → {1e3 * codesigned.seconds:.2f} ms ({change:+.0f} %)",
        "all",
        "derived in its direction; the size of it is that of the generic chip's launches and drains, which are estimates",
    )


CLAIMS: tuple[Callable[[], Verdict], ...] = (large_model, edge_bandwidth, power, mlu370, tensor_cores, journey)
NOT_MODELLED = (
    (
        "Sparse attention: -40 % of the bandwidth",
        "no program gathers pages yet; the share of a cache in the traffic bounds it (10 % at 130B)",
    ),
    ("MLU590: 85 % of an A100 at 60 % of its power", "neither chip's inside is published: a ratio of two estimates says nothing"),
)


def main() -> None:
    print("| claim | programs give | by | verdict |\n|---|---|---|---|")
    for claim in CLAIMS:
        row = claim()
        print(f"| {row.claim} | {row.found} | {row.mechanisms} | {row.verdict} |", flush=True)
    for claimed, why in NOT_MODELLED:
        print(f"| {claimed} | - | - | not modelled: {why} |")
    print()
    for line in edge_ladder():
        print(line, flush=True)


if __name__ == "__main__":
    main()
