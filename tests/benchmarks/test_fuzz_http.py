"""A short run over the HTTP API's own description; longer ones: python -m benchmarks.fuzz_http."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.api.app import create_app
from tests.support.fake_coordinator import FakeCoordinator

EXAMPLES = 8

pytestmark = pytest.mark.long


@pytest.mark.filterwarnings("ignore")  # of the library's own
def test_no_request_is_a_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz_http = pytest.importorskip("benchmarks.fuzz_http")  # a second of imports, for each process that collects tests
    monkeypatch.setattr(fuzz_http, "SECONDS", 10.0)  # other tests have the processor, too
    found = fuzz_http.fuzz_all(tmp_path, EXAMPLES, start=7)
    paths = create_app(FakeCoordinator(), authenticate=None).openapi()["paths"]
    assert found.keys() == {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    for name, outcome in found.items():
        assert outcome.faults == [], name
        assert outcome.statuses, name
