from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fleet.trust.publisher import LIFE_SECONDS, Publisher
from protos.errors import Denied, InvalidInput, NoSpace, NotFound
from protos.ids import Digest
from protos.publishing import Statement, check, parse
from quantize.artifact.store import ArtifactStore
from tests.support.checkpoints import TinyGlm
from tests.support.ring import tiny_model


class Fleet:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "publisher"
        self.manifest, self.artifacts = tiny_model(folder, TinyGlm(layers=1))
        self.now = 1e9

    def publisher(self) -> Publisher:
        return Publisher.open(self.folder, self.artifacts, lambda: self.now)

    def said(self, digest: Digest | None = None) -> Statement:
        publisher = self.publisher()
        signed = publisher.of("tiny", digest or self.manifest.digest)
        assert signed is not None
        return parse(signed.statement)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_models_of_a_home_that_had_no_publisher_are_taken_over(fleet: Fleet) -> None:
    assert fleet.said() == Statement("tiny", 10**9, 1e9 + LIFE_SECONDS, (fleet.manifest.digest,))
    assert fleet.publisher().public == fleet.publisher().public
    assert (fleet.folder / "key.pem").stat().st_mode & 0o777 == 0o600


def test_what_is_put_into_the_store_later_is_not_vouched_for_by_itself(fleet: Fleet, tmp_path: Path) -> None:
    """Whoever can write there, but has not the key, makes no model of ours."""
    fleet.publisher()
    foreign, store = tiny_model(tmp_path / "other", TinyGlm(layers=2))
    for digest in foreign.blobs():
        fleet.artifacts.put(store.blob_path(digest).read_bytes())
    fleet.artifacts.save("tiny", foreign)
    fleet.artifacts.save("new", foreign)
    assert fleet.publisher().of("tiny", foreign.digest) is None
    assert fleet.publisher().of("new", foreign.digest) is None
    fleet.artifacts.signature_path("tiny").unlink()
    assert fleet.publisher().of("tiny", foreign.digest) is None
    statement = fleet.publisher().sign("new")
    assert fleet.publisher().of("new", foreign.digest) is not None
    assert statement.manifests == (foreign.digest,)


def test_a_model_that_was_imported_anew_is_a_newer_version_which_still_names_the_one_before(fleet: Fleet, tmp_path: Path) -> None:
    first = fleet.said()
    newer, store = tiny_model(tmp_path / "other", TinyGlm(layers=2))
    for digest in newer.blobs():
        fleet.artifacts.put(store.blob_path(digest).read_bytes())
    fleet.artifacts.save("tiny", newer)
    second = fleet.publisher().sign("tiny")
    assert second.version > first.version
    assert second.manifests == (newer.digest, fleet.manifest.digest)
    assert fleet.said(fleet.manifest.digest) == second
    fleet.now += 5
    assert fleet.publisher().sign("tiny").manifests == (newer.digest, fleet.manifest.digest)


def test_what_another_key_has_signed_is_not_said_anew(fleet: Fleet, tmp_path: Path) -> None:
    """Else whoever can write to the store has us sign what they put there."""
    fleet.publisher()
    other = Publisher.open(tmp_path / "another publisher", fleet.artifacts, lambda: fleet.now)
    other.sign("tiny", 5.0)
    assert fleet.publisher().of("tiny", fleet.manifest.digest) is None
    path = fleet.artifacts.signature_path("tiny")
    plain = json.loads(path.read_text())
    path.write_text(json.dumps({**plain, "publisher": fleet.publisher().public.hex()}))
    assert fleet.publisher().of("tiny", fleet.manifest.digest) is None


def test_it_is_said_anew_before_it_expires(fleet: Fleet) -> None:
    first = fleet.said()
    fleet.now += LIFE_SECONDS * 0.4
    assert fleet.said() == first
    fleet.now += LIFE_SECONDS * 0.2
    second = fleet.said()
    assert second.version > first.version
    assert second.expires == fleet.now + LIFE_SECONDS


def test_where_the_key_was_taken_away_what_it_has_signed_serves_until_it_expires(fleet: Fleet) -> None:
    first = fleet.said()
    (fleet.folder / "key.pem").unlink()
    fleet.now += LIFE_SECONDS * 0.9
    assert fleet.said() == first
    with pytest.raises(Denied, match="the publisher's key is not in this home"):
        fleet.publisher().sign("tiny")


def test_one_that_was_signed_while_the_clock_was_wrong_and_then_removed_can_be_signed_above_that(fleet: Fleet, tmp_path: Path) -> None:
    """Devices have heard a version of years to come, and nobody here remembers it."""
    fleet.now += 4e8
    ahead = fleet.publisher().sign("tiny")
    fleet.now -= 4e8
    fleet.artifacts.remove("tiny")
    tiny_model(tmp_path, TinyGlm(layers=1))
    behind = fleet.publisher().sign("tiny")
    with pytest.raises(Denied) as caught:
        check(behind, ahead.version, fleet.now)
    assert f"glmfleet model sign tiny --above {ahead.version}" in caught.value.advice
    again = fleet.publisher().sign("tiny", above=ahead.version)
    check(again, ahead.version, fleet.now)
    assert fleet.publisher().sign("tiny").version > again.version


def test_a_damaged_model_of_a_home_that_had_no_publisher_keeps_no_other_from_being_signed(fleet: Fleet) -> None:
    """Else no coordinator would start there any more."""
    (fleet.artifacts.signature_path("broken").with_suffix(".json")).write_text("{")
    assert fleet.said().manifests == (fleet.manifest.digest,)


def test_a_full_disk_keeps_nobody_from_what_was_said_before(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fleet.said()
    fleet.now += LIFE_SECONDS * 0.6

    def full(path: Path, data: bytes) -> None:
        raise NoSpace(f"no space left on device, writing {path}")

    monkeypatch.setattr("fleet.trust.publisher.write_private", full)
    assert fleet.said() == first


def test_refusals(fleet: Fleet) -> None:
    publisher = fleet.publisher()
    with pytest.raises(NotFound):
        publisher.sign("nope")
    for life in (0.0, -1.0, 1e12, float("nan")):
        with pytest.raises(InvalidInput):
            publisher.sign("tiny", life)
    fleet.artifacts.signature_path("tiny").write_text("{")
    assert publisher.of("tiny", fleet.manifest.digest) is None
    (fleet.folder / "key.pem").write_text("x")
    with pytest.raises(Denied, match="no readable key"):
        fleet.publisher()


def test_a_removed_model_leaves_no_signature(fleet: Fleet) -> None:
    fleet.publisher()
    fleet.artifacts.remove("tiny")
    assert not fleet.artifacts.signature_path("tiny").exists()
    assert isinstance(fleet.artifacts, ArtifactStore)


def test_two_that_sign_at_once_say_two_versions(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command and the coordinator, which are two processes; within one second, so that the clock does not tell them apart."""
    publishers = [fleet.publisher() for _ in range(4)]
    before, said = fleet.said().version, Publisher._said

    def slowly(self: Publisher, name: str) -> Statement | None:
        found = said(self, name)
        time.sleep(0.02)
        return found

    monkeypatch.setattr(Publisher, "_said", slowly)
    with ThreadPoolExecutor(4) as pool:
        versions = [statement.version for statement in pool.map(lambda one: one.sign("tiny"), publishers)]
    assert sorted(versions) == [before + number for number in (1, 2, 3, 4)]
