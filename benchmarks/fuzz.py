"""Mutated messages at every method of every service, against real agents in processes of their own.

python -m benchmarks.fuzz --messages 20000

A device with a stage of a tiny model loaded, a gateway and a board that waits for a fleet. Each call has to end within a second with a
status of ours, other calls meanwhile as well; no process may end, or take more memory; nothing may be a defect (INTERNAL, UNKNOWN, a
traceback in the log).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil
from google.protobuf.message import DecodeError, Message

from benchmarks.fuzz_good import of_a_board, of_a_device, of_a_gateway, of_a_relay, standby_of
from benchmarks.fuzz_messages import Fuzzer
from protos.ids import DeviceId
from protos.net.transport import Credentials, Peer, dial, dial_board
from protos.net.verdict import Verdict
from protos.rpc_errors import ENDED_UNDER_A_WRITE
from protos.versions import SPOKEN
from tests.support.checkpoints import TinyGlm
from tests.support.members import TestFleet, credentials_of
from tests.support.methods import Method, every_method
from tests.support.ring import put_blob
from tests.support.stage_specs import TinyStages

SECONDS = 1.0  # of one call
WORKS_SECONDS: Mapping[str, float] = {"Device.LoadStage": 10.0}  # a session is opened, in a thread
PATIENCE_SECONDS = 10.0  # of ours: a call that has not ended by then is given up, and counted
AT_ONCE = 8
MEMORY_BYTES = 256 << 20  # more than before: protobuf's and gRPC's pools, and stages that a lucky message loads
DEFECTS = ("Traceback", "a defect")
ENDS = "Member.Leave"  # what can be read ends the service, as it shall: it gets what cannot, and comes last
NEVER = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED)


@dataclass
class Target:
    """One process, and how to call it in each role that its methods ask for."""

    services: Mapping[str, Peer]  # "Device": by whom
    process: psutil.Process
    log: Path
    good: dict[type[Message], list[bytes]] = field(default_factory=dict)
    known: Sequence[str | int] = ()


@dataclass
class Outcome:
    statuses: Counter[str] = field(default_factory=Counter)
    longest_seconds: float = 0.0
    others_seconds: float = 0.0  # the longest that another call took meanwhile
    grown_bytes: int = 0
    faults: list[str] = field(default_factory=list)


def _process(folder: Path, name: str, *command: str) -> tuple[subprocess.Popen[bytes], Path]:
    log = folder / f"{name}.log"
    with log.open("ab") as errors:
        return subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=errors), log


@asynccontextmanager
async def running(folder: Path, name: str, *command: str) -> AsyncIterator[tuple[str, psutil.Process, Path]]:
    """Its address, itself and its log."""
    process, log = await asyncio.to_thread(_process, folder, name, *command)
    try:
        assert process.stdout is not None
        said = json.loads(await asyncio.to_thread(process.stdout.readline))
        yield said["address"], psutil.Process(process.pid), log
    finally:
        process.kill()
        await asyncio.to_thread(process.communicate)


@asynccontextmanager
async def targets(folder: Path) -> AsyncIterator[list[Target]]:
    fleet = TestFleet.open(folder)
    coordinator, neighbour = fleet.member("coordinator", "coordinator"), fleet.member("neighbour", "device")
    board = fleet.member("board"), fleet.member("gateway", "gateway")
    options = ("--name", "fuzzed", "--profile", "raspberry-pi-5")
    async with AsyncExitStack() as stack:

        def peer(address: str, device: DeviceId, credentials: Credentials | None, gateway: DeviceId | None = None) -> Peer:
            made = dial(address, device, credentials, gateway)
            stack.push_async_callback(made.channel.close)
            return made

        run = stack.enter_async_context
        address, process, log = await run(running(folder, "device", "sim_devices", "--state", str(folder / "board"), *options))
        device = Target(
            {
                "Device": peer(address, board[0].device_id, credentials_of(coordinator)),
                "Pipeline": peer(address, board[0].device_id, credentials_of(coordinator)),
                "Flow": peer(address, board[0].device_id, credentials_of(neighbour)),
                "Mirror": peer(address, board[0].device_id, credentials_of(neighbour)),
            },
            process,
            log,
        )
        await _load(device, fleet, TinyStages.make(folder / "model", TinyGlm()), neighbour.device_id)
        hollow = ("--count", "3", "--name", "fuzzed", "--profile", "rk3588")
        address, process, log = await run(running(folder, "hollow", "sim_devices.hollow", "--state", str(folder / "gateway"), *hollow))
        gateway = Target({"Gateway": peer(address, board[1].device_id, credentials_of(coordinator), board[1].device_id)}, process, log)
        gateway.good.update(of_a_gateway(fleet, "gateway"))
        address, process, log = await run(running(folder, "relay", "benchmarks.fuzz_relay", str(folder / "coordinator")))
        relay = Target({"Relay": peer(address, coordinator.device_id, credentials_of(neighbour))}, process, log, dict(of_a_relay()))
        yield [device, gateway, await _board(folder, fleet, stack), relay]


async def _board(folder: Path, fleet: TestFleet, stack: AsyncExitStack) -> Target:
    """In this process's folder, but a process of its own, like the others."""
    address, process, log = await stack.enter_async_context(
        running(folder, "enrollable", "benchmarks.fuzz_board", str(folder / "enrollable"))
    )
    certificate = (folder / "enrollable" / "shown.pem").read_bytes()
    who = DeviceId((folder / "enrollable" / "id").read_text())
    peer = dial_board(address, who, certificate)
    stack.push_async_callback(peer.channel.close)
    return Target({"Enrolment": peer}, process, log, dict(of_a_board(fleet)))


