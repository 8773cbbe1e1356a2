from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from device.blobs import BlobStore
from device.hardware import Condition
from protos.errors import Corrupt, InvalidInput, NoSpace, NotFound
from protos.ids import Digest, digest_of
from protos.physics.costs import StageCost
from protos.physics.timing import Decode, StageRun
from sim_devices.device_faults import DeviceFaults, SimulatedClock, SimulatedDisk
from sim_devices.flip import flip_bit
from sim_devices.hardware import SimulatedHardware
from sim_devices.profiles import load_profile

DATA = bytes(range(256)) * 40


class RecordingBoard:
    def __init__(self, battery_fraction: float | None = 1.0) -> None:
        self.told: list[tuple[str, float]] = []
        self.battery_fraction = battery_fraction

    def condition(self) -> Condition:
        return Condition(40.0, False, self.battery_fraction)

    def set_slowdown(self, factor: float) -> None:
        self.told.append(("slow", factor))

    def set_temperature(self, celsius: float) -> None:
        self.told.append(("temperature", celsius))

    def set_battery(self, fraction: float) -> None:
        self.told.append(("battery", fraction))


def stored(store: BlobStore, data: bytes) -> Digest:
    digest = digest_of(data)
    with store.arrive(digest, len(data), 0) as arrival:
        arrival.catch_up()
        arrival.write(data)
        arrival.finish()
    return digest


async def test_words_reach_board_disk_and_clock() -> None:
    board, disk, clock = RecordingBoard(), SimulatedDisk(), SimulatedClock()
    faults = DeviceFaults(board, disk, clock)
    for words in ("slow 4", "battery 0", "disk full", "clock -3600", "temperature 95", "temperature -"):
        await faults.handle(words.split())
    assert board.told == [("slow", 4), ("battery", 0), ("temperature", 95)]
    assert (disk.full, clock.skew_seconds) == (True, -3600)
    await faults.handle(["disk", "ok"])
    assert not disk.full
    with pytest.raises(InvalidInput, match="explode"):
        await faults.handle(["explode"])
    with pytest.raises(InvalidInput, match="no battery"):
        await DeviceFaults(RecordingBoard(None), disk, clock).handle(["battery", "0"])


async def test_a_board_is_slowed_and_held_hot_and_its_battery_ends() -> None:
    ended: list[str] = []
    profile = load_profile("snapdragon-8-elite").in_ambient(35.0)
    hardware = SimulatedHardware(profile, "fast", battery_empty=lambda: ended.append("empty"))
    faults = DeviceFaults(hardware, SimulatedDisk(), SimulatedClock())
    run = StageRun(StageCost(read_bytes=90_000_000, macs_per_row=1_000_000), Decode((0,)))
    try:
        assert hardware.condition().temperature_celsius == pytest.approx(35 + profile.idle_watts * profile.thermal.kelvin_per_watt)
        before = hardware.run(run, lambda: None).modelled_seconds
        assert before
        await faults.handle(["slow", "4"])
        assert hardware.run(run, lambda: None).modelled_seconds == pytest.approx(4 * before)
        await faults.handle(["slow", "1"])
        await faults.handle(["temperature", "110"])
        assert hardware.condition().throttled
        assert hardware.run(run, lambda: None).modelled_seconds == pytest.approx(before / profile.thermal.throttled_speed)
        await faults.handle(["temperature", "-"])
        await faults.handle(["battery", "0"])
        assert ended == ["empty"]
    finally:
        hardware.close()


def test_a_full_disk_refuses_before_and_in_the_middle_of_a_blob(tmp_path: Path) -> None:
    disk = SimulatedDisk()
    store = BlobStore(tmp_path, disk)
    kept = stored(store, DATA)
    disk.full = True
    assert store.free_bytes() == 0
    with pytest.raises(NoSpace):
        store.arrive(digest_of(b"x"), 1, 0)
    store.verify(kept)  # what is there can be read
    disk.full = False
    with store.arrive(digest_of(DATA * 2), len(DATA) * 2, 0) as arrival:
        arrival.catch_up()
        arrival.write(DATA)
        disk.full = True
        with pytest.raises(NoSpace, match="the disk is full after"):
            arrival.write(DATA)
    disk.full = False
    stored(store, DATA * 2)


def test_one_bit_is_flipped_and_the_store_tells(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    first, second = stored(store, DATA), stored(store, DATA[::-1])
    told = flip_bit(store.folder, first[:8], random.Random(5))
    assert told == flip_bit(store.folder, first[:8], random.Random(5))  # the same bit: it is back
    store.verify(first)
    flip_bit(store.folder, first[:8], random.Random(5))
    changed = (store.folder / first).read_bytes()
    assert sum((one ^ other).bit_count() for one, other in zip(changed, DATA, strict=True)) == 1
    assert hashlib.sha256(changed).hexdigest() != first
    with pytest.raises(Corrupt):
        store.verify(first)
    store.verify(second)
    with pytest.raises(NotFound, match="no blob 00000"):
        flip_bit(store.folder, "00000", random.Random(5))
    with pytest.raises(NotFound, match="no blob at all"):
        flip_bit(tmp_path / "nowhere", "", random.Random(5))


def test_a_clock_that_is_wrong() -> None:
    clock = SimulatedClock(3600.0)
    assert 3599 < (clock() - SimulatedClock()()).total_seconds() < 3601
    assert clock.log_time(0.0) == SimulatedClock().log_time(3600.0)
