"""A program for tests: hears mDNS on an interface, and says each packet of glmfleet's as a line of JSON: who asks, who announces what."""

from __future__ import annotations

import ipaddress
import json
import socket
import struct
import sys
import time

from zeroconf import DNSAddress, DNSIncoming, DNSPointer  # type: ignore[attr-defined]

from protos.ids import SERVICE_TYPE
from protos.net.multicast import MDNS_GROUP, MDNS_GROUP_6

_PORT, _BYTES = 5353, 9000  # RFC 6762


def main(interface: str, family: str) -> None:
    with _joined(interface, family) as listening:
        say(listens=interface)
        while True:
            packet, sender = listening.recvfrom(_BYTES)
            message = DNSIncoming(packet)
            if not message.valid:
                continue
            where = {"from": sender[0].partition("%")[0], "at": time.monotonic()}
            asked = [question for question in message.questions if question.name == SERVICE_TYPE]
            if message.is_query() and asked:
                # Who begins to browse wants answers of his own (RFC 6762 section 5.4); who goes on does not.
                say(asks="anew" if any(question.unicast for question in asked) else "again", **where)
            elif message.is_response():
                records = message.answers()
                named = [one.alias for one in records if isinstance(one, DNSPointer) and one.name == SERVICE_TYPE and one.ttl]
                addresses = [str(ipaddress.ip_address(one.address)) for one in records if isinstance(one, DNSAddress)]
                if named:
                    say(announces=named[0], addresses=addresses, **where)


def _joined(interface: str, family: str) -> socket.socket:
    index = socket.if_nametoindex(interface)
    listening = socket.socket(socket.AF_INET6 if family == "6" else socket.AF_INET, socket.SOCK_DGRAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == "6":
        group = socket.inet_pton(socket.AF_INET6, MDNS_GROUP_6) + struct.pack("@I", index)
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
    else:
        group = struct.pack("4s4si", socket.inet_aton(MDNS_GROUP), bytes(4), index)
        listening.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    listening.bind(("", _PORT))
    return listening


def say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
