"""A command of the owner's that tells watts: a shunt, a smart plug, a power supply that can be asked."""

from __future__ import annotations

import logging
import math
import shlex
import subprocess  # nosec B404 # the owner's own command, on the board's own command line
import threading
import time
from collections.abc import Callable

from protos.errors import InvalidInput

# A line counts for so long: a smart plug is asked each second or so.
FRESH_SECONDS = 5.0
# A command that ends is started again, soon while it tells something.
AGAIN_SECONDS, LONGEST_SECONDS = 1.0, 30.0
END_SECONDS = 2.0
MOST_WATTS = 1e5

_log = logging.getLogger(__name__)


def parse_watts(line: str) -> float:
    """Raises ValueError for what no board draws."""
    try:
        watts = float(line)
    except ValueError:
        watts = math.nan
    if not 0.0 <= watts <= MOST_WATTS:
        raise ValueError(f"{line.strip()[:40]!r} is no power in watts")
    return watts


class CommandSensor:
    """Reads a line of the command's output for each reading: watts, as a number. A command that ends after its line is started again."""

    def __init__(self, command: str, *, clock: Callable[[], float] = time.monotonic, again_seconds: float = AGAIN_SECONDS) -> None:
        """Raises InvalidInput for a line that is no command."""
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise InvalidInput(f"--power-command cannot be split into words: {error}", advice="quote it as a shell would take it") from None
        if not self._words:
            raise InvalidInput("--power-command is empty", advice="name a program that prints watts, a number on each line")
        self.what = f"what {self._words[0].rpartition('/')[2]} tells"
        self._clock = clock
        self._again_seconds = again_seconds
        self._last: tuple[float, float] | None = None  # (watts, when)
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="power command", daemon=True)
        self._thread.start()

    def watts(self) -> float | None:
        last = self._last
        return last[0] if last and self._clock() - last[1] <= FRESH_SECONDS else None

    def close(self) -> None:
        self._over.set()
        with self._lock:
            process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        wait, complained = self._again_seconds, ""
        while not self._over.is_set():
            told, why = self._once()
            if why and why != complained:
                _log.warning("the command for power: %s", why)
            complained = why
            wait = self._again_seconds if told else min(wait * 2, LONGEST_SECONDS)
            self._over.wait(wait)

    def _once(self) -> tuple[bool, str]:
        """(whether it told anything, what was wrong)."""
        try:
            with self._lock:
                if self._over.is_set():
                    return False, ""
                self._process = process = subprocess.Popen(  # nosec B603 # as above; no shell
                    self._words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
                )
        except OSError as error:
            return False, f"{self._words[0]}: {error.strerror}"
        told, why = False, ""
        assert process.stdout
        with process.stdout as lines:
            for line in lines:
                if line.strip():
                    try:
                        self._last, told = (parse_watts(line), self._clock()), True
                    except ValueError as error:
                        why = str(error)
        code = process.wait()
        return told, why or (f"it ended with exit code {code}" if code and not self._over.is_set() else "")
