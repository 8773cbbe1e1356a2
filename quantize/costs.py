"""What a stage costs a device: the figures of device.proto's StageCost, summed over its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protos.dtypes import KV_ITEM_BYTES, KvDtype
from protos.manifest import Cost, Manifest
from quantize.parts import HEAD, find_part


@dataclass(frozen=True)
class StageCost:
    """Field by field what device.proto's StageCost says."""

    weight_bytes: int = 0
    read_bytes: int = 0
    macs_per_row: int = 0
    kv_bytes_per_token: int = 0
    head_read_bytes: int = 0
    head_macs_per_row: int = 0
    attention_macs_per_position: int = 0


def stage_cost(manifest: Manifest, parts: Sequence[str], kv_dtype: KvDtype = "float32") -> StageCost:
    """Summed costs of these parts; raises InvalidInput for a part that the model does not have.

    A tied head counts its matrix again: onnxruntime repacks it for the multiplication, so it is resident beside the embedding.
    """
    body = [find_part(manifest, name).cost for name in parts if name != HEAD]
    heads = [find_part(manifest, name).cost for name in parts if name == HEAD]
    caches = sum(cost.kv_bytes_per_token > 0 for cost in body)
    return StageCost(
        weight_bytes=sum(cost.weight_bytes for cost in [*body, *heads]),
        read_bytes=sum(cost.read_bytes for cost in body),
        macs_per_row=sum(cost.macs for cost in body),
        kv_bytes_per_token=sum(kv_bytes_per_token(cost, kv_dtype) for cost in body),
        head_read_bytes=sum(cost.read_bytes for cost in heads),
        head_macs_per_row=sum(cost.macs for cost in heads),
        # Per row and position: head_dim multiply-accumulates for the score and as many for the value, in each query head.
        attention_macs_per_position=caches * 2 * manifest.config.query_size,
    )


def kv_bytes_per_token(cost: Cost, kv_dtype: KvDtype) -> int:
    """Of one part; the manifest counts fp32."""
    return cost.kv_bytes_per_token * KV_ITEM_BYTES[kv_dtype] // KV_ITEM_BYTES["float32"]
