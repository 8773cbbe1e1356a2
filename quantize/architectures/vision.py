"""The text towers of models that see (GLM-4.1V, GLM-4.5V, GLM-4.6V, GLM-OCR): GLM-4's and GLM-4.5's decoders under other names.

A token of a text is at one place in time, height and width, so that the sections of their rotary positions (M-RoPE) all turn by the same
position, as in a model that only reads (transformers, modeling_glm4v.py, `recomposition_frequencies`).
"""

from __future__ import annotations

from dataclasses import replace

from protos.manifest import ModelConfig
from quantize.architectures import glm4, glm4_moe
from quantize.config_reader import ConfigReader, wrong
from quantize.sources import FileNames

# What transformers assumes where text_config leaves a key out (configuration_glm4v.py, _glm_ocr.py, _glm4v_moe.py).
_GLM4V = {"num_key_value_heads": 2, "max_position_embeddings": 32_768}
_OCR = {"num_key_value_heads": 8, "max_position_embeddings": 131_072}
_DENSE = {"rms_norm_eps": 1e-5, "partial_rotary_factor": 1.0}
_MOE = {"num_key_value_heads": 8, "max_position_embeddings": 65_536, "attention_bias": True}

_OUTER_PREFIX, _TOWER_PREFIX = "model.", "model.language_model."


def _glm4v_config(reader: ConfigReader) -> ModelConfig:
    """Queries, keys and values have biases, whatever `attention_bias` says; heads are hidden / heads wide."""
    text = reader.text_config({**_GLM4V, **_DENSE})
    width = _head_width(text)
    if text.integer("head_dim", 1, 1024, width) != width:
        wrong(f"text_config: head_dim is not hidden_size / num_attention_heads ({width}), as this architecture has it")
    return replace(glm4.parse_config(text.with_values(head_dim=width, attention_bias=True)), architecture=GLM4V.names[0])


def _glm_ocr_config(reader: ConfigReader) -> ModelConfig:
    text = reader.text_config({**_OCR, **_DENSE})
    width = text.integer("head_dim", 1, 1024, _head_width(text))
    return replace(glm4.parse_config(text.with_values(head_dim=width, attention_bias=False)), architecture=GLM_OCR.names[0])


def _glm4v_moe_config(reader: ConfigReader) -> ModelConfig:
    """Never with norms of queries and keys, whatever `use_qk_norm` says."""
    text = reader.text_config(_MOE)
    return replace(glm4_moe.parse_config(text.with_values(use_qk_norm=False)), architecture=GLM4V_MOE.names[0])


def _head_width(text: ConfigReader) -> int:
    return text.integer("hidden_size", 1, 1 << 16) // text.integer("num_attention_heads", 1, 1024)


def _in_tower(names: FileNames) -> FileNames:
    """Where a model that only reads has its decoder in "model.", these have it in "model.language_model."."""

    def moved(name: str) -> str:
        return _TOWER_PREFIX + name.removeprefix(_OUTER_PREFIX) if name.startswith(_OUTER_PREFIX) else name

    return FileNames({neutral: moved(name) for neutral, name in names.outer.items()}, moved(names.layer), names.inner)


def _ignored(config: ModelConfig, name: str) -> bool:
    """Layers past the last predict the token after the next (GLM-OCR has one)."""
    return name.startswith(_TOWER_PREFIX) and glm4_moe.ignored(config, _OUTER_PREFIX + name.removeprefix(_TOWER_PREFIX))


GLM4V = replace(
    glm4.GLM4,
    names=("Glm4vForConditionalGeneration",),
    model_type="glm4v",
    parse_config=_glm4v_config,
    file_names=lambda config: _in_tower(glm4.file_names(config)),
    ignored=_ignored,
    vision="model.visual.",
)
GLM_OCR = replace(GLM4V, names=("GlmOcrForConditionalGeneration",), model_type="glm_ocr", parse_config=_glm_ocr_config)
GLM4V_MOE = replace(
    glm4_moe.GLM4_MOE,
    names=("Glm4vMoeForConditionalGeneration",),
    model_type="glm4v_moe",
    parse_config=_glm4v_moe_config,
    file_names=lambda config: _in_tower(glm4_moe.file_names(config)),
    ignored=_ignored,
    vision="model.visual.",
)