async def _load(target: Target, fleet: TestFleet, stages: TinyStages, neighbour: DeviceId) -> None:
    """A stage of a tiny model, so that what is sent meets something; good messages of all kinds."""
    [load] = stages.requests()
    device = target.services["Device"]
    blobs = {digest: stages.store.blob_path(digest).read_bytes() for digest in stages.manifest.blobs()}
    for digest, data in blobs.items():
        await put_blob(device, digest, data)
    await device.device_stub.LoadStage(load, metadata=device.metadata)
    await device.device_stub.LoadStage(standby_of(load, neighbour), metadata=device.metadata)
    target.good.update(of_a_device(fleet, "board", stages, load, blobs, neighbour))
    target.known = [
        load.pipeline_id,
        load.manifest_digest,
        load.generation.deployment,
        str(device.device),
        *blobs,
        load.epoch,
        SPOKEN.newest,
    ]


async def fuzz(target: Target, method: Method, messages: int, seed: int) -> Outcome:
    """So many messages at one method, some calls at a time; what came of it."""
    outcome, fuzzer = Outcome(), Fuzzer(random.Random(f"{seed} {method}"), target.known)
    dice = random.Random(f"{seed} {method} calls")
    peer = target.services.get(method.name) or target.services.get(method.service) or next(iter(target.services.values()))
    call: Any = peer.channel.stream_stream(method.path)  # of bytes, whatever the method is
    log_before, rss = target.log.stat().st_size, target.process.memory_info().rss
    sent = 0
    if method.request not in target.good:
        outcome.faults.append(f"{method}: benchmarks/fuzz_good.py has no good message for it")

    async def one() -> None:
        nonlocal sent
        while sent < messages:
            count = dice.choice([1, 2, 5]) if method.client_streaming else 1
            sent += count
            good = target.good.get(method.request, [])
            # Mostly what the stream has to begin with: without it nothing behind is looked at.
            opening = [good[0]] if good and count > 1 and dice.random() < 0.7 else []
            batch = opening + [_message(fuzzer, method, good) for _ in range(count - len(opening))]
            started = time.monotonic()
            status = await _called(call, peer, batch, method.server_streaming and not method.client_streaming)
            seconds = time.monotonic() - started
            outcome.statuses[status.name if status else "streams"] += 1
            outcome.longest_seconds = max(outcome.longest_seconds, seconds)
            if status in NEVER or (seconds > WORKS_SECONDS.get(str(method), SECONDS) and status is not None):
                outcome.faults.append(f"{method}: {status.name} after {seconds:.1f} s of {[data[:200] for data in batch]!r}")

    beating = asyncio.create_task(_beat(peer, outcome))
    await asyncio.gather(*[one() for _ in range(AT_ONCE)])
    beating.cancel()
    if outcome.others_seconds > SECONDS:
        outcome.faults.append(f"{method}: another call took {outcome.others_seconds:.1f} s meanwhile")
    if not target.process.is_running() or target.process.status() == psutil.STATUS_ZOMBIE:
        outcome.faults.append(f"{method}: the process has ended")
        return outcome
    outcome.grown_bytes = target.process.memory_info().rss - rss
    if outcome.grown_bytes > MEMORY_BYTES:
        outcome.faults.append(f"{method}: {outcome.grown_bytes >> 20} MiB more memory")
    with target.log.open(errors="replace") as log:
        log.seek(log_before)
        outcome.faults += [f"{method}: in the log: {line.strip()}" for line in log if any(one in line for one in DEFECTS)]
    return outcome


