"""Who else may touch a folder of ours or read a key: the first is refused, the second is closed and said."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from protos.errors import Denied

_OTHERS_READ = stat.S_IRWXG | stat.S_IRWXO

_log = logging.getLogger(__name__)


def check_folder(folder: Path) -> None:
    """Raises Denied when others can put files into it: what lies there could be theirs. A group that is ours may (volumes are often so)."""
    try:
        found = folder.stat()
    except OSError:
        return  # whoever uses it will say so
    mode = stat.S_IMODE(found.st_mode)
    ours = found.st_gid in {os.getegid(), *os.getgroups()}
    if mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not ours):
        raise Denied(
            f"others can write to {folder} (mode {mode:04o}), and so change keys and models in it",
            advice=f"chmod go-w {folder}, or choose another folder with --home",
        )


def close_file(path: Path) -> None:
    """Take it from everybody but its owner, and say so when it was not. Raises Denied when that cannot be done."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # the file itself, were its name to point elsewhere by then
    except OSError:
        return  # whoever reads it will say so
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if not mode & _OTHERS_READ:
            return
        os.fchmod(descriptor, mode & ~_OTHERS_READ)
    except OSError as error:
        raise Denied(f"others can read {path} (mode {mode:04o})", advice=f"chmod 600 {path}, as the user who owns it") from error
    finally:
        os.close(descriptor)
    _log.warning("others could read %s (mode %04o); now only its owner can. Whoever has read it still knows what is in it", path, mode)
