"""A gateway with hollow devices behind it, in one process, until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from device.agent.announce import Announcement
from device.agent.identity import insecure_identity, load_identity
from device.agent.member_service import MemberService
from device.agent.membership import leave
from device.agent.program import until_expired
from device.positive import positive
from device.tasks import first_of
from protos.errors import Denied, FleetError
from protos.net.door import raise_limit
from sim_devices.hollow.fleet import HollowFleet, HollowPlan
from sim_devices.log_file import log_to_stderr
from sim_devices.processes import LOG
from sim_devices.profiles import load_profile

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Says one JSON line on stdout: where it is when it is ready, or why it cannot start."""
    options = _parse(arguments)
    raise_limit()
    log_to_stderr(options.state / LOG)
    try:
        asyncio.run(_run(options))
    except FleetError as error:
        _say(error=type(error).__name__, detail=error.detail, advice=error.advice)
        _log.error("%s", f"{error.detail}; {error.advice}" if error.advice else error.detail)
        return 1
    return 0


async def _run(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    known = {name: load_profile(name) for name in options.profile}
    plan = HollowPlan(options.name, options.count, [known[name] for name in options.profile], options.memory)
    identity = insecure_identity(options.state) if options.insecure else load_identity(options.state)
    left = asyncio.Event()

    def leave_fleet() -> None:
        left.set()
        stop.set()

    membership = MemberService(options.state, identity.credentials, leave_fleet) if identity.credentials else None
    async with AsyncExitStack() as stack:
        fleet = HollowFleet(plan, identity, host=options.interface, port=options.port, membership=membership)
        await stack.enter_async_context(fleet)
        # What lives as long as the process need not be looked through again and again.
        gc.collect()
        gc.freeze()
        _, _, port = fleet.address.rpartition(":")
        announcement = Announcement(identity.device_id, identity.fleet_id, int(port), (options.interface,), gateway=True)
        await stack.enter_async_context(announcement)
        _say(device_id=identity.device_id, name=options.name, address=fleet.address)
        await first_of(_happens(stop), until_expired(identity.credentials))
    if identity.credentials is not None and not stop.is_set():
        raise Denied(
            "the gateway's certificate has expired: nobody can connect to it", advice="start it again: `glmfleet sim up` renews it"
        )
    if left.is_set():
        await asyncio.to_thread(leave, options.state, wipe=True)


async def _happens(event: asyncio.Event) -> None:
    await event.wait()


def _say(**facts: str) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sim_devices.hollow", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="folder with the gateway's identity")
    parser.add_argument("--name", required=True, help="the gateway's; its devices are NAME-1 and on")
    parser.add_argument("--count", type=positive, required=True, help="of devices")
    parser.add_argument("--profile", action="append", required=True, help="a name, or a TOML file; repeated: in turn")
    parser.add_argument("--memory", type=positive, default=None, metavar="BYTES", help="of each, instead of the profile's")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--interface", default="127.0.0.1", help="IPv4 address to listen on and to announce")
    parser.add_argument("--insecure", action="store_true", help="without TLS, on loopback only")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
