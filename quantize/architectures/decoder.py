"""Runs of operators that several families compose their layers of, values and parameters named as artifacts have them."""

from __future__ import annotations

from protos.manifest import ModelConfig
from quantize.layers.operators import (
    Attention,
    Block,
    Cache,
    Linear,
    Norm,
    Operator,
    Rope,
    Rotary,
    SplitHeads,
    SwiGlu,
    TensorParameter,
)
from quantize.parts import EMBEDDING, KEY_SCALES, VALUE_SCALES

# The residual stream behind attention, and behind the MLP.
ATTENDED, MIXED = "attended", "mixed"


def value(part: str, name: str) -> str:
    """A value's name in the layer."""
    return f"{part}.{name}" if part else name


def rms_norm(config: ModelConfig, part: str, name: str, source: str) -> Norm:
    """Of whole rows: parameter and value are called `name`."""
    return Norm(source, value(part, f"{name}.out"), TensorParameter(part, name, (config.hidden_size,)), None, config.norm_epsilon)


def layer_norm(config: ModelConfig, part: str, name: str, source: str) -> Norm:
    gain, bias = (TensorParameter(part, f"{name}.{what}", (config.hidden_size,)) for what in ("gain", "bias"))
    return Norm(source, value(part, f"{name}.out"), gain, bias, config.norm_epsilon)


def linear(part: str, name: str, source: str, rows: int, columns: int, *, bias: bool = False) -> Linear:
    """[columns] -> [rows] by `name`.weight, and `name`.bias."""
    weight = TensorParameter(part, f"{name}.weight", (rows, columns))
    return Linear(source, value(part, f"{name}.out"), weight, TensorParameter(part, f"{name}.bias", (rows,)) if bias else None)


def attention(config: ModelConfig, part: str, normed: str, *, bias: bool = False) -> tuple[Operator, ...]:
    """Of `normed`, up to "o.out". "qkv.weight" is the rows of q, then k, then v; a family has `qk_norm` and rotary positions by its
    config. `bias`: of "o"."""
    heads, kv_heads, head_dim = config.heads, config.kv_heads, config.head_dim
    queries, keys, values = (value(part, name) for name in ("queries", "keys", "values"))
    operators: list[Operator] = [
        linear(part, "qkv", normed, config.query_size + 2 * config.kv_size, config.hidden_size, bias=config.qkv_bias),
        SplitHeads(value(part, "qkv.out"), queries, keys, values, heads, kv_heads, head_dim),
    ]
    if config.qk_norm:
        for name, source, count in (("q_norm", queries, heads), ("k_norm", keys, kv_heads)):
            gain = TensorParameter(part, name, (head_dim,))
            operators.append(Norm(source, f"{source}.normed", gain, None, config.norm_epsilon, count))
        queries, keys = f"{queries}.normed", f"{keys}.normed"
    if config.rotary_dim:
        rotary = Rotary(config.rotary_dim, config.rope_theta, config.rotary_halves, config.rope_scaling)
        operators += (Rope(source, f"{source}.turned", rotary) for source in (queries, keys))
        queries, keys = f"{queries}.turned", f"{keys}.turned"
    cache = Cache(*(TensorParameter(part, name, (config.kv_size,)) for name in (KEY_SCALES, VALUE_SCALES)))
    attended = value(part, "attention.out")
    operators.append(
        Attention(queries, keys, values, attended, heads, kv_heads, head_dim, causal=not config.prefix_whole, cache=cache),
    )
    operators.append(linear(part, "o", attended, config.hidden_size, config.query_size, bias=bias))
    return tuple(operators)


def swiglu(part: str, source: str, hidden: int, width: int, prefix: str = "", product: str = "product") -> tuple[Operator, ...]:
    """`prefix`gate_up.weight [2 width, hidden], which is gate, then up; SiLU; `prefix`down.weight [hidden, width]."""
    activated = value(part, product)
    return (
        linear(part, f"{prefix}gate_up", source, 2 * width, hidden),
        SwiGlu(value(part, f"{prefix}gate_up.out"), activated, width),
        linear(part, f"{prefix}down", activated, hidden, width),
    )


def output_head(config: ModelConfig, norm: Norm) -> Block:
    """Logits of normed rows; a tied head's matrix is the embedding's."""
    owner = EMBEDDING if config.tied_head else ""
    weight = TensorParameter("", "weight", (config.vocab_size, config.hidden_size), shared_from=owner)
    return Block((norm, Linear(norm.output, "logits", weight)), "logits")
