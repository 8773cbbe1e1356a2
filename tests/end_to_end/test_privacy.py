"""What was asked and answered is in no file of a coordinator or a device, and in nothing that they write on their terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from fleet.home import Home
from tests.support.processes import Glmfleet, processes_naming, wait_for

ASKED, ANSWERED, ROLE = "quokkaprompt", "wombatanswer", "numbatrole"
# The tiny tokenizer's ids of letters are their bytes: the answer's known first tokens are these letters.
FORCED = list(ANSWERED.encode())


@dataclass
class Served:
    home: Path
    http: httpx.Client
    written: str = ""  # on the coordinator's terminal, once it has ended


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Served]:
    """A coordinator that tells all it can, over two devices, after requests that went well and that did not."""
    home = tmp_path_factory.mktemp("private") / "home"
    glmfleet = Glmfleet(home)
    for command in (["model", "import", checkpoint, "--name", "tiny"], ["sim", "up", "--devices", 2]):
        done = glmfleet(*command)
        assert done.returncode == 0, done.stderr
    server = glmfleet.start("serve", "--port", 0, "--interface", "127.0.0.1", "--verbose")
    try:
        wait_for(lambda: server.poll() is not None or Home(home).running_coordinator() is not None, 30)
        running = Home(home).running_coordinator()
        assert running is not None
        wait_for(lambda: list(glmfleet.states().values()) == ["online"] * 2, 20)
        assert glmfleet("deploy", "tiny", "--stages", 2, "--context", 256).returncode == 0
        with httpx.Client(base_url=running.url, trust_env=False, timeout=60) as http:
            told = Served(home, http)
            ask_all(told)
            yield told
    finally:
        glmfleet("sim", "down")
        server.terminate()
        written, errors = server.communicate(timeout=20)
    assert processes_naming(str(home)) == []
    told.written = written + errors
    assert "glmfleet serves http" in told.written, "it tells something"
    check(told.written.encode(), "the coordinator's terminal")


def ask_all(served: Served) -> None:
    def ask(path: str, **body: Any) -> httpx.Response:
        return served.http.post(path, json={"model": "tiny", **body})

    went_well = ask("/api/v1/generate", text=ASKED, forced_ids=FORCED, max_tokens=20, stream=False, ignore_eos=True)
    assert went_well.status_code == 200, went_well.text
    assert ANSWERED in went_well.json()["text"]
    message = {"role": "user", "content": ASKED}
    assert ask("/v1/chat/completions", messages=[message], max_tokens=4).status_code == 200
    # Refused before it is tokenized, by the tokenizer, by the API, by the template's variables; and past its deadline on its way.
    assert ask("/api/v1/generate", text=ASKED * 1000, stream=False).status_code == 400
    assert ask("/v1/chat/completions", messages=[{"role": ROLE, "content": ASKED}]).status_code == 400
    assert ask("/v1/chat/completions", messages=[message], chat_template_kwargs={"messages": ASKED}).status_code == 400
    late = {"text": ASKED, "forced_ids": FORCED, "timeout_seconds": 0.05, "ignore_eos": True, "stream": False}
    assert ask("/api/v1/generate", **late).status_code in (200, 504)
    # Left by its client, and broken off.
    with contextlib.suppress(httpx.ReadTimeout):
        served.http.post("/api/v1/generate", json={**late, "timeout_seconds": 60}, timeout=0.2)
    served.http.post("/api/v1/generate", content=f'{{"text": "{ASKED}'.encode())


def check(data: bytes, where: object) -> None:
    for secret in (ASKED, ANSWERED, ROLE):
        for form in (secret.encode(), secret.encode("utf-16-le")):
            assert form not in data, f"{secret} is in {where}"
        ids = [str(byte) for byte in secret.encode()]
        for separator in (", ", ",", " "):
            assert separator.join(ids).encode() not in data, f"the token ids of {secret} are in {where}"


def test_no_file_holds_what_was_asked_or_answered(served: Served) -> None:
    files = [path for path in served.home.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert "log.txt" in names, names
    assert any(name.endswith((".db", ".sqlite", ".sqlite3")) or "state" in name for name in names), names
    for path in files:
        check(path.read_bytes(), path)


def test_what_is_listed_of_requests_holds_none_of_it(served: Served) -> None:
    for path in ("/api/v1/requests", "/api/v1/telemetry?since=3600&by=request", "/api/v1/deployments", "/api/v1/devices"):
        check(served.http.get(path).content, path)
    assert len(served.http.get("/api/v1/requests").json()) >= 5


def test_a_secret_that_is_there_would_be_found() -> None:
    for data in (b"..quokkaprompt..", "wombatanswer".encode("utf-16-le"), ",".join(map(str, FORCED)).encode()):
        with pytest.raises(AssertionError, match=" in a file"):
            check(data, "a file")
