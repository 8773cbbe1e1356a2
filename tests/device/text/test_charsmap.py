"""Tables of characters that are not what they say are refused by name, wherever they stand; real ones are not."""

from __future__ import annotations

import json
import struct

import pytest

from device.text.charsmap import check_charsmaps
from device.text.model import TextModel
from protos.errors import InvalidInput
from tests.support import tokenizer_files as files
from tests.support.hostile_text import changed, charsmap, with_charsmap

NONE = struct.pack("<I", 0)
LEAF = struct.pack("<I", 1 << 31 | 1)
FAULTS = {
    "it asks for 8 GB": (charsmap(NONE, b"a\0", 0xFFFFFFFC), "its trie is said to take 4294967292 bytes of 10"),
    "it is one word longer than it is": (charsmap(NONE, b"", 8), "its trie is said to take 8 bytes of 8"),
    "half a word": (charsmap(NONE + b"ab", b"a\0"), "its trie is said to take 6 bytes"),
    "nothing": (b"", "its trie is said to take 0 bytes"),
    "no trie": (charsmap(b"", b"a\0"), "its trie is said to take 0 bytes"),
    "texts that are none": (charsmap(NONE, b"\xff\0"), "its texts are not UTF-8"),
    "a leaf behind the texts": (charsmap(LEAF, b"a"), "its trie points behind its texts"),
}


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_table_is_refused_by_name(fault: str, depth: int) -> None:
    table, why = FAULTS[fault]
    with pytest.raises(InvalidInput, match=why) as refused:
        TextModel.load({"tokenizer.json": with_charsmap(table, depth)}, [files.EOS], 10**6)
    assert "precompiled_charsmap" in refused.value.detail
    assert refused.value.advice


@pytest.mark.parametrize("text", ["no base64!", "é"])
def test_a_table_is_base64(text: str) -> None:
    with pytest.raises(InvalidInput, match="it is not base64"):
        check_charsmaps(with_charsmap(text))
    with pytest.raises(InvalidInput, match="it is not base64"):
        check_charsmaps(changed(normalizer={"type": "Precompiled", "precompiled_charsmap": [1]}))


def test_a_key_may_be_escaped() -> None:
    escaped = with_charsmap(charsmap(NONE, b"", 1 << 31)).replace(b"precompiled_charsmap", b"\\u0070recompiled_charsmap")
    with pytest.raises(InvalidInput, match="its trie is said"):
        check_charsmaps(escaped)


def test_normalizers_are_not_nested_without_end() -> None:
    with pytest.raises(InvalidInput, match="nested more than 32 deep"):
        check_charsmaps(with_charsmap(charsmap(LEAF, b"a\0"), 40))


@pytest.mark.parametrize("data", [b"{", b"[]", b"[" * 100_000, b'{"normalizer": null}', json.dumps({"normalizer": [1]}).encode()])
def test_what_else_is_wrong_is_the_librarys_to_say(data: bytes) -> None:
    check_charsmaps(data + b' "precompiled_charsmap"')


def test_a_table_that_is_one_is_used() -> None:
    check_charsmaps(with_charsmap(charsmap(LEAF, b"a\0"), 2))
