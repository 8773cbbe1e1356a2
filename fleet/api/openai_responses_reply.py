"""What OpenAI's responses API answers: an object with items, or events that say how they came to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fleet.answering.views import GenerateResult, TokenChunk
from fleet.api.openai_choices import ChatChoice
from fleet.api.openai_reply import usage_of

Event = dict[str, Any]


@dataclass
class _OpenItem:
    """A thought or a message on its way, at `index` of the output."""

    kind: str  # "reasoning" or "message"
    id: str
    index: int
    text: str = ""
    logprobs: list[Any] = field(default_factory=list)


@dataclass
class ResponsesReply:
    """Of one answer; `told` is what is told of the request again, `created` in unix seconds."""

    id: str  # without "resp_"
    model: str
    created: int
    told: Mapping[str, Any]
    choice: ChatChoice
    _events: int = 0
    _open: _OpenItem | None = None
    _output: list[dict[str, Any]] = field(default_factory=list)

    def whole(self, result: GenerateResult) -> dict[str, Any]:
        choice = self.choice.whole(result)
        message, status = choice["message"], _status(result)
        thought, text, calls = message.get("reasoning_content", ""), message["content"] or "", message.get("tool_calls", ())
        logprobs = _flat(choice["logprobs"])
        output = [self._item("reasoning", thought, status="completed" if text or calls else status)] if thought else []
        if text or not calls:
            output.append(self._item("message", text, logprobs, "completed" if calls else status))
        output += [self._call(number, one) for number, one in enumerate(calls)]
        return self._response(result, output)

    def opening(self) -> list[Event]:
        begun = self._response(None, [])
        return [self._event("response.created", response=begun), self._event("response.in_progress", response=begun)]

    def piece(self, chunk: TokenChunk) -> list[Event]:
        return [event for choice in self.choice.piece(chunk) for event in self._grow(choice)]

    def closing(self, result: GenerateResult) -> list[Event]:
        events = [event for choice in self.choice.closing(result) for event in self._grow(choice)]
        if not self._output and self._open is None:
            events += self._begin("message")  # an answer without a word
        events += self._close(_status(result))
        response = self._response(result, self._output)
        return [*events, self._event(f"response.{response['status']}", response=response)]

    def failed(self, error: Mapping[str, Any]) -> Event:
        """`error`: OpenAI's object of it."""
        return self._event("error", code=error["code"], message=error["message"], param=error["param"])

    def _grow(self, choice: Mapping[str, Any]) -> Iterator[Event]:
        delta, logprobs = choice["delta"], _flat(choice["logprobs"])
        if thought := delta.get("reasoning_content"):
            yield from self._add("reasoning", thought, [])
        if text := delta.get("content"):
            yield from self._add("message", text, logprobs)
        elif logprobs and self._open is not None:
            self._open.logprobs += logprobs
        for call in delta.get("tool_calls", ()):
            yield from self._close("completed")
            item = self._call(call["index"], call)
            at = {"output_index": len(self._output)}
            yield self._event("response.output_item.added", item={**item, "arguments": "", "status": "in_progress"}, **at)
            at["item_id"] = item["id"]
            yield self._event("response.function_call_arguments.delta", delta=item["arguments"], **at)
            yield self._event("response.function_call_arguments.done", arguments=item["arguments"], name=item["name"], **at)
            yield self._event("response.output_item.done", item=item, output_index=len(self._output))
            self._output.append(item)

    def _add(self, kind: str, text: str, logprobs: Sequence[Any]) -> Iterator[Event]:
        if self._open is None or self._open.kind != kind:
            yield from self._close("completed")
            yield from self._begin(kind)
        assert self._open
        self._open.text += text
        self._open.logprobs += logprobs
        more = {"logprobs": list(logprobs)} if kind == "message" else {}
        yield self._event(f"response.{_TEXTS[kind]}.delta", delta=text, **more, **self._place())

    def _begin(self, kind: str) -> Iterator[Event]:
        index = len(self._output)
        self._open = _OpenItem(kind, self._name(kind), index)
        empty = {**self._item(kind, "", status="in_progress"), "content": []}
        yield self._event("response.output_item.added", item=empty, output_index=index)
        yield self._event("response.content_part.added", part=_part(kind, "", ()), **self._place())

    def _close(self, status: str) -> Iterator[Event]:
        if (item := self._open) is None:
            return
        more = {"logprobs": item.logprobs} if item.kind == "message" else {}
        yield self._event(f"response.{_TEXTS[item.kind]}.done", text=item.text, **more, **self._place())
        yield self._event("response.content_part.done", part=_part(item.kind, item.text, item.logprobs), **self._place())
        done = self._item(item.kind, item.text, item.logprobs, status)
        self._open = None
        self._output.append(done)
        yield self._event("response.output_item.done", item=done, output_index=item.index)

    def _place(self) -> dict[str, Any]:
        assert self._open
        return {"item_id": self._open.id, "output_index": self._open.index, "content_index": 0}

    def _item(self, kind: str, text: str, logprobs: Sequence[Any] = (), status: str = "completed") -> dict[str, Any]:
        own: dict[str, Any] = {"summary": []} if kind == "reasoning" else {"role": "assistant"}
        return {"id": self._name(kind), "type": kind, "status": status, **own, "content": [_part(kind, text, logprobs)]}

    def _call(self, number: int, call: Mapping[str, Any]) -> dict[str, Any]:
        function = call["function"]
        named = {"id": f"fc_{self.id}{number}", "type": "function_call", "status": "completed", "call_id": call["id"]}
        return {**named, "name": function["name"], "arguments": function["arguments"]}

    def _name(self, kind: str) -> str:
        return f"{'rs' if kind == 'reasoning' else 'msg'}_{self.id}"

    def _response(self, result: GenerateResult | None, output: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """None: it is on its way."""
        status = "in_progress" if result is None else _status(result)
        return {
            "id": f"resp_{self.id}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self.model,
            "output": list(output),
            **self.told,
            "usage": None if result is None else _usage(result, thought=any(item["type"] == "reasoning" for item in output)),
        }

    def _event(self, kind: str, **fields: Any) -> Event:
        self._events += 1
        return {"type": kind, "sequence_number": self._events - 1, **fields}


_TEXTS = {"reasoning": "reasoning_text", "message": "output_text"}


def _part(kind: str, text: str, logprobs: Sequence[Any]) -> dict[str, Any]:
    more = {"annotations": [], "logprobs": list(logprobs)} if kind == "message" else {}
    return {"type": _TEXTS[kind], "text": text, **more}


def _flat(logprobs: Mapping[str, Any] | None) -> list[Any]:
    """Of chat completions."""
    return list(logprobs["content"]) if logprobs else []


def _status(result: GenerateResult) -> str:
    return "incomplete" if result.finish_reason == "length" else "completed"


def _usage(result: GenerateResult, *, thought: bool) -> dict[str, Any]:
    """How many of the tokens were a thought's is not counted: 0 where there was none, else null. Beyond OpenAI's as chat completions."""
    usage = usage_of([result])
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": usage["prompt_tokens_details"],
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": None if thought else 0},
        "total_tokens": usage["total_tokens"],
        "seconds": usage["seconds"],
        "energy": usage["energy"],
    }
