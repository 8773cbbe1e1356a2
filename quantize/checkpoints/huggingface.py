"""A Hugging Face GLM checkpoint folder: config.json, safetensors, tokenizer.json."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from protos.errors import InvalidInput
from protos.manifest import ModelConfig, Provenance
from quantize.architectures.architecture import Architecture
from quantize.architectures.registry import architecture_of
from quantize.blocks import Floats
from quantize.checkpoints.added_tokens import SPECIAL_MAP_FILE, TokenFiles, complete_tokenizer, named_token
from quantize.checkpoints.chatglm_text import CODE_FILE, chatglm_template, chatglm_tokenizer, generation_of
from quantize.checkpoints.checkpoint import tensor_shapes
from quantize.checkpoints.folder_files import has_file, read_file, read_object
from quantize.checkpoints.gpt2_files import ADDED_FILE, MERGES_FILE, VOCABULARY_FILE, tokenizer_of_gpt2
from quantize.checkpoints.huggingface_config import parse_config, parse_json_object
from quantize.checkpoints.licenses import stated_license
from quantize.checkpoints.prediction_layers import left_out
from quantize.checkpoints.sampling_defaults import FoundSampling, of_generation_config
from quantize.checkpoints.sentencepiece_file import MODEL_FILE, is_sentencepiece
from quantize.checkpoints.tensor_files import TensorFiles
from quantize.checkpoints.tiktoken_file import RANKS_FILE, tokenizer_of_ranks
from quantize.checkpoints.weights import Weights, check_is_adapter, check_is_no_adapter, open_weights
from quantize.parts import EMBEDDING, HEAD
from quantize.sources import Sources, read_rows, sources_of

# Says where a folder was pulled from: {"source": "ORG/NAME@commit"}.
SOURCE_FILE = ".glmfleet.json"
# Where processors of models that see keep their template.
PROCESSOR_TEMPLATE = "chat_template.json"
_HUB_NAME = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_SLAB_ROWS = 4096


@dataclass(frozen=True)
class HuggingFaceCheckpoint:
    """See `quantize.checkpoints.checkpoint.Checkpoint`; made by `open_huggingface`."""

    config: ModelConfig
    provenance: Provenance
    text_files: Mapping[str, bytes]
    files: TensorFiles
    sources: Sources
    sampling: FoundSampling

    def read(self, name: str, start: int, stop: int) -> Floats:
        return read_rows(self.sources[name], start, stop, self.files.read)


@contextmanager
def open_huggingface(folder: Path, adapter: Path | None = None) -> Iterator[HuggingFaceCheckpoint]:
    """Opens the folder and checks all of it but the weights' values. The LoRA adapter in the folder `adapter`, or in this folder, is
    merged, and brings its own tokenizer where it has one. Raises InvalidInput in one clear line."""
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not a folder", advice="give a checkpoint folder with config.json in it, or a GGUF file")
    check_is_no_adapter(folder)
    if adapter is not None:
        check_is_adapter(adapter)
    plain = parse_json_object(read_file(folder, "config.json"), "config.json")
    config = read_model_config(folder)
    architecture = architecture_of(config)
    text_files = _text_files(folder, plain, config.vocab_size)
    if adapter is not None and has_file(adapter, "tokenizer.json"):
        text_files |= _text_files(adapter, plain, config.vocab_size)
    with open_weights(folder, plain, architecture.file_prefix, adapter) as weights:
        files = weights.files
        tokens = _added_tokens(text_files["tokenizer.json"])
        config = _with_end_token(architecture.with_tokens(config, tokens), text_files, tokens)
        config = _settle_head(config, weights)
        own = file_sources(config)
        files.check(tensor for parts in own.values() for tensor in parts)
        vision = frozenset(name for name in files.names if name.startswith(architecture.vision)) if _sees(plain, architecture) else None
        _check_nothing_else(config, own, files, vision or frozenset())
        notices = ["" if vision is None else _left_out(architecture, vision)]
        notices += [left_out(files.names, architecture.file_names(config).layer, config.layers)]
        provenance = replace(_provenance(folder, plain, bool(weights.adapted)), notice="; ".join(filter(None, notices)))
        sampling = of_generation_config(read_object(folder, "generation_config.json"))
        yield HuggingFaceCheckpoint(config, provenance, text_files, files, own, sampling)


def read_model_config(folder: Path) -> ModelConfig:
    """What config.json and, where there is one, generation_config.json say, before any weight is there. Raises InvalidInput."""
    return parse_config(parse_json_object(read_file(folder, "config.json"), "config.json"), read_object(folder, "generation_config.json"))


def file_sources(config: ModelConfig) -> Sources:
    """Which of a folder's tensors, with which shapes, make up each neutral tensor of such a model."""
    return sources_of(config, tensor_shapes(config), architecture_of(config).file_names(config))


