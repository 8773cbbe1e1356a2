"""What a device holds after it unloaded: nothing of the stage, and no more memory than before."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device import memory
from device.agent import host as host_module
from device.agent.host import StageHost
from device.agent.program import AgentConfig, run_agent
from device.cpu import CpuHardware
from device.stage_spec import DeploymentGeneration, StageSpec
from protos.dtypes import KvDtype
from protos.errors import FleetError
from protos.ids import PipelineId
from tests.device.agent.test_host import hosting
from tests.support.checkpoints import TinyGlm
from tests.support.stage_specs import TinyStages, filled_store

LINUX = pytest.mark.skipif(memory.held_bytes() is None, reason="nothing tells what a process holds here")


async def test_nobody_keeps_a_stage_that_was_unloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the task that looks for orphans nor a circle of references."""
    monkeypatch.setattr("device.cpu.copy_bandwidth", lambda: 1.0)
    monkeypatch.setattr(host_module, "ORPHAN_SECONDS", 0.02)
    stages = TinyStages.make(tmp_path / "model")
    spec = stages.specs()[0]
    async with hosting(filled_store(stages, tmp_path / "blobs")) as host:
        await host.load(spec)
        [loaded] = host.loaded
        loaded.stage.engine.prefill(0, 0, 0, np.ones(4, np.int64))
        await asyncio.sleep(0.05)  # the sweeper has looked at it
        kept: list[weakref.ref[object]] = [weakref.ref(loaded.stage), weakref.ref(loaded.stage.engine)]
        kept.append(weakref.ref(loaded.stage.engine.groups[0]))
        del loaded
        await host.unload(spec.generation, spec.pipeline)
        assert [each() for each in kept] == [None, None, None]


SHAPE = TinyGlm(layers=3, hidden_size=768, heads=12, kv_heads=4, head_dim=64, intermediate_size=3072, vocab_size=8000, max_positions=4096)
# In a process of its own, as an agent is: what other tests left behind is not there.
ALONE = """
import asyncio, sys
from pathlib import Path
import device.cpu, device.memory
from device.engine.warm import warm_up
device.cpu.copy_bandwidth = lambda: 1.0
device.memory.use_one_heap()
import tests.device.agent.test_memory as test
warm_up()
asyncio.run(getattr(test, sys.argv[1])(Path(sys.argv[2]), *map(int, sys.argv[3:])))
"""


def alone(name: str, folder: Path, *counts: int) -> list[tuple[int, int]]:
    """MiB held at the start (twice); then of each cycle, while a stage was there, and after."""
    command = [sys.executable, "-c", ALONE, name, str(folder), *map(str, counts)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=110)
    pairs = [line.split() for line in ended.stdout.splitlines()]
    return [(int(used), int(after)) for used, after in pairs]


def is_back(pairs: list[tuple[int, int]]) -> bool:
    """Whether each time no more is resident than a tenth beyond the start."""
    _, start = pairs[0]
    return all(after <= start * 1.1 for _, after in pairs[1:])


def resident_mib() -> int:
    return memory.resident_bytes() >> 20


def tell_start() -> None:
    memory.give_back()
    sys.stdout.write(f"{resident_mib()} {resident_mib()}\n")


async def loaded_and_unloaded(host: StageHost, specs: list[StageSpec], number: int) -> None:
    """All stages at once, each as a pipeline of its own; prints a pair of `alone`."""
    word = DeploymentGeneration("d", number)
    for index, spec in enumerate(specs):
        await host.load(replace(spec, generation=word, pipeline=PipelineId(f"p-{index}")))
    for loaded in host.loaded:
        spec = loaded.stage.spec
        rows = 128
        fed = np.ones(rows, np.int64) if spec.is_head else np.ones((rows, spec.shape.hidden_size), np.float32)
        for slot in range(2):
            loaded.stage.engine.prefill(0, slot, 0, fed)
    del loaded
    used = resident_mib()
    for index in range(len(specs)):
        await host.unload(word, PipelineId(f"p-{index}"))
    sys.stdout.write(f"{used} {resident_mib()}\n")


