"""A program for one core: instructions, what lies where in DRAM, and what it is for, as a file whose every byte is checked."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

from protos.chip.core import Core
from protos.chip.encoding import decode, encode
from protos.chip.instructions import Instruction
from protos.errors import Corrupt, InvalidInput

MAGIC, VERSION = b"GLMCHIP\0", 1
MOST_BYTES = 1 << 30
_HEADER = len(MAGIC) + 4 + 4 + 32  # magic, version, bytes of the description, digest of all that follows

# Who fills a region: the artifact; the host before a run; the program for the host; the program for itself, over runs or in one.
Purpose = Literal["weights", "input", "output", "cache", "scratch"]


@dataclass(frozen=True)
class Region:
    """`size_bytes` of DRAM at `address`. One of weights is the tensor `name` ("layers.3/qkv.weight") of the artifact."""

    name: str
    purpose: Purpose
    address: int
    size_bytes: int

    @property
    def stop(self) -> int:
        return self.address + self.size_bytes


@dataclass(frozen=True)
class Target:
    """What a program was compiled for: it runs on no other core, over no other artifact, and with no other numbers.

    `rows` rows of each of `sequences` sequences go through at once, into caches of `context` positions.
    """

    core: str
    core_digest: str
    artifact: str
    parts: tuple[str, ...]
    sequences: int
    rows: int
    context: int
    kv_dtype: str


@dataclass(frozen=True)
class Program:
    """`operators` are names for the numbers of BEGIN. `scratchpad_bytes` and `accumulator_bytes` are the most that it touches."""

    target: Target
    regions: tuple[Region, ...]
    operators: tuple[str, ...]
    scratchpad_bytes: int
    accumulator_bytes: int
    instructions: tuple[Instruction, ...]

    def check_core(self, core: Core) -> None:
        """Raises InvalidInput unless the program was compiled for this very core."""
        if self.target.core_digest != core.digest:
            raise InvalidInput(
                f"the program was compiled for another core: {self.target.core}, not this {core.name}",
                advice="compile it again: glmfleet compile",
            )

    @cached_property
    def code(self) -> bytes:
        return encode(self.instructions)

    def region(self, name: str) -> Region:
        """Raises KeyError."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> Mapping[str, Region]:
        return {region.name: region for region in self.regions}

    @property
    def dram_bytes(self) -> int:
        return max((region.stop for region in self.regions), default=0)

    def to_bytes(self) -> bytes:
        """The same program gives the same bytes."""
        plain = {
            "target": asdict(self.target),
            "regions": [[region.name, region.purpose, region.address, region.size_bytes] for region in self.regions],
            "operators": self.operators,
            "scratchpad_bytes": self.scratchpad_bytes,
            "accumulator_bytes": self.accumulator_bytes,
        }
        description = json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
        body = description + self.code
        sizes = VERSION.to_bytes(4, "little") + len(description).to_bytes(4, "little")
        return MAGIC + sizes + hashlib.sha256(sizes + body).digest() + body


def parse_program(data: bytes) -> Program:
    """Raises Corrupt for a file of another kind or version, one that is cut short, and for any bit that was changed."""
    if len(data) > MOST_BYTES or data[: len(MAGIC)] != MAGIC or len(data) < _HEADER:
        raise _bad("it is not one, or cut short")
    at = len(MAGIC)
    sizes, digest, body = data[at : at + 8], data[at + 8 : _HEADER], data[_HEADER:]
    version, description_bytes = int.from_bytes(sizes[:4], "little"), int.from_bytes(sizes[4:], "little")
    if version != VERSION:
        raise _bad(f"version {version}; this program reads {VERSION}")
    if hashlib.sha256(sizes + body).digest() != digest:
        raise _bad("its digest is of other bytes: damaged, or cut short")
    try:
        plain = json.loads(body[:description_bytes])
        return _parsed(plain, decode(body[description_bytes:]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _bad(f"its description is none: {str(error)[:80]}") from error


def _parsed(plain: Any, instructions: tuple[Instruction, ...]) -> Program:
    target = Target(**{**plain["target"], "parts": tuple(plain["target"]["parts"])})
    for field in fields(Target):
        if field.type == "int" and (type(getattr(target, field.name)) is not int or not 0 < getattr(target, field.name) < 1 << 32):
            raise ValueError(f"{field.name} is no size")
    regions = tuple(Region(str(name), purpose, address, size) for name, purpose, address, size in plain["regions"])
    for region in regions:
        if region.purpose not in get_args(Purpose) or not all(
            type(n) is int and 0 <= n < 1 << 48 for n in (region.address, region.size_bytes)
        ):
            raise ValueError(f"region {region.name[:40]}")
    sizes = plain["scratchpad_bytes"], plain["accumulator_bytes"]
    if not all(type(size) is int and 0 <= size < 1 << 40 for size in sizes):
        raise ValueError("sizes")
    return Program(target, regions, tuple(map(str, plain["operators"])), *sizes, instructions)


def overlapping(regions: tuple[Region, ...]) -> tuple[Region, Region] | None:
    """Two that share a byte; None where none do."""
    ordered = sorted((region for region in regions if region.size_bytes), key=lambda region: region.address)
    for first, second in itertools.pairwise(ordered):
        if second.address < first.stop:
            return first, second
    return None


def _bad(why: str) -> Corrupt:
    return Corrupt(f"chip program: {why}", advice="compile it again: glmfleet compile")
