"""Reading a TOML table that trusts nothing: each error names the file, the key and what is allowed."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from protos.errors import InvalidInput, NotFound

T = TypeVar("T")


class Table:
    """Values are taken by key; `end` refuses what nobody took."""

    def __init__(self, file: str, path: str, data: Mapping[str, object]) -> None:
        self._file = file
        self._path = path
        self._left = dict(data)
        self._known: list[str] = []

    @property
    def path(self) -> str:
        """Where we are, for errors: "devices[2]"."""
        return self._path

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def text(self, key: str, default: str | None = None, *, longest: int = 200) -> str:
        value = self._take(key, default)
        if not isinstance(value, str) or len(value) > longest or not value.isprintable():
            raise self.wrong(key, f"a text in one line, of at most {longest} characters", value)
        return value

    def parsed(self, key: str, parse: Callable[[str], T], default: T) -> T:
        """A text that `parse` reads, whose ValueError says what is allowed."""
        value = self._take(key, None)
        if value is None:
            return default
        try:
            if not isinstance(value, str):
                raise ValueError("a text, in quotes")
            return parse(value)
        except ValueError as error:
            raise self.wrong(key, str(error), value) from error

    def whole(self, key: str, default: int, lowest: int, highest: int) -> int:
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise self.wrong(key, f"a whole number from {lowest} to {highest}", value)
        return value

    def number(self, key: str, default: float | None, lowest: float, highest: float) -> float | None:
        value = self._take(key, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and lowest <= value <= highest):
            raise self.wrong(key, f"a number from {lowest:g} to {highest:g}", value)
        return float(value)

    def choice(self, key: str, default: str, allowed: Sequence[str]) -> str:
        value = self._take(key, default)
        if value not in allowed:
            raise self.wrong(key, " or ".join(repr(one) for one in allowed), value)
        return str(value)

    def texts(self, key: str, count: int) -> tuple[str, ...]:
        value = self._take(key, None)
        if not isinstance(value, list) or len(value) != count or not all(isinstance(one, str) and len(one) <= 200 for one in value):
            raise self.wrong(key, f"a list of {count} texts", value)
        return tuple(value)

    def table(self, key: str) -> Table:
        value = self._take(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "a table", value)
        return Table(self._file, self._below(key), value)

    def tables(self, key: str) -> list[Table]:
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self.wrong(key, f"tables, each begun with [[{key}]]", value)
        return [Table(self._file, f"{self._below(key)}[{number}]", one) for number, one in enumerate(value, 1)]

    def keys(self) -> list[str]:
        """What is left, all of it known from now on."""
        self._known += self._left
        return list(self._left)

    def end(self) -> None:
        for key in self._left:
            if key not in self._known:
                raise InvalidInput(f"{self._file}: unknown key {self._below(key)!r}", advice=f"known here: {', '.join(self._known)}")

    def wrong(self, key: str, allowed: str, value: object = None) -> InvalidInput:
        shown = "is missing" if value is None else f"is {str(value)[:60]!r}"
        return InvalidInput(f"{self._file}: {self._below(key)} {shown}", advice=f"allowed: {allowed}")

    def bad(self, detail: str, advice: str) -> InvalidInput:
        """About this table as a whole."""
        return InvalidInput(f"{self._file}: {self._path}: {detail}" if self._path else f"{self._file}: {detail}", advice=advice)

    def _take(self, key: str, default: object) -> object:
        self._known.append(key)
        return self._left.pop(key, default)

    def _below(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key


def read_table(file: str, text: str) -> Table:
    """Raises InvalidInput for what is not TOML."""
    try:
        return Table(file, "", tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidInput(f"{file}: not TOML: {error}", advice="compare it with `glmfleet sim gallery --show street`") from error


def read_text(path: Path, what: str) -> str:
    """Raises NotFound."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise NotFound(f"cannot read {what} {path}: {reason}", advice="check the path") from error
