"""A config of every family, and of what a family's layers differ by."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from protos.manifest import ModelConfig
from quantize.architectures.registry import ARCHITECTURES
from quantize.checkpoints.huggingface_config import parse_config
from tests.support.blanks import GOLDEN
from tests.support.goldens import NAMES, golden_folder


def _config(folder: Path) -> ModelConfig:
    return parse_config(json.loads((folder / "config.json").read_text()))


CONFIGS = {name: _config(golden_folder(name)) for name in NAMES} | {"glm2b-tiny": _config(GOLDEN)}
CONFIGS["chatglm"] = replace(CONFIGS["glm-4-9b-chat"], architecture="ChatGLMModel")
assert {config.architecture for config in CONFIGS.values()} == {architecture.names[0] for architecture in ARCHITECTURES}
