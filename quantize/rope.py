"""What the kinds of scaled rotary positions make of a model's pairs, as transformers computes them (modeling_rope_utils.py)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from protos.manifest import RopeScaling

Doubles = npt.NDArray[np.float64]


def linear(theta: float, rotary_dim: int, factor: float, magnitude: float = 1.0) -> RopeScaling:
    """Positions `factor` times as close."""
    return _scaling("linear", _unscaled(theta, rotary_dim) / factor, magnitude)


def yarn(
    theta: float,
    rotary_dim: int,
    factor: float,
    original_positions: int,
    *,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
    magnitude: float | None = None,
) -> RopeScaling:
    """Pairs that turn often within `original_positions` stay, those that turn less than once are `factor` times as slow, between them a
    ramp (YaRN, arXiv:2309.00071). `magnitude` None: the paper's."""
    plain = _unscaled(theta, rotary_dim)

    def pair_of(turns: float) -> float:
        """The pair, as a real number, that turns so often within the original positions."""
        return rotary_dim * math.log(original_positions / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_of(beta_fast), pair_of(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    slowed = np.clip((np.arange(len(plain)) - low) / (high - low if high != low else 1e-3), 0, 1)
    return _scaling("yarn", plain / factor * slowed + plain * (1 - slowed), yarn_magnitude(factor) if magnitude is None else magnitude)


def yarn_magnitude(factor: float, share: float = 1.0) -> float:
    """The paper's 0.1 ln(factor) + 1, the logarithm times `share`; 1 where nothing is stretched."""
    return 1.0 if factor <= 1 else 0.1 * share * math.log(factor) + 1.0


def llama3(theta: float, rotary_dim: int, factor: float, original_positions: int, low_turns: float, high_turns: float) -> RopeScaling:
    """Pairs that turn more than `high_turns` times within `original_positions` stay, those below `low_turns` are `factor` times as slow."""
    plain = _unscaled(theta, rotary_dim)
    turns = original_positions * plain / (2 * math.pi)
    kept = np.clip((turns - low_turns) / (high_turns - low_turns), 0, 1)
    return _scaling("llama3", plain / factor * (1 - kept) + plain * kept)


def _unscaled(theta: float, rotary_dim: int) -> Doubles:
    frequencies: Doubles = theta ** (-np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim)
    return frequencies


def _scaling(kind: str, frequencies: Doubles, magnitude: float = 1.0) -> RopeScaling:
    """Twelve digits: beyond them processors differ, and a manifest's digest would."""
    return RopeScaling(kind, tuple(float(f"{frequency:.12g}") for frequency in frequencies), float(f"{magnitude:.12g}"))
