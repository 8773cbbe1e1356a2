"""Beats in virtual time: sent when nothing else is, heard, and missed only by who has listened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from protos.errors import Unavailable
from protos.net.beats import BeatingWriter, Watch
from protos.route import Hop
from protos.silence import Pace, Silence, Verdict
from sim_devices.virtual_time import VirtualLoop, run_virtual


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_beat_goes_when_nothing_else_went() -> None:
    async def main() -> list[tuple[float, str]]:
        written: list[tuple[float, str]] = []

        async def write(message: str) -> None:
            written.append((round(now(), 2), message))

        writer = BeatingWriter(write, "")
        beating = asyncio.create_task(writer.beat(0.25))
        await asyncio.sleep(0.6)
        for _ in range(5):  # more often than beats
            await writer.write("rows")
            await asyncio.sleep(0.2)
        await asyncio.sleep(0.3)
        beating.cancel()
        return written

    assert run_virtual(main()) == [
        (0.25, ""),
        (0.5, ""),
        *((round(0.6 + 0.2 * number, 2), "rows") for number in range(5)),
        (1.65, ""),
    ]


def test_where_nothing_is_open_beats_are_rare_and_a_new_pace_is_told_first() -> None:
    async def main() -> list[tuple[float, str]]:
        written: list[tuple[float, str]] = []
        busy = True

        async def write(message: str) -> None:
            written.append((round(now(), 2), message))

        writer = BeatingWriter(write, "")
        pace = Pace(0.5, lambda: busy, now)
        beating = asyncio.create_task(writer.beat_at(pace, lambda seconds: f"each {seconds:g} s"))
        await asyncio.sleep(0.9)
        busy = False
        await asyncio.sleep(10.0)
        busy = True
        await asyncio.sleep(1.2)
        beating.cancel()
        return written

    told = run_virtual(main())
    assert told[:5] == [(0.5, ""), (1.0, ""), (1.5, ""), (2.0, ""), (2.5, "each 4 s")]
    assert told[5:] == [(6.5, ""), (10.5, ""), (11.0, "each 0.5 s"), (11.5, ""), (12.0, "")]


def test_nothing_is_written_side_by_side_and_a_stream_that_ended_ends_no_beater() -> None:
    async def main() -> None:
        under_way = most = 0

        async def write(message: str) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(1.0)
            under_way -= 1
            if now() > 5.0:
                raise asyncio.InvalidStateError("it has ended")

        writer = BeatingWriter(write, "")
        beating = asyncio.create_task(writer.beat(0.1))
        await writer.write("rows")
        await asyncio.sleep(9.0)
        assert most == 1
        assert not beating.done()
        beating.cancel()

    run_virtual(main())


def test_a_stream_that_is_cancelled_here_does_not_cancel_who_writes() -> None:
    """What grpc.aio raises in a writer when another task cancels the call is what it raises when the writer is cancelled itself."""

    async def main() -> None:
        async def write(message: str) -> None:
            raise asyncio.CancelledError

        with pytest.raises(asyncio.InvalidStateError):
            await BeatingWriter(write, "").write("rows")

        async def waits(message: str) -> None:
            await asyncio.Event().wait()

        writing = asyncio.create_task(BeatingWriter(waits, "").write("rows"))
        await asyncio.sleep(1.0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing

    run_virtual(main())


class Told:
    def __init__(self) -> None:
        self.verdicts: list[tuple[float, Verdict]] = []

    def __call__(self, silence: Silence) -> None:
        self.verdicts.append((round(now(), 1), silence.verdict))


def watched(beat_seconds: float, scene: Callable[[Watch], Coroutine[object, object, None]]) -> list[tuple[float, Verdict]]:
    """What a watch tells of while `scene` goes on, and when."""

    async def main() -> list[tuple[float, Verdict]]:
        told = Told()
        with Watch(beat_seconds, told) as watch:
            await scene(watch)
        await asyncio.sleep(60.0)  # outside it says nothing
        return told.verdicts

    return run_virtual(main())


def test_silence_is_suspect_then_gone_and_a_sign_of_life_takes_suspicion_back() -> None:
    async def scene(watch: Watch) -> None:
        for _ in range(10):
            await asyncio.sleep(0.2)
            watch.heard()
        await asyncio.sleep(1.1)
        watch.heard()
        with pytest.raises(Unavailable, match=r"^dev-1: it was silent for 1\.[78] s"):
            await watch.until_gone(Hop("dev-1"))

    assert watched(0.25, scene) == [(2.8, "suspect"), (3.1, "well"), (3.9, "suspect"), (4.9, "gone")]


def test_who_announced_no_beats_may_be_silent() -> None:
    assert watched(0.0, lambda watch: asyncio.sleep(3600.0)) == []


def test_another_beat_that_is_announced_is_expected_from_then_on() -> None:
    async def main() -> list[str]:
        with Watch(0.25) as watch:
            seen = list[str]()
            for beat, silent in ((2.0, 5.0), (2.0, 7.0), (0.25, 1.0)):
                watch.expect(beat)
                await asyncio.sleep(silent)
                seen.append(watch.verdict)
            return seen

    assert run_virtual(main()) == ["well", "suspect", "suspect"]


def test_our_own_stall_is_no_evidence() -> None:
    """The loop stood still for ten seconds, in which beats came that nobody could take; they are taken in the next turns."""

    async def scene(watch: Watch) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        for _ in range(20):
            await asyncio.sleep(0.25)
            watch.heard()
            loop._jump(10.0)  # pauses of the process, one after another
            await asyncio.sleep(0.1)
            watch.heard()

    assert watched(0.25, scene) == []


def test_what_is_not_read_is_not_silence() -> None:
    async def scene(watch: Watch) -> None:
        with watch.excused():
            await asyncio.sleep(60.0)
        await asyncio.sleep(0.6)

    assert watched(0.25, scene) == []


def test_no_timer_is_left() -> None:
    async def main() -> None:
        for _ in range(3):
            with Watch(0.25):
                await asyncio.sleep(1.0)
        await asyncio.sleep(1.0)
        assert not asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]

    run_virtual(main())
