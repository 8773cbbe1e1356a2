"""What a device is asked to hold, and what it refuses at once."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest

from device.stage_spec import MESSAGE_ROWS_BYTES, MOST_ADDRESSES, DeploymentGeneration, NextHop, parse_generation, parse_spec
from protos.errors import InvalidInput
from protos.ids import DeviceId
from protos.packing import MOST_BYTES
from protos.v1 import device_pb2 as pb

DIGEST = "ab" * 32


def message() -> pb.LoadStageRequest:
    return pb.LoadStageRequest(
        generation=pb.Generation(deployment="d", number=3),
        pipeline_id="p",
        manifest_digest=DIGEST,
        epoch=2,
        stage=0,
        stages=2,
        parts=["embedding", "layers.0"],
        blobs=[DIGEST],
        shape=pb.StageShape(
            hidden_size=8,
            vocab_size=32,
            first_layer=1,
            stop_layer=4,
            kv_heads=2,
            head_dim=16,
            context=101,
            groups=2,
            slots_per_group=4,
            prefill_chunk=16,
            row_multiple=2,
        ),
        graph=b"graph",
        head_graph=b"head",
        next=pb.Hop(device_id="n", address="127.0.0.1:7"),
        cost=pb.StageCost(weight_bytes=1000, read_bytes=900),
    )


def test_all_addresses_of_the_next_hop_are_taken_in_their_order() -> None:
    several = message()
    several.next.addresses.extend(["127.0.0.1:7", "[fe80::1]:7", *(f"h{n}:1" for n in range(99))])
    hop = parse_spec(several).next
    assert hop is not None
    assert hop.addresses[:3] == ("127.0.0.1:7", "[fe80::1]:7", "h0:1")
    assert len(hop.addresses) == MOST_ADDRESSES
    assert hop.led_by("[fe80::1%eth0]:7").addresses[:2] == ("[fe80::1%eth0]:7", "127.0.0.1:7")
    several.next.addresses.insert(1, "nonsense")
    with pytest.raises(InvalidInput, match="nonsense"):
        parse_spec(several)


def test_a_good_one_is_taken_as_it_is() -> None:
    spec = parse_spec(message())
    assert spec.generation == DeploymentGeneration("d", 3)
    assert spec.next == NextHop(DeviceId("n"), ("127.0.0.1:7",))
    assert spec.is_head
    assert spec == parse_spec(message())
    assert list(spec.shape.layers) == [1, 2, 3]


def test_memory_is_weights_and_the_cache_of_all_slots() -> None:
    spec = parse_spec(message())
    assert spec.shape.capacity == 104
    # Keys and values in fp32: 3 layers x 8 slots x 104 positions x 2 heads x 16.
    assert spec.shape.kv_bytes == 2 * 4 * 3 * 8 * 104 * 2 * 16
    assert spec.memory_bytes == 1000 + spec.shape.kv_bytes


def test_types_default_to_float32_and_an_int8_cache_takes_a_quarter() -> None:
    request, whole = message(), parse_spec(message())
    assert (whole.shape.kv_dtype, whole.shape.wire_dtype) == ("float32", "float32")
    request.shape.kv_dtype, request.shape.wire_dtype = "int8", "float16"
    small = parse_spec(request)
    assert (small.shape.kv_dtype, small.shape.wire_dtype) == ("int8", "float16")
    assert small.shape.kv_bytes * 4 == whole.shape.kv_bytes


@pytest.mark.parametrize(("context", "capacity"), [(100, 102), (101, 104), (1, 4)])
def test_capacity_is_even_and_has_room_for_padding(context: int, capacity: int) -> None:
    request = message()
    request.shape.context = context
    assert parse_spec(request).shape.capacity == capacity


def test_a_release_before_decodes_row_by_row() -> None:
    request = message()
    assert (parse_spec(request).shape.decode, parse_spec(request).shape.attention_slots) == ("rows", 0)
    request.shape.decode, request.shape.attention_slots = "pairs", 2
    assert (parse_spec(request).shape.decode, parse_spec(request).shape.attention_slots) == ("pairs", 2)


def a_tail(request: pb.LoadStageRequest) -> None:
    request.stage = 1


def size_of_zero(field: str) -> Callable[[pb.LoadStageRequest], object]:
    return lambda message: setattr(message.shape, field, 0)


WRONG: dict[str, Callable[[pb.LoadStageRequest], object]] = {
    "deployment and generation": lambda m: m.generation.Clear(),
    "deployment and generation (number)": lambda m: m.generation.ClearField("number"),
    "no pipeline id": lambda m: m.ClearField("pipeline_id"),
    "SHA-256": lambda m: m.blobs.append("../../etc/passwd"),
    "SHA-256 (manifest)": lambda m: setattr(m, "manifest_digest", DIGEST.upper()),
    "stage 2 of 2": lambda m: setattr(m, "stage", 2),
    "no graph": lambda m: m.ClearField("graph"),
    "head graph": lambda m: m.ClearField("head_graph"),
    "head graph (tail)": a_tail,
    "next hop": lambda m: m.ClearField("next"),
    "next hop (alone)": lambda m: setattr(m, "stages", 1),
    "not an address": lambda m: setattr(m.next, "address", "nowhere"),
    "no layers": lambda m: setattr(m.shape, "stop_layer", 1),
    "no layers (backwards)": lambda m: setattr(m.shape, "stop_layer", 0),
    "slots per group": lambda m: setattr(m.shape, "slots_per_group", 3),
    "slots per group (none)": lambda m: setattr(m.shape, "slots_per_group", 0),
    "prefill chunk": lambda m: setattr(m.shape, "prefill_chunk", 15),
    "no type of KV cache": lambda m: setattr(m.shape, "kv_dtype", "int4"),
    "no type of rows": lambda m: setattr(m.shape, "wire_dtype", "float64"),
    "no way to decode": lambda m: setattr(m.shape, "decode", "triples"),
    "decoded row by row": lambda m: m.shape.MergeFrom(pb.StageShape(decode="pairs", prefix_whole=True)),
    "is for runs": lambda m: setattr(m.shape, "attention_slots", 2),
    "no more than there are": lambda m: m.shape.MergeFrom(pb.StageShape(decode="pairs", attention_slots=9)),
    "multiple": lambda m: setattr(m.shape, "row_multiple", 3),
    "bytes": lambda m: setattr(m.shape, "prefill_chunk", MESSAGE_ROWS_BYTES // 32 + 2),
    "bytes (slots)": lambda m: setattr(m.shape, "slots_per_group", MESSAGE_ROWS_BYTES // 32 + 2),
    **{
        f"a size is zero ({name})": size_of_zero(name)
        for name in ("hidden_size", "vocab_size", "kv_heads", "head_dim", "context", "groups", "prefill_chunk")
    },
}


@pytest.mark.parametrize("fault", WRONG)
def test_contradictions_are_refused(fault: str) -> None:
    request = message()
    WRONG[fault](request)
    with pytest.raises(InvalidInput, match=fault.partition(" (")[0]) as refused:
        parse_spec(request)
    assert "\n" not in refused.value.detail


def test_a_generation_has_a_name_and_a_number() -> None:
    assert parse_generation(pb.Generation(deployment="d", number=1)) == DeploymentGeneration("d", 1)
    with pytest.raises(InvalidInput):
        parse_generation(pb.Generation(number=1))


def test_what_one_message_holds_compressed_is_bounded_together() -> None:
    """Each half of it is within the bound, both are not."""
    asked = message()
    half = zlib.compress(bytes((MOST_BYTES >> 1) + 1))
    asked.ClearField("graph")
    asked.graph_zlib = half
    assert len(parse_spec(asked).graph) == (MOST_BYTES >> 1) + 1
    asked.golden.layers_graph_zlib = half
    with pytest.raises(InvalidInput, match="too large"):
        parse_spec(asked)
