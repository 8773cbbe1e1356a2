"""How long answers pause when a device of their pipeline is killed, and what the pause is made of.

python -m benchmarks.recovery --model smollm2-135m --runs 3       (of the home that GLMFLEET_HOME names)

Four simulated devices, each a process: three stages and a standby. Eight streams, half of them sampled with a seed, are first left
alone; then the device of each stage is killed (SIGKILL) so many times while they run, at a point that --seed chooses, and started again
afterwards. Every answer is compared with the one that was left alone. The pause of a stream is its longest wait for a token after the
kill.

With --restart there is no standby: the device that was killed is started again at once, and everybody waits for it. With --recovery fast
what was lost is prefilled, and answers that differ are those that rounding changed.
"""

from __future__ import annotations

import argparse
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median

from benchmarks.boards import deploy, throwaway_boards
from benchmarks.product import serve
from fleet.answering.views import GenerateRequest, GenerateResult
from fleet.cli.client import CoordinatorClient, connect
from fleet.deploying.desired import Policy
from fleet.deploying.views import DeploymentView
from fleet.home import Home
from fleet.planning.plan import PlanRequest
from protos.errors import FleetError, TimedOut
from protos.sampling import Sampling
from sim_devices.local_fleet import DeviceSpec, LocalFleet

STAGES = ("head", "middle", "tail")
PROMPT = 32
STANDS_SECONDS = 120.0
LOOK_SECONDS = 0.02


@dataclass
class Stream:
    """One answer, with the time at which each of its chunks came."""

    result: GenerateResult | None = None
    error: str = ""
    came: list[float] = field(default_factory=list)
    tokens: int = 0

    def pause(self, killed_at: float) -> float:
        """The longest wait for a token, of those that ended after the kill."""
        waits = [
            after - max(before, killed_at) for before, after in zip([killed_at, *self.came], self.came, strict=False) if after > killed_at
        ]
        return max(waits, default=0.0)


@dataclass(frozen=True)
class Parts:
    """Seconds after the kill: something is known to be wrong; the stage has a device again; the ring stands; a token came."""

    detected: float
    moved: float
    attached: float
    replayed: float


@dataclass(frozen=True)
class Run:
    parts: Parts
    pauses: tuple[float, ...]
    given: int  # chunks of an answer (mostly one token) that the streams had when the device was killed, on average
    wrong: int  # answers that are not those that were left alone


def ask(home: Home, stream: Stream, number: int, tokens: int) -> None:
    prompt = tuple((number * 997 + 31 * index) % 1000 + 100 for index in range(PROMPT))
    sampling = Sampling(temperature=0.9, top_p=0.95, seed=number) if number % 2 else Sampling()
    request = GenerateRequest(prompt_ids=prompt, max_tokens=tokens, ignore_eos=True, sampling=sampling)
    try:
        with connect(home) as client:
            for part in client.generate(request):
                if isinstance(part, GenerateResult):
                    stream.result = part
                else:
                    stream.came.append(time.monotonic())
                    stream.tokens += len(part.token_ids)
    except FleetError as error:
        stream.error = error.detail


