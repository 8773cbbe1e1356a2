"""Text from outside in disguise, so that what a chat template made of it shows which control tokens only the template wrote.

Rendering loses where a character came from: "<|user|>" in a message looks like the template's own. So a conversation is rendered a second
time with each outside character that could begin or end a control token's spelling replaced, one for one, by a private-use character
that occurs nowhere else. Filters, slices and concatenations carry it through, and no spelling can come together from pieces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from protos.errors import InvalidInput

Plain: TypeAlias = Any  # strings, numbers, lists and objects, as JSON has them

# Planes 15 and 16 belong to nobody: no tokenizer normalizes them, no template looks for them.
_PRIVATE = (*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))
_LONGEST_TAG = 64
# How JSON escapes one: as two halves.
_ESCAPED = re.compile(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}")
# A template makes a tag of the role: '<|' + role + '|>'. These may become one.
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "observation", "function"})


@dataclass(frozen=True)
class Disguise:
    """Of one conversation."""

    _twins: Mapping[str, str]
    _pattern: re.Pattern[str]
    _control: tuple[str, ...]

    def put_on(self, outside: Plain) -> Plain:
        """The same with every string, keys included, in disguise."""
        return _mapped(outside, self._hidden)

    def unescaped(self, text: str) -> str:
        """As `tojson(ensure_ascii=true)` would have left the characters that are in disguise."""
        return _ESCAPED.sub(lambda match: self._escapes.get(match[0], match[0]), text)

    def is_in(self, text: str) -> bool:
        return not self._worn.isdisjoint(text)

    def take_off(self, text: str) -> str:
        return text.translate(self._bare)

    # Looked up for each piece of a prompt, of which there may be as many as there are twins.
    @cached_property
    def _escapes(self) -> Mapping[str, str]:
        return {json.dumps(twin)[1:-1]: twin for twin in self._twins.values()}

    @cached_property
    def _worn(self) -> frozenset[str]:
        return frozenset(self._twins.values())

    @cached_property
    def _bare(self) -> Mapping[int, str]:
        return {ord(twin): character for character, twin in self._twins.items()}

    def _hidden(self, text: str, is_role: bool) -> str:
        if is_role and _could_be_inside(text, self._control):
            return self._twin_of(text)
        return self._pattern.sub(lambda match: match[0] if match["kept"] else self._twin_of(match[0]), text)

    def _twin_of(self, text: str) -> str:
        return "".join(self._twins.get(character, character) for character in text)


class Spellings:
    """How a tokenizer's added tokens are written: the `control` ones, and `others`, which text from outside may contain as well.

    `normalized` is the tokenizer's own: a character that becomes one of a control token's is as good as that.
    """

    def __init__(self, control: Iterable[str], others: Iterable[str], normalized: Callable[[str], str] | None = None) -> None:
        self._control = tuple(sorted((text for text in control if text), key=len, reverse=True))
        self._edges = frozenset(end for text in self._control for end in (text[0], text[-1]) if not (end.isalnum() or end.isspace()))
        self._others = tuple(sorted((text for text in others if self._edges & set(text)), key=len, reverse=True))
        self._normalized = normalized
        written = {*self._control, *(normalized(text) for text in self._control if normalized is not None)}
        self._written = frozenset(written)
        self._any = _one_of(sorted({*written, *self._others}, key=len, reverse=True))

    def control_in(self, text: str) -> list[str]:
        """What is written there as control tokens are, in order: as it stands, and as the tokenizer normalizes it."""
        forms = [text] if self._normalized is None else [text, self._normalized(text)]
        return [match[0] for form in forms for match in self._any.finditer(form) if match[0] in self._written]

    def disguise(self, outside: Plain, rendered: str) -> Disguise | None:
        """None where nothing of it could become part of a control token; `rendered` is what the template made of it as it stands.

        Raises InvalidInput for a text with every private-use character there is.
        """
        texts = list(_strings(outside))
        characters = {character for text, _ in texts for character in text}
        pattern = self._pattern(characters)
        if not any(
            (is_role and _could_be_inside(text, self._control)) or any(not match["kept"] for match in pattern.finditer(text))
            for text, is_role in texts
        ):
            return None
        hidden = sorted({*"".join(self._control), *self._dangerous(characters), *(c for text, is_role in texts if is_role for c in text)})
        taken = characters.union(rendered)
        twins = dict(zip(hidden, (chr(number) for number in _PRIVATE if chr(number) not in taken), strict=False))
        if len(twins) < len(hidden):
            raise InvalidInput("the messages have all private-use characters of Unicode", advice="leave some out")
        return Disguise(twins, pattern, self._control)

    def _dangerous(self, characters: Iterable[str]) -> frozenset[str]:
        if self._normalized is None:
            return self._edges
        become = {one for one in characters if not one.isascii() and self._edges & set(self._normalized(one))}
        return self._edges | become

    def _pattern(self, characters: Iterable[str]) -> re.Pattern[str]:
        """Spellings, as long as can be; or what is kept; or a dangerous character alone."""
        spelled, others = (_one_of(texts).pattern for texts in (self._control, self._others))
        alone = "".join(map(re.escape, sorted(self._dangerous(characters))))
        # What templates look for in messages (<think>, </tool_call>) stays, so that they find it, unless a control token begins in it.
        no = f"(?!{spelled})"
        # Its length is bounded: Python's `re` remembers each step of a repeated group.
        tag = rf"{no}<(?:{no}/)?(?:{no}\w){{1,{_LONGEST_TAG}}}{no}>"
        return re.compile(f"{spelled}|(?P<kept>{others}|{tag})" + (f"|[{alone}]" if alone else ""))


def _one_of(texts: Iterable[str]) -> re.Pattern[str]:
    """The first of them that is there, or nothing at all."""
    return re.compile("|".join(map(re.escape, texts)) or "(?!)")


def _could_be_inside(role: str, control: Iterable[str]) -> bool:
    return bool(role) and role not in _ROLES and any(role in text for text in control)


def _strings(value: Plain) -> Iterator[tuple[str, bool]]:
    """(each string, keys included, whether it is a message's role)."""
    found: list[tuple[str, bool]] = []

    def note(text: str, is_role: bool) -> str:
        found.append((text, is_role))
        return text

    _mapped(value, note)
    yield from found


def _mapped(value: Plain, change: Callable[[str, bool], str], is_role: bool = False) -> Plain:
    if isinstance(value, str):
        return change(value, is_role)
    if isinstance(value, Mapping):
        return {change(key, False): _mapped(item, change, key == "role") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value
