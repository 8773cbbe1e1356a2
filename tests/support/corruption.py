"""Silent corruption: bytes of a model change, and every digest agrees with them."""

from __future__ import annotations

import dataclasses

from protos.manifest import Blob, Manifest
from quantize.artifact.store import ArtifactStore


def flip_bit(store: ArtifactStore, manifest: Manifest, part: str, tensor: str, *, element: int, bit: int) -> Manifest:
    """The model with one bit of one stored float32 changed, its blob stored under its new digest; bit 30 is the highest of the exponent."""
    before = manifest.part(part)
    (variant,) = before.variants
    (place,) = (stored for stored in variant.tensors if stored.name == tensor)
    data = bytearray(store.blob_path(variant.blobs[place.blob].digest).read_bytes())
    data[place.offset + 4 * element + bit // 8] ^= 1 << bit % 8
    blobs: list[Blob] = list(variant.blobs)
    blobs[place.blob] = store.put(bytes(data))
    after = dataclasses.replace(before, variants=(dataclasses.replace(variant, blobs=tuple(blobs)),))
    return dataclasses.replace(manifest, parts=tuple(after if each is before else each for each in manifest.parts))
