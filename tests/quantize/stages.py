"""Runs stage graphs the way a device does, for tests: sessions from bytes, caches bound in place, an even number of rows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from protos.dtypes import KvDtype
from protos.manifest import Manifest
from quantize.artifact.graph import build_stage_graph
from quantize.parts import EMBEDDING, HEAD, layer_number, stage_parts

Floats = npt.NDArray[np.float32]
_FOLDER = "session.model_external_initializers_file_folder_path"


def session(graph: bytes, blob_folder: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    options.add_session_config_entry(_FOLDER, str(blob_folder))
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class Stage:
    """One session with one cache of `batch` slots."""

    def __init__(
        self,
        manifest: Manifest,
        blob_folder: Path,
        parts: Sequence[str],
        *,
        level: int,
        batch: int = 1,
        capacity: int = 64,
        kv_dtype: KvDtype = "float32",
    ) -> None:
        config = manifest.config
        self._session = session(build_stage_graph(manifest, parts, accuracy_level=level, kv_dtype=kv_dtype), blob_folder)
        self._input = "input_ids" if EMBEDDING in parts else "hidden_in"
        self._shape = (batch, config.kv_heads, capacity, config.head_dim)
        self.caches: dict[str, npt.NDArray[np.generic]] = {}
        for layer in sorted(number for part in parts if (number := layer_number(part)) is not None):
            self.caches[f"key.{layer}"] = keys = np.zeros(self._shape, kv_dtype)
            self.caches[f"value.{layer}"] = np.zeros(self._shape, kv_dtype) if config.latent is None else keys

    def step(self, rows: npt.NDArray[np.generic], past: Sequence[int], positions: npt.NDArray[np.int64] | None = None) -> Floats:
        """Feeds [batch, sequence, …] after `past` tokens of each slot; [batch, sequence, H]."""
        binding = self._session.io_binding()
        binding.bind_cpu_input(self._input, np.ascontiguousarray(rows))
        if positions is not None:
            binding.bind_cpu_input("position_ids", np.ascontiguousarray(positions))
        if self.caches:
            lengths = np.asarray(past, np.int32) + rows.shape[1]
            binding.bind_cpu_input("seqlens_k", (lengths - 1).astype(np.int32))
            binding.bind_cpu_input("total_sequence_length", np.asarray([lengths.max()], np.int32))
        for name, array in self.caches.items():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            binding.bind_ortvalue_input(f"past_{name}", value)
            binding.bind_ortvalue_output(f"present_{name}", value)
        binding.bind_output("hidden_out")
        self._session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[-1]


class Pipeline:
    """The whole model, cut before each of `cuts` (layer numbers)."""

    def __init__(
        self,
        manifest: Manifest,
        blob_folder: Path,
        *,
        cuts: Sequence[int] = (),
        level: int = 0,
        batch: int = 1,
        capacity: int = 64,
        kv_dtype: KvDtype = "float32",
    ) -> None:
        edges = [0, *cuts, manifest.config.layers]
        self.stages = []
        for start, stop in itertools.pairwise(edges):
            parts = stage_parts(manifest, start, stop)
            parts = (EMBEDDING, *parts) if not self.stages else parts
            self.stages.append(Stage(manifest, blob_folder, parts, level=level, batch=batch, capacity=capacity, kv_dtype=kv_dtype))
        self._head = session(build_stage_graph(manifest, [HEAD], accuracy_level=level), blob_folder)

    def step(self, token_ids: npt.NDArray[np.int64], past: Sequence[int], positions: npt.NDArray[np.int64] | None = None) -> Floats:
        """Logits [batch, sequence, V] of token ids [batch, sequence]."""
        rows: npt.NDArray[np.generic] = token_ids
        for stage in self.stages:
            rows = stage.step(rows, past, positions if stage is self.stages[0] else None)
        (logits,) = self._head.run(["logits"], {"hidden_in": rows.reshape(-1, rows.shape[-1])})
        return logits.reshape(*token_ids.shape, -1)
