"""Rings of devices that execute programs: the same text for any cut, beside devices that run graphs, and close to theirs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from device.cpu import CpuHardware
from device.engine.opening import ONNX, open_stage
from device.hardware import Hardware
from device.stage_spec import parse_spec
from protos.chip.wire import core_message
from protos.dtypes import KvDtype
from protos.errors import Corrupt, FleetError, InvalidInput
from protos.ids import digest_of
from protos.manifest import Manifest
from protos.rpc_errors import remote
from protos.v1 import device_pb2 as pb
from quantize.artifact.store import ArtifactStore
from quantize.compiler.compile import compile_stage
from quantize.compiler.ir import Shape
from sim_devices.chip.engine import isa_runtime, open_programs
from sim_devices.hardware import SimulatedHardware
from sim_devices.profiles import load_profile
from tests.support.checkpoints import TinyGlm
from tests.support.chips import CODESIGNED, GENERIC
from tests.support.ring import add_programs, agents, load_requests, put_blob, ring, tiny_model

PROFILE = load_profile("rk3588").run_as("compiled", "glm-isa")
PROMPTS = ([3, 1, 4, 1], [2, 7])
ISA = isa_runtime(CODESIGNED)
CHIP = pb.DeviceDescription(dialects=["glm-isa"], accelerator=pb.Accelerator(core=core_message(CODESIGNED)))
COUNT = 5


def a_chip() -> SimulatedHardware:
    return SimulatedHardware(PROFILE, "fast", core=CODESIGNED)


async def texts(folder: Path, model: tuple[Manifest, ArtifactStore], executing: str, kv_dtype: KvDtype = "float32") -> list[list[int]]:
    """Of a ring with a stage for each letter: "p" executes programs, "g" runs graphs."""
    hardware: list[Hardware] = [a_chip() if one == "p" else CpuHardware(1 << 30, 1) for one in executing]
    runtimes = [ISA if one == "p" else ONNX for one in executing]
    stages = len(executing)
    async with (
        ring(folder, *model, stages, hardware=hardware, runtimes=runtimes, context=64, kv_dtype=kv_dtype) as made,
        made.client() as client,
    ):
        answers = await asyncio.gather(*(client.ask(prompt, COUNT) for prompt in PROMPTS))
    assert [answer.error for answer in answers] == [None] * len(PROMPTS)
    return [answer.token_ids for answer in answers]


@pytest.mark.parametrize(("kv_dtype", "rings"), [("float32", ("p", "ppp")), pytest.param("int8", ("p", "pp"), marks=pytest.mark.long)])
async def test_the_text_is_the_same_for_any_cut(tmp_path: Path, kv_dtype: KvDtype, rings: tuple[str, ...]) -> None:
    model = tiny_model(tmp_path, TinyGlm(layers=3))
    first, *others = [await texts(tmp_path / kind, model, kind, kv_dtype) for kind in rings]
    assert others == [first] * len(others)
    assert all(len(text) == COUNT for text in first)


async def test_it_is_that_of_onnxruntime_in_a_mixed_fleet_too(tmp_path: Path) -> None:
    """Sums of floats come in another order, so that equal logits are not asked for; these prompts' best tokens are far enough apart."""
    model = tiny_model(tmp_path, TinyGlm(layers=3))
    expected = await texts(tmp_path / "graphs", model, "g")
    assert await texts(tmp_path / "mixed", model, "pgp") == expected


async def test_a_prompt_is_rated_as_by_onnxruntime_and_embedded_by_a_head_of_graphs_alone(tmp_path: Path) -> None:
    model = tiny_model(tmp_path, TinyGlm(layers=3))
    found = []
    for head in ("g", "p"):
        hardware: list[Hardware] = [a_chip() if one == "p" else CpuHardware(1 << 30, 1) for one in (head, "p")]
        runtimes = [ISA if one == "p" else ONNX for one in (head, "p")]
        async with ring(tmp_path / head, *model, 2, hardware=hardware, runtimes=runtimes, context=64) as made, made.client() as client:
            rated = await client.ask([3, 1, 4, 1], 0, prompt_logprobs=1)
            found.append([one.chosen for one in rated.prompt_logprobs])
            embedded = await client.ask([3, 1, 4, 1], 0, embedding=True)
            assert (embedded.error is None, bool(embedded.embedding)) == (head == "g", head == "g")
            assert len((await client.ask(PROMPTS[0], COUNT)).token_ids) == COUNT, "a refusal harms nobody"
    assert len(found[0]) == 3
    assert found[1] == pytest.approx(found[0], abs=0.05)


@dataclass
class Sent:
    """What a coordinator would send for the only stage, and the files that it would be of."""

    manifest: Manifest
    request: pb.LoadStageRequest
    folder: Path

    def put(self, data: bytes) -> str:
        digest = digest_of(data)
        (self.folder / digest).write_bytes(data)
        return digest

    def load(self) -> None:
        open_programs(CODESIGNED, parse_spec(self.request), self.folder, 1, None)


