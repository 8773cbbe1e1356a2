"""Before any test imports numpy, how much is tried by chance, and which tests run in one process."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# Tests run beside each other and their matrices are small: threads that wait for each other would take a third of the whole run's time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# How many examples a property is tried with, always the same ones. `make long` asks for "thorough".
settings.register_profile("quick", max_examples=30, deadline=None, derandomize=True, database=None)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=200)
settings.load_profile("quick")

# They share one fleet of five devices (end_to_end/conftest.py), which takes ten seconds to start.
OF_ONE_FLEET = frozenset(f"tests/end_to_end/test_{name}.py" for name in ("makers_word", "overload", "silent_corruption", "stories"))


class _ByFileAndFleet(LoadFileScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "one fleet" if file in OF_ONE_FLEET else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    return _ByFileAndFleet(config, log) if config.getvalue("dist") == "loadfile" else None
