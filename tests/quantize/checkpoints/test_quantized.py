"""Checkpoints that others quantized: tests/goldens/make_quantized.py has what their own code reads out of the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from protos.errors import InvalidInput
from quantize.checkpoints.checkpoint import tensor_shapes
from quantize.checkpoints.huggingface import open_huggingface
from quantize.checkpoints.packed_tensors import unpack
from quantize.checkpoints.quantized import dequantized, quantization_settings
from quantize.checkpoints.tensor_files import open_tensor_files
from tests.support.checkpoints import Arrays, TinyGlm, config_json, random_tensors, write_checkpoint, write_json

with np.load(Path(__file__).parents[2] / "goldens" / "quantized.npz") as _found:
    GOLDEN: dict[str, Arrays] = {}
    for _key in _found:
        GOLDEN.setdefault(_key.partition("/")[0], {})[_key.partition("/")[2]] = _found[_key]
MODULE = "model.layers.0.mlp.down_proj"
GPTQ, AWQ = {"quant_method": "gptq", "group_size": 32}, {"quant_method": "awq", "bits": 4, "group_size": 32}
PACKED = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
SETTINGS = {name: {**GPTQ, "bits": int(name[4])} if name[0] == "g" else AWQ if name == "awq" else PACKED for name in GOLDEN}


def read_back(folder: Path, tensors: Arrays, settings: dict[str, Any], name: str = f"{MODULE}.weight") -> np.ndarray:
    """The matrix whole, after it was read by uneven pieces that must be the same."""
    save_file(tensors, folder / "model.safetensors")
    with open_tensor_files(folder) as files:
        found = dequantized(files, settings)
        matrix = found.tensor(name).flattened()
        rows = matrix.shape[0]
        whole = matrix.read(0, rows)
        assert whole.shape == matrix.shape
        assert whole.dtype == np.float32
        for start, stop in ((0, 1), (1, rows - 1), (rows // 3, rows // 3 + 5), (rows - 1, rows)):
            assert np.array_equal(matrix.read(start, stop), whole[start:stop])
        assert sum(left.startswith(MODULE) for left in found.names) == 1
        return whole


@pytest.mark.parametrize("case", GOLDEN)
def test_packed_integers(tmp_path: Path, case: str) -> None:
    stored = {f"{MODULE}.{name}": array for name, array in GOLDEN[case].items() if name != "expected"}
    assert np.array_equal(read_back(tmp_path, stored, SETTINGS[case]), GOLDEN[case]["expected"])


def test_groups_in_another_order(tmp_path: Path) -> None:
    """compressed-tensors' weight_g_idx: what stands in the group's place is what counts; all -1 means that nobody set it."""
    golden = {name: array for name, array in GOLDEN["packed4"].items() if name != "expected"}
    plain, scales = GOLDEN["packed4"]["expected"], np.repeat(golden["weight_scale"].astype(np.float32), 32, 1)
    for groups, expected in (
        (np.full(64, -1, np.int32), plain),
        (np.arange(64, dtype=np.int32) // 32, plain),
        (1 - np.arange(64, dtype=np.int32) // 32, plain / scales * scales[:, ::-1]),
    ):
        stored = {f"{MODULE}.{name}": array for name, array in {**golden, "weight_g_idx": groups}.items()}
        assert np.allclose(read_back(tmp_path, stored, PACKED), expected, atol=1e-5)


def test_gptqs_second_form_counts_zero_points_from_nothing(tmp_path: Path) -> None:
    golden, module = GOLDEN["gptq4"], f"{MODULE}."
    fields = np.arange(0, 32, 4, dtype=np.uint32)
    zeros = (((golden["qzeros"].view(np.uint32)[..., None] >> fields) + 1 & 15) << fields).sum(-1).astype(np.uint32)
    stored = {module + name: golden[name] for name in ("qweight", "scales")} | {
        f"{module}qzeros": np.asarray(zeros, np.uint32).view(np.int32)
    }
    settings = {**GPTQ, "bits": 4, "checkpoint_format": "gptq_v2"}
    assert np.array_equal(read_back(tmp_path, stored, settings), golden["expected"])


@pytest.mark.parametrize("group_size", [-1, 128])
def test_one_group_for_all_inputs(tmp_path: Path, group_size: int) -> None:
    golden, module = GOLDEN["gptq4"], f"{MODULE}."
    first = {name: golden[name][:1] for name in ("qzeros", "scales")}
    stored = {module + name: array for name, array in ({"qweight": golden["qweight"][:4]} | first).items()}
    found = read_back(tmp_path, stored, {**GPTQ, "bits": 4, "group_size": group_size})
    assert np.array_equal(found, golden["expected"][:, :32])


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2], ids=lambda kind: kind.__name__)
def test_fp8_is_every_value_that_it_was(tmp_path: Path, dtype: type[np.generic]) -> None:
    finite = [code for code in range(256) if np.isfinite(np.uint8(code).view(dtype).astype(np.float32))]
    values = np.array(finite, np.uint8).reshape(-1, 2)
    found = read_back(tmp_path, {f"{MODULE}.weight": _as_fp8(values, dtype), f"{MODULE}.weight_scale": np.full(1, 0.5, np.float32)}, {})
    assert np.array_equal(found, values.view(dtype).astype(np.float32) * np.float32(0.5))
    odd = _as_fp8(np.array([[code for code in range(256) if code not in finite]], np.uint8), dtype)
    save_file({f"{MODULE}.weight": odd}, tmp_path / "model.safetensors")
    with open_tensor_files(tmp_path) as files:  # a weight that is not finite is refused by whoever reads it
        assert np.array_equal(files.read(f"{MODULE}.weight", 0, 1), odd.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize("name", ["weight_scale_inv", "weight_scale"])
@pytest.mark.parametrize(
    ("grid", "settings"),
    [
        ((), {"quant_method": "fp8"}),
        ((1,), {"quant_method": "modelopt", "quant_algo": "FP8"}),
        ((192,), {"quant_method": "fbgemm_fp8"}),
        ((192, 1), {"quant_method": "compressed-tensors", "format": "float-quantized"}),
        ((2, 3), {"quant_method": "fp8", "weight_block_size": [128, 128]}),
        ((3, 6), {"quant_method": "fp8", "weight_block_size": [64, 64]}),
        ((4, 2), {"quant_method": "fp8"}),
    ],
    ids=str,
)
def test_scales_of_the_whole_of_rows_and_of_blocks(tmp_path: Path, grid: tuple[int, ...], settings: dict[str, Any], name: str) -> None:
    random = np.random.default_rng(1)
    values, scales = random.integers(0, 120, (192, 384), dtype=np.uint8), random.uniform(0.5, 2, grid).astype(np.float32)
    height, width = (settings.get("weight_block_size") or [-(-192 // (*grid, 1, 1)[0]), -(-384 // (*grid, 1, 1)[1])])[:2]
    blocks = scales.reshape((*grid, 1, 1)[:2]).repeat(height, 0).repeat(width, 1)[:192, :384]
    stored = {
        f"{MODULE}.weight": _as_fp8(values),
        f"{MODULE}.{name}": scales,
        f"{MODULE}.input_scale": np.ones(1, np.float32),
        "model.layers.0.self_attn.k_scale": np.ones(1, np.float32),
    }
    expected = values.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * blocks
    assert np.array_equal(read_back(tmp_path, stored, settings), expected)


def test_scales_of_bfloat16_and_of_powers_of_two(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    plain = values.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    powers = np.array([127, 128, 126, 130], np.uint8).reshape(2, 2)
    for scales, expected in (
        (np.full((8, 1), 0.75, ml_dtypes.bfloat16), plain * np.float32(0.75)),
        (_as_fp8(powers, ml_dtypes.float8_e8m0fnu), plain * np.exp2(powers - 127.0).repeat(4, 0).repeat(4, 1).astype(np.float32)),
    ):
        stored = {f"{MODULE}.weight": _as_fp8(values), f"{MODULE}.weight_scale": scales}
        assert np.array_equal(read_back(tmp_path, stored, {"quant_method": "fp8"}), expected)


@pytest.mark.parametrize("zeros", [True, False])
def test_integers_by_rows(tmp_path: Path, zeros: bool) -> None:
    random = np.random.default_rng(2)
    values, scales = random.integers(-128, 128, (16, 8), dtype=np.int8), random.uniform(0.5, 2, (16, 1)).astype(np.float32)
    points = random.integers(-9, 9, (16, 1), dtype=np.int8)
    stored: Arrays = {f"{MODULE}.weight": values, f"{MODULE}.weight_scale": scales}
    stored |= {f"{MODULE}.weight_zero_point": points} if zeros else {}
    settings = {"quant_method": "compressed-tensors", "format": "int-quantized"}
    expected = (values.astype(np.float32) - (points if zeros else 0)) * scales
    assert np.array_equal(read_back(tmp_path, stored, settings), expected.astype(np.float32))


@pytest.mark.parametrize("grid", [(), (3,), (3, 8, 1), (3, 2, 4)])
def test_scaled_experts_in_three_dimensions(tmp_path: Path, grid: tuple[int, ...]) -> None:
    random = np.random.default_rng(3)
    values = random.integers(0, 120, (3, 8, 16), dtype=np.uint8)
    scales = random.uniform(0.5, 2, grid).astype(np.float32)
    shape = (*grid, 1, 1, 1)[:3] if grid else (1, 1, 1)
    wide = scales.reshape(shape).repeat(3 // shape[0], 0).repeat(8 // shape[1], 1).repeat(16 // shape[2], 2)
    name = f"{MODULE}.experts.gate_up_proj"
    found = read_back(tmp_path, {name: _as_fp8(values), f"{name}_scale_inv": scales}, {"quant_method": "fp8"}, name)
    assert np.array_equal(found, (values.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * wide).reshape(24, 16))


def test_a_whole_checkpoint(tmp_path: Path) -> None:
    """Scaled by powers of two, so that nothing is lost."""
    model = TinyGlm()
    plain: Arrays = {}
    for name, values in random_tensors(model).items():
        plain[name] = values
        if ".layers." in name and values.ndim == 2:
            plain[name] = _as_fp8((values * 8).astype(ml_dtypes.float8_e4m3fn).view(np.uint8))
            plain[f"{name}_scale"] = np.full((len(values), 1), 0.125, np.float32)
    write_checkpoint(tmp_path, model)
    save_file(plain, tmp_path / "model.safetensors")
    settings = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}}
    write_json(tmp_path / "config.json", {**config_json(model), "quantization_config": settings})
    theirs = {name: (values * 8).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) / 8 for name, values in random_tensors(model).items()}
    with open_huggingface(tmp_path) as checkpoint:
        assert checkpoint.config.layers == model.layers
        for layer in range(model.layers):
            rows = tensor_shapes(checkpoint.config)[f"layers.{layer}.down.weight"][0]
            assert np.array_equal(
                checkpoint.read(f"layers.{layer}.down.weight", 0, rows), theirs[f"model.layers.{layer}.mlp.down_proj.weight"]
            )


def test_biases_of_zeros_that_a_quantizer_added_change_nothing(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    for value, says in ((0.0, ""), (0.1, r"has not: model\.layers\.0\.mlp\.down_proj\.bias")):
        save_file({**random_tensors(TinyGlm()), f"{MODULE}.bias": np.full(72, value, np.float32)}, tmp_path / "model.safetensors")
        with pytest.raises(InvalidInput, match=says) if says else nullcontext(), open_huggingface(tmp_path):
            pass


def test_bits_across_words() -> None:
    levels = np.random.default_rng(4).integers(0, 8, (64, 2))
    stream = np.array([[int(value) >> bit & 1 for value in column for bit in range(3)] for column in levels.T])
    words = (stream.reshape(2, 6, 32) << np.arange(32)).sum(-1).astype(np.uint32).T
    assert np.array_equal(unpack(words, 3, 64), levels)


REFUSED: list[tuple[dict[str, Any], Arrays, str]] = [
    (
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {".weight": np.zeros((8, 1), np.uint8)},
        "bitsandbytes",
    ),
    ({"quantization_config": {"load_in_8bit": True}}, {".weight": np.zeros((8, 8), np.int8)}, r"bitsandbytes \(load_in_8bit\)"),
    ({"quantization": {"group_size": 64, "bits": 4}}, {".weight": np.zeros((8, 1), np.uint32)}, r"MLX \(4 bits\)"),
    (
        {"quantization": {"group_size": 64, "bits": 4}, "quantization_config": {"group_size": 64, "bits": 4}},
        {".weight": np.zeros((8, 1), np.uint32)},
        r"MLX \(4 bits\)",
    ),
    ({"quantization_config": {"quant_method": "mxfp4"}}, {"_blocks": np.zeros((8, 1), np.uint8)}, "mxfp4"),
    ({"quantization_config": {"quant_method": "HQQ"}}, {".W_q": np.zeros((8, 1), np.uint8)}, "HQQ"),
    (
        {"quantization_config": {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}},
        {".weight_packed": np.zeros((8, 1), np.uint8)},
        r"compressed-tensors \(nvfp4-pack-quantized\)",
    ),
    ({"quantization_config": {"quant_method": "awq", "version": "GEMV"}}, {".qweight": np.zeros((8, 1), np.int32)}, r"awq \(GEMV\)"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 5}}, {".qweight": np.zeros((8, 1), np.int32)}, r"gptq \(5 bits\)"),
    (
        {"quantization_config": {"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}},
        {".qweight": np.zeros((8, 1), np.int32)},
        r"gptq \(marlin, 4 bits\)",
    ),
    ({"quantization_bit": 4}, {".weight": np.zeros((8, 4), np.int8)}, r"ChatGLM's own \(4 bits\)"),
    ({"text_config": {"quantization_config": {"quant_method": "quanto"}}}, {".weight": np.zeros((8, 4), np.int8)}, "quanto"),
    ({}, {".qweight": np.zeros((8, 1), np.int32)}, "something that config.json does not name"),
]


@pytest.mark.parametrize(("config", "tensors", "says"), REFUSED, ids=[says for *_, says in REFUSED])
def test_other_formats_are_refused_by_name(tmp_path: Path, config: dict[str, Any], tensors: Arrays, says: str) -> None:
    write_checkpoint(tmp_path)
    stored = {MODULE + name: values for name, values in tensors.items()}
    save_file({**random_tensors(TinyGlm()), **stored}, tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", {**config_json(TinyGlm()), **config})
    with pytest.raises(InvalidInput, match=f"quantized as {says}") as caught, open_huggingface(tmp_path):
        pytest.fail("opened")
    assert "GPTQ, AWQ, FP8" in caught.value.advice


def test_settings_of_what_is_not_quantized_do_not_count(tmp_path: Path) -> None:
    """A checkpoint that was dequantized and whose config.json was not."""
    write_checkpoint(tmp_path)
    write_json(tmp_path / "config.json", {**config_json(TinyGlm()), "quantization_config": {"quant_method": "bitsandbytes"}})
    with open_huggingface(tmp_path) as checkpoint:
        assert checkpoint.read("layers.0.down.weight", 0, 1).shape == (1, 104)
    save_file({f"{MODULE}.weight": np.ones((2, 2), np.float16), "position_ids": np.arange(4)}, tmp_path / "model.safetensors")
    with open_tensor_files(tmp_path) as files:
        assert dequantized(files, {"quant_method": "bitsandbytes"}) is files


@pytest.mark.parametrize(("file", "method"), [("quantize_config.json", "gptq"), ("quant_config.json", "awq")])
def test_older_tools_wrote_a_file_of_their_own(file: str, method: str) -> None:
    found = quantization_settings({"hidden_size": 8}, lambda name: {"bits": 4} if name == file else {})
    assert found == {"quant_method": method, "bits": 4}
    assert quantization_settings({"quantization_config": {"quant_method": "x"}}, lambda name: {"bits": 4}) == {"quant_method": "x"}


def _change(**tensors: np.ndarray | None) -> Callable[[Arrays], Arrays]:
    def change(stored: Arrays) -> Arrays:
        return {name: values for name, values in {**stored, **tensors}.items() if values is not None}

    return change


@pytest.mark.parametrize(
    ("case", "change", "says"),
    [
        ("gptq4", _change(qzeros=None), "has no tensor .*qzeros, which its quantization needs"),
        ("gptq4", _change(scales=np.ones((3, 64), np.float16)), r"scales is F16 \[3, 64\], its quantization asks for .* \[2, 64\]"),
        ("gptq4", _change(g_idx=np.zeros(7, np.int32)), r"g_idx is I32 \[7\]"),
        ("gptq4", _change(g_idx=np.full(64, 2, np.int32)), "names a group that has no scale"),
        ("gptq4", _change(g_idx=np.full(64, -1, np.int32)), "names a group that has no scale"),
        ("gptq4", _change(qweight=np.zeros(7, np.int32)), "which is no matrix"),
        ("awq", _change(qzeros=np.zeros((2, 11), np.int32)), r"qzeros is I32 \[2, 11\]"),
        ("packed4", _change(weight_g_idx=np.full(64, 2, np.int32)), "names a group that has no scale"),
        ("packed4", _change(weight_shape=np.array([64, 56])), r"is packed as \[64, 8\] with scales \[64, 2\] for \[64, 56\]"),
        ("packed4", _change(weight_shape=np.array([64, 63])), r"with scales \[64, 2\] for \[64, 63\]"),
        ("packed4", _change(weight_scale=np.ones((64, 3), np.float16)), r"with scales \[64, 3\] for \[64, 64\]"),
        ("packed4", _change(weight_shape=np.array([-64, -64])), r"for \[-64, -64\]"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, case: str, change: Callable[[Arrays], Arrays], says: str) -> None:
    golden = {name: array for name, array in GOLDEN[case].items() if name != "expected"}
    with pytest.raises(InvalidInput, match=says):
        read_back(tmp_path, {f"{MODULE}.{name}": array for name, array in change(golden).items()}, SETTINGS[case])


@pytest.mark.parametrize("shape", [(3, 1), (2, 2, 2), (16, 3), (0, 1)])
def test_scales_that_do_not_cover_a_matrix_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    stored = {f"{MODULE}.weight": _as_fp8(np.zeros((16, 16), np.uint8)), f"{MODULE}.weight_scale": np.ones(shape, np.float32)}
    with pytest.raises(InvalidInput, match="which do not cover it"):
        read_back(tmp_path, stored, {"quant_method": "fp8"})


def test_fp8_without_scales_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no tensor .*weight_scale, which"):
        read_back(tmp_path, {f"{MODULE}.weight": _as_fp8(np.zeros((16, 16), np.uint8))}, {"quant_method": "fp8"})


def _as_fp8(values: np.ndarray, dtype: type[np.generic] = ml_dtypes.float8_e4m3fn) -> np.ndarray:
    return np.ascontiguousarray(values).view(dtype)
