"""What an ear makes of packets as zeroconf sends them, and that it takes nothing away from those who speak mDNS here."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zeroconf import DNSOutgoing, DNSPointer, DNSQuestion, current_time_millis  # type: ignore[attr-defined]

from device.agent.announce import Announcement
from device.agent.hearing import MOST, Hearing
from protos.ids import SERVICE_TYPE, DeviceId, FleetId
from protos.net import watch
from protos.net.ear import PORT, Ear, Heard, probe_name, understood
from protos.net.multicast import MDNS_GROUP
from tests.support.multicast import needs_multicast
from tests.support.waiting import wait_until

NUMBER, DEVICE = "0123456789abcdef", DeviceId("abcdefgh22334455")


def packet(*questions: str, answers: tuple[str, ...] = ()) -> bytes:
    message = DNSOutgoing(0x8400 if answers else 0)
    for name in questions:
        message.add_question(DNSQuestion(name, 12, 1))
    for name in answers:
        message.add_answer_at_time(DNSPointer(SERVICE_TYPE, 12, 1, 4500, name, current_time_millis()), 0)
    return message.packets()[0]


@pytest.mark.parametrize("names", [(probe_name(NUMBER), SERVICE_TYPE), (SERVICE_TYPE, probe_name(NUMBER))])
def test_a_probe_is_known_wherever_it_stands(names: tuple[str, ...]) -> None:
    heard = understood(packet(*names), "eth0", "10.0.0.1")
    assert heard is not None
    assert heard.asks
    assert heard.probe == (NUMBER if names[0] != SERVICE_TYPE else "")  # ours stands first: later ones may be compressed


def test_questions_answers_and_what_is_not_for_us() -> None:
    assert understood(packet(SERVICE_TYPE.upper()), "eth0", "10.0.0.1") == Heard("eth0", "10.0.0.1", asks=True)
    answer = understood(packet(answers=(f"{DEVICE}.{SERVICE_TYPE}",)), "eth0", "10.0.0.1")
    assert answer == Heard("eth0", "10.0.0.1", asks=False, devices=(DEVICE,))
    assert understood(packet("_http._tcp.local."), "eth0", "10.0.0.1") is None


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_no_packet_is_too_strange(before: bytes, after: bytes) -> None:
    service = b"\x09_glmfleet\x04_tcp\x05local"
    understood(before + service + after, "eth0", "10.0.0.1")
    understood(before, "eth0", "10.0.0.1")


def test_of_forged_questions_the_latest_are_kept() -> None:
    hearing = Hearing(clock=lambda: 5.0)
    for number in range(1000):
        hearing.note(Heard("eth0", f"10.0.{number // 256}.{number % 256}", asks=True, probe=f"{number:016x}"))
    hearing.note(Heard("eth0", "10.0.0.1", asks=False, devices=(DEVICE,)))
    assert len(hearing.queries) == MOST
    assert hearing.queries[-1].probe == f"{999:016x}"
    assert hearing.message() is None
    hearing.listens = True
    message = hearing.message()
    assert message is not None
    assert len(message.queries) == MOST


@needs_multicast
async def test_a_device_hears_a_probe_and_is_heard_to_answer() -> None:
    hearing, answered = Hearing(), asyncio.Event()
    ear = Ear(lambda heard: answered.set() if DEVICE in heard.devices else None)
    async with Announcement(DEVICE, FleetId("f" * 16), 7420, ["lo"], hearing=hearing):
        assert hearing.listens
        ear.follow(watch.look(["lo"]).usable)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            asking.bind(("127.0.0.1", 0))
            asking.sendto(packet(probe_name(NUMBER), SERVICE_TYPE), (MDNS_GROUP, PORT))
        async with asyncio.timeout(10):
            await answered.wait()
        await wait_until(lambda: any(query.probe == NUMBER and query.interface == "lo" for query in hearing.queries))
    ear.close()
    assert not ear.listens
