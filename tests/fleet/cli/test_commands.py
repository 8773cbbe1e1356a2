from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest

from device.agent.only import only_agent
from fleet.answering.views import GenerateRequest
from fleet.deploying.views import DeploymentView
from fleet.home import Home
from fleet.planning.plan import PlanRequest
from fleet.trust.authority import Authority
from protos.errors import Busy, NotFound, Unavailable
from protos.sampling import PARAMETERS, Sampling
from tests.support.command import Command
from tests.support.fake_coordinator import DEPLOYMENT, DEVICE, MODEL, PLAN, RESULT, ROW, FakeCoordinator


def as_json(view: Any) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(view)))


def test_devices(glmfleet: Command, served: Home) -> None:
    code, out, err = glmfleet("devices", "--home", served.path)
    assert code == 0
    assert out.splitlines()[0].split() == ["name", "profile", "kind", "state", "memory", "used"]
    assert out.splitlines()[1].split() == ["dev-1", "rk3588", "simulated", "online", "8.0", "GiB", "1.0", "GiB"]
    assert err == "dev-1: tiny stage 0 of 1: layers 0-3\n"


def test_devices_say_what_they_measure(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    """A column for each gauge that any of them has."""
    hot = dataclasses.replace(DEVICE, name="dev-2", stages=(), power_watts=7.25, temperature_celsius=91.0, throttled=True)
    coordinator.found = [dataclasses.replace(DEVICE, stages=()), hot]
    _, out, err = glmfleet("devices", "--home", served.path)
    header, first, second = (line.split() for line in out.splitlines())
    assert header[-3:] == ["used", "W", "°C"]
    assert (first[-2:], second[-2:]) == (["-", "-"], ["7.25", "91.0"])
    assert err == "dev-2 is throttled: it runs slower, to cool down\n"
    coordinator.found = [dataclasses.replace(DEVICE, battery_fraction=0.5)]
    assert glmfleet("devices", "--home", served.path)[1].splitlines()[1].split()[-1] == "50.0"


def test_devices_as_json_has_every_field(glmfleet: Command, served: Home) -> None:
    code, out, err = glmfleet("devices", "--json", "--home", served.path)
    assert (code, err) == (0, "")
    assert json.loads(out) == [as_json(DEVICE)]


def test_no_devices_explains_where_was_looked(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    coordinator.found = []
    code, out, err = glmfleet("devices", "--home", served.path)
    assert (code, out) == (0, "")
    assert err.splitlines() == [
        "no devices found: looked by mDNS on 127.0.0.1, and at 10.0.0.9:7420",
        "2 seen that belong to another fleet (this one is fleetfleetfleet1)",
        "10.0.0.9:7420 does not answer",
        "start some: glmfleet sim up --devices 3",
    ]
    assert json.loads(glmfleet("devices", "--json", "--home", served.path)[1]) == []


def test_an_offline_device_says_why(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    coordinator.found = [dataclasses.replace(DEVICE, state="offline", detail="no sample for 15 s", stages=())]
    assert glmfleet("devices", "--home", served.path)[2] == "dev-1 is offline: no sample for 15 s\n"


def test_plan(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    wishes = [
        "--stages",
        1,
        "--context",
        64,
        "--slots",
        4,
        "--objective",
        "energy",
        "--devices",
        "dev-1,dev-2",
        "--kv",
        "int8",
        "--wire",
        "float16",
    ]
    code, out, err = glmfleet("plan", "tiny", *wishes, "--home", served.path)
    assert (code, err) == (0, "")
    assert "  - fits on one device\n" in out
    assert "0-3 + head" in out
    assert coordinator.asked == [PlanRequest("tiny", "energy", 1, 64, 4, ("dev-1", "dev-2"), "int8", "float16")]
    assert json.loads(glmfleet("plan", "tiny", "--json", "--home", served.path)[1]) == as_json(PLAN)


def test_deploy(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    code, out, err = glmfleet("deploy", "tiny", "--name", "prod", "--home", served.path)
    assert code == 0
    assert "0-3 + head" in out
    assert out.splitlines()[-len(PLAN.why) - 1 :] == ["why:", *(f"  - {line}" for line in PLAN.why)]
    assert err.splitlines() == [
        "push to dev-1: 50 %",
        "push to dev-1: 100 %",
        "loaded: dev-1 0.250 s",
        "tiny is ready; talk to it: glmfleet chat",
    ]
    assert coordinator.asked == [(PlanRequest("tiny"), "prod")]


def test_what_comes_after_a_deploy_depends_on_the_model_and_the_devices(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.fake_coordinator.MODEL", dataclasses.replace(MODEL, fills_blanks=True))
    err = glmfleet("deploy", "tiny", "--home", served.path)[2]
    assert err.splitlines()[-1] == 'tiny is ready; ask it: glmfleet generate --infill "text with a [MASK]"'
    stages = tuple(dataclasses.replace(stage, hollow=True) for stage in DEPLOYMENT.stages)
    coordinator.deployed = [dataclasses.replace(DEPLOYMENT, stages=stages)]
    err = glmfleet("deploy", "tiny", "--home", served.path)[2]
    assert err.splitlines()[-1] == "tiny is ready; it answers no prompt, since its devices compute nothing"


def test_deploy_as_json_prints_the_deployment(glmfleet: Command, served: Home) -> None:
    code, out, _ = glmfleet("deploy", "tiny", "--json", "--home", served.path)
    assert code == 0
    assert json.loads(out) == as_json(DEPLOYMENT)


@pytest.mark.parametrize("error_at", [0, 2])
def test_deploy_that_fails_is_two_lines(glmfleet: Command, served: Home, coordinator: FakeCoordinator, error_at: int) -> None:
    coordinator.error, coordinator.error_at = Unavailable("dev-1: went away", advice="look at it"), error_at
    code, _, err = glmfleet("deploy", "tiny", "--home", served.path)
    assert code == 1
    assert err.splitlines()[-2:] == ["error: dev-1: went away", "  look at it"]


def test_deployments_and_undeploy(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    assert glmfleet("deployments", "--home", served.path)[1].splitlines()[1].split() == ["tiny", "tiny", "ready", "128", "16", "dev-1"]
    assert json.loads(glmfleet("deployments", "--json", "--home", served.path)[1]) == [as_json(DEPLOYMENT)]
    assert glmfleet("undeploy", "tiny", "--home", served.path) == (0, "", "tiny is gone\n")
    assert coordinator.asked == ["tiny"]
    coordinator.deployed = []
    assert glmfleet("deployments", "--home", served.path) == (0, "", "nothing is deployed; deploy one: glmfleet deploy tiny\n")


def test_a_deployment_that_cannot_be_read_is_told_of_without_a_plan(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    coordinator.deployed = [DeploymentView("old", "", "", "unreadable", "it is of another version: do this", (), 0, 0, 3)]
    code, out, err = glmfleet("deployments", "--home", served.path)
    assert (code, err) == (0, "old: it is of another version: do this\n")
    assert out.splitlines()[1].split() == ["old", "-", "unreadable", "-", "-", "-"]
    code, out, _ = glmfleet("doctor", "--home", served.path)
    assert code == 1
    assert "unreadable: it is of another version: do this" in " ".join(out.split())
    assert "glmfleet deploy  " not in out  # of no model


def test_generate_streams_to_stdout_and_the_cost_goes_to_stderr(glmfleet: Command, served: Home) -> None:
    code, out, err = glmfleet("generate", "hello", "--home", served.path)
    assert (code, out) == (0, "Paris is\n")
    assert err.startswith("3 tokens, first after 0.125 s, 16.0 tokens/s (modelled: ")
    assert err.splitlines()[-1].split() == ["dev-1", "rk3588", "0.500", "0.250", "1.50", "0.500", "modelled"]


def test_generate_as_json_has_exactly_the_documented_fields(glmfleet: Command, served: Home) -> None:
    code, out, err = glmfleet("generate", "hello", "--json", "--home", served.path)
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "text": "Paris is",
        "token_ids": [5, 6, 7],
        "finish_reason": "stop",
        "prompt_tokens": 4,
        "reused_tokens": 0,
        "decode": "rows",
        "drafted_tokens": 0,
        "accepted_tokens": 0,
        "completion_tokens": 3,
        "ttft_seconds": {"wall": 0.125, "modelled": 0.1},
        "tpot_seconds": {"wall": 0.0625, "modelled": 0.05},
        "model": "tiny",
        "deployment": "tiny",
        "devices": [
            {
                "device_id": DEVICE.device_id,
                "name": "dev-1",
                "profile": "rk3588",
                "simulated": True,
                "busy_seconds": {"wall": 0.5, "modelled": 0.25},
                "joules": 1.5,
                "source": "modelled",
                "joules_per_token": 0.5,
                "rejected_rows": 0,
                "joules_rejected": None,
            }
        ],
    }


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["hi"], {"prompt": "hi"}),
        (["hi", "--raw"], {"text": "hi"}),
        (["--prompt-ids", "1,2"], {"prompt_ids": (1, 2)}),
        (["hi", "--forced-ids", "3,4", "--max-tokens", "5"], {"prompt": "hi", "forced_ids": (3, 4), "max_tokens": 5}),
        (["hi", "-m", "tiny", "--temperature", "0.5", "--top-k", "3", "--top-p", "0.9", "--seed", "7", "--stop", "a", "--stop", "b"],
         {"prompt": "hi", "model": "tiny", "sampling": Sampling(temperature=0.5, top_k=3, top_p=0.9, seed=7), "stop": ("a", "b")}),
    ],
)  # fmt: skip
def test_generate_asks_for_what_was_wished(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator, arguments: list[str], wanted: dict[str, Any]
) -> None:
    assert glmfleet("generate", *arguments, "--home", served.path)[0] == 0
    left = tuple(name for name in PARAMETERS if f"--{name.replace('_', '-')}" not in arguments)
    [asked] = coordinator.asked
    assert isinstance(asked, GenerateRequest)
    assert asked.idempotency_key
    assert dataclasses.replace(asked, idempotency_key="") == GenerateRequest(**{"max_tokens": 512, "left_to_model": left, **wanted})


def test_generate_with_a_system_message_and_standard_input(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    assert glmfleet("generate", "-", "--system", "be brief", "--home", served.path)[0] == 0
    (request,) = coordinator.asked
    assert isinstance(request, GenerateRequest)
    assert [(each.role, each.content) for each in request.messages] == [("system", "be brief"), ("user", "from a pipe")]


@pytest.mark.parametrize(
    ("error", "error_at"), [(NotFound("no deployment x", advice="deployed: tiny"), 0), (Busy("dev-1: full", advice="later"), 1)]
)
def test_generate_that_fails_is_two_lines(glmfleet: Command, served: Home, coordinator: FakeCoordinator, error: Any, error_at: int) -> None:
    coordinator.error, coordinator.error_at = error, error_at
    code, out, err = glmfleet("generate", "hello", "--home", served.path)
    assert code == 1
    assert out == ("Par\n" if error_at else "")
    assert err == f"error: {error.detail}\n  {error.advice}\n"


def test_telemetry_says_what_is_not_known(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    by_device = dataclasses.replace(ROW, covered_seconds=288.0, lost_seconds=312.0, partial=True)
    uncounted = dataclasses.replace(by_device, key="dev-2", lost_seconds=0.0, completion_tokens=None, joules_per_token=None)
    booted = dataclasses.replace(by_device, key="dev-3", lost_seconds=0.0)
    coordinator.rows = [by_device, uncounted, booted, ROW]
    _, out, err = glmfleet("telemetry", "--home", served.path)
    assert [line.split()[-1] for line in out.splitlines()[-4:]] == ["~", "~", "~", "modelled"]
    assert err.splitlines()[0] == (
        "~ partial: dev-1 was off or not heard for 312 s, dev-2's agent does not count tokens, dev-3 was started anew, or a clock was set"
    )
    coordinator.rows = [dataclasses.replace(ROW, key="tiny", partial=True)]
    assert "tiny has failed requests whose cost is not known" in glmfleet("telemetry", "--by", "model", "--home", served.path)[2]


def test_telemetry(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    code, out, _ = glmfleet("telemetry", "--since", "2h", "--by", "model", "--home", served.path)
    assert code == 0
    assert coordinator.asked == [(7200.0, "model")]
    assert out.splitlines()[-1].split() == ["dev-1", "1", "3", "0.500", "0.250", "1.50", "2.50", "0.500", "modelled"]
    assert json.loads(glmfleet("telemetry", "--json", "--home", served.path)[1]) == [as_json(ROW)]
    coordinator.rows = []
    assert glmfleet("telemetry", "--home", served.path)[2].startswith("nothing in the last 10m; ask something: ")


def test_unmetered_is_a_dash_never_a_zero(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    coordinator.rows = [dataclasses.replace(ROW, busy_joules=None, idle_joules=None, joules_per_token=None, source="unmetered")]
    out = glmfleet("telemetry", "--home", served.path)[1]
    assert out.splitlines()[-1].split()[-4:] == ["-", "-", "-", "unmetered"]


def test_each_blank_is_filled_knowing_the_fills_before(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    text = "The capital\n [MASK] of France [sMASK]."
    code, out, err = glmfleet("generate", "--infill", text, "--home", served.path)
    assert (code, out) == (0, f"The capital{RESULT.text} of France{RESULT.text}.\n")
    assert err.count("tokens, first after") == 2
    fills = [request.fills for request in coordinator.asked]  # type: ignore[attr-defined]
    assert fills == [(), (RESULT.token_ids,)]
    made = json.loads(glmfleet("generate", "--infill", text, "--json", "--home", served.path)[1])
    assert made["text"] == out.rstrip("\n")
    assert [fill["text"] for fill in made["fills"]] == [RESULT.text] * 2
    assert "fills" not in json.loads(glmfleet("generate", "--infill", "France [MASK].", "--json", "--home", served.path)[1])
    coordinator.chunks, coordinator.result = [], dataclasses.replace(RESULT, text="", token_ids=())
    empty = ((text, "The capital of France."), ("[MASK] is Paris.", " is Paris."), ("a [MASK][MASK].", "a."), ("a[MASK]", "a"))
    for given, shown in empty:
        assert glmfleet("generate", "--infill", given, "--home", served.path)[1] == f"{shown}\n"
    code, _, err = glmfleet("generate", "--infill", "a [MASK][MASK].", "--stop", "x", "--home", served.path)
    assert code == 2
    assert "go with one blank" in err


@pytest.mark.parametrize("life", ["0s", "31d"])
def test_a_token_s_life_is_judged_before_it_is_asked_for(glmfleet: Command, served: Home, coordinator: FakeCoordinator, life: str) -> None:
    code, _, err = glmfleet("devices", "token", "--for", life, "--home", served.path)
    assert (code, coordinator.asked) == (2, [])
    assert err.startswith(f"error: {life} is out of range: it has to be more than 0 and at most 30d\n")


def test_nothing_to_ask_is_not_advised(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    coordinator.rows, coordinator.deployed = [], []
    err = glmfleet("telemetry", "--home", served.path)[2]
    assert err == "nothing in the last 10m; deploy one: glmfleet deploy tiny\n"


def test_devices_says_which_can_keep_no_more(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    coordinator.found = [dataclasses.replace(DEVICE, storage_problem="/blobs: the disk is full")]
    assert "dev-1 can keep no more of a model: /blobs: the disk is full\n" in glmfleet("devices", "--home", served.path)[2]


def test_doctor_warns_of_a_device_that_holds_more_than_it_promised(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    for held_bytes, problem in ((1 << 30, False), (3 << 30, True)):
        coordinator.found = [dataclasses.replace(DEVICE, memory_held_bytes=held_bytes)]
        _, out, _ = glmfleet("doctor", "--home", served.path)
        assert ("it holds 3.0 GiB of memory, 1.0 GiB are promised" in " ".join(out.split())) == problem


def test_doctor_names_problems_and_what_to_do(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    coordinator.found = [dataclasses.replace(DEVICE, state="offline", detail="no sample for 15 s")]
    code, out, _ = glmfleet("doctor", "--home", served.path)
    assert code == 1
    assert "PROBLEM  models: none yet\n         get one: glmfleet model pull smollm2-135m\n" in out
    assert "PROBLEM  discovery: 10.0.0.9:7420 does not answer\n" in out
    assert "PROBLEM  device dev-1: offline at 127.0.0.1:7420: no sample for 15 s\n" in out
    assert "ok       deployment tiny: ready\n" in out
    checks = json.loads(glmfleet("doctor", "--json", "--home", served.path)[1])
    assert {tuple(check) for check in checks} == {("name", "level", "detail", "advice", "device", "ok")}


def test_doctor_without_a_coordinator(glmfleet: Command, home: Home) -> None:
    code, out, _ = glmfleet("doctor", "--home", home.path)
    assert code == 1
    assert "PROBLEM  coordinator: no coordinator is running for this home" in out


def test_a_coordinator_that_went_away_is_one_line(glmfleet: Command, home: Home) -> None:
    with home.serving("http://127.0.0.1:9"):
        code, _, err = glmfleet("devices", "--home", home.path)
    assert code == 1
    assert err.splitlines()[0] == "error: the coordinator at http://127.0.0.1:9 does not answer"


def test_sim_without_devices(glmfleet: Command, home: Home) -> None:
    assert glmfleet("sim", "status", "--json", "--home", home.path)[1] == "[]\n"
    assert glmfleet("sim", "status", "--home", home.path)[2] == "no simulated devices; start some: glmfleet sim up --devices 3\n"
    assert glmfleet("sim", "down", "--home", home.path) == (0, "", "no simulated device was running\n")
    code, _, err = glmfleet("sim", "up", "--profile", "moon", "--home", home.path)
    assert code == 1
    assert err.startswith("error: no profile 'moon'\n  choose one of ")


def test_sim_profiles(glmfleet: Command) -> None:
    assert "rk3588" in glmfleet("sim", "profiles")[1]
    first = json.loads(glmfleet("sim", "profiles", "--json")[1])[0]
    assert set(first["figures"]["memory"]) == {"value", "unit", "source", "trust"}


def test_device_run_refuses_what_is_no_token(glmfleet: Command, home: Home) -> None:
    code, _, err = glmfleet("device", "run", "--token", "glmfleet-abc", "--home", home.path)
    assert (code, err.splitlines()[0]) == (1, "error: not an enrolment token")
    assert "glmfleet-abc" not in err
    code, _, err = glmfleet("device", "run", "--coordinator", "desk", "--home", home.path)
    assert (code, err.splitlines()[1]) == (1, "  join by --token: glmfleet devices token")
    assert glmfleet("device", "run", "--coordinator", "desk", "--insecure", "--home", home.path)[0] == 1


def test_devices_that_dial_out_are_named(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    assert "dials out" not in glmfleet("devices", "--home", served.path)[2]
    coordinator.found = [dataclasses.replace(DEVICE, found_by="relay")]
    assert "dev-1 dials out: all that it is sent passes through the coordinator\n" in glmfleet("devices", "--home", served.path)[2]


def test_a_board_leaves_its_fleet(glmfleet: Command, home: Home, tmp_path: Path) -> None:
    Authority.open(tmp_path / "authority").issue_folder(home.device, "device", "gate-7")
    (home.device / "blobs").mkdir()
    assert glmfleet("device", "leave", "--home", home.path)[2] == "it belongs to no fleet any more\n"
    assert sorted(path.name for path in home.device.iterdir()) == ["agent.lock", "blobs", "key.pem", "lock"]
    with only_agent(home.device):
        code, _, err = glmfleet("device", "leave", "--wipe", "--home", home.path)
        assert code == 1
        assert "runs already" in err
    assert glmfleet("device", "leave", "--wipe", "--home", home.path)[2] == "it belonged to no fleet\n"
    assert sorted(path.name for path in home.device.iterdir()) == ["agent.lock", "lock"]
    Authority.open(home.authority)
    assert "the authority of this fleet lies in this home" in glmfleet("device", "leave", "--home", home.path)[2]
