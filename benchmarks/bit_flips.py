"""One bit of what is stored or sent is another: it is refused, or it changes nothing. Counted, for each kind.

python -m benchmarks.bit_flips --flips 10000

"harmless": what was read is the same as before (a line's end or a letter outside the base64 of a PEM file, the name of a sum).
"told": a manifest that can be read and has another digest, which no plan names. Anything else is a fault: a value that has changed unseen,
or an error that is none of ours.
"""

from __future__ import annotations

import argparse
import base64
import random
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from cryptography import x509

from benchmarks.fuzz_messages import changed_bit
from device.agent.identity import load_identity
from device.blobs import BlobStore
from fleet.deploying import stored
from fleet.deploying.desired import Desired, new_desired
from fleet.deploying.stored import Unreadable
from fleet.planning.plan import Plan, StagePlan
from fleet.store.database import Store
from fleet.store.deployments import DeploymentRecords
from fleet.trust.authority import Authority
from protos.errors import Corrupt, FleetError
from protos.ids import digest_of
from protos.manifest import Manifest, parse
from tests.support.checkpoints import TinyGlm
from tests.support.ring import tiny_model

BLOB_BYTES = 20_000
Try: TypeAlias = "Callable[[bytes], str]"  # "refused", "harmless", "told"; raises FleetError: refused
Kind: TypeAlias = "Callable[[Path], AbstractContextManager[tuple[bytes, Try]]]"


class FlipError(Exception):
    """A bit was changed, and it was taken for good."""


def flips(data: bytes, count: int, seed: int, attempt: Try) -> Counter[str]:
    """What became of so many bits, chosen by lot. Raises FlipError, and whatever is no error of ours."""
    dice, found = random.Random(seed), Counter[str]()
    for _ in range(count):
        bit = dice.randrange(8 * len(data))
        try:
            found[attempt(changed_bit(data, bit))] += 1
        except FleetError:
            found["refused"] += 1
        except FlipError as error:
            raise FlipError(f"bit {bit}: {error}") from error
    return found


@contextmanager
def sent_blob(folder: Path) -> Iterator[tuple[bytes, Try]]:
    store, data = BlobStore(folder / "sent"), random.Random(1).randbytes(BLOB_BYTES)
    digest = digest_of(data)

    def attempt(changed: bytes) -> str:
        with store.arrive(digest, len(changed), 0) as arrival:
            arrival.catch_up()
            arrival.write(changed)
            arrival.finish()
        raise FlipError("the blob was kept")

    yield data, attempt


@contextmanager
def kept_blob(folder: Path) -> Iterator[tuple[bytes, Try]]:
    """On the device's disk, looked at before each load."""
    store, data = BlobStore(folder / "kept"), random.Random(2).randbytes(BLOB_BYTES)
    digest = digest_of(data)

    def attempt(changed: bytes) -> str:
        (store.folder / digest).write_bytes(changed)
        store.verify(digest)
        raise FlipError("the blob was taken for good")

    yield data, attempt


def manifest(good: Manifest) -> Kind:
    @contextmanager
    def made(_folder: Path) -> Iterator[tuple[bytes, Try]]:
        def attempt(changed: bytes) -> str:
            try:
                found = parse(changed)
            except Corrupt:
                return "refused"
            if found.digest != good.digest:
                return "told"
            if found != good:
                raise FlipError("another manifest of the same digest")
            return "harmless"

        yield good.to_bytes(), attempt

    return made


@contextmanager
def plan(folder: Path) -> Iterator[tuple[bytes, Try]]:
    """A deployment in the coordinator's own database."""
    stage = StagePlan("a" * 16, "dev-1", "rk3588", True, 0, 7, ("embedding", "layers.1"), 10, 20, 1000, 30, 0.01, 0.1, False)
    stages = (stage, replace(stage, first_layer=7, stop_layer=14, device_id="b" * 16))
    good = new_desired("chat", 3, (Plan("tiny", "0" * 64, "energy", 64, 2, 4, 32, stages, 10.5, 0.25, 288, ("one",)),), None)
    path = folder / "fleet.db"
    with closing(Store(path)) as store:
        records = DeploymentRecords(store)
        records.put_deployment(good.name, good.generation, stored.write(good))

        def attempt(changed: bytes) -> str:
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("UPDATE deployments SET desired = CAST(? AS TEXT)", (changed,))
            [row] = records.deployments()
            match stored.read(row.name, row.generation, row.desired):
                case Unreadable():
                    return "refused"
                case Desired() as found if found == good:
                    return "harmless"
            raise FlipError("another plan")

        yield stored.write(good).encode(), attempt


def member(name: str) -> Kind:
    """Of a device's own folder."""

    @contextmanager
    def made(folder: Path) -> Iterator[tuple[bytes, Try]]:
        home = folder / f"member {name}"
        Authority.open(home / "authority").issue_folder(home / "device", "device", "dev-1")
        before, path = load_identity(home / "device"), home / "device" / name

        def attempt(changed: bytes) -> str:
            path.write_bytes(changed)
            found = load_identity(home / "device")
            if found.device_id != before.device_id or found.fleet_id != before.fleet_id or _body(changed) != _body(data):
                raise FlipError("another identity")
            return "harmless"

        data = path.read_bytes()
        yield data, attempt

    return made


def _body(pem: bytes) -> bytes:
    """What is said: of a certificate all that is signed (the signature's own bytes may be written in two ways), of a key its base64."""
    if b"CERTIFICATE" in pem:
        return x509.load_pem_x509_certificate(pem).tbs_certificate_bytes
    inner = pem.split(b"-----")
    return base64.b64decode(inner[2]) if len(inner) > 2 else b""


def authority(name: str) -> Kind:
    """The fleet's own: its certificate can be made again from its key, so that nothing is lost."""

    @contextmanager
    def made(folder: Path) -> Iterator[tuple[bytes, Try]]:
        home = folder / f"authority {name}"
        good, path = Authority.open(home), home / name
        data = path.read_bytes()

        def attempt(changed: bytes) -> str:
            path.write_bytes(changed)
            found = Authority.open(home)
            if found.fleet_id != good.fleet_id:
                raise FlipError("another fleet")
            found.certificate.verify_directly_issued_by(found.certificate)
            return "harmless" if found.certificate == good.certificate else "made again"

        yield data, attempt

    return made


def kinds(good: Manifest) -> dict[str, Kind]:
    return {
        "blob, sent": sent_blob,
        "blob, kept": kept_blob,
        "manifest": manifest(good),
        "plan": plan,
        "a member's certificate": member("certificate.pem"),
        "its authority": member("authority.pem"),
        "its key": member("key.pem"),
        "the fleet's authority": authority("certificate.pem"),
        "its key, too": authority("key.pem"),
    }


def run(folder: Path, good: Manifest, count: int, seed: int) -> dict[str, Counter[str]]:
    found = {}
    for name, kind in kinds(good).items():
        with kind(folder) as (data, attempt):
            found[name] = flips(data, count, seed, attempt)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bit_flips", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--flips", type=int, default=10_000, help="of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        good, _ = tiny_model(Path(temporary), TinyGlm())
        try:
            found = run(Path(temporary), good, options.flips, options.seed)
        except FlipError as error:
            print("FAULT:", error)
            return 1
    for name, counts in found.items():
        print(f"{name}: {', '.join(f'{count} {what}' for what, count in counts.most_common())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
