"""tokenizer.json of a byte-level BPE, in the format of Hugging Face's `tokenizers`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# How GLM-4 and Llama 3 cut text into words: THUDM/glm-4-9b-chat, tokenization_chatglm.py, and OpenAI's cl100k_base.
CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in text before all else; a special one gives no text back."""

    number: int
    text: str
    special: bool = True
    swallows_space: bool = False  # white space on its left is taken with it


def byte_level_bpe(
    vocabulary: Mapping[str, int],
    merges: Iterable[tuple[str, str]],
    added: Sequence[AddedToken],
    *,
    pattern: str | None = None,
    individual_digits: bool = False,
    whole_words: bool = False,
    prefix: Sequence[AddedToken] = (),
    suffix: Sequence[AddedToken] = (),
) -> bytes:
    """The file's bytes. Tokens and merges are in GPT-2's characters for bytes; `pattern` cuts the text into words
    first (None: GPT-2's own).

    `individual_digits`: each digit is a word. `whole_words`: a word that is a token is taken whole, whatever the merges say (as
    tiktoken does). `prefix`, `suffix`: special tokens put around a raw prompt.
    """
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    pieces: list[object] = [{"type": "Digits", "individual_digits": True}] if individual_digits else []
    if pattern is None:
        pieces.append(byte_level)
    else:
        pieces.append({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False})
        pieces.append({**byte_level, "use_regex": False})
    plain = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(added),
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pieces},
        "post_processor": around(prefix, suffix),
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            **({"ignore_merges": True} if whole_words else {}),
            "vocab": dict(vocabulary),
            "merges": [list(merge) for merge in merges],
        },
    }
    return json.dumps(plain, ensure_ascii=False, sort_keys=True).encode()


def byte_characters() -> tuple[str, ...]:
    """GPT-2's printable character for each byte (openai/gpt-2, src/encoder.py, bytes_to_unicode; `device.text.bytelevel` reads it back)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


def added_tokens(added: Iterable[AddedToken]) -> list[dict[str, object]]:
    """As the file lists them."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [
        {"id": token.number, "content": token.text, **flags, "lstrip": token.swallows_space, "special": token.special}
        for token in sorted(added, key=lambda token: token.number)
    ]


def around(prefix: Sequence[AddedToken], suffix: Sequence[AddedToken] = ()) -> dict[str, object] | None:
    """The post-processor that puts these around a raw prompt; None where there are none."""
    if not prefix and not suffix:
        return None
    first, last = ([{"SpecialToken": {"id": token.text, "type_id": 0}} for token in tokens] for tokens in (prefix, suffix))
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [*first, text, *last],
        "pair": [*first, text, {"Sequence": {"id": "B", "type_id": 1}}, *last],
        "special_tokens": {token.text: {"id": token.text, "ids": [token.number], "tokens": [token.text]} for token in (*prefix, *suffix)},
    }
