"""A chat template in a process of its own, killed when it takes too long."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from device.text.child import Child

SECONDS = 5.0  # real templates take milliseconds, the first call a tenth of a second to start Python


class NoTemplate(Exception):
    """The source is no template."""


class TemplateProcess:
    """Started at the first call, and again after it was killed; ends with this object. Safe to use from several threads."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._problem = ""  # with the source, once it is known

    def call(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What `device.text.template_worker` answers. Raises Killed, NoTemplate."""
        with self._lock:
            child = self._child
            if not self._problem and (child is None or not child.alive):
                child = self._child = _start()
                self._problem = child.ask({"source": self._source}, SECONDS).get("error", "")
                if self._problem:
                    child.end()
            if self._problem or child is None:
                raise NoTemplate(self._problem)
            return child.ask(asked, SECONDS)


def _start() -> Child:
    return Child("device.text.template_worker")
