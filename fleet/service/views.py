"""What the API and the command show of models."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelView:
    name: str
    digest: str
    architecture: str
    parameters: int
    layers: int
    hidden_size: int
    context: int
    bits: int
    block_size: int
    size_bytes: int
    license: str
    notice: str
    source: str
    fills_blanks: bool = False  # it has no chat
    sampling: dict[str, float] = field(default_factory=dict)  # its maker's defaults, by parameter
