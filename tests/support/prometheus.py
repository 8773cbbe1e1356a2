"""The real Prometheus, where the machine has its program, scraping one target of a test's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

MISSING = "" if shutil.which("prometheus") and shutil.which("promtool") else "needs prometheus and promtool (Debian: prometheus)"
SCRAPE_SECONDS = 0.5


@dataclass(frozen=True)
class Prometheus:
    http: httpx.AsyncClient
    program: subprocess.Popen[bytes]
    log: Path

    async def scraped(self, more: int) -> None:
        """Until so many scrapes more have been kept. The first is five seconds after its start."""
        wanted: float | None = None
        async with asyncio.timeout(60):
            while True:
                assert self.program.poll() is None, self.log.read_text()
                with contextlib.suppress(httpx.ConnectError):
                    kept = sum(float(one["value"][1]) for one in await self.query("count_over_time(up[10m])"))
                    wanted = kept + more if wanted is None else wanted
                    if kept >= wanted:
                        return
                await asyncio.sleep(SCRAPE_SECONDS / 4)

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The vector's elements. Fails the test for an expression that is none."""
        answer = (await self.http.get("/api/v1/query", params={"query": expression})).json()
        assert answer["status"] == "success", answer
        found = answer["data"]["result"]
        assert isinstance(found, list)
        return found

    async def value(self, expression: str) -> float:
        (one,) = await self.query(expression)
        return float(one["value"][1])

    async def target(self) -> dict[str, Any]:
        """What it says of the scrape."""
        answer = (await self.http.get("/api/v1/targets")).json()
        (one,) = answer["data"]["activeTargets"]
        assert isinstance(one, dict)
        return one


@contextmanager
def prometheus(folder: Path, scrape: str) -> Iterator[Prometheus]:
    """`scrape`: an item of `scrape_configs`, in YAML or JSON."""
    folder.mkdir()
    config, log = folder / "prometheus.yml", folder / "log"
    seconds = f"{1000 * SCRAPE_SECONDS:.0f}ms"
    config.write_text(f"global: {{scrape_interval: {seconds}, scrape_timeout: {seconds}}}\nscrape_configs: [{scrape}]\n")
    checked = subprocess.run(["promtool", "check", "config", str(config)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr + checked.stdout
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"config.file": config, "storage.tsdb.path": folder / "data", "web.listen-address": f"127.0.0.1:{port}", "log.level": "warn"}
    with log.open("w") as stderr:
        program = subprocess.Popen(["prometheus", *(f"--{name}={value}" for name, value in options.items())], stderr=stderr)
    try:
        yield Prometheus(httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False), program, log)
    finally:
        program.kill()
        program.wait()


def dashboard() -> dict[str, Any]:
    """The one for Grafana that the documentation has."""
    found = json.loads((Path(__file__).resolve().parents[2] / "docs" / "grafana.json").read_text())
    assert isinstance(found, dict)
    return found
