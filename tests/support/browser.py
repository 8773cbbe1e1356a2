"""Headless Chromium, driven by the DevTools protocol: what it shows, what it asks for, and what goes wrong in it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.support.processes import wait_for

START_SECONDS = 30.0
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-port=0")


def chromium() -> str | None:
    """Where it is installed; None: nowhere."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@dataclass
class Browser:
    """One tab. `asked`: addresses that it asked for; `problems`: lines on its console, and errors that nobody caught."""

    connection: ClientConnection
    asked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _number: int = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        self.connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.connection.recv(timeout=30))
            if message.get("id") == self._number:
                assert "error" not in message, (method, message["error"])
                result: dict[str, Any] = message["result"]
                return result
            self._hear(message.get("method", ""), message.get("params", {}))

    def run(self, script: str) -> Any:
        """The value of an expression, awaited where it is a promise."""
        told = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait(self, condition: str, seconds: float = 10.0) -> float:
        """Until the expression is true; how long it took. Fails with what the page shows."""
        began = time.monotonic()
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < began + seconds, f"{condition}: {self.text()[:2000]} {self.problems}"
            time.sleep(0.02)
        return time.monotonic() - began

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def text(self) -> str:
        return str(self.run("document.body.innerText"))

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def picture(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _hear(self, method: str, told: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(told["exceptionDetails"])[:1000])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            self.problems.append(json.dumps(told["args"])[:1000])
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """With an empty profile in `folder`; ended at the end."""
    program = chromium()
    assert program is not None
    told = folder / "DevToolsActivePort"
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: told.exists() and told.read_text().count("\n") >= 1, START_SECONDS)
        port, path = told.read_text().splitlines()[:2]
        address = f"ws://127.0.0.1:{port}"
        with connect(f"{address}{path}", max_size=None, proxy=None) as control:
            target = Browser(control).call("Target.createTarget", url="about:blank")["targetId"]
            with connect(f"{address}/devtools/page/{target}", max_size=None, proxy=None) as page:
                tab = Browser(page)
                for domain in ("Page", "Runtime", "Log", "Network"):
                    tab.call(f"{domain}.enable")
                yield tab
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
