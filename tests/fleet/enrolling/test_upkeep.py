"""Certificates renewed and expulsions told, between a coordinator's half and real agents over TLS."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from device.agent.identity import Identity
from device.agent.member_service import MemberService
from fleet.devices.diagnosis import DeviceDiagnosis, FleetDiagnosis
from fleet.enrolling.upkeep import TELL_SECONDS, Upkeep, due_in
from fleet.trust.authority import FIRST_RENEWAL, LAST_RENEWAL, Authority
from protos.errors import Denied, NotFound
from protos.ids import DeviceId
from protos.net import transport
from protos.net.transport import Peer, dial
from protos.rpc_errors import remote
from protos.v1 import member_pb2 as pb
from tests.support.members import TestFleet, credentials_of
from tests.support.waiting import wait_until

DAY = timedelta(days=1)
PUBLISHER = b"p" * 32


@pytest.mark.parametrize(
    ("left", "fraction", "seconds"),
    [(86400, 0.7, 60480), (86400, 0.9, 77760), (3600, 0.9, 0), (-5, 0.7, 0), (30000, 0.7, 4080), (90000, 0.7, 0)],
)
def test_when_a_certificate_is_due(left: float, fraction: float, seconds: float) -> None:
    assert due_in(left, DAY, fraction) == pytest.approx(seconds)


def test_members_are_renewed_at_different_times_in_their_last_third() -> None:
    assert (FIRST_RENEWAL, LAST_RENEWAL) == (0.7, 0.9)


@dataclass
class Member:
    identity: Identity
    peer: Peer
    left: asyncio.Event

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(credentials_of(self.identity).certificate)


@asynccontextmanager
async def members(folder: Path, *names: str) -> AsyncIterator[list[Member]]:
    """That answer of their membership, and the coordinator's connections to them."""
    fleet = TestFleet.open(folder)
    coordinator = credentials_of(fleet.member("coordinator", "coordinator"))
    async with AsyncExitStack() as stack:
        made = []
        for name in names:
            identity, left = fleet.member(name), asyncio.Event()
            service = MemberService(folder / name, credentials_of(identity), left.set)
            server, port = await transport.serve("127.0.0.1:0", identity.device_id, identity.credentials, service.register)
            stack.push_async_callback(server.stop, 0)
            peer = dial(f"127.0.0.1:{port}", identity.device_id, coordinator)
            stack.push_async_callback(peer.channel.close)
            made.append(Member(identity, peer, left))
        yield made


def upkeep(folder: Path, life: timedelta = DAY) -> Upkeep:
    authority = Authority.open(folder / "authority", life=life)
    own = TestFleet(folder, authority).member("coordinator", "coordinator")
    return Upkeep(authority, credentials_of(own), folder / "coordinator", publisher=PUBLISHER, now=time.time, spread=lambda: 0.8)


async def test_why_a_member_gets_no_other_certificate_is_told_for_as_long_as_it_is_so(tmp_path: Path) -> None:
    async with members(tmp_path, "dev-1") as [one], upkeep(tmp_path, timedelta(seconds=4)) as ours:
        device, sign = one.identity.device_id, ours._authority.sign
        look = FleetDiagnosis("0.1.0", "1", None, None, (), (DeviceDiagnosis(device, "dev-1"),))

        def refuse(*_given: object) -> bytes:
            raise Denied("not this one")

        object.__setattr__(ours._authority, "sign", refuse)
        ours.attached(device, one.peer)
        await wait_until(lambda: ours.explained(look).devices[0].renewal_problem == "not this one")
        object.__setattr__(ours._authority, "sign", sign)
        await wait_until(lambda: ours.explained(look) == look)


