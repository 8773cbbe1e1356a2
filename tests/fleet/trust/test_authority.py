"""The authority: one per home, whoever comes first; and what its certificates say."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from device.agent.identity import load_identity, own_key
from device.agent.membership import renew
from fleet.trust.authority import BACKDATED, MEMBER_LIFE, Authority
from protos.errors import Denied, InvalidInput
from protos.ids import device_id, host_name
from tests.support.members import credentials_of

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def authority(folder: Path, now: datetime = NOW) -> Authority:
    return Authority.open(folder, lambda: now)


def certificate(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "certificate.pem").read_bytes())


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def request(key: Key, name: str = "dev-1") -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    alternative = x509.SubjectAlternativeName([x509.DNSName("victim.glmfleet.internal")])  # asked for, and not granted
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(alternative, critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


def test_it_is_made_once(tmp_path: Path) -> None:
    first = authority(tmp_path / "ca")
    again = authority(tmp_path / "ca")
    assert again.fleet_id == first.fleet_id
    assert again.certificate == first.certificate
    assert stat.S_IMODE((tmp_path / "ca" / "key.pem").stat().st_mode) == 0o600
    assert authority(tmp_path / "other").fleet_id != first.fleet_id


def test_processes_that_come_at_once_end_with_the_same(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from fleet.trust.authority import Authority
authority = Authority.open(Path(sys.argv[1]))
authority.issue_folder(Path(sys.argv[2]), "device", "dev-1")
print(authority.fleet_id)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "ca"), str(tmp_path / "dev")]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    printed = {child.communicate(timeout=60)[0] for child in children}
    assert {child.returncode for child in children} == {0}
    assert printed == {f"{Authority.open(tmp_path / 'ca').fleet_id}\n"}
    assert (
        certificate(tmp_path / "dev").public_key()
        == serialization.load_pem_private_key((tmp_path / "dev/key.pem").read_bytes(), None).public_key()
    )


def test_threads_that_come_at_once_end_with_the_same(tmp_path: Path) -> None:
    for turn in range(5):
        together = threading.Barrier(8)

        def come(folder: Path, together: threading.Barrier = together) -> str:
            together.wait()
            return Authority.open(folder).fleet_id

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(come, [tmp_path / str(turn)] * 8))) == 1


def test_what_a_certificate_says(tmp_path: Path) -> None:
    fleet = authority(tmp_path / "ca")
    fleet.issue_folder(tmp_path / "dev", "device", "kitchen camera é")
    made = certificate(tmp_path / "dev")
    member = device_id(made.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [host_name(member)]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"glmfleet://{fleet.fleet_id}/device/{member}"]
    assert made.subject.rfc4514_string() == "CN=kitchen camera é"
    assert set(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
    }
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert made.not_valid_before_utc == NOW - BACKDATED
    assert made.not_valid_after_utc == NOW + MEMBER_LIFE
    assert 64 <= made.serial_number.bit_length() <= 159  # RFC 5280: positive, at most 20 bytes; unguessable
    made.verify_directly_issued_by(fleet.certificate)


def test_what_the_authority_says(tmp_path: Path) -> None:
    made = authority(tmp_path / "ca").certificate
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=0)
    usage = made.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert not usage.digital_signature
    made.verify_directly_issued_by(made)


def test_issuing_again_changes_nothing(tmp_path: Path) -> None:
    fleet = authority(tmp_path / "ca")
    fleet.issue_folder(tmp_path / "dev", "device", "dev-1")
    before = contents(tmp_path / "dev")
    assert set(before) == {"key.pem", "certificate.pem", "authority.pem", "lock"}
    fleet.issue_folder(tmp_path / "dev", "device", "dev-1")
    authority(tmp_path / "ca", NOW + MEMBER_LIFE / 2).issue_folder(tmp_path / "dev", "device", "dev-1")
    assert contents(tmp_path / "dev") == before
    assert stat.S_IMODE((tmp_path / "dev" / "key.pem").stat().st_mode) == 0o600
    assert before["authority.pem"] == fleet.certificate_pem


@pytest.mark.parametrize("cause", ["due", "other authority", "other role", "other name", "damaged", "forged", "missing", "other key"])
def test_when_it_is_issued_anew(tmp_path: Path, cause: str) -> None:
    folder = tmp_path / "dev"
    authority(tmp_path / "ca").issue_folder(folder, "device", "dev-1")
    before = contents(folder)
    later, role, name, ca = NOW, "device", "dev-1", tmp_path / "ca"
    match cause:
        case "due":
            later = NOW + MEMBER_LIFE * 0.71
        case "other authority":
            ca = tmp_path / "other"
        case "other role":
            role = "coordinator"
        case "other name":
            name = "dev-2"
        case "damaged":
            (folder / "certificate.pem").write_bytes(before["certificate.pem"][:-100])
        case "forged":
            der = bytearray(certificate(folder).public_bytes(serialization.Encoding.DER))
            der[-1] ^= 1  # of the authority's signature
            forged = x509.load_der_x509_certificate(bytes(der)).public_bytes(serialization.Encoding.PEM)
            (folder / "certificate.pem").write_bytes(forged)
        case "missing":
            (folder / "certificate.pem").unlink()
        case "other key":
            (folder / "key.pem").unlink()
    fleet = authority(ca, later)
    fleet.issue_folder(folder, role, name)  # type: ignore[arg-type]
    after = contents(folder)
    assert after["certificate.pem"] != before["certificate.pem"]
    assert (after["key.pem"] == before["key.pem"]) == (cause != "other key"), "the key is the device's identity"
    assert after["authority.pem"] == fleet.certificate_pem
    certificate(folder).verify_directly_issued_by(fleet.certificate)


def test_signing_grants_only_the_key_and_the_name(tmp_path: Path) -> None:
    fleet, key = authority(tmp_path / "ca"), ec.generate_private_key(ec.SECP256R1())
    made = x509.load_pem_x509_certificate(fleet.sign(request(key), "device"))
    member = device_id(key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    assert made.public_key() == key.public_key()
    assert made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName) == [
        host_name(member)
    ]


def test_what_is_not_signed(tmp_path: Path) -> None:
    fleet = authority(tmp_path / "ca")
    good = request(ec.generate_private_key(ec.SECP256R1()))
    der = bytearray(x509.load_pem_x509_csr(good).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1  # of the proof that the asker has the key
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    others: list[Key] = [
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP384R1()),
    ]
    for pem in [b"", b"nonsense", forged, *(request(key) for key in others)]:
        with pytest.raises(Denied, match="signing request"):
            fleet.sign(pem, "device")
    with pytest.raises(InvalidInput, match="not a name"):
        fleet.sign(request(ec.generate_private_key(ec.SECP256R1()), ""), "device")


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 65, "é" * 33, "\x00"])
def test_names_that_are_refused_leave_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="not a name"):
        authority(tmp_path / "ca").issue_folder(tmp_path / "dev", "device", name)
    assert not (tmp_path / "dev").exists()


def test_a_lost_certificate_is_made_again_and_the_fleet_stays(tmp_path: Path) -> None:
    fleet = authority(tmp_path / "ca")
    fleet.issue_folder(tmp_path / "dev", "device", "dev-1")
    (tmp_path / "ca" / "certificate.pem").unlink()
    again = authority(tmp_path / "ca")
    assert again.fleet_id == fleet.fleet_id
    certificate(tmp_path / "dev").verify_directly_issued_by(again.certificate)


def test_an_old_authority_is_renewed_with_its_key(tmp_path: Path) -> None:
    fleet = authority(tmp_path / "ca")
    later = NOW + timedelta(days=3650 - 200)
    renewed = authority(tmp_path / "ca", later)
    assert renewed.fleet_id == fleet.fleet_id
    assert renewed.certificate.not_valid_after_utc > fleet.certificate.not_valid_after_utc
    assert renewed.certificate.subject == fleet.certificate.subject


def test_a_damaged_authority_is_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    authority(folder)
    key = (folder / "key.pem").read_bytes()
    for damage, complaint in ((b"", "no readable key"), (key[:40], "no readable key"), (_rsa_pem(), "is not EC P-256")):
        (folder / "key.pem").write_bytes(damage)
        with pytest.raises(Denied, match=complaint):
            authority(folder)
        assert (folder / "key.pem").read_bytes() == damage
    (folder / "key.pem").unlink()
    with pytest.raises(Denied, match=r"the fleet's key .* is gone"):
        authority(folder)
    authority(tmp_path / "other")
    (folder / "key.pem").write_bytes((tmp_path / "other" / "key.pem").read_bytes())
    with pytest.raises(Denied, match="is of another key"):
        authority(folder)


def test_the_key_is_not_in_the_repr(tmp_path: Path) -> None:
    assert "key" not in repr(authority(tmp_path / "ca")).lower()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot make the folder"):
        authority(tmp_path / "file" / "ca")


def _rsa_pem() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def test_a_certificate_that_lives_longer_than_the_fleets_do_is_replaced(tmp_path: Path) -> None:
    """Of a release that gave a year, the coordinator's own too: whoever has a copy would have it for the year."""
    Authority.open(tmp_path / "ca", lambda: NOW, timedelta(days=365)).issue_folder(tmp_path / "dev", "device", "dev")
    for name in ("members.json", "members.lock"):  # that release knew no such files
        (tmp_path / "ca" / name).unlink()
    before, fleet = certificate(tmp_path / "dev"), authority(tmp_path / "ca")
    fleet.issue_folder(tmp_path / "dev", "device", "dev")
    now = certificate(tmp_path / "dev")
    assert now.not_valid_after_utc == NOW + MEMBER_LIFE < before.not_valid_after_utc
    assert now.public_key() == before.public_key()
    assert [record.name for record in fleet.members.all()] == ["dev"]  # who was given none by us could not return
    kept = contents(tmp_path / "dev")
    fleet.issue_folder(tmp_path / "dev", "device", "dev")
    assert contents(tmp_path / "dev") == kept


@pytest.mark.parametrize("behind", [timedelta(hours=1), timedelta(hours=23)])
def test_what_was_made_by_a_clock_that_is_ahead_is_good_where_it_is_right(tmp_path: Path, behind: timedelta) -> None:
    """Each day the boards of such a coordinator would refuse the next certificate, and be of no fleet after the last."""
    fleet = authority(tmp_path / "ca")
    fleet.issue_folder(tmp_path / "dev", "device", "dev")
    identity = load_identity(tmp_path / "dev", lambda: NOW - behind)
    renew(tmp_path / "dev", credentials_of(identity), fleet.sign(request(own_key(tmp_path / "dev"), "dev"), "device"), lambda: NOW - behind)
