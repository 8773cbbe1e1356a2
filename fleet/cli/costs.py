"""What one answer cost: the summary for people, and the object of `generate --json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fleet.answering.views import GenerateResult
from fleet.cli.output import NONE, count_text, figure, note
from fleet.cli.tables import Column, print_table
from fleet.telemetry.views import DeviceCost


def answer_json(result: GenerateResult) -> dict[str, Any]:
    """The documented object of `glmfleet generate --json`. Seconds; joules null where nothing was metered."""
    return {
        "text": result.text,
        "token_ids": list(result.token_ids),
        "finish_reason": result.finish_reason,
        "prompt_tokens": result.prompt_tokens,
        "reused_tokens": result.reused_tokens,
        "decode": result.decode,
        "drafted_tokens": result.drafted_tokens,
        "accepted_tokens": result.accepted_tokens,
        "completion_tokens": result.completion_tokens,
        "ttft_seconds": {"wall": result.ttft_seconds, "modelled": result.modelled_ttft_seconds},
        "tpot_seconds": {"wall": result.tpot_seconds, "modelled": result.modelled_tpot_seconds},
        "model": result.model,
        "deployment": result.deployment,
        "devices": [
            {
                "device_id": cost.device_id,
                "name": cost.device_name,
                "profile": cost.profile,
                "simulated": cost.simulated,
                "busy_seconds": {"wall": cost.busy_seconds, "modelled": cost.modelled_busy_seconds},
                "joules": cost.joules,
                "source": cost.source,
                "joules_per_token": cost.joules_per_token,
                "rejected_rows": cost.rejected_rows,
                "joules_rejected": cost.joules_rejected,
            }
            for cost in result.devices
        ],
    }


def print_cost(*results: GenerateResult) -> None:
    """Timings and the table per device, to stderr."""
    for result in results:
        note(summary(result))
    print_devices_cost(combined(results), to_stderr=True)


def print_devices_cost(costs: Sequence[DeviceCost], *, to_stderr: bool = False) -> None:
    columns = [
        Column("device", "names"),
        Column("profile"),
        Column("wall\nbusy s", "figure"),
        Column("modelled\nbusy s", "figure"),
        Column("J", "figure"),
        Column("J/token", "figure"),
        Column("source"),
    ]
    print_table(columns, [_row(cost) for cost in costs], to_stderr=to_stderr)


def summary(result: GenerateResult) -> str:
    """One line: tokens, time to the first, rate; wall and, where there is one, modelled."""
    parts = [count_text(result.completion_tokens, "token"), f"first after {figure(result.ttft_seconds)} s"]
    if result.reused_tokens:
        parts[1] += f" ({result.reused_tokens} of {result.prompt_tokens} prompt tokens were known)"
    if result.tpot_seconds:
        parts.append(f"{figure(1 / result.tpot_seconds)} tokens/s")
    if result.drafted_tokens:
        parts.append(f"{result.accepted_tokens} of {result.drafted_tokens} drafted tokens held")
    line = ", ".join(parts)
    if result.modelled_ttft_seconds is not None:
        modelled = f"first after {figure(result.modelled_ttft_seconds)} s"
        if result.modelled_tpot_seconds:
            modelled += f", {figure(1 / result.modelled_tpot_seconds)} tokens/s"
        line += f" (modelled: {modelled})"
    if result.finish_reason == "length":
        line += "; stopped at the token limit"
    elif result.finish_reason == "cancelled":
        line += "; cancelled before its end"
    if result.recoveries:
        line += f"; its devices failed {count_text(result.recoveries, 'time')}, for {figure(result.recovery_seconds)} s in all"
        if result.recovery == "fast":
            line += ", and its text may differ by rounding"
    return line


def combined(results: Sequence[GenerateResult]) -> tuple[DeviceCost, ...]:
    """Several answers' costs by device, in order of first use. A device that was not metered once is not metered in sum."""
    tokens = sum(result.completion_tokens for result in results)
    sums: dict[str, DeviceCost] = {}
    for cost in (cost for result in results for cost in result.devices):
        before = sums.get(cost.device_id)
        joules = cost.joules if before is None else _add(before.joules, cost.joules)
        sums[cost.device_id] = replace(
            cost,
            busy_seconds=cost.busy_seconds + (before.busy_seconds if before else 0.0),
            modelled_busy_seconds=cost.modelled_busy_seconds
            if before is None
            else _add(before.modelled_busy_seconds, cost.modelled_busy_seconds),
            joules=joules,
            joules_per_token=joules / tokens if joules is not None and tokens else None,
            rejected_rows=cost.rejected_rows + (before.rejected_rows if before else 0),
            joules_rejected=cost.joules_rejected if before is None else _add(before.joules_rejected, cost.joules_rejected),
        )
    return tuple(sums.values())


def _add(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left + right


def _row(cost: DeviceCost) -> list[str]:
    return [
        cost.device_name,
        cost.profile,
        figure(cost.busy_seconds),
        figure(cost.modelled_busy_seconds),
        NONE if cost.joules is None else figure(cost.joules),
        figure(cost.joules_per_token),
        cost.source,
    ]
