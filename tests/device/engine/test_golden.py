"""The check before serving: right stages pass it at every cut, with room to spare; silent corruption does not, and the layer is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from device.engine import golden as golden_module
from device.engine.golden import _added, check_stage, deviation
from device.engine.opening import open_stage
from device.engine.stage import StageEngine
from device.stage_spec import Golden, StageSpec, parse_spec
from protos.dtypes import KvDtype
from protos.errors import Corrupt, InvalidInput
from protos.manifest import Manifest
from protos.v1 import device_pb2
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.huggingface import open_huggingface
from quantize.importing.importer import import_model
from tests.support.blanks import blank_model
from tests.support.checkpoints import TinyGlm, random_tensors, write_checkpoint, write_tensors
from tests.support.corruption import flip_bit
from tests.support.ring import load_requests, tiny_model

SHAPE = TinyGlm(layers=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, ArtifactStore]:
    return tiny_model(tmp_path_factory.mktemp("model"), SHAPE)


def requests(manifest: Manifest, store: ArtifactStore, stages: int, **shape: object) -> list[device_pb2.LoadStageRequest]:
    hops = [device_pb2.Hop(device_id=f"device{index + 2:a>10}", address=f"127.0.0.1:{index + 1}") for index in range(stages)]
    return load_requests(manifest, hops, golden_from=store.blob_folder, **shape)  # type: ignore[arg-type]


def specs(manifest: Manifest, store: ArtifactStore, stages: int, **shape: object) -> list[StageSpec]:
    return [parse_spec(request) for request in requests(manifest, store, stages, **shape)]


def half(golden: Golden) -> Golden:
    """What allows half of the rounding."""
    return dataclasses.replace(golden, tolerance=golden.tolerance / 2, head_tolerance=golden.head_tolerance / 2)


@pytest.mark.parametrize("kv_dtype", ["float32", "int8"])
@pytest.mark.parametrize("stages", [1, 2, 4])
def test_right_stages_pass_with_room_to_spare_and_keep_nothing(
    model: tuple[Manifest, ArtifactStore], stages: int, kv_dtype: KvDtype
) -> None:
    manifest, store = model
    for spec in specs(manifest, store, stages, kv_dtype=kv_dtype):
        assert spec.golden is not None
        strict = dataclasses.replace(spec, golden=half(spec.golden))
        engine, _ = open_stage(strict, store.blob_folder, 1, None)
        assert engine.groups[0].lengths == [0] * spec.shape.slots_per_group
        # A first row goes where it would have gone without the check.
        rows = np.arange(2) if spec.is_head else np.ones((2, SHAPE.hidden_size), np.float32)
        fresh = StageEngine(spec, store.blob_folder, 1)
        assert np.array_equal(engine.prefill(0, 0, 0, rows), fresh.prefill(0, 0, 0, rows))


@pytest.mark.parametrize("block_size", [pytest.param(32, marks=pytest.mark.long), 128])
@pytest.mark.parametrize(
    "shape", [TinyGlm(), TinyGlm(hidden_size=128, intermediate_size=256, head_dim=32), TinyGlm(tied_head=True)], ids=str
)
def test_other_shapes_and_blocks(tmp_path: Path, shape: TinyGlm, block_size: int) -> None:
    manifest, store = tiny_model(tmp_path, shape, block_size)
    for stages in (1, 3):
        for spec in specs(manifest, store, stages):
            assert spec.golden is not None
            open_stage(spec, store.blob_folder, 1, None)


@pytest.mark.parametrize("block_size", [32, 128])
def test_a_model_that_fills_blanks_is_checked_too(tmp_path: Path, block_size: int) -> None:
    manifest, store = blank_model(tmp_path, block_size=block_size)
    for stages in (1, 3):
        for spec in specs(manifest, store, stages):
            assert spec.golden is not None
            open_stage(dataclasses.replace(spec, golden=half(spec.golden)), store.blob_folder, 1, None)
    bad = flip_bit(store, manifest, "layers.1", "o.scales", element=5, bit=30)
    for stages in (1, 3):
        (holder,) = (spec for spec in specs(bad, store, stages) if 1 in spec.shape.layers)
        with pytest.raises(Corrupt, match=r"^layer 1 of layers"):
            open_stage(holder, store.blob_folder, 1, None)
    # Each row of a prefix depends on all: fewer of them are none that are known.
    assert all(spec.golden is None for spec in specs(manifest, store, 2, context=6))


@pytest.mark.parametrize("tied", [True, False])
def test_a_damaged_output_head_is_refused(tmp_path: Path, tied: bool) -> None:
    manifest, store = tiny_model(tmp_path, dataclasses.replace(SHAPE, tied_head=tied))
    for tensor, element in (("scales", 7), ("norm", 3)):
        bad = flip_bit(store, manifest, "head", tensor, element=element, bit=30)
        head, *others = specs(bad, store, 2)
        with pytest.raises(Corrupt, match=r"^the output head gives other logits than its import recorded"):
            open_stage(head, store.blob_folder, 1, None)
        for spec in others:
            open_stage(spec, store.blob_folder, 1, None)
    assert manifest.golden
    without = dataclasses.replace(manifest, golden=dataclasses.replace(manifest.golden, logits=None, logits_scale=0.0))
    open_stage(specs(without, store, 2)[0], store.blob_folder, 1, None)  # as imports before recorded it
    head, *others = specs(manifest, store, 2)
    assert head.golden
    assert head.golden.logits
    assert not any(spec.golden.logits for spec in others if spec.golden)
    open_stage(head, store.blob_folder, 1, None)


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("tensor", ["qkv.scales", "o.scales", "down.scales"])
def test_a_flipped_exponent_is_refused_and_its_layer_named(model: tuple[Manifest, ArtifactStore], stages: int, tensor: str) -> None:
    manifest, store = model
    bad = flip_bit(store, manifest, "layers.2", tensor, element=5, bit=30)
    refused = []
    for spec in specs(bad, store, stages):
        try:
            open_stage(spec, store.blob_folder, 1, None)
        except Corrupt as error:
            refused.append((spec.shape.layers, error))
    ((layers, refusal),) = refused  # only the stage that holds the layer
    assert 2 in layers
    assert refusal.detail.startswith(f"layer 2 of layers [{layers.start}, {layers.stop}) gives other rows than its import recorded")
    assert "import the model again" in refusal.advice


def test_without_room_for_all_layers_the_range_is_named(model: tuple[Manifest, ArtifactStore], monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, store = model
    monkeypatch.setattr("quantize.artifact.golden._MOST_BYTES", 100)
    bad = flip_bit(store, manifest, "layers.1", "o.scales", element=0, bit=30)
    (spec,) = specs(bad, store, 1)
    with pytest.raises(Corrupt, match=r"^layers \[0, 4\) gives other rows"):
        open_stage(spec, store.blob_folder, 1, None)
    (spec,) = specs(manifest, store, 1)
    open_stage(spec, store.blob_folder, 1, None)


def test_a_short_context_takes_fewer_rows(model: tuple[Manifest, ArtifactStore]) -> None:
    for context, tokens in ((2, 2), (5, 4), (128, 8)):
        (spec,) = specs(*model, 1, context=context)
        assert spec.golden is not None
        assert len(spec.golden.token_ids) == tokens
        open_stage(spec, model[1].blob_folder, 1, None)


def test_rows_that_contradict_the_stage_are_refused(model: tuple[Manifest, ArtifactStore]) -> None:
    (request,) = requests(*model, 1)
    changes: tuple[dict[str, object], ...] = (
        {"token_ids": [1, 2, 3]},
        {"token_ids": [10**6] * 8},
        {"hidden": b"x"},
        {"tolerance": 0.0},
        {"scale": float("nan")},
        {"logits": b"x"},
        {"logits": b""},
        {"head_hidden": b""},
        {"head_tolerance": 0.0},
        {"logits_scale": float("inf")},
    )
    for change in changes:
        changed = device_pb2.LoadStageRequest()
        changed.CopyFrom(request)
        plain = {field.name: getattr(request.golden, field.name) for field in dataclasses.fields(Golden)}
        changed.golden.CopyFrom(device_pb2.Golden(**{**plain, **change}))
        with pytest.raises(InvalidInput, match="golden rows are not of its shape"):
            parse_spec(changed)


def test_damaged_golden_rows_are_told_from_a_damaged_model(tmp_path: Path) -> None:
    manifest, store = tiny_model(tmp_path, SHAPE)
    assert manifest.golden
    path = store.blob_path(manifest.golden.blob.digest)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(Corrupt, match="golden rows are not what their digest says"):
        specs(manifest, store, 1)


def quiet_model(folder: Path, gains: Sequence[float], *, loud: float = 1.0) -> tuple[Manifest, ArtifactStore]:
    """Layer i adds gains[i] times what a random one would; one element of the stream is `loud` times as large as the others."""
    shape = dataclasses.replace(SHAPE, layers=len(gains))
    tensors = random_tensors(shape)
    for layer, gain in enumerate(gains):
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            tensors[f"model.layers.{layer}.{name}.weight"] *= np.float32(gain)
    tensors["model.embed_tokens.weight"][:, 5] = loud
    write_tensors(write_checkpoint(folder / "checkpoint", shape), tensors)
    store = ArtifactStore(folder / "artifacts")
    with open_huggingface(folder / "checkpoint") as checkpoint:
        return import_model(checkpoint, store, "quiet", block_size=32, rotate=False), store


@pytest.mark.parametrize(
    ("gains", "loud"),
    [((0.0,) * 4, 1.0), ((1e-3,) * 4, 1.0), ((1e-6,) * 4, 1.0), ((1.0, 0.0, 1.0, 0.0), 1.0), ((1e-2,) * 4, 3000.0)],
    ids=["nothing", "a thousandth", "a millionth", "some nothing", "little beside a loud element"],
)
def test_layers_that_add_next_to_nothing_are_right(tmp_path: Path, gains: tuple[float, ...], loud: float) -> None:
    """What a recorded row's float16 cannot tell is no error."""
    manifest, store = quiet_model(tmp_path, gains, loud=loud)
    for stages in (1, 4):
        for spec in specs(manifest, store, stages):
            assert spec.golden is not None
            open_stage(spec, store.blob_folder, 1, None)


