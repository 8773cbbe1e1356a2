"""Makes quantized.npz: random bytes in the formats of other quantizers, and the matrices that their own code reads out of them.

Development only, in the environment of `tests.goldens.make` with three packages beside it, of which single modules are loaded:

    /tmp/goldens/bin/pip install --no-deps --target /tmp/quantizers auto-gptq==0.7.1 autoawq==0.2.9 compressed-tensors==0.20.1
    PYTHONPATH=/tmp/quantizers /tmp/goldens/bin/python tests/goldens/make_quantized.py

A key is CASE/TENSOR; CASE/expected is float32 [OUTPUTS, INPUTS].
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

HERE = Path(__file__).parent
OUTPUTS, INPUTS, GROUP = 64, 64, 32
Arrays = dict[str, np.ndarray]


def main() -> None:
    torch.manual_seed(0)
    cases: dict[str, Arrays] = {f"gptq{bits}": _gptq(bits, scattered=False) for bits in (2, 3, 4, 8)}
    cases["gptq4-act-order"] = _gptq(4, scattered=True)
    cases["awq"] = _awq()
    cases |= {f"packed{bits}{'' if symmetric else '-zeros'}": _packed(bits, symmetric) for bits in (4, 8) for symmetric in (True, False)}
    found = {f"{case}/{name}": array for case, arrays in cases.items() for name, array in arrays.items()}
    np.savez_compressed(HERE / "quantized.npz", **found)  # type: ignore[arg-type]


def _gptq(bits: int, *, scattered: bool) -> Arrays:
    module = _module("auto_gptq", "nn_modules/qlinear/qlinear_cuda_old.py" if not scattered else "nn_modules/qlinear/qlinear_cuda.py")
    layer = module.QuantLinear(bits, GROUP, INPUTS, OUTPUTS, bias=False, weight_dtype=torch.float32)
    layer.qweight, layer.qzeros = _words(*layer.qweight.shape), _words(*layer.qzeros.shape) & _low_fields(layer.qzeros.shape[1], bits)
    scales = _scales(INPUTS // GROUP, OUTPUTS)
    layer.scales = scales.float()
    if scattered:
        layer.g_idx = torch.randint(0, INPUTS // GROUP, (INPUTS,), dtype=torch.int32)
    layer.autogptq_cuda_available = False
    expected = layer(torch.eye(INPUTS)).T
    found = {"qweight": layer.qweight, "qzeros": layer.qzeros, "scales": scales, "expected": expected}
    return _plain({**found, "g_idx": layer.g_idx} if scattered else found)


def _awq() -> Arrays:
    module = _module("awq", "utils/packing_utils.py")
    levels, zeros, scales = _words(INPUTS, OUTPUTS // 8), _words(INPUTS // GROUP, OUTPUTS // 8), _scales(INPUTS // GROUP, OUTPUTS)
    expected = module.dequantize_gemm(levels, zeros, scales, 4, GROUP).T
    return _plain({"qweight": levels, "qzeros": zeros, "scales": scales, "expected": expected})


def _packed(bits: int, symmetric: bool) -> Arrays:
    helpers = _module("compressed_tensors", "compressors/pack_quantized/helpers.py")
    scales = _scales(OUTPUTS, INPUTS // GROUP)
    found = {"weight_packed": _words(OUTPUTS, INPUTS * bits // 32), "weight_scale": scales}
    levels = helpers.unpack_from_int32(found["weight_packed"], bits, torch.Size((OUTPUTS, INPUTS))).float()
    if not symmetric:
        found["weight_zero_point"] = _words(OUTPUTS * bits // 32, INPUTS // GROUP)
        zeros = helpers.unpack_from_int32(found["weight_zero_point"], bits, torch.Size(scales.shape), packed_dim=0).float()
        levels = levels - zeros.repeat_interleave(GROUP, 1)
    expected = levels * scales.float().repeat_interleave(GROUP, 1)
    return _plain({**found, "weight_shape": torch.tensor([OUTPUTS, INPUTS]), "expected": expected})


def _words(*shape: int) -> torch.Tensor:
    return torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int32)


def _low_fields(words: int, bits: int) -> torch.Tensor:
    """A mask of all but each field's highest bit: what is one too many to add one to, AutoGPTQ's kernels read differently."""
    kept = [sum(1 << bit for bit in range(32) if (32 * word + bit) % bits != bits - 1) for word in range(words)]
    return torch.tensor(kept, dtype=torch.int64).to(torch.int32)


def _scales(*shape: int) -> torch.Tensor:
    """Few digits, so that nothing is rounded in half precision."""
    return (torch.randint(1, 16, shape) / 64).half()


def _plain(tensors: dict[str, torch.Tensor]) -> Arrays:
    plain = {name: tensor.detach().contiguous().numpy() for name, tensor in tensors.items()}
    return {**plain, "expected": plain["expected"].astype(np.float32)}


def _module(package: str, path: str) -> ModuleType:
    """One file of a package whose others need what is not there."""
    folder = next(Path(place) / package for place in sys.path if (Path(place) / package).is_dir())
    spec = importlib.util.spec_from_file_location(path.replace("/", "_").removesuffix(".py"), folder / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
