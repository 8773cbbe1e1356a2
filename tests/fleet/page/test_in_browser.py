"""Every screen in headless Chromium: on a small fleet that computes, and on what a fake coordinator says of a large one with long names."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from fleet.home import Home
from tests.support.browser import Browser, browser, chromium
from tests.support.checkpoints import TinyGlm, write_checkpoint
from tests.support.fake_coordinator import BOARD, DEPLOYMENT, DEVICE, PIPELINE, PLAN, STAGE, FakeCoordinator
from tests.support.http_server import serving
from tests.support.processes import Glmfleet, wait_for
from tests.support.shared_app import shared_app

pytestmark = [pytest.mark.long, pytest.mark.skipif(chromium() is None, reason="chromium is not installed")]
SCREENS = ("Fleet", "Charts", "Deployments", "Requests", "Telemetry", "Chat", "Joining")
FIRST_LOOK_SECONDS = 1.0
FRAME_MILLISECONDS = 16.7
LONG = "a-name-as-long-as-a-name-may-be-which-somebody-has-really-given-"
WIDE, PHONE = (1280, 860), (390, 844)
SHOWN = "document.querySelector('main h1') && !document.body.innerText.includes('asking the coordinator')"


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path / "profile") as opened:
        opened.size(*WIDE)
        yield opened


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Glmfleet]:
    """Two simulated devices with a tiny model in two stages."""
    folder = tmp_path_factory.mktemp("small")
    glmfleet = Glmfleet(folder / "home")
    checkpoint = write_checkpoint(folder / "checkpoint", TinyGlm(layers=2, max_positions=512))
    for command in (["model", "import", checkpoint, "--name", "tiny"], ["sim", "up", "--devices", 2]):
        done = glmfleet(*command)
        assert done.returncode == 0, done.stderr
    try:
        with glmfleet.serving():
            wait_for(lambda: list(glmfleet.states().values()) == ["online"] * 2, 20)
            done = glmfleet("deploy", "tiny", "--stages", 2)
            assert done.returncode == 0, done.stderr
            done = glmfleet("generate", "hello", "--max-tokens", 20)
            assert done.returncode == 0, done.stderr
            yield glmfleet
    finally:
        glmfleet("sim", "down")


def url_of(glmfleet: Glmfleet) -> str:
    running = Home(glmfleet.home).running_coordinator()
    assert running is not None
    return running.url


@contextmanager
def faked(coordinator: FakeCoordinator) -> Iterator[str]:
    """Its address, served by a thread."""
    begun, end, url = threading.Event(), asyncio.Event(), ""
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        nonlocal url
        async with serving(shared_app(coordinator)) as url:
            begun.set()
            await end.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert begun.wait(10)
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(10)
        loop.close()


def check(tab: Browser, url: str, width: int = WIDE[0]) -> None:
    assert tab.problems == []
    assert {address for address in tab.asked if not address.startswith((f"{url}/", "about:", "data:"))} == set()
    assert tab.run("document.documentElement.scrollWidth") <= width, "it is wider than the window"


def look_everywhere(tab: Browser, url: str, width: int = WIDE[0]) -> None:
    for name in SCREENS:
        tab.open(f"{url}/#/{name.lower()}")
        tab.wait(f"{SHOWN} && document.querySelector('main h1').textContent === '{name}' && document.title.startsWith('{name}')")
        check(tab, url, width)
        for fault in faults(tab):
            raise AssertionError(f"{name}: {fault}")


def faults(tab: Browser) -> list[str]:
    """What axe finds that is serious or worse."""
    if not tab.run("Boolean(window.axe)"):
        tab.run((files("axe_core_python") / "axe.min.js").read_text())
    found = tab.run("axe.run().then((told) => told.violations.map((one) => [one.impact, one.id, one.nodes.map((node) => node.html)]))")
    return [f"{rule}: {nodes[:3]}" for impact, rule, nodes in found if impact in ("serious", "critical")]


def test_the_first_look_is_there_within_a_second(small: Glmfleet, tab: Browser) -> None:
    tab.open(url_of(small))
    tab.wait("document.querySelector('.card')")
    tab.call("Page.reload", ignoreCache=True)
    tab.wait("document.querySelector('.card')")
    took = tab.run("performance.getEntriesByType('paint').at(-1).startTime / 1000")
    assert took < FIRST_LOOK_SECONDS
    check(tab, url_of(small))


@pytest.mark.parametrize(("size", "dark"), [(WIDE, False), (PHONE, True)])
def test_every_screen_of_a_fleet_that_computes(small: Glmfleet, tab: Browser, size: tuple[int, int], dark: bool) -> None:
    url = url_of(small)
    tab.size(*size, dark=dark)
    look_everywhere(tab, url, size[0])
    tab.open(f"{url}/#/fleet")
    tab.wait("document.querySelectorAll('.stage').length === 2 && document.querySelectorAll('.card').length === 2")
    assert {"simulated", "modelled", "head"} <= set(tab.text().split())
    tab.open(f"{url}/#/deployments")
    tab.wait("document.querySelector('.why li')")
    tab.open(f"{url}/#/requests")
    tab.wait("document.querySelector('.part-decode')")


def test_an_answer_streams_and_says_what_it_took(small: Glmfleet, tab: Browser) -> None:
    tab.open(f"{url_of(small)}/#/chat")
    tab.wait("document.querySelector('textarea')")
    tab.run("document.querySelector('textarea').focus()")
    tab.call("Input.insertText", text="hello <b>you</b>")
    for kind in ("keyDown", "keyUp"):
        tab.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    tab.wait("document.querySelector('.cost')", 60)
    cost = tab.run("document.querySelector('.cost').innerText")
    assert "J" in cost.split()
    assert "modelled" in cost
    assert tab.run("document.querySelector('.said').innerText") == "hello <b>you</b>"
    check(tab, url_of(small))


def test_a_coordinator_that_goes_away_is_told_and_comes_back(small: Glmfleet, tab: Browser) -> None:
    with another(small) as (other, url):
        tab.open(url)
        tab.wait("document.querySelector('.empty')")
        other.terminate()
        other.wait(20)
        tab.wait("document.querySelector('.away')")
        port = url.rpartition(":")[2]
        again = Glmfleet(small.home.parent / "other").start("serve", "--port", port, "--interface", "127.0.0.1")
        try:
            tab.wait("!document.querySelector('.away')", 30)
        finally:
            again.terminate()
            again.communicate()


@contextmanager
def another(small: Glmfleet) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A coordinator without devices, and where it is."""
    other = Glmfleet(small.home.parent / "other")
    with other.serving() as process:
        yield process, url_of(other)


