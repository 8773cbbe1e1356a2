"""A connection to another device of the ring, at whichever of its addresses it proves to be itself."""

from __future__ import annotations

from dataclasses import dataclass

import grpc.aio

from device.stage_spec import NextHop
from protos.errors import FleetError
from protos.net.addresses import dialable
from protos.net.race import Unreached, race
from protos.net.transport import Credentials, Peer, connected, dial
from protos.route import Hop
from protos.rpc_errors import from_rpc


@dataclass(frozen=True)
class Reached:
    peer: Peer

    async def close(self) -> None:
        await self.peer.close()


async def reach(hop: NextHop, where: Hop, credentials: Credentials | None) -> tuple[str, Reached]:
    """(address, connection) of the first that answers as the device of `hop`, which is `where`: only one may see a stream open. Raises what
    keeps it from being reached."""

    async def at(address: str) -> Reached:
        reached = Reached(dial(address, hop.device, credentials, hop.gateway))
        try:
            await connected(reached.peer)
        except grpc.aio.AioRpcError as error:
            await reached.close()
            raise from_rpc(error) from None
        except BaseException:
            await reached.close()
            raise
        return reached

    try:
        return await race(dialable(hop.addresses), at)
    except Unreached as error:
        raise error.as_one(_with_address if len(error.errors) > 1 else lambda one, _: one).at(where) from None


def _with_address(error: FleetError, address: str) -> FleetError:
    return type(error)(f"{address}: {error.cause}", link_failure=error.link_failure)
