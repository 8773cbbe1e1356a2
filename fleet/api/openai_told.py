"""How a request of OpenAI's is to be answered: which choices, and what of them is told."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable

from device.text.calls import tools_told
from fleet.api.openai_choices import ChatChoice, TextChoice
from fleet.api.openai_reply import Reply
from fleet.api.openai_request import ChatBody, CompletionBody


def chat_reply(body: ChatBody, told: Iterable[str]) -> Reply:
    """`told`: the tools of its requests."""
    name, tools = f"chatcmpl-{uuid.uuid4().hex}", tools_told(told)
    one_call, logprobs = body.parallel_tool_calls is False, bool(body.logprobs)
    choices = [ChatChoice(name, index, tools, one_call, logprobs) for index in range(body.n or 1)]
    kinds = ("chat.completion", "chat.completion.chunk")
    return Reply(name, *kinds, int(time.time()), body.model, choices, body.n or 1, body.include_usage)


def text_reply(body: CompletionBody) -> Reply:
    echoes = [(one if isinstance(one, str) else "") if body.echo else None for one in body.prompts for _ in range(body.n or 1)]
    choices = [TextChoice(index, body.logprobs is not None, echo) for index, echo in enumerate(echoes)]
    kind, name = "text_completion", f"cmpl-{uuid.uuid4().hex}"
    return Reply(name, kind, kind, int(time.time()), body.model, choices, body.n or 1, body.include_usage)
