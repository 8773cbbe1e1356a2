"""An artifact as `quantize.quality` walks it: layer by layer on the engine that devices run. Needs onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from device.engine.stage import OutputHead, StageEngine
from device.pipeline.sequences import Request, Span
from device.stage_spec import DeploymentGeneration, StageShape, StageSpec
from fleet.deploying.load_order import row_multiple
from protos.dtypes import KvDtype
from protos.even import even_up
from protos.ids import PipelineId
from protos.manifest import Manifest
from protos.physics.costs import StageCost
from quantize.artifact.graph import build_stage_graph
from quantize.blocks import Floats
from quantize.parts import HEAD, stage_blobs, stage_parts
from quantize.quality.walk import Head, Rows, Run
from quantize.quality.windows import TokenIds, Window


@dataclass(frozen=True)
class EngineVersion:
    """See `quantize.quality.walk.Version`. `window` is the longest sequence's tokens."""

    manifest: Manifest
    blob_folder: Path
    window: int
    threads: int = 1
    kv_dtype: KvDtype = "float32"

    @property
    def layers(self) -> int:
        return self.manifest.config.layers

    @contextmanager
    def layer(self, number: int) -> Iterator[Run]:
        engine = StageEngine(self.spec(number, number + 1), self.blob_folder, self.threads)

        def run(rows: Rows, window: Window) -> Floats:
            engine.groups[0].free_all()
            if number == 0 and self.manifest.config.learned_positions:
                rows = _placed(window)
            if not (prefix := window.prefix):
                return engine.prefill(0, 0, 0, rows)
            # As the head has it run: what follows a prefix is decoded.
            made = [engine.prefill(0, 0, 0, rows[:prefix]).copy()]
            made += [engine.decode(0, [0], [row], rows[row : row + 1]).copy() for row in range(prefix, len(rows))]
            return np.concatenate(made)

        yield run

    @contextmanager
    def head(self) -> Iterator[Head]:
        head = OutputHead(self.spec(0, 1), self.blob_folder, self.threads)
        yield lambda rows: head.logits(rows.astype(np.float32, copy=False))

    def spec(self, start: int, stop: int) -> StageSpec:
        """Of the stage of layers [start, stop), with embedding and output head when it begins at 0; two slots."""
        config, first = self.manifest.config, start == 0
        body = [part for part in stage_parts(self.manifest, start, stop, head=first) if part != HEAD]
        context = even_up(self.window)
        parts = (*body, HEAD) if first else tuple(body)
        return StageSpec(
            generation=DeploymentGeneration("evaluation", 1),
            pipeline=PipelineId("evaluation"),
            manifest=self.manifest.digest,
            epoch=1,
            stage=0 if first else 1,
            stages=1 if first else 2,
            parts=parts,
            blobs=tuple(blob.digest for blob in stage_blobs(self.manifest, parts)),
            shape=StageShape(
                hidden_size=config.hidden_size,
                vocab_size=config.vocab_size,
                first_layer=start,
                stop_layer=stop,
                kv_heads=config.kv_heads,
                head_dim=config.head_dim,
                context=context,
                groups=1,
                slots_per_group=2,
                prefill_chunk=context,
                row_multiple=row_multiple(self.manifest),
                kv_dtype=self.kv_dtype,
                prefix_whole=config.prefix_whole,
                learned_positions=config.learned_positions,
                values_are_keys=config.latent is not None,
            ),
            graph=build_stage_graph(self.manifest, body, kv_dtype=self.kv_dtype),
            head_graph=build_stage_graph(self.manifest, [HEAD]) if first else b"",
            next=None,
            cost=StageCost(),
        )


def _placed(window: Window) -> TokenIds:
    """[S, 3]: each token with the two positions of its row."""
    request = Request(tuple(window.token_ids), prefix=window.prefix, spans=(Span(window.prefix, window.blank),))
    return np.array([(token, *request.positions(row)) for row, token in enumerate(window.token_ids)], np.int64)
