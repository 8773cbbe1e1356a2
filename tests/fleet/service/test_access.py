"""Keys and the audit log of a real coordinator, over restarts of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.access import NewKey
from fleet.answering.views import GenerateRequest
from fleet.devices.remembered import Remembered
from fleet.home import Home
from fleet.principal import LOCAL_ADMIN, Principal, Unauthenticated
from fleet.service.coordinator import Coordinator
from fleet.store.audit_heads import AuditHeads
from fleet.store.database import Store
from protos.errors import Denied, NotFound
from protos.ids import DeviceId

SECRET = "the prompt that nobody may read"  # pragma: allowlist secret


def coordinator(folder: Path, **how: str) -> Coordinator:
    return Coordinator(Home.open(folder), interfaces=(), **how)  # type: ignore[arg-type]


async def test_keys_and_the_log_outlast_a_restart(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as first:
        made = await first.as_(LOCAL_ADMIN).new_key(NewKey("ann", "operator", tokens_per_day=10))
        first._keys.spend(made.key_id, 7)
        with pytest.raises(NotFound):
            await first.as_(first.authenticator("x")(f"Bearer {made.key}")).undeploy("tiny")
        with pytest.raises(Denied):
            await first.as_(Principal("bob", "viewer")).undeploy("tiny")
        with pytest.raises(NotFound):
            async for _ in first.as_(LOCAL_ADMIN).generate(GenerateRequest(prompt=SECRET)):
                pass
    async with coordinator(tmp_path) as second:
        caller = second.authenticator("x")(f"Bearer {made.key}")
        assert caller == Principal("ann", "operator", made.key_id)
        [view] = await second.keys()
        assert (view.tokens_today, view.key) == (7, "")
        await second.as_(LOCAL_ADMIN).revoke_key("ann")
        with pytest.raises(Unauthenticated):
            second.authenticator("x")(f"Bearer {made.key}")
        entries = await second.audit(60.0)
        assert [(one.who, one.call, one.outcome) for one in entries] == [
            ("local", "new_key", "begun"),
            ("local", "new_key", "done"),
            ("ann", "undeploy", "begun"),
            ("ann", "undeploy", "failed"),
            ("bob", "undeploy", "refused"),
            ("local", "revoke_key", "begun"),
            ("local", "revoke_key", "done"),
        ]
        assert (entries[-1].before, entries[-1].after) == (
            f"{made.key_id} (ann, operator): good",
            f"{made.key_id} (ann, operator): revoked",
        )
        assert (entries[2].key_id, entries[3].of) == (made.key_id, 3)
        assert (await second.verify_audit()).problem == ""
    text = "".join(file.read_text() for file in (tmp_path / "coordinator" / "audit").iterdir())
    assert SECRET not in text
    assert made.key not in text


async def test_a_log_that_was_changed_is_found_by_the_next_coordinator_too(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as first:
        for name in ("ann", "bob", "eve"):
            await first.as_(LOCAL_ADMIN).new_key(NewKey(name, "viewer"))
    [file] = (tmp_path / "coordinator" / "audit").iterdir()
    written = file.read_text()
    file.write_text("".join(line for line in written.splitlines(keepends=True) if "eve" not in line))
    async with coordinator(tmp_path) as second:
        assert (await second.verify_audit()).problem.startswith("line 5 ")
        await second.as_(LOCAL_ADMIN).new_key(NewKey("mallory", "viewer"))  # it goes on, and stays found
        assert (await second.verify_audit()).problem
    file.write_text(written.replace("ann", "eve", 1))
    async with coordinator(tmp_path) as third:
        assert (await third.verify_audit()).problem.startswith("line 2 ")


async def test_what_it_does_by_itself_is_in_the_log(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as made:
        made._moved("tiny-1", "dev-1, dev-2")
        remembered = Remembered(tmp_path / "addresses.json")
        for address in ("10.0.0.7:7420", "10.0.0.7:7420", "10.0.0.8:7420"):
            made._proven(remembered, DeviceId("a" * 16), address)
    async with coordinator(tmp_path) as again:
        entry, moved = await again.audit(60.0)
        assert (moved.call, moved.arguments["from"], moved.after) == ("device moved", "10.0.0.7:7420", "at 10.0.0.8:7420")
        assert (entry.who, entry.call, entry.arguments, entry.after) == (
            "coordinator",
            "pipeline moved",
            {"pipeline_id": "tiny-1"},
            "on dev-1, dev-2",
        )


async def test_the_head_lies_in_the_database_that_was_named(tmp_path: Path) -> None:
    async with coordinator(tmp_path / "home", store=f"sqlite:///{tmp_path / 'elsewhere.sqlite'}") as made:
        await made.as_(LOCAL_ADMIN).new_key(NewKey("ann", "viewer"))
        fleet = made.discovery().fleet_id
    with Store(tmp_path / "elsewhere.sqlite") as store:
        last = AuditHeads(store, fleet).last()
        assert last is not None
        assert last[0] == 2
        assert AuditHeads(store, "another").last() is None
