"""GLM-4's tiktoken ranks as a tokenizer.json: the same ids as the tiktoken package."""

from __future__ import annotations

import base64
import random
import string
from collections import Counter
from itertools import pairwise

import pytest
import tiktoken
import tokenizers

from device.text.bytelevel import byte_alphabet
from protos.errors import InvalidInput
from quantize.checkpoints.bpe import CL100K, byte_characters
from quantize.checkpoints.tiktoken_file import tokenizer_of_ranks

SPECIAL = ("<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|observation|>")
TRAINING = (
    "the cat sat on the mat, that's what they'd say; naïve café 漢字漢字 emoji 🙂🙂 1234 12 3\n\n  indented\tcode() { return x; }\r\n"
)


def trained_ranks(text: str, count: int) -> dict[bytes, int]:
    """Byte pair encoding learnt from the text: a vocabulary with the overlaps of real ones."""
    ranks = {bytes([byte]): byte for byte in random.Random(1).sample(range(256), 256)}
    ranks = {token: number for number, token in enumerate(ranks)}
    words = [[bytes([byte]) for byte in word.encode()] for word in text.replace(" ", "| ").split("|")] * 2
    while len(ranks) < count:
        pairs = Counter(pair for word in words for pair in pairwise(word))
        if not pairs:
            break
        (left, right), _ = max(pairs.items(), key=lambda entry: (entry[1], entry[0]))
        ranks.setdefault(left + right, len(ranks))
        for number, word in enumerate(words):
            joined: list[bytes] = []
            for piece in word:
                if joined and (joined[-1], piece) == (left, right):
                    joined[-1] += piece
                else:
                    joined.append(piece)
            words[number] = joined
    return ranks


RANKS = trained_ranks(TRAINING, 380)


def model_file(ranks: dict[bytes, int]) -> bytes:
    return b"".join(base64.b64encode(token) + f" {rank}\n".encode() for token, rank in ranks.items())


def settings(ranks: dict[bytes, int]) -> dict[str, object]:
    return {"added_tokens_decoder": {str(len(ranks) + n): {"content": text, "special": True} for n, text in enumerate(SPECIAL)}}


@pytest.fixture(scope="module")
def ours() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(tokenizer_of_ranks(model_file(RANKS), settings(RANKS)).decode())


@pytest.fixture(scope="module")
def theirs() -> tiktoken.Encoding:
    special = {text: len(RANKS) + number for number, text in enumerate(SPECIAL)}
    return tiktoken.Encoding("glm4", pat_str=CL100K, mergeable_ranks=RANKS, special_tokens=special)


def test_ids_are_tiktokens(ours: tokenizers.Tokenizer, theirs: tiktoken.Encoding) -> None:
    chance = random.Random(0)
    words = [*TRAINING.split(" "), "aaaaaaa", "thethethe", "  ", "\n\n", "漢字漢", "🙂", "don't", "WE'LL", "12345678", "x" * 40, "é́"]
    alphabet = string.ascii_letters + string.digits + " \n\t.,'-漢字é🙂ßЖ\u200b"
    texts = [" ".join(chance.choices(words, k=12)) for _ in range(200)]
    texts += ["".join(chance.choices(alphabet, k=30)) for _ in range(200)]
    texts += ["".join(chance.choices("theas ", k=40)) for _ in range(300)]
    for text in texts:
        ids = ours.encode(text, add_special_tokens=False).ids
        assert ids == theirs.encode(text, disallowed_special=()), repr(text)
        assert ours.decode(ids) == text


def test_special_tokens(ours: tokenizers.Tokenizer, theirs: tiktoken.Encoding) -> None:
    chat = "[gMASK]<sop><|user|>\nthat cat<|endoftext|>"
    ids = ours.encode(chat, add_special_tokens=False).ids
    assert ids == theirs.encode(chat, allowed_special="all")
    assert ours.decode(ids) == "\nthat cat"


def test_a_raw_prompt_gets_the_prefix(ours: tokenizers.Tokenizer) -> None:
    assert ours.encode("the").tokens[:2] == ["[gMASK]", "<sop>"]
    assert ours.encode("the").ids[2:] == ours.encode("the", add_special_tokens=False).ids


def test_without_both_prefix_tokens_there_is_none() -> None:
    listed = {"added_tokens_decoder": {str(len(RANKS)): {"content": "<|endoftext|>"}}}
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_of_ranks(model_file(RANKS), listed).decode())
    assert tokenizer.encode("the").ids == tokenizer.encode("the", add_special_tokens=False).ids


def test_the_alphabet_is_the_one_that_is_read_back() -> None:
    assert {character: byte for byte, character in enumerate(byte_characters())} == byte_alphabet()


BYTES = {bytes([byte]): byte for byte in range(256)}


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00", "is no base64 token and its rank"),
        (b"IQ== one\n", "is no base64 token and its rank"),
        (b"IQ== 1\n", "line 1 is empty, out of order"),
        (b"IQ== 0\nIQ== 1\n", "line 2 is empty, out of order or repeated"),
        (b"IQ== " + b"9" * 5000 + b"\n", "is no base64 token and its rank"),
        (b"IQ== 0\n", "a byte has no token"),
        (model_file(BYTES) + base64.b64encode(b"x" * 600) + b" 256\n", "line 257"),
    ],
)
def test_what_is_no_such_file(data: bytes, what: str) -> None:
    with pytest.raises(InvalidInput, match=what) as caught:
        tokenizer_of_ranks(data, settings(RANKS))
    assert caught.value.advice


@pytest.mark.parametrize(
    "listed",
    [
        None,
        {},
        [],
        {"x": {"content": "a"}},
        {"3": {"content": "a"}},
        {"999": "a"},
        {"999": {"content": ""}},
        {"9" * 30: {"content": "a"}},
        {"9" * 5000: {"content": "a"}},
    ],
)
def test_special_tokens_that_cannot_be(listed: object) -> None:
    with pytest.raises(InvalidInput, match="tokenizer_config"):
        tokenizer_of_ranks(model_file(RANKS), {"added_tokens_decoder": listed})