@contextmanager
def streams(home: Home, count: int, tokens: int) -> Iterator[list[Stream]]:
    """All of them running; at the end they are over."""
    all_streams = [Stream() for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        for number, stream in enumerate(all_streams):
            pool.submit(ask, home, stream, number, tokens)
        yield all_streams


class Watch:
    """Looks at the fleet again and again, and notes when something was first so."""

    def __init__(self, home: Home, lost: str, *, moves: bool) -> None:
        """`moves`: the stage goes to another device, and does not wait for this one."""
        self._home = home
        self._lost = lost
        self._moves = moves
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch")
        self.detected = self.moved = self.attached = 0.0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        with connect(self._home) as client:
            while not self._over.wait(LOOK_SECONDS) and not self.attached:
                [view] = client.deployments()
                online, now = any(one.name == self._lost and one.state == "online" for one in client.devices()), time.monotonic()
                elsewhere = all(stage.device_name != self._lost for stage in view.stages)
                if not self.detected and (elsewhere or not online or view.state != "ready"):
                    self.detected = now
                moved = elsewhere if self._moves else bool(self.detected) and online
                if moved and not self.moved:
                    self.moved = now
                if moved and view.state == "ready":
                    self.attached = now


def stands(client: CoordinatorClient, standbys: int) -> DeploymentView:
    """Wait until the pipeline answers and everybody who is to stand by is ready."""
    deadline = time.monotonic() + STANDS_SECONDS
    while time.monotonic() < deadline:
        [view] = client.deployments()
        ready = [one for one in view.pipelines[0].standbys if one.state == "ready"]
        if view.state == "ready" and len(ready) >= standbys:
            return view
        time.sleep(0.1)
    raise TimedOut(f"the fleet did not stand within {STANDS_SECONDS:.0f} s: {client.deployments()}")


def start_again(boards: LocalFleet, lost: str) -> None:
    """It may take a moment to be gone."""
    [before] = [device for device in boards.status() if device.name == lost]
    deadline = time.monotonic() + STANDS_SECONDS
    while boards.restart(lost).started == before.started:
        if time.monotonic() > deadline:
            raise TimedOut(f"{lost} did not end within {STANDS_SECONDS:.0f} s")
        time.sleep(0.005)


@dataclass(frozen=True)
class Setting:
    """`restart`: no standby, the device that was killed is started again at once."""

    model: str = "smollm2-135m"
    profile: str = "raspberry-pi-5"
    streams: int = 8
    tokens: int = 96
    context: int = 512
    restart: bool = False
    fast: bool = False

    @property
    def standbys(self) -> int:
        return 0 if self.restart else 1


@dataclass(frozen=True)
class Standing:
    """A pipeline over three boards, and what it answered while nothing failed: the token ids of each stream."""

    setting: Setting
    home: Home
    client: CoordinatorClient
    boards: LocalFleet
    left_alone: Sequence[tuple[int, ...]]

    def kill(self, place: int, after: int, tokens: int | None = None) -> Run:
        """The device of a stage, when the first stream has had so many tokens. `tokens`: of each answer (all of them)."""
        lost = stands(self.client, self.setting.standbys).stages[place].device_name
        expected = [ids[:tokens] for ids in self.left_alone]
        watch = Watch(self.home, lost, moves=not self.setting.restart)
        with streams(self.home, len(expected), len(expected[0])) as running, watch:
            deadline = time.monotonic() + STANDS_SECONDS
            while running[0].tokens < after and time.monotonic() < deadline:
                time.sleep(0.005)
            killed_at = time.monotonic()
            given = sum(len(stream.came) for stream in running) / len(running)
            self.boards.send(lost, signal.SIGKILL)
            if self.setting.restart:
                start_again(self.boards, lost)
            while not all(stream.result or stream.error for stream in running):
                time.sleep(0.05)
        if not self.setting.restart:
            start_again(self.boards, lost)
        for stream in running:
            if stream.error:
                print(f"an answer ended with an error: {stream.error}")
        firsts = [next((at for at in stream.came if at > max(watch.attached, killed_at)), killed_at) for stream in running]
        parts = Parts(*(at - killed_at for at in (watch.detected, watch.moved, watch.attached, median(firsts))))
        wrong = sum(stream.result is None or stream.result.token_ids != ids for stream, ids in zip(running, expected, strict=True))
        return Run(parts, tuple(stream.pause(killed_at) for stream in running), round(given), wrong)


@contextmanager
def standing(setting: Setting) -> Iterator[Standing]:
    """Boards, coordinator and deployment; the streams have run once."""
    with throwaway_boards() as (home, boards), ExitStack() as stack:
        boards.up([DeviceSpec(setting.profile)] * (len(STAGES) + setting.standbys))
        client = stack.enter_context(serve(home, len(STAGES) + setting.standbys))
        request = PlanRequest(setting.model, stages=len(STAGES), context=setting.context, slots=setting.streams)
        policy = Policy(standby=setting.standbys, exact_within_seconds=0.0 if setting.fast else None)
        deploy(client, request, policy=policy)
        for pause in stands(client, setting.standbys).pipelines[0].pauses:
            print(f"predicted for the {STAGES[pause.stage]}, in modelled time: {pause.seconds:.1f} s")
        with streams(home, setting.streams, setting.tokens) as undisturbed:
            pass
        left_alone = [stream.result.token_ids if stream.result else () for stream in undisturbed]
        began, ended = min(stream.came[0] for stream in undisturbed), max(stream.came[-1] for stream in undisturbed)
        print(f"left alone: {setting.streams} streams, {setting.streams * setting.tokens / (ended - began):.0f} tokens/s together\n")
        yield Standing(setting, home, client, boards, left_alone)


def report(name: str, runs: Sequence[Run]) -> None:
    pauses = [pause for run in runs for pause in run.pauses]
    parts = [median(getattr(run.parts, part) for run in runs) for part in ("detected", "moved", "attached", "replayed")]
    steps = [after - before for before, after in zip([0.0, *parts], parts, strict=False)]
    cells = [f"{median(pauses):.2f}", f"{max(pauses):.2f}", *(f"{step:.2f}" for step in steps)]
    wrong, streams_of = sum(run.wrong for run in runs), sum(len(run.pauses) for run in runs)
    given = median(run.given for run in runs)
    print(f"| {name} | {len(runs)} | {streams_of - wrong} of {streams_of} | {given:.0f} | {' | '.join(cells)} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--profile", default="raspberry-pi-5")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=96, help="of each answer")
    parser.add_argument("--runs", type=int, default=3, help="of each stage")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="whose devices are killed (default: each)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--restart", action="store_true", help="no standby: the device that was killed is started again at once")
    parser.add_argument("--recovery", choices=("exact", "fast"), default="exact")
    options = parser.parse_args(arguments)
    chance = random.Random(options.seed)  # nosec B311 # where to kill, not a secret
    setting = Setting(
        options.model, options.profile, options.streams, options.tokens, restart=options.restart, fast=options.recovery == "fast"
    )
    with standing(setting) as stand:
        print("| killed | runs | same answers | chunks given | pause s | worst | detected | moved | attached | replayed |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for name in options.stages:
            points = [chance.randrange(options.tokens * 4 // 5) for _ in range(options.runs)]
            report(name, [stand.kill(STAGES.index(name), after) for after in points])


if __name__ == "__main__":
    main()
