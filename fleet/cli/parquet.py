"""Rows as a Parquet file on stdout."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from arro3.core import Array, DataType, Table
from arro3.io import write_parquet

from protos.errors import InvalidInput


def print_parquet(rows: Iterable[dict[str, Any]]) -> None:
    """Rows have the same names. Raises InvalidInput where stdout is a terminal, or there is no row to tell columns of."""
    if sys.stdout.isatty():
        raise InvalidInput("a Parquet file is nothing for a terminal", advice="write it into a file: --format parquet > FILE")
    sys.stdout.buffer.write(parquet(list(rows)))
    sys.stdout.buffer.flush()


def parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    """The file. Raises InvalidInput for no rows."""
    if not rows:
        raise InvalidInput("there is nothing in that time", advice="a Parquet file of nothing would have no columns")
    columns = {name: _array([row[name] for row in rows]) for name in rows[0]}
    file = io.BytesIO()
    write_parquet(Table.from_arrays(list(columns.values()), names=list(columns)), file)
    return file.getvalue()


def _array(values: Sequence[Any]) -> Array:
    """Null where there is none; what is sometimes whole is a float, and what is never known too."""
    known = {type(value) for value in values if value is not None}
    if known == {bool}:
        return Array(values, DataType.bool())
    if known == {int}:
        return Array(values, DataType.int64())
    if known == {str}:
        return Array(values, DataType.string())
    return Array([None if value is None else float(value) for value in values], DataType.float64())
