"""A LoRA adapter as PEFT saves it, merged into its base's tensors as they are read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from protos.errors import InvalidInput
from quantize.blocks import Floats
from quantize.checkpoints.lora_settings import LoraSettings
from quantize.checkpoints.tensor_files import TensorFiles
from quantize.checkpoints.tensors import FLOAT_DTYPES, StoredTensor, Tensor

WEIGHTS = (
    ("adapter_model.safetensors", "adapter_model.safetensors.index.json"),
    ("adapter_model.bin", "adapter_model.bin.index.json"),
)
# PEFT's wrapper, before every name.
PREFIX = "base_model.model."
# "X.lora_A.weight", and "X.lora_A.default.weight" of a model that was saved with its adapters in it.
_LORA = re.compile(r"(.+)\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(?:\.(?!weight$|bias$)([^.]+))?(?:\.weight)?")
_SAVED = re.compile(r"(.+)\.modules_to_save(?:\.[^.]+)?\.(weight|bias)")
_BELONG = "the adapter must be this checkpoint's"
_AGAIN = "the adapter is damaged, or its training failed: get it again"


@dataclass(frozen=True)
class MergedTensor:
    """`base` [out, in] plus `scale` x `left` [out, rank] x `right` [rank, in]; `transposed`: both are stored the other way round. With
    `lengths` [out] each row of the sum is stretched to such a length (DoRA, arXiv:2402.09353)."""

    module: str
    base: Tensor
    left: StoredTensor
    right: StoredTensor
    scale: float
    transposed: bool = False
    lengths: StoredTensor | None = None

    @property
    def file(self) -> str:
        return self.base.file

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def read(self, start: int, stop: int) -> Floats:
        left = self.left.columns(start, stop).T if self.transposed else self.left.read(start, stop)
        right = self.right.read(0, self.right.shape[0])
        # In float64: sums of float32 differ between processors, and digests would.
        with np.errstate(all="ignore"):
            added = self.scale * (left.astype(np.float64) @ (right.T if self.transposed else right).astype(np.float64))
        rows = self.base.read(start, stop) + added
        own = [left, right]
        with np.errstate(all="ignore"):  # what is not finite is refused just below
            if self.lengths is not None:
                own.append(self.lengths.read(start, stop))
                rows *= (own[-1] / np.linalg.norm(rows, axis=1))[:, None]
            merged = rows.astype(np.float32)
        if not all(np.isfinite(matrix).all() for matrix in own):
            raise InvalidInput(f"{self.left.file}: the adapter's matrices of {self.module} hold a value that is not finite", advice=_AGAIN)
        if not np.isfinite(merged).all():
            raise InvalidInput(f"{self.module} holds a value that is not finite once the adapter is merged into it", advice=_BELONG)
        return merged

    def flattened(self) -> MergedTensor:
        return self


@dataclass(frozen=True)
class _Pair:
    """The matrices of one module, as `MergedTensor` has them."""

    left: StoredTensor
    right: StoredTensor
    transposed: bool
    lengths: StoredTensor | None


def without_peft(files: TensorFiles) -> tuple[TensorFiles, TensorFiles | None]:
    """(the base's tensors by their own names, the adapter's or None) of a checkpoint with the names of PEFT's wrappers in it."""
    prefixed = bool(files.names) and all(name.startswith(PREFIX) for name in files.names)
    if not prefixed and not any(".lora_" in name or ".base_layer." in name for name in files.names):
        return files, None
    base: dict[str, Tensor] = {}
    adapter: dict[str, Tensor] = {}
    for name in sorted(files.names):
        own = name.removeprefix(PREFIX)
        if ".lora_" in own:
            adapter[own] = files.tensor(name)
        elif saved := _SAVED.fullmatch(own):
            base[f"{saved[1]}.{saved[2]}"] = files.tensor(name)
        elif ".original_module." in own:
            base.setdefault(own.replace(".original_module.", "."), files.tensor(name))
        else:
            base[own.replace(".base_layer.", ".")] = files.tensor(name)
    return TensorFiles(base), TensorFiles(adapter) if adapter else None


