from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from fleet.home import Home
from protos.chip.program import parse_program
from tests.support.checkpoints import write_checkpoint
from tests.support.command import Command


@pytest.fixture
def filled(glmfleet: Command, home: Home, tmp_path: Path) -> Home:
    assert glmfleet("model", "import", write_checkpoint(tmp_path / "checkpoint"), "--name", "mine", "--home", home.path)[0] == 0
    return home


def test_what_a_program_takes(glmfleet: Command, filled: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    chip = ("--profile", "edge-npu", "--context", "128", "--home", filled.path)
    code, out, err = glmfleet("compile", "mine", *chip, "--output", tmp_path / "mine.chip", "--timeline", tmp_path / "mine.svg")
    assert code == 0
    for words in ("edge-npu (generic)", "% of peak bandwidth", "instructions: ", "GEMM", "stands still for", "weights or cache from DRAM"):
        assert words in out
    assert "figures that are estimates" in err
    assert parse_program((tmp_path / "mine.chip").read_bytes()).target.context == 128
    drawn = ElementTree.parse(tmp_path / "mine.svg").getroot()
    assert len(drawn.findall("{http://www.w3.org/2000/svg}rect")) > 20


def test_json_names_what_people_read(glmfleet: Command, filled: Home, tmp_path: Path) -> None:
    chip = ("--profile", "edge-npu", "--context", "128", "--home", filled.path, "--json")
    generic = json.loads(glmfleet("compile", "mine", *chip, "--timeline", tmp_path / "trace.json")[1])
    codesigned = json.loads(glmfleet("compile", "mine", *chip, "--variant", "codesigned")[1])
    assert codesigned["seconds"] < generic["seconds"]
    assert codesigned["macs"] == generic["macs"]
    assert "MATMUL_SOFTMAX" in codesigned["instructions"]
    assert "MATMUL_SOFTMAX" not in generic["instructions"]
    assert generic["joules"]["idle"] > 0
    assert sum(generic["stall_cycles"]["load"].values()) + generic["busy_cycles"]["load"] <= generic["cycles"] * 1.001
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["args"]["name"] for event in events if event["ph"] == "M"} == {"load", "weights", "array", "vector", "store"}
    assert max(event["ts"] + event["dur"] for event in events if event["ph"] == "X") <= 1e6 * generic["seconds"]


def test_a_stage_its_instructions_and_passes(glmfleet: Command, filled: Home) -> None:
    chip = ("--profile", "horizon-journey-5", "--context", "64", "--home", filled.path, "--layers", "0-0")
    code, out, _ = glmfleet("compile", "mine", *chip, "--disassemble")
    assert code == 0
    assert out.startswith("0x0000  BEGIN.launch operator=0")
    assert out.rstrip().endswith("FINISH")
    code, out, _ = glmfleet("compile", "mine", *chip, "--dump", "legalise", "--rows", "4")
    assert code == 0
    assert "Softmax" in out
    assert "head" not in out.split("hidden_out")[0].split("layers.0")[-1]


REFUSED = (
    (("--profile", "abacus"), "no chip profile 'abacus'"),
    (("--profile", "edge-npu", "--variant", "fast"), "'fast' is none of generic, codesigned"),
    (("--profile", "edge-npu", "--layers", "5-99"), "--layers '5-99' names no layers"),
    (("--profile", "edge-npu", "--dump", "all"), "no pass 'all'"),
    (("--profile", "edge-npu", "--timeline", "x.png"), "--timeline writes SVG or JSON"),
    (("--profile", "edge-npu", "--context", "99999999"), "is not within the model's"),
    (("--profile", "edge-npu", "--kv", "int3"), "a cache of 'int3' is not known"),
    (("--profile", "edge-npu", "--output", "/nowhere/x"), "cannot write /nowhere/x"),
)


def test_what_cannot_be_is_refused_in_one_line(glmfleet: Command, filled: Home) -> None:
    for arguments, says in REFUSED:
        context = () if "--context" in arguments else ("--context", "64")
        code, _, err = glmfleet("compile", "mine", *context, *arguments, "--home", filled.path)
        assert code in (1, 2)
        assert says in err


def test_a_ladder_of_mechanisms(glmfleet: Command, filled: Home, tmp_path: Path) -> None:
    chip = ("--profile", "edge-npu", "--context", "64", "--home", filled.path)
    code, out, err = glmfleet("sim", "explain", "mine", *chip, "--price", "1.5", "--plot", tmp_path / "ladder.svg")
    assert code == 0
    assert "softmax fused into attention" in out
    assert "cost of" in out
    assert "figures of the chip are estimates" in err
    assert ElementTree.parse(tmp_path / "ladder.svg").getroot() is not None
    rungs = json.loads(glmfleet("sim", "explain", "mine", *chip, "--json")[1])
    assert rungs[0]["step"] == "generic"
    assert rungs[-2]["seconds"] < rungs[0]["seconds"]
    assert rungs[-1]["dram_bytes"] < rungs[0]["dram_bytes"]
    assert rungs[0]["cost_per_million_tokens"] is None
    code, _, err = glmfleet("sim", "explain", "mine", *chip, "--plot", tmp_path / "ladder.png")
    assert code == 2
    assert "--plot writes SVG" in err
