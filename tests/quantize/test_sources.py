from __future__ import annotations

import numpy as np
import pytest

from protos.manifest import ModelConfig
from quantize.blocks import Floats
from quantize.checkpoints.checkpoint import tensor_shapes
from quantize.sources import FileNames, Rows, SourceTensor, read_rows, sources_of

_CONFIG = ModelConfig("GlmForCausalLM", 8, 2, 2, 1, 16, 10, 20, 1e-5, 1e4, 16, False, True, 64, ())
_INNER = {
    "input_norm": ("n1",),
    "qkv.weight": ("q", "k", "v"),
    "o.weight": ("o",),
    "post_norm": ("n2",),
    "gate_up.weight": ("gate", "up"),
    "down.weight": ("down",),
}


def test_every_neutral_tensor_has_its_sources() -> None:
    sources = sources_of(
        _CONFIG,
        tensor_shapes(_CONFIG),
        FileNames({"embedding.weight": "E", "head.norm": "N", "head.weight": "H"}, "layer{}/", _INNER),
    )
    assert list(sources) == list(tensor_shapes(_CONFIG))
    assert "head.weight" not in sources  # tied
    assert sources["layers.1.qkv.weight"] == (
        SourceTensor("layer1/q", (32, 8)),
        SourceTensor("layer1/k", (16, 8)),
        SourceTensor("layer1/v", (16, 8)),
    )
    assert sources["layers.0.gate_up.weight"] == (SourceTensor("layer0/gate", (10, 8)), SourceTensor("layer0/up", (10, 8)))
    for name, parts in sources.items():
        assert sum(part.shape[0] for part in parts) == tensor_shapes(_CONFIG)[name][0]


@pytest.mark.parametrize("start", range(9))
def test_any_rows_of_several_tensors(start: int) -> None:
    values = {name: np.full((rows, 2), at, np.float32) for at, (name, rows) in enumerate((("a", 3), ("b", 1), ("c", 5)))}
    whole = np.concatenate(list(values.values()))
    parts = tuple(SourceTensor(name, array.shape) for name, array in values.items())
    asked: list[tuple[str, int, int]] = []

    def read(name: str, low: int, high: int) -> Floats:
        asked.append((name, low, high))
        return values[name][low:high]

    for stop in range(start + 1, 10):
        asked.clear()
        assert np.array_equal(read_rows(parts, start, stop, read), whole[start:stop])
        assert sum(high - low for _, low, high in asked) == stop - start  # nothing is read in vain


def test_a_tensor_within_another() -> None:
    """Rows 4 to 9 of the file's, as they are and as columns."""
    file = np.arange(40, dtype=np.float32).reshape(10, 4)
    names = FileNames({}, "layer{}/", {"down.weight": (Rows("all", (10, 4), 4),), "o.weight": (Rows("all", (10, 4), 4, transposed=True),)})
    shapes = {"layers.1.down.weight": (5, 4), "layers.1.o.weight": (4, 5)}
    sources = sources_of(_CONFIG, shapes, names)
    assert {source.stored_shape for parts in sources.values() for source in parts} == {(10, 4)}
    for name, whole in (("layers.1.down.weight", file[4:9]), ("layers.1.o.weight", file[4:9].T)):
        for start, stop in ((0, len(whole)), (1, 3)):
            found = read_rows(sources[name], start, stop, lambda _, low, high: file[low:high])
            assert np.array_equal(found, whole[start:stop])
            assert found.flags.c_contiguous
