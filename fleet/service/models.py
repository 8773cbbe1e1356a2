"""What the coordinator shows of a model, from its manifest."""

from __future__ import annotations

from fleet.answering.infill import fills_blanks
from fleet.service.views import ModelView
from protos.manifest import Manifest


def model_view(name: str, manifest: Manifest) -> ModelView:
    config = manifest.config
    return ModelView(
        name=name,
        digest=manifest.digest,
        architecture=config.architecture,
        parameters=manifest.provenance.parameters,
        layers=config.layers,
        hidden_size=config.hidden_size,
        context=config.max_positions,
        bits=manifest.quantization.bits,
        block_size=manifest.quantization.block_size,
        size_bytes=sum(blob.size_bytes for blob in manifest.blobs().values()),
        license=manifest.provenance.license,
        notice=manifest.provenance.notice,
        source=manifest.provenance.source,
        fills_blanks=fills_blanks(config),
        sampling=manifest.sampling.said,
    )
