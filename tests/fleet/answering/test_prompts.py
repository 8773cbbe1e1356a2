"""From a request to what the head is given: what the template is told, which tokens may come, and what is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from device.text.formats import Format
from device.text.messages import Message
from device.text.model import TextModel
from fleet.answering.prompts import format_of, prompt_ids, submit, token_rules
from fleet.answering.views import GenerateRequest
from protos.errors import InvalidInput
from protos.manifest import Manifest, Provenance, Quantization
from protos.sampling import TokenRules, rules_from_message
from protos.told import Told, told_from_message
from quantize.checkpoints.huggingface import open_huggingface
from tests.support import tokenizer_files as files
from tests.support.blanks import GOLDEN

SEEN = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% if m.reasoning_content is defined %}({{ m.reasoning_content }}){% endif %}"
    "{% if m.metadata is defined %}[{{ m.metadata }}]{% endif %}{% if m.name is defined %}@{{ m.name }}{% endif %};{% endfor %}"
    "{{ enable_thinking }},{{ add_generation_prompt }},{{ bos_token }}"
)
HELLO = (Message("user", "hello"),)


@pytest.fixture(scope="module")
def text() -> TextModel:
    tokenizer = files.byte_level()
    config = json.dumps({"chat_template": SEEN, "bos_token": "<s>"}).encode()
    return TextModel.load({"tokenizer.json": tokenizer, "tokenizer_config.json": config}, [files.EOS], files.vocab_size(tokenizer))


@pytest.fixture(scope="module")
def manifest(text: TextModel) -> Manifest:
    with open_huggingface(GOLDEN) as checkpoint:
        config = replace(checkpoint.config, mask_token_ids=(), eos_token_ids=(files.EOS,), vocab_size=text.vocab_size)
    return Manifest(config, Quantization(8, 32, True), Provenance("", "", ""), ())


def seen(text: TextModel, manifest: Manifest, request: GenerateRequest) -> str:
    return text._tokenizer.decode(prompt_ids(text, request, manifest.config), skip_special_tokens=False)


def test_variables_reach_the_template(text: TextModel, manifest: Manifest) -> None:
    request = GenerateRequest(
        messages=HELLO, chat_template_kwargs='{"enable_thinking": false, "bos_token": "B"}', add_generation_prompt=False
    )
    assert seen(text, manifest, request) == "user:hello;False,False,B"
    assert seen(text, manifest, GenerateRequest(prompt="hello")) == "user:hello;,True,<s>"


def test_what_stands_beside_a_message_reaches_the_template(text: TextModel, manifest: Manifest) -> None:
    talk = (Message("user", "a", name="Ann"), Message("assistant", "b", reasoning_content="so", metadata="tool"))
    assert seen(text, manifest, GenerateRequest(messages=talk)) == "user:a@Ann;assistant:b(so)[tool];,True,<s>"
    assert seen(text, manifest, GenerateRequest(messages=(Message("user", "a", reasoning_content=""),))).startswith("user:a();")


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "chat_template", "self"])
def test_variables_that_are_ours_are_refused_by_name(text: TextModel, manifest: Manifest, name: str) -> None:
    with pytest.raises(InvalidInput, match=f"^chat_template_kwargs may not have {name}$"):
        prompt_ids(text, GenerateRequest(messages=HELLO, chat_template_kwargs=json.dumps({name: 1})), manifest.config)


@pytest.mark.parametrize("prompt", [GenerateRequest(text="hello"), GenerateRequest(prompt_ids=(5,))], ids=["text", "ids"])
@pytest.mark.parametrize("name", ["tools", "chat_template_kwargs", "add_generation_prompt"])
def test_what_a_raw_prompt_would_drop_is_refused_by_name(text: TextModel, manifest: Manifest, prompt: GenerateRequest, name: str) -> None:
    given: dict[str, Any] = {"tools": ("{}",), "chat_template_kwargs": "{}", "add_generation_prompt": False}
    with pytest.raises(InvalidInput, match=f"^{name} is for the chat template"):
        prompt_ids(text, replace(prompt, **{name: given[name]}), manifest.config)


def test_a_bad_word_is_kept_out_at_the_begin_and_behind_a_space(text: TextModel) -> None:
    hello, wo, spaced = text.pieces("hello"), text.pieces("wo"), text.pieces(" wo")
    assert (len(hello), len(wo), len(spaced)) == (1, 2, 1)
    assert token_rules(text, GenerateRequest(bad_words=(" hello",))).bad_words == (tuple(hello),), "behind a space it is two tokens"
    assert token_rules(text, GenerateRequest(bad_words=("h",))).bad_words == (tuple(text.pieces("h")),)
    assert token_rules(text, GenerateRequest(bad_words=("wo",))).bad_words == (tuple(wo),), "another length: not the same word to vLLM"


PING = '{"type": "function", "function": {"name": "ping"}}'


def test_a_format_is_what_the_request_says() -> None:
    request = GenerateRequest(tools=(PING,), called_tools=("ping",), json_schema="true", parallel_tool_calls=False)
    assert format_of(request) == Format("true", (PING,), ("ping",), parallel=False)
    assert format_of(GenerateRequest(tools=(PING,))).free


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (GenerateRequest(called_tools=("pong",), tools=(PING,)), "pong is none of the tools"),
        (GenerateRequest(json_schema="{}", ignore_eos=True), "ignore_eos and a format of the answer"),
    ],
)
def test_a_format_that_cannot_hold_is_refused(request_: GenerateRequest, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        format_of(request_)


def test_rules_and_ends_are_sent(text: TextModel, manifest: Manifest) -> None:
    request = GenerateRequest(stop_token_ids=(7, 8), min_tokens=2, allowed_token_ids=(5, 7), logit_bias=((5, 1.5),))
    message = submit(request, [5], manifest, 64, 0, token_rules(text, request))
    assert list(message.stop_token_ids) == [files.EOS, 7, 8]
    assert rules_from_message(message.sampling) == TokenRules(2, (5, 7), (), ((5, 1.5),))
    assert list(submit(replace(request, ignore_eos=True), [5], manifest, 64, 0).stop_token_ids) == [7, 8]


def test_an_answer_of_nothing_is_for_what_is_told_of_the_prompt(manifest: Manifest) -> None:
    manifest = replace(manifest, config=replace(manifest.config, prefix_whole=False))
    for request in (GenerateRequest(echo=True), GenerateRequest(prompt_logprobs=3), GenerateRequest(embedding=True)):
        message = submit(replace(request, max_tokens=0), [5], manifest, 64, 0)
        assert message.max_tokens == 0
        assert told_from_message(message.sampling) == Told(None, request.prompt_logprobs, request.embedding)


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (GenerateRequest(text="a", suffix="b"), "suffix: this model fills no blanks"),
        (GenerateRequest(prompt_ids=(5,), suffix="b"), "a suffix is for a text"),
        (GenerateRequest(text="a", forced_ids=(5,), echo=True), "forced_ids are given"),
        (GenerateRequest(text="a", forced_ids=(5,), prompt_logprobs=0), "forced_ids are given"),
    ],
)
def test_what_does_not_go_with_a_prompt_is_refused(text: TextModel, manifest: Manifest, request_: GenerateRequest, why: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{why}"):
        prompt_ids(text, request_, manifest.config)


@pytest.mark.parametrize(
    ("request_", "rules", "why"),
    [
        (GenerateRequest(min_tokens=6, max_tokens=5), TokenRules(6), "min_tokens is 6, and the answer has at most 5"),
        (GenerateRequest(min_tokens=64), TokenRules(64), "min_tokens is 64, and the answer has at most 63"),
        (GenerateRequest(prompt_logprobs=21), TokenRules(), "prompt_logprobs is 21: it must be at least 0 and at most 20"),
        (GenerateRequest(max_tokens=-1, echo=True), TokenRules(), "max_tokens is -1"),
        (GenerateRequest(stop_token_ids=(9999,)), TokenRules(), "token id 9999 is not in the vocabulary"),
        (GenerateRequest(), TokenRules(allowed_token_ids=(9999,)), "token id 9999 is not in the vocabulary"),
        (GenerateRequest(), TokenRules(logit_bias=((9999, 1.0),)), "token id 9999 is not in the vocabulary"),
        (
            GenerateRequest(),
            TokenRules(logit_bias=((5, -101.0),)),
            "logit_bias of token 5 is -101.0: it must be at least -100 and at most 100",
        ),
        (GenerateRequest(), TokenRules(bad_words=((),)), "bad_words has one without a token"),
        (GenerateRequest(), TokenRules(bad_words=((5,),) * 1025), "bad_words has 1025 texts: it may have 1024 at most"),
        (GenerateRequest(), TokenRules(bad_words=((5,) * 200,) * 100), "bad_words has 20000 tokens in all: it may have 16384 at most"),
        (GenerateRequest(stop_token_ids=(5,) * 1025), TokenRules(), "stop_token_ids has 1026 ids: it may have 1024 at most"),
    ],
)
def test_rules_that_cannot_hold_are_refused(manifest: Manifest, request_: GenerateRequest, rules: TokenRules, why: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{why}$"):
        submit(request_, [5], manifest, 64, 0, rules)


@pytest.mark.parametrize(
    ("request_", "context", "advice"),
    [
        (GenerateRequest(forced_ids=(5,) * 9), 8, "force fewer, or deploy it anew with a larger --context (up to {longest})"),
        (GenerateRequest(forced_ids=(5,) * 9), None, "force fewer"),
        (GenerateRequest(forced_ids=(5, 6), max_tokens=2), 8, "force fewer, or raise max_tokens"),
        (GenerateRequest(min_tokens=6, max_tokens=5), 64, "lower it, or raise max_tokens"),
        (GenerateRequest(min_tokens=64), 64, "lower it, or deploy it anew with a larger --context (up to {longest})"),
        (GenerateRequest(), 1, "shorten the prompt, or deploy it anew with a larger --context (up to {longest})"),
        (GenerateRequest(), None, "shorten the prompt"),
    ],
)
def test_only_what_would_help_is_advised(manifest: Manifest, request_: GenerateRequest, context: int | None, advice: str) -> None:
    """None: the context is the model's longest, and no deployment can have a larger one."""
    longest = manifest.config.max_positions
    prompt = [5] * (1 if context else longest if not request_.forced_ids else longest - 9)
    with pytest.raises(InvalidInput) as caught:
        submit(request_, prompt, manifest, context or longest, 0, TokenRules(request_.min_tokens))
    assert caught.value.advice == advice.format(longest=longest)
