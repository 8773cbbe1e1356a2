"""Small tokenizers as the plain JSON of tokenizer.json, for tests of text."""

from __future__ import annotations

import json
from typing import Any

from device.text.bytelevel import byte_alphabet

BOS, EOS, IM_START, IM_END, THINK = 0, 1, 2, 3, 4  # THINK is an added token that is text, with a space in it
_ADDED = {
    BOS: ("<s>", True),
    EOS: ("</s>", True),
    IM_START: ("<|im_start|>", True),
    IM_END: ("<|im_end|>", True),
    THINK: ("<a thought>", False),
}
_MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), ("Ġw", "o"), ("Ã", "©"), ("ä", "½")]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level(*, post_processor: dict[str, Any] | None = None) -> bytes:
    """Byte-level BPE: five added tokens, the 256 bytes, a few merges."""
    vocab = {text: number for number, (text, _) in _ADDED.items()}
    for character in sorted(byte_alphabet(), key=byte_alphabet().__getitem__):
        vocab[character] = len(vocab)
    for left, right in _MERGES:
        vocab[left + right] = len(vocab)
    return json.dumps(
        {
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
            "padding": None,
            "added_tokens": [added(number, text, special) for number, (text, special) in _ADDED.items()],
            "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "post_processor": post_processor,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "vocab": vocab, "merges": [f"{a} {b}" for a, b in _MERGES], "fuse_unk": False, "byte_fallback": False},
        }
    ).encode()


def vocab_size(tokenizer: bytes) -> int:
    return len(json.loads(tokenizer)["model"]["vocab"])


def sentence_piece() -> bytes:
    """In the manner of Llama: "▁" for spaces, bytes as a fallback, one leading space taken away."""
    words = ["▁", "a", "b", "▁a", "▁word", "word", "é", "▁é", ".", "中"]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for text in [*(f"<0x{byte:02X}>" for byte in range(256)), *words]:
        vocab[text] = len(vocab)
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [added(0, "<unk>", True), added(1, "<s>", True), added(2, "</s>", True)],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, _replace(" ", "▁")]},
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": {
                "type": "Sequence",
                "decoders": [
                    _replace("▁", " "),
                    {"type": "ByteFallback"},
                    {"type": "Fuse"},
                    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
                ],
            },
            "model": {"type": "BPE", "vocab": vocab, "merges": [], "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True},
        }
    ).encode()


def word_piece() -> bytes:
    vocab = {text: number for number, text in enumerate(["[UNK]", "[SEP]", "hello", "world", "##ly", "##s", ".", ",", "'", "n't"])}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [added(0, "[UNK]", True), added(1, "[SEP]", True)],
            "normalizer": None,
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": None,
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {
                "type": "WordPiece",
                "vocab": vocab,
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
            },
        }
    ).encode()


def added(number: int, text: str, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": text, **flags, "special": special}


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}
