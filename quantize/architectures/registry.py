"""The architectures that are supported, by the names that checkpoints use."""

from __future__ import annotations

from protos.errors import InvalidInput
from protos.manifest import ModelConfig
from quantize.architectures.architecture import Architecture
from quantize.architectures.blank_glm import BLANK_GLM
from quantize.architectures.chatglm import CHATGLM
from quantize.architectures.glm import GLM
from quantize.architectures.glm4 import GLM4
from quantize.architectures.glm4_moe import GLM4_MOE
from quantize.architectures.glm4_moe_lite import GLM4_MOE_LITE
from quantize.architectures.vision import GLM4V, GLM4V_MOE, GLM_OCR

ARCHITECTURES = (GLM, GLM4, GLM4_MOE, GLM4_MOE_LITE, GLM4V, GLM4V_MOE, GLM_OCR, CHATGLM, BLANK_GLM)
# Models that see, whose text tower is what text_config's `model_type` says (transformers, Glm46VModel).
_ANY_TOWER = {"Glm46VForConditionalGeneration", "glm46v", "glmga"}
_TOWERS = {"glm4v_text": GLM4V, "glm4v_moe_text": GLM4V_MOE}


def architecture_named(name: str) -> Architecture:
    """By a name of config.json's `architectures`. Raises InvalidInput with the list of what is supported."""
    for architecture in ARCHITECTURES:
        if name in architecture.names:
            return architecture
    raise unsupported(name)


def architecture_of(config: ModelConfig) -> Architecture:
    """Raises InvalidInput for a manifest that another version of this program made."""
    return architecture_named(config.architecture)


def architecture_of_type(model_type: str) -> Architecture:
    """By config.json's `model_type`. Raises InvalidInput with the list of what is supported."""
    for architecture in ARCHITECTURES:
        if model_type == architecture.model_type:
            return architecture
    raise unsupported(model_type)


def architecture_of_tower(name: str, text_type: object) -> Architecture | None:
    """By `text_config`'s model type, of a model whose name or type does not tell what its text tower is; None for any other. Raises
    InvalidInput."""
    if name not in _ANY_TOWER:
        return None
    if (tower := _TOWERS.get(str(text_type))) is None:
        raise InvalidInput(
            f"config.json: a text_config of model_type {repr(text_type)[:60]} is not supported",
            advice=f"supported in {name}: {', '.join(_TOWERS)}",
        )
    return tower


def unsupported(name: object) -> InvalidInput:
    supported = ", ".join(architecture.names[0] for architecture in ARCHITECTURES)
    return InvalidInput(f"config.json: architecture {repr(name)[:60]} is not supported", advice=f"supported architectures: {supported}")
