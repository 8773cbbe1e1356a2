"""The house: the table of clients is that of what was last found, and nothing in it went wrong."""

from __future__ import annotations

import json

from tests.clients.features import FEATURES
from tests.clients.table import CLIENTS, PAGE, RESULTS, SCRIPTS, page_with, table

FOUND = json.loads(RESULTS.read_text())


def test_the_table_is_what_was_found() -> None:
    assert PAGE.read_text() == page_with(PAGE.read_text(), table(FOUND))


def test_every_client_was_asked_and_every_feature_is_known() -> None:
    assert FOUND.keys() == CLIENTS.keys()
    assert {path.name for path in SCRIPTS.glob("of_*")} == {client.script for client in CLIENTS.values()}
    for found in FOUND.values():
        assert found.keys() - {"version"} <= FEATURES.keys()
        assert {what for feature, what in found.items() if feature != "version"} <= {"works", "refused"}
