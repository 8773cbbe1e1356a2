"""The fleet's publisher: the key by which devices know which models are ours, and what it has said of each."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fleet.home import locked, write_private
from protos.errors import Corrupt, Denied, FleetError, InvalidInput
from protos.ids import Digest
from protos.modes import check_folder, close_file
from protos.publishing import SignedStatement, Statement, parse
from quantize.artifact.store import ArtifactStore

LIFE_SECONDS = 90 * 86400.0  # of a statement; one with less than half left is said anew when it is used
LONGEST_SECONDS = 3650 * 86400.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Publisher:
    """Signs the models of one home. Where `folder`/key.pem was taken away, to be kept elsewhere, what it has signed still serves."""

    public: bytes
    _folder: Path
    _key: Ed25519PrivateKey | None
    _artifacts: ArtifactStore
    _now: Callable[[], float] = time.time

    @classmethod
    def open(cls, folder: Path, artifacts: ArtifactStore, now: Callable[[], float] = time.time) -> Publisher:
        """The publisher in `folder`. At first use its key is made, and signs the models that are here already. Blocks for milliseconds.

        Raises Denied when what is there is damaged, InvalidInput when it cannot be written.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(f"cannot make the folder {folder}: {error.strerror}", advice="choose another folder with --home") from error
        check_folder(folder)
        key_file, public_file = folder / "key.pem", folder / "public.pem"
        with locked(folder / "lock"):
            first = not public_file.exists()
            if first:
                if not key_file.exists():
                    made = Ed25519PrivateKey.generate()
                    pem = made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
                    write_private(key_file, pem)
                public = _private(key_file).public_key()
            key = _private(key_file) if key_file.exists() else None
            publisher = cls(public.public_bytes_raw() if first else _public(public_file), folder, key, artifacts, now)
            if first:
                for name in artifacts.list():
                    try:
                        publisher.sign(name)
                    except Corrupt as error:  # the others are to run all the same
                        _log.warning("not signed: %s (%s)", error.detail, error.advice)
                pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
                write_private(public_file, pem)  # last: with it the models of before have been taken over
        if key is not None and key.public_key().public_bytes_raw() != publisher.public:
            raise Denied(f"{public_file} is of another key than {key_file}", advice="restore both from one backup")
        return publisher

    def sign(self, name: str, life_seconds: float = LIFE_SECONDS, above: int = 0) -> Statement:
        """Vouch for the model of this name as it is in the store, and for what it was before, which deployments may still be of. Its
        version is `above` that one, too: one that devices have heard, and that is known here no more.

        Raises NotFound, Corrupt, InvalidInput for a life that is none, Denied where the key is not here.
        """
        if not 0 < life_seconds <= LONGEST_SECONDS:
            raise InvalidInput(f"a signature for {life_seconds:g} s", advice=f"up to {LONGEST_SECONDS / 86400:g} days")
        if self._key is None:
            raise Denied("the publisher's key is not in this home", advice="run `glmfleet model sign` where it is")
        # One at a time, over processes: a version says one thing, and what another has just said is not forgotten.
        with locked(self._folder / "signing.lock"):
            return self._sign(self._key, name, life_seconds, above)

    def _sign(self, key: Ed25519PrivateKey, name: str, life_seconds: float, above: int) -> Statement:
        digest, before = self._artifacts.load(name).digest, self._said(name)
        kept = [one for one in before.manifests if one != digest][:1] if before else []
        # Seconds since 1970 outrun one count of signings each, so that a home restored from a backup does not repeat a version.
        version = max((before.version if before else 0) + 1, above + 1, int(self._now()))
        statement = Statement(name, version, self._now() + life_seconds, (digest, *kept))
        data = statement.to_bytes()
        signed = SignedStatement(data, self.public, key.sign(data))
        plain = {"statement": signed.statement.decode(), "publisher": signed.publisher.hex(), "signature": signed.signature.hex()}
        write_private(self._artifacts.signature_path(name), json.dumps(plain, indent=1).encode())
        return statement

    def of(self, name: str, manifest: Digest) -> SignedStatement | None:
        """What is said of the model of this name, if it is about this manifest: said anew when its time is half over. Blocks."""
        statement = self._said(name)
        if statement is None or manifest not in statement.manifests:
            return None
        if self._key is not None and statement.expires - self._now() < LIFE_SECONDS / 2 and statement.manifests[0] == self._digest(name):
            try:
                self.sign(name)
            except FleetError as error:  # the disk is full: what was said before is good still
                _log.warning("%s is not signed anew: %s (%s)", name, error.detail, error.advice)
        return self._signed(name)

    def _said(self, name: str) -> Statement | None:
        """What this publisher has said: what another key signed is nothing, and is not said anew."""
        signed = self._signed(name)
        try:
            if signed is None or signed.publisher != self.public:
                return None
            Ed25519PublicKey.from_public_bytes(self.public).verify(signed.signature, signed.statement)
            return parse(signed.statement)
        except (InvalidSignature, Denied):
            return None

    def _signed(self, name: str) -> SignedStatement | None:
        try:
            plain = json.loads(self._artifacts.signature_path(name).read_bytes())
            return SignedStatement(plain["statement"].encode(), bytes.fromhex(plain["publisher"]), bytes.fromhex(plain["signature"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _digest(self, name: str) -> Digest | None:
        try:
            return self._artifacts.load(name).digest
        except FleetError:  # removed or damaged: nothing is said of it any more
            return None


def _private(path: Path) -> Ed25519PrivateKey:
    close_file(path)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise Denied(f"{path} holds no readable key", advice="restore it from a backup") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise Denied(f"the key in {path} is not Ed25519", advice="restore it from a backup")
    return key


def _public(path: Path) -> bytes:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
        return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    except (OSError, ValueError, TypeError) as error:
        raise Denied(f"{path} holds no readable key", advice="restore it from a backup") from error
