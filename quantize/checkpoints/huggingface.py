"""A Hugging Face GLM checkpoint folder: config.json, safetensors, tokenizer.json."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from protos.errors import InvalidInput
from protos.manifest import ModelConfig, Provenance
from protos.sizes import bytes_text
from quantize.architectures.registry import architecture_of
from quantize.blocks import Floats
from quantize.checkpoints.checkpoint import tensor_shapes
from quantize.checkpoints.gpt2_files import ADDED_FILE, MERGES_FILE, VOCABULARY_FILE, tokenizer_of_gpt2
from quantize.checkpoints.huggingface_config import parse_config, parse_json_object
from quantize.checkpoints.licenses import stated_license
from quantize.checkpoints.prediction_layers import left_out
from quantize.checkpoints.tensor_files import TensorFiles, open_tensor_files
from quantize.checkpoints.tiktoken_file import RANKS_FILE, tokenizer_of_ranks
from quantize.parts import EMBEDDING, HEAD
from quantize.sources import Sources, read_rows, sources_of

# Says where a folder was pulled from: {"source": "ORG/NAME@commit"}.
SOURCE_FILE = ".glmfleet.json"
_HUB_NAME = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
# GLM-4's tokenizer.json is 20 MB.
_LARGEST_TEXT_BYTES = 128 << 20
_SLAB_ROWS = 4096


@dataclass(frozen=True)
class HuggingFaceCheckpoint:
    """See `quantize.checkpoints.checkpoint.Checkpoint`; made by `open_huggingface`."""

    config: ModelConfig
    provenance: Provenance
    text_files: Mapping[str, bytes]
    files: TensorFiles
    sources: Sources

    def read(self, name: str, start: int, stop: int) -> Floats:
        return read_rows(self.sources[name], start, stop, self.files.read)


@contextmanager
def open_huggingface(folder: Path) -> Iterator[HuggingFaceCheckpoint]:
    """Opens the folder and checks all of it but the weights' values. Raises InvalidInput in one clear line."""
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not a folder", advice="give a checkpoint folder with config.json in it, or a GGUF file")
    plain = parse_json_object(_read(folder, "config.json"), "config.json")
    config = read_model_config(folder)
    text_files = _text_files(folder)
    with open_tensor_files(folder) as files:
        architecture = architecture_of(config)
        files.remove_prefix(architecture.file_prefix)
        config = _settle_head(architecture.with_tokens(config, _special_tokens(text_files["tokenizer.json"])), files)
        own = file_sources(config)
        files.check(tensor for parts in own.values() for tensor in parts)
        _check_nothing_else(config, own, files)
        notice = left_out(files.names, architecture.file_names(config).layer, config.layers)
        yield HuggingFaceCheckpoint(config, replace(_provenance(folder, plain), notice=notice), text_files, files, own)


def read_model_config(folder: Path) -> ModelConfig:
    """What config.json and, where there is one, generation_config.json say, before any weight is there. Raises InvalidInput."""
    generation = (
        parse_json_object(_read(folder, "generation_config.json"), "generation_config.json")
        if _has(folder, "generation_config.json")
        else {}
    )
    return parse_config(parse_json_object(_read(folder, "config.json"), "config.json"), generation)


def file_sources(config: ModelConfig) -> Sources:
    """Which of a folder's tensors, with which shapes, make up each neutral tensor of such a model."""
    return sources_of(config, tensor_shapes(config), architecture_of(config).file_names(config))


def _settle_head(config: ModelConfig, files: TensorFiles) -> ModelConfig:
    """A head that is stored and differs from the embedding counts, whatever `tie_word_embeddings` says (GLM-Edge-1.5B)."""
    untied = replace(config, tied_head=False)
    stored = file_sources(untied)
    (embedding,), (head,) = (stored[f"{part}.weight"] for part in (EMBEDDING, HEAD))
    if not config.tied_head or head.name not in files.names:
        return config
    files.check((embedding, head))
    for start in range(0, config.vocab_size, _SLAB_ROWS):
        stop = min(start + _SLAB_ROWS, config.vocab_size)
        if not np.array_equal(files.read(embedding.name, start, stop), files.read(head.name, start, stop)):
            return untied
    return config


