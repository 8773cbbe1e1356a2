from __future__ import annotations

import os
from pathlib import Path

import pytest

from device.agent.only import only_agent
from protos.errors import Conflict, InvalidInput


def test_a_second_agent_is_told_which_one_runs(tmp_path: Path) -> None:
    state = tmp_path / "device"
    with only_agent(state), pytest.raises(Conflict, match=rf"runs already \(process {os.getpid()}\)"), only_agent(state):
        pass
    with only_agent(state):
        pass


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot write"), only_agent(tmp_path / "file"):
        pass
