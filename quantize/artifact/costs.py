"""What a stage costs a device: the figures of device.proto's StageCost, summed over its parts."""

from __future__ import annotations

from collections.abc import Sequence

from protos.dtypes import KV_ITEM_BYTES, KvDtype
from protos.manifest import Cost, Manifest, ModelConfig
from protos.physics.costs import StageCost
from quantize.layers.onnx_attention import ATTENTION_PADDING, GRAPH_PADDING, is_lengthened
from quantize.parts import EMBEDDING, HEAD, POSITIONS, find_part

# Nodes of the stage graphs of GlmForCausalLM, taken for every family, which differ by a few: of a layer, beside the layers (a stage with
# layers has "positions"), of the embedding, of the output head.
LAYER_OPERATORS, STAGE_OPERATORS, EMBEDDING_OPERATORS, HEAD_OPERATORS = 10, 3, 1, 2
# More where attention is over a latent: of a layer, besides two of each query head and two where queries have a latent too; of a stage.
_LATENT_OPERATORS, _TURNING_OPERATORS = 10, 8


def stage_cost(manifest: Manifest, parts: Sequence[str], kv_dtype: KvDtype = "float32") -> StageCost:
    """What these parts cost the device that holds them: bytes, and counts for one row (a token of a sequence) of a step.

        >>> cost = stage_cost(manifest, stage_parts(manifest, 1, 3), "int8")
        >>> cost.kv_bytes_per_token  # 2 layers, keys and values of 2 heads x 16, a byte each
        128

    `parts` may be any, in any order; sums over disjoint lists add up. A tied head counts its matrix again: onnxruntime repacks it for the
    multiplication, so it is resident beside the embedding. A row reads of experts the share that it is routed to on average.
    Raises InvalidInput for a part that the model does not have.
    """
    layers = [find_part(manifest, name).cost for name in parts if name not in (EMBEDDING, POSITIONS, HEAD)]
    gathered = [find_part(manifest, name).cost for name in parts if name in (EMBEDDING, POSITIONS)]
    heads = [find_part(manifest, name).cost for name in parts if name == HEAD]
    caches = sum(cost.kv_bytes_per_token > 0 for cost in layers)
    return StageCost(
        weight_bytes=sum(cost.weight_bytes for cost in [*layers, *gathered, *heads]),
        read_bytes=sum(cost.read_bytes for cost in layers),
        macs_per_row=sum(cost.macs for cost in layers),
        kv_bytes_per_token=sum(kv_bytes_per_token(cost, kv_dtype) for cost in layers),
        head_read_bytes=sum(cost.read_bytes for cost in heads),
        head_macs_per_row=sum(cost.macs for cost in heads),
        # Per row and position: head_dim multiply-accumulates for the score and as many for the value, in each query head.
        attention_macs_per_position=caches * 2 * manifest.config.query_size,
        embedding_bytes_per_row=sum(cost.read_bytes for cost in gathered),
        activation_bytes_per_row=4 * (caches * _layer_elements(manifest.config) + (EMBEDDING in parts) * manifest.config.hidden_size),
        operators=caches * _layer_operators(manifest.config, kv_dtype)
        + (POSITIONS in parts) * _stage_operators(manifest.config, kv_dtype)
        + (EMBEDDING in parts) * EMBEDDING_OPERATORS,
        head_activation_bytes_per_row=4 * len(heads) * (3 * manifest.config.hidden_size + manifest.config.vocab_size),
        head_operators=len(heads) * HEAD_OPERATORS,
    )


def kv_bytes_per_token(cost: Cost, kv_dtype: KvDtype) -> int:
    """Of one part; the manifest counts fp32."""
    return cost.kv_bytes_per_token * KV_ITEM_BYTES[kv_dtype] // KV_ITEM_BYTES["float32"]


def _layer_operators(config: ModelConfig, kv_dtype: KvDtype) -> int:
    latent = config.latent
    more = _LATENT_OPERATORS + 2 * config.heads + 2 * (latent.query_rank > 0) if latent else 0
    return LAYER_OPERATORS + more + has_whole_scores(config, kv_dtype) * ATTENTION_PADDING


def _stage_operators(config: ModelConfig, kv_dtype: KvDtype) -> int:
    return STAGE_OPERATORS + (_TURNING_OPERATORS if config.latent else 0) + has_whole_scores(config, kv_dtype) * GRAPH_PADDING


def has_whole_scores(config: ModelConfig, kv_dtype: KvDtype) -> bool:
    """Whether attention keeps a run's scores of all the cache's positions at once, and copies of what goes in and comes out."""
    return is_lengthened(config.head_dim, kv_dtype, causal=not config.prefix_whole)


def _layer_elements(config: ModelConfig) -> int:
    """Of one row, read and written by the ten operators of a layer of GlmForCausalLM, taken for every family: the norms 4 H each, the
    matrices their inputs and outputs, attention what it is given and gives, the three of SwiGLU theirs."""
    hidden, query, key, wide = config.hidden_size, config.query_size, config.kv_size, config.intermediate_size
    norms = 2 * 4 * hidden
    projections = _latent_elements(config) if config.latent else (hidden + query + 2 * key) + (query + hidden)
    mlp = (hidden + 2 * wide) + (wide + hidden)
    attention = 2 * query + 2 * key
    swiglu = (2 * wide + 2 * wide) + 2 * wide + 3 * wide
    return norms + projections + mlp + attention + swiglu


def _latent_elements(config: ModelConfig) -> int:
    """From the normed stream to what attention is given, and from what it gives to the stream: each matrix, cut, join, norm and turn."""
    latent, hidden, query, key = config.latent, config.hidden_size, config.query_size, config.kv_size
    assert latent is not None
    queries, values, rank = config.heads * (latent.key_dim + config.rotary_dim), config.heads * latent.value_dim, latent.query_rank
    asked = (hidden + rank) + 2 * rank + (rank + queries) if rank else hidden + queries
    heads = 2 * queries + config.heads * (latent.key_dim + latent.rank) + 2 * query + 2 * query
    cached = (hidden + key) + 2 * key + 2 * latent.rank + 2 * key + 2 * key
    given = 2 * query + config.heads * (latent.rank + latent.value_dim) + 2 * values + (values + hidden)
    return asked + heads + cached + given
