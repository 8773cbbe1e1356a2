"""Checkpoints that are quantized already: dequantized as they are read where the format is plain, else refused by its name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from protos.errors import InvalidInput
from quantize.checkpoints.packed_tensors import AwqTensor, GptqTensor, PackedTensor
from quantize.checkpoints.scaled_tensors import ScaledTensor
from quantize.checkpoints.tensor_files import TensorFiles
from quantize.checkpoints.tensors import FLOAT_DTYPES, StoredTensor, Tensor

# What AutoGPTQ and AutoAWQ wrote beside config.json before transformers knew them, and the method that each means.
OLDER_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
_FP8 = ("F8_E4M3", "F8_E5M2")
_SCALED_FORMATS = ("float-quantized", "int-quantized", "naive-quantized")
_GPTQ_FORMATS = ("gptq", "gptq_v2")
# Of buffers that are no weights: positions, masks, how often.
_COUNTS = ("I64", "BOOL")
# Of activations and caches as they were quantized there: ours are not.
_OF_ACTIVATIONS = re.compile(r".*\.(input_scale(_ub)?|input_zero_point|output_scale|activation_scale|[qkv]_scale|[qkv]_zero_point)")
_READ = "GPTQ, AWQ, FP8 and compressed-tensors' integers are dequantized here; else get the checkpoint that this one was made from"

Settings: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class _Stored:
    """The files' tensors by name, and the settings that tell how to read them."""

    tensors: Mapping[str, StoredTensor]
    settings: Settings

    def part(self, name: str, dtypes: tuple[str, ...], shape: tuple[int, ...] | None = None) -> StoredTensor:
        """Raises InvalidInput when it is not there, or not so."""
        found = self.tensors.get(name)
        if found is None:
            raise InvalidInput(f"the checkpoint has no tensor {name}, which its quantization needs", advice="get the checkpoint again")
        if found.dtype not in dtypes or (shape is not None and found.shape != shape):
            wanted = f"{' or '.join(dtypes)}{'' if shape is None else f' {list(shape)}'}"
            raise InvalidInput(
                f"{found.file}: tensor {name} is {found.dtype} {list(found.shape)}, its quantization asks for {wanted}",
                advice="config.json and the weight files must belong together",
            )
        return found

    def optional(self, name: str, dtypes: tuple[str, ...], shape: tuple[int, ...]) -> StoredTensor | None:
        return self.part(name, dtypes, shape) if name in self.tensors else None


def quantization_settings(config: Settings, older: Callable[[str], Settings]) -> Settings:
    """What config.json says of its quantization, {} where nothing: also in the places of older tools; `older` reads a file, {} where it is
    not there. "quant_method" is filled in where the place tells it."""
    text = config.get("text_config")
    for place in (config, text if isinstance(text, dict) else {}):
        found = place.get("quantization_config")
        if isinstance(found, dict) and found:
            method = found.get("quant_method")
            if not method and (found.get("load_in_4bit") or found.get("load_in_8bit")):
                method = "bitsandbytes"
            return {**found, "quant_method": method or ("MLX" if "quantization" in place else None)}
        if isinstance(place.get("quantization"), dict):
            return {**place["quantization"], "quant_method": "MLX"}
        if place.get("quantization_bit"):
            return {"quant_method": "ChatGLM's own", "bits": place["quantization_bit"]}
    for file, method in OLDER_FILES.items():
        if found := older(file):
            return {"quant_method": method, **found}
    return {}


def check_format(settings: Settings) -> None:
    """Raises InvalidInput with the format's name where the settings alone tell that nobody here can read it."""
    if _format(settings) is None:
        detail = [
            str(settings[key])[:40] for key in ("format", "checkpoint_format", "version", "quant_algo") if settings.get(key) is not None
        ]
        detail += [f"{settings[key]} bits"[:40] for key in ("bits", "w_bit") if settings.get(key) is not None]
        detail += [key for key in ("load_in_4bit", "load_in_8bit") if settings.get(key)]
        what = str(settings.get("quant_method") or "")[:40] or "something that config.json does not name"
        named = f"{what} ({', '.join(detail)})" if detail else what
        raise InvalidInput(f"the checkpoint is quantized as {named}, which cannot be read", advice=_READ)


