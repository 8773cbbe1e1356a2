"""ONNX stage graphs for any list of parts: no weights inside, initializers point into the blobs as external data.

A graph with "embedding" takes `input_ids` int64 [batch, sequence], one without takes `hidden_in` float32 [batch, sequence, H].
With layers it also takes `seqlens_k` int32 [batch] (length after this step, minus 1) and `total_sequence_length` int32 [1] (the
longest length after this step); for each layer i of the model it takes `past_key.i` and `past_value.i`, float32 or int8
[batch, kv_heads, capacity, head_dim], and gives `present_key.i` and `present_value.i`, to be bound to the same memory.
With `slots` the batch is 1 and its sequence the rows of all slots, one slot after the other, `row_total` int64 [1] in all: `row_counts`
int64 [slots] has how many of each; slots without rows come last, and have 1 each, which `row_pads` int64 [6] adds (as Pad takes it). The
lengths are of each slot, and caches have names with the slot behind, `past_key.i.s`, each [1, kv_heads, its capacity, head_dim].
It gives `hidden_out` float32 [batch, sequence, H], the residual stream: a cut anywhere leaves the result the same to the bit.
The graph of ["head"] takes `hidden_in` float32 [rows, H] and gives `logits` float32 [rows, V]; that of its norm alone `normed` [rows, H].

Load the bytes with onnxruntime's session option `session.model_external_initializers_file_folder_path` set to the blob folder.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto

from protos.dtypes import KvDtype
from protos.errors import InvalidInput
from protos.manifest import Manifest
from quantize.architectures.registry import architecture_of
from quantize.layers.graph_builder import GraphBuilder
from quantize.layers.onnx_nodes import Residual, add_block, add_layer
from quantize.layers.operators import Block, Linear
from quantize.parts import EMBEDDING, HEAD, KV_SCALES, find_part, layer_number, layer_part, layer_parts, stage_parts


def build_stage_graph(
    manifest: Manifest,
    parts: Sequence[str],
    *,
    accuracy_level: int = 4,
    kv_dtype: KvDtype = "float32",
    layer_outputs: bool = False,
    slots: int = 0,
) -> bytes:
    """A serialized ONNX model for these parts; its inputs and outputs are told at the top of this module.

        >>> graph = build_stage_graph(manifest, stage_parts(manifest, 1, 3), kv_dtype="int8")
        >>> [value.name for value in onnx.load_model_from_string(graph).graph.input][:5]
        ['hidden_in', 'seqlens_k', 'total_sequence_length', 'past_key.1', 'past_value.1']

    parts: exactly ["head"], or embedding and consecutive layers in any order, each whole, with "positions" when there are layers (and the
        model has them).
    accuracy_level: MatMulNBits': 4 computes in int8 (activations quantized per row and block), 0 keeps activations in fp32. Matrices that
        are stored as float32 are multiplied in it.
    kv_dtype: of the caches, the int8 ones with a scale for each channel.
    layer_outputs: the stream [batch, sequence, H] after each layer i is an output, "layers.i.out", too.
    slots: not 0 for a graph that runs rows of so many slots at once; of models that `has_slots`.

    The same arguments give the same bytes. Raises InvalidInput for a list that is no stage of this model, and as `check_kv_dtype`.
    """
    check_kv_dtype(manifest, kv_dtype)
    architecture = architecture_of(manifest.config)
    builder = GraphBuilder(manifest, accuracy_level, kv_dtype, slots)
    config, hidden_size = manifest.config, manifest.config.hidden_size
    if list(parts) == [HEAD]:
        builder.add_input("hidden_in", TensorProto.FLOAT, ["rows", hidden_size])
        head = architecture.head(config)
        add_block(builder, HEAD, head, "hidden_in", {head.output: "logits"})
        builder.add_output("logits", TensorProto.FLOAT, ["rows", config.vocab_size])
        return builder.serialize("head")

    layers = _layers(manifest, parts)
    if EMBEDDING in parts:
        builder.add_input("input_ids", TensorProto.INT64, ["batch", "sequence"])
        hidden = add_block(builder, EMBEDDING, architecture.embedding(config), "input_ids")
    else:
        builder.add_input("hidden_in", TensorProto.FLOAT, ["batch", "sequence", hidden_size])
        hidden = "hidden_in"
    if layers:
        builder.add_input("seqlens_k", TensorProto.INT32, [slots or "batch"])
        builder.add_input("total_sequence_length", TensorProto.INT32, [slots or 1])
        if slots:
            builder.add_input("row_counts", TensorProto.INT64, [slots])
            builder.add_input("row_pads", TensorProto.INT64, [6])
            builder.add_input("row_total", TensorProto.INT64, [1])
        residual = Residual.begin(builder, hidden)
        for layer in layers:
            residual = add_layer(builder, layer_part(layer), architecture.layer(config, layer), residual)
            if layer_outputs:
                builder.add_node("Add", [residual.stream, residual.branch], [f"layers.{layer}.out"])
                builder.add_output(f"layers.{layer}.out", TensorProto.FLOAT, ["batch", "sequence", hidden_size])
        builder.add_node("Add", [residual.stream, residual.branch], ["hidden_out"])
    else:
        builder.add_node("Identity", [hidden], ["hidden_out"])
    builder.add_output("hidden_out", TensorProto.FLOAT, ["batch", "sequence", hidden_size])
    return builder.serialize("stage")


def build_norm_graph(manifest: Manifest) -> bytes:
    """A serialized ONNX model of the head's part before its matrix: what the last layer gives, normed, as embeddings take it."""
    builder, hidden_size = GraphBuilder(manifest, 4, "float32"), manifest.config.hidden_size
    head = architecture_of(manifest.config).head(manifest.config)
    *before, last = head.operators
    assert isinstance(last, Linear), "a head ends in its matrix"
    builder.add_input("hidden_in", TensorProto.FLOAT, ["rows", hidden_size])
    add_block(builder, HEAD, Block(tuple(before), last.input), "hidden_in", {last.input: "normed"})
    builder.add_output("normed", TensorProto.FLOAT, ["rows", hidden_size])
    return builder.serialize("norm")


