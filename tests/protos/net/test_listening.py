"""Why nothing can be listened on: one line, by the system's own number for it."""

from __future__ import annotations

import errno
import socket

import pytest

from protos.errors import InvalidInput
from protos.net.listening import bound


def test_a_free_port_and_one_in_use() -> None:
    with bound("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(InvalidInput, match=f"^port {port} is in use$"):
            bound("127.0.0.1", port)
        with pytest.raises(InvalidInput, match=f"^port {port} is in use$"):
            bound("0.0.0.0", port)
    with bound("127.0.0.1", port) as again:
        assert again.getsockname()[1] == port


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_an_address_may_be_in_brackets() -> None:
    with bound("[::1]", 0) as found:
        assert found.family == socket.AF_INET6


def test_an_address_of_another_machine() -> None:
    with pytest.raises(InvalidInput, match=r"^cannot listen on 192\.0\.2\.77: it is no address of this machine$"):
        bound("192.0.2.77", 0)
    with pytest.raises(InvalidInput, match=r"^cannot listen on no\.such\.invalid: "):
        bound("no.such.invalid", 0)


@pytest.mark.parametrize(("number", "why"), [(errno.EACCES, "^port 80 is not for this user$"), (errno.ENOBUFS, "port 80: No buffer space")])
def test_what_the_system_forbids(monkeypatch: pytest.MonkeyPatch, number: int, why: str) -> None:
    def refuse(_self: socket.socket, _address: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(InvalidInput, match=why):
        bound("127.0.0.1", 80)
