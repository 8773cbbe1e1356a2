"""onnxruntime sessions over graphs whose weights lie in the blob store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnxruntime as ort

from device.engine.accepted import check_graph
from device.engine.huge_pages import huge_pages
from protos.errors import Internal, InvalidInput

ort.set_default_logger_severity(3)  # warnings about graph clean-up are not for an operator's eyes

# An OrtValue over a numpy array on the CPU shares its memory: what is bound once is read and written in place.
share = ort.OrtValue.ortvalue_from_numpy

ENGINE = f"onnxruntime {ort.__version__}"

_BLOB_FOLDER = "session.model_external_initializers_file_folder_path"

Array: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"
# None: any.
Dimensions: TypeAlias = "tuple[int | None, ...]"


class Session:
    """One graph, ready to run. Shapes are bound by the caller; nothing is copied."""

    def __init__(self, graph: bytes, blob_folder: Path, threads: int, prepacked: Path | None = None, *, blobs: Iterable[str] = ()) -> None:
        """`blobs`: those that the graph's weights may lie in; `prepacked`: the same graph as `save_prepacked` left it, loaded instead.

        Raises InvalidInput when the graph is not made as ours are, or onnxruntime refuses it.
        """
        if not prepacked:
            _check(graph, blob_folder, blobs)
        options = _options(blob_folder, threads)
        if prepacked:
            # It was optimized before it was saved, and its weights are beside it.
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.add_session_config_entry(_BLOB_FOLDER, str(prepacked.parent))
        # What is mapped from a file has the pages that its file system gives.
        with nullcontext() if prepacked else huge_pages():
            self._session = _open(str(prepacked) if prepacked else graph, options)
        self.inputs: dict[str, list[int | str]] = {value.name: value.shape for value in self._session.get_inputs()}
        self.input_types: dict[str, str] = {value.name: value.type for value in self._session.get_inputs()}
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
        binding = Binding(self._session, self._session.io_binding())
        binding.replace(inputs, outputs)
        return binding


class Binding:
    """A graph bound to arrays: `run` reads and writes them where they lie."""

    def __init__(self, session: ort.InferenceSession, binding: ort.IOBinding) -> None:
        self._session = session
        self._binding = binding

    def replace(self, inputs: Iterable[tuple[str, ort.OrtValue]], outputs: Iterable[tuple[str, ort.OrtValue]]) -> None:
        """Bind these to other arrays, or for the first time."""
        for name, value in inputs:
            self._binding.bind_ortvalue_input(name, value)
        for name, value in outputs:
            self._binding.bind_ortvalue_output(name, value)

    def run(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise Internal(f"onnxruntime: {_first_line(error)}") from error


def run_once(graph: bytes, inputs: Mapping[str, Array]) -> None:
    """A graph of our own without weights, in one thread. Raises FleetError."""
    session = _open(graph, _options(Path(), 1))
    try:
        session.run(None, dict(inputs))
    except Exception as error:  # as in _open: types without a common base
        raise Internal(f"onnxruntime: {_first_line(error)}") from error


def save_prepacked(graph: bytes, blob_folder: Path, threads: int, target: Path) -> None:
    """Write the graph to `target` and its weights, raw and as the kernels want them, to `target` with ".weights".

    Of a graph that a Session has taken. Whoever loads it maps those pages instead of filling memory of its own. Raises InvalidInput when
    onnxruntime refuses it, and when the disk is full.
    """
    options = _options(blob_folder, threads)
    options.optimized_model_filepath = str(target)
    # Names and meaning: onnxruntime_session_options_config_keys.h.
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", target.with_suffix(".weights").name)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    _open(graph, options)


def _check(graph: bytes, blob_folder: Path, blobs: Iterable[str]) -> None:
    try:
        check_graph(graph, {blob: (blob_folder / blob).stat().st_size for blob in blobs})
    except OSError as error:
        raise InvalidInput(f"a blob of the stage graph cannot be read: {error.strerror}") from error
    except InvalidInput as error:
        raise InvalidInput(f"the stage graph is refused: {error.detail}") from error


def scalar_like(shape: list[int | str]) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """A one-element int32 array of the rank that the graph declares for `total_sequence_length`."""
    return np.zeros([1] * len(shape), np.int32)


def _options(blob_folder: Path, threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry(_BLOB_FOLDER, str(blob_folder))
    # Threads spin inside a run (a wake-up per operator is dear) and never between runs: the neighbour stage may need the core.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # A saved graph is for this machine only, and onnxruntime would say so each time.
    options.log_severity_level = 3
    return options


def _open(graph: bytes | str, options: ort.SessionOptions) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen unrelated types, some without a common base
        raise InvalidInput(f"onnxruntime refuses the stage graph: {_first_line(error)}") from error


def _fits(shape: Sequence[int | str], wanted: Dimensions) -> bool:
    # A graph names the dimensions that it leaves open.
    return len(shape) == len(wanted) and all(isinstance(f, str) or w is None or f == w for f, w in zip(shape, wanted, strict=True))


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
