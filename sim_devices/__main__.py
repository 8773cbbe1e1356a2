"""One simulated device: the agent of a real board, given a profile for hardware."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from device.agent.identity import insecure_identity, load_identity
from device.agent.program import AgentConfig, run_agent
from device.engine.opening import ONNX
from device.positive import positive
from protos.dialects import DIALECT
from protos.errors import FleetError
from protos.net.door import raise_limit
from sim_devices.chip.core_profiles import core_of
from sim_devices.chip.engine import isa_runtime
from sim_devices.control import served
from sim_devices.device_faults import DeviceFaults, SimulatedClock, SimulatedDisk
from sim_devices.hardware import SimulatedHardware
from sim_devices.log_file import log_to_stderr
from sim_devices.processes import LOG
from sim_devices.profiles import DIALECTS, TIMINGS, load_profile

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Says one JSON line on stdout: where it is when it is ready, or why it cannot start."""
    options = _parse(arguments)
    clock = SimulatedClock(options.clock_skew)
    raise_limit()
    log_to_stderr(options.state / LOG)
    for handler in logging.getLogger().handlers:
        if handler.formatter:
            handler.formatter.converter = clock.log_time
    used_up = threading.Event()

    def battery_empty() -> None:
        """As boards do, it then goes down by itself. Called in any thread."""
        used_up.set()
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        asyncio.run(_run(options, clock, battery_empty))
    except FleetError as error:
        _say(error=type(error).__name__, detail=error.detail, advice=error.advice)
        _log.error("%s", f"{error.detail}; {error.advice}" if error.advice else error.detail)
        return 1
    if used_up.is_set():
        _log.warning("the battery is used up")
    return 0


async def _run(options: argparse.Namespace, clock: SimulatedClock, battery_empty: Callable[[], None]) -> None:
    profile = load_profile(options.profile).run_as(options.timing, options.dialect)
    if options.ambient is not None:
        profile = profile.in_ambient(options.ambient)
    core = core_of(profile)
    hardware = SimulatedHardware(
        profile, options.pace, core=core, memory_bytes=options.memory, threads=options.threads, battery_empty=battery_empty
    )
    runtime = ONNX if core is None or profile.dialect == DIALECT else isa_runtime(core)
    identity = insecure_identity(options.state) if options.insecure else load_identity(options.state, clock)
    config = AgentConfig(
        state=options.state,
        name=options.name,
        host=options.interface,
        port=options.port,
        interfaces=(options.interface,),
        insecure=options.insecure,
        announced_port=options.announced_port,
        labels=dict(options.label),
    )
    disk = SimulatedDisk()
    async with served(options.state, DeviceFaults(hardware, disk, clock).handle):
        told = False

        def ready(address: str) -> None:
            """Of the first time: whoever started us waits for that line alone, and reads no other."""
            nonlocal told
            if not told:
                told = True
                _say(device_id=identity.device_id, name=options.name, address=address)

        await run_agent(config, hardware, ready, runtime=runtime, disk=disk, clock=clock)


def _say(**facts: str) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sim_devices", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="folder with identity and blobs")
    parser.add_argument("--name", required=True)
    parser.add_argument("--profile", required=True, help="a name, or a TOML file")
    parser.add_argument("--pace", choices=["fast", "realtime"], default="fast")
    parser.add_argument("--timing", default="", choices=["", *TIMINGS], help="instead of the profile's")
    parser.add_argument("--dialect", default="", choices=["", *DIALECTS], help="instead of the profile's")
    parser.add_argument("--memory", type=positive, default=None, metavar="BYTES", help="instead of the profile's")
    parser.add_argument("--threads", type=positive, default=1, help="of this machine, to compute with")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--announced-port", type=int, default=None, help="what to announce instead of the own port")
    parser.add_argument("--ambient", type=float, default=None, metavar="CELSIUS", help="instead of the profile's")
    parser.add_argument("--label", type=_label, action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--clock-skew", type=float, default=0.0, metavar="SECONDS", help="how wrong its wall clock is")
    parser.add_argument("--interface", default="127.0.0.1", help="IPv4 address to listen on and to announce")
    parser.add_argument("--insecure", action="store_true", help="without TLS, on loopback only")
    return parser.parse_args(arguments)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError("must be KEY=VALUE")
    return key, value


if __name__ == "__main__":
    sys.exit(main())
