"""Whether the numbers of a message can be true: what another machine says is checked before it is summed, stored or shown."""

from __future__ import annotations

import math

from google.protobuf.message import Message

_HIGHEST = 2**63 - 1  # what a database's integer holds


def implausible(message: Message) -> str | None:
    """The first number, as "energy.busy_joules = nan", that is not finite or beyond 63 bits; None when there is none."""
    for field, value in message.ListFields():
        for one in value if field.is_repeated else (value,):
            if isinstance(one, Message):
                if problem := implausible(one):
                    return f"{field.name}.{problem}"
            elif isinstance(one, int | float) and not (math.isfinite(one) and abs(one) <= _HIGHEST):
                return f"{field.name} = {one:g}"
    return None
