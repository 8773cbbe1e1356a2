"""A vocabulary of bytes, and answers that are drawn at random from what a grammar allows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from device.grammar import Matcher
from device.vocabulary import Vocabulary
from protos.v1 import pipeline_pb2 as pb

END = 256
# As that of tests.support.checkpoints: token i is byte i, then control tokens of which two are ends here.
BYTES = Vocabulary([*(bytes([byte]) for byte in range(256)), b"<|end|>", b"<|end too|>", *[b""] * 14], [END, END + 1], [END, END + 1])
LARK = '%llguidance {"no_forcing": true}\n'


def lark(schema: Any) -> str:
    """The grammar of a JSON schema of an object, without blanks."""
    return f"{LARK}start: %json {json.dumps({**schema, 'x-guidance': {'whitespace_flexible': False}})}"


def played(matcher: Matcher, seed: int, most: int = 3000, begin: bytes = b"") -> str:
    """An answer behind `begin`, in printable ASCII where that is allowed; ends of texts, and of the answer, are as likely as the rest."""
    random, answer = np.random.default_rng(seed), list(begin)
    while len(answer) < most:
        allowed = np.flatnonzero(matcher.allowed(answer))
        closing = [token for token in allowed if token >= END or token in b'"]}</']
        plain = [token for token in allowed if 32 <= token < 127] or list(allowed)
        token = int(random.choice(closing if closing and random.random() < 0.5 else plain))
        if token >= END:
            return bytes(answer).decode()
        answer.append(token)
    raise AssertionError(f"no end in sight: {bytes(answer[:200])!r}")


def told(vocabulary: Vocabulary = BYTES, size: int = 100) -> list[pb.GenerateRequest]:
    """To a head, in parts of so many tokens."""
    parts = [pb.Vocabulary(first=first, tokens=vocabulary.tokens[first : first + size]) for first in range(0, len(vocabulary.tokens), size)]
    parts[-1].special.extend(vocabulary.special)
    parts[-1].ends.extend(vocabulary.ends)
    return [pb.GenerateRequest(vocabulary=part) for part in parts]
