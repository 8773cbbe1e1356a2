"""What a test of the command calls: a command line in, its exit code and two outputs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Command: TypeAlias = Callable[..., tuple[int, str, str]]
