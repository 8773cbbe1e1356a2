"""Good messages of every kind that can be one, for benchmarks.fuzz to spoil."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message

from device.agent.identity import own_key, signing_request
from fleet.trust.authority import Role
from protos.chip.wire import times_message
from protos.enrolment import refusal_text
from protos.ids import DeviceId, Digest, digest_of
from protos.packing import packed
from protos.physics.programs import JOULES, SPENT, ProgramTime, Room, StageTimes
from protos.publishing import Statement
from protos.v1 import chip_pb2, device_pb2, enrolment_pb2, gateway_pb2, member_pb2, pipeline_pb2, relay_pb2
from protos.versions import SPOKEN
from tests.support.members import TestFleet, credentials_of
from tests.support.stage_specs import TinyStages

Good = Mapping[type[Message], list[bytes]]
_AT: Mapping[str, Any] = {"protocol_version": SPOKEN.newest, "oldest_protocol_version": SPOKEN.oldest}
_GRAMMAR = 'start: "a" | "b" start'


def standby_of(load: device_pb2.LoadStageRequest, neighbour: DeviceId) -> device_pb2.LoadStageRequest:
    """For the same stage of the pipeline "kept", whose rows `neighbour` mirrors."""
    standby = device_pb2.LoadStageRequest()
    standby.CopyFrom(load)
    standby.standby, standby.pipeline_id = True, "kept"
    standby.mirror_from.CopyFrom(device_pb2.Hop(device_id=neighbour))
    return standby


def timed(load: device_pb2.LoadStageRequest) -> device_pb2.LoadStageRequest:
    """The same, with what programs of the stage would take."""
    told = device_pb2.LoadStageRequest()
    told.CopyFrom(load)
    seconds, joules = (1e-3,) * len(SPENT), (1e-3,) * len(JOULES)
    one = ProgramTime(Room(1, 1, 256), seconds, joules)
    told.times.CopyFrom(times_message(StageTimes((one,), (ProgramTime(Room(1, 1, 1), seconds, joules),))))
    return told


def programmed(load: device_pb2.LoadStageRequest) -> device_pb2.LoadStageRequest:
    """The pipeline "programs", with programs in the place of graphs, which a device that runs graphs refuses."""
    told = device_pb2.LoadStageRequest()
    told.CopyFrom(load)
    told.pipeline_id, told.graph, told.head_graph = "programs", b"", b""
    blob = load.blobs[0]
    told.programs.CopyFrom(chip_pb2.StagePrograms(layers=[blob], head=blob if load.stage == 0 else ""))
    told.programs.weights.add(region="layers.0/qkv.weight", blob=blob, offset=64, size_bytes=64)
    return told


def of_a_device(
    fleet: TestFleet,
    name: str,
    stages: TinyStages,
    load: device_pb2.LoadStageRequest,
    blobs: Mapping[Digest, bytes],
    neighbour: DeviceId,
) -> Good:
    """What the device `name`, which holds that stage and that standby, answers to; what opens a stream comes first among its kind."""
    small = min(blobs, key=lambda digest: len(blobs[digest]))
    made: list[Message] = [
        load,
        standby_of(load, neighbour),
        timed(load),
        programmed(load),
        device_pb2.DescribeRequest(),
        device_pb2.ReadLogRequest(after=1, most=20),
        device_pb2.StatBlobsRequest(digests=list(blobs)[:3]),
        _manifest(stages),
        device_pb2.PutBlobRequest(header=device_pb2.PutBlobHeader(digest=digest_of(b"x" * 500), size_bytes=500)),
        device_pb2.PutBlobRequest(header=device_pb2.PutBlobHeader(digest=small, size_bytes=len(blobs[small]))),
        device_pb2.PutBlobRequest(chunk=b"x" * 500),
        device_pb2.RetainBlobsRequest(generation=load.generation, digests=list(blobs)),
        device_pb2.UnloadStageRequest(generation=load.generation, pipeline_id="another"),
        device_pb2.WatchTelemetryRequest(interval_seconds=0.5, beat_milliseconds=250),
        *_asked(load),
        *_flowing(load),
        *_mirrored(load),
        *_membership(fleet, name),
    ]
    return _serialized(made)


def of_a_gateway(fleet: TestFleet, name: str) -> Good:
    return _serialized([gateway_pb2.WatchGatewayRequest(interval_seconds=1, beat_milliseconds=250), *_membership(fleet, name)])


def of_a_relay() -> Good:
    """Of a coordinator, which has opened no connection."""
    kinds: list[dict[str, Any]] = [{}, {"opened": True}, {"data": b"x" * 500}, {"credit": 65536}, {"ended": True}]
    return _serialized([relay_pb2.RelayFrame(connection=number, **kind) for number, kind in enumerate(kinds)])


def of_a_board(fleet: TestFleet) -> Good:
    """Of no fleet. The certificate is of another key than its own, so that none of them ends its waiting."""
    refusal = fleet.authority.signature(refusal_text(fleet.member("other").device_id, b"k" * 32, 1))
    membership = enrolment_pb2.Membership(
        certificate=credentials_of(fleet.member("other")).certificate, authority=fleet.authority.certificate_pem
    )
    made: list[Message] = [
        membership,
        enrolment_pb2.ApplyRequest(nonce=bytes(32)),
        enrolment_pb2.Refusal(reason=enrolment_pb2.Refusal.REASON_USED, authority=fleet.authority.certificate_pem, signature=refusal),
    ]
    return _serialized(made)


def _asked(load: device_pb2.LoadStageRequest) -> list[Message]:
    attach = pipeline_pb2.Attach(
        pipeline_id=load.pipeline_id, manifest_digest=load.manifest_digest, epoch=load.epoch, beat_milliseconds=250, **_AT
    )
    vocabulary = pipeline_pb2.Vocabulary(first=0, tokens=[b"a", b"b", b""], special=[2], ends=[2])
    plain = pipeline_pb2.Submit(sequence=1, prompt_ids=[1, 2, 3], max_tokens=4, key=b"k")
    drawn = pipeline_pb2.Sampling(temperature=0.9, top_k=5, top_p=0.9, seed=1, min_p=0.1, repetition_penalty=1.1, logprobs=3)
    ruled = pipeline_pb2.Sampling(
        min_tokens=1,
        bad_words=[pipeline_pb2.TokenRun(ids=[4, 5])],
        logit_bias=[pipeline_pb2.TokenBias(id=3, bias=1.0)],
        presence_penalty=0.5,
        frequency_penalty=0.5,
    )
    again = pipeline_pb2.Submit(sequence=2, prompt_ids=[1, 2, 3], forced_ids=[4, 5], max_tokens=4, stop_token_ids=[6], sampling=drawn)
    rules = pipeline_pb2.Submit(sequence=3, prompt_ids=[1], max_tokens=4, sampling=ruled, reuse_decoded=True)
    guided = pipeline_pb2.Submit(sequence=4, prompt_ids=[1], max_tokens=4, sampling=pipeline_pb2.Sampling(grammar=_GRAMMAR))
    blanks = pipeline_pb2.Submit(sequence=5, prompt_ids=[1, 2], max_tokens=4, prefix=2, spans=[pipeline_pb2.Span(start=2, anchor=1)])
    return [
        pipeline_pb2.GenerateRequest(attach=attach),
        pipeline_pb2.GenerateRequest(vocabulary=vocabulary),
        *(pipeline_pb2.GenerateRequest(submit=one) for one in (plain, again, rules, guided, blanks)),
        pipeline_pb2.GenerateRequest(pause=pipeline_pb2.Pause(sequence=1, paused=True)),
        pipeline_pb2.GenerateRequest(cancel=pipeline_pb2.Cancel(sequence=1)),
        pipeline_pb2.GenerateRequest(),  # a beat
    ]


def _flowing(load: device_pb2.LoadStageRequest) -> list[Message]:
    opened = pipeline_pb2.FlowOpen(
        pipeline_id=load.pipeline_id,
        manifest_digest=load.manifest_digest,
        epoch=load.epoch,
        from_device="x",
        ring_id="r",
        beat_milliseconds=250,
        kept=[pipeline_pb2.KeptRows(key=b"k", slot=1, rows=1)],
        **_AT,
    )
    rows = bytes(4 * load.shape.hidden_size)
    run = pipeline_pb2.Microbatch(
        step=1,
        slots=[0],
        positions=[0],
        rows=1,
        all_wanted=True,
        opened=[pipeline_pb2.Opened(slot=0, sequence=1, key=b"k")],
        released=[pipeline_pb2.Released(slot=1, sequence=2, keep=True)],
        swapped=[pipeline_pb2.Swapped(from_slot=1, to_slot=2)],
        copied=[pipeline_pb2.Copied(from_slot=0, to_slot=1, rows=1)],
        hidden=rows,
    )
    return [
        pipeline_pb2.FlowMessage(open=opened),
        pipeline_pb2.FlowMessage(microbatch=run),
        pipeline_pb2.FlowMessage(microbatch=pipeline_pb2.Microbatch()),
        pipeline_pb2.FlowMessage(hidden_part=rows),
        pipeline_pb2.FlowMessage(beat_milliseconds=2000),
        pipeline_pb2.FlowMessage(),  # a beat
    ]


def _mirrored(load: device_pb2.LoadStageRequest) -> list[Message]:
    opened = pipeline_pb2.MirrorOpen(pipeline_id="kept", manifest_digest=load.manifest_digest, from_device="x", **_AT)
    return [
        pipeline_pb2.MirrorMessage(open=opened),
        pipeline_pb2.MirrorMessage(rows=pipeline_pb2.MirroredRows(key=b"k", count=1, data=bytes(64))),
        pipeline_pb2.MirrorMessage(forgotten=pipeline_pb2.Forgotten(keys=[b"k"])),
    ]


def _membership(fleet: TestFleet, name: str) -> list[Message]:
    """For a member whose folder is `name`."""
    role: Role = "gateway" if name == "gateway" else "device"
    certificate = fleet.authority.sign(signing_request(own_key(fleet.folder / name), name), role)
    return [
        member_pb2.CertificateRequest(),
        member_pb2.RenewRequest(certificate=certificate),
        member_pb2.RevokeRequest(members=[fleet.member("expelled").device_id]),
        member_pb2.TrustRequest(publishers=[Ed25519PrivateKey.generate().public_key().public_bytes_raw()]),
        member_pb2.LeaveRequest(),
    ]


def _manifest(stages: TinyStages) -> Message:
    key = Ed25519PrivateKey.generate()
    statement = Statement("tiny", 1, time.time() + 3600, (stages.manifest.digest,)).to_bytes()
    plain, compressed = packed(stages.manifest.to_bytes())
    signed = device_pb2.SignedStatement(statement=statement, publisher=key.public_key().public_bytes_raw(), signature=key.sign(statement))
    return device_pb2.PutManifestRequest(signed=signed, manifest=plain, manifest_zlib=compressed)


def _serialized(made: Sequence[Message]) -> Good:
    found: dict[type[Message], list[bytes]] = {}
    for one in made:
        found.setdefault(type(one), []).append(one.SerializeToString())
    return found
