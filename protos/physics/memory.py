"""How much of a device's memory the KV cache of a stage takes, all of which is reserved when the stage is loaded."""

from __future__ import annotations

from protos.dtypes import KV_ITEM_BYTES, KvDtype
from protos.even import even_up


def cache_capacity(context: int) -> int:
    """Positions that the cache of one slot has room for, so that a sequence may take `context`."""
    # Padding writes one position past a full sequence, and runs are even.
    return even_up(context) + 2


def cache_positions(context: int, groups: int, slots_per_group: int) -> int:
    """Of all slots of all groups together, in each layer."""
    return cache_capacity(context) * groups * slots_per_group


def kv_position_bytes(kv_heads: int, head_dim: int, dtype: KvDtype, values_are_keys: bool = False) -> int:
    """Bytes of one position in one layer: a key and a value of `head_dim` elements in each KV head, or one vector that is both.

    >>> kv_position_bytes(2, 128, "int8")
    512
    """
    return (1 if values_are_keys else 2) * kv_heads * head_dim * KV_ITEM_BYTES[dtype]
