"""Parts of an artifact by name, and which make up a stage."""

from __future__ import annotations

from collections.abc import Sequence

from protos.errors import InvalidInput
from protos.manifest import Blob, Manifest, Part

EMBEDDING, POSITIONS, HEAD = "embedding", "positions", "head"
# Of each layer: what one step of an int8 cache's element is worth, per channel of the key and the value heads.
KV_SCALES = KEY_SCALES, VALUE_SCALES = "k_scale", "v_scale"


def layer_part(layer: int, inner: str = "") -> str:
    """ "layers.5", or "layers.5.attention" for a part of a layer that has several."""
    return f"layers.{layer}.{inner}" if inner else f"layers.{layer}"


def layer_number(part: str) -> int | None:
    """5 of "layers.5" and of "layers.5.attention"; None of any other name."""
    prefix, _, rest = part.partition(".")
    digits, dot, inner = rest.partition(".")
    whole = prefix == "layers" and digits.isdecimal() and str(int(digits)) == digits and bool(dot) == bool(inner)
    return int(digits) if whole else None


def layer_parts(manifest: Manifest, layer: int) -> tuple[str, ...]:
    """All parts of one layer, in the manifest's order."""
    return tuple(part.name for part in manifest.parts if layer_number(part.name) == layer)


def stage_parts(manifest: Manifest, start: int, stop: int, *, head: bool = False) -> tuple[str, ...]:
    """Parts of the stage with layers [start, stop), in the manifest's order; the pipeline's head device (`head`) also holds embedding and
    output head."""
    ends, layers = (EMBEDDING, HEAD) if head else (), range(start, stop)
    return tuple(
        part.name
        for part in manifest.parts
        if part.name in ends or (part.name == POSITIONS and layers) or layer_number(part.name) in layers
    )


def stage_blobs(manifest: Manifest, parts: Sequence[str]) -> tuple[Blob, ...]:
    """Blobs that these parts' default variants lie in, each once: a tied head shares the embedding's. Raises InvalidInput."""
    blobs = {blob.digest: blob for name in parts for blob in find_part(manifest, name).variants[0].blobs}
    return tuple(blobs.values())


def find_part(manifest: Manifest, name: str) -> Part:
    """Raises InvalidInput."""
    try:
        return manifest.part(name)
    except KeyError:
        raise InvalidInput(f"the model has no part {name!r}", advice="the plan is not for this model: make it again") from None
