from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fleet.cli.main import main
from fleet.home import Home
from tests.support.command import Command
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.http_server import serving
from tests.support.shared_app import shared_app


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Never the home of whoever runs the tests, 80 columns, no colours."""
    monkeypatch.setenv("GLMFLEET_HOME", str(tmp_path_factory.mktemp("unused")))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("GLMFLEET_DEBUG", raising=False)


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home.open(tmp_path_factory.mktemp("home"))


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator()


@pytest.fixture
def served(home: Home, coordinator: FakeCoordinator) -> Iterator[Home]:
    """A home whose coordinator is the fake one, behind a real socket."""
    with ExitStack() as stack:
        started = threading.Event()
        loop = asyncio.new_event_loop()
        stopping: list[asyncio.Event] = []
        urls: list[str] = []

        async def serve() -> None:
            stopping.append(asyncio.Event())
            async with serving(shared_app(coordinator)) as url:
                urls.append(url)
                started.set()
                await stopping[0].wait()

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
        thread.start()
        stack.callback(loop.close)
        stack.callback(thread.join)
        stack.callback(lambda: loop.call_soon_threadsafe(stopping[0].set))
        assert started.wait(10)
        stack.enter_context(home.serving(urls[0]))
        yield home


@pytest.fixture
def glmfleet(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process: (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call
