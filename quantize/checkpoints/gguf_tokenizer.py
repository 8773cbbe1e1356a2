"""The tokenizer and chat template in a GGUF file's metadata, in the form of a Hugging Face checkpoint's text files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from gguf import TokenType

from protos.errors import InvalidInput
from quantize.checkpoints.bpe import CL100K, AddedToken, byte_level_bpe
from quantize.checkpoints.gguf_file import GgufFile
from quantize.checkpoints.gguf_pieces import pieces_template, pieces_tokenizer

_LIST = "tokenizer.ggml.tokens"
_PIECES = "llama"  # SentencePiece's
_PLAIN = (TokenType.NORMAL, TokenType.BYTE)
# GLM-4's prefix where a chat template prints it first: behind what prints nothing, as text or as a constant.
_SILENT = re.compile(
    r"""\s*(?:\{\#.*?\#\}
        | \{%-?\s*macro\b.*?\{%-?\s*endmacro\s*-?%\}
        | \{%-?\s*set\s[^=]*?%\}.*?\{%-?\s*endset\s*-?%\}
        | \{%-?\s*set\s.*?%\})""",
    re.DOTALL | re.VERBOSE,
)
_PREFIX = re.compile(r"\s*(?:\{\{-?\s*['\"])?\[gMASK\]<sop>")


@dataclass(frozen=True)
class _Cut:
    """How text becomes words."""

    pattern: str | None = None
    individual_digits: bool = False
    whole_words: bool = False
    begin: bool = False  # with the begin token, where the file does not say


# By tokenizer.ggml.pre; llama.cpp's src/llama-vocab.cpp.
_GPT2, _LLAMA3, _GLM4 = _Cut(), _Cut(CL100K, whole_words=True, begin=True), _Cut(CL100K, whole_words=True)
_CUTS: Mapping[str, _Cut] = {
    "gpt2": _GPT2,
    "gpt-2": _GPT2,
    "smollm": _Cut(individual_digits=True),
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "chatglm-bpe": _GLM4,
    "glm4": _GLM4,
}
# Tokens that end an answer, whichever of them the metadata call eos.
_ENDS = ("<|im_end|>", "<|endoftext|>", "<|user|>", "<|observation|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>")


def eos_token_ids(file: GgufFile) -> tuple[int, ...]:
    """All of them, the one that the file calls eos first: a model that honours only that one talks to itself. Raises InvalidInput."""
    tokens, kinds = file.texts(_LIST), _kinds(file)
    named = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
    ids = [file.integer(key, 0, len(tokens) - 1) for key in named if file.has(key)]
    control = {token: number for number, token in enumerate(tokens) if kinds[number] == TokenType.CONTROL}
    return tuple(dict.fromkeys([*ids, *(control[token] for token in _ENDS if token in control)]))


def text_files(file: GgufFile, max_positions: int) -> dict[str, bytes]:
    """ "tokenizer.json", "tokenizer_config.json" and, when there is one, "chat_template.jinja". Raises InvalidInput."""
    template = file.text("tokenizer.chat_template", "")
    of_pieces = file.text("tokenizer.ggml.model") == _PIECES
    template = pieces_template(file, template) if of_pieces else template
    tokens = file.texts(_LIST)
    settings: dict[str, object] = {"add_bos_token": False, "model_max_length": max_positions}
    for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")):
        if file.has(f"tokenizer.ggml.{key}_token_id"):
            settings[name] = tokens[file.integer(f"tokenizer.ggml.{key}_token_id", 0, len(tokens) - 1)]
    tokenizer = pieces_tokenizer(file) if of_pieces else _tokenizer(file, template)
    files = {"tokenizer.json": tokenizer, "tokenizer_config.json": json.dumps(settings, sort_keys=True).encode()}
    return {**files, "chat_template.jinja": template.encode()} if template else files


def _tokenizer(file: GgufFile, template: str) -> bytes:
    model, pre = file.text("tokenizer.ggml.model"), file.text("tokenizer.ggml.pre", "default")
    if model != "gpt2" or pre not in _CUTS:
        raise InvalidInput(
            f"{file.name}: its tokenizer ({model[:40]}, {pre[:40]}) is not supported",
            advice=f"{_PIECES} can be read, and byte-level BPE of these kinds: {', '.join(_CUTS)}",
        )
    cut, tokens, kinds = _CUTS[pre], file.texts(_LIST), _kinds(file)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        file.refuse(f"{_LIST} names a token twice")
    added = [AddedToken(n, token, kinds[n] != TokenType.USER_DEFINED) for n, token in enumerate(tokens) if kinds[n] not in _PLAIN]
    merges = []
    for merge in file.texts("tokenizer.ggml.merges"):
        left, space, right = merge.partition(" ")
        if not space or left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            file.refuse(f"tokenizer.ggml.merges: {merge[:40]!r} joins what are no tokens")
        merges.append((left, right))
    return byte_level_bpe(
        vocabulary,
        merges,
        added,
        pattern=cut.pattern,
        individual_digits=cut.individual_digits,
        whole_words=cut.whole_words,
        prefix=_prefix(file, cut, template, {token.text: token for token in added}),
    )


def _prefix(file: GgufFile, cut: _Cut, template: str, added: Mapping[str, AddedToken]) -> list[AddedToken]:
    """What stands before a raw prompt: for GLM-4 what its template begins with too, else the begin token where it is asked for."""
    if _begins_with_prefix(template) and {"[gMASK]", "<sop>"} <= set(added):
        return [added["[gMASK]"], added["<sop>"]]
    key = "tokenizer.ggml.bos_token_id"
    if not (file.has(key) and file.flag("tokenizer.ggml.add_bos_token", cut.begin)):
        return []
    token = file.texts(_LIST)[file.integer(key, 0, len(file.texts(_LIST)) - 1)]
    return [added[token]] if token in added else []


def _begins_with_prefix(template: str) -> bool:
    start = 0
    while silent := _SILENT.match(template, start):
        start = silent.end()
    return _PREFIX.match(template, start) is not None


def _kinds(file: GgufFile) -> list[int]:
    kinds = file.integers("tokenizer.ggml.token_type")
    if len(kinds) != len(file.texts(_LIST)):
        file.refuse("tokenizer.ggml.token_type has not one type for each token")
    return kinds
