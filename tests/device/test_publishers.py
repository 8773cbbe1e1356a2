"""What a device that has pinned a publisher takes: the attacks that Uptane's standard names, each refused by its name."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from device.publishers import MOST_PUBLISHERS, Publishers
from device.stage_programs import StagePrograms, StoredTensor
from device.stage_spec import StageSpec, parse_spec
from protos.errors import Corrupt, Denied, FleetError, InvalidInput
from protos.ids import Digest, digest_of
from protos.manifest import Manifest
from protos.publishing import SignedStatement, Statement
from protos.v1 import device_pb2
from tests.support.checkpoints import TinyGlm
from tests.support.ring import load_requests, tiny_model

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
DAY = 86400.0


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return tiny_model(tmp_path_factory.mktemp("model"), TinyGlm(layers=2))[0]


@dataclass
class Board:
    """A device's half, its clock, and what its coordinator sends."""

    state: Path
    manifest: Manifest
    now: float = 1000.0
    publishers: Publishers = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.publishers = Publishers(self.state, lambda: self.now)

    def says(self, version: int = 1, key: Ed25519PrivateKey = KEY, **other: object) -> SignedStatement:
        usual: dict[str, object] = {"model": "tiny", "expires": self.now + DAY, "manifests": (self.manifest.digest,)}
        return sign(Statement(version=version, **{**usual, **other}), key)  # type: ignore[arg-type]

    def vouch(self, signed: SignedStatement | None = None, manifest: Manifest | None = None) -> None:
        self.publishers.vouch(signed or self.says(), (manifest or self.manifest).to_bytes())

    @property
    def stage(self) -> StageSpec:
        return parse_spec(load_requests(self.manifest, [device_pb2.Hop()])[0])


@pytest.fixture
def board(tmp_path: Path, manifest: Manifest) -> Board:
    made = Board(tmp_path, manifest)
    made.publishers.trust([KEY.public_key().public_bytes_raw()])
    return made


def sign(statement: Statement, key: Ed25519PrivateKey) -> SignedStatement:
    data = statement.to_bytes()
    return SignedStatement(data, key.public_key().public_bytes_raw(), key.sign(data))


def another(manifest: Manifest) -> Manifest:
    """Another artifact of the same parts."""
    return dataclasses.replace(manifest, provenance=dataclasses.replace(manifest.provenance, notice="changed"))


def test_what_the_publisher_vouches_for_is_taken(board: Board) -> None:
    board.vouch()
    for digest, blob in board.manifest.blobs().items():
        board.publishers.admits(digest, blob.size_bytes)
    board.publishers.check_stage(board.stage)


def rollback(board: Board) -> None:
    old = another(board.manifest)
    board.vouch(board.says(version=3))
    board.vouch(board.says(version=2, manifests=(old.digest,)), old)


def rollback_after_a_restart(board: Board) -> None:
    board.vouch(board.says(version=3))
    board.start()
    board.vouch(board.says(version=2))


def freeze(board: Board) -> None:
    board.vouch(board.says(expires=board.now - 1))


def freeze_of_what_is_here(board: Board) -> None:
    board.vouch()
    board.now += 2 * DAY
    board.publishers.check_stage(board.stage)


def mix_and_match_of_artifacts(board: Board) -> None:
    board.vouch(None, another(board.manifest))


def mix_and_match_of_blobs(board: Board) -> None:
    board.vouch()
    board.publishers.check_stage(dataclasses.replace(board.stage, blobs=(*board.stage.blobs, digest_of(b"mine"))))


def mix_and_match_of_parts(board: Board) -> None:
    board.vouch()
    board.publishers.check_stage(dataclasses.replace(board.stage, parts=(*board.stage.parts, "layers.7")))


def arbitrary_software_of_another_key(board: Board) -> None:
    board.vouch(board.says(key=OTHER))


def arbitrary_software_unsigned(board: Board) -> None:
    board.publishers.check_stage(board.stage)


def arbitrary_software_as_a_blob(board: Board) -> None:
    board.vouch()
    board.publishers.admits(digest_of(b"mine"), 4)


