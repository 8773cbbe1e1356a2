"""Glm4MoeForCausalLM: GLM-4.5. A GLM decoder whose rotary pairs are half a head apart, whose first layers are dense, and whose others have
routed experts beside a shared one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from protos.manifest import Experts, ModelConfig
from quantize.architectures import glm
from quantize.architectures.architecture import Folding
from quantize.config_reader import ConfigReader, wrong
from quantize.layers.decoder import Residual, add_attention, add_linear, add_normed_heads, add_residual_norm, add_swiglu
from quantize.layers.experts import add_chosen_experts, add_router
from quantize.layers.forward import Doubles, LayerRun, Steps, swiglu
from quantize.layers.graph_builder import GraphBuilder
from quantize.parts import layer_part
from quantize.sources import Shapes, Sources, shapes_of, sources_of

# Experts in one part: what a planner moves at once.
GROUP = 16
ATTENTION = "attention"
_DEFAULT_EPSILON, _DEFAULT_FRACTION, _DEFAULT_POSITIONS = 1e-5, 0.5, 131_072  # configuration_glm4_moe.py
# Pairs half a head apart must not be moved by the padding of the rotary tables (`quantize.layers.positions`).
_ROTARY_STEP = 16

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
    if rotary_dim % _ROTARY_STEP:
        wrong(f"head_dim x partial_rotary_factor ({rotary_dim}) is no multiple of {_ROTARY_STEP}, which this architecture needs here")
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
        max_positions=reader.integer("max_position_embeddings", 1, 1 << 24, _DEFAULT_POSITIONS),
        eos_token_ids=reader.eos_token_ids(),
        rotary_halves=True,
        qk_norm=reader.boolean("use_qk_norm"),
        experts=_experts(reader, layers),
    )


def _experts(reader: ConfigReader, layers: int) -> Experts:
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
    count = _mixture(config).count
    for start in range(0, count, GROUP):
        stop = min(start + GROUP, count)
        yield f"experts.{start}-{stop - 1}", range(start, stop)


def layer_parts(config: ModelConfig, layer: int) -> dict[str, Shapes]:
    """Dense layers are GLM's; of others the first part is what every token reads."""
    hidden, experts = config.hidden_size, _mixture(config)
    dense = dict(glm.layer_parts(config, layer)[""])
    mlp = {name: dense.pop(name) for name in ("gate_up.weight", "down.weight")}
    attention: dict[str, tuple[int, ...]] = {}
    for name, shape in dense.items():
        if name == "o.weight" and config.qk_norm:
            attention |= {"q_norm": (config.head_dim,), "k_norm": (config.head_dim,)}
        attention[name] = shape
    if layer < experts.first_layer:
        return {"": {**attention, **mlp}}
    size, shared = experts.intermediate_size, experts.shared_intermediate_size
    everyone: dict[str, tuple[int, ...]] = {
        **attention,
        "router": (experts.count, hidden),
        "router_bias": (experts.count,),
        "shared_gate_up.weight": (2 * shared, hidden),
        "shared_down.weight": (hidden, shared),
    }
    parts: dict[str, Shapes] = {ATTENTION: everyone}
    for name, numbers in expert_parts(config):
        each = [{f"{n}.gate_up.weight": (2 * size, hidden), f"{n}.down.weight": (hidden, size)} for n in numbers]
        parts[name] = {tensor: shape for tensors in each for tensor, shape in tensors.items()}
    return parts


def hugging_face(config: ModelConfig) -> Sources:
    def mlp(name: str, prefix: str) -> dict[str, tuple[str, ...]]:
        return {
            f"{name}gate_up.weight": (f"mlp.{prefix}gate_proj.weight", f"mlp.{prefix}up_proj.weight"),
            f"{name}down.weight": (f"mlp.{prefix}down_proj.weight",),
        }

    inner = {**_ATTENTION, **mlp("", "")}
    inner |= {f"{ATTENTION}.{name}": files for name, files in _ATTENTION.items()}
    inner |= {f"{ATTENTION}.router": ("mlp.gate.weight",), f"{ATTENTION}.router_bias": ("mlp.gate.e_score_correction_bias",)}
    inner |= mlp(f"{ATTENTION}.shared_", "shared_experts.")
    for part, numbers in expert_parts(config):
        for number in numbers:
            inner |= mlp(f"{part}.{number}.", f"experts.{number}.")
    return sources_of(config, shapes_of(config, glm.outer_parts(config), layer_parts), glm.OUTER, glm.LAYER, inner)


def ignored(config: ModelConfig, name: str) -> bool:
    """Layers past the last predict the token after the next."""
    layer = re.match(r"model\.layers\.(\d{1,9})\.", name)
    return glm.ignored(config, name) or (layer is not None and int(layer[1]) >= config.layers)


def used_share(config: ModelConfig, part: str) -> float:
    experts = _mixture(config)
    return experts.per_token / experts.count if part.startswith("experts.") else 1.0


