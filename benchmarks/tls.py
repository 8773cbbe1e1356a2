"""What TLS between machines costs: decoding over two stages and pushing blobs, with it and in plaintext, in turn.

python -m benchmarks.tls [--rounds 10]        (makes or takes the model of `benchmarks.speed`'s cache)

Two fleets stand all the time, one with TLS and one with --insecure: each a coordinator and two agents, a process each, that hold the same
model in two stages. Each round asks both for the same answer, the one that was first last time now second; the rate is from an answer's
first tokens to its last. Blobs are pushed as the coordinator does, to an agent of each kind that belongs to no coordinator: random bytes,
removed again each time, from the file here until the agent has checked and kept them. Ratios are of each round; wanted: decode at
least 0.98 of plaintext, push 0.8.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Target, rows, spread
from benchmarks.models import prepare
from benchmarks.product import LocalFleet
from benchmarks.speed import table
from benchmarks.worker import ROOT
from device.agent.identity import Identity, insecure_identity, load_identity
from fleet.answering.views import GenerateRequest, GenerateResult
from fleet.cli.client import CoordinatorClient
from fleet.devices.client import DeviceClient
from fleet.trust.authority import Authority
from protos.errors import Internal
from protos.ids import Digest
from protos.net.transport import dial
from protos.v1 import device_pb2 as pb
from quantize.hub.catalog import DEFAULT_MODEL

DEPLOYMENT = "tls"
TLS, PLAIN = "TLS", "plaintext"
PROMPT = 32
DECODE, PUSH = "decode over 2 stages, tokens/s", "push, MiB/s"
TARGETS = (
    Target("decode over 2 stages, TLS ÷ plaintext", f"{DECODE}, {TLS}", f"{DECODE}, {PLAIN}", 0.98),
    Target("push, TLS ÷ plaintext", f"{PUSH}, {TLS}", f"{PUSH}, {PLAIN}", 0.8),
)


@dataclass(frozen=True)
class Settings:
    rounds: int
    tokens: int
    push_bytes: int
    threads: int  # of each agent


@dataclass(frozen=True)
class Pushed:
    """An agent that is sent blobs, and as whom."""

    address: str
    identity: Identity
    us: Identity | None  # None: in plaintext


def decode(client: CoordinatorClient, seed: int, tokens: int) -> tuple[float, tuple[int, ...]]:
    """Tokens per second from the first ones of an answer on, and its token ids."""
    prompt = tuple((seed * 97 + 31 * index) % 150 + 100 for index in range(PROMPT))
    request = GenerateRequest(model=DEPLOYMENT, prompt_ids=prompt, max_tokens=tokens, ignore_eos=True)
    began = ended = first = 0.0
    for part in client.generate(request):
        if isinstance(part, GenerateResult):
            if first >= tokens:
                raise Internal("all tokens came at once: ask for more of them")
            return (tokens - first) / (ended - began), part.token_ids
        ended = time.perf_counter()
        if not began:
            began, first = ended, len(part.token_ids)
    raise Internal("the answer has no end")


async def push(to: Pushed, file: Path, digest: Digest, size: int) -> float:
    """MiB per second; the blob is removed afterwards, so that it can be pushed again."""
    peer = dial(to.address, to.identity.device_id, to.us.credentials if to.us else None)
    try:
        client = DeviceClient(peer, "it")
        began = time.perf_counter()
        await client.put_blob(digest, file, size, progress=lambda _: None)
        seconds = time.perf_counter() - began
        await client.retain_blobs(pb.Generation(deployment="push", number=1), ())
        return size / 2**20 / seconds
    finally:
        await peer.close()


@contextmanager
def pushed_agent(folder: Path, mode: str) -> Iterator[Pushed]:
    """`python -m device`, until the end."""
    state, us = folder / "agent", None
    arguments = ["--state", str(state), "--name", "pushed", "--host", "127.0.0.1", "--port", "0", "--interface", "127.0.0.1"]
    if mode == TLS:
        authority = Authority.open(folder / "authority")
        authority.issue_folder(state, "device", "pushed")
        authority.issue_folder(folder / "us", "coordinator", "us")
        us = load_identity(folder / "us")
    else:
        arguments.append("--insecure")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "agent.log").open("wb") as log:
        command = [sys.executable, "-m", "device", *arguments]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment)
    try:
        assert child.stdout is not None
        if not (line := child.stdout.readline()):
            raise Internal(f"the agent did not start: {(folder / 'agent.log').read_text()}")
        yield Pushed(json.loads(line)["address"], load_identity(state) if us else insecure_identity(state), us)
    finally:
        child.kill()
        child.communicate()


def measure(folder: Path, artifacts: Path, model: str, settings: Settings) -> dict[str, list[float]]:
    """Every figure of every round. Raises Internal where an answer is not the same in both ways."""
    samples: dict[str, list[float]] = {f"{what}, {mode}": [] for what in (DECODE, PUSH) for mode in (TLS, PLAIN)}
    blob = folder / "blob"
    folder.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(os.urandom(settings.push_bytes))
    digest = Digest(hashlib.sha256(blob.read_bytes()).hexdigest())
    with ExitStack() as stack:
        clients: dict[str, CoordinatorClient] = {}
        agents: dict[str, Pushed] = {}
        for mode in (TLS, PLAIN):
            threads = {"one": settings.threads, "two": settings.threads}
            fleet = stack.enter_context(LocalFleet(folder / mode, artifacts, threads, insecure=mode == PLAIN))
            fleet.deploy(DEPLOYMENT, model, list(threads), 512, 4)
            clients[mode] = fleet.client
            agents[mode] = stack.enter_context(pushed_agent(folder / f"push {mode}", mode))
        for number in range(settings.rounds + 1):
            found = _round(clients, agents, blob, digest, number, settings.tokens)
            if number:  # the first is to warm up
                for name, value in found.items():
                    samples[name].append(value)
    return samples


def _round(
    clients: Mapping[str, CoordinatorClient], agents: Mapping[str, Pushed], blob: Path, digest: Digest, number: int, tokens: int
) -> dict[str, float]:
    found, answers = dict[str, float](), set[tuple[int, ...]]()
    order = (TLS, PLAIN) if number % 2 else (PLAIN, TLS)
    for mode in order:
        found[f"{DECODE}, {mode}"], answer = decode(clients[mode], number, tokens)
        answers.add(answer)
    if len(answers) != 1:
        raise Internal("the answers with and without TLS differ")
    for mode in order:
        found[f"{PUSH}, {mode}"] = asyncio.run(push(agents[mode], blob, digest, blob.stat().st_size))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tls", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=128, help="of each answer (default: %(default)s)")
    parser.add_argument("--mebibytes", type=int, default=128, help="of each blob (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of each agent (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "glmfleet-benchmarks")
    options = parser.parse_args(arguments)
    model = prepare(DEFAULT_MODEL, options.cache)
    settings = Settings(options.rounds, options.tokens, options.mebibytes << 20, options.threads)
    with tempfile.TemporaryDirectory() as folder:
        samples = measure(Path(folder), model.artifacts, model.name, settings)
    found = rows(TARGETS, samples)
    for line in table(found):
        print(line)
    print()
    for name, values in samples.items():
        one = spread(values)
        print(f"{name:42} {one.median:10.1f}  [{one.low:.1f}, {one.high:.1f}]")
    return 0 if all(row.reached for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
