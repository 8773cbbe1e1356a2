"""The weights of a checkpoint folder under the names and in the shapes that its architecture knows, however they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from protos.errors import InvalidInput
from quantize.checkpoints.folder_files import has_file, read_object
from quantize.checkpoints.lora import PREFIX, WEIGHTS, merged, without_peft
from quantize.checkpoints.lora_settings import SETTINGS_FILE, parse_lora
from quantize.checkpoints.quantized import dequantized, quantization_settings
from quantize.checkpoints.stacked_experts import unstack_experts
from quantize.checkpoints.tensor_files import TensorFiles, open_tensor_files


@dataclass(frozen=True)
class Weights:
    """`adapted` names the tensors that an adapter changed."""

    files: TensorFiles
    adapted: frozenset[str] = frozenset()


@contextmanager
def open_weights(folder: Path, config: Mapping[str, Any], file_prefix: str, adapter: Path | None) -> Iterator[Weights]:
    """With the LoRA adapter of the folder `adapter`, or the one beside the base, as transformers has it. `config` is config.json,
    `file_prefix` what may stand before every tensor's name. Raises InvalidInput."""
    with ExitStack() as stack:
        files, inner = without_peft(stack.enter_context(open_tensor_files(folder)))
        files.remove_prefix(file_prefix)
        files = unstack_experts(dequantized(files, quantization_settings(config, partial(read_object, folder))))
        outer = folder if has_file(folder, SETTINGS_FILE) else None
        if (adapter is not None and (outer or inner)) or (inner and any(has_file(folder, name) for pair in WEIGHTS for name in pair)):
            raise InvalidInput(
                "the checkpoint has a LoRA adapter of its own beside another", advice="take one of them away, or merge it with PEFT first"
            )
        place = adapter or outer
        if inner is not None and place is None:
            raise InvalidInput(
                f"the checkpoint holds a LoRA adapter's matrices, and no {SETTINGS_FILE} says how much they count",
                advice="merge it with PEFT first (merge_and_unload), and import what that saves",
            )
        if place is None:
            yield Weights(files)
            return
        settings = parse_lora(read_object(place, SETTINGS_FILE))
        own = inner or stack.enter_context(open_tensor_files(place, WEIGHTS))
        own.remove_prefix(PREFIX)
        own.remove_prefix(file_prefix)
        changed = merged(files, own, settings)
        yield Weights(changed, frozenset(name for name in changed.names if name not in files.names or _differs(name, files, changed)))


def check_is_no_adapter(folder: Path) -> None:
    """Raises InvalidInput, saying whose adapter it is."""
    if has_file(folder, SETTINGS_FILE) and not has_file(folder, "config.json"):
        base = str(read_object(folder, SETTINGS_FILE).get("base_model_name_or_path") or "another model")[:120]
        raise InvalidInput(
            f"{folder} is a LoRA adapter for {base}, and no model", advice=f"import the base with it: model import BASE --adapter {folder}"
        )


def check_is_adapter(folder: Path) -> None:
    """Raises InvalidInput."""
    if not has_file(folder, SETTINGS_FILE):
        raise InvalidInput(f"{folder} has no {SETTINGS_FILE}", advice="give the folder of a LoRA adapter as PEFT saves it")


def _differs(name: str, before: TensorFiles, after: TensorFiles) -> bool:
    return before.tensor(name) is not after.tensor(name)
