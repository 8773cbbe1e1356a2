"""Records docs/fleet.svg, the README's picture: `python docs/record_fleet.py`. Real commands, run here against a home of their own."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 92
PROFILES = "jetson-orin-nano-super,horizon-journey-5,rk3588,raspberry-pi-5"
SHOWN = (
    ("deploy", "smollm2-135m", "--stages", "4", "--objective", "throughput"),
    ("devices",),
    ("generate", "What is the capital of France?"),
)
# As rich's own, without fonts that are fetched from another host; `textLength` keeps columns straight in any.
SVG = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: {char_height}px;
line-height: {line_height}px; }}
.{unique_id}-title {{ font-family: system-ui, "DejaVu Sans", sans-serif; font-size: 16px; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix" xml:space="preserve">
{matrix}
</g>
</g>
</svg>
"""


def main() -> None:
    home = Path(tempfile.mkdtemp(prefix="glmfleet-picture-"))
    program = (sys.executable, "-m", "fleet.cli")
    environment = {**os.environ, "GLMFLEET_HOME": str(home)}

    def quietly(*arguments: str) -> None:
        subprocess.run([*program, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    try:
        quietly("model", "pull", "smollm2-135m")
        serve = [*program, "serve", "--port", "0", "--interface", "127.0.0.1"]
        with subprocess.Popen(serve, env=environment, stderr=subprocess.DEVNULL) as coordinator:
            try:
                quietly("sim", "up", "--profile", PROFILES)
                time.sleep(5)
                console = Console(record=True, width=COLUMNS, file=io.StringIO())
                for arguments in SHOWN:
                    typed = " ".join(f'"{word}"' if " " in word else word for word in arguments)
                    console.print(Text.assemble(("$ ", "green"), (f"glmfleet {typed}", "bold")))
                    console.print(Text.from_ansi(run([*program, *arguments], environment)))
                    console.print()
                    time.sleep(2)
            finally:
                quietly("sim", "down", "--purge")
                coordinator.terminate()
    finally:
        shutil.rmtree(home)
    svg = console.export_svg(title="a fleet of four simulated boards", code_format=SVG, unique_id="fleet")
    (Path(__file__).parent / "fleet.svg").write_text(svg)


def run(command: list[str], environment: dict[str, str]) -> str:
    """What it writes to a terminal COLUMNS wide. A deployment's notes come behind its result, without the bars of its progress."""
    apart = "deploy" in command
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    notes_to = subprocess.PIPE if apart else theirs
    done = subprocess.run(command, env=environment | {"TERM": "xterm-256color"}, check=True, stdout=theirs, stderr=notes_to, text=True)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux: the other end is closed, and nothing is left
            break
        shown += part
    os.close(ours)
    notes = [line for line in (done.stderr or "").splitlines() if not line.startswith("push to ")]
    return "\n".join([*(line.rstrip() for line in shown.decode().replace("\r", "").splitlines()), *notes])


if __name__ == "__main__":
    main()
