"""config.json of a Hugging Face GLM checkpoint as a ModelConfig: pure, trusting nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from protos.errors import InvalidInput
from protos.manifest import ModelConfig
from quantize.architectures.architecture import Architecture
from quantize.architectures.registry import architecture_named, architecture_of_tower, architecture_of_type, unsupported
from quantize.config_reader import ConfigReader

# Of a text_config that does not say (transformers, configuration_glm46v.py).
_TOWER_TYPE = "glm4v_text"


def parse_json_object(data: bytes, file: str) -> dict[str, Any]:
    """Raises InvalidInput naming `file`."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{file} is not JSON", advice="get the checkpoint again") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{file} is not a JSON object", advice="get the checkpoint again")
    return value


def parse_config(config: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> ModelConfig:
    """The model of config.json and, for end-of-sequence tokens, generation_config.json; `tied_head` is what config.json claims.

    Raises InvalidInput naming the key at fault, or listing what is supported.
    """
    return _architecture(config).parse_config(ConfigReader(config, generation))


def _architecture(config: Mapping[str, Any]) -> Architecture:
    named = config.get("architectures")
    listed = isinstance(named, list) and bool(named)
    name = named[0] if isinstance(named, list) and named else str(config.get("model_type"))
    if not isinstance(name, str):
        raise unsupported(name)
    text = config.get("text_config")
    text_type = text.get("model_type", _TOWER_TYPE) if isinstance(text, dict) else None
    return architecture_of_tower(name, text_type) or (architecture_named(name) if listed else architecture_of_type(name))