@pytest.mark.parametrize("stages", [1, 4])
def test_among_layers_that_add_nothing_the_wrong_one_is_named(tmp_path: Path, stages: int) -> None:
    manifest, store = quiet_model(tmp_path, (0.0, 0.0, 1.0, 0.0))
    bad = flip_bit(store, manifest, "layers.2", "o.scales", element=5, bit=30)
    (holder,) = (spec for spec in specs(bad, store, stages) if 2 in spec.shape.layers)
    with pytest.raises(Corrupt, match=r"^layer 2 of layers"):
        open_stage(holder, store.blob_folder, 1, None)


def test_a_layer_that_should_add_nothing_and_adds_much_is_refused(tmp_path: Path) -> None:
    loud, quiet = quiet_model(tmp_path / "loud", (1.0,) * 2), quiet_model(tmp_path / "quiet", (0.0,) * 2)
    (spec,), (other,) = specs(*loud, 1), specs(*quiet, 1)
    assert other.golden is not None
    golden = dataclasses.replace(other.golden, layers_graph=b"", logits=b"")  # which name the other's blobs
    with pytest.raises(Corrupt, match=r"^layers \[0, 2\) gives other rows than its import recorded"):
        open_stage(dataclasses.replace(spec, golden=golden), loud[1].blob_folder, 1, None)