def check_kv_dtype(manifest: Manifest, kv_dtype: KvDtype) -> None:
    """Raises InvalidInput when this artifact cannot run with such a cache: it was made before scales for int8 were, or fills blanks."""
    if kv_dtype == "int8" and manifest.config.prefix_whole:  # 0.9 rms in the logits of the tiny one, of which int8 weights make 0.16
        raise InvalidInput("an int8 KV cache costs this model too much", advice="deploy it without --kv int8")
    stored = {tensor.name for tensor in find_part(manifest, layer_parts(manifest, 0)[0]).variants[0].tensors}
    if kv_dtype == "int8" and not stored.issuperset(KV_SCALES):
        raise InvalidInput(
            "this artifact has no scales for an int8 KV cache", advice="import or pull the model again, or deploy it without --kv int8"
        )


def _layers(manifest: Manifest, parts: Sequence[str]) -> range:
    """The consecutive layers among parts that make a stage."""
    if not parts or len(set(parts)) != len(parts):
        raise InvalidInput(f"no stage: {_brief(parts)}", advice="name each part once")
    if HEAD in parts:
        raise InvalidInput(f"no stage: {_brief(parts)}", advice="the head is a graph of its own")
    for part in parts:
        find_part(manifest, part)
    numbers = sorted({number for part in parts if (number := layer_number(part)) is not None})
    layers = range(numbers[0], numbers[-1] + 1) if numbers else range(0)
    wanted = (*((EMBEDDING,) if EMBEDDING in parts else ()), *stage_parts(manifest, layers.start, layers.stop))
    if set(parts) != set(wanted) or (not layers and EMBEDDING not in parts):
        raise InvalidInput(
            f"no stage: {_brief(parts)}",
            advice="a stage is the embedding, consecutive whole layers with 'positions', or both",
        )
    return layers


def _brief(parts: Sequence[str]) -> str:
    return ", ".join(parts)[:120] or "no parts"