def merged(files: TensorFiles, adapter: TensorFiles, settings: LoraSettings) -> TensorFiles:
    """`files` with all that `adapter` (names without PEFT's prefix) changes. Raises InvalidInput for what is neither LoRA nor DoRA, does
    not fit, or would change nothing: an adapter is never left out in part."""
    pairs, whole = _sorted(adapter)
    if not pairs and not whole:
        raise InvalidInput("the adapter has no tensors", advice="get the adapter again")
    changed: dict[str, Tensor] = dict(whole)
    for module, pair in pairs.items():
        name = f"{module}.weight"
        if name not in files.names and name not in changed:
            raise InvalidInput(f"the adapter changes {name}, which the checkpoint has not", advice=_BELONG)
        base = changed.get(name) or files.tensor(name)
        _check(module, base, pair, settings)
        changed[name] = MergedTensor(module, base, pair.left, pair.right, settings.scale_of(module), pair.transposed, pair.lengths)
    return files.replaced((), changed)


def _sorted(adapter: TensorFiles) -> tuple[dict[str, _Pair], Mapping[str, Tensor]]:
    """(matrices of each module, tensors that replace the base's)."""
    found: dict[str, dict[str, StoredTensor]] = {}
    whole: dict[str, Tensor] = {}
    adapters = set()
    for name in sorted(adapter.names):
        tensor = adapter.tensor(name)
        if not isinstance(tensor, StoredTensor) or tensor.dtype not in FLOAT_DTYPES:
            raise InvalidInput(f"the adapter's tensor {name} is stored as {getattr(tensor, 'dtype', 'parts')}", advice=_BELONG)
        if match := _LORA.fullmatch(name):
            adapters.add(match[3])
            found.setdefault(match[1], {})[match[2]] = tensor
        elif ".lora_" in name:
            raise InvalidInput(f"the adapter has a tensor that plain LoRA has not: {name}", advice="merge it with PEFT first")
        else:  # modules_to_save, biases, embeddings
            whole[name.replace(".base_layer.", ".")] = tensor
    if len(adapters) > 1:
        raise InvalidInput(f"there are several adapters: {_list(adapters)}", advice="merge the one that is meant with PEFT first")
    pairs = {}
    for module, matrices in found.items():
        lengths = matrices.pop("magnitude_vector", None)
        kinds = ("embedding_A", "embedding_B") if "embedding_A" in matrices else ("B", "A")
        if set(matrices) != set(kinds):
            raise InvalidInput(f"the adapter has not both matrices of {module}", advice="get the adapter again")
        pairs[module] = _Pair(matrices[kinds[0]], matrices[kinds[1]], kinds[0] == "embedding_A", lengths)
    return pairs, whole


def _check(module: str, base: Tensor, pair: _Pair, settings: LoraSettings) -> None:
    rank = settings.rank_of(module)
    outer, inner = (shape[::-1] if pair.transposed else shape for shape in (pair.left.shape, pair.right.shape))
    if len(base.shape) != 2 or outer != (base.shape[0], rank) or inner != (rank, base.shape[1]):
        raise InvalidInput(
            f"the adapter's matrices of {module} are {list(pair.left.shape)} and {list(pair.right.shape)}, which rank {rank} and the "
            f"checkpoint's {list(base.shape)} do not allow",
            advice=_BELONG,
        )
    wanted = (base.shape[0],) if settings.by_magnitude and not pair.transposed else None
    if (pair.lengths.shape if pair.lengths else None) != wanted:
        raise InvalidInput(
            f"the adapter's magnitudes of {module} are not what DoRA of this matrix needs (use_dora: {settings.by_magnitude})",
            advice="merge it with PEFT first (merge_and_unload), and import what that saves",
        )


def _list(names: Iterable[str | None]) -> str:
    return ", ".join(sorted(str(name)[:40] for name in names))