def add_layer(builder: GraphBuilder, layer: int, residual: Residual) -> Residual:
    config, experts = builder.config, _mixture(builder.config)
    part = layer_part(layer, "" if layer < experts.first_layer else ATTENTION)
    value, normed = add_residual_norm(builder, part, "input_norm", residual)
    qkv = add_linear(builder, part, "qkv", normed)
    attended = add_attention(builder, layer, part, add_normed_heads(builder, part, qkv) if config.qk_norm else qkv)
    value, normed = add_residual_norm(builder, part, "post_norm", Residual(value, add_linear(builder, part, "o", attended)))
    if layer < experts.first_layer:
        product = add_swiglu(builder, part, add_linear(builder, part, "gate_up", normed))
        return Residual(value, add_linear(builder, part, "down", product))

    product = add_swiglu(builder, part, add_linear(builder, part, "shared_gate_up", normed), "shared.")
    shared = add_linear(builder, part, "shared_down", product)
    rows, flat, total, mixed = (f"{part}.{name}" for name in ("rows", "rows.flat", "shared.flat", "mixed"))
    one_sequence = builder.constant("experts.sequence", [1, -1, config.hidden_size])
    builder.add_node("Reshape", [normed, builder.constant("router.rows", [-1, config.hidden_size])], [flat])
    builder.add_node("Reshape", [normed, one_sequence], [rows])
    builder.add_node("Reshape", [shared, one_sequence], [total])
    weights = add_router(builder, part, experts, flat)
    groups = [(layer_part(layer, name), numbers) for name, numbers in expert_parts(config)]
    total = add_chosen_experts(builder, part, experts, groups, rows, weights, total)
    builder.add_node("Shape", [shared], [f"{mixed}.shape"])
    builder.add_node("Reshape", [total, f"{mixed}.shape"], [mixed])
    return Residual(value, mixed)


def folding(config: ModelConfig) -> Folding:
    """Router and experts read the stream and write to it like any other matrix; an expert's norm is in the layer's first part."""
    dense = glm.folding(config)
    readers = {**dense.readers, **{f"{ATTENTION}.{name}": f"{ATTENTION}.{norm}" for name, norm in dense.readers.items()}}
    writers = {*dense.writers, f"{ATTENTION}.o.weight", f"{ATTENTION}.shared_down.weight"}
    readers |= dict.fromkeys((f"{ATTENTION}.router", f"{ATTENTION}.shared_gate_up.weight"), f"{ATTENTION}.post_norm")
    for part, numbers in expert_parts(config):
        readers |= dict.fromkeys((f"{part}.{number}.gate_up.weight" for number in numbers), f"{ATTENTION}.post_norm")
        writers |= {f"{part}.{number}.down.weight" for number in numbers}
    return Folding(readers, frozenset(writers))


def run_layer(run: LayerRun) -> Steps:
    config = run.config
    prefix = f"{ATTENTION}." if f"{ATTENTION}.input_norm" in run.vectors else ""
    norms = (f"{prefix}q_norm", f"{prefix}k_norm") if config.qk_norm else (None, None)
    qkv = yield f"{prefix}qkv.weight", run.rms_norm(f"{prefix}input_norm")
    run.hidden += yield f"{prefix}o.weight", run.attend(qkv, *norms)
    normed = run.rms_norm(f"{prefix}post_norm")
    shared = "shared_" if prefix else ""
    product = swiglu((yield f"{prefix}{shared}gate_up.weight", normed))
    branch = yield f"{prefix}{shared}down.weight", product
    if prefix:
        weights = _route(_mixture(config), normed, run.vectors[f"{prefix}router"], run.vectors[f"{prefix}router_bias"])
        for part, numbers in expert_parts(config):
            for number in numbers:
                rows = np.flatnonzero(weights[:, number])
                product = swiglu((yield f"{part}.{number}.gate_up.weight", normed[rows]))
                output = yield f"{part}.{number}.down.weight", product
                branch[rows] += weights[rows, number, None] * output
    run.hidden += branch


def _route(experts: Experts, rows: Doubles, router: np.ndarray, bias: np.ndarray) -> Doubles:
    """[rows, count], as `quantize.layers.experts.add_router`."""
    scores: Doubles = 1 / (1 + np.exp(-(rows @ router.astype(np.float64).T)))
    merit = (scores + bias).reshape(len(rows), experts.groups, -1)
    if experts.groups > 1:
        sums = np.sort(merit, axis=-1)[..., -2:].sum(axis=-1)
        worse = np.argsort(-sums, axis=-1, kind="stable")[:, experts.groups_per_token :]
        np.put_along_axis(merit, worse[..., None], -np.inf, axis=1)
    chosen = np.argsort(-merit.reshape(scores.shape), axis=-1, kind="stable")[:, : experts.per_token]
    raw = np.take_along_axis(scores, chosen, axis=-1)
    shares = raw / (raw.sum(axis=-1, keepdims=True) + 1e-20) if experts.normalized else raw
    weights: Doubles = np.zeros_like(scores)
    np.put_along_axis(weights, chosen, experts.scale * shares, axis=-1)
    return weights


def _mixture(config: ModelConfig) -> Experts:
    assert config.experts is not None
    return config.experts


GLM4_MOE = replace(
    glm.GLM,
    names=("Glm4MoeForCausalLM",),
    model_type="glm4_moe",
    parse_config=parse_config,
    layer_parts=layer_parts,
    hugging_face=hugging_face,
    ignored=ignored,
    add_layer=add_layer,
    run_layer=run_layer,
    used_share=used_share,
    folding=folding,
)
