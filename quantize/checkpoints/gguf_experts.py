"""A mixture of experts in a GGUF file: its metadata, and where each expert lies in the tensors that hold all of a layer."""

from __future__ import annotations

import gguf

from protos.manifest import Experts, ModelConfig
from quantize.architectures import glm4_moe
from quantize.checkpoints.gguf_file import GgufFile
from quantize.sources import InnerNames, Rows

_BIAS = "exp_probs_b.bias"


def parse_experts(file: GgufFile, layers: int) -> Experts:
    """Raises InvalidInput where a router is none of ours."""
    own = file.text("general.architecture")
    count = file.integer(f"{own}.expert_count", 1, 1024)
    first = file.integer(f"{own}.leading_dense_block_count", 0, layers, 0)
    groups = max(1, file.integer(f"{own}.expert_group_count", 0, count, 1))
    used = max(1, file.integer(f"{own}.expert_group_used_count", 0, groups, 1))
    if count % groups or (groups > 1 and count // groups < 2):
        file.refuse(f"{count} experts are not {groups} groups of two and more")
    _check_gating(file, own, range(first, layers))
    size = file.integer(f"{own}.expert_feed_forward_length", 1, 1 << 20)
    return Experts(
        first_layer=first,
        count=count,
        per_token=file.integer(f"{own}.expert_used_count", 1, used * (count // groups)),
        intermediate_size=size,
        shared_intermediate_size=size * file.integer(f"{own}.expert_shared_count", 1, 64),
        groups=groups,
        groups_per_token=used,
        normalized=file.flag(f"{own}.expert_weights_norm", False),
        scale=file.number(f"{own}.expert_weights_scale", 0.0, 1e6, 1.0) or 1.0,
    )


def _check_gating(file: GgufFile, own: str, mixtures: range) -> None:
    """Older files do not say how scores are made; a bias that only chooses goes with a sigmoid."""
    by_sigmoid = gguf.ExpertGatingFuncType.SIGMOID.value
    biased = all(f"blk.{layer}.{_BIAS}" in file.tensor_names for layer in mixtures)
    gating = file.integer(f"{own}.expert_gating_func", 0, 1 << 16, 0) or (by_sigmoid if biased else gguf.ExpertGatingFuncType.SOFTMAX.value)
    if gating != by_sigmoid:
        file.refuse("its experts are not chosen by a sigmoid: such a model is not supported")


def mixture_names(file: GgufFile, config: ModelConfig, inner: InnerNames) -> InnerNames:
    """Of a model with experts, whose dense layers' tensors are `inner`."""
    experts, hidden = glm4_moe.mixture(config), config.hidden_size
    names = {
        **glm4_moe.of_attention(inner),
        f"{glm4_moe.ATTENTION}.router": ("ffn_gate_inp.weight",),
        f"{glm4_moe.ATTENTION}.router_bias": (_BIAS,),
        f"{glm4_moe.ATTENTION}.shared_gate_up.weight": ("ffn_gate_shexp.weight", "ffn_up_shexp.weight"),
        f"{glm4_moe.ATTENTION}.shared_down.weight": ("ffn_down_shexp.weight",),
    }
    together = any(name.endswith(".ffn_gate_up_exps.weight") for name in file.tensor_names)
    halves = (("ffn_gate_up_exps", 2),) if together else (("ffn_gate_exps", 1), ("ffn_up_exps", 1))

    def rows(name: str, number: int, height: int, width: int) -> Rows:
        return Rows(f"{name}.weight", (experts.count, height, width), number * height)

    for part, numbers in glm4_moe.expert_parts(config):
        for number in numbers:
            wide = tuple(rows(name, number, share * experts.intermediate_size, hidden) for name, share in halves)
            names[f"{part}.{number}.gate_up.weight"] = wide
            names[f"{part}.{number}.down.weight"] = (rows("ffn_down_exps", number, hidden, experts.intermediate_size),)
    return names
