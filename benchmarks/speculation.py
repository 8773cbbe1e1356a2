"""What decoding by runs costs and what drafts give: rows, pairs, and pairs with drafts by turns, on one device and round a ring.

    python -m benchmarks.speculation --model smollm2-135m --stages 1,4 --delays 0,1,5      (of the home that GLMFLEET_HOME names)

Real agents and streams in this process, links that delay each way as the simulator's do. On a busy machine the processor's time says more.
Greedy answers to three kinds of prompts; tokens a second behind the first, as its client sees them. Each turn asks in all ways, the first
turn is not counted; what is told are medians, and their ratios to those of `rows`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from device.cpu import CpuHardware
from fleet.answering.prompts import load_text
from fleet.home import Home
from protos.decoding import DecodeMode
from protos.ids import parse_digest
from protos.manifest import Manifest
from protos.net.transport import split_address
from protos.rpc_errors import remote
from protos.v1 import device_pb2, pipeline_pb2
from protos.versions import SPOKEN
from quantize.artifact.store import ArtifactStore
from sim_devices.links import LinkShape
from sim_devices.proxy import Door, Lane, Way
from sim_devices.shaping import Line
from tests.support.ring import Client, agents, load_requests, put_blob

CODE = """def total(items, tax):
    result = 0
    for item in items:
        price = item["price"]
        count = item["count"]
        if count > 0:
            result = result + price * count
    result = result + result * tax
    return round(result, 2)
