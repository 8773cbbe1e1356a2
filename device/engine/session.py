"""onnxruntime sessions over graphs whose weights lie in the blob store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnxruntime as ort

from protos.errors import Internal, InvalidInput

ort.set_default_logger_severity(3)  # warnings about graph clean-up are not for an operator's eyes

# An OrtValue over a numpy array on the CPU shares its memory: what is bound once is read and written in place.
share = ort.OrtValue.ortvalue_from_numpy


# None: any.
Dimensions: TypeAlias = "tuple[int | None, ...]"


class Session:
    """One graph, ready to run. Shapes are bound by the caller; nothing is copied."""

    def __init__(self, graph: bytes, blob_folder: Path, threads: int) -> None:
        """Raises InvalidInput when onnxruntime refuses the graph (a blob missing, an unknown operator)."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(blob_folder))
        # Threads spin inside a run (a wake-up per operator is dear) and never between runs: the neighbour stage may need the core.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a dozen unrelated types, some without a common base
            raise InvalidInput(f"onnxruntime refuses the stage graph: {_first_line(error)}") from error
        self.inputs: dict[str, list[int | str]] = {value.name: value.shape for value in self._session.get_inputs()}
        self._outputs: dict[str, list[int | str]] = {value.name: value.shape for value in self._session.get_outputs()}

    def expect(self, inputs: Mapping[str, Dimensions], outputs: Mapping[str, Dimensions]) -> None:
        """Raises InvalidInput unless the graph has exactly these."""
        for what, found, wanted in (("inputs", self.inputs, inputs), ("outputs", self._outputs, outputs)):
            if different := sorted(found.keys() ^ wanted.keys()):
                raise InvalidInput(f"the stage graph's {what} are not those of its layers: {', '.join(different)[:200]}")
            for name, dimensions in wanted.items():
                if not _fits(found[name], dimensions):
                    raise InvalidInput(f"the stage graph's {name} is {found[name]}, which is not this stage's shape")

    def bind(self, inputs: Iterable[tuple[str, ort.OrtValue]], outputs: Iterable[tuple[str, ort.OrtValue]]) -> Binding:
        binding = self._session.io_binding()
        for name, value in inputs:
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs:
            binding.bind_ortvalue_output(name, value)
        return Binding(self._session, binding)


class Binding:
    """A graph bound to arrays: `run` reads and writes them where they lie."""

    def __init__(self, session: ort.InferenceSession, binding: ort.IOBinding) -> None:
        self._session = session
        self._binding = binding

    def run(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise Internal(f"onnxruntime: {_first_line(error)}") from error


def scalar_like(shape: list[int | str]) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """A one-element int32 array of the rank that the graph declares for `total_sequence_length`."""
    return np.zeros([1] * len(shape), np.int32)


def _fits(shape: Sequence[int | str], wanted: Dimensions) -> bool:
    # A graph names the dimensions that it leaves open.
    return len(shape) == len(wanted) and all(isinstance(f, str) or w is None or f == w for f, w in zip(shape, wanted, strict=True))


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
