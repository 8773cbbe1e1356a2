from __future__ import annotations

from collections.abc import Callable

import pytest

from protos.errors import InvalidInput
from quantize.parts import find_part, layer_number, stage_blobs, stage_parts
from tests.quantize.conftest import Imported
from tests.support.checkpoints import TinyGlm

Get = Callable[..., Imported]


def test_layer_number() -> None:
    names = ("layers.0", "layers.12", "layers.", "layers.01", "layers.-1", "layers.٣", "layers", "head", "layers.1.attention")
    assert [layer_number(name) for name in names] == [0, 12, *([None] * 7)]


def test_stage_parts(imported: Get) -> None:
    config = imported(TinyGlm()).manifest.config
    assert stage_parts(config, 0, 2, head=True) == ("embedding", "positions", "layers.0", "layers.1", "head")
    assert stage_parts(config, 2, 3) == ("positions", "layers.2")
    assert stage_parts(config, 0, 0, head=True) == ("embedding", "head")


def test_stage_blobs_names_a_shared_blob_once(imported: Get) -> None:
    manifest = imported(TinyGlm(tied_head=True), rotate=False).manifest
    own = [manifest.part(name).variants[0].blobs[0] for name in ("embedding", "head")]
    assert stage_blobs(manifest, ["embedding", "head"]) == tuple(own)
    assert set(stage_blobs(manifest, ["head"])) == set(own)


def test_an_unknown_part(imported: Get) -> None:
    with pytest.raises(InvalidInput, match=r"no part 'layers\.9'"):
        find_part(imported(TinyGlm()).manifest, "layers.9")
