"""What was measured of one artifact, as it is kept beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from protos.errors import Corrupt
from quantize.quality.scores import Distance, Doubles, MeanInterval, Quality, WindowScore, quality, relative_rms

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Circumstances:
    """What the figures hold for; `text` names what was read, `engine` what computed the artifact's side."""

    text: str
    tokens: int
    window_tokens: int
    kv_dtype: str
    engine: str
    source: str
    date: str


@dataclass(frozen=True)
class Reference:
    """The logits that another framework gave for sequences of its choice, against the fp32 graphs' and the int8 artifact's."""

    file: str
    sequences: int
    fp32: Distance
    int8: Distance


@dataclass(frozen=True)
class QualityReport:
    """`layers[i]`: relative rms error of the residual stream after layer i."""

    circumstances: Circumstances
    quality: Quality
    layers: tuple[MeanInterval, ...]
    reference: Reference | None = None

    def to_bytes(self) -> bytes:
        return (json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=1, ensure_ascii=False) + "\n").encode()


def make_report(
    circumstances: Circumstances, scores: Sequence[WindowScore], layer_squares: Doubles, reference: Reference | None = None
) -> QualityReport:
    """`layer_squares`: [layers, windows, 2], see `quantize.quality.walk`."""
    return QualityReport(circumstances, quality(scores), tuple(relative_rms(squares) for squares in layer_squares), reference)


def parse_report(data: bytes) -> QualityReport:
    """Raises Corrupt."""
    try:
        plain = json.loads(data)
        if plain["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format {plain['format_version']}")
        return QualityReport(
            Circumstances(**plain["circumstances"]),
            Quality(**{name: MeanInterval(**value) for name, value in plain["quality"].items()}),
            tuple(MeanInterval(**value) for value in plain["layers"]),
            _reference(plain["reference"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"the quality report cannot be read: {str(error)[:100]}", advice="measure again: glmfleet model eval NAME") from error


def _reference(plain: dict[str, Any] | None) -> Reference | None:
    if plain is None:
        return None
    return Reference(plain["file"], plain["sequences"], Distance(**plain["fp32"]), Distance(**plain["int8"]))