async def test_a_member_has_its_next_certificate_before_the_last_one_ends(tmp_path: Path) -> None:
    life = timedelta(seconds=4)
    async with members(tmp_path, "dev-1") as [one], upkeep(tmp_path, life) as ours:
        first = one.certificate
        ours.attached(one.identity.device_id, one.peer)
        await wait_until(lambda: one.certificate != first)  # a day is longer than this fleet's certificates live
        second = one.certificate
        assert second.not_valid_after_utc < first.not_valid_after_utc
        await wait_until(lambda: one.certificate != second, 6)
        assert one.certificate.not_valid_before_utc < second.not_valid_after_utc < one.certificate.not_valid_after_utc
        assert (tmp_path / "dev-1" / "certificate.pem").read_bytes() == credentials_of(one.identity).certificate


async def test_the_coordinator_renews_its_own(tmp_path: Path) -> None:
    TestFleet.open(tmp_path)
    ours = upkeep(tmp_path, timedelta(seconds=4))
    before = ours._credentials.certificate
    async with ours:
        await wait_until(lambda: ours._credentials.certificate != before, 6)


async def test_everybody_is_told_who_is_expelled_within_two_seconds_and_who_comes_later_too(tmp_path: Path) -> None:
    async with members(tmp_path, "dev-1", "dev-2", "dev-3", "late") as [one, two, lost, late], upkeep(tmp_path) as ours:
        for member in (one, two, lost):
            ours.attached(member.identity.device_id, member.peer)
        start = time.monotonic()
        await ours.revoke(lost.identity.device_id, "dev-3")
        assert time.monotonic() - start < 2
        for member in (one, two):
            assert lost.identity.device_id in credentials_of(member.identity).revoked
        assert lost.identity.device_id in ours._credentials.revoked
        assert [record.name for record in await ours.members()] == ["late", "dev-2", "dev-1", "coordinator"]
        ours.attached(late.identity.device_id, late.peer)
        await wait_until(lambda: lost.identity.device_id in credentials_of(late.identity).revoked)
    async with upkeep(tmp_path) as again:  # a coordinator that was started anew
        assert lost.identity.device_id in again._credentials.revoked


async def test_one_that_does_not_answer_does_not_keep_the_others_from_being_told(tmp_path: Path) -> None:
    async with members(tmp_path, "dev-1", "dev-2") as [one, lost], upkeep(tmp_path) as ours, AsyncExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # the kernel takes connections, nobody reads
        hung = dial(f"127.0.0.1:{silent.getsockname()[1]}", DeviceId("a" * 16), ours._credentials)
        ours.attached(DeviceId("a" * 16), hung)
        ours.attached(one.identity.device_id, one.peer)
        start = time.monotonic()
        await ours.revoke(lost.identity.device_id, "dev-2")
        assert time.monotonic() - start < TELL_SECONDS + 0.5
        assert lost.identity.device_id in credentials_of(one.identity).revoked
        await hung.close()


async def test_many_that_do_not_answer_do_not_either(tmp_path: Path) -> None:
    """A hall of boards has lost its power."""
    async with members(tmp_path, "dev-1", "dev-2") as [one, lost], upkeep(tmp_path) as ours, AsyncExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=256))
        for number in range(80):
            name = DeviceId(f"{'abcdefgh'[number % 8]}{'abcdefghij'[number // 8]}{'a' * 14}")
            hung = dial(f"127.0.0.1:{silent.getsockname()[1]}", name, ours._credentials)
            stack.push_async_callback(hung.channel.close)
            ours.attached(name, hung)
        ours.attached(one.identity.device_id, one.peer)
        start = time.monotonic()
        telling = asyncio.create_task(ours.revoke(lost.identity.device_id, "dev-2"))
        await wait_until(lambda: lost.identity.device_id in credentials_of(one.identity).revoked)
        assert time.monotonic() - start < TELL_SECONDS
        await telling


