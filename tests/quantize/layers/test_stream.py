from __future__ import annotations

from dataclasses import replace

import pytest

from quantize.architectures.registry import architecture_of
from quantize.layers.operators import INPUT, Add, Block, Linear, Norm, TensorParameter
from quantize.layers.stream import folding_of
from tests.quantize.families import CONFIGS

_NORM = Norm(INPUT, "normed", TensorParameter("", "norm", (8,)), None, 1e-5)
_READER = Linear("normed", "inner", TensorParameter("", "in.weight", (8, 8)))
_WRITER = Linear("inner", "branch", TensorParameter("", "out.weight", (8, 8)))
_ADD = Add(INPUT, "branch", "after")


def test_a_dense_layer() -> None:
    for name in ("glm-edge", "glm-4-9b-chat", "chatglm"):
        config = CONFIGS[name]
        folding = folding_of(architecture_of(config).layer(config, 1))
        assert folding is not None
        assert folding.readers == {"qkv.weight": "input_norm", "gate_up.weight": "post_norm"}
        assert folding.writers == {"o.weight", "down.weight"}


def test_router_and_experts_read_the_stream_and_experts_write_it() -> None:
    config = CONFIGS["glm-4.5-groups"]
    folding = folding_of(architecture_of(config).layer(config, 1))
    assert folding is not None
    experts = [f"experts.{'0-15' if number < 16 else '16-23'}.{number}" for number in range(24)]
    assert folding.readers == {
        "attention.qkv.weight": "attention.input_norm",
        "attention.router": "attention.post_norm",
        "attention.shared_gate_up.weight": "attention.post_norm",
        **{f"{expert}.gate_up.weight": "attention.post_norm" for expert in experts},
    }
    assert folding.writers == {
        "attention.o.weight",
        "attention.shared_down.weight",
        *(f"{expert}.down.weight" for expert in experts),
    }


@pytest.mark.parametrize("name", ["glm-4-0414", "glm2b-tiny"])
def test_a_norm_behind_a_branch_and_a_layer_norm_forbid_it(name: str) -> None:
    config = CONFIGS[name]
    assert folding_of(architecture_of(config).layer(config, 0)) is None


def test_what_reads_or_writes_the_stream_otherwise_forbids_it() -> None:
    def folding(*operators: Norm | Linear | Add) -> object:
        return folding_of(Block(operators, "after"))

    assert folding(_NORM, _READER, _WRITER, _ADD) is not None
    assert folding(_NORM, _READER, replace(_WRITER, bias=TensorParameter("", "out.bias", (8,))), _ADD) is None
    assert folding(_NORM, replace(_READER, input=INPUT), _WRITER, _ADD) is None
    assert folding(_NORM, _READER, _WRITER, replace(_ADD, branch="normed")) is None
    assert folding(replace(_NORM, bias=TensorParameter("", "bias", (8,))), _READER, _WRITER, _ADD) is None
