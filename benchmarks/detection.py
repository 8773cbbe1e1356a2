"""How soon silence is noticed, and whether it is seen where there is none: real processes, and links that are cut or lossy.

    python -m benchmarks.detection --runs 10                 (of the home that GLMFLEET_HOME names)
    python -m benchmarks.detection --calm --minutes 10

Three simulated boards hold a stage each and answer one request. Faults: a process is stopped (SIGSTOP), or nothing passes between two ends
any more and nobody is told. *noticed* is when the coordinator has a word of it on the device's record, *acted on* when the answer waits for
another ring, or the device is offline; both from just before the fault. With --calm nothing fails: every link loses 5 % of its segments and
delays them by 5 ms, from before the model is sent; one board's process runs for a tenth of the time, and prompts as long as the context
allows come one after another. What is counted then is every device that was taken for offline, and every ring that broke.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from benchmarks.boards import deploy, throwaway_boards
from benchmarks.figures import Spread, spread
from benchmarks.product import serve
from fleet.answering.views import GenerateRequest
from fleet.cli.client import CoordinatorClient, connect
from fleet.devices.views import StateChange
from fleet.home import Home
from fleet.planning.plan import PlanRequest
from protos.errors import FleetError
from quantize.hub.catalog import DEFAULT_MODEL
from sim_devices.local_fleet import DeviceSpec, LocalFleet

BOARDS, CONTEXT, LONG_ANSWER = 3, 1024, 900
RUNS_SECONDS, STANDS_SECONDS = 0.02, 0.18  # in turn, of the slow board
LOSSY = """
[[devices]]
name = "dev"
profile = "rk3588"

[[links]]
between = ["*", "*"]
delay = "5ms"
loss = "5%"
"""
_PATIENCE_SECONDS, _RECOVERY_SECONDS = 30.0, 120.0
_LOOK_SECONDS = 0.01


@dataclass(frozen=True)
class Fault:
    """`stop`: the stage whose device's process is stopped; else nothing passes between the `ends`, stages or None for the coordinator."""

    name: str
    stop: int | None = None
    ends: tuple[int | None, int | None] = (None, None)


FAULTS = (
    Fault("head stopped", stop=0),
    Fault("middle stopped", stop=1),
    Fault("last stopped", stop=2),
    Fault("cable cut between head and middle", ends=(0, 1)),
    Fault("cable cut between last and head", ends=(2, 0)),
    Fault("cable cut between coordinator and head", ends=(None, 0)),
    Fault("cable cut between coordinator and middle", ends=(None, 1)),
)


@dataclass(frozen=True)
class Noticed:
    """Seconds after the fault."""

    noticed: float
    acted_on: float


@dataclass
class Trial:
    """A deployment of a stage on each board, `devices` in their order."""

    boards: LocalFleet
    client: CoordinatorClient
    home: Home
    devices: list[str] = field(default_factory=list)

    def run(self, fault: Fault) -> Noticed:
        """Of one request that the fault meets. Heals, and waits until all is well again."""
        with asking(self.home, self.client):
            begun = time.time()
            self._begin(fault)
            try:
                acted_on = self._until(lambda: self._acted_at(fault, begun)) - begun
                noticed = min([change.at for change in self.changes() if change.at >= begun] or [begun + acted_on]) - begun
            finally:
                self._heal(fault)
        self.wait_well()
        return Noticed(min(noticed, acted_on), acted_on)

    def wait_well(self) -> None:
        """All are online, and the pipeline answers."""
        self._until(lambda: 1.0 if self._well() else None, _RECOVERY_SECONDS)
        time.sleep(1.0)

    def _begin(self, fault: Fault) -> None:
        if fault.stop is not None:
            self.boards.send(self.devices[fault.stop], signal.SIGSTOP)
        else:
            ends = ["coordinator" if end is None else self.devices[end] for end in fault.ends]
            self.boards.world.ask("fault", "0.0", "", f"cut {' '.join(ends)}")

    def _heal(self, fault: Fault) -> None:
        if fault.stop is not None:
            self.boards.send(self.devices[fault.stop], signal.SIGCONT)
        else:
            self.boards.world.ask("fault", "0.0", "", "heal")

    def _acted_at(self, fault: Fault, begun: float) -> float | None:
        if any(request.state == "recovering" for request in self.client.requests()):
            return time.time()
        # A ring goes on without the coordinator's own link to a device behind its head.
        if None in fault.ends and fault.stop is None and fault.ends[1] != 0:
            return next((change.at for change in self.changes() if change.at >= begun and change.state == "offline"), None)
        return None

    def changes(self) -> list[StateChange]:
        """Of all its devices, as the coordinator remembers them."""
        return [change for name in self.devices for change in self.client.device(name).history]

    def _well(self) -> bool:
        try:
            states = {device.state for device in self.client.devices()} | {view.state for view in self.client.deployments()}
            return states == {"online", "ready"} and answers(self.home)
        except FleetError:
            return False

    def _until(self, found: Callable[[], float | None], seconds: float = _PATIENCE_SECONDS) -> float:
        deadline = time.monotonic() + seconds
        while (value := found()) is None:
            if time.monotonic() > deadline:
                raise SystemExit(f"nothing came of it within {seconds:.0f} s")
            time.sleep(_LOOK_SECONDS)
        return value


