"""Glm4MoeForCausalLM: GLM-4.5. A GLM decoder whose rotary pairs are half a head apart, whose first layers are dense, and whose others have
routed experts beside a shared one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from protos.manifest import Experts, ModelConfig
from quantize.architectures import glm
from quantize.architectures.decoder import ATTENDED, MIXED, attention, rms_norm, swiglu, value
from quantize.config_reader import ConfigReader, wrong
from quantize.layers.operators import INPUT, Add, Block, Expert, Mixture, Router, TensorParameter
from quantize.rope_settings import max_positions, rope_scaling
from quantize.sources import FileNames, InnerNames

# Experts in one part: what a planner moves at once.
GROUP = 16
ATTENTION = "attention"
_DEFAULT_EPSILON, _DEFAULT_FRACTION, _DEFAULT_POSITIONS = 1e-5, 0.5, 131_072  # configuration_glm4_moe.py
# Pairs half a head apart must not be moved by the padding of the rotary tables (`quantize.layers.positions`).
ROTARY_STEP = 16

_ATTENTION = {
    **{name: files for name, files in glm.INNER.items() if name not in ("gate_up.weight", "down.weight")},
    "q_norm": ("self_attn.q_norm.weight",),
    "k_norm": ("self_attn.k_norm.weight",),
}


def parse_config(reader: ConfigReader) -> ModelConfig:
    reader.check_activation("silu", "swish")
    hidden_size = reader.integer("hidden_size", 1, 1 << 16)
    heads, kv_heads = reader.heads()
    head_dim = reader.head_dim(hidden_size // heads)
    layers = reader.integer("num_hidden_layers", 1, 1024)
    rotary_dim = reader.rotary_dim(head_dim, _DEFAULT_FRACTION)
    check_halves("head_dim x partial_rotary_factor", rotary_dim)
    return ModelConfig(
        architecture=GLM4_MOE.names[0],
        hidden_size=hidden_size,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=reader.integer("intermediate_size", 1, 1 << 20),
        vocab_size=reader.vocab_size(),
        norm_epsilon=reader.number("rms_norm_eps", 1e-20, 0.1, _DEFAULT_EPSILON),
        rope_theta=reader.rope_theta(),
        rotary_dim=rotary_dim,
        qkv_bias=reader.boolean("attention_bias"),
        tied_head=reader.boolean("tie_word_embeddings"),
        max_positions=max_positions(reader, _DEFAULT_POSITIONS),
        eos_token_ids=reader.eos_token_ids(),
        rope_scaling=rope_scaling(reader, rotary_dim, _DEFAULT_POSITIONS),
        rotary_halves=True,
        qk_norm=reader.boolean("use_qk_norm"),
        experts=parse_experts(reader, layers),
    )


def check_halves(key: str, rotary_dim: int) -> None:
    """Raises InvalidInput for what cannot turn by pairs half of it apart."""
    if rotary_dim % ROTARY_STEP:
        wrong(f"{key} ({rotary_dim}) is no multiple of {ROTARY_STEP}, which this architecture needs here")


def parse_experts(reader: ConfigReader, layers: int) -> Experts:
    count = reader.integer("n_routed_experts", 1, 1024)
    groups = reader.integer("n_group", 1, count, 1)
    if count % groups or (groups > 1 and count // groups < 2):
        wrong(f"n_routed_experts ({count}) are not {groups} groups (n_group) of two and more")
    groups_per_token = reader.integer("topk_group", 1, groups, 1)
    size = reader.integer("moe_intermediate_size", 1, 1 << 20)
    return Experts(
        first_layer=reader.integer("first_k_dense_replace", 0, layers, 1),
        count=count,
        per_token=reader.integer("num_experts_per_tok", 1, groups_per_token * (count // groups)),
        intermediate_size=size,
        shared_intermediate_size=size * reader.integer("n_shared_experts", 1, 64, 1),
        groups=groups,
        groups_per_token=groups_per_token,
        normalized=reader.boolean("norm_topk_prob", True),
        scale=reader.number("routed_scaling_factor", 1e-6, 1e6, 1.0),
    )


def expert_parts(config: ModelConfig) -> Iterator[tuple[str, range]]:
    """(name in the layer, numbers of its experts)."""
    count = mixture(config).count
    for start in range(0, count, GROUP):
        stop = min(start + GROUP, count)
        yield f"experts.{start}-{stop - 1}", range(start, stop)


def layer(config: ModelConfig, number: int) -> Block:
    """Dense layers are GLM's; of others the first part is what every token reads."""
    experts = mixture(config)
    if number < experts.first_layer:
        return glm.layer(config, number)
    normed, mixed, attended = (value(ATTENTION, name) for name in ("post_norm.out", "mixed", ATTENDED))
    operators = (
        rms_norm(config, ATTENTION, "input_norm", INPUT),
        *attention(config, ATTENTION, value(ATTENTION, "input_norm.out")),
        Add(INPUT, value(ATTENTION, "o.out"), attended),
        rms_norm(config, ATTENTION, "post_norm", attended),
        routed(config, experts, normed, mixed),
        Add(attended, mixed, MIXED),
    )
    return Block(operators, MIXED)


