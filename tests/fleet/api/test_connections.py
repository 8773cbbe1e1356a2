"""What a hostile client does to the HTTP server, over raw sockets: slow, many, silent, smuggling."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from fleet.api.app import create_app
from fleet.api.connections import Door, Limits
from fleet.api.guard import HEAD_BYTES
from fleet.cli import serve
from fleet.trust.authority import MEMBER_LIFE, Authority, utc_now
from fleet.trust.server_certificate import Names, ServerCertificate
from protos.ids import api_host_name
from tests.support.fake_coordinator import DEVICE, FakeCoordinator
from tests.support.http_server import serving
from tests.support.waiting import wait_until

SECRET = "the prompt that nobody may read"  # pragma: allowlist secret
# Impatient, but where a busy machine is to be waited for.
QUICK = Limits(handshake_seconds=0.3, head_seconds=0.3, body_seconds=0.5, body_bytes_a_second=10_000, rest_seconds=0.2)
FEW = Limits(of_all=6, of_one=3)
GET = b"GET /api/v1/devices HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /api/v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@dataclass
class Wire:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ended(self, seconds: float = 5.0) -> bytes:
        """All that comes until the server hangs up."""
        try:
            return await asyncio.wait_for(self.reader.read(), seconds)
        except ConnectionResetError:
            return b""


@asynccontextmanager
async def wire(url: str, tls: ssl.SSLContext | None = None, name: str | None = None) -> AsyncIterator[Wire]:
    host, port = url.rpartition("/")[2].split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=tls, server_hostname=name)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator()


@pytest.fixture
def door() -> Door:
    return Door(QUICK)


@pytest.fixture
async def url(coordinator: FakeCoordinator, door: Door) -> AsyncIterator[str]:
    async with serving(create_app(coordinator, authenticate=None), door) as url:
        yield url


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 44\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 44\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length : 5\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
    ],
)
async def test_nothing_is_smuggled_in_a_body(coordinator: FakeCoordinator, url: str, head: bytes) -> None:
    async with wire(url) as client:
        smuggled = b"DELETE /api/v1/deployments/tiny HTTP/1.1\r\nHost: localhost\r\n\r\n"
        client.writer.write(POST + head + b"\r\n0\r\n\r\n" + smuggled)
        answer = await client.ended()
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501"))
    assert answer.count(b"HTTP/1.1") == 1
    assert coordinator.asked == []


async def test_http_1_0_has_no_chunks(coordinator: FakeCoordinator, url: str) -> None:
    async with wire(url) as client:
        client.writer.write(POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert (await client.ended()).startswith(b"HTTP/1.1 400")
    assert coordinator.asked == []


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_head_is_bounded(url: str, at_once: bool) -> None:
    async with wire(url) as client:
        head = GET + b"X-Long: " + b"a" * HEAD_BYTES + b"\r\n\r\n"
        for part in [head] if at_once else [head[:20_000], head[20_000:-4]]:
            client.writer.write(part)
            await client.writer.drain()
            await asyncio.sleep(0.02)
        answer = await asyncio.wait_for(client.reader.readuntil(b"\r\n"), 5)
    assert answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))


@pytest.mark.parametrize("sent", [b"", b"GET / HT", GET, GET + b"X-A: b\r\n"])
async def test_who_does_not_finish_a_head_is_hung_up_on(url: str, door: Door, sent: bytes) -> None:
    async with wire(url) as client:
        client.writer.write(sent)
        assert await client.ended() == b""
    await wait_until(lambda: door.places.taken == 0)


async def test_drops_of_a_head_do_not_extend_its_time(url: str) -> None:
    async with wire(url) as client:
        started = asyncio.get_running_loop().time()
        ended = asyncio.ensure_future(client.ended())
        while not ended.done():
            client.writer.write(b"G")
            await asyncio.sleep(0.05)
        assert asyncio.get_running_loop().time() - started < 4.0


async def test_who_does_not_finish_a_body_is_hung_up_on(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with wire(url) as client:
        client.writer.write(POST + b"Content-Length: 4000\r\n\r\n" + b'{"prompt": "')
        ended = asyncio.ensure_future(client.ended())
        while not ended.done():
            client.writer.write(b"a")
            await asyncio.sleep(0.05)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_slow_but_steady_body_is_read(coordinator: FakeCoordinator, url: str) -> None:
    """For a while that is longer than a silent one may take: each part gives 1.5 s more."""
    body = b'{"stream": false, "prompt": "' + b"a" * 120_000 + b'"}'
    async with wire(url) as client:
        client.writer.write(POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
        for place in range(0, len(body), 15_000):
            client.writer.write(body[place : place + 15_000])
            await asyncio.sleep(0.1)
        assert (await client.ended()).startswith(b"HTTP/1.1 200")
    assert len(coordinator.asked) == 1


async def test_the_rest_of_a_body_that_was_refused_is_not_read_for_ever(url: str) -> None:
    async with wire(url) as client:
        client.writer.write(POST.replace(b"localhost", b"evil.example") + b"Content-Length: 100000000\r\n\r\n")
        assert (await client.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400")

        async def send_for_ever() -> None:
            while True:
                client.writer.write(b"a" * 1000)
                await client.writer.drain()
                await asyncio.sleep(0.02)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(send_for_ever(), 5)


async def test_who_takes_nothing_of_an_answer_is_hung_up_on(coordinator: FakeCoordinator) -> None:
    coordinator.found = [replace(DEVICE, name=f"dev-{number}") for number in range(20_000)]  # more than buffers on the way hold
    door = Door(Limits(stall_seconds=0.3))
    async with serving(create_app(coordinator, authenticate=None), door) as url, wire(url) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.write(GET + b"\r\n")
        await wait_until(lambda: door.places.taken == 1)
        await wait_until(lambda: door.places.taken == 0, 30)


async def test_connections_are_counted_and_given_back(coordinator: FakeCoordinator) -> None:
    door = Door(FEW)
    async with serving(create_app(coordinator, authenticate=None), door) as url:
        wires = [wire(url) for _ in range(8)]
        opened = [await one.__aenter__() for one in wires]
        assert [await one.ended() for one in opened[:2]] == [b"", b""]  # nobody has asked: the oldest make way
        await wait_until(lambda: door.places.taken == 6)
        for one in wires:
            await one.__aexit__(None, None, None)
        await wait_until(lambda: door.places.taken == 0)
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            assert (await http.get("/healthz")).status_code == 200


@pytest.mark.parametrize("secure", [False, True])
async def test_who_holds_connections_and_says_nothing_keeps_nobody_out(
    coordinator: FakeCoordinator, certificate: ServerCertificate, tmp_path: Path, secure: bool
) -> None:
    door = Door(FEW, certificate.context if secure else None)
    async with serving(create_app(coordinator, authenticate=None), door) as url, AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(wire(url.replace("https", "http"))) for _ in range(FEW.of_all)]
        await wait_until(lambda: door.places.taken == FEW.of_all)
        async with httpx.AsyncClient(base_url=url, trust_env=False, verify=trusting(tmp_path)) as http:
            assert (await http.get("/healthz")).status_code == 200
            assert await silent[0].ended() == b""  # the oldest has made way
            assert (await http.get("/healthz")).status_code == 200
        assert door.places.taken <= FEW.of_all


async def test_who_has_asked_keeps_its_place(coordinator: FakeCoordinator) -> None:
    door = Door(FEW)
    async with serving(create_app(coordinator, authenticate=None), door) as url, AsyncExitStack() as stack:
        asking = await stack.enter_async_context(wire(url))
        asking.writer.write(POST + b"Content-Length: 1000\r\n\r\n")  # its body is still to come
        await wait_until(lambda: door.places.taken == 1)
        for _ in range(3 * FEW.of_all):
            await stack.enter_async_context(wire(url))
        await asyncio.sleep(0.1)
        assert not asking.reader.at_eof()


@pytest.fixture
def certificate(tmp_path: Path) -> ServerCertificate:
    return ServerCertificate(Authority.open(tmp_path / "authority"), tmp_path, Names(("localhost",), ("127.0.0.1",)))


def trusting(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "authority" / "certificate.pem"))
    context.load_default_certs = lambda *_: None  # type: ignore[method-assign]
    return context


async def test_who_does_not_shake_hands_is_hung_up_on(coordinator: FakeCoordinator, certificate: ServerCertificate) -> None:
    door = Door(QUICK, certificate.context)
    async with serving(create_app(coordinator, authenticate=None), door) as url, wire(url) as silent, wire(url) as babbling:
        babbling.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await silent.ended() == b""
        await babbling.ended()
        await wait_until(lambda: door.places.taken == 0)


async def test_https(coordinator: FakeCoordinator, certificate: ServerCertificate, tmp_path: Path) -> None:
    door = Door(tls=certificate.context)
    async with serving(create_app(coordinator, authenticate=None), door) as url:
        async with httpx.AsyncClient(verify=trusting(tmp_path), trust_env=False) as http:
            for _ in range(3):
                assert (await http.get(f"{url}/api/v1/devices")).json()[0]["name"] == "dev-1"
        # The request comes in one piece with the last message of the handshake.
        async with wire(url, trusting(tmp_path), "localhost") as client:
            client.writer.write(GET + b"Connection: close\r\n\r\n")
            assert (await client.ended()).startswith(b"HTTP/1.1 200")
        await wait_until(lambda: door.places.taken == 0)


async def test_a_certificate_is_renewed_while_connections_last(
    coordinator: FakeCoordinator, certificate: ServerCertificate, tmp_path: Path
) -> None:
    async with (
        serving(create_app(coordinator, authenticate=None), Door(tls=certificate.context)) as url,
        httpx.AsyncClient(verify=trusting(tmp_path), trust_env=False) as http,
        wire(url, trusting(tmp_path), "localhost") as before,
    ):
        serial = before.writer.get_extra_info("peercert")["serialNumber"]
        names = Names(("localhost",), ("127.0.0.1",))
        assert not certificate.refresh(names, utc_now())
        assert certificate.refresh(names, utc_now() + MEMBER_LIFE * 0.7)
        async with wire(url, trusting(tmp_path), "localhost") as after:
            assert after.writer.get_extra_info("peercert")["serialNumber"] != serial
        with pytest.raises(httpx.ConnectError):
            await http.get(url.replace("127.0.0.1", "127.0.0.2"))
        assert certificate.refresh(Names(("localhost",), ("127.0.0.1", "127.0.0.2", "10.0.0.7")), utc_now())  # an address more
        async with wire(url, trusting(tmp_path), "10.0.0.7"):
            pass
        before.writer.write(GET + b"Connection: close\r\n\r\n")
        assert (await before.ended()).startswith(b"HTTP/1.1 200")


async def test_serve_renews_it_in_time(certificate: ServerCertificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (tmp_path / "api.pem").read_bytes()
    monkeypatch.setattr(serve, "RENEW_SECONDS", 0.01)
    monkeypatch.setattr(serve, "names_of_this_machine", lambda names: Names(("localhost",), ("127.0.0.1",)))
    task = asyncio.create_task(serve._renew(certificate, ()))
    await asyncio.sleep(0.1)
    assert (tmp_path / "api.pem").read_bytes() == before
    monkeypatch.setattr(serve, "utc_now", lambda: utc_now() + MEMBER_LIFE * 0.7)
    await wait_until(lambda: (tmp_path / "api.pem").read_bytes() != before)
    # What cannot be written is tried again.
    monkeypatch.setattr(certificate, "_file", tmp_path / "gone" / "api.pem")
    await asyncio.sleep(0.1)
    assert not task.done()
    task.cancel()


def test_it_lives_as_long_as_a_member_s_and_makes_nobody_one(tmp_path: Path) -> None:
    from cryptography import x509

    authority = Authority.open(tmp_path / "authority", life=timedelta(hours=12))
    ServerCertificate(authority, tmp_path, Names(("localhost", "desk"), ("127.0.0.1", "fd00::7")))
    pem = (tmp_path / "api.pem").read_bytes()
    certificate = x509.load_pem_x509_certificates(pem)[0]
    assert timedelta(hours=11) < certificate.not_valid_after_utc - utc_now() <= timedelta(hours=12)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [api_host_name(authority.fleet_id), "localhost", "desk"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "fd00::7"]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == []  # where a member's role stands
    assert (tmp_path / "api.pem").stat().st_mode & 0o777 == 0o600


async def test_no_prompt_is_in_any_log(coordinator: FakeCoordinator, url: str, caplog: pytest.LogCaptureFixture) -> None:
    """At the finest level, and also of requests that fail, in whichever way."""
    with caplog.at_level(1):
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            good = {"model": "tiny", "prompt": SECRET}
            assert (await http.post("/api/v1/generate", json=good)).is_success
            assert (await http.post("/v1/completions", json=good)).is_success
            chat = {"model": "tiny", "messages": [{"role": "user", "content": SECRET}]}
            assert (await http.post("/v1/chat/completions", json=chat)).is_success
            assert (await http.post("/api/v1/generate", json={**good, "temperature": "hot"})).status_code == 400
            assert (await http.post("/api/v1/generate", content=f'{{"prompt": "{SECRET}')).status_code == 400
            coordinator.error = ValueError("a defect")
            assert (await http.post("/v1/completions", json=good)).status_code == 500
    assert len(caplog.records) > 10
    assert not [record.getMessage() for record in caplog.records if SECRET in record.getMessage() or SECRET in str(record.exc_text)]
