from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.checkpoints import TinyGlm, write_checkpoint
from tests.support.processes import Glmfleet, processes_naming, wait_for

_running = ExitStack()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six layers, so that five stages can be tried."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", TinyGlm(layers=6, max_positions=2048))


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Glmfleet]:
    """A home with a model, five simulated devices and a coordinator, each a process; nothing of it is left at the end."""
    with _running:
        yield _running.enter_context(_five_devices(tmp_path_factory.mktemp("fleet") / "home", checkpoint))


def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Ends the fleet behind the last test here: six processes that do nothing would slow down all tests that follow."""
    if nextitem is None or nextitem.path.parent != Path(__file__).parent:
        _running.close()


@contextmanager
def _five_devices(home: Path, checkpoint: Path) -> Iterator[Glmfleet]:
    glmfleet = Glmfleet(home)
    imported = glmfleet("model", "import", checkpoint, "--name", "tiny")
    assert imported.returncode == 0, imported.stderr
    try:
        up = glmfleet("sim", "up", "--devices", 5, "--profile", "rk3588,raspberry-pi-5")
        assert up.returncode == 0, up.stderr
        with glmfleet.serving():
            wait_for(lambda: list(glmfleet.states().values()) == ["online"] * 5, 20)
            yield glmfleet
    finally:
        down = glmfleet("sim", "down")
    assert down.returncode == 0, down.stderr
    assert processes_naming(str(home)) == []
