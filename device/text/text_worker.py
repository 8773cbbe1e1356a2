"""The process in which prompts are made: a stranger's tokenizer may take any time and memory there. It ends with its input.

A line of JSON in, a line out. First {"files": {name: bytes}, "eos_token_ids", "vocab_size", "words"} with the files behind it, answered by
{"words", "longest"}; then {"do": what, …} as `device.text.confined` asks, answered by {"found": …}. Each answer may be
{"error": {"name", "cause", "advice"}} instead.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from device.text.limits import limit_memory, limit_time
from device.text.messages import Message, ToolCall
from device.text.model import TextModel
from protos.errors import FleetError, InvalidInput

MORE_MEMORY_BYTES = 1536 << 20  # a prompt of 4 MiB takes 400 MB, GLM-4's tokenizer 200 MB
CPU_SECONDS = 60


def main() -> None:
    serve(lambda model: partial(_done, model))


def serve(begin: Callable[[TextModel], Callable[[Mapping[str, Any]], Any]]) -> None:
    """Until the input ends; `begin` gives what answers a question."""
    limit_memory(MORE_MEMORY_BYTES)
    limit_time(CPU_SECONDS)
    told = json.loads(sys.stdin.buffer.readline())
    files = {name: sys.stdin.buffer.read(size) for name, size in told["files"].items()}
    try:
        model = TextModel.load(files, told["eos_token_ids"], told["vocab_size"])
    except FleetError as error:
        _answer(_told(error))
        return
    del files
    _answer({"words": model.words.as_plain() if told["words"] else {}, "longest": model.longest})
    done = begin(model)
    for line in sys.stdin.buffer:
        limit_time(CPU_SECONDS)
        _answer(_answered(done, json.loads(line)))


def _answered(done: Callable[[Mapping[str, Any]], Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"found": done(asked)}
    except FleetError as error:
        return _told(error)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library's Rust is no Exception
        what = " ".join(str(error).split())[:200] or type(error).__name__
        return _told(InvalidInput(f"it cannot be made: {what}", advice="send another, or use another model"))


def _done(model: TextModel, asked: Mapping[str, Any]) -> Any:
    match asked["do"]:
        case "encode":
            return model.encode(asked["text"], asked["context"])
        case "pieces":
            return model.all_pieces(asked["texts"])
        case "chat":
            messages = [_message(one) for one in asked["messages"]]
            return model.chat(messages, asked["add_generation_prompt"], asked["tools"], asked["variables"], asked["context"])
        case "chat_problem":
            return model.chat_problem()
        case "frame":
            return model.frame


def _message(plain: Mapping[str, Any]) -> Message:
    return Message(**{**plain, "tool_calls": tuple(ToolCall(**call) for call in plain["tool_calls"])})


def _told(error: FleetError) -> dict[str, Any]:
    return {"error": {"name": type(error).__name__, "cause": error.cause, "advice": error.advice}}


def _answer(value: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
