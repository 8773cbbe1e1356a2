"""Models at their full size over devices that are each too small for them: import, deploy, generate, as a user does it.

    python -m benchmarks.full_shapes --models glm-edge-1.5b

The weights are random, all else is as it would be: a hub's file layout, the command in processes of its own, devices with so little memory
that one alone is refused. The token ids are compared with those of one device that has room for all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.coordinator import START_SECONDS, serving
from benchmarks.random_checkpoint import MODELS, write
from fleet.home import Home

CONTEXT, SLOTS = 512, 4
_LOOK_SECONDS = 0.05
_PROMPT = tuple(300 + 7 * number for number in range(32))


@dataclass(frozen=True)
class Small:
    """So many devices of so much memory."""

    devices: int
    memory: str


SMALL = {
    "glm-edge-1.5b": Small(2, "1500MiB"),
    "glm-edge-4b": Small(4, "1800MiB"),
    "glm-4-9b": Small(6, "2500MiB"),
    "glm-2b": Small(3, "1500MiB"),
}
ROOM_FOR_ALL = "16GiB"


@dataclass(frozen=True)
class Result:
    model: str
    weights: int
    import_seconds: float
    import_cpu_seconds: float
    import_peak_bytes: int
    artifact_bytes: int
    devices: int
    memory: str
    refused: str  # what the planner says of one such device
    stages: int
    deploy_seconds: float
    device_peak_bytes: int  # the largest of the devices'
    first_token_seconds: float
    tokens_per_second: float
    tokens: int
    same_as_one_device: bool


class Commands:
    """`glmfleet` on a home of its own."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def start(self, *arguments: object, **files: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "fleet.cli", "--home", str(self.home.path), *map(str, arguments)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, **files)

    def __call__(self, *arguments: object) -> str:
        """Its stdout. Raises SystemExit with what it said when it failed."""
        code, out, err = self.tried(*arguments)
        if code:
            raise SystemExit(f"glmfleet {' '.join(map(str, arguments))}: {err.strip()}")
        return out

    def tried(self, *arguments: object) -> tuple[int, str, str]:
        process = self.start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate()
        return process.returncode, out.decode(), err.decode()

    @contextmanager
    def fleet(self, devices: int, *memory: str) -> Iterator[None]:
        self("sim", "up", "--devices", devices, "--profile", "rk3588", *memory)
        try:
            with serving(self.home):
                deadline = time.perf_counter() + START_SECONDS
                while len(self._online()) < devices:
                    if time.perf_counter() > deadline:
                        raise SystemExit(f"{len(self._online())} of {devices} devices were found")
                    time.sleep(0.2)  # each look is a process
                yield
        finally:
            self("sim", "down")

    def _online(self) -> list[object]:
        code, out, _ = self.tried("devices", "--json")
        return [] if code else [device for device in json.loads(out) if device["state"] == "online"]

    def device_peaks(self) -> list[int]:
        """Of each device's process, in bytes."""
        return [_peak(json.loads(path.read_text())["pid"]) for path in self.home.sim.glob("*/device.json")]


def _peak(pid: int) -> int:
    """VmHWM of a process, in bytes: pages of mapped files are in it. 0 when it has ended."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10 if "VmHWM:" in status else 0


def measure(name: str, folder: Path) -> Result:
    checkpoint, small = folder / "checkpoint" / name, SMALL[name]
    glmfleet = Commands(Home.open(folder / "home"))
    blank = [number for text, number in MODELS[name].special.items() if text == "[gMASK]"]  # what the original GLM fills
    prompt = ",".join(map(str, [*_PROMPT, *blank]))
    weights = write(checkpoint, MODELS[name])
    start = time.perf_counter()
    process = glmfleet.start("model", "import", checkpoint, "--name", name, stdout=subprocess.DEVNULL)
    import_peak_bytes = 0
    # Not its ru_maxrss: that is never less than what this process, which it was forked from, had.
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        import_peak_bytes = max(import_peak_bytes, _peak(process.pid))
        time.sleep(_LOOK_SECONDS)
    _, code, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        raise SystemExit(f"the import of {name} failed")
    import_seconds = time.perf_counter() - start
    shutil.rmtree(checkpoint)
    with glmfleet.fleet(small.devices, "--memory", small.memory):
        alone, _, refused = glmfleet.tried("plan", name, "--stages", 1, "--context", CONTEXT, "--slots", SLOTS)
        if not alone:
            raise SystemExit(f"one device of {small.memory} holds all of {name}: that shows nothing")
        start = time.perf_counter()
        glmfleet("deploy", name, "--context", CONTEXT, "--slots", SLOTS)
        deploy_seconds = time.perf_counter() - start
        stages = len(json.loads(glmfleet("deployments", "--json"))[0]["stages"])
        _answer(glmfleet, prompt)  # a first one warms the caches
        answer = _answer(glmfleet, prompt)
        peaks = glmfleet.device_peaks()
    with glmfleet.fleet(1, "--memory", ROOM_FOR_ALL):
        glmfleet("deploy", name, "--context", CONTEXT, "--slots", SLOTS)
        same = _answer(glmfleet, prompt)["token_ids"] == answer["token_ids"]
    return Result(
        model=name,
        weights=weights,
        import_seconds=import_seconds,
        import_cpu_seconds=usage.ru_utime + usage.ru_stime,
        import_peak_bytes=import_peak_bytes,
        artifact_bytes=sum(path.stat().st_size for path in glmfleet.home.path.glob("artifacts/blobs/sha256/*")),
        devices=small.devices,
        memory=small.memory,
        refused=refused.strip().partition("\n")[0],
        stages=stages,
        deploy_seconds=deploy_seconds,
        device_peak_bytes=max(peaks),
        first_token_seconds=answer["ttft_seconds"]["wall"],
        tokens_per_second=1 / answer["tpot_seconds"]["wall"],
        tokens=answer["completion_tokens"],
        same_as_one_device=same,
    )


def _answer(glmfleet: Commands, prompt: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(glmfleet("generate", "--prompt-ids", prompt, "--max-tokens", 32, "--ignore-eos", "--json"))
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--folder", type=Path, help="where to work: 50 GB for the 9B model, 25 GB for the 4B model")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    columns = [
        "model",
        "weights",
        "import s (CPU)",
        "peak MiB",
        "artifact GiB",
        "stages of devices",
        "deploy s",
        "largest device MiB",
        "first token s",
        "tokens/s",
    ]
    columns.append("as one device says")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name in options.models:
        with tempfile.TemporaryDirectory(prefix="glmfleet-full-", dir=options.folder) as folder:
            one = measure(name, Path(folder))
        print(
            f"| {one.model} | {one.weights / 1e9:.2f} B | {one.import_seconds:.0f} ({one.import_cpu_seconds:.0f}) "
            f"| {one.import_peak_bytes / 2**20:.0f} | {one.artifact_bytes / 2**30:.2f} | {one.stages} of {one.devices} × {one.memory} "
            f"| {one.deploy_seconds:.0f} | {one.device_peak_bytes / 2**20:,.0f} | {one.first_token_seconds:.2f} "
            f"| {one.tokens_per_second:.1f} | {'yes' if one.same_as_one_device else 'NO'} |",
            flush=True,
        )
        print(f"  one device alone: {one.refused}", file=sys.stderr, flush=True)
        if options.json:
            print(json.dumps(asdict(one)), file=sys.stderr)


if __name__ == "__main__":
    main()
