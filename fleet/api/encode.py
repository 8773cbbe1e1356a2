"""Views as JSON text: the one mapping that HTTP bodies, events and `--json` share."""

from __future__ import annotations

import dataclasses
import json
from typing import Any


def plain(value: Any) -> Any:
    """Dataclasses to dicts, tuples to lists, all the way down."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def line(value: Any) -> str:
    """On one line, as an event's data has to be."""
    return json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"))
