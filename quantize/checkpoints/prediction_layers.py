"""Layers past a model's last, which predict the token after the next: we leave them out, and say so."""

from __future__ import annotations

import re
from collections.abc import Iterable


def left_out(names: Iterable[str], layer: str, layers: int) -> str:
    """One line of what tensors' `names` show of layers from number `layers` on, "" where they show none. `layer` is what the name of
    layer {}'s tensors begins with."""
    pattern = re.compile(re.escape(layer).replace(r"\{\}", r"(\d{1,9})"))
    numbers = {int(found[1]) for name in names if (found := pattern.match(name))}
    beyond = sorted(number for number in numbers if number >= layers)
    if not beyond:
        return ""
    which = ", ".join([*(layer.format(number).rstrip(".") for number in beyond[:4]), *(["…"] if len(beyond) > 4 else [])])
    return f"left out: {len(beyond)} layer{'s' * (len(beyond) > 1)} that would predict further tokens ({which})"
