"""What a stage costs a device: bytes, multiply-accumulates and operators, summed over its parts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StageCost:
    """Field by field as device.proto's StageCost, which says what each counts. `*_bytes*` are bytes, `*macs*` multiply-accumulates."""

    weight_bytes: int = 0
    read_bytes: int = 0
    macs_per_row: int = 0
    kv_bytes_per_token: int = 0
    head_read_bytes: int = 0
    head_macs_per_row: int = 0
    attention_macs_per_position: int = 0
    embedding_bytes_per_row: int = 0
    activation_bytes_per_row: int = 0
    operators: int = 0
    head_activation_bytes_per_row: int = 0
    head_operators: int = 0
