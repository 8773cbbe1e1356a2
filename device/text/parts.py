"""Chat templates that take a text only as a part of a message's content, as those of some models that see do (GLM-Edge-V).

Given a text as it is, such a template leaves it out without a word. Which roles it does so for is found out by trying.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from device.text.tools import Plain, Render
from protos.errors import InvalidInput

_USER, _SYSTEM, _ASSISTANT = "user", "system", "assistant"
# Who speaks before a message of the role that is tried.
_BEFORE = {_USER: (), _SYSTEM: (), _ASSISTANT: (_USER,)}
_AFTER = {_USER: (), _SYSTEM: (_USER,), _ASSISTANT: (_USER,)}


def roles_in_parts(render: Render) -> frozenset[str]:
    """Roles whose texts the template shows as parts and not as they are."""
    everybody = (_SYSTEM, _USER, _ASSISTANT)
    if _shown(render, everybody, frozenset()) == set(everybody):  # as nearly all do: once is enough
        return frozenset()
    found: set[str] = set()
    for role in (_USER, _SYSTEM, _ASSISTANT):
        told = (*_BEFORE[role], role, *_AFTER[role])
        if role in _shown(render, told, frozenset(found)):
            continue
        if role in _shown(render, told, frozenset({*found, role})):
            found.add(role)
        elif role == _USER:  # a template that shows nobody's words: no more time for it
            break
    return frozenset(found)


def in_parts(messages: Iterable[Plain], roles: frozenset[str]) -> list[Plain]:
    """The messages as the template takes them."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]} if message["role"] in roles else message
        for message in messages
    ]


def _shown(render: Render, told: Sequence[str], parts: frozenset[str]) -> set[str]:
    """Whose words are in the prompt of a conversation of these roles; nobody's where the template refuses it."""
    try:
        text = render(in_parts([{"role": role, "content": _words(role)} for role in told], parts), [])
    except InvalidInput:
        return set()
    return {role for role in told if _words(role) in text}


def _words(role: str) -> str:
    return f"glmfleet-{role}"
