"""Glm4ForCausalLM: GLM-4-0414. As GLM, with two more RMS norms a layer, on what attention and MLP add to the residual stream."""

from __future__ import annotations

from dataclasses import replace

from protos.manifest import ModelConfig
from quantize.architectures import glm
from quantize.config_reader import ConfigReader
from quantize.layers.decoder import Residual, add_attention, add_linear, add_residual_norm, add_rms_norm, add_swiglu
from quantize.layers.forward import LayerRun, Steps, swiglu
from quantize.layers.graph_builder import GraphBuilder
from quantize.parts import layer_part
from quantize.sources import Shapes, Sources, shapes_of, sources_of

_INNER = {
    **glm.INNER,
    "attention_norm": ("post_self_attn_layernorm.weight",),
    "mlp_norm": ("post_mlp_layernorm.weight",),
}
# Of each branch's last matrix.
_NORM_BEHIND = {"o.weight": "attention_norm", "down.weight": "mlp_norm"}


def parse_config(reader: ConfigReader) -> ModelConfig:
    return replace(glm.parse_config(reader), architecture=GLM4.names[0])


def layer_parts(config: ModelConfig, layer: int) -> dict[str, Shapes]:
    """GLM's, each branch with its norm behind its last matrix."""
    tensors: dict[str, tuple[int, ...]] = {}
    for name, shape in glm.layer_parts(config, layer)[""].items():
        tensors[name] = shape
        if name in _NORM_BEHIND:
            tensors[_NORM_BEHIND[name]] = (config.hidden_size,)
    return {"": tensors}


def hugging_face(config: ModelConfig) -> Sources:
    return sources_of(config, shapes_of(config, glm.outer_parts(config), layer_parts), glm.OUTER, glm.LAYER, _INNER)


def add_layer(builder: GraphBuilder, layer: int, residual: Residual) -> Residual:
    """Attention and SwiGLU, each on the normed residual stream, each normed before it is added."""
    part = layer_part(layer)
    value, normed = add_residual_norm(builder, part, "input_norm", residual)
    attended = add_attention(builder, layer, part, add_linear(builder, part, "qkv", normed))
    branch = add_rms_norm(builder, part, "attention_norm", add_linear(builder, part, "o", attended))
    value, normed = add_residual_norm(builder, part, "post_norm", Residual(value, branch))
    product = add_swiglu(builder, part, add_linear(builder, part, "gate_up", normed))
    return Residual(value, add_rms_norm(builder, part, "mlp_norm", add_linear(builder, part, "down", product)))


def run_layer(run: LayerRun) -> Steps:
    attended = run.attend((yield "qkv.weight", run.rms_norm("input_norm")))
    branch = yield "o.weight", attended
    run.hidden += run.rms_norm("attention_norm", branch)
    product = swiglu((yield "gate_up.weight", run.rms_norm("post_norm")))
    branch = yield "down.weight", product
    run.hidden += run.rms_norm("mlp_norm", branch)


GLM4 = replace(
    glm.GLM,
    names=("Glm4ForCausalLM",),
    model_type="glm4",
    parse_config=parse_config,
    layer_parts=layer_parts,
    hugging_face=hugging_face,
    add_layer=add_layer,
    run_layer=run_layer,
    # A branch's norm has a gain per channel, behind which a rotated branch is no rotation of what it was.
    folding=None,
)
