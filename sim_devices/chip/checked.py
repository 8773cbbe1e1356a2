"""Whether a program is one that this device may run for a stage: everything is looked at before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from device.stage_spec import StageSpec
from protos.chip.core import Core
from protos.chip.program import Program, parse_program
from protos.chip.verifier import verify
from protos.errors import Corrupt, InvalidInput
from protos.ids import Digest
from sim_devices.chip.memory import Bytes

HEAD = "head"
_AGAIN = "deploy the model again"
_ITEM_BYTES = {"float32": 4, "int8": 1}


def check_stage_program(
    data: bytes, digest: Digest, spec: StageSpec, core: Core, weights: Mapping[str, Bytes], *, is_head: bool
) -> Program:
    """The program in the file, which is that blob.

    Raises Corrupt for a file that is damaged, of another version, or breaks a rule of the machine; InvalidInput for a program of another
    artifact, stage, cache or core; NoSpace for one that needs more than the core has. All name the blob.
    """
    try:
        program = parse_program(data)
    except Corrupt as error:
        raise Corrupt(error.cause, advice=_AGAIN, digest=digest) from error
    target, parts = program.target, [part for part in spec.parts if (part == HEAD) == is_head]
    faults = {
        f"artifact {target.artifact[:12]}, not {spec.manifest[:12]}": target.artifact != spec.manifest,
        f"{_listed(target.parts)}, not {_listed(parts)}": sorted(target.parts) != sorted(parts),
        f"a {target.kv_dtype} cache, not {spec.shape.kv_dtype}": not is_head and target.kv_dtype != spec.shape.kv_dtype,
        f"{target.sequences} x {target.rows} rows, not one": (target.sequences, target.rows) != (1, 1),
    }
    for fault, found in faults.items():
        if found:
            raise InvalidInput(f"program {digest[:12]} is of {fault}", advice=_AGAIN)
    program.check_core(core)
    verify(program, core)
    _check_regions(program, digest, spec, weights, is_head=is_head)
    return program


def _check_regions(program: Program, digest: Digest, spec: StageSpec, weights: Mapping[str, Bytes], *, is_head: bool) -> None:
    """What the host writes and reads has the sizes of the stage, weights those that were sent."""
    shape = spec.shape
    hidden, cache = 4 * shape.hidden_size, _ITEM_BYTES[shape.kv_dtype] * shape.kv_heads * program.target.context * shape.head_dim
    wanted: dict[str, int] = {}
    if is_head:
        wanted = {"hidden_in": hidden, "logits": 4 * shape.vocab_size}
    else:
        wanted = {"ids": 4} if spec.is_head else {"hidden_in": hidden}
        wanted |= {"positions": 8} if spec.is_head and shape.learned_positions else {}
        names = ("keys",) if shape.values_are_keys else ("keys", "values")
        wanted |= {f"cache.{layer}.{name}": cache for layer in shape.layers for name in names}
        wanted["hidden_out"] = hidden
    found = {region.name: region.size_bytes for region in program.regions if region.purpose in ("input", "output", "cache")}
    if found != wanted:
        different = sorted({name for name, _ in found.items() ^ wanted.items()})
        raise InvalidInput(f"program {digest[:12]} is not of this stage's shape: {_listed(different)}", advice=_AGAIN)
    for region in program.regions:
        if region.purpose == "weights" and (region.name not in weights or weights[region.name].nbytes != region.size_bytes):
            raise InvalidInput(f"program {digest[:12]} wants {region.name[:80]} of {region.size_bytes} bytes, which was not sent")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name[:40] for name in names[:4]) or "nothing"
