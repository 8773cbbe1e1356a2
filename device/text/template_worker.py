"""The process in which a chat template runs: with little memory and time, and nothing to gain. It ends with its input.

A line of JSON in, a line out. First {"source": …}, answered by {}, or by {"error": …} at the end where that is no template; then for each
conversation {"variables": …, "now": ISO 8601, "most_characters": …}, answered by {"text": …}, {"too_long": true} or {"error": …}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jinja2

from device.text.limits import limit_memory, limit_time
from device.text.sandbox import TooLong, compile_template, one_line, render

MORE_MEMORY_BYTES = 1 << 28
CPU_SECONDS = 10


def main() -> None:
    limit_memory(MORE_MEMORY_BYTES)
    limit_time(CPU_SECONDS)
    now = [datetime.now()]  # noqa: DTZ005 (each conversation brings its own)
    try:
        template = compile_template(json.loads(sys.stdin.readline())["source"], lambda: now[0])
    except Exception as error:  # Jinja's own, and Python's, which compiles what Jinja makes of it
        _answer({"error": one_line(error)})
        return
    _answer({})
    for line in sys.stdin:
        limit_time(CPU_SECONDS)
        asked = json.loads(line)
        now[0] = datetime.fromisoformat(asked["now"])
        _answer(_rendered(template, asked["variables"], asked["most_characters"]))


def _rendered(template: jinja2.Template, variables: Mapping[str, Any], most_characters: int) -> dict[str, Any]:
    try:
        return {"text": render(template, variables, most_characters)}
    except TooLong:
        return {"too_long": True}
    except Exception as error:  # a template may raise anything
        return {"error": one_line(error)}


def _answer(value: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