@pytest.fixture
def sent(tmp_path: Path) -> Sent:
    manifest, store = tiny_model(tmp_path, TinyGlm(layers=2))
    (request,) = load_requests(manifest, [pb.Hop(device_id="2" * 16)], context=64, golden_from=store.blob_folder)
    add_programs(request, manifest, store, CHIP)
    return Sent(manifest, request, store.blob_folder)


def spoil(sent: Sent, change: str) -> None:
    request, manifest = sent.request, sent.manifest

    def instead(data: bytes) -> None:
        """Of the layers' program."""
        old, new = request.programs.layers[0], sent.put(data)
        request.blobs[list(request.blobs).index(old)] = new
        request.programs.layers[0] = new

    body = tuple(part for part in request.parts if part != "head")
    data = (sent.folder / request.programs.layers[0]).read_bytes()
    match change:
        case "artifact":
            other = replace(manifest, provenance=replace(manifest.provenance, source="elsewhere"))
            instead(compile_stage(other, body, CODESIGNED, Shape(1, 1, 64)).program.to_bytes())
        case "core":
            instead(compile_stage(manifest, body, GENERIC, Shape(1, 1, 64)).program.to_bytes())
        case "cache":
            instead(compile_stage(manifest, body, CODESIGNED, Shape(1, 1, 64, "int8")).program.to_bytes())
        case "rows":
            instead(compile_stage(manifest, body, CODESIGNED, Shape(1, 2, 64)).program.to_bytes())
        case "stage":
            instead(compile_stage(manifest, ("layers.1", "positions"), CODESIGNED, Shape(1, 1, 64)).program.to_bytes())
        case "context":
            instead(compile_stage(manifest, body, CODESIGNED, Shape(1, 1, 32)).program.to_bytes())
        case "version":
            instead(data[:8] + bytes([9]) + data[9:])
        case "bit":
            instead(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
        case "cut":
            instead(data[:-16])
        case "graphs":
            request.ClearField("programs")
            request.graph, request.head_graph = b"graph", b"graph"
        case "weights":
            del request.programs.weights[0]
        case "beyond":
            request.programs.weights[0].offset = 1 << 40
        case "elsewhere":
            request.programs.weights[0].blob = digest_of(b"elsewhere")
        case "golden":
            request.golden.scale *= 2


@pytest.mark.parametrize(
    ("change", "kind", "why"),
    [
        ("artifact", InvalidInput, "is of artifact"),
        ("core", InvalidInput, "compiled for another core: small"),
        ("cache", InvalidInput, "is of a int8 cache, not float32"),
        ("rows", InvalidInput, "is of 1 x 2 rows, not one"),
        ("stage", InvalidInput, r"is of layers\.1, positions, not"),
        ("context", InvalidInput, "programs are for 32 positions, not 64"),
        ("version", Corrupt, "version 9; this program reads 1"),
        ("bit", Corrupt, "its digest is of other bytes"),
        ("cut", Corrupt, "damaged, or cut short"),
        ("graphs", InvalidInput, "runs programs of a chip, and was given graphs"),
        ("weights", InvalidInput, "which was not sent"),
        ("beyond", Corrupt, "weights cannot be mapped"),
        ("elsewhere", InvalidInput, "lie in blobs that the stage does not have"),
        ("golden", Corrupt, "gives other rows than its import recorded"),
    ],
)
def test_what_is_not_this_stage_is_refused_before_anything_runs(sent: Sent, change: str, kind: type[FleetError], why: str) -> None:
    spoil(sent, change)
    with pytest.raises(kind, match=why) as caught:
        sent.load()
    assert "\n" not in str(caught.value)


def test_what_is_sent_as_it_is_made_is_loaded(sent: Sent) -> None:
    sent.load()
    with pytest.raises(InvalidInput, match="runs graphs, and was given programs"):
        open_stage(parse_spec(sent.request), sent.folder, 1, None)


async def test_a_program_that_a_bit_changed_is_found_by_its_digest_and_nothing_is_loaded(tmp_path: Path) -> None:
    """On the device's disk."""
    manifest, store = tiny_model(tmp_path, TinyGlm(layers=2))
    async with agents(tmp_path / "devices", [a_chip()], [ISA]) as (made, peers, _):
        peer = peers[0]
        (request,) = load_requests(manifest, [pb.Hop(device_id=peer.device, address=peer.address)], context=64)
        described = await peer.device_stub.Describe(pb.DescribeRequest(), metadata=peer.metadata)
        assert list(described.dialects) == ["glm-isa"]
        add_programs(request, manifest, store, described)
        for digest in request.blobs:
            await put_blob(peer, digest, store.blob_path(digest).read_bytes())  # type: ignore[arg-type]
        path = made[0].config.state / "blobs" / "sha256" / request.programs.layers[0]
        data = path.read_bytes()
        path.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
        with pytest.raises(Corrupt, match="changed on the device's disk"), remote(peer.device):
            await peer.device_stub.LoadStage(request, metadata=peer.metadata)
        assert not (await peer.device_stub.Describe(pb.DescribeRequest(), metadata=peer.metadata)).stages
