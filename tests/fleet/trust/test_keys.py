"""Keys of the API: made, shown, kept as hashes, ended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fleet.access import NewKey
from fleet.principal import OverBudget, Principal, Unauthenticated
from fleet.trust.keys import PREFIX, ApiKeys
from protos.errors import Conflict, Corrupt, InvalidInput, NotFound

DAY = 86400.0


class Clock:
    def __init__(self) -> None:
        self.now = 10 * DAY

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path: Path, clock: Clock) -> ApiKeys:
    return ApiKeys(tmp_path, clock)


def reason(keys: ApiKeys, key: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        keys.authenticate(key)
    return caught.value.reason


def test_a_key_is_told_once_and_kept_as_a_hash(keys: ApiKeys, tmp_path: Path, clock: Clock) -> None:
    made = keys.make(NewKey("dashboard", "viewer", DAY, 60, 1000))
    assert made.key.startswith(PREFIX)
    assert len(made.key) - len(PREFIX) == 32  # of base32: 160 bits
    assert keys.authenticate(made.key) == Principal("dashboard", "viewer", made.key_id)
    [listed] = keys.all()
    assert (listed.key, listed.key_id, listed.role, listed.state, listed.last_used) == ("", made.key_id, "viewer", "good", clock.now)
    keys.write_use()
    for file in tmp_path.iterdir():
        assert made.key.removeprefix(PREFIX) not in file.read_text()
        assert os.stat(file).st_mode & 0o777 == 0o600
    assert ApiKeys(tmp_path, clock).authenticate(made.key).name == "dashboard"


def test_no_two_are_alike(keys: ApiKeys) -> None:
    assert len({keys.make(NewKey(f"key-{number}", "viewer")).key for number in range(50)}) == 50


def test_what_is_no_good_says_which_way(keys: ApiKeys, clock: Clock, tmp_path: Path) -> None:
    short, long = keys.make(NewKey("short", "admin", 60.0)), keys.make(NewKey("long", "admin"))
    clock.now += 59.9
    assert keys.authenticate(short.key).name == "short"
    clock.now += 0.1
    assert reason(keys, short.key) == "expired_key"
    assert reason(keys, long.key[:-1] + ("a" if long.key[-1] != "a" else "b")) == "unknown_key"
    assert reason(keys, "") == "unknown_key"
    assert keys.revoke("long").state == "revoked"
    assert reason(keys, long.key) == "revoked_key"
    assert reason(ApiKeys(tmp_path, clock), long.key) == "revoked_key"
    with pytest.raises(Unauthenticated):
        keys.still_good(long.key_id)
    with pytest.raises(Unauthenticated):
        keys.check("00000000")
    with pytest.raises(NotFound):
        keys.revoke("nobody")
    clock.now += 91 * DAY
    keys.make(NewKey("other", "viewer"))
    assert [one.name for one in keys.all()] == ["other"]


def test_a_name_is_one_good_key_s(keys: ApiKeys) -> None:
    first = keys.make(NewKey("ann", "viewer"))
    with pytest.raises(Conflict):
        keys.make(NewKey("ann", "admin"))
    keys.revoke("ann")
    second = keys.make(NewKey("ann", "admin"))
    assert keys.revoke("ann").key_id == second.key_id != first.key_id


@pytest.mark.parametrize(
    "wish",
    [
        NewKey("", "viewer"),
        NewKey("a\nb", "viewer"),
        NewKey("x" * 65, "viewer"),
        NewKey("x", "root"),  # type: ignore[arg-type]
        NewKey("x", "viewer", 0.0),
        NewKey("x", "viewer", float("nan")),
        NewKey("x", "viewer", None, 0),
        NewKey("x", "viewer", None, None, -1),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(keys: ApiKeys, wish: NewKey) -> None:
    with pytest.raises(InvalidInput):
        keys.make(wish)
    assert keys.all() == []


def test_requests_come_back_evenly(keys: ApiKeys, clock: Clock) -> None:
    key = keys.make(NewKey("few", "viewer", requests_per_minute=6)).key
    for _ in range(6):
        keys.authenticate(key)
    with pytest.raises(OverBudget) as caught:
        keys.authenticate(key)
    assert caught.value.retry_after_seconds == pytest.approx(10.0)
    clock.now += 10
    keys.authenticate(key)
    with pytest.raises(OverBudget):
        keys.authenticate(key)
    clock.now -= 3600  # a clock that is set back gives nothing, and takes nothing for ever
    clock.now += 7200
    keys.authenticate(key)


def test_tokens_of_a_day_outlast_a_restart(keys: ApiKeys, clock: Clock, tmp_path: Path) -> None:
    made = keys.make(NewKey("short", "user", tokens_per_day=100))
    keys.check(made.key_id)
    keys.spend(made.key_id, 100)
    keys.write_use()
    again = ApiKeys(tmp_path, clock)
    clock.now += DAY / 2
    with pytest.raises(OverBudget) as caught:
        again.check(made.key_id)
    assert caught.value.retry_after_seconds == pytest.approx(DAY / 2)
    clock.now += DAY / 2
    again.check(made.key_id)
    assert again.all()[0].tokens_today == 0


@pytest.mark.parametrize("text", ["{", "[1]", '[{"name": "x"}]', "null"])
def test_a_file_that_cannot_be_read_lets_nobody_in(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(Corrupt):
        ApiKeys(tmp_path)
