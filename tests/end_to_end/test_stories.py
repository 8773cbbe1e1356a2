"""The three stories, as separate processes that find each other over mDNS on 127.0.0.1."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from fleet.home import Home
from tests.support.processes import Glmfleet, wait_for

PROMPT = ["--prompt-ids", "72,101,108,108,111", "--max-tokens", 24]


def as_json(glmfleet: Glmfleet, *arguments: object) -> Any:
    done = glmfleet(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", autouse=True)
def _complete(fleet: Glmfleet) -> None:
    """Every device is found before the first test."""
    wait_for(lambda: list(fleet.states().values()) == ["online"] * 5, 20)


@pytest.fixture(scope="module")
def single(fleet: Glmfleet) -> Any:
    """The answer of one device: what every other way of placing the model has to say too."""
    deployed = as_json(fleet, "deploy", "tiny", "--stages", 1, "--context", 256, "--name", "story")
    assert (deployed["state"], len(deployed["stages"])) == ("ready", 1)
    return as_json(fleet, "generate", *PROMPT)


def test_devices_are_found_with_every_documented_field(fleet: Glmfleet) -> None:
    devices = as_json(fleet, "devices")
    assert {device["profile"] for device in devices} == {"rk3588", "raspberry-pi-5"}
    for device in devices:
        assert {"device_id", "name", "address", "state", "simulated", "profile", "memory_bytes"} <= set(device)
        assert device["simulated"]
        assert device["address"].startswith("127.0.0.1:")
        assert device["found_by"] == "mdns"
    assert {device["name"] for device in as_json(fleet, "sim", "status")} == {device["name"] for device in devices}


def test_doctor_looks_closely_and_multicast_gets_there_and_back(fleet: Glmfleet) -> None:
    findings = {one["name"]: one for one in json.loads(fleet("doctor", "--json").stdout)}
    for name in ("versions", "clocks", "certificates", "multicast", "disks"):
        assert findings[name]["level"] == "ok", findings[name]
    assert findings["multicast"]["detail"].startswith("both ways with 5 devices, on lo (127.0.0.1)")
    assert findings["clocks"]["detail"].startswith("of 5 devices: within 0.")


def test_an_answer_says_what_it_cost(single: Any) -> None:
    assert (single["prompt_tokens"], single["completion_tokens"], len(single["token_ids"])) == (5, 24, 24)
    assert single["finish_reason"] in ("length", "stop")
    (device,) = single["devices"]
    assert device["source"] == "modelled"
    assert device["joules"] > 0
    assert device["joules_per_token"] == pytest.approx(device["joules"] / 24)
    assert single["ttft_seconds"]["modelled"] > 0
    assert single["tpot_seconds"]["wall"] > 0


@pytest.mark.parametrize("stages", [pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long), 5])
def test_the_cut_does_not_change_the_text(fleet: Glmfleet, single: Any, stages: int) -> None:
    deployed = as_json(fleet, "deploy", "tiny", "--stages", stages, "--context", 256, "--name", "story")
    assert len({stage["device_id"] for stage in deployed["stages"]}) == stages
    answer = as_json(fleet, "generate", *PROMPT)
    assert answer["token_ids"] == single["token_ids"]
    assert len(answer["devices"]) == stages
    half = ",".join(map(str, single["token_ids"][:12]))
    assert as_json(fleet, "generate", *PROMPT, "--forced-ids", half)["token_ids"] == single["token_ids"]


def test_telemetry_adds_up(fleet: Glmfleet, single: Any) -> None:
    by_name = {row["key"]: row for row in as_json(fleet, "telemetry", "--by", "deployment", "--since", "1h")}
    row = by_name["story"]
    assert row["source"] == "modelled"
    assert row["completion_tokens"] >= 24
    rows = as_json(fleet, "telemetry", "--by", "device", "--since", "1h")
    assert all(row["source"] == "modelled" and row["idle_joules"] > 0 for row in rows)
    assert len(as_json(fleet, "telemetry", "--by", "request", "--since", "1h")) >= 1


def test_software_that_speaks_openais_api_is_answered(fleet: Glmfleet, single: Any) -> None:
    running = Home(fleet.home).running_coordinator()
    assert running is not None
    with httpx.Client(base_url=running.url, trust_env=False, timeout=30) as http:
        assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["story"]
        body = {"model": "story", "prompt": [72, 101, 108, 108, 111], "max_tokens": 24, "temperature": 0}
        whole = http.post("/v1/completions", json=body).json()
        assert whole["choices"][0]["text"] == single["text"]
        streamed = http.post("/v1/completions", json={**body, "stream": True}).text
        assert streamed.endswith("data: [DONE]\n\n")
        chat = {"model": "story", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "temperature": 0}
        assert http.post("/v1/chat/completions", json=chat).json()["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["plan", "moon"], "moon"),
        (["plan", "tiny", "--stages", "7"], "7"),
        (["plan", "tiny", "--devices", "moon"], "moon"),
        (["generate", "x", "-m", "moon"], "moon"),
        (["generate", "--prompt-ids", ",".join(["1"] * 300)], "300"),
        (["generate", "--prompt-ids", "9999"], "9999"),
        (["undeploy", "moon"], "moon"),
    ],
)
def test_a_users_mistake_is_two_lines(fleet: Glmfleet, single: Any, arguments: list[str], wrong: str) -> None:
    done = fleet(*arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert wrong in first
    assert second.startswith("  ")


def test_a_device_that_ends_is_noticed_and_comes_back(fleet: Glmfleet, single: Any) -> None:
    (stopped, *_) = as_json(fleet, "sim", "status")
    assert fleet("sim", "down", stopped["name"]).returncode == 0
    wait_for(lambda: fleet.states().get(stopped["name"]) != "online", 20)
    assert fleet("sim", "up", "--devices", 1, "--profile", stopped["profile"]).returncode == 0
    wait_for(lambda: list(fleet.states().values()) == ["online"] * 5, 20)


def test_undeploy_leaves_no_stage(fleet: Glmfleet, single: Any) -> None:
    assert fleet("undeploy", "story").returncode == 0
    assert as_json(fleet, "deployments") == []
    wait_for(lambda: all(not device["stages"] and not device["memory_used_bytes"] for device in as_json(fleet, "devices")), 10)
    done = fleet("generate", "x")
    assert done.returncode == 1
    assert "glmfleet deploy" in done.stderr