def test_a_deviation_that_all_tokens_share_counts_and_one_tokens_does_not() -> None:
    added = np.ones((8, 1), np.float32)
    error = np.zeros((8, 16), np.float32)
    nothing = np.zeros_like(error)
    error[0] = 9
    assert deviation(error, added, nothing) == 0
    error[:, 3] = 0.5
    assert deviation(error, added, nothing) == 0.5
    assert deviation(error, added, nothing + 0.125) == 0.375
    error[:, 3] = np.nan
    assert deviation(error, added, nothing) == np.inf


def test_layers_that_take_away_what_others_gave_are_measured_by_both() -> None:
    random = np.random.default_rng(0)
    given = random.standard_normal((8, 16)).astype(np.float32)
    start = np.ones_like(given)
    size = _added(np.stack([start, start + given]))
    assert np.allclose(_added(np.stack([start, start + given, start])), np.sqrt(2) * size, rtol=1e-5)
    assert np.allclose(_added(np.stack([start, 2 * start, 3 * start])), 2)  # what goes one way counts whole


def test_a_loud_element_is_measured_by_itself() -> None:
    """int8 rounds it by a share of its own."""
    rows = np.ones((8, 4096), np.float32)
    rows[:, 7] = 300
    error = np.zeros_like(rows)
    error[:, 7] = 3
    assert deviation(error, _added(np.stack([np.zeros_like(rows), rows])), np.zeros_like(rows)) == pytest.approx(0.01)
    error[:, 6] = 3
    assert deviation(error, _added(np.stack([np.zeros_like(rows), rows])), np.zeros_like(rows)) > 0.5


@pytest.mark.parametrize("kv_dtype", ["float32", "int8"])
def test_a_loud_row_of_a_matrix_is_right(tmp_path: Path, kv_dtype: KvDtype) -> None:
    """Of the output head, and of what a layer adds to one element."""
    tensors = random_tensors(SHAPE)
    for name in ("lm_head", *(f"model.layers.{layer}.mlp.down_proj" for layer in range(SHAPE.layers))):
        tensors[f"{name}.weight"][5] *= 100
    write_tensors(write_checkpoint(tmp_path / "checkpoint", SHAPE), tensors)
    store = ArtifactStore(tmp_path / "artifacts")
    with open_huggingface(tmp_path / "checkpoint") as checkpoint:
        manifest = import_model(checkpoint, store, "loud", block_size=32, rotate=False)
    for stages in (1, 4):
        for spec in specs(manifest, store, stages, kv_dtype=kv_dtype):
            open_stage(spec, store.blob_folder, 1, None)
    for part, tensor in (("head", "scales"), ("layers.1", "down.scales")):
        bad = flip_bit(store, manifest, part, tensor, element=5 * 3, bit=30)
        (spec,) = specs(bad, store, 1, kv_dtype=kv_dtype)
        with pytest.raises(Corrupt):
            open_stage(spec, store.blob_folder, 1, None)


def test_no_second_session_without_need(model: tuple[Manifest, ArtifactStore], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_module, "Session", None)
    (spec,) = specs(*model, 1)
    assert spec.golden is not None
    check_stage(spec, StageEngine(spec, model[1].blob_folder, 1), model[1].blob_folder, 1)
