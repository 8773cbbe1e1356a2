"""Models that were imported once in this process: who asks again gets a copy, which a test may damage."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Hashable
from pathlib import Path

import pytest

_kept: dict[Hashable, Path] = {}


def kept(key: Hashable, make: Callable[[Path], object], folder: Path) -> None:
    """Puts into `folder` what `make` puts into an empty one; it is called once for each `key`.

    An import computes what a device checks itself by, which takes longer than most tests of a fleet that has the model.
    """
    if key not in _kept:
        made = Path(tempfile.mkdtemp(prefix="glmfleet-kept-"))
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: None)  # no test asks whether these files outlive a power cut
            make(made)
        _kept[key] = made
    shutil.copytree(_kept[key], folder, dirs_exist_ok=True)
