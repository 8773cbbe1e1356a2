"""A model hub on loopback: the two shapes of Hugging Face's API that a pull needs, with faults on request."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"  # pragma: allowlist secret


@dataclass
class FakeHub:
    """Serves the files of `folders[ORG/NAME]`; `gated` and `failing` (status) are by repository."""

    folders: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    failing: dict[str, int] = field(default_factory=dict)
    corrupt: set[str] = field(default_factory=set)  # files whose bytes are not those announced
    cut_after: int | None = None  # bytes of a download, then the connection ends; once
    gets: list[tuple[str, str | None]] = field(default_factory=list)  # (file, Range header) of each download
    agents: set[str] = field(default_factory=set)
    url: str = ""


@contextmanager
def serving_hub(hub: FakeHub) -> Iterator[FakeHub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.agents.add(self.headers.get("User-Agent", ""))
            if found := re.fullmatch(r"/api/models/([^/?]+/[^/?]+)(?:/revision/([^/?]+))?(?:\?.*)?", self.path):
                self._info(found[1], found[2])
            elif found := re.fullmatch(rf"/([^/]+/[^/]+)/resolve/{COMMIT}/([^/?]+)", self.path):
                self._file(found[1], found[2])
            else:
                self._refuse(404, "EntryNotFound")

        def _info(self, repository: str, revision: str | None) -> None:
            if status := hub.failing.get(repository):
                self._refuse(status, "")
            elif repository in hub.gated:
                self._refuse(403, "GatedRepo")
            elif repository not in hub.folders:
                self._refuse(401, "RepoNotFound")
            elif revision not in (None, "main", COMMIT):
                self._refuse(404, "RevisionNotFound")
            else:
                files = [_listed(path) for path in sorted(hub.folders[repository].rglob("*")) if path.is_file()]
                self._send(json.dumps({"id": repository, "sha": COMMIT, "siblings": files, "tags": []}).encode(), "application/json")

        def _file(self, repository: str, name: str) -> None:
            data = (hub.folders[repository] / name).read_bytes()
            asked = self.headers.get("Range")
            hub.gets.append((name, asked))
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            body = data[start:]
            if name in hub.corrupt:
                body = bytes(len(body))
            self.send_response(206 if asked else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(body)))
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if hub.cut_after is not None and len(body) > hub.cut_after:
                self.wfile.write(body[: hub.cut_after])
                hub.cut_after = None
                self.close_connection = True
                return
            self.wfile.write(body)

        def _send(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that left is no news."""


def _listed(path: Path) -> dict[str, object]:
    """Weights as the hub's large files with a SHA-256, the rest as git blobs."""
    data = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    large = {"lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}}
    return {"rfilename": path.name, "size": len(data), "blobId": blob, **(large if path.suffix == ".safetensors" else {})}
