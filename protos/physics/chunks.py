"""How many rows of a prompt run at once: as many as keep others waiting no longer than a budget."""

from __future__ import annotations

from dataclasses import dataclass, replace

from protos.even import even_down

# The longest that a running decode, or another prompt, waits for a stranger's chunk; and that a prompt which runs alone may hold up
# whoever comes next.
BESIDE_DECODE_SECONDS = 0.08
BESIDE_PROMPTS_SECONDS = 0.12
ALONE_SECONDS = 0.25
# Fewer rows than these read the weights too often for what they compute.
LEAST_BESIDE_ROWS, LEAST_ALONE_ROWS = 16, 32
# A lone prompt gains little from longer runs, for which whoever comes next would wait: those of 64 rows take 4 to 6 % more time a row than
# those of 128 (135M and 1.5B, 2 cores with AVX-512 VNNI; benchmarks/README.md).
MOST_ALONE_ROWS = 64
# A run's time moves the estimate by this share: one hiccup does not, a hot accelerator soon does.
_WEIGHT = 0.3


@dataclass(frozen=True)
class ChunkSizes:
    """What is known of a pipeline's prompts: `most` rows are what a message may carry (even), `seconds_per_row` is the speed of the chunks
    before, None before the first. Devices cut their prompts by it, and predictions ask it what they would do."""

    most: int
    seconds_per_row: float | None = None

    def measured(self, rows: int, seconds: float) -> ChunkSizes:
        """After a chunk of `rows` that held the slowest stage for `seconds`."""
        if rows < LEAST_BESIDE_ROWS:
            return self  # mostly the weights' own traffic: says little about a row
        now = seconds / rows
        before = now if self.seconds_per_row is None else self.seconds_per_row
        return replace(self, seconds_per_row=before + _WEIGHT * (now - before))

    def rows(self, *, others_prefill: bool = False, others_decode: bool = False) -> int:
        """Rows of the next chunk, even and at least 2, for a prompt that runs beside others' or beside those who decode."""
        if others_decode:
            wish = self._within(BESIDE_DECODE_SECONDS, LEAST_BESIDE_ROWS)
        elif others_prefill:
            wish = self._within(BESIDE_PROMPTS_SECONDS, LEAST_BESIDE_ROWS)
        else:
            wish = min(self._within(ALONE_SECONDS, LEAST_ALONE_ROWS), MOST_ALONE_ROWS)
        return max(2, even_down(min(wish, self.most)))

    def _within(self, seconds: float, least: int) -> int:
        if self.seconds_per_row is None:
            return 2 * least
        return max(least, int(seconds / self.seconds_per_row))
