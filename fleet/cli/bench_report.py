"""What a run against an endpoint gave: percentiles of its times, tokens a second, joules a request, errors by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fleet.cli.bench_client import Answer
from fleet.cli.output import NONE, count_text, figure, note, say
from fleet.cli.tables import Column, print_table

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Report:
    """Seconds and joules are of the requests that were answered, `tokens` of the answers. A percentile is one of the values, that of the
    nearest rank above; None where there is no value. Joules by how they are known, as means; {} where the endpoint tells none."""

    queries: int
    answered: int
    errors: Mapping[str, int]
    seconds: float  # from the first query to the last answer
    prompt_tokens: int
    tokens: int
    tokens_counted: bool  # by chunks: the endpoint told no usage
    queries_per_second: float
    tokens_per_second: float
    ttft_seconds: Mapping[str, float | None]
    tpot_seconds: Mapping[str, float | None]
    total_seconds: Mapping[str, float | None]
    joules_per_request: Mapping[str, float]
    joules_per_token: Mapping[str, float]


def report(answers: Sequence[Answer]) -> Report:
    """Of at least one."""
    good = [one for one in answers if not one.error]
    seconds = max(one.sent_at + one.seconds for one in answers) - min(one.sent_at for one in answers)
    tokens = sum(one.tokens for one in good)
    sources = sorted({source for one in good for source in one.joules})
    each = {source: [one for one in good if source in one.joules] for source in sources}
    joules = {source: sum(one.joules[source] for one in some) for source, some in each.items()}
    return Report(
        queries=len(answers),
        answered=len(good),
        errors=dict(Counter(one.error for one in answers if one.error).most_common()),
        seconds=seconds,
        prompt_tokens=sum(one.prompt_tokens for one in good),
        tokens=tokens,
        tokens_counted=any(one.counted for one in good),
        queries_per_second=len(good) / seconds if seconds else 0.0,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        ttft_seconds=_percentiles([one.first for one in good]),
        tpot_seconds=_percentiles([one.seconds_per_token for one in good]),
        total_seconds=_percentiles([one.seconds for one in good]),
        joules_per_request={source: joules[source] / len(some) for source, some in each.items()},
        joules_per_token={source: joules[source] / sum(one.tokens for one in some) for source, some in each.items()},
    )


def print_report(told: Report) -> None:
    say(f"{count_text(told.answered, 'answer')} of {told.queries:,} in {figure(told.seconds)} s")
    unit = "chunks (the endpoint told no usage)" if told.tokens_counted else "tokens"
    say(f"{figure(told.tokens_per_second)} {unit}/s, {figure(told.queries_per_second)} queries/s")
    rows = (
        ("to the first token, s", told.ttft_seconds),
        ("a token behind it, s", told.tpot_seconds),
        ("to the end, s", told.total_seconds),
    )
    columns = [Column("seconds"), *(Column(f"p{one}", "figure") for one in PERCENTILES)]
    print_table(columns, [[title, *(figure(found[f"p{one}"]) for one in PERCENTILES)] for title, found in rows])
    for source, joules in told.joules_per_request.items():
        say(f"{figure(joules)} J a request, {figure(told.joules_per_token[source])} J a token, {source}")
    if not told.joules_per_request:
        say(f"J a request: {NONE} (the endpoint tells none)")
    for error, count in told.errors.items():
        note(f"failed: {count:,} × {error}")


def _percentiles(values: Sequence[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    found = np.percentile(known, PERCENTILES, method="inverted_cdf").tolist() if known else [None] * len(PERCENTILES)
    return {f"p{one}": value for one, value in zip(PERCENTILES, found, strict=True)}
