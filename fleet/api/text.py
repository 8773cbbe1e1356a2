"""Texts in bodies of JSON: each has to be Unicode that can be written down."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from fastapi import Request

from fleet.text import is_text
from protos.errors import InvalidInput

# JSON can escape half a surrogate pair, and Python reads it, raw or escaped; no text of ours, of a store or of a wire can hold it. A body
# that has none of these, and is UTF-8, has no such half. Others are read once more: an emoji may be escaped as its two halves.
DEEPEST = 100  # what reads a body further on does so by recursion
_MAY_BE_HALF = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]|\x00")


async def only_text(request: Request) -> None:
    """A dependency of routes. Raises InvalidInput naming the place of the first text, or key, that is none."""
    body = await request.body()
    may_be_deep = body.count(b"{") + body.count(b"[") > DEEPEST
    if not may_be_deep and not _MAY_BE_HALF.search(body):
        return
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return  # it is told as what it is: no JSON
    if may_be_deep and _depth(value) > DEEPEST:
        raise InvalidInput(f"the body is nested more than {DEEPEST} deep", advice="send it flatter")
    for place, text in _texts(value):
        if not is_text(text):
            raise InvalidInput(f"{place or 'the body'}: not Unicode: half of a surrogate pair", advice="send whole characters")


def _depth(value: Any) -> int:
    """Of objects and lists in each other, without recursion."""
    level, deep = [value], 0
    while level := [one for one in level if isinstance(one, dict | list)]:
        deep += 1
        level = [item for one in level for item in (one.values() if isinstance(one, dict) else one)]
    return deep


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """(place, text) of all texts and keys, without recursion: a body may be nested as deep as its reader allows."""
    open_: list[tuple[str, Any]] = [("", value)]
    while open_:
        place, value = open_.pop()
        if isinstance(value, str):
            yield place, value
        elif isinstance(value, dict):
            for key, item in value.items():
                yield f"a key in {place or 'the body'}", key
                open_.append((f"{place}.{key}"[:100].lstrip("."), item))
        elif isinstance(value, list):
            open_ += [(f"{place}[{number}]"[:100], item) for number, item in enumerate(value)]
