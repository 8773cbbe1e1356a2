"""A checkpoint folder from a hub: what is needed of it, resumed where a download broke off, every file checked."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from protos.errors import Busy, Corrupt, Denied, InvalidInput, NoSpace, NotFound, Unavailable
from protos.sizes import bytes_text
from quantize.checkpoints.folder_files import read_object
from quantize.checkpoints.huggingface import SOURCE_FILE, read_model_config
from quantize.checkpoints.quantized import check_format, quantization_settings
from quantize.files import no_space_as_ours
from quantize.hub.files import needed_files

Progress = Callable[[int, int], None]

# The library keeps its HTTP client's errors below one class of that client.
_HttpError: type[Exception] = HfHubHTTPError.__mro__[1]
_NAME, _VERSION = "glmfleet", version("glmfleet")
_HASH_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Pulled:
    """A complete checkpoint folder and the commit it is."""

    folder: Path
    commit: str


@dataclass(frozen=True)
class _Remote:
    """A file of the hub: `digest` is the SHA-256 of a large one, else git's SHA-1 of a blob."""

    name: str
    size_bytes: int
    digest: str


def pull(repository: str, folder: Path, revision: str | None = None, progress: Progress = lambda done, total: None) -> Pulled:
    """The checkpoint ORG/NAME below `folder`; `progress` gets (bytes done, in all).

    What an earlier call had got is kept, down to the byte, as long as the hub's commit is the same. HF_ENDPOINT names another hub,
    HF_TOKEN a private or gated model's key. Raises NotFound, Denied, Unavailable, Busy, NoSpace, Corrupt, InvalidInput (also for a model
    that could not be imported, as soon as its config.json is there).
    """
    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what it would warn of is in our errors
    with _as_ours(repository, revision, endpoint), no_space_as_ours(folder):
        info = HfApi(endpoint=endpoint, library_name=_NAME, library_version=_VERSION).model_info(
            repository, revision=revision, files_metadata=True
        )
        commit = info.sha or ""
        if not re.fullmatch(r"[0-9a-f]{7,64}", commit):
            raise Unavailable(f"{endpoint} does not say which commit of {repository} it has", advice="try again later, or another hub")
        files = _wanted(repository, info.siblings or [])
        target = folder / f"{repository.replace('/', '--')}@{commit[:12]}"
        with _alone(target, repository):
            _fetch_all(files, target, repository, commit, endpoint, progress)
            (target / SOURCE_FILE).write_text(json.dumps({"source": f"{repository}@{commit[:12]}"}))
    return Pulled(target, commit)


def _wanted(repository: str, siblings: list[Any]) -> list[_Remote]:
    remotes = {}
    for one in siblings:
        digest = one.lfs.sha256 if one.lfs else one.blob_id
        # A name from a server must not lead out of the folder.
        if isinstance(one.size, int) and one.size >= 0 and isinstance(digest, str) and Path(one.rfilename).name == one.rfilename:
            remotes[one.rfilename] = _Remote(one.rfilename, one.size, digest)
    try:
        return [remotes[name] for name in needed_files(remotes)]
    except NotFound as error:
        raise NotFound(f"{repository} cannot be imported: {error.detail}", advice=error.advice) from None


def _fetch_all(files: list[_Remote], target: Path, repository: str, commit: str, endpoint: str, progress: Progress) -> None:
    parts = target / ".parts"
    parts.mkdir(parents=True, exist_ok=True)
    kept = {file.name: _size(target / file.name) or _size(_part(parts, file)) for file in files}
    total, done = sum(file.size_bytes for file in files), sum(kept.values())
    if (missing := total - done) > shutil.disk_usage(target).free:
        raise NoSpace(
            f"{repository} needs {bytes_text(missing)} more in {target.parent}", advice="free some space, or choose another --home"
        )

    def report(before: int, count: int) -> None:
        progress(before + count, total)

    for file in files:
        if _size(target / file.name) != file.size_bytes:
            url = hf_hub_url(repository, file.name, revision=commit, endpoint=endpoint)
            _fetch(file, url, _part(parts, file), target / file.name, partial(report, done - kept[file.name]))
        if file.name == "config.json":
            read_model_config(target)
            check_format(quantization_settings(read_object(target, "config.json"), lambda older: {}))
        done += file.size_bytes - kept[file.name]
        progress(done, total)
    shutil.rmtree(parts)


