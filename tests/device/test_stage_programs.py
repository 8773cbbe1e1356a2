"""Which programs a stage consists of, as a coordinator tells it: what contradicts itself or the stage is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from device.stage_programs import StagePrograms, StoredTensor, parse_programs
from device.stage_spec import parse_spec
from protos.errors import InvalidInput
from protos.ids import digest_of
from protos.v1 import chip_pb2 as pb
from tests.support.stage_specs import TinyStages

LAYERS, HEAD, WEIGHTS = (digest_of(name) for name in (b"layers", b"head", b"weights"))
BLOBS = (LAYERS, HEAD, WEIGHTS)


def message() -> pb.StagePrograms:
    tensor = pb.StoredTensor(region="layers.0/qkv.weight", blob=WEIGHTS, offset=64, size_bytes=32)
    return pb.StagePrograms(layers=[LAYERS], head=HEAD, weights=[tensor])


def test_what_is_told_is_what_is_held() -> None:
    found = parse_programs(message(), BLOBS, is_head=True)
    assert found == StagePrograms((LAYERS,), HEAD, (StoredTensor("layers.0/qkv.weight", WEIGHTS, 64, 32),))
    assert found.files == {LAYERS, HEAD}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: m.ClearField("layers"), "a stage of 0 programs"),
        (lambda m: m.layers.extend([LAYERS] * 64), "a stage of 65 programs"),
        (lambda m: m.ClearField("head"), "have an output head where the stage has none, or the other way round"),
        (lambda m: m.layers.append("no digest"), "not a SHA-256 digest"),
        (lambda m: m.layers.append(digest_of(b"another")), "lie in blobs that the stage does not have"),
        (lambda m: setattr(m.weights[0], "blob", digest_of(b"another")), "lie in blobs that the stage does not have"),
    ],
)
def test_a_message_that_contradicts_itself_is_refused(change: Callable[[pb.StagePrograms], object], why: str) -> None:
    spoilt = message()
    change(spoilt)
    with pytest.raises(InvalidInput, match=why):
        parse_programs(spoilt, BLOBS, is_head=True)


def test_a_stage_has_graphs_or_programs(tmp_path: Path) -> None:
    (request,) = TinyStages.make(tmp_path).requests()
    request.programs.CopyFrom(message())
    request.blobs.extend(BLOBS)
    with pytest.raises(InvalidInput, match="neither a graph nor programs, or both"):
        parse_spec(request)
    request.ClearField("graph")
    request.ClearField("head_graph")
    assert parse_spec(request).programs
    request.ClearField("programs")
    with pytest.raises(InvalidInput, match="neither a graph nor programs"):
        parse_spec(request)
