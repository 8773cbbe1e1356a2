"""The coordinator is killed in mid-sentence and started again: who reads has a pause, and the sentence that would have come."""

from __future__ import annotations

from pathlib import Path

from tests.support.processes import Glmfleet

LONG = ["--prompt-ids", "72,101,108,108,111", "--max-tokens", 400, "--temperature", 1, "--seed", 5, "--ignore-eos"]


def test_an_answer_goes_on_with_the_coordinator_that_is_started_next(tmp_path: Path, checkpoint: Path) -> None:
    home = tmp_path / "home"
    glmfleet = Glmfleet(home)
    assert glmfleet("model", "import", checkpoint, "--name", "tiny").returncode == 0
    try:
        assert glmfleet("sim", "up", "--devices", 1).returncode == 0
        with glmfleet.serving() as first:
            assert glmfleet("deploy", "tiny", "--context", 512).returncode == 0
            client = glmfleet.start("generate", *LONG)
            assert client.stdout is not None
            begun = client.stdout.read(1)
            first.kill()
            first.wait(10)
        with glmfleet.serving():
            out = begun + client.stdout.read()  # not `communicate`, which passes over what was read ahead
            _, err = client.communicate(timeout=60)
            assert client.returncode == 0, err
            assert "the answer goes on when it is back" in err
            assert out == glmfleet("generate", *LONG).stdout
    finally:
        assert glmfleet("sim", "down").returncode == 0
