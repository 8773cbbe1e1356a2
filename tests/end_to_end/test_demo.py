"""The demo, with a tiny model in the place of the real one, ended in every way."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.support.checkpoints import TinyGlm, write_checkpoint
from tests.support.processes import Glmfleet, processes_naming, wait_for

SECTIONS = ("A model", "2 simulated devices", "The plan", "What is the capital", "What it cost")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a model of two layers."""
    folder = tmp_path_factory.mktemp("demo")
    checkpoint = write_checkpoint(folder / "tiny", TinyGlm(layers=2, max_positions=2048))
    imported = Glmfleet(folder / "home")("model", "import", checkpoint, "--name", "smollm2-135m")
    assert imported.returncode == 0, imported.stderr
    return folder / "home"


@pytest.fixture
def demo(tmp_path: Path, home: Path) -> Glmfleet:
    """Its temporary files in a folder of their own, to see what is left."""
    (tmp_path / "temporary").mkdir()
    shutil.copytree(home, tmp_path / "home")
    return Glmfleet(tmp_path / "home", {"TMPDIR": str(tmp_path / "temporary")})


def assert_nothing_left(demo: Glmfleet) -> None:
    temporary = Path(demo.environment["TMPDIR"])
    wait_for(lambda: processes_naming(str(temporary)) == [], 5)
    assert os.listdir(temporary) == []
    assert {path.name for path in demo.home.iterdir()} <= {"artifacts", "demo.svg", "downloads", "publisher"}


def test_it_shows_everything_and_leaves_nothing(demo: Glmfleet) -> None:
    done = demo("demo", "--devices", 2, "--prompt", "Name three colours.")
    assert done.returncode == 0, done.stderr
    at = [done.stdout.index(f"== {section}") for section in (*SECTIONS[:4], "Name three colours.", SECTIONS[4], "Yours now")]
    assert at == sorted(at)
    cost = done.stdout[at[-2] :]
    assert cost.count("modelled") >= 3
    assert f"{demo.home / 'demo.svg'}\n" in cost
    assert ElementTree.parse(demo.home / "demo.svg").getroot().tag.endswith("svg")
    assert_nothing_left(demo)


@pytest.mark.parametrize(
    ("section", "number"),
    [
        pytest.param(SECTIONS[2], signal.SIGTERM, marks=pytest.mark.long),
        (SECTIONS[3], signal.SIGINT),
        *(pytest.param(section, signal.SIGINT, marks=pytest.mark.long) for section in SECTIONS[:3]),
        pytest.param(SECTIONS[3], signal.SIGHUP, marks=pytest.mark.long),
    ],
)
def test_a_signal_at_any_point_leaves_nothing(demo: Glmfleet, section: str, number: signal.Signals) -> None:
    process = demo.start("demo", "--devices", 2)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"== {section}"):
            process.send_signal(number)
            break
    # The rest is read away, so that the process cannot block on a full pipe.
    reader = threading.Thread(target=process.stdout.read)
    reader.start()
    assert process.wait(20) == 128 + number
    reader.join()
    assert process.stderr is not None
    err = process.stderr.read()
    assert "Traceback" not in err
    if number == signal.SIGINT:
        assert err.splitlines()[-1] == "interrupted"
    for pipe in (process.stdout, process.stderr):
        pipe.close()
    assert_nothing_left(demo)


@pytest.mark.long
def test_an_error_in_the_middle_leaves_nothing(demo: Glmfleet) -> None:
    done = demo("demo", "--devices", 3)  # more stages than the model has layers
    assert done.returncode == 1
    first, second = done.stderr.splitlines()[-2:]
    assert first.startswith("error: ")
    assert second.startswith("  ")
    assert_nothing_left(demo)
