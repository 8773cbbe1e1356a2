"""What a device lets onto its disk and into its memory: models that a publisher whose key it has pinned vouches for."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from device.files import write_whole
from device.stage_spec import StageSpec
from protos import publishing
from protos.errors import Corrupt, Denied, InvalidInput
from protos.ids import Digest, digest_of
from protos.manifest import Manifest, parse
from protos.publishing import KEY_BYTES, SignedStatement, Statement

MOST_PUBLISHERS = 16
MOST_MODELS = 256
MOST_UNJUDGED = 16
MOST_PROGRAM_BYTES = 64 << 20  # 30 layers have 0.3 MB
_KEY = re.compile(rf"[0-9a-f]{{{2 * KEY_BYTES}}}")
_JOIN_AGAIN = "glmfleet device leave --wipe, and join again"
OTHER_PUBLISHER = "restore the home's publisher folder from a backup, or take the device out and in again: glmfleet devices remove NAME"
FOLDER = "publishers"  # below the device's state


@dataclass(frozen=True)
class _Known:
    statement: Statement
    manifest: Manifest
    signed: SignedStatement


class Publishers:
    """Keys, the newest version heard of each model, and what is vouched for, in `state`/publishers. Without a key nothing is asked: such a
    device takes whatever its coordinator sends.

    The first keys that a coordinator of the fleet tells are pinned; they are forgotten only with the membership. All methods but `admits`
    and `check_stage` block for milliseconds. Raises Corrupt when what is pinned cannot be read: it is never taken for nothing.
    """

    def __init__(self, state: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = state / FOLDER
        self._clock = clock
        self._changing = threading.Lock()
        self._known: dict[Digest, _Known] = {}
        self._unjudged: dict[bytes, SignedStatement] = {}  # by manifest: said before we knew whom to believe
        self._keys = pinned_keys(state)
        self._newest = _versions(_read(self._folder / "versions.json", {}))
        for path in sorted(self._folder.glob("*.manifest")) if self._folder.is_dir() else ():
            self._take_up(path)

    @property
    def keys(self) -> frozenset[bytes]:
        return self._keys

    def trust(self, keys: Collection[bytes]) -> None:
        """Pin these public keys (Ed25519), unless some are. Raises Denied when others are pinned, InvalidInput for what are no keys."""
        wanted = frozenset(keys)
        if not wanted or len(wanted) > MOST_PUBLISHERS or any(len(key) != KEY_BYTES for key in wanted):
            raise InvalidInput(f"{len(wanted)} publishers' keys: 1 to {MOST_PUBLISHERS} of {KEY_BYTES} bytes")
        with self._changing:
            if self._keys and self._keys != wanted:
                raise Denied("this device has pinned the keys of other publishers", advice=OTHER_PUBLISHER)
            if not self._keys:
                self._write("keys.json", json.dumps(sorted(key.hex() for key in wanted)).encode())
                self._keys = wanted
                for manifest, signed in self._unjudged.items():  # what is being sent meanwhile goes on
                    with suppress(Denied, Corrupt):
                        self._take(signed, manifest)
                self._unjudged.clear()

    def vouch(self, signed: SignedStatement, manifest: bytes) -> None:
        """Take up what a publisher says of a manifest. Raises Denied when none of ours says so, or not any more; Corrupt."""
        with self._changing:
            if self._keys:
                self._take(signed, manifest)
            elif len(self._unjudged) < MOST_UNJUDGED:
                self._unjudged[manifest] = signed

    def _take(self, signed: SignedStatement, manifest: bytes) -> None:
        if (before := self._known.get(digest_of(manifest))) is not None and before.signed == signed:
            # Said again, as before each load: it is not read anew, and a disk that is full or wears out is not written to.
            publishing.check(before.statement, self._newest.get(before.statement.model, 0), self._clock())
            return
        known = self._judged(signed, manifest)
        statement, digest = known.statement, known.manifest.digest
        if len(self._known) >= MOST_MODELS and digest not in self._known:
            self._forget(next(iter(self._known)))
        if statement.version > self._newest.get(statement.model, 0):
            newest = {**self._newest, statement.model: statement.version}
            self._write("versions.json", json.dumps(newest).encode())  # before anything of it is believed
            self._newest = newest
            self._forget_all(one for one, each in self._known.items() if each.statement.model == statement.model and one != digest)
        parts = [signed.statement, signed.publisher, signed.signature, manifest]
        self._write(f"{digest}.manifest", b"".join(len(part).to_bytes(8, "big") + part for part in parts))
        self._known[digest] = known

    def admits(self, digest: Digest, size_bytes: int, *, programs: bool = False) -> None:
        """Raises Denied unless a blob of this digest and size belongs to something that is vouched for.

        `programs`: it may be a program of a chip, too, which a coordinator makes of a manifest as it does a graph: what that may do, its
        verifier says, and over which weights it runs, `check_stage`.
        """
        if not self._keys or (programs and self._known and size_bytes <= MOST_PROGRAM_BYTES and not self._names(digest)):
            return
        for known in self._known.values():
            blob = known.manifest.blobs().get(digest)
            if blob is not None and blob.size_bytes != size_bytes:
                raise Denied(f"blob {digest[:12]} has {blob.size_bytes} bytes, as its publisher says, and not {size_bytes}")
            if blob is not None:
                return
        raise Denied(f"blob {digest[:12]} is of no model that a publisher vouches for", advice="sign the model: glmfleet model sign NAME")

    def _names(self, digest: Digest) -> bool:
        return any(digest in known.manifest.blobs() for known in self._known.values())

    def check_stage(self, spec: StageSpec) -> None:
        """Raises Denied unless the stage is of a manifest that is vouched for now, and points at the blobs of its parts and no others."""
        if not self._keys:
            return
        known = self._known.get(spec.manifest)
        if known is None:
            raise Denied(f"no publisher vouches for artifact {spec.manifest[:12]} here", advice="sign the model: glmfleet model sign NAME")
        publishing.check(known.statement, self._newest.get(known.statement.model, 0), self._clock())
        try:
            parts = [known.manifest.part(name) for name in spec.parts]
        except KeyError as error:
            raise Denied(f"artifact {spec.manifest[:12]} has no part {str(error.args[0])[:80]!r}") from None
        of_parts = {blob.digest for part in parts for variant in part.variants for blob in variant.blobs}
        programs = spec.programs
        weights = set(spec.blobs) if programs is None else set(spec.blobs) - programs.files | {one.blob for one in programs.weights}
        if strange := weights - of_parts:
            raise Denied(f"blob {min(strange)[:12]} is of no part of the stage: not all is of one artifact")

    def _judged(self, signed: SignedStatement, manifest: bytes) -> _Known:
        statement = self._read_signed(signed)
        publishing.check(statement, self._newest.get(statement.model, 0), self._clock())
        parsed = parse(manifest)
        if parsed.digest not in statement.manifests:
            raise Denied(f"its publisher says nothing of artifact {parsed.digest[:12]}: {statement.model} is {statement.manifests[0][:12]}")
        return _Known(statement, parsed, signed)

    def _read_signed(self, signed: SignedStatement) -> Statement:
        """Raises Denied when none of ours has signed it."""
        if signed.publisher not in self._keys:
            raise Denied("it is signed by a publisher that this device does not know", advice=OTHER_PUBLISHER)
        try:
            Ed25519PublicKey.from_public_bytes(signed.publisher).verify(signed.signature, signed.statement)
        except (InvalidSignature, ValueError) as error:
            raise Denied("its publisher's signature is false", advice=publishing.SIGN_ANEW) from error
        return publishing.parse(signed.statement)

    def _take_up(self, path: Path) -> None:
        """What was vouched for before a restart, judged anew; what is no good any more is removed."""
        try:
            data, parts = path.read_bytes(), []
            while data:
                length = int.from_bytes(data[:8], "big")
                parts.append(data[8 : 8 + length])
                data = data[8 + length :]
            statement, publisher, signature, manifest = parts
            known = self._judged(SignedStatement(statement, publisher, signature), manifest)
            self._known[known.manifest.digest] = known
        except (OSError, ValueError, Denied, Corrupt):
            path.unlink(missing_ok=True)

    def _forget_all(self, digests: Iterable[Digest]) -> None:
        for digest in list(digests):
            self._forget(digest)

    def _forget(self, digest: Digest) -> None:
        del self._known[digest]
        (self._folder / f"{digest}.manifest").unlink(missing_ok=True)

    def _write(self, name: str, data: bytes) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        write_whole(self._folder / name, data)


def pinned_keys(state: Path) -> frozenset[bytes]:
    """Of the publishers that the device in `state` lets in; none: it asks for nobody's word. Raises Corrupt."""
    return _keys(_read(state / FOLDER / "keys.json", []))


def _read(path: Path, nothing: object) -> object:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return nothing
    except (OSError, ValueError) as error:
        raise Corrupt(f"{path} cannot be read: {error}", advice=_JOIN_AGAIN) from error


def _keys(plain: object) -> frozenset[bytes]:
    if not isinstance(plain, list) or not all(isinstance(key, str) and _KEY.fullmatch(key) for key in plain):
        raise Corrupt("the pinned keys of publishers are damaged", advice=_JOIN_AGAIN)
    return frozenset(map(bytes.fromhex, plain))


def _versions(plain: object) -> dict[str, int]:
    if not isinstance(plain, dict) or not all(isinstance(version, int) for version in plain.values()):
        raise Corrupt("the versions of models are damaged", advice=_JOIN_AGAIN)
    return {str(model): version for model, version in plain.items()}
