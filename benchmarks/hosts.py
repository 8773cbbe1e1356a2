"""Decode over two hosts at several delays, and with a slow and a lossy link, against what the hops allow. Needs root.

    python -m benchmarks.hosts --model smollm2-135m

The hosts are network namespaces, the coordinator's a third; their cables end at the tests' own switch. Each round measures without delay
first: a token's prediction at another shape is that time, and twice what the shape adds to a hop. The agents run at real-time priority,
so that what else runs on this machine does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks import machine
from benchmarks.figures import Spread, ratio, spread
from benchmarks.models import NAMES, BenchModel, prepare
from quantize.hub.catalog import DEFAULT_MODEL
from sim_devices.links import WIRE, LinkShape
from tests.hosts.commands import Commands, fleet_of
from tests.hosts.lan import Lan
from tests.hosts.network import Host, Network, Program, why_not

RESULTS = Path(__file__).parent / "results" / "hosts.json"
SHAPES: Mapping[str, LinkShape] = {
    "0 ms": WIRE,
    "1 ms": LinkShape(delay_seconds=0.001),
    "5 ms": LinkShape(delay_seconds=0.005),
    "100 Mbit/s": LinkShape(rate_bits_per_second=100e6),
    "2 % loss": LinkShape(loss=0.02),
}

_CACHE = Path(tempfile.gettempdir()) / "glmfleet-benchmarks"
_CONTEXT, _SLOTS, _PROMPT = 512, 1, 16
_SEGMENT_BYTES, _FRAME_BYTES, _AROUND_BYTES = 1448, 66, 55  # TCP's payload, what a frame has beside it; protobuf, HTTP/2 and TLS
_ANSWER_SECONDS = 300.0


@dataclass(frozen=True)
class Decode:
    """Per token."""

    seconds: float
    busy_seconds: tuple[float, ...]  # of the stages


def hop_seconds(shape: LinkShape, row_bytes: int) -> float:
    """What a message of one row takes on the way, where nothing is lost."""
    if not shape.rate_bits_per_second:
        return shape.delay_seconds
    message = row_bytes + _AROUND_BYTES
    segments = -(-message // _SEGMENT_BYTES)
    return shape.delay_seconds + 8 * (message + segments * _FRAME_BYTES) / shape.rate_bits_per_second


@contextmanager
def fleet(model: BenchModel, folder: Path, first: bool, told: Callable[[str], None]) -> Iterator[tuple[Lan, list[Host], Program]]:
    """A coordinator and two boards that hold a stage each; the program asks for answers. `first`: boards go before all else here."""
    with Network(folder) as network:
        hosts = [network.host(name, ipv6=False) for name in ("desk", "gate-7", "gate-9")]
        lan = Lan(network, hosts)
        desk, *boards = (Commands(host, folder / f"home-{host.name}") for host in hosts)
        desk.home.mkdir(mode=0o700)
        (desk.home / "artifacts").symlink_to(model.artifacts.resolve(), target_is_directory=True)
        told("three hosts join")
        fleet_of(desk, boards)
        told("deploying")
        desk("deploy", model.name, "--stages", 2, "--context", _CONTEXT, "--slots", _SLOTS, seconds=600.0)
        asker = hosts[0].start("tests.hosts.asker", str(desk.home))
        asker.wait_for(lambda said: "asks" in said, _ANSWER_SECONDS)
        for host in hosts[1:] if first else ():
            for program in host.programs:
                put_first(program.process.pid)
        yield lan, hosts, asker


def put_first(pid: int) -> None:
    """Before all that is not real-time, this process and its children."""
    process = psutil.Process(pid)
    for each in (process, *process.children(recursive=True)):
        for thread in each.threads():
            os.sched_setscheduler(thread.id, os.SCHED_FIFO, os.sched_param(2))


def decode(asker: Program, prompt: Sequence[int], tokens: int) -> Decode:
    asker.tell(prompts=[prompt], tokens=tokens)
    (answer,) = asker.wait_for(lambda said: "answers" in said, _ANSWER_SECONDS)["answers"]
    return Decode(answer["token_seconds"], tuple(seconds / tokens for seconds in answer["busy_seconds"]))


def run(model: BenchModel, rounds: int, tokens: int, first: bool, told: Callable[[str], None]) -> dict[str, list[Decode]]:
    chance = random.Random(1)
    found: dict[str, list[Decode]] = {name: [] for name in SHAPES}
    with tempfile.TemporaryDirectory(prefix="glmfleet-bench-") as folder, fleet(model, Path(folder), first, told) as (lan, hosts, asker):
        decode(asker, model.prompt(_PROMPT, chance.randrange(1 << 30)), 8)  # warm
        for number in range(rounds):
            told(f"round {number + 1} of {rounds}")
            for name, shape in SHAPES.items():
                lan.shape(shape, *hosts)
                found[name].append(decode(asker, model.prompt(_PROMPT, chance.randrange(1 << 30)), tokens))
    return found


def against_prediction(found: Mapping[str, Sequence[Decode]], row_bytes: int) -> dict[str, Spread]:
    """Measured tokens/s ÷ predicted, each round's own."""
    return {
        name: ratio(
            [bare.seconds + 2 * hop_seconds(shape, row_bytes) for bare in found["0 ms"]],
            [one.seconds for one in found[name]],
        )
        for name, shape in SHAPES.items()
        if shape != WIRE
    }


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hosts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=NAMES, default=DEFAULT_MODEL)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96, help="decoded in each measurement")
    parser.add_argument("--ordinary", action="store_true", help="agents at the priority of all others")
    parser.add_argument("--cache", type=Path, default=_CACHE, help="where models are kept (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file that the figures go into")
    asked = parser.parse_args()
    if why_not():
        print(why_not())
        return 2
    model = prepare(asked.model, asked.cache)
    found = run(model, asked.rounds, asked.tokens, not asked.ordinary, lambda text: print(f"{text} …", flush=True))
    ratios = against_prediction(found, 4 * model.manifest.config.hidden_size)
    print(f"\n{'each way':>12}  {'tokens/s':>22}  {'both stages busy':>16}  measured ÷ predicted")
    for name, all_rounds in found.items():
        speed, busy = spread([1 / one.seconds for one in all_rounds]), spread([1e3 * sum(one.busy_seconds) for one in all_rounds])
        reached = f"{ratios[name].median:.2f} [{ratios[name].low:.2f}, {ratios[name].high:.2f}]" if name in ratios else ""
        print(f"{name:>12}  {speed.median:6.1f} [{speed.low:6.1f},{speed.high:6.1f}]  {busy.median:13.2f} ms  {reached}")
    figures = {
        "model": model.name,
        "machine": asdict(machine.describe(os.cpu_count() or 1)),
        "decode": {name: [asdict(one) for one in all_rounds] for name, all_rounds in found.items()},
    }
    asked.output.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())
