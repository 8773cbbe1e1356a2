"""Any OpenAI endpoint is measured by LoadGen's scenarios: what it answers, how it fails, and what counts as a run."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fleet.answering.views import GenerateRequest, GenerateResult, TokenChunk
from fleet.cli.bench_client import Answer
from fleet.cli.bench_loadgen import verdict
from fleet.cli.bench_report import report
from fleet.home import Home
from protos.errors import Busy, Internal
from tests.support.command import Command
from tests.support.fake_coordinator import RESULT, FakeCoordinator

QUICK = ("--duration", "0.4s", "--queries", 4, "--max-tokens", 8, "--format", "json")


def url(home: Home) -> str:
    running = home.running_coordinator()
    assert running is not None
    return running.url


@pytest.mark.parametrize(
    ("scenario", "options"),
    [
        ("single-stream", ()),
        ("server", ("--rate", 20)),
        pytest.param("multi-stream", ("--samples", 3), marks=pytest.mark.long),
        pytest.param("offline", ("--rate", 10), marks=pytest.mark.long),
    ],
)
def test_each_scenario_is_a_run(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator, scenario: str, options: tuple[Any, ...]
) -> None:
    code, out, err = glmfleet("bench", "serve", url(served), "--scenario", scenario, *QUICK, *options)
    assert code == 0, err
    told = json.loads(out)
    assert (told["rules"]["scenario"], told["model"], told["driver"][:8]) == (scenario, "tiny", "LoadGen ")
    assert told["queries"] == told["answered"] == len(coordinator.asked) - 1  # the first counts for nothing
    assert told["queries"] >= 4
    assert told["tokens"] == told["queries"] * RESULT.completion_tokens
    assert not told["tokens_counted"]
    assert 0 < told["ttft_seconds"]["p50"] <= told["ttft_seconds"]["p90"] <= told["ttft_seconds"]["p99"] <= told["total_seconds"]["p99"]
    assert told["joules_per_request"] == {"modelled": 1.5}
    assert told["joules_per_token"] == {"modelled": 0.5}
    satisfied = told["verdict"]["satisfied"]
    assert told["verdict"]["valid"] is all(satisfied.values())
    assert satisfied["Min duration"] or scenario == "offline"  # of which there were too few: more than --rate a second were answered


def test_for_people_there_is_a_table(glmfleet: Command, served: Home) -> None:
    code, out, _ = glmfleet("bench", "serve", url(served), "--duration", "0.4s", "--queries", 2)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"single-stream, tiny at {url(served)}"
    assert [line.split()[:2] for line in lines[3:7]] == [["seconds", "p50"], ["to", "the"], ["a", "token"], ["to", "the"]]
    assert "1.50 J a request, 0.500 J a token, modelled" in lines
    assert lines[-1].startswith("LoadGen ")


def test_errors_are_named_and_counted(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = coordinator.generate

    def refuses_most(request: GenerateRequest) -> AsyncIterator[TokenChunk | GenerateResult]:
        coordinator.error = Busy("full", retry_after_seconds=1.0) if len(coordinator.asked) % 3 == 2 else None
        return generate(request)

    monkeypatch.setattr(coordinator, "generate", refuses_most)
    code, out, _ = glmfleet("bench", "serve", url(served), *QUICK)
    told = json.loads(out)
    assert code == 1
    assert told["errors"] == {"429 rate_limit_error": told["queries"] - told["answered"]}


def test_what_is_no_endpoint_is_one_line(glmfleet: Command, home: Home) -> None:
    code, _, err = glmfleet("bench", "serve", "http://127.0.0.1:9")
    assert code == 1
    assert err.splitlines()[0].startswith("error: http://127.0.0.1:9/v1/models: ConnectError")


def test_a_file_of_prompts_is_read(glmfleet: Command, served: Home, coordinator: FakeCoordinator, tmp_path: Path) -> None:
    (tmp_path / "prompts").write_text("one\n\ntwo\n")
    assert glmfleet("bench", "serve", url(served), *QUICK, "--prompts", tmp_path / "prompts")[0] == 0
    (tmp_path / "prompts").write_text("\n")
    code, _, err = glmfleet("bench", "serve", url(served), "--prompts", tmp_path / "prompts")
    assert (code, err.splitlines()[0]) == (1, f"error: {tmp_path / 'prompts'} has no prompts")


ANSWER = Answer(10.0, 2.0, 0.5, 1.5, 5, 11, {"measured": 4.0})


def test_a_report_is_of_what_was_answered() -> None:
    late = replace(ANSWER, sent_at=12.0, first=1.0, last=3.0, seconds=4.0, joules={})
    told = report([ANSWER, late, Answer(11.0, 1.0, error="timed out")])
    assert (told.queries, told.answered, told.errors, told.seconds) == (3, 2, {"timed out": 1}, 6.0)
    assert (told.tokens_per_second, told.queries_per_second) == (22 / 6, 2 / 6)
    assert told.ttft_seconds == {"p50": 0.5, "p90": 1.0, "p99": 1.0}
    assert told.tpot_seconds == {"p50": 0.1, "p90": 0.2, "p99": 0.2}
    assert (told.joules_per_request, told.joules_per_token) == ({"measured": 4.0}, {"measured": 4.0 / 11})
    nothing = report([Answer(11.0, 1.0, error="timed out")])
    assert nothing.ttft_seconds == {"p50": None, "p90": None, "p99": None}


def test_loadgens_words_are_read() -> None:
    told = verdict(
        "Result is : INVALID\n  Min duration satisfied : NO\n  Min queries satisfied : Skipped\n"
        "  Early stopping satisfied: Yes\n"
        "Recommendations:\n * Decrease it.\nTTFT Early Stopping Result:\n * Run successful.\n"
        "TPOT Early Stopping Result:\n * Would need more.\n"
        "\n====\nAdditional Stats\n====\nx : 1\n"
    )
    assert (told.valid, told.satisfied) == (False, {"Min duration": False, "Early stopping": True})
    assert told.early_stopping == ("TTFT: Run successful.", "TPOT: Would need more.")
    with pytest.raises(Internal):
        verdict("nothing")


def test_without_loadgen_one_line_says_what_to_install(glmfleet: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fleet.cli.bench_loadgen")
    monkeypatch.delitem(sys.modules, "fleet.cli.bench_serve")
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    code, _, err = glmfleet("bench", "serve", "http://127.0.0.1:9")
    assert code == 1
    assert "this command needs mlperf_loadgen, which is not installed" in err
    assert "glmfleet[coordinator,device,text,sim,loadgen]" in err
