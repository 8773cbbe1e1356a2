"""A conversation: its history, its commands, and what of an answer is shown where."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pty
import subprocess
import sys
from typing import Any

import pytest

from fleet.answering.views import TokenChunk
from fleet.home import Home
from protos.errors import Busy
from tests.support.command import Command
from tests.support.fake_coordinator import DEPLOYMENT, RESULT, FakeCoordinator


def turns(coordinator: FakeCoordinator) -> list[list[str]]:
    asked: list[Any] = coordinator.asked
    return [[each.content for each in request.messages] for request in asked]


def thinks(coordinator: FakeCoordinator, *texts: str, inside: bool = False) -> None:
    coordinator.chunks = [TokenChunk(text, (5,), inside) for text in texts]
    coordinator.result = dataclasses.replace(RESULT, text="".join(texts), in_thought=inside)


def test_chat_keeps_the_history(glmfleet: Command, served: Home, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo\n/quit\nthree\n"))
    code, out, _ = glmfleet("chat", "--system", "be brief", "--reuse-decoded", "--home", served.path)
    assert (code, out) == (0, "Paris is\nParis is\n")
    assert all(request.reuse_decoded for request in coordinator.asked)  # type: ignore[attr-defined]
    turns = [[(each.role, each.content) for each in request.messages] for request in coordinator.asked]  # type: ignore[attr-defined]
    assert turns == [
        [("system", "be brief"), ("user", "one")],
        [("system", "be brief"), ("user", "one"), ("assistant", RESULT.text), ("user", "two")],
    ]


def test_chat_keeps_what_was_said_and_not_what_was_thought(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator.result = dataclasses.replace(RESULT, text="one and two</think>\nThree.", in_thought=True)
    monkeypatch.setattr("sys.stdin", io.StringIO("1 + 2\nand 1\n"))
    assert glmfleet("chat", "--home", served.path)[0] == 0
    assert [each.content for each in coordinator.asked[1].messages] == ["1 + 2", "Three.", "and 1"]  # type: ignore[attr-defined]


def test_chat_without_a_deployment_says_so_at_once(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    coordinator.deployed = []
    code, out, err = glmfleet("chat", "--home", served.path)
    assert (code, out) == (1, "")
    assert err == "error: no model is deployed\n  deploy one: glmfleet deploy tiny\n"
    coordinator.deployed = [DEPLOYMENT]
    code, _, err = glmfleet("chat", "--model", "other", "--home", served.path)
    assert code == 1
    assert err == "error: no model 'other' is deployed\n  deployed: tiny\n"


def test_chat_survives_an_error(glmfleet: Command, served: Home, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator.error = Busy("dev-1: full", advice="later")
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    code, _, err = glmfleet("chat", "--home", served.path)
    assert code == 1  # nobody watches: the program that asked is told
    assert err.count("error: dev-1: full\n  later\n") == 2
    assert [len(request.messages) for request in coordinator.asked] == [1, 1]  # type: ignore[attr-defined]


def test_a_line_with_a_slash_is_a_command_and_with_two_a_text(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n/help\n/clear\n//etc is what?\n/exit\nthree\n"))
    code, out, err = glmfleet("chat", "--system", "be brief", "--home", served.path)
    assert (code, out) == (0, "Paris is\nParis is\n")
    assert turns(coordinator) == [["be brief", "one"], ["be brief", "/etc is what?"]]
    for said in ("/clear", "/quit, /exit", "//TEXT", "(a new conversation)"):
        assert said in err


@pytest.mark.parametrize("line", ["/hepl", "/", "/etc/passwd what is it?", "/clear all"])
def test_an_unknown_command_is_told_and_not_sent(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{line}\ntwo\n"))
    code, _, err = glmfleet("chat", "--home", served.path)
    assert code == 1  # nobody watches: the program that asked is told
    assert err.startswith(f"{line.split()[0]} is no command (/help lists them); to send a text that begins with a slash, write two\n")
    assert turns(coordinator) == [["two"]]


@pytest.mark.parametrize(
    ("texts", "inside"), [(["<thi", "nk>\none and", " two</think>", "\n\nThree."], False), (["one and", " two</think>\nThree."], True)]
)
@pytest.mark.parametrize("command", ["generate", "chat"])
def test_what_was_thought_is_told_beside_the_answer(
    glmfleet: Command,
    served: Home,
    coordinator: FakeCoordinator,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    texts: list[str],
    inside: bool,
) -> None:
    thinks(coordinator, *texts, inside=inside)
    monkeypatch.setattr("sys.stdin", io.StringIO("1 + 2\n"))
    code, out, err = glmfleet(command, *(["-"] if command == "generate" else []), "--home", served.path)
    assert (code, out) == (0, "Three.\n")
    assert err.startswith("one and two\n3 tokens")


def test_a_raw_text_is_shown_as_it_is(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    thinks(coordinator, "\n<think>one</think>\nTwo.")
    assert glmfleet("generate", "--raw", "x", "--home", served.path)[1] == "\n<think>one</think>\nTwo.\n"


def test_a_thought_without_an_answer_is_shown(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    thinks(coordinator, "<think>", "one and\n")
    _, out, err = glmfleet("generate", "x", "--home", served.path)
    assert (out, err.splitlines()[0]) == ("", "one and")


def test_on_a_terminal_a_thought_is_dim(served: Home, coordinator: FakeCoordinator) -> None:
    """A real terminal: only there is anything dim."""
    thinks(coordinator, "one", " two</think>Three.", inside=True)
    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-m", "fleet.cli", "generate", "x", "--home", str(served.path)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=True)
        shown = os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert shown.startswith("\x1b[2mone\x1b[0m\x1b[2m two\x1b[0m\r\n")
    assert done.stdout == b"Three.\n"


RULES = ["--no-think", "--stop", "END", "--stop", "FIN", "--bad-words", "foo", "--min-tokens", "3"]


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_rules_of_an_answer_arrive(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\n"))
    assert glmfleet(command, *(["-"] if command == "generate" else []), *RULES, "--home", served.path)[0] == 0
    request: Any = coordinator.asked[0]
    assert (request.stop, request.bad_words, request.min_tokens) == (("END", "FIN"), ("foo",), 3)
    assert json.loads(request.chat_template_kwargs) == {"enable_thinking": False}
    glmfleet("generate", "hi", "--think", "--home", served.path)
    glmfleet("generate", "hi", "--home", served.path)
    told: list[Any] = coordinator.asked[1:]
    assert [request.chat_template_kwargs for request in told] == ['{"enable_thinking": true}', ""]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["generate", "x", "--raw", "--think"], "go through the chat template"),
        (["generate", "--prompt-ids", "1", "--no-think"], "go through the chat template"),
        (["generate", "x", "--think", "--no-think"], "give one of them"),
        (["generate", "x", "--stop", ""], "--stop is empty"),
        (["chat", "--bad-words", ""], "--bad-words is empty"),
    ],
)
def test_what_cannot_hold_is_refused_before_it_is_asked(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator, words: list[str], says: str
) -> None:
    code, _, err = glmfleet(*words, "--home", served.path)
    assert (code, coordinator.asked) == (2, [])
    assert says in err
