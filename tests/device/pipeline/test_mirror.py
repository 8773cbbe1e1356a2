"""A standby has the rows of the cache for which it stands by, and goes on behind them; nobody else may send it any."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from device.agent.host import StageHost
from device.agent.identity import load_identity
from device.agent.program import Agent
from device.cpu import CpuHardware
from device.pipeline import mirror as mirror_module
from device.pipeline.mirrored import take_rows
from device.pipeline.stage import Stage
from protos.dtypes import KvDtype
from protos.errors import Denied, InvalidInput, NotFound
from protos.ids import parse_digest
from protos.manifest import Manifest
from protos.net.transport import Peer, dial
from protos.rpc_errors import remote
from protos.v1 import device_pb2, pipeline_pb2
from protos.versions import SPOKEN
from quantize.artifact.store import ArtifactStore
from tests.support.checkpoints import TinyGlm
from tests.support.ring import Client, agents, load_requests, put_blob, tiny_model
from tests.support.waiting import wait_until

PROMPT = list(range(5, 24))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, ArtifactStore]:
    return tiny_model(tmp_path_factory.mktemp("model"), TinyGlm(layers=4))


@pytest.fixture(autouse=True)
def hosts(monkeypatch: pytest.MonkeyPatch) -> dict[str, StageHost]:
    """Of the agents in this process, by their devices. Mirrors look often."""
    found, enter = dict[str, StageHost](), StageHost.__aenter__

    async def entered(host: StageHost) -> StageHost:
        found[host._device] = host
        return await enter(host)

    monkeypatch.setattr(StageHost, "__aenter__", entered)
    monkeypatch.setattr(mirror_module, "LOOK_SECONDS", 0.01)
    return found


@dataclass
class Mirrored:
    """Stage 0 on the first agent, stage 1 on the second, and the third stands by for both."""

    agents: list[Agent]
    peers: list[Peer]
    requests: list[device_pb2.LoadStageRequest]
    hosts: dict[str, StageHost]

    @property
    def stages(self) -> list[Stage]:
        return [self.host(number).loaded[0].stage for number in (0, 1)]

    def host(self, number: int) -> StageHost:
        return self.hosts[self.peers[number].device]

    def standby(self, stage: int) -> Stage:
        host = self.host(2)
        opening = pipeline_pb2.MirrorOpen(pipeline_id="test-1", stage=stage, manifest_digest=self.requests[0].manifest_digest)
        return host.standby_for(opening)

    def attach(self, epoch: int = 1) -> pipeline_pb2.Attach:
        digest = self.requests[0].manifest_digest
        return pipeline_pb2.Attach(protocol_version=SPOKEN.newest, pipeline_id="test-1", manifest_digest=digest, epoch=epoch)

    @asynccontextmanager
    async def client(self, head: int = 0, epoch: int = 1) -> AsyncIterator[Client]:
        client = Client(self.peers[head], self.attach(epoch))
        try:
            await client.attach()
            yield client
        finally:
            await client.close()

    async def load(self, on: int, request: device_pb2.LoadStageRequest) -> None:
        with remote(self.peers[on].device):
            await self.peers[on].device_stub.LoadStage(request, metadata=self.peers[on].metadata)

    async def take_over(self, stage: int) -> None:
        """By the third, at epoch 2."""
        hops = [self.hop(2 if number == stage else number) for number in (0, 1)]
        for number, request in enumerate(self.requests):
            moved = device_pb2.LoadStageRequest()
            moved.CopyFrom(request)
            moved.epoch, moved.generation.number = 2, 2
            moved.next.CopyFrom(hops[1 - number])
            moved.previous.CopyFrom(hops[1 - number])
            await self.load(2 if number == stage else number, moved)

    def hop(self, number: int) -> device_pb2.Hop:
        return device_pb2.Hop(device_id=self.peers[number].device, address=self.peers[number].address)


@asynccontextmanager
async def mirrored(
    folder: Path, model: tuple[Manifest, ArtifactStore], hosts: dict[str, StageHost], kv_dtype: KvDtype = "float32"
) -> AsyncIterator[Mirrored]:
    manifest, store = model
    async with agents(folder, [CpuHardware(1 << 30, 1) for _ in range(3)]) as (made, peers, _):
        fleet = Mirrored(made, peers, [], hosts)
        fleet.requests = load_requests(manifest, [fleet.hop(0), fleet.hop(1)], golden_from=store.blob_folder, kv_dtype=kv_dtype)
        for peer in peers:
            for digest in {digest for request in fleet.requests for digest in request.blobs}:
                await put_blob(peer, digest, store.blob_path(parse_digest(digest)).read_bytes())
        for number, request in enumerate(fleet.requests):
            standby = device_pb2.LoadStageRequest()
            standby.CopyFrom(request)
            standby.standby = True
            standby.mirror_from.CopyFrom(device_pb2.Hop(device_id=peers[number].device))
            await fleet.load(2, standby)
            request.mirror_to.CopyFrom(fleet.hop(2))
            await fleet.load(number, request)
        yield fleet


def rows_of(stage: Stage) -> dict[bytes, bytes]:
    """What lies in its cache, by key."""
    groups = stage.engine.groups
    return {key: groups[group].rows(slot, 0, groups[group].lengths[slot]) for key, (group, slot) in stage.places()}


async def same(fleet: Mirrored) -> None:
    await wait_until(lambda: all(rows_of(stage) == rows_of(fleet.standby(number)) for number, stage in enumerate(fleet.stages)))


@pytest.mark.parametrize(("stage", "kv_dtype"), [(0, "float32"), (1, "int8")])
async def test_a_standby_goes_on_where_the_lost_stage_was(
    tmp_path: Path, model: tuple[Manifest, ArtifactStore], hosts: dict[str, StageHost], stage: int, kv_dtype: KvDtype
) -> None:
    async with mirrored(tmp_path, model, hosts, kv_dtype) as fleet:
        async with fleet.client() as client:
            whole = {key: (await client.ask(PROMPT[: 10 + key[0]], 60)).token_ids for key in (b"\1", b"\2", b"\3")}
            numbers = {key: await client.start(PROMPT[: 10 + key[0]], 60, key=key) for key in whole}
            await wait_until(lambda: all(len(client.answer(number).token_ids) > 20 for number in numbers.values()))
            for number in numbers.values():
                await client.pause(number, True)
            await same(fleet)
            assert set(rows_of(fleet.standby(stage))) == set(whole)
            await fleet.agents[stage].__aexit__(None, None, None)
            came = {key: client.answer(number).token_ids for key, number in numbers.items()}
        assert all(20 < len(tokens) < 60 for tokens in came.values())
        await fleet.take_over(stage)
        computed = fleet.host(2).work.total.decode_tokens
        async with fleet.client(2 if stage == 0 else 0, epoch=2) as client:
            asked = [client.ask(PROMPT[: 10 + key[0]], 60, key=key, forced=tokens) for key, tokens in came.items()]
            rest = dict(zip(came, await asyncio.gather(*asked), strict=True))
            for key, answer in rest.items():
                assert (answer.error, came[key] + answer.token_ids) == (None, whole[key])
        # Of each answer what follows its last token but one: nothing that was known is computed again.
        lacking = sum(60 - len(tokens) for tokens in came.values())
        assert fleet.host(2).work.total.decode_tokens - computed == lacking
        assert fleet.host(2).work.total.prefill_tokens == 0


async def test_what_has_ended_is_forgotten_and_a_slot_is_mirrored_anew(
    tmp_path: Path, model: tuple[Manifest, ArtifactStore], hosts: dict[str, StageHost]
) -> None:
    async with mirrored(tmp_path, model, hosts) as fleet, fleet.client() as client:
        for key in (b"one", b"two"):
            number = await client.start(PROMPT, 30, key=key)
            await wait_until(lambda number=number: len(client.answer(number).token_ids) > 3)  # type: ignore[misc]
            await client.pause(number, True)
            await same(fleet)
            assert set(rows_of(fleet.standby(1))) == {key}
            await client.pause(number, False)
            await client.end(number)
            await wait_until(lambda: not rows_of(fleet.standby(0)) and not rows_of(fleet.standby(1)))
        await client.ask(PROMPT, 5)  # nobody will ask for it again
        assert not rows_of(fleet.standby(0))


async def test_a_standby_that_was_restarted_gets_all_again(
    tmp_path: Path, model: tuple[Manifest, ArtifactStore], hosts: dict[str, StageHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "PART_BYTES", 4096)  # several messages
    monkeypatch.setattr(mirror_module, "FIRST_WAIT_SECONDS", 0.05)
    async with mirrored(tmp_path, model, hosts) as fleet, fleet.client() as client:
        number = await client.start(PROMPT, 40, key=b"one")
        await wait_until(lambda: len(client.answer(number).token_ids) > 3)
        await client.pause(number, True)
        await same(fleet)
        before = fleet.agents[2]
        await before.__aexit__(None, None, None)
        config = dataclasses.replace(before.config, port=int(fleet.peers[2].address.rpartition(":")[2]))
        fleet.agents[2] = Agent(config, CpuHardware(1 << 30, 1))
        await fleet.agents[2].__aenter__()
        for stage, request in enumerate(fleet.requests):
            standby = device_pb2.LoadStageRequest()
            standby.CopyFrom(request)
            standby.standby = True
            standby.mirror_from.CopyFrom(device_pb2.Hop(device_id=fleet.peers[stage].device))
            with remote("standby"):
                await fleet.peers[2].device_stub.LoadStage(standby, metadata=fleet.peers[2].metadata, wait_for_ready=True)
        await same(fleet)


async def test_nobody_else_sends_rows(tmp_path: Path, model: tuple[Manifest, ArtifactStore], hosts: dict[str, StageHost]) -> None:
    async with mirrored(tmp_path, model, hosts) as fleet:
        neighbour = load_identity(fleet.agents[1].config.state).credentials
        for stage, error in ((0, Denied), (7, NotFound)):
            opening = pipeline_pb2.MirrorOpen(
                protocol_version=SPOKEN.newest,
                pipeline_id="test-1",
                manifest_digest=fleet.requests[0].manifest_digest,
                stage=stage,
                from_device=fleet.peers[0].device,
            )
            peer = dial(fleet.peers[2].address, fleet.peers[2].device, neighbour)
            call = peer.pipeline_stub.Mirror(metadata=peer.metadata)
            await call.write(pipeline_pb2.MirrorMessage(open=opening))
            with pytest.raises(error), remote("standby"):
                await call.read()
            await peer.close()


async def test_rows_that_do_not_follow_or_fit_are_refused(
    tmp_path: Path, model: tuple[Manifest, ArtifactStore], hosts: dict[str, StageHost]
) -> None:
    async with mirrored(tmp_path, model, hosts) as fleet:
        stage = fleet.standby(1)
        row = len(stage.engine.groups[0].rows(0, 0, 1))
        good = pipeline_pb2.MirroredRows(key=b"k", start=0, count=2, data=bytes(2 * row))
        take_rows(stage, good)
        wrong = {
            "a gap": pipeline_pb2.MirroredRows(key=b"k", start=3, count=1, data=bytes(row)),
            "too few bytes": pipeline_pb2.MirroredRows(key=b"k", start=2, count=1, data=bytes(row - 1)),
            "beyond the context": pipeline_pb2.MirroredRows(key=b"k", start=2, count=127, data=bytes(127 * row)),
            "no key": pipeline_pb2.MirroredRows(start=0, count=1, data=bytes(row)),
            "a key too long": pipeline_pb2.MirroredRows(key=bytes(33), start=0, count=1, data=bytes(row)),
        }
        for what, rows in wrong.items():
            with pytest.raises(InvalidInput):
                take_rows(stage, rows)
            assert [stage.engine.groups[group].lengths[slot] for _, (group, slot) in stage.kept] == [2], what
        for number in range(7):  # two groups of four slots
            take_rows(stage, pipeline_pb2.MirroredRows(key=bytes([number]), start=0, count=2, data=bytes(2 * row)))
        with pytest.raises(InvalidInput, match="more sequences are mirrored"):
            take_rows(stage, pipeline_pb2.MirroredRows(key=b"one more", start=0, count=2, data=bytes(2 * row)))