def dequantized(files: TensorFiles, settings: Settings) -> TensorFiles:
    """With a readable "….weight" instead of each quantized one. Settings of files that are not quantized do not count (they were
    dequantized before). Raises InvalidInput with the format's name."""
    stored = _Stored(dict(files.stored()), settings)
    if all(tensor.dtype in (*FLOAT_DTYPES, *_COUNTS) for tensor in stored.tensors.values()):
        return files
    if not settings:
        settings = _guessed(stored)
    check_format(settings)
    match _format(settings):
        case "gptq":
            return _replaced(files, stored, ".qweight", _gptq, ("qzeros", "scales", "g_idx"))
        case "awq":
            return _replaced(files, stored, ".qweight", _awq, ("qzeros", "scales"))
        case "packed":
            others = ("weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")
            return _replaced(files, stored, ".weight_packed", _packed, others)
        case "scaled":
            return _scaled(files, stored)
    return files  # a stray tensor of integers: whoever reads it refuses it by name


def _format(settings: Settings) -> str | None:
    """How to read what these settings describe; "" for what is not quantized, None where nobody here knows."""
    layout, version = settings.get("format"), str(settings.get("version") or "gemm").lower()
    match str(settings.get("quant_method") or "").lower():
        case "gptq" if _integer(settings, ("bits",), 4) in (2, 3, 4, 8) and (settings.get("checkpoint_format") or "gptq") in _GPTQ_FORMATS:
            return "gptq"
        case "awq" if _integer(settings, ("bits", "w_bit"), 4) == 4 and version == "gemm":
            return "awq"
        case "compressed-tensors" if layout == "pack-quantized":
            return "packed"
        case "compressed-tensors" if layout in _SCALED_FORMATS:
            return "scaled"
        case "modelopt" if settings.get("quant_algo", "FP8") == "FP8":
            return "scaled"
        case "fp8" | "fbgemm_fp8":
            return "scaled"
        case "" if not settings:
            return ""
    return None


def _guessed(stored: _Stored) -> Settings:
    """Of a checkpoint that does not say: FP8 reads itself, words of packed integers do not."""
    if any(name.endswith((".qweight", ".weight_packed", ".SCB", ".absmax")) for name in stored.tensors):
        return {"quant_method": None, "format": None}
    return {"quant_method": "fp8"} if any(tensor.dtype in _FP8 for tensor in stored.tensors.values()) else {}


def _integer(settings: Settings, keys: tuple[str, ...], default: int) -> int:
    value = next((settings[key] for key in keys if settings.get(key) is not None), default)
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value <= 1 << 20:
        raise InvalidInput(f"quantization_config: {keys[0]} must be a whole number, not {repr(value)[:40]}", advice=_READ)
    return value


def _replaced(
    files: TensorFiles, stored: _Stored, suffix: str, read: Callable[[_Stored, str], Tensor], others: tuple[str, ...]
) -> TensorFiles:
    """With what `read` makes of each module ("….q_proj") that has a tensor of this suffix; its `others` go."""
    modules = [name.removesuffix(suffix) for name in stored.tensors if name.endswith(suffix)]
    gone = [f"{module}{name}" for module in modules for name in (suffix, *(f".{other}" for other in others))]
    gone += [name for name in stored.tensors if _OF_ACTIVATIONS.fullmatch(name)]
    return files.replaced(gone, {f"{module}.weight": read(stored, module) for module in modules})


