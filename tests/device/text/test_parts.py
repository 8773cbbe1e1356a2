"""Templates that take a text only as a part of a message's content."""

from __future__ import annotations

import json

import pytest

from device.text.messages import Message
from device.text.model import TextModel
from device.text.parts import in_parts, roles_in_parts
from device.text.tools import Plain
from tests.support import tokenizer_files as files

PARTS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
# As GLM-4.1V's and GLM-4.5V's.
EITHER = (
    "{% for message in messages %}{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}"
)
# A system message stands outside, an answer is joined to what follows.
MIXED = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + '!' }}{% else %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}{% endfor %}"
)
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0]['content'] }}"


def _model(source: str) -> TextModel:
    tokenizer = files.byte_level()
    config = json.dumps({"chat_template": source}).encode()
    return TextModel.load({"tokenizer.json": tokenizer, "tokenizer_config.json": config}, [files.EOS], files.vocab_size(tokenizer))


@pytest.mark.parametrize(
    ("source", "roles"),
    [
        (files.CHATML, set()),
        (EITHER, set()),
        (PARTS, {"user", "system", "assistant"}),
        (MIXED, {"user", "assistant"}),
        (REFUSES, set()),
        ("nothing of it", set()),
        ("{{ messages[0].content[0].text.missing.deeper }}", set()),
    ],
)
def test_which_roles_are_shown_as_parts_only(source: str, roles: set[str]) -> None:
    assert _model(source)._roles_in_parts == roles


def test_one_rendering_settles_what_nearly_all_templates_do() -> None:
    asked = []

    def render(messages: list[Plain], tools: list[Plain]) -> str:
        asked.append(messages)
        return "".join(message["content"] for message in messages)

    assert roles_in_parts(render) == frozenset()  # type: ignore[arg-type]
    assert len(asked) == 1


def test_other_messages_stay_as_they_are() -> None:
    messages: list[Plain] = [{"role": "user", "content": "a", "metadata": "m"}, {"role": "observation", "content": "b"}]
    assert in_parts(messages, frozenset({"user"})) == [
        {"role": "user", "content": [{"type": "text", "text": "a"}], "metadata": "m"},
        messages[1],
    ]


def test_a_users_text_is_in_the_prompt_of_such_a_model() -> None:
    model = _model(PARTS)
    assert "hello" in model.decode(model.chat([Message("user", "hello")]))
    assert "answered" in model.decode(model.chat([Message("user", "hello"), Message("tool", "answered")]))
