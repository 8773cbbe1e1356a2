from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from fleet.home import Home
from tests.support.checkpoints import write_checkpoint
from tests.support.command import Command


@pytest.fixture
def filled(glmfleet: Command, home: Home, tmp_path: Path) -> Home:
    assert glmfleet("model", "import", write_checkpoint(tmp_path / "checkpoint"), "--name", "mine", "--home", home.path)[0] == 0
    return home


def test_a_line_for_each_placement_with_its_cost(glmfleet: Command, filled: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    profiles = ("--profile", "rk3588,raspberry-pi-5", "--context", "256", "--home", filled.path)
    code, out, err = glmfleet("sim", "predict", "mine", *profiles, "--price-energy", "0.30/kWh", "--price-hardware", "120")
    assert code == 0
    assert all(len(line) <= 100 for line in out.splitlines())
    for name in ("rk3588", "raspberry-pi-5", "cost of", "tokens/s"):
        assert name in out
    assert "figures that are estimates: rk3588 (" in err
    assert "a step of" in err


def test_json_and_a_plot(glmfleet: Command, filled: Home, tmp_path: Path) -> None:
    profiles = ("--profile", "rk3588,rk3588", "--context", "256", "--home", filled.path)
    path = tmp_path / "plot.svg"
    code, _, err = glmfleet("sim", "predict", "mine", *profiles, "--plot", tmp_path / "plot.png")
    assert code == 2
    assert "--plot writes SVG" in err
    code, out, _ = glmfleet("sim", "predict", "mine", *profiles, "--json", "--plot", path)
    assert code == 0
    alone, pair = json.loads(out)
    assert alone["placement"] == "rk3588"
    assert [stage["device"] for stage in pair["stages"]] == ["rk3588-1", "rk3588-2"]
    assert alone["tokens_per_second"] > pair["tokens_per_second"]
    assert alone["cost_per_million_tokens"] is None
    assert sum(alone["stages"][0]["seconds"].values()) == pytest.approx(alone["seconds_per_token"])
    drawn = ElementTree.parse(path).getroot()
    assert len(drawn.findall("{http://www.w3.org/2000/svg}circle")) == 2


def test_times_of_programs_beside_the_roofline(glmfleet: Command, filled: Home) -> None:
    words = ("sim", "predict", "mine", "--profile", "rk3588,rk3588", "--context", "256", "--home", filled.path)
    code, out, err = glmfleet(*words, "--timing", "compiled")
    assert code == 0
    assert "rk3588: " in err
    assert "by its programs" in err
    assert "most of it is launch" in err
    code, roofline, err = glmfleet(*words)
    assert code == 0
    assert roofline != out
    assert "programs" not in err
    code, _, err = glmfleet("sim", "predict", "mine", "--profile", "raspberry-pi-5", "--timing", "compiled", "--home", filled.path)
    assert code == 1
    assert "it names no chip" in err


def test_a_fleet_of_the_gallery(glmfleet: Command, filled: Home) -> None:
    code, out, _ = glmfleet("sim", "predict", "mine", "--fleet", "street", "--context", "256", "--home", filled.path, "--json")
    assert code == 0
    assert {stage["profile"] for one in json.loads(out) for stage in one["stages"]} == {"horizon-journey-5"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "name the devices"),
        (("--profile", "rk3588", "--price-energy", "dear"), "not a price"),
        (("--profile", "rk3588", "--price-hardware", "rk3588=-1"), "not a price"),
        (("--profile", "rk3588", "--price-hardware", "other=1"), "none of rk3588"),
        (("--profile", "rk3588", "--prompt", "4000"), "more than the context"),
        (("--profile", "nope"), "no profile"),
    ],
)
def test_mistakes_are_told_in_a_line(glmfleet: Command, filled: Home, arguments: tuple[str, ...], says: str) -> None:
    code, out, err = glmfleet("sim", "predict", "mine", *arguments, "--home", filled.path)
    assert code in (1, 2)
    assert out == ""
    assert says in " ".join(err.split())
    assert "Traceback" not in err


def test_profiles_are_listed_and_explained(glmfleet: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    code, listed, _ = glmfleet("sim", "profiles")
    assert code == 0
    assert all(len(line) <= 100 for line in listed.splitlines())
    assert "horizon-journey-5" in listed
    code, explained, _ = glmfleet("sim", "profiles", "rk3588")
    assert code == 0
    assert all(len(line) <= 100 for line in explained.splitlines())
    assert "memory_bandwidth" in explained
    assert "vendor" in explained
    (tmp_path / "mine.toml").write_text('description = "mine"\n')
    code, _, err = glmfleet("sim", "profiles", str(tmp_path / "mine.toml"))
    assert (code, "no [memory]" in err) == (1, True)
