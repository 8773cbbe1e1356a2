"""The tokens that a model is calibrated on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

TOKENS = 256
# A special token begins each such stretch, as in chats; the first tokens of a sequence have the most unusual keys.
_STRETCH = 32
_LONGEST_TOKEN = 24
_SPACE = "▁"

# Prose, code, figures, lists, other languages: so that few channels stay quiet.
_TEXT = """The river was high that spring, and nobody in the village could remember a year when the water had come so close to the mill.
"It will fall again," said Martha, counting the sacks of flour; "it always does." 12 sacks at $3.50 each made $42.00, 7% less than in 1998.

def mean(values: list[float]) -> float:
    \"\"\"The arithmetic mean; raises ValueError for an empty list.\"\"\"
    if not values:
        raise ValueError("no values")
    return sum(values) / len(values)

Question: Why is the sky blue? Answer: Because air scatters short waves of light more strongly than long ones, so that blue reaches us from
every direction while red passes straight on. Les nuages sont blancs; der Himmel ist blau; el mar es profundo. 天空是蓝色的，云是白色的。

1. Open the valve slowly.  2. Wait until the pressure reaches 2.4 bar.  3. Read the gauge, write the figure down (with its unit!), and
close the valve. {"sensor": "t-07", "value": 21.5, "ok": true} http://example.org/a/b?c=1
"""


def calibration_ids(tokenizer: bytes, vocab_size: int) -> list[int]:
    """TOKENS token ids of a built-in text; `tokenizer` is a tokenizer.json.

    Cut by longest match instead of by the model's merges, which is near enough to what it reads and needs no tokenizer. A vocabulary in
    which the text is not found (neither byte-level BPE nor SentencePiece's) is sampled evenly.
    """
    parsed = json.loads(tokenizer)
    vocab = parsed.get("model", {}).get("vocab")
    vocab = {token: number for token, number in vocab.items() if number < vocab_size} if isinstance(vocab, dict) else {}
    special = [token["id"] for token in parsed.get("added_tokens", []) if token.get("special") and token["id"] < vocab_size]
    words = list(islice(_longest_matches(_TEXT, vocab), TOKENS))
    missing = TOKENS - len(words)
    words += [index * (vocab_size - 1) // max(1, missing - 1) for index in range(missing)]
    return _with_special(words, special)


def _longest_matches(text: str, vocab: Mapping[str, int]) -> Iterator[int]:
    """Of the text as SentencePiece writes it where the vocabulary has its space, else of its bytes as GPT-2's byte-level characters; what
    has no token is passed over."""
    characters = _byte_characters()
    rest = text.replace(" ", _SPACE) if _SPACE in vocab else "".join(characters[byte] for byte in text.encode())
    while rest:
        length = next((size for size in range(min(_LONGEST_TOKEN, len(rest)), 0, -1) if rest[:size] in vocab), 0)
        if length:
            yield vocab[rest[:length]]
        rest = rest[length or 1 :]


def _byte_characters() -> list[str]:
    """GPT-2's printable stand-in for each byte: its own character, or the next from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _with_special(words: Sequence[int], special: Sequence[int]) -> list[int]:
    replaced = list(words)
    for place, token in zip(range(0, len(replaced), _STRETCH), special, strict=False):
        replaced[place] = token
    return replaced