def answers(home: Home, prompt: int = 8, tokens: int = 4) -> bool:
    """Whether a request is answered, whatever the tokens are."""
    asked = GenerateRequest(prompt_ids=tuple(range(100, 100 + prompt)), max_tokens=tokens, ignore_eos=True)
    with connect(home) as client:
        *_, result = client.generate(asked)
    return bool(result)


@contextmanager
def asking(home: Home, client: CoordinatorClient) -> Iterator[None]:
    """A request is answered meanwhile; cancelled at the end."""
    begun = threading.Event()

    def ask() -> None:
        asked = GenerateRequest(prompt_ids=tuple(range(100, 116)), max_tokens=LONG_ANSWER, ignore_eos=True)
        with contextlib.suppress(FleetError), connect(home) as own:
            for _ in own.generate(asked):
                begun.set()

    thread = threading.Thread(target=ask, name="a request")
    thread.start()
    try:
        if not begun.wait(_PATIENCE_SECONDS):
            raise SystemExit("no token came")
        yield
    finally:
        for request in client.requests():
            if request.state != "ended":
                with contextlib.suppress(FleetError):
                    client.cancel(request.request_id)
        thread.join()


def deployed(home: Home, boards: LocalFleet, stack: ExitStack, model: str, links: str = "") -> Trial:
    """`links`: of a fleet file, how they are from before the model's blobs are sent."""
    boards.up([DeviceSpec("rk3588", linked=True)] * BOARDS)
    client = stack.enter_context(serve(home, BOARDS))
    if links:
        boards.world.ask("links", "links", "/", links)
    deploy(client, PlanRequest(model, stages=BOARDS, context=CONTEXT, slots=2), "trial")
    stages = client.deployments()[0].stages
    return Trial(boards, client, home, [stage.device_name for stage in stages])


def detect(trial: Trial, runs: int) -> None:
    print("| fault | runs | noticed after, s: median, worst | acted on after, s: median, worst |\n|---|---|---|---|")
    for fault in FAULTS:
        found = [trial.run(fault) for _ in range(runs)]
        columns = [_text(spread([getattr(one, name) for one in found])) for name in ("noticed", "acted_on")]
        print(f"| {fault.name} | {runs} | {' | '.join(columns)} |", flush=True)


def _text(figures: Spread) -> str:
    return f"{figures.median:.2f}, {figures.high:.2f}"


@contextmanager
def slow(boards: LocalFleet, name: str) -> Iterator[None]:
    """Meanwhile a board computes a tenth as fast, whatever it computes."""
    over = threading.Event()

    def stand_and_run() -> None:
        while not over.wait(RUNS_SECONDS):
            boards.send(name, signal.SIGSTOP)
            time.sleep(STANDS_SECONDS)
            boards.send(name, signal.SIGCONT)

    thread = threading.Thread(target=stand_and_run, name="slow board")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def stay_calm(home: Home, boards: LocalFleet, stack: ExitStack, model: str, minutes: float) -> None:
    """Raises SystemExit when a device was taken for dead, or a ring broke."""
    begun, start = time.time(), time.perf_counter()
    trial = deployed(home, boards, stack, model, LOSSY)
    print(f"deployed over these links in {time.perf_counter() - start:.0f} s", flush=True)
    until, asked = time.monotonic() + 60 * minutes, 0
    with slow(trial.boards, trial.devices[1]):
        while time.monotonic() < until:
            answers(trial.home, prompt=CONTEXT - 80, tokens=64)
            asked += 1
    changes = [change for change in trial.changes() if change.at >= begun]
    suspicions = sum(change.state == change.before or change.state == "suspect" for change in changes)
    deaths = sum(change.state == "offline" for change in changes)
    broken = sum(request.attempts - 1 for request in trial.client.requests())
    print(f"{minutes:g} minutes, {asked} requests: {suspicions} suspicions, {deaths} devices taken for dead, {broken} broken rings")
    if deaths or broken:
        raise SystemExit("\n".join(f"{change.before} -> {change.state}: {change.why}" for change in changes))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--runs", type=int, default=10, help="of each fault")
    parser.add_argument("--calm", action="store_true", help="nothing fails")
    parser.add_argument("--minutes", type=float, default=10.0, help="with --calm")
    options = parser.parse_args(arguments)
    with throwaway_boards() as (home, boards), ExitStack() as stack:
        if options.calm:
            stay_calm(home, boards, stack, options.model, options.minutes)
        else:
            detect(deployed(home, boards, stack, options.model), options.runs)


if __name__ == "__main__":
    main()
