"""Options that many commands share."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from fleet.home import Home


def _or_before_the_command(context: typer.Context, value: Path | None) -> Path | None:
    return value or context.find_root().params.get("home")


HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        help="State folder (default: GLMFLEET_HOME, else the user's data folder).",
        callback=_or_before_the_command,
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help="Deployment or model (default: the only one).", show_default=False)]
InsecureOption = Annotated[bool, typer.Option("--insecure", help="Plaintext instead of TLS; loopback only.")]
InterfaceOption = Annotated[
    list[str] | None,
    typer.Option("--interface", metavar="NAME|IP", help="Network interface for mDNS (default: all); may be repeated.", show_default=False),
]

DEFAULT_PORT = 7400  # of `glmfleet serve`
LONGEST_SECONDS = 36500 * 86400.0
MOST_BYTES = (1 << 63) - 1  # that a program can count

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B?|B)?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)?", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def open_home(path: Path | None) -> Home:
    return Home.open(path)


def parse_size(text: str) -> int:
    """Bytes of "512MiB", "2G", "1000000". Raises typer.BadParameter, also for none, and for a part of a byte: a unit was forgotten."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise typer.BadParameter(f"not a size: {text!r}; write for example 512MiB or 2GiB")
    number, unit, binary = match.groups()
    power = " KMGT".index(unit.upper()) if unit else 0
    # "2G" is what people write for memory: binary, like "2GiB"; only "2GB" is decimal.
    decimal = bool(unit) and not binary and text.strip().upper().endswith("B")
    size = Fraction(number) * (1000 if decimal else 1024) ** power
    if not 1 <= size <= MOST_BYTES or (power == 0 and size.denominator != 1):
        raise typer.BadParameter(f"not a size: {text!r} is {float(size):g} bytes; write for example 512MiB or 2GiB")
    return int(size)


def parse_duration(text: str, longest: float = LONGEST_SECONDS) -> float:
    """Seconds of "90", "90s", "10m", "2h", "1d", more than 0 and at most `longest`. Raises typer.BadParameter."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise typer.BadParameter(f"not a duration: {text!r}; write for example 90s, 10m, 2h or 1d")
    seconds = float(match[1]) * _SECONDS[(match[2] or "s").lower()]
    if not 0 < seconds <= longest:
        raise typer.BadParameter(f"{text} is out of range: it has to be more than 0 and at most {longest / _SECONDS['d']:,.0f}d")
    return seconds


def parse_names(text: str | None) -> tuple[str, ...]:
    """("a", "b") of "a,b", () of None: the option was not given. Raises typer.BadParameter for one that names nothing."""
    names = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    if text is not None and not names:
        raise typer.BadParameter(f"no names: {text!r}; write for example a,b, or leave the option out")
    return names


def parse_ids(text: str | None) -> tuple[int, ...]:
    """Token ids of "1,2,3". Raises typer.BadParameter."""
    try:
        ids = tuple(int(part) for part in parse_names(text))
    except ValueError as error:
        raise typer.BadParameter(f"not token ids: {text!r}; write for example 1,2,3") from error
    if any(not 0 <= each < 1 << 32 for each in ids):
        raise typer.BadParameter(f"not token ids: {text!r}; they are not negative")
    return ids