def endless_data(board: Board) -> None:
    board.vouch()
    digest, blob = next(iter(board.manifest.blobs().items()))
    board.publishers.admits(digest, blob.size_bytes + (1 << 40))


def a_signature_for_something_else(board: Board) -> None:
    data = b'{"kind":"glmfleet plan 1"}'
    board.vouch(SignedStatement(data, KEY.public_key().public_bytes_raw(), KEY.sign(data)))


ATTACKS: list[tuple[Callable[[Board], None], str]] = [
    (rollback, "has said version 3 of tiny here before; this is version 2"),
    (rollback_after_a_restart, "has said version 3"),
    (freeze, "has expired"),
    (freeze_of_what_is_here, "has expired"),
    (mix_and_match_of_artifacts, "says nothing of artifact"),
    (mix_and_match_of_blobs, "not all is of one artifact"),
    (mix_and_match_of_parts, "has no part 'layers.7'"),
    (arbitrary_software_of_another_key, "a publisher that this device does not know"),
    (arbitrary_software_unsigned, "no publisher vouches for artifact"),
    (arbitrary_software_as_a_blob, "is of no model that a publisher vouches for"),
    (endless_data, "as its publisher says, and not"),
    (a_signature_for_something_else, "no statement of a model"),
]


@pytest.mark.parametrize(("attack", "said"), ATTACKS, ids=[attack.__name__ for attack, _ in ATTACKS])
def test_attacks(board: Board, attack: Callable[[Board], None], said: str) -> None:
    with pytest.raises(Denied, match=said):
        attack(board)


@pytest.mark.parametrize("what", ["statement", "publisher", "signature", "manifest"])
def test_whatever_bit_is_flipped_it_is_refused(board: Board, what: str) -> None:
    choose = random.Random(what)
    signed, manifest = board.says(), board.manifest.to_bytes()
    for _ in range(250):
        parts = {"statement": signed.statement, "publisher": signed.publisher, "signature": signed.signature, "manifest": manifest}
        flipped = bytearray(parts[what])
        flipped[choose.randrange(len(flipped))] ^= 1 << choose.randrange(8)
        parts[what] = bytes(flipped)
        with pytest.raises(FleetError):
            board.publishers.vouch(SignedStatement(parts["statement"], parts["publisher"], parts["signature"]), parts["manifest"])
    with pytest.raises(Denied):
        board.publishers.check_stage(board.stage)
    board.vouch(signed)


def test_what_was_vouched_for_stays_so_after_a_restart_and_is_judged_anew(board: Board) -> None:
    board.vouch()
    board.start()
    board.publishers.check_stage(board.stage)
    [kept] = (board.state / "publishers").glob("*.manifest")
    flipped = bytearray(kept.read_bytes())
    flipped[-9] ^= 1
    kept.write_bytes(bytes(flipped))
    board.start()
    with pytest.raises(Denied, match="no publisher vouches"):
        board.publishers.check_stage(board.stage)
    assert list((board.state / "publishers").glob("*.manifest")) == []


def test_a_newer_version_takes_the_place_of_what_it_does_not_name(board: Board) -> None:
    new = another(board.manifest)
    board.vouch(board.says(version=1))
    board.vouch(both := board.says(version=2, manifests=(new.digest, board.manifest.digest)), new)
    board.vouch(both)  # the one before is still named: a deployment of it is repaired
    board.publishers.check_stage(board.stage)
    board.vouch(board.says(version=3, manifests=(new.digest,)), new)
    with pytest.raises(Denied, match="no publisher vouches"):
        board.publishers.check_stage(board.stage)


def test_the_first_keys_are_pinned_and_no_others_taken(board: Board) -> None:
    mine, other = KEY.public_key().public_bytes_raw(), OTHER.public_key().public_bytes_raw()
    board.publishers.trust([mine])
    for keys in ([other], [mine, other]):
        with pytest.raises(Denied, match="has pinned the keys of other publishers"):
            board.publishers.trust(keys)
    board.start()
    assert board.publishers.keys == {mine}
    for wrong in ([], [b"short"], [bytes([number]) * 32 for number in range(MOST_PUBLISHERS + 1)]):
        with pytest.raises(InvalidInput):
            board.publishers.trust(wrong)


