"""`python -m device`: the agent on a real board."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import socket
import sys
from pathlib import Path

from device.agent.enrolling import Enrollable
from device.agent.program import AgentConfig, run_agent
from device.cpu import CpuHardware
from device.positive import positive
from device.power.find import find_meter
from protos.enrolment import TOKEN_VARIABLE, parse_token
from protos.errors import FleetError
from protos.net.door import raise_limit


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m device", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="folder with identity and blobs")
    parser.add_argument("--name", default=socket.gethostname(), help="what people call it (default: %(default)s)")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (default: %(default)s)")  # nosec B104 # a board is for its network
    parser.add_argument("--port", type=int, default=7420, help="0: any free one (default: %(default)s)")
    parser.add_argument("--interface", action="append", default=[], help="name or address to announce on, repeatable (default: all)")
    parser.add_argument("--memory", type=positive, help="bytes that models may take (default: 80 %% of the machine's)")
    parser.add_argument("--threads", type=positive, help="default: the cores this process may use")
    parser.add_argument(
        "--power-command", metavar="CMD", help="a program that prints watts, a number on each line (default: the board's own meter)"
    )
    parser.add_argument("--coordinator", default="", metavar="HOST:PORT", help="dial this one, because nobody can dial this device")
    parser.add_argument("--insecure", action="store_true", help="plaintext, on loopback only")
    options = parser.parse_args()
    raise_limit()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    where = (options.state, options.name, options.host, options.port, tuple(options.interface), options.insecure)

    def ready(address: str) -> None:
        if sys.stdout.isatty():
            sys.stdout.write(f"{options.name} is of its fleet, and answers on {address}; Ctrl-C ends it\n")
        else:  # who started it reads this
            sys.stdout.write(json.dumps({"name": options.name, "address": address}) + "\n")
        sys.stdout.flush()

    def waiting(board: Enrollable) -> None:
        what = (
            "waits for the fleet of its token"
            if config.token
            else f"take it in where the coordinator runs: glmfleet devices accept {board.board}"
        )
        lines = [f"{options.name} belongs to no fleet yet, and answers on port {board.port}", f"its fingerprint: {board.fingerprint}", what]
        sys.stderr.write("\n  ".join(lines) + "\n")
        sys.stderr.flush()

    def removed() -> None:
        sys.stderr.write(f"{options.name} was taken out of its fleet, and has removed its models and its key: it is a new board now\n")
        sys.stderr.flush()

    def refused(why: str, advice: str) -> None:
        sys.stderr.write(f"{options.name} was not taken in: {why}\n  {advice}\n")
        sys.stderr.flush()

    try:
        text = os.environ.pop(TOKEN_VARIABLE, "")  # not on the command line, which every user of this machine can read
        config = AgentConfig(*where, token=parse_token(text) if text else None, coordinator=options.coordinator)
        hardware = CpuHardware(options.memory, options.threads, find_meter(options.power_command))
        asyncio.run(run_agent(config, hardware, ready, waiting=waiting, refused=refused, removed=removed))
    except FleetError as error:
        sys.exit(f"error: {error.detail}" + (f"\n  {error.advice}" if error.advice else ""))


if __name__ == "__main__":
    main()
