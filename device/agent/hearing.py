"""What this device hears of those who look for devices: what tells a coordinator whether its multicast gets here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from protos.elapsed import elapsed
from protos.net.ear import Heard
from protos.v1 import device_pb2 as pb

MOST = 32  # a question costs nothing to forge: the latest are kept


@dataclass(frozen=True)
class Query:
    """The last question of this kind. `probe`: its number; "": an ordinary one."""

    interface: str
    sender: str
    probe: str
    seconds_ago: float


class Hearing:
    """`note` what an Ear hears. `listens` is for whoever holds the ear to set."""

    def __init__(self, clock: Callable[[], float] = elapsed) -> None:
        self._clock = clock
        self._queries: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self.listens = False

    def note(self, heard: Heard) -> None:
        if not heard.asks:
            return
        key = (heard.interface, heard.sender, heard.probe)
        self._queries[key] = self._clock()
        self._queries.move_to_end(key)
        while len(self._queries) > MOST:
            self._queries.popitem(last=False)

    @property
    def queries(self) -> list[Query]:
        """The latest last."""
        now = self._clock()
        return [Query(interface, sender, probe, now - at) for (interface, sender, probe), at in self._queries.items()]

    def message(self) -> pb.Hearing | None:
        """None where nothing can be heard."""
        return pb.Hearing(queries=[pb.HeardQuery(**vars(query)) for query in self.queries]) if self.listens else None