"""
PASSAGE = (
    "The lighthouse was built in 1871 on the northern cape. Its lamp was first lit by oil and could be seen for eleven miles. "
    "In 1934 the keepers were given an electric lamp, and the old lens was moved to the museum in the harbour. "
    "Since 1988 nobody has lived on the cape, and the light is switched on by a clock."
)
PROMPTS = {
    "code edit": [
        f"```python\n{CODE}```\nRename the variable `result` to `amount` and write the whole function again.",
        f"```python\n{CODE}```\nAdd a docstring to this function. Write the whole function.",
    ],
    "quoting": [
        f"{PASSAGE}\n\nQuote the sentence that says what became of the old lens.",
        f"{PASSAGE}\n\nRepeat the first two sentences of this text word by word.",
    ],
    "chat": ["Why is the sky blue?", "Give me three ideas for a weekend in the mountains."],
}
WAYS: dict[str, tuple[DecodeMode, bool]] = {"rows": ("rows", True), "pairs": ("pairs", True), "drafts": ("pairs", False)}
CONTEXT, SLOTS = 1024, 4


@dataclass
class Told:
    """Of one kind of prompt in one way: tokens a second, what they took of the processor, and what drafts did."""

    speeds: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)  # processor seconds a token, of all agents
    drafted: int = 0
    accepted: int = 0
    tokens: int = 0


@asynccontextmanager
async def delayed(address: str, delay_seconds: float) -> AsyncIterator[str]:
    """An address from which `address` is reached over a link with that delay each way."""
    if not delay_seconds:
        yield address
        return
    host, port = split_address(address)
    shape = LinkShape(delay_seconds=delay_seconds)
    lanes = [Lane(Line(shape, 2 * delay_seconds, random.Random(seed))) for seed in (1, 2)]  # nosec B311 # a link

    async def find(_reader: asyncio.StreamReader) -> Way:
        return Way(host, port, lanes[0], lanes[1])

    async with Door(find) as door:
        yield door.address


@asynccontextmanager
async def pipelines(
    folder: Path, manifest: Manifest, store: ArtifactStore, stages: int, delay_seconds: float, slots: int, threads: int
) -> AsyncIterator[dict[DecodeMode, Client]]:
    """The same model in both modes on the same agents."""
    hardware = [CpuHardware(8 << 30, threads) for _ in range(stages)]
    async with AsyncExitStack() as stack:
        _, peers, _ = await stack.enter_async_context(agents(folder, hardware))
        addresses = [await stack.enter_async_context(delayed(peer.address, delay_seconds)) for peer in peers]
        hops = [device_pb2.Hop(device_id=peer.device, address=at) for peer, at in zip(peers, addresses, strict=True)]
        clients: dict[DecodeMode, Client] = {}
        modes: tuple[DecodeMode, ...] = ("rows", "pairs")
        for mode in modes:
            for peer, request in zip(
                peers, load_requests(manifest, hops, context=CONTEXT, slots=slots, chunk=128, decode=mode), strict=True
            ):
                request.pipeline_id = request.generation.deployment = mode
                for digest in request.blobs:
                    await put_blob(peer, digest, store.blob_path(parse_digest(digest)).read_bytes())
                with remote(peer.device):
                    await peer.device_stub.LoadStage(request, metadata=peer.metadata)
            attach = pipeline_pb2.Attach(protocol_version=SPOKEN.newest, pipeline_id=mode, manifest_digest=manifest.digest, epoch=1)
            clients[mode] = Client(peers[0], attach)
            stack.push_async_callback(clients[mode].close)
            await clients[mode].attach()
        yield clients


async def asked(client: Client, prompt: Sequence[int], tokens: int, stops: Sequence[int], told: Told, *, undrafted: bool) -> None:
    answer = await client.ask(prompt, 1, stops=stops, undrafted=undrafted)  # so that the prompt's rows are there
    began, used = time.perf_counter(), time.process_time()
    answer = await client.ask(prompt, tokens, stops=stops, undrafted=undrafted)
    seconds, used = time.perf_counter() - began, time.process_time() - used
    assert answer.finished
    timing = answer.finished.timing
    if len(answer.token_ids) > 8:
        told.speeds.append((len(answer.token_ids) - 1) / (seconds - timing.first_token_seconds))
        told.work.append(used / len(answer.token_ids))
    told.drafted += timing.drafted_tokens
    told.accepted += timing.accepted_tokens
    told.tokens += len(answer.token_ids)


async def compare(
    clients: dict[DecodeMode, Client], prompts: dict[str, list[list[int]]], tokens: int, stops: Sequence[int], turns: int
) -> dict[tuple[str, str], Told]:
    """By (kind, way)."""
    found = {(kind, way): Told() for kind in prompts for way in WAYS}
    for turn in range(turns + 1):
        for kind, texts in prompts.items():
            for prompt in texts:
                ways = list(WAYS.items())
                for way, (mode, undrafted) in ways[turn % 3 :] + ways[: turn % 3]:
                    told = found[kind, way] if turn else Told()
                    await asked(clients[mode], prompt, tokens, stops, told, undrafted=undrafted)
    return found


async def together(client: Client, prompts: Sequence[Sequence[int]], tokens: int, *, undrafted: bool) -> float:
    """Tokens a second of all streams at once."""
    began = time.perf_counter()
    answers = await asyncio.gather(*(client.ask(prompt, tokens, undrafted=undrafted) for prompt in prompts))
    return sum(len(answer.token_ids) for answer in answers) / (time.perf_counter() - began)


async def batches(clients: dict[DecodeMode, Client], prompts: Sequence[list[int]], tokens: int, turns: int) -> dict[str, float]:
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(turns + 1):
        for way, (mode, undrafted) in WAYS.items():
            speed = await together(clients[mode], prompts, tokens, undrafted=undrafted)
            if turn:
                speeds[way].append(speed)
    return {way: median(values) for way, values in speeds.items()}


def print_kinds(stages: int, delay: float, found: dict[tuple[str, str], Told]) -> None:
    for kind in PROMPTS:
        rows = found[kind, "rows"].speeds
        line = f"{stages} stages, {delay:g} ms, {kind:9}: rows {median(rows):6.1f} tokens/s"
        for way in ("pairs", "drafts"):
            speed, work = median(found[kind, way].speeds) / median(rows), median(found[kind, "rows"].work) / median(found[kind, way].work)
            line += f", {way} x{speed:.2f} (by processor time x{work:.2f})"
        told = found[kind, "drafts"]
        print(f"{line}; {told.accepted} of {told.drafted} drafts held, in {told.tokens} tokens", flush=True)


async def measure(options: argparse.Namespace) -> None:
    store = ArtifactStore(Home.open(None).artifacts)
    manifest = store.load(options.model)
    form = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"  # ChatML
    with closing(load_text(store, manifest)) as text, text.maker(len(CODE)) as maker:
        prompts = {kind: [maker.encode(form.format(one)) for one in texts] for kind, texts in PROMPTS.items()}
    stops = manifest.config.eos_token_ids
    for stages in map(int, options.stages.split(",")):
        for delay in map(float, options.delays.split(",")) if stages > 1 else [0.0]:
            with tempfile.TemporaryDirectory() as folder:
                async with pipelines(Path(folder), manifest, store, stages, delay / 1000, options.slots, options.threads) as clients:
                    print_kinds(stages, delay, await compare(clients, prompts, options.tokens, stops, options.turns))
                    if options.streams:
                        many = [[*prompts["chat"][0][:-1], number + 100] for number in range(options.streams)]
                        speeds = await batches(clients, many, options.tokens, options.turns)
                        told = ", ".join(f"{way} {speed:.1f}" for way, speed in speeds.items())
                        print(f"{stages} stages, {delay:g} ms, {options.streams} streams: {told} tokens/s in all", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--stages", default="1,4")
    parser.add_argument("--delays", default="0,1,5", help="milliseconds each way, of links of more than one stage")
    parser.add_argument("--tokens", type=int, default=96, help="of each answer at most")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--slots", type=int, default=SLOTS, help="of each stage")
    parser.add_argument("--threads", type=int, default=1, help="of each stage")
    parser.add_argument("--streams", type=int, default=0, help="also so many at once")
    asyncio.run(measure(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