def _settle_head(config: ModelConfig, weights: Weights) -> ModelConfig:
    """A head that is stored and differs from the embedding counts, whatever `tie_word_embeddings` says (GLM-Edge-1.5B)."""
    files = weights.files
    untied = replace(config, tied_head=False)
    stored = file_sources(untied)
    (embedding,), (head,) = (stored[f"{part}.weight"] for part in (EMBEDDING, HEAD))
    if config.tied_head and head.name not in files.names and embedding.name in weights.adapted:
        raise InvalidInput(
            "the adapter changes an embedding that is the output head too, which PEFT leaves as it was",
            advice="merge it with PEFT first (merge_and_unload), and import what that saves",
        )
    if not config.tied_head or head.name not in files.names:
        return config
    files.check((embedding, head))
    for start in range(0, config.vocab_size, _SLAB_ROWS):
        stop = min(start + _SLAB_ROWS, config.vocab_size)
        if not np.array_equal(files.read(embedding.name, start, stop), files.read(head.name, start, stop)):
            return untied
    return config


def _sees(config: Mapping[str, Any], architecture: Architecture) -> bool:
    """Whether there are images in what this model was made for; we run its text tower alone."""
    return bool(architecture.vision) and isinstance(config.get("vision_config"), dict)


def _left_out(architecture: Architecture, vision: frozenset[str]) -> str:
    return f"text only: it sees no images here; {len(vision)} tensors of its vision ({architecture.vision}*) are left out"


def _check_nothing_else(config: ModelConfig, own: Sources, files: TensorFiles, left_out: frozenset[str]) -> None:
    """A tensor that we would leave out changes what the model says: a bias unknown to config.json, a norm of a sister architecture. What
    is known to be `left_out` does not change what it says of text."""
    ignored = architecture_of(config).ignored
    known = {tensor.name for parts in (own, file_sources(replace(config, tied_head=False))) for group in parts.values() for tensor in group}
    for name in sorted(files.names - known - left_out):
        if not ignored(config, name) and not _is_no_bias(files, name):
            raise InvalidInput(
                f"the checkpoint has a tensor that {config.architecture} with this config.json has not: {name}",
                advice="config.json and the safetensors files must belong together",
            )


def _is_no_bias(files: TensorFiles, name: str) -> bool:
    """A bias of zeros, as AutoGPTQ gave every matrix."""
    (rows, *others) = files.tensor(name).shape or (0, 0)
    return name.endswith(".bias") and not others and not files.read(name, 0, rows).any()


def _text_files(folder: Path, config: Mapping[str, Any], vocab_size: int) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    tokens = TokenFiles(*(read_object(folder, name) for name in ("tokenizer_config.json", SPECIAL_MAP_FILE, ADDED_FILE)))
    settings = tokens.merged
    if has_file(folder, "tokenizer_config.json"):
        files["tokenizer_config.json"] = read_file(folder, "tokenizer_config.json")
    if settings != tokens.settings:
        files["tokenizer_config.json"] = json.dumps(settings, ensure_ascii=False, sort_keys=True).encode()
    template = _template(folder, settings)
    pieces = b"" if has_file(folder, "tokenizer.json") or not has_file(folder, MODEL_FILE) else read_file(folder, MODEL_FILE)
    if is_sentencepiece(pieces):
        generation = generation_of(settings, _names(folder, config, settings), _code(folder))
        files["tokenizer.json"] = chatglm_tokenizer(pieces, generation, settings)
        template = chatglm_template(template.decode(errors="replace"), generation).encode()
    else:
        files["tokenizer.json"] = _tokenizer(folder, tokens, vocab_size)
    if template:
        files["chat_template.jinja"] = template
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md"):
        if has_file(folder, name):
            files["LICENSE"] = read_file(folder, name)
            break
    return files


