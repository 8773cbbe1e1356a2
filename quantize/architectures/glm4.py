"""Glm4ForCausalLM: GLM-4-0414. As GLM, with two more RMS norms a layer, on what attention and MLP add to the residual stream."""

from __future__ import annotations

from dataclasses import replace

from protos.manifest import ModelConfig
from quantize.architectures import glm
from quantize.architectures.decoder import MIXED, rms_norm
from quantize.config_reader import ConfigReader
from quantize.layers.operators import Add, Block, Operator
from quantize.sources import FileNames

_INNER = {
    **glm.INNER,
    "attention_norm": ("post_self_attn_layernorm.weight",),
    "mlp_norm": ("post_mlp_layernorm.weight",),
}
# Of what each branch adds.
_NORM_OF = {"o.out": "attention_norm", "down.out": "mlp_norm"}


def parse_config(reader: ConfigReader) -> ModelConfig:
    return replace(glm.parse_config(reader), architecture=GLM4.names[0])


def file_names(config: ModelConfig) -> FileNames:
    return FileNames(glm.OUTER, glm.LAYER, _INNER)


def layer(config: ModelConfig, number: int) -> Block:
    """GLM's, each branch normed before it is added."""
    operators: list[Operator] = []
    for operator in glm.layer(config, number).operators:
        if isinstance(operator, Add):
            norm = rms_norm(config, "", _NORM_OF[operator.branch], operator.branch)
            operators += [norm, replace(operator, branch=norm.output)]
        else:
            operators.append(operator)
    return Block(tuple(operators), MIXED)


GLM4 = replace(
    glm.GLM,
    names=("Glm4ForCausalLM",),
    model_type="glm4",
    parse_config=parse_config,
    layer=layer,
    file_names=file_names,
)
