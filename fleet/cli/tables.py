"""Tables that fit a terminal, in which names and ids can be copied: what people read gives way before what they type again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

Kind: TypeAlias = Literal["text", "names", "figure"]

_GAP = 2
_LEAST_FIRST = 8  # of the first column, before the table gets wider than the terminal


@dataclass(frozen=True)
class Column:
    """`text` is broken between words, and within where a line has no room for one; `names` (also ids) between words only, and in the
    first column not at all; a `figure` is not, and stands to the right."""

    title: str
    kind: Kind = "text"


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, to_stderr: bool = False) -> None:
    """A name in the first column that is too long for it has a line of its own above the rest of its row."""
    cells = [list(row) for row in rows]
    console = Console(stderr=to_stderr, highlight=False)
    widths = _widths(columns, cells, console.width)
    console.width = max(console.width, sum(widths) + _GAP * (len(widths) - 1))
    table = _table(columns, widths, header=True)
    for first, *others in cells:
        alone = columns[0].kind == "names" and cell_len(first) > widths[0]
        if alone:
            if table.show_header or table.row_count:
                console.print(table)
            console.print(Text(first), soft_wrap=True)
            table = _table(columns, widths, header=False)
        table.add_row(*map(Text, ("" if alone else first, *others)))  # Text: a device's name is no markup
    console.print(table)


def _table(columns: Sequence[Column], widths: Sequence[int], *, header: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold", show_header=header)
    for number, (column, width) in enumerate(zip(columns, widths, strict=True)):
        figure = column.kind == "figure"
        whole = figure or (column.kind == "names" and number == 0)
        table.add_column(column.title, justify="right" if figure else "left", no_wrap=whole, overflow="fold", width=width)
    return table


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], terminal: int) -> list[int]:
    """Of each column. Their sum is more than the terminal has where words that stay whole need it."""
    texts = [[column.title, *(row[number] for row in rows)] for number, column in enumerate(columns)]
    widest = [max(cell_len(line) for text in each for line in text.split("\n")) for each in texts]
    whole = [max(cell_len(word) for text in each for word in [*text.split(), ""]) for each in texts]  # no word is broken
    least = [max(cell_len(word) for word in [*column.title.split(), ""]) for column in columns]
    for number, column in enumerate(columns):
        if column.kind == "figure" or (column.kind == "names" and number == 0):
            whole[number] = least[number] = widest[number]
        elif column.kind == "names":
            least[number] = whole[number]
    room = terminal - _GAP * (len(columns) - 1)
    if sum(whole) > room and columns[0].kind == "names":
        first = max(room - sum(whole[1:]), min(_LEAST_FIRST, widest[0]), cell_len(columns[0].title))
        widest[0] = whole[0] = least[0] = max((size for text in texts[0] if (size := cell_len(text)) <= first), default=first)
    return _narrowed(_narrowed(widest, whole, room), least, room)


def _narrowed(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """The widest gives way first."""
    found = list(widths)
    while sum(found) > room:
        number = max((one for one in range(len(found)) if found[one] > least[one]), key=lambda one: found[one], default=None)
        if number is None:
            break
        found[number] -= 1
    return found
