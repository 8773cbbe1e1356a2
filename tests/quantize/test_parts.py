from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from protos.errors import InvalidInput
from quantize.parts import find_part, layer_number, layer_parts, stage_blobs, stage_parts
from tests.quantize.conftest import Imported
from tests.support.checkpoints import TinyGlm

Get = Callable[..., Imported]


def test_layer_number() -> None:
    names = ("layers.0", "layers.12", "layers.1.attention", "layers.2.experts.0-15")
    assert [layer_number(name) for name in names] == [0, 12, 1, 2]
    others = ("layers.", "layers.01", "layers.-1", "layers.٣", "layers.1.", "layers..attention", "layers", "head")
    assert [layer_number(name) for name in others] == [None] * 8


def test_stage_parts(imported: Get) -> None:
    manifest = imported(TinyGlm()).manifest
    assert stage_parts(manifest, 0, 2, head=True) == ("embedding", "positions", "layers.0", "layers.1", "head")
    assert stage_parts(manifest, 2, 3) == ("positions", "layers.2")
    assert stage_parts(manifest, 0, 0, head=True) == ("embedding", "head")


def test_a_layer_of_several_parts_goes_whole_and_positions_only_where_there_are_any(imported: Get) -> None:
    manifest = imported(TinyGlm()).manifest
    plain = {part.name: part for part in manifest.parts}
    names = ["embedding", "layers.0", "layers.1.attention", "layers.1.experts.0-15", "layers.1.experts.16-31", "layers.2", "head"]
    mixed = replace(manifest, parts=tuple(replace(plain.get(name, plain["layers.1"]), name=name) for name in names))
    assert layer_parts(mixed, 1) == tuple(names[2:5])
    assert stage_parts(mixed, 1, 3) == tuple(names[2:6])
    assert stage_parts(mixed, 0, 1, head=True) == ("embedding", "layers.0", "head")


def test_stage_blobs_names_a_shared_blob_once(imported: Get) -> None:
    manifest = imported(TinyGlm(tied_head=True), rotate=False).manifest
    own = [manifest.part(name).variants[0].blobs[0] for name in ("embedding", "head")]
    assert stage_blobs(manifest, ["embedding", "head"]) == tuple(own)
    assert set(stage_blobs(manifest, ["head"])) == set(own)


def test_an_unknown_part(imported: Get) -> None:
    with pytest.raises(InvalidInput, match=r"no part 'layers\.9'"):
        find_part(imported(TinyGlm()).manifest, "layers.9")
