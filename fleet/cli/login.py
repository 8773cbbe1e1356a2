"""Commands of a machine that is not the coordinator's: logging in and out."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fleet.cli.options import DEFAULT_PORT, HomeOption, open_home
from fleet.cli.output import note
from fleet.home import Home
from fleet.trust.login import Login, LoginCode, certificate_der, is_code, is_named, parse_code, public_der, write_login
from protos.enrolment import authority_hash, fleet_words
from protos.errors import Conflict, Denied, FleetError, Internal, InvalidInput
from protos.ids import fleet_id
from protos.net import https
from protos.net.addresses import address_of

KEY_VARIABLE = "GLMFLEET_KEY"


def login(
    where: Annotated[str, typer.Argument(metavar="HOST[:PORT]|CODE", help="Where the coordinator answers, or a login code.")],
    key: Annotated[
        str | None, typer.Option("--key", envvar=KEY_VARIABLE, help="Of `glmfleet keys create` (default: asked for).", show_default=False)
    ] = None,
    fleet: Annotated[
        str | None,
        typer.Option("--fleet", metavar="HASH|WORDS", help="The fleet's fingerprint (default: shown, to be compared).", show_default=False),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Use a coordinator on another machine: from then on every command here asks that one.

    Example: glmfleet login desk.local --key glmfleet-key-...
    """
    opened = open_home(home)
    if (running := opened.running_coordinator()) is not None:
        raise Conflict(f"a coordinator of this home runs at {running.url}", advice="use another --home to log in elsewhere")
    code = parse_code(where) if is_code(where) else None
    addresses = code.addresses if code else (address_of(where, DEFAULT_PORT),)
    address, authority = _first(addresses, code, fleet)
    if not (chosen := code.key if code else key or _ask_for_key()):
        raise InvalidInput("no key was given", advice="make one where the coordinator runs: glmfleet keys create NAME --role operator")
    context, fleet_of = https.pinned(certificate_der(authority)), fleet_id(public_der(authority))
    told = https.ask(address, "GET", "/api/v1/me", context=context, fleet=fleet_of, key=chosen)
    if not isinstance(told, dict):
        raise Internal(f"{address} does not say whose key it is")
    write_login(opened, Login(address, authority, chosen, str(told.get("name", "")), str(told.get("role", ""))))
    note(f"logged in at {address} as {told.get('name')} ({told.get('role')}); to leave: glmfleet logout{opened.option}")


def logout(home: HomeOption = None) -> None:
    """Forget the coordinator that this home is logged in at. Its key stays good: `glmfleet keys revoke` ends it.

    Example: glmfleet logout
    """
    opened = open_home(home)
    note("logged out" if _forget(opened) else "this home was not logged in")


def _forget(home: Home) -> bool:
    try:
        home.login.unlink()
    except FileNotFoundError:
        return False
    return True


def _first(addresses: tuple[str, ...], code: LoginCode | None, fleet: str | None) -> tuple[str, str]:
    """The first of them where the fleet answers that is meant, and its authority (PEM). Raises what the last one says."""
    for place, address in enumerate(addresses, 1):
        try:
            authority = _authority_at(address)
            _check_fleet(address, authority, code, fleet)
        except FleetError:
            if place == len(addresses):
                raise
            continue
        return address, authority
    raise InvalidInput("no address was given")


def _authority_at(address: str) -> str:
    told = https.ask(address, "GET", "/api/v1/join", context=https.unverified(), fleet=None)
    authority = told.get("authority") if isinstance(told, dict) else None
    if not isinstance(authority, str):
        raise Internal(f"{address} answers as no coordinator does", advice="is it the right address?")
    return authority


def _check_fleet(address: str, authority: str, code: LoginCode | None, fleet: str | None) -> None:
    """Raises Denied unless it is the fleet that was meant, by the code, by what was given, or by whoever compares the words."""
    digest = authority_hash(public_der(authority))
    if code is not None and digest != code.authority:
        raise Denied(
            f"the coordinator at {address} is not of this code's fleet", advice="somebody else has this address; ask for another code"
        )
    if fleet is not None and not is_named(authority, fleet):
        raise Denied(
            f"the coordinator at {address} is of another fleet than {fleet[:80]!r}: {fleet_words(digest)}",
            advice="compare with what `glmfleet serve` shows there",
        )
    if code is not None or fleet is not None:
        return
    note(f"the coordinator at {address} has the fingerprint: {fleet_words(digest)}")
    if not sys.stdin.isatty():
        raise InvalidInput("nobody is here to compare the fingerprint", advice="give the one that the coordinator shows with --fleet")
    if not typer.confirm("Does `glmfleet serve` show the same five words there?", err=True):
        raise Denied("another fleet answers there, or somebody between you and yours", advice="ask whoever runs the coordinator for a code")


def _ask_for_key() -> str:
    """Without echo, or a line of standard input."""
    if sys.stdin.isatty():
        return str(typer.prompt("Key", hide_input=True, err=True)).strip()
    return sys.stdin.readline().strip()