async def test_one_that_did_not_hear_it_is_told_again_while_its_connection_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was busy for a moment: as long as it is connected nobody else would tell it."""
    busy, answer = True, MemberService.Revoke

    async def revoke(self: MemberService, request: pb.RevokeRequest, context: Any) -> pb.RevokeReply:
        if busy and lost.identity.device_id in request.members:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "busy")
        return await answer(self, request, context)

    monkeypatch.setattr(MemberService, "Revoke", revoke)
    async with members(tmp_path, "dev-1", "dev-2") as [one, lost], upkeep(tmp_path) as ours:
        ours.attached(one.identity.device_id, one.peer)
        await ours.revoke(lost.identity.device_id, "dev-2")
        assert lost.identity.device_id not in credentials_of(one.identity).revoked
        busy = False
        await wait_until(lambda: lost.identity.device_id in credentials_of(one.identity).revoked, 5)


async def test_a_machine_that_slept_renews_what_became_due_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timers stand still then, and a certificate ends by the clock on the wall."""
    monkeypatch.setattr("fleet.enrolling.upkeep.WATCH_SECONDS", 0.05)
    async with members(tmp_path, "dev-1") as [one]:
        slept, asked = timedelta(), asyncio.Event()
        authority = Authority.open(tmp_path / "authority", lambda: datetime.now(UTC) + slept)
        own = credentials_of(TestFleet(tmp_path, authority).member("coordinator", "coordinator"))

        def now() -> float:
            asked.set()
            return time.time() + slept.total_seconds()

        async with Upkeep(authority, own, tmp_path / "coordinator", publisher=PUBLISHER, now=now, spread=lambda: 0.8) as ours:
            before, mine = one.certificate, own.certificate
            ours.attached(one.identity.device_id, one.peer)
            await asked.wait()
            assert (one.certificate, own.certificate) == (before, mine)
            slept = timedelta(hours=20)
            monkeypatch.setattr("device.agent.membership._check_dates", lambda certificate, now: None)  # its clock went on as well
            await wait_until(lambda: one.certificate != before and own.certificate != mine, 5)


async def test_one_that_is_told_to_leave_leaves(tmp_path: Path) -> None:
    async with members(tmp_path, "dev-1") as [one], upkeep(tmp_path) as ours:
        assert not await ours.leave(one.identity.device_id)  # nobody is connected to it
        ours.attached(one.identity.device_id, one.peer)
        assert await ours.leave(one.identity.device_id)
        assert one.left.is_set()


async def test_an_agent_of_the_release_before_knows_nothing_of_it_and_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fleet = TestFleet.open(tmp_path)
    old = fleet.member("dev-1")
    server, port = await transport.serve("127.0.0.1:0", old.device_id, old.credentials, lambda server: None)
    async with upkeep(tmp_path) as ours:
        peer = dial(f"127.0.0.1:{port}", old.device_id, ours._credentials)
        ours.attached(old.device_id, peer)
        await wait_until(lambda: "cannot be given another certificate" in caplog.text)
        await peer.close()
    await server.stop(None)


async def test_only_a_coordinator_renews_revokes_and_sends_away(tmp_path: Path) -> None:
    async with members(tmp_path, "dev-1") as [one]:
        thief = dial(one.peer.address, one.identity.device_id, credentials_of(TestFleet.open(tmp_path).member("dev-2")))
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: thief.member_stub.Request(pb.CertificateRequest(), metadata=thief.metadata, timeout=5),
            lambda: thief.member_stub.Renew(pb.RenewRequest(), metadata=thief.metadata, timeout=5),
            lambda: thief.member_stub.Revoke(pb.RevokeRequest(members=[one.identity.device_id]), metadata=thief.metadata, timeout=5),
            lambda: thief.member_stub.Leave(pb.LeaveRequest(), metadata=thief.metadata, timeout=5),
        ]
        for call in calls:
            with pytest.raises(Denied, match="is for a coordinator; the caller is a device"), remote("it"):
                await call()
        assert not one.left.is_set()
        await thief.close()
        with pytest.raises(NotFound), remote("it"):  # and a call for another member than the one that answers is refused
            await one.peer.member_stub.Leave(pb.LeaveRequest(), metadata=(("glmfleet-device", "b" * 16),), timeout=5)
