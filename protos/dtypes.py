"""Number types that a deployment may choose for its KV cache and for the rows between its stages, and how many bytes they take."""

from __future__ import annotations

from typing import Literal

KvDtype = Literal["float32", "int8"]
WireDtype = Literal["float32", "float16", "int8"]

KV_ITEM_BYTES: dict[KvDtype, int] = {"float32": 4, "int8": 1}
# Elements of a row that share one fp32 scale when it travels as int8; the last block of a row may be shorter.
WIRE_BLOCK = 64


def row_bytes(hidden_size: int, dtype: WireDtype) -> int:
    """Of one hidden row on the wire."""
    if dtype == "int8":
        return hidden_size + 4 * wire_blocks(hidden_size)
    return hidden_size * {"float32": 4, "float16": 2}[dtype]


def wire_blocks(hidden_size: int) -> int:
    """Scales of one row that travels as int8."""
    return -(-hidden_size // WIRE_BLOCK)


def kv_dtype(name: str) -> KvDtype:
    """The type that a message names; "" is float32. Raises ValueError."""
    match name:
        case "" | "float32":
            return "float32"
        case "int8":
            return "int8"
    raise ValueError(f"no type of KV cache: {name!r}")


def wire_dtype(name: str) -> WireDtype:
    """The type that a message names; "" is float32. Raises ValueError."""
    match name:
        case "" | "float32":
            return "float32"
        case "float16":
            return "float16"
        case "int8":
            return "int8"
    raise ValueError(f"no type of rows on the wire: {name!r}")
