"""The sampling parameters as options of the commands."""

from __future__ import annotations

import io

import pytest

from fleet.answering.views import GenerateRequest
from fleet.home import Home
from protos.sampling import PARAMETERS, Sampling
from tests.support.command import Command
from tests.support.fake_coordinator import FakeCoordinator

WISH = Sampling(temperature=0.5, top_k=3, top_p=0.9, seed=7, min_p=0.05)


def option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_each_parameter_is_an_option_and_arrives(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\n"))
    given = [word for name in PARAMETERS for word in (option(name), getattr(WISH, name))]
    assert glmfleet(command, *(["-"] if command == "generate" else []), *given, "--home", served.path)[0] == 0
    (request,) = coordinator.asked
    assert isinstance(request, GenerateRequest)
    assert (request.sampling, request.left_to_model) == (WISH, ())


def test_what_is_not_given_is_left_to_the_model_and_a_zero_is_given(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    assert glmfleet("generate", "hi", "--temperature", "0", "--top-k", "0", "--home", served.path)[0] == 0
    (request,) = coordinator.asked
    assert isinstance(request, GenerateRequest)
    assert request.sampling == Sampling()
    assert request.left_to_model == tuple(name for name in PARAMETERS if name not in ("temperature", "top_k"))


@pytest.mark.parametrize("command", ["generate", "chat"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "-1"),
        ("temperature", "nan"),
        ("top_k", "-1"),
        ("top_p", "0"),
        ("top_p", "1.5"),
        ("seed", "-1"),
        ("min_p", "-0.1"),
        ("min_p", "1.1"),
        ("min_p", "nan"),
    ],
)
def test_a_value_out_of_bounds_is_one_line_that_names_the_option(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator, command: str, name: str, value: str
) -> None:
    code, _, err = glmfleet(command, *(["hi"] if command == "generate" else []), f"{option(name)}={value}", "--home", served.path)
    assert code == 2
    first, second = err.splitlines()
    assert first.startswith(f"error: Invalid value for '{option(name)}': {name} is {value}")
    assert str(PARAMETERS[name].bounds) in first
    assert second == f"  see: glmfleet {command} --help"
    assert coordinator.asked == []


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_help_tells_what_each_does(glmfleet: Command, command: str) -> None:
    code, out, _ = glmfleet(command, "--help")
    words = " ".join(out.replace("│", " ").split())
    assert code == 0
    for name in PARAMETERS:
        assert option(name) in words