def _message(fuzzer: Fuzzer, method: Method, good: Sequence[bytes]) -> bytes:
    while True:
        data = fuzzer.message(method.request, good)
        if str(method) != ENDS:
            return data
        try:
            method.request.FromString(data)
        except DecodeError:
            return data


async def _beat(peer: Peer, outcome: Outcome) -> None:
    """Ask for a method that there is not, again and again: the answer needs nothing but the event loop."""
    call: Any = peer.channel.unary_unary("/glmfleet.v1.Nothing/Nothing")
    while True:
        started = time.monotonic()
        with suppress(grpc.aio.AioRpcError):
            await call(b"", metadata=peer.metadata, timeout=PATIENCE_SECONDS)
        outcome.others_seconds = max(outcome.others_seconds, time.monotonic() - started)
        await asyncio.sleep(0.05)


async def _called(call: Any, peer: Peer, batch: Sequence[bytes], streams: bool) -> grpc.StatusCode | None:
    """How the call ended; None: it streams, as it should."""
    made = call(iter(batch), metadata=peer.metadata, timeout=PATIENCE_SECONDS)
    verdict = Verdict(made)
    try:
        async for _ in made:
            if streams:
                made.cancel()
                return None
    except grpc.aio.AioRpcError as error:
        told = verdict.on(error)
        # The far side had all that it wanted before we had said all.
        return grpc.StatusCode.OK if told.details() == ENDED_UNDER_A_WRITE else told.code()
    except asyncio.CancelledError:
        return None
    code: grpc.StatusCode = await made.code()
    return code


async def fuzz_all(folder: Path, messages: int, seed: int, only: str = "") -> dict[str, Outcome]:
    """By method."""
    found: dict[str, Outcome] = {}
    async with targets(folder) as all_targets:
        # The ring first: a message of Device may unload the stage.
        for method in sorted(every_method(), key=lambda one: (one.service != "Pipeline", str(one) == ENDS, str(one))):
            # A service that is not named here is a device's; if it is none of its, the answer is UNIMPLEMENTED, which is a fault.
            serving = next((target for target in all_targets if method.service in target.services), all_targets[0])
            if only in str(method):
                found[str(method)] = await fuzz(serving, method, messages, seed)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000, help="for each method (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", metavar="METHOD", help="those whose name has this in it, such as Flow")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(fuzz_all(Path(folder), options.messages, options.seed, options.only))
    for name, outcome in found.items():
        statuses = ", ".join(f"{count} {status}" for status, count in outcome.statuses.most_common())
        longest = f"the longest {outcome.longest_seconds:.2f} s, others {outcome.others_seconds:.2f} s"
        print(f"{name}: {statuses}; {longest}; {outcome.grown_bytes / 2**20:+.0f} MiB")
    faults = [fault for outcome in found.values() for fault in outcome.faults]
    for fault in faults[:50]:
        print("FAULT:", fault[:2000])
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
