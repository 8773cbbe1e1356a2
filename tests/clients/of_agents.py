"""OpenAI's Agents SDK: loops of calls and results, over chat completions and over responses."""

from __future__ import annotations

import sys
from typing import Any, Literal

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from features import MODEL, refused, tell
from pydantic import BaseModel

set_tracing_disabled(True)  # it goes to OpenAI
client = openai.AsyncOpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0)


class Reply(BaseModel):
    answer: Literal["yes", "no"]


@function_tool
def get_weather(unit: Literal["C", "F"]) -> str:
    """The weather."""
    return f"12 {unit}"


def run(kind: Any = OpenAIChatCompletionsModel, model: str = MODEL, **agent: Any) -> Any:
    settings = agent.pop("model_settings", ModelSettings(max_tokens=200))
    made = Agent(name="tester", model=kind(model, client), model_settings=settings, **agent)
    return Runner.run_sync(made, "hello", max_turns=3)


def call(kind: Any = OpenAIChatCompletionsModel) -> None:
    settings = ModelSettings(tool_choice="required", parallel_tool_calls=False, max_tokens=200)
    found = run(kind, tools=[get_weather], model_settings=settings, tool_use_behavior="stop_on_first_tool")
    assert found.final_output in ("12 C", "12 F")


def result() -> None:
    # A function has to be called in the first turn; its result goes back in the second, where the model may say anything.
    found = run(tools=[get_weather], model_settings=ModelSettings(tool_choice="required", parallel_tool_calls=False, max_tokens=200))
    assert [item.type for item in found.new_items][:2] == ["tool_call_item", "tool_call_output_item"]


def schema(kind: Any = OpenAIChatCompletionsModel) -> None:
    assert run(kind, output_type=Reply).final_output.answer in ("yes", "no")


def responses() -> None:
    schema(OpenAIResponsesModel)
    call(OpenAIResponsesModel)


tell(
    {
        "chat": run,
        "schema": schema,
        "tools": call,
        "result": result,
        "responses": responses,
        "unknown": lambda: refused(lambda: run(model="nil"), "nil"),
    }
)
