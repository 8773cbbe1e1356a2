"""The byte alphabet, against the library's own."""

from __future__ import annotations

import json

from tokenizers import decoders, pre_tokenizers

from device.text.bytelevel import ByteTable, byte_alphabet, is_byte_level, token_bytes
from tests.support import tokenizer_files as files


def test_the_alphabet_is_the_librarys() -> None:
    assert sorted(byte_alphabet()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))
    for character, byte in byte_alphabet().items():
        if byte < 128:
            assert decoders.ByteLevel().decode([character]) == chr(byte)


def test_a_token_outside_the_alphabet_is_its_own_text() -> None:
    assert token_bytes("Ġw") == b" w"
    assert token_bytes("<a b>") == b"<a b>"
    assert token_bytes("中") == "中".encode()
    assert decoders.ByteLevel().decode(["Ġw", "<a b>", "中"]) == " w<a b>中"


def test_which_decoders_are_byte_level() -> None:
    byte_level = json.loads(files.byte_level())["decoder"]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    assert is_byte_level(byte_level)
    assert is_byte_level({"type": "Sequence", "decoders": [byte_level]})
    assert not is_byte_level({"type": "Sequence", "decoders": [byte_level, strip]})
    assert not is_byte_level(json.loads(files.sentence_piece())["decoder"])
    assert not is_byte_level({})


def test_unknown_ids_are_no_bytes_and_are_not_remembered() -> None:
    table = ByteTable({files.BOS: "<s>", files.THINK: "<a thought>"}, frozenset({files.BOS}))
    assert [table.of(number) for number in (-1, 10**6, 2**40, files.BOS)] == [b""] * 4
    assert table.of(files.THINK) == b"<a thought>"
    assert len(table._known) == 2
