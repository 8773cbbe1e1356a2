"""Text from outside is put in disguise, and seen through, in time that grows as it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from device.text.disguise import Disguise, Spellings

MORE = 8


def roles(count: int) -> dict[str, Any]:
    """So many strange characters, each of which gets a twin: a role may be anywhere in what a template is told."""
    return {"messages": [{"role": chr(0x4E00 + number), "content": "<|user|>"} for number in range(count)]}


def in_disguise(count: int) -> tuple[Disguise, Mapping[str, Any]]:
    found = Spellings(["<|user|>"], []).disguise(roles(count), "")
    assert found is not None
    return found, roles(count)


def unescape(count: int) -> Callable[[], object]:
    disguise, outside = in_disguise(count)
    text = "".join(disguise._escapes) + str(disguise.put_on(outside))
    return lambda: disguise.unescaped(text)


def take_off(count: int) -> Callable[[], object]:
    """As many pieces as there are roles."""
    disguise, outside = in_disguise(count)
    pieces = [one["role"] + one["content"] for one in disguise.put_on(outside)["messages"]]
    return lambda: [disguise.take_off(one) for one in pieces if disguise.is_in(one)]


def look(count: int) -> Callable[[], object]:
    """At honest words, which have none."""
    disguise, _ = in_disguise(count)
    return lambda: [disguise.is_in("honest") for _ in range(count)]


def put_on(count: int) -> Callable[[], object]:
    return lambda: in_disguise(count)


def long_word(count: int) -> Callable[[], object]:
    """What could be the name of a tag, without its end."""
    return lambda: Spellings(["<|user|>"], []).disguise({"content": ("<" + "a" * 100) * (count // 10)}, "")


def seconds(work: Callable[[], object]) -> float:
    """The quickest of three: others use this machine too."""
    found = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


@pytest.mark.parametrize("work", [unescape, take_off, look, put_on, long_word])
def test_eight_times_the_text_takes_eight_times_the_time(work: Callable[[int], Callable[[], object]]) -> None:
    """Work that grows as the square takes 64 times; 32 leaves room for a busy machine."""
    few, many = seconds(work(1500)), seconds(work(1500 * MORE))
    assert many < 32 * few + 0.1, f"{few:.4f} s, {many:.4f} s"


def test_what_is_put_on_comes_off() -> None:
    disguise, outside = in_disguise(50)
    worn = disguise.put_on(outside)["messages"]
    assert [disguise.take_off(one["content"]) for one in worn] == ["<|user|>"] * 50
    assert disguise.unescaped("".join(disguise._escapes)) == "".join(disguise._escapes.values())
    assert disguise.unescaped(r"\ud83d\ude00 \udb80 \\u1234") == r"\ud83d\ude00 \udb80 \\u1234"
