"""Why a layer takes as long as it does: from the program, and by what each mechanism would change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protos.chip.core import MECHANISMS, Core
from quantize.compiler.causes import cause_of
from quantize.compiler.ir import Shape
from quantize.compiler.stage_times import Model
from tests.quantize.families import CONFIGS
from tests.support.chips import CODESIGNED, GENERIC, unmade

WIDE = replace(
    CONFIGS["glm-edge"],
    hidden_size=1024,
    intermediate_size=4096,
    heads=8,
    kv_heads=2,
    head_dim=128,
    rotary_dim=128,
    layers=3,
    max_positions=2048,
)
MODEL = Model.of(unmade(WIDE, block_size=32))
ROOMY = replace(GENERIC, scratchpad_bytes=8 << 20)


@pytest.mark.parametrize(
    ("core", "mechanism"),
    [
        (replace(ROOMY, launch_seconds=1e-3, mechanisms=frozenset(MECHANISMS) - {"one_launch"}), "one_launch"),
        (replace(ROOMY, mechanisms=frozenset(MECHANISMS) - {"stream"}, dram_bytes_per_second=1e13), "stream"),
        (replace(CODESIGNED, scratchpad_bytes=8 << 20), None),
    ],
    ids=["dear launches", "tiles that drain", "all mechanisms"],
)
def test_the_mechanism_that_gains_most_is_named(core: Core, mechanism: str | None) -> None:
    cause = cause_of(MODEL, core, 1, Shape(context=512))
    assert cause.mechanism == mechanism
    assert 0 < cause.busy <= 1
    assert 0 <= cause.stalled <= 1
    assert str(cause).startswith(f"its {cause.unit} unit works ")
    assert ("off a layer" in str(cause)) == (mechanism is not None)


def test_a_chip_that_waits_for_its_memory_is_told_so() -> None:
    cause = cause_of(MODEL, replace(CODESIGNED, dram_bytes_per_second=1e9, scratchpad_bytes=8 << 20), 0, Shape(context=512))
    assert (cause.unit, cause.mechanism) == ("load", None)
    assert cause.busy > 0.95