def _check_nothing_else(config: ModelConfig, own: Sources, files: TensorFiles) -> None:
    """A tensor that we would leave out changes what the model says: a bias unknown to config.json, a norm of a sister architecture."""
    ignored = architecture_of(config).ignored
    known = {tensor.name for parts in (own, file_sources(replace(config, tied_head=False))) for group in parts.values() for tensor in group}
    for name in sorted(files.names - known):
        if not ignored(config, name):
            raise InvalidInput(
                f"the checkpoint has a tensor that {config.architecture} with this config.json has not: {name}",
                advice="config.json and the safetensors files must belong together",
            )


def _text_files(folder: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    settings: dict[str, Any] = {}
    if _has(folder, "tokenizer_config.json"):
        files["tokenizer_config.json"] = _read(folder, "tokenizer_config.json")
        settings = parse_json_object(files["tokenizer_config.json"], "tokenizer_config.json")
    files["tokenizer.json"] = _tokenizer(folder, settings)
    if _has(folder, "chat_template.jinja"):
        files["chat_template.jinja"] = _read(folder, "chat_template.jinja")
    elif template := _default_template(settings.get("chat_template")):
        files["chat_template.jinja"] = template.encode()
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md"):
        if _has(folder, name):
            files["LICENSE"] = _read(folder, name)
            break
    return files


def _tokenizer(folder: Path, settings: Mapping[str, Any]) -> bytes:
    if not _has(folder, "tokenizer.json") and _has(folder, RANKS_FILE):
        return tokenizer_of_ranks(_read(folder, RANKS_FILE), settings)
    if not _has(folder, "tokenizer.json") and _has(folder, VOCABULARY_FILE):
        vocabulary = parse_json_object(_read(folder, VOCABULARY_FILE), VOCABULARY_FILE)
        added = parse_json_object(_read(folder, ADDED_FILE), ADDED_FILE) if _has(folder, ADDED_FILE) else {}
        return tokenizer_of_gpt2(vocabulary, _read(folder, MERGES_FILE), added, settings)
    data = _read(folder, "tokenizer.json")
    if "model" not in parse_json_object(data, "tokenizer.json"):
        raise InvalidInput("tokenizer.json has no model", advice="get the checkpoint again")
    return data


def _special_tokens(tokenizer: bytes) -> dict[str, int]:
    """By text; what is malformed is left out, and missed by whoever needs it."""
    added = parse_json_object(tokenizer, "tokenizer.json").get("added_tokens")
    tokens = [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    whole = [token for token in tokens if isinstance(token.get("content"), str) and type(token.get("id")) is int]
    return {token["content"]: token["id"] for token in whole if token["id"] >= 0}


def _default_template(value: object) -> str:
    """tokenizer_config.json's chat_template: a text, or a list of {name, template}."""
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else ""


def _provenance(folder: Path, config: Mapping[str, Any]) -> Provenance:
    """No path of this machine, and the same from whatever folder the files are read: the manifest's digest hangs on it."""
    name = config.get("_name_or_path")
    if _has(folder, SOURCE_FILE):
        name = parse_json_object(_read(folder, SOURCE_FILE), SOURCE_FILE).get("source")
    hub_name = name if isinstance(name, str) and re.fullmatch(rf"{_HUB_NAME}(@[0-9a-f]+)?", name) else ""
    return Provenance(f"Hugging Face checkpoint {hub_name}".rstrip(), _license(folder), "")


def _license(folder: Path) -> str:
    """What the model card's header states: an SPDX identifier where we know it, the publisher's own name for one of theirs; else ""."""
    if not _has(folder, "README.md"):
        return ""
    card = _read(folder, "README.md").decode(errors="replace")
    header = re.match(r"---\r?\n(.*?)\n---", card, re.DOTALL)
    stated = dict(re.findall(r"^(license(?:_name)?):\s*['\"]?([\w.+-]{1,64})", header[1], re.MULTILINE)) if header else {}
    return stated_license(stated.get("license", ""), stated.get("license_name", ""))


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def _read(folder: Path, name: str) -> bytes:
    try:
        with (folder / name).open("rb") as file:
            # Told before it is read: a read of at most so much sets that much aside.
            if os.fstat(file.fileno()).st_size > _LARGEST_TEXT_BYTES:
                raise InvalidInput(f"{name} is larger than {bytes_text(_LARGEST_TEXT_BYTES)}", advice="get the checkpoint again")
            return file.read()
    except FileNotFoundError:
        raise InvalidInput(f"{name} is missing in {folder}", advice="give a whole Hugging Face checkpoint folder") from None
    except OSError as error:
        raise InvalidInput(f"cannot read {name} in {folder}: {error.strerror}", advice="check the folder") from error