def _fetch(file: _Remote, url: str, part: Path, into: Path, progress: Callable[[int], None]) -> None:
    with part.open("ab") as opened:
        if opened.tell() > file.size_bytes:
            opened.truncate(0)
        # A server that compresses would count other bytes than ours.
        headers = build_hf_headers(library_name=_NAME, library_version=_VERSION, headers={"Accept-Encoding": "identity"})
        counted = cast("Any", _Counted(opened, file, progress))
        http_get(url, counted, resume_size=opened.tell(), headers=headers, expected_size=file.size_bytes, displayed_filename=file.name)
        opened.flush()
        os.fsync(opened.fileno())
    if not _is(part, file):
        part.unlink()
        raise Corrupt(f"{file.name} is not what the hub said it would be", advice="pull again; if it repeats, do not use this hub")
    part.replace(into)


class _Counted:
    """A file that tells its size after each write, and takes no more than was announced. Raises Corrupt then."""

    def __init__(self, file: IO[bytes], remote: _Remote, progress: Callable[[int], None]) -> None:
        self._file = file
        self._remote = remote
        self._progress = progress

    def write(self, data: bytes) -> int:
        if self._file.tell() + len(data) > self._remote.size_bytes:
            raise Corrupt(f"{self._remote.name} is longer than the hub said", advice="pull again; if it repeats, do not use this hub")
        written = self._file.write(data)
        self._progress(self._file.tell())
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _is(path: Path, file: _Remote) -> bool:
    digest = hashlib.sha256() if len(file.digest) == 64 else hashlib.sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False)
    with path.open("rb") as opened:
        while chunk := opened.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return path.stat().st_size == file.size_bytes and digest.hexdigest() == file.digest.lower()


def _part(parts: Path, file: _Remote) -> Path:
    return parts / f"{file.name}.{file.digest[:16]}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextmanager
def _alone(target: Path, repository: str) -> Iterator[None]:
    target.mkdir(parents=True, exist_ok=True)
    with (target / ".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{repository} is being pulled already", advice="wait for the other pull to end", retry_after_seconds=10) from None
        yield


@contextmanager
def _as_ours(repository: str, revision: str | None, endpoint: str) -> Iterator[None]:
    """The library's errors become ours, most specific first."""
    try:
        yield
    except HFValidationError as error:
        raise InvalidInput(f"not a model of a hub: {repository[:80]!r}", advice="write ORG/NAME") from error
    except OfflineModeIsEnabled as error:
        raise Unavailable("HF_HUB_OFFLINE is set: nothing is fetched", advice="unset it; `glmfleet model import` works offline") from error
    except GatedRepoError as error:
        raise Denied(
            f"{repository} is gated: its publisher asks you to agree to terms",
            advice=f"agree at {endpoint}/{repository}, then set HF_TOKEN to an access token of yours",
        ) from error
    except RepositoryNotFoundError as error:
        raise NotFound(
            f"{endpoint} has no model {repository}, or not for you",
            advice="check the spelling (ORG/NAME); for a private model set HF_TOKEN",
        ) from error
    except RevisionNotFoundError as error:
        raise NotFound(f"{repository} has no revision {revision}", advice="name a branch, tag or commit of it, or none") from error
    except HfHubHTTPError as error:
        _refused(error, endpoint)
    except (_HttpError, ConnectionError) as error:
        what = " ".join(str(error).split())[:120] or type(error).__name__
        raise Unavailable(
            f"{endpoint} cannot be reached: {what}",
            advice="check the network, or HF_ENDPOINT; a second pull goes on where this one stopped",
        ) from error
    except OSError as error:
        if "Consistency check" in str(error):
            raise Unavailable(f"{endpoint} ended a download early", advice="pull again: it goes on where this one stopped") from error
        raise


def _refused(error: HfHubHTTPError, endpoint: str) -> NoReturn:
    status = error.response.status_code
    if status in (401, 403):
        raise Denied(f"{endpoint} does not accept your access token (status {status})", advice="check HF_TOKEN") from error
    if status == 429:
        raise Busy(f"{endpoint} asks for patience", advice="pull again in some minutes", retry_after_seconds=60) from error
    raise Unavailable(f"{endpoint} answers with status {status}", advice="pull again later: it goes on where this one stopped") from error