def test_a_device_that_has_pinned_nobody_asks_nobody(tmp_path: Path, manifest: Manifest) -> None:
    free = Board(tmp_path, manifest)
    free.vouch(free.says(key=OTHER))
    free.publishers.admits(Digest("a" * 64), 5)
    free.publishers.check_stage(free.stage)


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "[1]", '["xy"]'])
def test_pinned_keys_that_cannot_be_read_are_not_taken_for_none(board: Board, text: str) -> None:
    (board.state / "publishers" / "keys.json").write_text(text)
    with pytest.raises(Corrupt, match=r"damaged|cannot be read") as caught:
        board.start()
    assert "leave --wipe" in caught.value.advice


@pytest.mark.parametrize("text", ["[]", '{"tiny": "x"}', '{"tiny": null}', '{"tiny": [1]}'])
def test_nor_are_versions(board: Board, text: str) -> None:
    (board.state / "publishers" / "versions.json").write_text(text)
    with pytest.raises(Corrupt, match="damaged"):
        board.start()


def test_what_is_sent_while_the_first_keys_are_pinned_goes_on(tmp_path: Path, manifest: Manifest) -> None:
    """A board that has just joined is deployed to at once: what was said before it knew whom to believe is judged then."""
    young, foreign = Board(tmp_path, manifest), another(manifest)
    young.vouch()
    young.vouch(young.says(key=OTHER, manifests=(foreign.digest,)), foreign)
    young.publishers.trust([KEY.public_key().public_bytes_raw()])
    digest, blob = next(iter(manifest.blobs().items()))
    young.publishers.admits(digest, blob.size_bytes)
    young.publishers.check_stage(young.stage)
    assert len(list((young.state / "publishers").glob("*.manifest"))) == 1  # what another said is not


def test_what_is_said_again_before_each_load_is_written_once(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full takes nothing, and the stage may be loaded all the same."""
    board.vouch(said := board.says())

    def full(path: Path, data: bytes) -> None:
        raise InvalidInput(f"cannot write {path}: no space left on device")

    monkeypatch.setattr("device.publishers.write_whole", full)
    board.vouch(said)
    board.publishers.check_stage(board.stage)
    with pytest.raises(InvalidInput):
        board.vouch(board.says(version=2))


def test_who_has_pinned_another_publisher_says_how_to_get_out(board: Board) -> None:
    """To sign anew, with the same new key, is of no use."""
    for refused in (lambda: board.vouch(board.says(key=OTHER)), lambda: board.publishers.trust([OTHER.public_key().public_bytes_raw()])):
        with pytest.raises(Denied) as caught:
            refused()
        assert "restore the home's publisher folder" in caught.value.advice
        assert "glmfleet devices remove" in caught.value.advice


def test_a_program_is_taken_of_what_is_vouched_for_and_runs_over_no_other_weights(board: Board) -> None:
    """A coordinator makes programs of a manifest, as it does graphs: nobody signs them."""
    program, strange = digest_of(b"program"), digest_of(b"strange")
    with pytest.raises(Denied, match="of no model that a publisher vouches for"):
        board.publishers.admits(program, 500, programs=True)
    board.vouch()
    board.publishers.admits(program, 500, programs=True)
    for refused in (lambda: board.publishers.admits(program, 500), lambda: board.publishers.admits(program, 1 << 30, programs=True)):
        with pytest.raises(Denied, match="of no model that a publisher vouches for"):
            refused()
    blob = next(iter(board.stage.blobs))
    with pytest.raises(Denied, match="as its publisher says"):
        board.publishers.admits(blob, 3, programs=True)

    def stage(weights: Digest) -> StageSpec:
        programs = StagePrograms((program,), None, (StoredTensor("layers.0/qkv.weight", weights, 0, 4),))
        return dataclasses.replace(board.stage, blobs=(*board.stage.blobs, program), programs=programs)

    board.publishers.check_stage(stage(blob))
    for elsewhere in (program, strange):
        with pytest.raises(Denied, match="is of no part of the stage"):
            board.publishers.check_stage(stage(elsewhere))
