"""Where a program's weights lie among an artifact's blobs."""

from __future__ import annotations

from collections.abc import Iterator

from protos.chip.program import Program, Region
from protos.errors import Corrupt, InvalidInput
from protos.manifest import Blob, Manifest, Tensor


def stored_weights(program: Program, manifest: Manifest) -> Iterator[tuple[Region, Blob, Tensor]]:
    """Each region of weights with the tensor that it is, and the blob in which that lies.

    Raises InvalidInput for a program of another artifact, Corrupt where a tensor has another size.
    """
    if program.target.artifact != manifest.digest:
        raise InvalidInput("the program was compiled for another artifact", advice="compile it again: glmfleet compile")
    for region in program.regions:
        if region.purpose != "weights":
            continue
        part, _, name = region.name.partition("/")
        variant = manifest.part(part).variants[0]
        tensor = next((tensor for tensor in variant.tensors if tensor.name == name), None)
        if tensor is None or tensor.size_bytes != region.size_bytes:
            raise Corrupt(f"the artifact has no {region.name} of {region.size_bytes} bytes", advice="compile the program again")
        yield region, variant.blobs[tensor.blob], tensor