def _template(folder: Path, settings: Mapping[str, Any]) -> bytes:
    """The file's, that of a model that sees, or tokenizer_config.json's, in this order; b"" for none."""
    if has_file(folder, "chat_template.jinja"):
        return read_file(folder, "chat_template.jinja")
    return _default_template({**settings, **read_object(folder, PROCESSOR_TEMPLATE)}.get("chat_template")).encode(errors="replace")


def _names(folder: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> list[object]:
    """What the checkpoint is called, wherever it says so."""
    return [config.get("_name_or_path"), settings.get("name_or_path"), _pulled_from(folder)]


def _pulled_from(folder: Path) -> object:
    return read_object(folder, SOURCE_FILE).get("source")


def _code(folder: Path) -> str:
    return read_file(folder, CODE_FILE).decode(errors="replace") if has_file(folder, CODE_FILE) else ""


def _tokenizer(folder: Path, tokens: TokenFiles, vocab_size: int) -> bytes:
    if not has_file(folder, "tokenizer.json") and has_file(folder, RANKS_FILE):
        return tokenizer_of_ranks(read_file(folder, RANKS_FILE), tokens.settings)
    if not has_file(folder, "tokenizer.json") and has_file(folder, VOCABULARY_FILE):
        vocabulary = parse_json_object(read_file(folder, VOCABULARY_FILE), VOCABULARY_FILE)
        return tokenizer_of_gpt2(vocabulary, read_file(folder, MERGES_FILE), tokens.added, tokens.settings)
    data = read_file(folder, "tokenizer.json")
    if not isinstance(parse_json_object(data, "tokenizer.json").get("model"), dict):
        raise InvalidInput("tokenizer.json has no model", advice="get the checkpoint again")
    return complete_tokenizer(data, tokens, vocab_size)


def _with_end_token(config: ModelConfig, text_files: Mapping[str, bytes], tokens: Mapping[str, int]) -> ModelConfig:
    """With the end token that tokenizer_config.json names, unless the model knows it already: it would talk on behind it otherwise."""
    settings = parse_json_object(text_files.get("tokenizer_config.json", b"{}"), "tokenizer_config.json")
    number = tokens.get(named_token(settings, "eos_token") or "", config.vocab_size)
    if number >= config.vocab_size or number in config.eos_token_ids:
        return config
    return replace(config, eos_token_ids=(*config.eos_token_ids, number))


def _added_tokens(tokenizer: bytes) -> dict[str, int]:
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


def _provenance(folder: Path, config: Mapping[str, Any], adapted: bool) -> Provenance:
    """No path of this machine, and the same from whatever folder the files are read: the manifest's digest hangs on it."""
    name = _pulled_from(folder) or config.get("_name_or_path")
    hub_name = name if isinstance(name, str) and re.fullmatch(rf"{_HUB_NAME}(@[0-9a-f]+)?", name) else ""
    source = f"Hugging Face checkpoint {hub_name}".rstrip()
    return Provenance(f"{source} with a LoRA adapter" if adapted else source, _license(folder), "")


def _license(folder: Path) -> str:
    """What the model card's header states: an SPDX identifier where we know it, the publisher's own name for one of theirs; else ""."""
    if not has_file(folder, "README.md"):
        return ""
    card = read_file(folder, "README.md").decode(errors="replace")
    header = re.match(r"---\r?\n(.*?)\n---", card, re.DOTALL)
    stated = dict(re.findall(r"^(license(?:_name)?):\s*['\"]?([\w.+-]{1,64})", header[1], re.MULTILINE)) if header else {}
    return stated_license(stated.get("license", ""), stated.get("license_name", ""))
