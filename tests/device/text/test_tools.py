"""Tools in the words of real templates (structure as published; texts shortened)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial

import pytest

from device.text.formats import CallForm
from device.text.messages import Message, ToolCall
from device.text.model import TextModel
from device.text.template import ChatTemplate
from device.text.tools import Dialect, find_dialect, form_of_calls
from protos.errors import InvalidInput
from tests.support import tokenizer_files as files
from tests.support.tokenizer_files import CHATML

# THUDM/glm-4-9b-chat: tools in a message, a call's name as metadata.
GLM4_FIRST = (
    "[gMASK]<sop>{% for item in messages %}{% if item['tools'] is defined %}<|system|>\nTools:{% set tools = item['tools'] %}"
    "{% for tool in tools %}{% if tool['type'] == 'function' %}\n\n## {{ tool['function']['name'] }}\n\n"
    "{{ tool['function'] | tojson(indent=4) }}\n{% endif %}{% endfor %}{% endif %}"
    "{% if item['content'] %}<|{{ item['role'] }}|>{{ item['metadata'] }}\n{{ item['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# THUDM/glm-4-9b-chat-hf, GLM-4-0414.
GLM4 = (
    "[gMASK]<sop>{%- if tools -%}<|system|>\nTools:{%- for tool in tools %}"
    "{%- set function = tool.function if tool.get('function') else tool %}"
    "\n\n## {{ function.name }}\n\n{{ function | tojson(indent=4, ensure_ascii=False) }}{%- endfor %}{%- endif -%}"
    "{%- for message in messages %}{%- set role = message['role'] %}{%- set meta = message.get('metadata', '') %}"
    "{%- if role == 'system' %}<|system|>\n{{ message['content'] }}{%- elif role == 'user' %}<|user|>\n{{ message['content'] }}"
    "{%- elif role == 'assistant' and not meta %}<|assistant|>\n{{ message['content'] }}"
    "{%- elif role == 'assistant' and meta %}<|assistant|>{{ meta }}\n{{ message['content'] }}"
    "{%- elif role == 'observation' %}<|observation|>\n{{ message['content'] }}{%- endif %}{%- endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# GLM-4.5.
GLM45 = (
    "[gMASK]<sop>{%- if tools -%}<|system|>\n{% for tool in tools %}{{ tool | tojson(ensure_ascii=False) }}\n{% endfor %}{%- endif -%}"
    "{% for m in messages %}{%- if m.role == 'user' -%}<|user|>\n{{ m.content }}"
    "{%- elif m.role == 'assistant' -%}<|assistant|>\n{{ m.content }}"
    "{% if m.tool_calls %}{% for tc in m.tool_calls %}{%- if tc.function %}{%- set tc = tc.function %}{%- endif %}"
    "\n<tool_call>{{ tc.name }}\n{% set _args = tc.arguments %}{% for k, v in _args.items() %}"
    "<arg_key>{{ k }}</arg_key>\n<arg_value>"
    "{{ v | tojson(ensure_ascii=False) if v is not string else v }}</arg_value>\n{% endfor %}</tool_call>"
    "{% endfor %}{% endif %}{%- elif m.role == 'tool' -%}<|observation|>\n<tool_response>\n{{ m.content }}\n</tool_response>"
    "{%- elif m.role == 'system' -%}<|system|>\n{{ m.content }}{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
WEATHER = json.dumps({"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}})
TALK = [
    Message("user", "Weather in Ürümqi?"),
    Message("assistant", "Let me see.", (ToolCall("get_weather", '{"city": "Ürümqi", "days": 2}'),)),
    Message("tool", "snow"),
]


def model(template: str) -> TextModel:
    tokenizer = files.byte_level()
    texts = {"tokenizer.json": tokenizer, "chat_template.jinja": template.encode()}
    return TextModel.load(texts, [files.EOS], files.vocab_size(tokenizer), lambda: datetime(2026, 1, 2, tzinfo=UTC))


def text(template: str, messages: list[Message], tools: list[str]) -> str:
    loaded = model(template)
    return loaded._tokenizer.decode(loaded.chat(messages, tools=tools), skip_special_tokens=False)


@pytest.mark.parametrize(
    ("template", "dialect"),
    [
        (GLM4_FIRST, Dialect(False, True)),
        (GLM4, Dialect(False, False)),
        (GLM45, Dialect(True, False)),
        (CHATML, None),
        ("{{ 1 / 0 }}", None),
    ],
)
def test_a_template_shows_what_it_speaks(template: str, dialect: Dialect | None) -> None:
    compiled = ChatTemplate(template, {}, lambda: datetime.now(UTC))
    render = partial(compiled.render, add_generation_prompt=True)
    assert find_dialect(lambda messages, tools: render({"messages": messages, "tools": tools or None})) == dialect


@pytest.mark.parametrize("template", [GLM4_FIRST, GLM4])
def test_glm_4_gets_metadata_and_observations(template: str) -> None:
    told = text(template, TALK, [WEATHER])
    assert told.startswith("[gMASK]<sop><|system|>\nTools:\n## get_weather\n\n{")
    assert told.endswith(
        "<|user|>\nWeather in Ürümqi?<|assistant|>\nLet me see."
        '<|assistant|>get_weather\n{"city": "Ürümqi", "days": 2}<|observation|>\nsnow<|assistant|>'
    )


def test_glm_45_gets_openais_own() -> None:
    told = text(GLM45, TALK, [WEATHER])
    assert told.endswith(
        "<|assistant|>\nLet me see.<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Ürümqi</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call><|observation|>\n<tool_response>\nsnow\n</tool_response><|assistant|>"
    )


def test_without_tools_nothing_changes() -> None:
    assert text(GLM4, [Message("user", "Hi")], []) == "[gMASK]<sop><|user|>\nHi<|assistant|>"
    assert text(CHATML, [Message("user", "Hi")], []).startswith("<|im_start|>user\nHi")


def test_a_template_that_knows_no_tools_is_told_of_them_in_a_system_message() -> None:
    told = text(CHATML, [Message("system", "Be brief."), *TALK], [WEATHER])
    assert told.startswith("<|im_start|>system\nBe brief.\n\nYou can call functions.")
    assert WEATHER in told
    call = '{"name": "get_weather", "arguments": {"city": "Ürümqi", "days": 2}}'
    assert f"Let me see.\n<tool_call>\n{call}\n</tool_call>" in told
    assert "<tool_response>\nsnow\n</tool_response>" in told
    assert text(CHATML, TALK[:1], [WEATHER]).startswith("<|im_start|>system\nYou can call functions.")
    assert "call functions" not in text(CHATML, TALK, []), "what was called is shown, though nothing can be called"


@pytest.mark.parametrize(
    ("template", "form"),
    [(GLM4_FIRST, CallForm.LINES), (GLM4, CallForm.LINES), (GLM45, CallForm.TAGS), (CHATML, CallForm.JSON), ("{{ 1 / 0 }}", CallForm.JSON)],
)
def test_a_call_is_asked_for_as_the_template_shows_one(template: str, form: CallForm) -> None:
    loaded = model(template)
    assert form_of_calls(loaded._rendered, loaded._dialect) is form


@pytest.mark.parametrize("tool", ["{", "[]", "[" * 10_000, '{"most": NaN}'])
def test_tools_that_are_no_objects(tool: str) -> None:
    with pytest.raises(InvalidInput, match="a tool is no"):
        model(GLM4).chat(TALK, tools=[tool])


@pytest.mark.parametrize("template", [GLM4_FIRST, GLM4, GLM45])
@pytest.mark.parametrize("nothing", ["", " ", "null", "{}"])
def test_a_call_without_arguments_is_one_of_none(template: str, nothing: str) -> None:
    talk = [TALK[0], Message("assistant", "", (ToolCall("get_weather", nothing),)), TALK[2]]
    talk_of_none = [TALK[0], Message("assistant", "", (ToolCall("get_weather", "{}"),)), TALK[2]]
    assert text(template, talk, [WEATHER]) == text(template, talk_of_none, [WEATHER])