def test_nobody_and_a_thousand_with_long_names(tab: Browser) -> None:
    coordinator = FakeCoordinator(found=[], deployed=[])
    with faked(coordinator) as url:
        look_everywhere(tab, url)
        stage = replace(STAGE, device_name=LONG)
        pipeline = replace(PIPELINE, pipeline_id=f"{LONG}-1", stages=(stage, stage), why=PLAN.why)
        coordinator.found = [
            replace(DEVICE, device_id=f"id-{number}", name=f"{LONG[:60]}{number:04}", hollow=number % 3 == 0, power_watts=4.5)
            for number in range(1000)
        ]
        coordinator.deployed = [replace(DEPLOYMENT, name=LONG, pipelines=(pipeline,))]
        coordinator.asking = [replace(BOARD, name=LONG)]
        for size in (WIDE, PHONE):
            tab.size(*size)
            look_everywhere(tab, url, size[0])
        tab.open(f"{url}/#/fleet")
        tab.wait("document.querySelectorAll('.card').length > 2")
        assert tab.run("document.querySelectorAll('.card').length") < 100
        tab.run("document.querySelector('.window').scrollTop = 1e9")
        tab.wait("document.body.innerText.includes('0999')")
        tab.run("document.querySelector('input[type=search]').focus()")
        tab.call("Input.insertText", text="0500")
        tab.wait("document.querySelectorAll('.card').length === 1")
        tab.open(f"{url}/#/joining")
        tab.wait("document.querySelector('.fingerprint')")
        tab.run("document.querySelector('.board button').click()")
        wait_for(lambda: ("accept", BOARD.device_id) in coordinator.asked, 10)
        check(tab, url, PHONE[0])


def test_a_thousand_devices_scroll_without_stutter(tab: Browser) -> None:
    """By the CPU's time that the page itself takes of a frame: how often a frame comes depends on what else the machine does."""
    coordinator = FakeCoordinator(found=[replace(DEVICE, device_id=f"id-{number}", name=f"dev-{number}") for number in range(1000)])
    with faked(coordinator) as url:
        tab.open(url)
        tab.wait("document.querySelector('.card')")
        tab.call("Performance.enable", timeDomain="threadTicks")

        def spent() -> float:
            told = {one["name"]: one["value"] for one in tab.call("Performance.getMetrics")["metrics"]}
            return float(told["ScriptDuration"] + told["LayoutDuration"] + told["RecalcStyleDuration"])

        before, frames = spent(), 100
        scroll = "box.scrollTop += 60; await new Promise(requestAnimationFrame);"
        tab.run(f"(async () => {{ const box = document.querySelector('.window'); for (let n = 0; n < {frames}; n++) {{ {scroll} }} }})()")
        assert 1000 * (spent() - before) / frames < FRAME_MILLISECONDS
