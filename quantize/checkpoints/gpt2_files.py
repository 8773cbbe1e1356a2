"""GPT-2's tokenizer files, vocab.json and merges.txt, as a tokenizer.json: the original GLM's are of this kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from protos.errors import InvalidInput
from quantize.checkpoints.bpe import AddedToken, byte_level_bpe

VOCABULARY_FILE, MERGES_FILE, ADDED_FILE = "vocab.json", "merges.txt", "added_tokens.json"
# tokenization_glm.py: the class whose prompts are [CLS] text <|endoftext|>.
_WRAPPING_CLASS = "GLMGPT2Tokenizer"
_MOST_TOKENS = 1 << 20
_GET_AGAIN = "get the checkpoint again"


def tokenizer_of_gpt2(vocabulary: Mapping[str, Any], merges: bytes, added: Mapping[str, Any], settings: Mapping[str, Any]) -> bytes:
    """tokenizer.json of the files' contents; `settings` is tokenizer_config.json. Raises InvalidInput.

    A mask token swallows the white space on its left (data_utils/tokenization.py, lstrip).
    """
    known = {**_numbers(vocabulary, VOCABULARY_FILE), **_numbers(added, ADDED_FILE)}
    if len(set(known.values())) != len(known):
        raise InvalidInput(f"{VOCABULARY_FILE} and {ADDED_FILE} give one number to two tokens", advice=_GET_AGAIN)
    specials = dict.fromkeys([*(text for key in ("eos_token", "cls_token") if (text := settings.get(key)) in known), *added])
    tokens = {text: AddedToken(known[text], text, swallows_space=text.endswith("MASK]")) for text in specials}
    wraps = settings.get("tokenizer_class") == _WRAPPING_CLASS
    before, after = ([tokens[text] for key in keys if (text := settings.get(key)) in tokens] for keys in (["cls_token"], ["eos_token"]))
    return byte_level_bpe(
        _numbers(vocabulary, VOCABULARY_FILE),
        _pairs(merges, known),
        list(tokens.values()),
        prefix=before if wraps else (),
        suffix=after if wraps else (),
    )


def _numbers(tokens: Mapping[str, Any], file: str) -> dict[str, int]:
    for text, number in tokens.items():
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < _MOST_TOKENS:
            raise InvalidInput(f"{file}: the number of {text[:40]!r} is none: {str(number)[:40]}", advice=_GET_AGAIN)
    return dict(tokens)


def _pairs(merges: bytes, known: Mapping[str, int]) -> list[tuple[str, str]]:
    try:
        lines = merges.decode().split("\n")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{MERGES_FILE} is not UTF-8", advice=_GET_AGAIN) from error
    pairs = []
    for number, line in enumerate(lines):
        if not line.strip() or (number == 0 and line.startswith("#version")):
            continue
        left, _, right = line.rstrip("\r").partition(" ")
        if left not in known or right not in known or left + right not in known:
            raise InvalidInput(f"{MERGES_FILE}: line {number + 1} merges what {VOCABULARY_FILE} does not have", advice=_GET_AGAIN)
        pairs.append((left, right))
    return pairs
