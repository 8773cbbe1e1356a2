"""How fast it is: the engine alone, the whole path, one model cut into stages, many streams, and llama.cpp, all in turn in one run.

python -m benchmarks.speed --model smollm2-135m
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from benchmarks import machine
from benchmarks.figures import Row, rows, spread
from benchmarks.models import EDGE, NAMES, BenchModel, prepare
from benchmarks.product import LocalFleet
from benchmarks.targets import BUSY_CPU, ENGINE, IDLE_CPU, LLAMA, PRODUCT, TARGETS, key, needed_name, peak_name, stages_name
from benchmarks.worker import Ask, Figures, Worker
from protos.errors import FleetError
from quantize.hub.catalog import DEFAULT_MODEL

CONTEXT = 1280
SLOTS = 16
RESULTS = Path(__file__).parent / "results" / "speed.json"
_PROMPT, _PREFILL, _LONG, _SHORT = 32, 128, 1000, 16  # tokens
_PAUSE_SECONDS = 0.15  # between two measurements: the one before has put its threads to sleep
_IDLE_SECONDS = 8.0
_CACHE = Path(tempfile.gettempdir()) / "glmfleet-benchmarks"

Measure = Callable[[Ask], Figures]


@dataclass(frozen=True)
class Settings:
    """`steps` are decoded tokens of a measurement with one stream; with more streams they are fewer."""

    model: str
    starts: int
    rounds: int  # after each start
    threads: int
    stage_threads: int
    stages: tuple[int, ...]
    streams: tuple[int, ...]
    cut_streams: tuple[int, ...]  # of `streams`, those that cuts are measured with too
    steps: int
    peer: bool
    beside: bool


@dataclass
class Record:
    """`samples`: by name, one figure per round; `once`: what is measured once."""

    samples: dict[str, list[float]] = field(default_factory=dict)
    once: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.samples.setdefault(name, []).append(value)


def run(settings: Settings, model: BenchModel, told: Callable[[str], None]) -> Record:
    """All contenders anew for each start, in another order: where its memory happens to lie makes a process up to a tenth faster or slower
    for as long as it lives, which no number of rounds averages out."""
    record = Record()
    for start in range(settings.starts):
        told(f"start {start + 1} of {settings.starts}")
        _run_once(settings, model, start, record, told)
    return record


def _run_once(settings: Settings, model: BenchModel, start: int, record: Record, told: Callable[[str], None]) -> None:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="glmfleet-bench-")))
        told("first load")
        _first_load(home, settings, model, record)
        names = {count: [f"d{count}-{number}" for number in range(count)] for count in settings.stages}
        told("starting a fleet, the engine and the peer")
        workers: dict[str, Measure] = {}
        if start % 2:
            workers |= _alone(stack, settings, model)
        threads = {name: settings.threads if count == 1 else settings.stage_threads for count in names for name in names[count]}
        fleet = stack.enter_context(LocalFleet(home, model.artifacts, threads))
        record.once["ready_after_restart_seconds"] = fleet.wait_ready(stages_name(1))
        for count, devices in names.items():
            if count > 1:
                fleet.deploy(stages_name(count), model.name, devices, CONTEXT, SLOTS)
        if not start % 2:
            workers |= _alone(stack, settings, model)
        workers[PRODUCT] = stack.enter_context(Worker("benchmarks.client", fleet.url)).ask
        # The mapped start's peak, with one sequence's cache touched.
        workers[PRODUCT](Ask("decode", (tuple(model.prompt(_PROMPT, 1)),), 32, stages_name(1)))
        _memory(fleet, model, record, "mapped")
        told("warming up")
        _round(replace(settings, streams=(1,), beside=False), model, workers, Record(), -1, 8)
        told("measuring")
        _telemetry_share(fleet, settings, model, workers[PRODUCT], record)
        for number in range(settings.rounds):
            told(f"round {number + 1} of {settings.rounds}")
            _round(settings, model, workers, record, start * settings.rounds + number, settings.steps)
        record.once["peak_resident_bytes"] = fleet.devices["d1-0"].peak_resident_bytes()


def _alone(stack: ExitStack, settings: Settings, model: BenchModel) -> dict[str, Measure]:
    """The contenders of one process."""
    common = ["--threads", settings.threads, "--context", CONTEXT]
    workers: dict[str, Measure] = {ENGINE: stack.enter_context(Worker("benchmarks.engine", model.artifacts, model.name, *common)).ask}
    if settings.peer:
        workers[LLAMA] = stack.enter_context(Worker("benchmarks.peer", model.gguf, *common)).ask
    return workers


def _first_load(home: Path, settings: Settings, model: BenchModel, record: Record) -> None:
    """With a device that has seen nothing yet: how long it takes, and what it peaks at."""
    with LocalFleet(home, model.artifacts, {"d1-0": settings.threads}) as fleet:
        loaded = fleet.deploy(stages_name(1), model.name, ["d1-0"], CONTEXT, SLOTS)
        record.once["first_load_seconds"] = sum(loaded.values())
        with Worker("benchmarks.client", fleet.url) as client:
            client.ask(Ask("decode", (tuple(model.prompt(_PROMPT, 0)),), 32, stages_name(1)))
        _memory(fleet, model, record, "first")


def _memory(fleet: LocalFleet, model: BenchModel, record: Record, when: str) -> None:
    """After one sequence of _PROMPT + 32 tokens."""
    kv_bytes = (_PROMPT + 32) * sum(part.cost.kv_bytes_per_token for part in model.manifest.parts)
    record.add(peak_name(when), fleet.devices["d1-0"].peak_resident_bytes())
    record.add(needed_name(when), fleet.weight_bytes(stages_name(1)) + kv_bytes)


def _telemetry_share(fleet: LocalFleet, settings: Settings, model: BenchModel, product: Measure, record: Record) -> None:
    """CPU that an idle fleet of one device spends on samples, discovery and keeping connections, over what a busy one spends in all.

    An upper bound: telemetry is a part of the first. The other devices' share of the coordinator is counted too.
    """
    processes = [fleet.devices["d1-0"], fleet.coordinator]

    def rate(what: Callable[[], object]) -> float:
        cpu, start = sum(process.cpu_seconds() for process in processes), time.perf_counter()
        what()
        return (sum(process.cpu_seconds() for process in processes) - cpu) / (time.perf_counter() - start)

    record.add(IDLE_CPU, rate(lambda: time.sleep(_IDLE_SECONDS)))
    prompts = tuple(tuple(model.prompt(_PROMPT, 7000 + number)) for number in range(2))
    record.add(BUSY_CPU, rate(lambda: [product(Ask("decode", (prompt,), 3 * settings.steps, stages_name(1))) for prompt in prompts]))


def _round(settings: Settings, model: BenchModel, workers: dict[str, Measure], record: Record, number: int, steps: int) -> None:
    """Every measurement once; who comes first moves on with the round."""
    for group in _groups(settings, model, number, steps):
        turn = number % len(group)
        for name, contender, ask in (*group[turn:], *group[:turn]):
            time.sleep(_PAUSE_SECONDS)
            figures = workers[contender](ask)
            record.add(name, figures.get("tokens_per_second") or figures["seconds"])


def _groups(settings: Settings, model: BenchModel, number: int, steps: int) -> Iterator[list[tuple[str, str, Ask]]]:
    """Measurements that are compared with each other, on the same prompts; fresh ones each round, so that no cached prefix serves them."""
    alone = [ENGINE, LLAMA] if settings.peer else [ENGINE]
    seeds = iter(range((number + 2) * 1000, (number + 3) * 1000))

    def prompts(tokens: int, count: int = 1) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(model.prompt(tokens, next(seeds))) for _ in range(count))

    for streams in settings.streams:
        asked = prompts(_PROMPT, streams)
        count = max(8, steps if streams == 1 else steps * 2 // 3 if streams < 8 else steps // 3)
        cuts = settings.stages if streams in settings.cut_streams else settings.stages[:1]
        yield [
            *((key(each, "decode", streams), each, Ask("decode", asked, count)) for each in alone),
            *(
                (key(PRODUCT, "decode", streams, cut), PRODUCT, Ask("decode", asked, count + _joining(streams), stages_name(cut)))
                for cut in cuts
            ),
        ]
    asked = prompts(_PREFILL)
    yield [
        *((key(each, "prefill", _PREFILL), each, Ask("prefill", asked)) for each in alone),
        (key(PRODUCT, "prefill", _PREFILL), PRODUCT, Ask("prefill", asked, 1, stages_name(1))),
    ]
    if settings.beside:
        yield [
            (key(PRODUCT, "short", _SHORT), PRODUCT, Ask("prefill", prompts(_SHORT), 1, stages_name(1))),
            (key(PRODUCT, "beside", _LONG), PRODUCT, Ask("beside", (*prompts(_LONG), *prompts(_SHORT)), 1, stages_name(1))),
        ]


def _joining(streams: int) -> int:
    """Tokens that the first of so many streams has had by the time that the last one's prompt is through, with some to spare: they come
    in one by one, and a slow processor takes several steps between two."""
    return 2 + 4 * streams


def entry(settings: Settings, model: BenchModel, described: machine.Machine, record: Record) -> dict[str, object]:
    """For the JSON file."""
    read = sum(part.cost.read_bytes for part in model.manifest.parts)
    fastest = described.read_bytes_per_second / read
    return {
        "model": model.name,
        "model_digest": model.manifest.digest,
        "block_size": model.manifest.quantization.block_size,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": asdict(described),
        "settings": asdict(settings),
        "spinning": "onnxruntime: inside a run only; llama.cpp: its own default",
        "memory_bound_tokens_per_second": fastest,
        "rows": [asdict(row) for row in rows(TARGETS[model.name], record.samples)],
        "once": record.once,
        "figures": {name: asdict(spread(values)) for name, values in sorted(record.samples.items())},
        "samples": record.samples,
    }


def table(found: Sequence[Row]) -> Iterator[str]:
    """Markdown: medians over the rounds, least and most in brackets."""
    yield "| measure | wanted | reached | |"
    yield "|---|---|---|---|"
    for row in found:
        wanted = "–" if row.wanted is None else f"{'≤' if row.at_most else '≥'} {row.wanted:g}"
        value = f"{row.ratio.median:.3g} [{row.ratio.low:.3g}, {row.ratio.high:.3g}]"
        yield f"| {row.name} | {wanted} | {value} | {'' if row.reached is None else 'yes' if row.reached else 'no'} |"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    told = _teller()
    signal.signal(signal.SIGTERM, _terminated)
    peer = options.peer and find_spec("llama_cpp") is not None
    if options.peer and not peer:
        told("llama-cpp-python is not installed, so there is no peer: pip install 'glmfleet[bench]'")
    settings = Settings(
        options.model,
        options.starts,
        options.rounds,
        options.threads,
        options.stage_threads or options.threads,
        tuple(options.stages),
        tuple(options.streams),
        tuple(options.cut_streams),
        options.steps or (24 if options.model == EDGE else 96),
        peer,
        options.beside,
    )
    try:
        told(f"preparing {settings.model}")
        model = prepare(settings.model, options.cache, fresh=options.fresh)
        described = machine.describe(settings.threads)
        record = run(settings, model, told)
    except KeyboardInterrupt:
        return 130
    except FleetError as error:
        told(f"error: {error.detail}" + (f"\n  {error.advice}" if error.advice else ""))
        return 1
    made = entry(settings, model, described, record)
    for line in table(rows(TARGETS[model.name], record.samples)):
        print(line)
    print()
    for name, values in sorted(record.samples.items()):
        one = spread(values)
        print(f"{name:32} {one.median:10.3f}  [{one.low:.3f}, {one.high:.3f}]")
    for name, value in record.once.items():
        print(f"{name:32} {value:10.4g}")
    print(f"{'memory_bound_tokens_per_second':32} {made['memory_bound_tokens_per_second']:10.4g}")
    _save(made, options.output)
    return 0


def _save(made: dict[str, object], path: Path) -> None:
    """One entry for each model and kind of run; what was there of the same is replaced."""
    entries = json.loads(path.read_text()) if path.exists() else []
    same = [each for each in entries if (each["model"], each["settings"]) == (made["model"], json.loads(json.dumps(made["settings"])))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*(each for each in entries if each not in same), made], indent=1) + "\n")


def _teller() -> Callable[[str], None]:
    began = time.monotonic()
    return lambda line: print(f"{time.monotonic() - began:5.0f} s  {line}", file=sys.stderr, flush=True)


def _terminated(number: int, _frame: object) -> None:
    """SIGTERM ends it as Ctrl-C does: the processes it started go with it."""
    raise SystemExit(128 + number)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=NAMES, default=DEFAULT_MODEL, help="(default: %(default)s)")
    parser.add_argument("--starts", type=int, default=3, help="of all contenders (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="after each start (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of every contender (default: %(default)s)")
    parser.add_argument("--stage-threads", type=int, help="of each device where the model is cut (default: --threads)")
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2, 4], help="cuts of the model, 1 among them (default: 1 2 4)")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="at once (default: 1 2 4 8 16)")
    parser.add_argument("--cut-streams", type=int, nargs="+", default=[1], help="of these, measured with every cut (default: 1)")
    parser.add_argument("--steps", type=int, help="tokens decoded in a measurement with one stream (default: by model)")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="without llama.cpp")
    parser.add_argument("--no-beside", dest="beside", action="store_false", help="without the short request beside a long prompt")
    parser.add_argument("--cache", type=Path, default=_CACHE, help="where models are kept (default: %(default)s)")
    parser.add_argument("--fresh", action="store_true", help="make the model anew")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file that the figures go into")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