def _gptq(stored: _Stored, module: str) -> Tensor:
    bits = _integer(stored.settings, ("bits",), 4)
    levels = stored.part(f"{module}.qweight", ("I32", "U32"))
    _check_matrix(levels, module)
    inputs, outputs = levels.shape[0] * 32 // bits, levels.shape[1]
    if outputs * bits % 32:
        raise InvalidInput(f"{levels.file}: {module} has {outputs} rows of {bits} bits, which fill no words of 32", advice=_READ)
    size, count = _groups(stored, ("group_size",), inputs)
    return GptqTensor(
        name=f"{module}.g_idx",
        bits=bits,
        levels=levels,
        zeros=stored.part(f"{module}.qzeros", ("I32", "U32"), (count, outputs * bits // 32)),
        scales=stored.part(f"{module}.scales", FLOAT_DTYPES, (count, outputs)),
        groups=stored.optional(f"{module}.g_idx", ("I32", "I64"), (inputs,)),
        group_size=size,
        zero_shift=0 if stored.settings.get("checkpoint_format") == "gptq_v2" else 1,
    )


def _awq(stored: _Stored, module: str) -> Tensor:
    levels = stored.part(f"{module}.qweight", ("I32", "U32"))
    _check_matrix(levels, module)
    inputs, words = levels.shape
    size, count = _groups(stored, ("group_size", "q_group_size"), inputs)
    zeros = stored.part(f"{module}.qzeros", ("I32", "U32"), (count, words))
    return AwqTensor(levels, zeros, stored.part(f"{module}.scales", FLOAT_DTYPES, (count, words * 8)), size)


def _packed(stored: _Stored, module: str) -> Tensor:
    levels = stored.part(f"{module}.weight_packed", ("I32", "U32"))
    _check_matrix(levels, module)
    shape = tuple(int(size) for size in stored.part(f"{module}.weight_shape", ("I64", "I32"), (2,)).raw(0, 2))
    scales = stored.part(f"{module}.weight_scale", FLOAT_DTYPES)
    outputs, inputs = shape
    bits = next((bits for bits in (4, 8, 2) if levels.shape == (outputs, -(-inputs * bits // 32))), 0)
    count = math.prod(scales.shape[1:])
    if not bits or len(scales.shape) != 2 or scales.shape[0] != outputs or not count or inputs % count:
        raise InvalidInput(
            f"{levels.file}: {module} is packed as {list(levels.shape)} with scales {list(scales.shape)} for {list(shape)}", advice=_READ
        )
    zeros = stored.optional(f"{module}.weight_zero_point", ("I32", "U32"), (-(-outputs * bits // 32), count))
    groups = stored.optional(f"{module}.weight_g_idx", ("I32", "I64"), (inputs,))
    return PackedTensor(f"{module}.weight_g_idx", bits, shape, levels, replace(scales, shape=(outputs, count)), zeros, groups)


def _scaled(files: TensorFiles, stored: _Stored) -> TensorFiles:
    """FP8, or signed integers where there is none."""
    dtypes = _FP8 if any(tensor.dtype in _FP8 for tensor in stored.tensors.values()) else ("I8",)
    made: dict[str, Tensor] = {}
    gone = [name for name in stored.tensors if _OF_ACTIVATIONS.fullmatch(name)]
    for name, values in stored.tensors.items():
        if values.dtype not in dtypes or len(values.shape) < 2 or name.endswith("_zero_point"):
            continue
        scale = next((found for found in (f"{name}_scale_inv", f"{name}_scale") if found in stored.tensors), f"{name}_scale")
        made[name] = _with_scales(stored, name, values, stored.part(scale, (*FLOAT_DTYPES, "F8_E8M0")))
        gone += [scale, f"{name}_zero_point"]
    return files.replaced(gone, made)


def _with_scales(stored: _Stored, name: str, values: StoredTensor, scales: StoredTensor) -> Tensor:
    """Scales of the whole, of rows, or of blocks; how large a block is, the settings say, or the shapes."""
    *matrices, rows, columns = values.shape
    count, grid = math.prod(matrices), (*scales.shape[len(matrices) :], 1, 1)[:2]
    if math.prod(scales.shape) == 1:
        count, rows = 1, count * rows
    sizes = stored.settings.get("weight_block_size")
    stated = sizes if isinstance(sizes, list) and len(sizes) == 2 and all(type(size) is int and size > 0 for size in sizes) else (0, 0)
    height, width = (_block(size, blocks, said) for size, blocks, said in zip((rows, columns), grid, stated, strict=True))
    if not height or not width or math.prod(scales.shape) != count * math.prod(grid):
        raise InvalidInput(
            f"{values.file}: tensor {name} {list(values.shape)} has scales {list(scales.shape)}, which do not cover it", advice=_READ
        )
    placed = (count * grid[0], grid[1])
    zeros = stored.optional(f"{name}_zero_point", ("I8", *FLOAT_DTYPES), scales.shape)
    return ScaledTensor(values, replace(scales, shape=placed), (height, width), rows, zeros and replace(zeros, shape=placed))


def _block(size: int, count: int, stated: int) -> int:
    """How many of `size` rows or columns each of `count` scales is for; 0 where they do not fit."""
    if stated and -(-size // stated) == count:
        return stated
    return size // count if count and size % count == 0 else 0


def _groups(stored: _Stored, keys: tuple[str, ...], inputs: int) -> tuple[int, int]:
    """(inputs of a group, groups)."""
    size = _integer(stored.settings, keys, 128)
    size = inputs if size < 1 else size
    return size, -(-inputs // size)


def _check_matrix(levels: StoredTensor, module: str) -> None:
    if len(levels.shape) != 2 or 0 in levels.shape:
        raise InvalidInput(f"{levels.file}: {module} is packed as {list(levels.shape)}, which is no matrix", advice=_READ)
