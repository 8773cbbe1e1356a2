"""The restricted pickle machine: tensors come out, everything else is refused, and nothing runs."""

from __future__ import annotations

import io
import os
import pickle
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import InvalidInput
from quantize.checkpoints.pickled import MOST_OPCODES, read_pickle, state_dict
from quantize.checkpoints.torch_records import Storage, StoredTensor
from tests.support.torch_files import numbers, state_pickle, tensor, text


def read(data: bytes) -> object:
    return read_pickle(io.BytesIO(data), "x.bin")


def test_a_state_dict_is_names_and_places() -> None:
    value = read(
        state_pickle(
            {
                "a": tensor("0", (3, 4), kind="HalfStorage", items=12),
                "view": tensor("1", (2, 2), items=10, offset=6),
                "one row": tensor("2", (1, 5), items=5, strides=(77, 1)),
                "scalar": tensor("3", (), kind="LongStorage", items=1),
            }
        )
    )
    tensors = state_dict(value, "x.bin")  # type: ignore[arg-type]
    assert tensors == {
        "a": StoredTensor(Storage("0", "F16", 2, 12), 0, (3, 4)),
        "view": StoredTensor(Storage("1", "F32", 4, 10), 6, (2, 2)),
        "one row": StoredTensor(Storage("2", "F32", 4, 5), 0, (1, 5)),
        "scalar": StoredTensor(Storage("3", "I64", 8, 1), 0, ()),
    }


def test_plain_values_of_every_protocol_pass() -> None:
    value: dict[str, object] = {"little_endian": True, "sizes": [2, 1 << 70, -3, 0.5, None, ("a",), ("b", "c"), (1, 2, 3), (1, 2, 3, 4)]}
    for protocol in (2, 3, 4, 5):
        assert read(pickle.dumps(value, protocol)) == value


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/never",)


HOSTILE = {
    "code": (pickle.dumps(_Evil(), 2), "system"),
    "code, another protocol": (pickle.dumps(_Evil(), 5), "system"),
    "a builtin": (b"c__builtin__\neval\n(" + text("1") + b"tR.", "eval"),
    "a name of torch's that is no storage": (b"ctorch\nload\n.", "torch.load"),
    "a dotted name": (b"ctorch\nFloatStorage.__class__\n.", "__class__"),
    "an instance": (b"(ios\nsystem\n.", "INST"),
    "an extension": (b"\x82\x01.", "EXT1"),
    "a class called": (b"ctorch\nFloatStorage\n)R.", "calls"),
    "a tensor beyond its storage": (tensor("0", (4, 4), items=15) + b".", "beyond"),
    "a tensor that starts before it": (tensor("0", (4,), items=15, offset=-1) + b".", "beyond"),
    "an absurd shape": (tensor("0", (1 << 40, 1 << 40), items=1, strides=(1 << 40, 1)) + b".", "beyond"),
    "a dimension past all": (tensor("0", (1 << 60,), items=1) + b".", "no shape"),
    "a transposed tensor": (tensor("0", (3, 4), items=12, strides=(1, 3)) + b".", "C order"),
    "one value repeated": (tensor("0", (1000, 1000), items=1, strides=(0, 0)) + b".", "C order"),
    "a hundred dimensions": (tensor("0", (1,) * 100, items=1) + b".", "torch would not"),
    "no storage": (b"(" + text("storage") + numbers((1, 2)) + b"tQ.", "storage"),
    "a recall of nothing": (b"h\x05.", "recalls"),
    "a pop of nothing": (b"\x85.", "not there"),
    "no mark": (b"t.", "mark"),
    "leftovers": (b"NN.", "left over"),
    "no end": (b"N", "no end"),
    "nothing": (b"", "no end"),
    "no pickle": (b"\xff\xfe\xfd", "unknown"),
    "a text longer than the file": (b"X\xff\xff\xff\x7fabc.", "too long"),
    "keys that are no names": (b"}K\x01K\x02s.", "keys"),
    "a name with an escape": (b"ctorch\nHalf\\zStorage\n.", "none"),
    "a name that doubles as text": (b")" + b"q\x00h\x00\x86" * 64 + text("a") + b"\x93.", "none"),
    "a name that is nested": (b")" + b"\x85" * 5000 + text("a") + b"\x93.", "none"),
    "a frozen set": (b"(\x91.", "FROZENSET"),
    "a pop": (b"N0", "POP"),
}


@pytest.mark.parametrize(("data", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
def test_all_else_is_refused_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as raised:
        read(data)
    assert "\n" not in raised.value.detail
    assert len(raised.value.detail) < 300


BOMBS = {
    "marks": b"(" * 400_000,
    "tuples": b")" + b"\x85" * 400_000,  # a tuple in a tuple in …
    "cycle": b"]q\x00" + b"h\x00a" * 200_000,  # a list that holds itself
    "doubling": b")q\x00" + b"h\x00h\x00\x86q\x00" * 100_000,
    "memo": b"N" + b"r\xff\xff\xff\x7f" * 400_000,
    "text": b"X\x00\x00\xff\x00" + b"a" * 0xFF0000,
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_end(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        read(data)


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_take_memory_in_proportion(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured on a tenth, because measuring is slow."""
    monkeypatch.setattr("quantize.checkpoints.pickled.MOST_OPCODES", MOST_OPCODES // 10)
    tracemalloc.start()
    with suppress(InvalidInput):
        read(data[: len(data) // 10])
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 10 << 20


def test_the_count_of_opcodes_is_bounded() -> None:
    with pytest.raises(InvalidInput, match="too long"):
        read(b"N" * (MOST_OPCODES + 2) + b".")


def test_a_dict_of_other_things_is_no_state_dict() -> None:
    for value in ({}, [], {"a": 1}, {"a": {}}):
        with pytest.raises(InvalidInput):
            state_dict(value, "x.bin")  # type: ignore[arg-type]


_PIECES = [*(bytes([byte]) for byte in b"()]}N\x88t\x85\x86\x87RQaesub\x93\x94"), b"q\x00", b"h\x00", b"K\x01", text("storage"), text("0")]
_PIECES += [b"ccollections\nOrderedDict\n", b"ctorch\nHalfStorage\n", tensor("0", (2,), items=2)]


@given(st.lists(st.one_of(st.sampled_from(_PIECES), st.binary(max_size=6)), max_size=60).map(b"".join))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(InvalidInput):
        read(data + b".")


@given(st.integers(0, 2000), st.integers(0, 255))
def test_a_damaged_byte_is_read_or_refused(index: int, value: int) -> None:
    data = bytearray(state_pickle({"a": tensor("0", (3, 4), items=12), "b": tensor("1", (2,), items=2)}))
    data[index % len(data)] = value
    with suppress(InvalidInput):
        state_dict(read(bytes(data)), "x.bin")  # type: ignore[arg-type]
