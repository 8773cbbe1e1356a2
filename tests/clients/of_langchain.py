"""LangChain's ChatOpenAI, OpenAI and OpenAIEmbeddings."""

from __future__ import annotations

import sys
from typing import Any

from features import FUNCTION, HELLO, MODEL, SCHEMA, SEEN, check_call, refused, tell
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

SERVER: Any = {"base_url": f"{sys.argv[1]}/v1", "api_key": "none", "max_retries": 0}  # pragma: allowlist secret
TOOL: Any = {"type": "function", "function": FUNCTION}


def chat(model: str = MODEL, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(model=model, **{"max_tokens": 200, **options}, **SERVER)


def stream() -> None:
    model = chat(temperature=0, max_tokens=8)
    assert "".join(str(chunk.content) for chunk in model.stream(HELLO)) == model.invoke(HELLO).content


def schema() -> None:
    found: Any = chat().with_structured_output({"title": "reply", **SCHEMA}, method="json_schema").invoke(HELLO)
    assert found["answer"] in ("yes", "no")


def call() -> Any:
    answer = chat().bind_tools([TOOL], tool_choice="required", parallel_tool_calls=False).invoke(HELLO)
    (called,) = answer.tool_calls
    check_call(called["name"], called["args"])
    return answer


def result() -> None:
    asked = call()
    chat(max_tokens=4).bind_tools([TOOL]).invoke(
        [HumanMessage("hello"), asked, ToolMessage("rain", tool_call_id=asked.tool_calls[0]["id"])]
    )


def logprobs() -> None:
    told = chat(max_tokens=2).bind(logprobs=True, top_logprobs=2).invoke(HELLO).response_metadata["logprobs"]["content"]
    assert len(told[0]["top_logprobs"]) == 2


def choices() -> None:
    assert len(chat(n=2, max_tokens=4).generate([[HumanMessage("hello")]]).generations[0]) == 2


def responses() -> None:
    model = chat(temperature=0, max_tokens=8, use_responses_api=True)
    assert model.invoke(HELLO).text == "".join(chunk.text for chunk in model.stream(HELLO))


def embed() -> None:
    # Else it makes token ids by itself, with a tokenizer of OpenAI's.
    found = OpenAIEmbeddings(model=MODEL, check_embedding_ctx_length=False, **SERVER).embed_documents(["hello", "bye"])
    assert found[0] != found[1]


tell(
    {
        "chat": lambda: chat(max_tokens=4).invoke(HELLO),
        "stream": stream,
        "schema": schema,
        "tools": call,
        "result": result,
        "choices": choices,
        "logprobs": logprobs,
        "text": lambda: OpenAI(model=MODEL, max_tokens=4, **SERVER).invoke("hello"),
        "embed": embed,
        "responses": responses,
        "image": lambda: refused(lambda: chat().invoke(SEEN), "images"),
        "unknown": lambda: refused(lambda: chat("nil").invoke(HELLO), "nil"),
    }
)
