"""The store of artifacts on disk: blobs shared by all models, and a manifest for each model name."""

from __future__ import annotations

import fcntl
import filecmp
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from protos.errors import Busy, Corrupt, InvalidInput, NotFound
from protos.ids import Digest
from protos.manifest import Blob, Manifest, parse
from quantize.artifact.journal import journalled
from quantize.artifact.records import Records
from quantize.files import StagedFile, no_space_as_ours, sweep_staged

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_CHUNK_BYTES = 1 << 20


class ArtifactStore:
    """Models by name, each a manifest over blobs that models share: `root`/blobs/sha256/<digest>, `root`/models/<name>.json (canonical
    manifest bytes), `root`/imports (see `quantize.artifact.journal`) and `root`/records (`quantize.artifact.records`).

        >>> store = ArtifactStore(root)
        >>> store.put(b"some bytes").size_bytes
        10
        >>> store.list()
        ()

    A file is in its place whole or not at all, also after a crash. Several processes may share one store: an import holds it shared
    (`importing`), a removal alone, and neither waits for the other: `remove` and `collect` raise Busy while an import runs.
    Names are up to 64 of a-z, 0-9, ".", "_" and "-", a letter or digit first; any method that takes another raises InvalidInput.
    """

    def __init__(self, root: Path) -> None:
        """Makes the folders and clears what interrupted writers left. Raises NoSpace, InvalidInput when `root` cannot be written."""
        self._root = root
        self._models = root / "models"
        self.blob_folder = root / "blobs" / "sha256"
        self.imports = root / "imports"
        self.records = Records(root / "records")
        try:
            with no_space_as_ours(root):
                self.blob_folder.mkdir(parents=True, exist_ok=True)
                self._models.mkdir(exist_ok=True)
        except OSError as error:
            raise InvalidInput(f"cannot write to {root}: {error.strerror}", advice="choose another folder with --home") from error
        sweep_staged(self.blob_folder)
        sweep_staged(self._models)

    def list(self) -> tuple[str, ...]:
        """Names of the models, sorted."""
        return tuple(sorted(path.stem for path in self._models.glob("*.json") if _NAME.fullmatch(path.stem)))

    def check_name(self, name: str) -> None:
        """Raises InvalidInput unless a model may be called this."""
        self._manifest_path(name)

    def load(self, name: str) -> Manifest:
        """Raises NotFound (naming the models there are), Corrupt, InvalidInput for an impossible name."""
        try:
            data = self._manifest_path(name).read_bytes()
        except FileNotFoundError:
            known = ", ".join(self.list())
            raise NotFound(
                f"no model {name!r} here", advice=f"models here: {known}" if known else "get one with `glmfleet model pull smollm2-135m`"
            ) from None
        try:
            return parse(data)
        except Corrupt as error:
            raise Corrupt(
                f"model {name}: {error.detail}", advice=f"remove it with `glmfleet model rm {name}`, then import it again"
            ) from error

    def save(self, name: str, manifest: Manifest) -> None:
        """Puts `manifest` under `name`, replacing what was there, at once or not at all. Raises Corrupt when a blob of it is not here."""
        path = self._manifest_path(name)
        for blob in manifest.blobs().values():
            self._check_size(name, blob)
        with no_space_as_ours(self._root), StagedFile(self._models) as staged:
            staged.write(manifest.to_bytes())
            staged.commit(path)

    def remove(self, name: str) -> int:
        """Forgets the model, frees the blobs that no other manifest names; the bytes freed. Raises NotFound, Busy while an import runs."""
        with self._alone():
            try:
                self._manifest_path(name).unlink()
            except FileNotFoundError:
                self.load(name)  # raises NotFound with the names there are
            self.signature_path(name).unlink(missing_ok=True)
            return self._collect()

    def collect(self) -> int:
        """Frees blobs that neither a manifest nor a journal names (of a model that was replaced); the bytes freed. Raises Busy, Corrupt."""
        with self._alone():
            return self._collect()

    def signature_path(self, name: str) -> Path:
        """Where the fleet keeps what its publisher says of the model. Raises InvalidInput for an impossible name."""
        return self._manifest_path(name).with_suffix(".signature")

    def blob_path(self, digest: Digest) -> Path:
        return self.blob_folder / digest

    def verify(self, name: str, progress: Callable[[int, int, str], None] = lambda done, total, part: None) -> Manifest:
        """Hashes every blob of the model again. Raises Corrupt naming the parts that are not what the manifest says."""
        manifest = self.load(name)
        users: dict[Digest, list[str]] = {}
        for part in manifest.parts:
            for digest in dict.fromkeys(blob.digest for variant in part.variants for blob in variant.blobs):
                users.setdefault(digest, []).append(part.name)
        for file in manifest.text_files:
            users.setdefault(file.blob.digest, []).append(file.name)
        for blob in manifest.golden.blobs if manifest.golden else ():
            users.setdefault(blob.digest, []).append("golden rows")
        blobs = manifest.blobs()
        total, done = sum(blob.size_bytes for blob in blobs.values()), 0
        for digest, blob in blobs.items():
            used_by = " and ".join(users[digest])
            self._check_size(name, blob, used_by)
            found = hashlib.sha256()
            with self.blob_path(digest).open("rb") as file_object:
                while chunk := file_object.read(_CHUNK_BYTES):
                    found.update(chunk)
                    done += len(chunk)
                    progress(done, total, used_by)
            if found.hexdigest() != digest:
                raise _damaged(name, used_by, "is not what its digest says")
        return manifest

    @contextmanager
    def importing(self) -> Iterator[None]:
        """Around an import: no blob is collected meanwhile, though no manifest names it yet."""
        with (self._root / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield

    @contextmanager
    def new_blob(self) -> Iterator[BlobWriter]:
        """A blob written in order; it is in the store after `commit`, and nowhere without. Raises NoSpace."""
        with no_space_as_ours(self._root), StagedFile(self.blob_folder) as staged:
            yield BlobWriter(self.blob_folder, staged)

    def put(self, data: bytes) -> Blob:
        """A small blob. Raises NoSpace."""
        with self.new_blob() as blob:
            blob.write(data)
            return blob.commit()

    def _manifest_path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"not a model name: {name[:80]!r}", advice="use up to 64 of a-z, 0-9, '.', '_' and '-', a letter or digit first"
            )
        return self._models / f"{name}.json"

    def _check_size(self, name: str, blob: Blob, used_by: str = "a part") -> None:
        try:
            size_bytes = self.blob_path(blob.digest).stat().st_size
        except FileNotFoundError:
            raise _damaged(name, used_by, f"is missing (blob {blob.digest[:12]})") from None
        if size_bytes != blob.size_bytes:
            raise _damaged(name, used_by, f"has {size_bytes} bytes instead of {blob.size_bytes}")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._root / "lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy("an import into this store is running", advice="try again when it has ended", retry_after_seconds=10) from None
            yield

    def _collect(self) -> int:
        manifests = [self.load(name) for name in self.list()]
        wanted = {digest for manifest in manifests for digest in manifest.blobs()} | journalled(self.imports)
        self.records.retain({manifest.digest for manifest in manifests})
        freed_bytes = 0
        for path in self.blob_folder.iterdir():
            if path.name not in wanted and not path.name.startswith("."):
                freed_bytes += path.stat().st_size
                path.unlink()
        return freed_bytes


class BlobWriter:
    """Hashes while it writes."""

    def __init__(self, folder: Path, staged: StagedFile) -> None:
        self._folder = folder
        self._staged = staged
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        self._staged.write(data)
        self._hash.update(data)
        self.size_bytes += len(data)

    def pad_to(self, offset: int) -> None:
        """Zeros up to byte `offset`."""
        self.write(bytes(offset - self.size_bytes))

    def commit(self) -> Blob:
        """Puts the blob in its place, unless the same bytes are there already (a damaged one is replaced)."""
        digest = Digest(self._hash.hexdigest())
        path = self._folder / digest
        self._staged.flush()
        if not (path.exists() and filecmp.cmp(path, self._staged.path, shallow=False)):
            self._staged.commit(path)
        return Blob(digest, self.size_bytes)


def _damaged(name: str, used_by: str, what: str) -> Corrupt:
    return Corrupt(f"model {name}: {used_by} {what}", advice="the file on disk is damaged: import the model again")
