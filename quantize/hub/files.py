"""Which of a repository's files an import needs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from protos.errors import NotFound

_TEXT = frozenset(
    {
        "config.json",
        "generation_config.json",
        "quantize_config.json",
        "quant_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "tokenization_chatglm.py",  # read for its roles, never run
        "vocab.json",
        "merges.txt",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "README.md",
        "LICENSE",
        "LICENSE.txt",
        "LICENSE.md",
    }
)
# In the order in which one is preferred: (the file that holds all, the shards and their index).
_WEIGHTS = (
    ("model.safetensors", re.compile(r"model-\d{5}-of-\d{5}\.safetensors|model\.safetensors\.index\.json")),
    ("pytorch_model.bin", re.compile(r"pytorch_model-\d{5}-of-\d{5}\.bin|pytorch_model\.bin\.index\.json")),
)
# A LoRA adapter beside its base is part of the model: its settings, and its weights in the order of preference.
_ADAPTER, _ADAPTER_WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")


def needed_files(names: Iterable[str]) -> tuple[str, ...]:
    """Names of what to fetch, config.json first and weights last; nothing of subfolders, code or other formats.

    Raises NotFound when there is no config.json, or no weights that can be read.
    """
    present = set(names)
    if "config.json" not in present:
        raise NotFound("it has no config.json", advice=_other_forms(present))
    for single, shard in _WEIGHTS:
        weights = [single] if single in present else sorted(name for name in present if shard.fullmatch(name))
        if weights:
            adapter = [_ADAPTER, *[name for name in _ADAPTER_WEIGHTS if name in present][:1]] if _ADAPTER in present else []
            return ("config.json", *sorted((present & _TEXT) - {"config.json"}), *adapter, *weights)
    raise NotFound("it has no weights in safetensors files or pytorch_model.bin", advice=_other_forms(present))


def _other_forms(present: set[str]) -> str:
    if _ADAPTER in present:
        return "it is a LoRA adapter: fetch its files, pull its base, and `glmfleet model import BASE --adapter FOLDER --name N`"
    if models := sorted(name for name in present if name.endswith(".gguf")):
        return f"it has GGUF files: fetch one ({models[0]}) and `glmfleet model import FILE.gguf --name N`"
    return "choose a repository that holds a GLM checkpoint, such as zai-org/glm-edge-1.5b-chat"