def mixture(config: ModelConfig) -> Experts:
    """Of a config that has experts, as those of this family and its sisters do."""
    assert config.experts is not None
    return config.experts


def routed(config: ModelConfig, experts: Experts, normed: str, mixed: str) -> Mixture:
    """`mixed` of `normed`: router and shared expert are in attention's part, the others in parts of their own."""
    hidden = config.hidden_size
    router = Router(
        matrix=TensorParameter(ATTENTION, "router", (experts.count, hidden)),
        bias=TensorParameter(ATTENTION, "router_bias", (experts.count,)),
        groups=experts.groups,
        groups_per_token=experts.groups_per_token,
        per_token=experts.per_token,
        normalized=experts.normalized,
        scale=experts.scale,
    )
    shared = swiglu(ATTENTION, normed, hidden, experts.shared_intermediate_size, "shared_", "shared.product")
    each = []
    for part, numbers in expert_parts(config):
        for number in numbers:
            rows = f"{part}.{number}.rows"
            operators = swiglu(part, rows, hidden, experts.intermediate_size, f"{number}.", f"{number}.product")
            each.append(Expert(number, Block(operators, f"{part}.{number}.down.out", rows)))
    return Mixture(normed, mixed, router, Block(shared, value(ATTENTION, "shared_down.out"), normed), tuple(each))


def file_names(config: ModelConfig) -> FileNames:
    return FileNames(glm.OUTER, glm.LAYER, {**of_attention(_ATTENTION), **mlp_names(config)})


def of_attention(inner: InnerNames) -> InnerNames:
    """By names in a dense layer, and in one with experts."""
    return {**inner, **{f"{ATTENTION}.{name}": files for name, files in inner.items()}}


def mlp_names(config: ModelConfig) -> InnerNames:
    """Of dense layers' tensors, the router's and the experts'."""

    def mlp(name: str, prefix: str) -> InnerNames:
        return {
            f"{name}gate_up.weight": (f"mlp.{prefix}gate_proj.weight", f"mlp.{prefix}up_proj.weight"),
            f"{name}down.weight": (f"mlp.{prefix}down_proj.weight",),
        }

    inner = {**mlp("", ""), **mlp(f"{ATTENTION}.shared_", "shared_experts.")}
    inner |= {f"{ATTENTION}.router": ("mlp.gate.weight",), f"{ATTENTION}.router_bias": ("mlp.gate.e_score_correction_bias",)}
    for part, numbers in expert_parts(config):
        for number in numbers:
            inner |= mlp(f"{part}.{number}.", f"experts.{number}.")
    return inner


def ignored(config: ModelConfig, name: str) -> bool:
    """Layers past the last predict the token after the next."""
    layer = re.match(r"model\.layers\.(\d{1,9})\.", name)
    return glm.ignored(config, name) or (layer is not None and int(layer[1]) >= config.layers)


GLM4_MOE = replace(
    glm.GLM,
    names=("Glm4MoeForCausalLM",),
    model_type="glm4_moe",
    parse_config=parse_config,
    layer=layer,
    file_names=file_names,
    ignored=ignored,
)
