"""The world's program: carries the links of a home's simulated devices, and does to them what scenarios and people say."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from protos.errors import InvalidInput, NotFound
from protos.net.door import raise_limit
from sim_devices.control import served
from sim_devices.events import Events
from sim_devices.faults import parse_fault
from sim_devices.fleet_file import parse_fleet, parse_scenario
from sim_devices.local_fleet import LocalFleet
from sim_devices.log_file import log_to_stderr
from sim_devices.network import ShapedNetwork
from sim_devices.processes import LOG
from sim_devices.scenario import PlannedFault


class World:
    """Answers the control socket.

    "add NAME INTERFACE" gives the ports of its doors, "target NAME HOST:PORT" says where it listens itself, "remove NAME";
    "links FILE FOLDER TEXT" of a fleet; "scenario FILE FOLDER TEXT" starts its faults; "fault AFTER FOR TEXT" ("" for none); "faults".
    """

    def __init__(self, network: ShapedNetwork, events: Events) -> None:
        self._network = network
        self._events = events

    async def handle(self, words: Sequence[str]) -> object:
        match words:
            case ["add", name, interface]:
                return await self._network.add(name, interface)
            case ["target", name, address]:
                self._network.target(name, address)
            case ["remove", name]:
                await self._network.remove(name)
                self._events.forget(name)
            case ["links", file, folder, text]:
                fleet = parse_fleet(file, text, Path(folder))
                self._network.shape(fleet.links, fleet.seed)
            case ["scenario", file, folder, text]:
                scenario = parse_scenario(file, text, Path(folder))
                return self._events.begin(scenario.faults, scenario.seed)
            case ["fault", after, lasting, text]:
                planned = PlannedFault(parse_fault(text), float(after), float(after), float(lasting) if lasting else None)
                return await self._events.once(planned)
            case ["faults"]:
                return self._events.report()
            case _:
                raise InvalidInput(f"not known here: {' '.join(words)[:80]}")
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Says one JSON line on stdout when it is ready; ends with SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m sim_devices.world", description=__doc__)
    parser.add_argument("--sim", type=Path, required=True, help="folder of the devices' folders")
    parser.add_argument("--state", type=Path, required=True, help="folder of its own")
    options = parser.parse_args(arguments)
    raise_limit()
    log_to_stderr(options.state / LOG)
    asyncio.run(_run(options.sim, options.state))
    return 0


async def _run(sim: Path, state: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    network = ShapedNetwork()
    fleet = LocalFleet(sim.parent, _no_identity)
    async with Events(fleet, network, state) as events, served(state, World(network, events).handle):
        sys.stdout.write(json.dumps({"address": str(state)}) + "\n")
        sys.stdout.flush()
        await stop.wait()
    await network.close()


def _no_identity(folder: Path, _name: str) -> None:
    raise NotFound(f"no identity in {folder}", advice="start it with `glmfleet sim up`")


if __name__ == "__main__":
    sys.exit(main())
