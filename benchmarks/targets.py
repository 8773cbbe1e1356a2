"""What is compared with what, by the names of the measurements, and what each comparison should show."""

from __future__ import annotations

from benchmarks.figures import Target
from benchmarks.models import EDGE
from quantize.hub.catalog import DEFAULT_MODEL

ENGINE, PRODUCT, LLAMA = "engine", "product", "llama.cpp"
IDLE_CPU, BUSY_CPU = "CPU seconds per second, idle", "CPU seconds per second, decoding"


def key(contender: str, what: str, count: int, stages: int = 1) -> str:
    """ "engine decode 1", "product decode 16, 2 stages"."""
    return f"{contender} {what} {count}" + (f", {stages} stages" if stages > 1 else "")


def stages_name(count: int) -> str:
    """The deployment's."""
    return f"cut-{count}"


def peak_name(when: str) -> str:
    return f"peak resident bytes, {when} load"


def needed_name(when: str) -> str:
    return f"bytes of weights and touched KV, {when} load"


def _targets(edge: bool) -> tuple[Target, ...]:
    one, peer = key(PRODUCT, "decode", 1), key(LLAMA, "decode", 1)
    prefill = key(LLAMA, "prefill", 128)
    return (
        Target("engine decode, 1 stream, ÷ llama.cpp Q8_0", key(ENGINE, "decode", 1), peer, 1.0),
        Target("product decode, 1 stream, ÷ llama.cpp Q8_0", one, peer, 0.95 if edge else 0.85),
        Target("prefill of 128 tokens ÷ llama.cpp Q8_0: engine", prefill, key(ENGINE, "prefill", 128), 1.5 if edge else 1.3),
        Target("prefill of 128 tokens ÷ llama.cpp Q8_0: product, to its first token", prefill, key(PRODUCT, "prefill", 128), None),
        Target(
            "product decode total of 16 streams ÷ llama.cpp batched with 16",
            key(PRODUCT, "decode", 16),
            key(LLAMA, "decode", 16),
            1.4 if edge else None,
        ),
        Target("product ÷ engine, decode", one, key(ENGINE, "decode", 1), 0.95 if edge else 0.85),
        Target("2 stages ÷ 1 stage, 1 stream", key(PRODUCT, "decode", 1, 2), one, 0.95 if edge else 0.8),
        Target("4 stages ÷ 1 stage, 1 stream", key(PRODUCT, "decode", 1, 4), one, 0.92 if edge else 0.7),
        *(
            Target(
                f"peak resident memory (VmHWM) ÷ (weights + touched KV), {when} load",
                peak_name(when),
                needed_name(when),
                1.15 if edge else None,
                at_most=True,
            )
            for when in ("first", "mapped")
        ),
        Target("CPU of an idle fleet (telemetry is a part of it) ÷ CPU while decoding", IDLE_CPU, BUSY_CPU, 0.01, at_most=True),
        Target(
            "time to first token of a short request while another prefills 1,000 tokens, ÷ alone",
            key(PRODUCT, "beside", 1000),
            key(PRODUCT, "short", 16),
            3.0,
            at_most=True,
        ),
    )


# Ratios of seconds are turned over: more is better, but for the last.
TARGETS = {DEFAULT_MODEL: _targets(edge=False), EDGE: _targets(edge=True)}
