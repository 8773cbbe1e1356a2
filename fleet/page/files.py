"""The files of the page, each under the path at which it is served."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

PREFIX = "/page/"
TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True)
class PageFile:
    """`tag` changes with the content, for HTTP's ETag."""

    body: bytes
    media_type: str
    tag: str


@dataclass(frozen=True)
class Vendored:
    """A file that is another project's, as it was published."""

    file: str
    project: str
    version: str
    licence: str
    sha256: str


@cache
def page_files() -> Mapping[str, PageFile]:
    """By path: `/`, and below `/page/` all that lies in `static/`."""
    found = {f"{PREFIX}{name}": _read(file) for name, file in _walk(files("fleet.page") / "static", "")}
    return {"/": found.pop(f"{PREFIX}index.html"), **found}


def vendored() -> list[Vendored]:
    told = tomllib.loads((files("fleet.page") / "vendor.toml").read_text())
    return [Vendored(**one) for one in told["files"]]


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        elif entry.name.rpartition(".")[2] in TYPES:
            yield f"{prefix}{entry.name}", entry


def _read(file: Traversable) -> PageFile:
    body = file.read_bytes()
    return PageFile(body, TYPES[file.name.rpartition(".")[2]], f'"{hashlib.sha256(body).hexdigest()[:32]}"')
