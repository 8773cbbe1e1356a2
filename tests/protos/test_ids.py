"""Ids: stable, safe as file and DNS names."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.ids import device_id, digest_of, fleet_id, gateway_host_name, host_name, member_id, parse_device_id, parse_digest


def test_a_known_key_has_a_known_id() -> None:
    assert device_id(b"key") == "fryock32azdpsitz"  # base32 of the first 80 bits of SHA-256: never to change
    assert fleet_id(b"key") == device_id(b"key")


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_members_id_is_its_gateways_and_its_name_alone(one: str, other: str) -> None:
    gateways = device_id(b"key"), device_id(b"another key")
    ids = {member_id(gateway, name) for gateway in gateways for name in (one, other)}
    assert len(ids) == (2 if one == other else 4)
    assert all(parse_device_id(member) == member for member in ids)
    assert member_id(gateways[0], "7") == "mmwcoegvt2kl2yu6"  # never to change


def test_a_gateways_name_is_no_devices() -> None:
    gateway = device_id(b"key")
    assert gateway_host_name(gateway) != host_name(gateway)


@given(st.binary(max_size=200))
def test_ids_are_dns_labels_and_read_back(key: bytes) -> None:
    identity = device_id(key)
    assert re.fullmatch(r"[a-z2-7]{16}", identity)
    assert parse_device_id(identity) == identity
    assert host_name(identity) == f"{identity}.glmfleet.internal"


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_other_keys_have_other_ids(one: bytes, other: bytes) -> None:
    assert (device_id(one) == device_id(other)) == (one == other)


@given(st.binary(max_size=200))
def test_digests_read_back(data: bytes) -> None:
    assert parse_digest(digest_of(data)) == digest_of(data)


def test_the_digest_is_sha_256() -> None:
    assert digest_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # pragma: allowlist secret


@pytest.mark.parametrize("text", ["", "A" * 64, "0" * 63, "0" * 65, "../" + "0" * 61, "0" * 64 + "\n", "٠" * 64])
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256 digest"):
        parse_digest(text)


@pytest.mark.parametrize("text", ["", "a" * 15, "a" * 17, "A" * 16, "1" * 16, "a" * 15 + "/", "a" * 16 + "\n"])
def test_what_is_no_device_id(text: str) -> None:
    with pytest.raises(ValueError, match="not a device id"):
        parse_device_id(text)
