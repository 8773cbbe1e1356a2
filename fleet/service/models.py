"""What the coordinator shows of a model, from its manifest."""

from __future__ import annotations

import logging

from fleet.answering.infill import fills_blanks
from fleet.service.views import ModelView
from protos.errors import FleetError
from protos.manifest import Manifest
from quantize.artifact.store import ArtifactStore

_log = logging.getLogger(__name__)


def model_views(store: ArtifactStore) -> list[ModelView]:
    """By name; a model whose manifest is damaged is left out, and logged."""
    views = []
    for name in store.list():
        try:
            views.append(model_view(name, store.load(name)))
        except FleetError as error:
            _log.warning("%s (%s)", error.detail, error.advice)
    return views


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