async def cycles(folder: Path, count: int) -> None:
    """Stages of another shape each time: the length and type of the cache, one, two and three on the device."""
    stages = TinyStages.make(folder / "model", SHAPE)
    async with hosting(filled_store(stages, folder / "blobs"), 4 << 30) as host:
        tell_start()
        for number in range(count):
            kv_dtype: KvDtype = "int8" if number % 4 == 1 else "float32"
            specs = stages.specs(1 + number % 3, context=512 + 256 * number, slots=4, kv_dtype=kv_dtype)
            await loaded_and_unloaded(host, specs, number + 1)


async def failures(folder: Path) -> None:
    """A good stage, then ones that fail when their output head, or all of their weights, are there; their errors are kept."""
    stages = TinyStages.make(folder / "model", replace(SHAPE, vocab_size=32000))
    good = stages.specs(context=512, slots=4)[0]
    other = replace(good.shape, hidden_size=760)
    errors: list[FleetError] = []
    async with hosting(filled_store(stages, folder / "blobs"), 4 << 30) as host:
        tell_start()
        await loaded_and_unloaded(host, [good], 1)
        for number in range(2, 6):
            spec = replace(good, graph=b"no graph") if number % 2 else replace(good, head_graph=good.graph, shape=other)
            try:
                await host.load(replace(spec, generation=DeploymentGeneration("d", number)))
            except FleetError as error:
                errors.append(error)
            sys.stdout.write(f"0 {resident_mib()}\n")
    assert len(errors) == 4


@LINUX
@pytest.mark.parametrize("count", [3, pytest.param(9, marks=pytest.mark.long)])
def test_memory_is_back_after_any_number_of_cycles_and_shapes(tmp_path: Path, count: int) -> None:
    pairs = alone("cycles", tmp_path, count)
    assert len(pairs) == count + 1
    assert min(used for used, _ in pairs[1:]) > min(after for _, after in pairs) + 40, f"a stage takes what can be told from noise: {pairs}"
    assert is_back(pairs), pairs


@pytest.mark.long
@LINUX
def test_a_load_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    pairs = alone("failures", tmp_path)
    assert is_back(pairs), pairs


HEAP = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from device import memory
from device.engine.huge_pages import use_huge_pages

def advised():
    return any("hg" in line.split() for line in Path("/proc/self/smaps").read_text().splitlines() if line.startswith("VmFlags:"))

def fill():
    return np.ones(8 << 20, np.uint8), [b"%d" % size + bytes(size) for size in [1 << 20] * 40]

memory.use_one_heap()
with ThreadPoolExecutor(1) as thread:
    thread.submit(bytes, 30 << 20).result()  # by which glibc learns that such sizes belong into its arenas
    for _ in range(2):
        kept = thread.submit(fill).result()
        moved, full = use_huge_pages(), memory.held_bytes()
        del kept
        thread.submit(memory.give_back).result()
        print(full - memory.held_bytes(), advised(), moved)
"""


@LINUX
def test_what_a_thread_freed_is_given_back_and_no_huge_page_takes_it_again() -> None:
    ended = subprocess.run([sys.executable, "-c", HEAP], capture_output=True, text=True, check=True, timeout=60)
    (freed, advised, moved), (freed_again, advised_again, moved_again) = [line.split() for line in ended.stdout.splitlines()]
    assert min(int(freed), int(freed_again)) > 46 << 20
    assert advised == advised_again == "False", "the kernel would fill what was given back, by and by"
    if int(moved):
        assert int(moved_again) > 32 << 20, "a heap that was given back gets its huge pages again"


async def test_the_agent_has_one_heap_before_it_starts_any_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(Exception):
        """Instead of a heap."""

    def asked() -> None:
        assert not only_agent_asked
        raise Asked

    only_agent_asked: list[Path] = []
    monkeypatch.setattr("device.cpu.copy_bandwidth", lambda: 1.0)
    monkeypatch.setattr("device.agent.program.use_one_heap", asked)
    monkeypatch.setattr("device.agent.program.only_agent", only_agent_asked.append)
    hardware = CpuHardware(1 << 30, 1)
    try:
        with pytest.raises(Asked):
            await run_agent(AgentConfig(tmp_path, "one", "127.0.0.1", insecure=True), hardware, lambda address: None)
    finally:
        hardware.close()


def test_where_nothing_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for text in (None, "VmRSS: 5 kB\n", "RssAnon: many kB\n"):
        status = tmp_path / "status"
        status.unlink(missing_ok=True)
        if text is not None:
            status.write_text(text)
        monkeypatch.setattr(memory, "_STATUS", status)
        assert memory.held_bytes() is None
    memory.give_back()
