"""Prompts to ids, as the model's own files say."""

from __future__ import annotations

import base64
import json
import struct
from datetime import UTC, datetime

import pytest

from device.text.messages import Message
from device.text.model import TextModel
from protos.errors import Corrupt, InvalidInput
from tests.support import tokenizer_files as files

TOKENIZER = files.byte_level()
SIZE = files.vocab_size(TOKENIZER)
CONFIG = json.dumps({"chat_template": files.CHATML, "bos_token": "<s>", "eos_token": {"content": "</s>"}}).encode()
USER = [Message("user", "hello")]


def load(vocab_size: int = SIZE, **replaced: bytes | None) -> TextModel:
    named = {"tokenizer.json": TOKENIZER, "tokenizer_config.json": CONFIG}
    names = {"tokenizer": "tokenizer.json", "config": "tokenizer_config.json", "template": "chat_template.jinja"}
    named |= {names[name]: data for name, data in replaced.items() if data is not None}
    missing = {names[name] for name, data in replaced.items() if data is None}
    return TextModel.load(
        {name: data for name, data in named.items() if name not in missing},
        [files.EOS],
        vocab_size,
        lambda: datetime(2026, 1, 2, tzinfo=UTC),
    )


def text_of(model: TextModel, ids: list[int]) -> str:
    """With special tokens."""
    return model._tokenizer.decode(ids, skip_special_tokens=False)


def test_text_is_encoded_whole_whatever_the_file_says_of_truncation() -> None:
    model = load()
    assert model.decode(model.encode("hello world, hello é 中")) == "hello world, hello é 中"
    assert len(model.encode("x" * 100)) == 100


def test_a_chat_goes_through_the_models_template() -> None:
    model = load()
    ids = model.chat(USER)
    assert text_of(model, ids) == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert ids[0] == files.IM_START
    assert model.chat(USER, add_generation_prompt=False) == ids[: ids.index(files.IM_START, 1)]


def test_a_raw_prompt_that_begins_with_the_prefix_gets_no_second_one() -> None:
    adding = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "<|im_start|>")]
        + [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {
            name: {"id": name, "ids": [number], "tokens": [name]} for name, number in (("<s>", files.BOS), ("<|im_start|>", files.IM_START))
        },
    }
    model = load(tokenizer=files.byte_level(post_processor=adding))
    hello = load().encode("hello")
    assert model.encode("hello") == [files.BOS, files.IM_START, *hello]
    assert model.encode("<s><|im_start|>hello") == [files.BOS, files.IM_START, *hello]
    assert model.encode("<s>hello") == [files.BOS, files.IM_START, files.BOS, *hello]  # not the prefix: as it was asked for
    assert model.encode("") == [files.BOS, files.IM_START]


def test_special_tokens_are_added_once() -> None:
    """The post-processor adds <s>; the template writes <s> itself."""
    adding = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [files.BOS], "tokens": ["<s>"]}},
    }
    model = load(tokenizer=files.byte_level(post_processor=adding), template=b"{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")
    hello = load().encode("hello")
    assert model.encode("hello") == [files.BOS, *hello]
    assert model.chat(USER) == [files.BOS, *hello, files.EOS]


def test_which_template_counts() -> None:
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    assert load(config=json.dumps({"chat_template": named}).encode()).chat(USER) == load().encode("yes")
    assert load(template=b"the file").chat(USER) == load().encode("the file")
    assert load(template=b"{{ strftime_now('%Y-%m-%d') }}").chat(USER) == load().encode("2026-01-02")


@pytest.mark.parametrize("config", [None, b"{}", b'{"chat_template": null}', b'{"chat_template": [{"name": "rag", "template": "x"}]}'])
def test_without_template_a_chat_is_refused_and_text_is_not(config: bytes | None) -> None:
    model = load(config=config)
    assert model.encode("hello")
    with pytest.raises(InvalidInput, match="no chat template") as caught:
        model.chat(USER)
    assert caught.value.advice


@pytest.mark.parametrize("template", [b"{% nosuch %}", b"{% if %}", b"{{ messages | nosuch }}", b"x" * (1 << 20) + b"y", b"\xff\xfe"])
def test_a_template_that_is_none_is_no_ones_business_but_a_chats(template: bytes) -> None:
    model = load(template=template)
    assert model.decode(model.encode("hello")) == "hello"
    with pytest.raises(InvalidInput, match="chat template is") as caught:
        model.chat(USER)
    assert "raw prompt" in caught.value.advice
    assert "chat template is" in model.chat_problem()


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (files.CHATML.encode(), ""),
        (None, ""),
        (b"{{ 1 / 0 }}", "refuses these messages: division by zero"),
        (b"{% if messages[0].role != 'user' %}{{ raise_exception('no') }}{% endif %}", ""),
    ],
)
def test_whether_one_can_talk_with_a_model_is_known_beforehand(template: bytes | None, problem: str) -> None:
    config = b"{}" if template is None else CONFIG
    found = load(template=template, config=config).chat_problem()
    assert problem in found
    assert bool(found) == bool(problem)


@pytest.mark.parametrize(
    ("ending", "content", "opened"),
    [
        ("<think>", "hello", True),
        ("\n<think>\n", "hello", True),
        ("<think></think>", "hello", False),
        ("", "<think>", False),
        ("", "hello", False),
        ("so: <think>", "hello", False),
    ],
)
def test_a_template_may_begin_the_thought(ending: str, content: str, opened: bool) -> None:
    model = load(template=("{{ messages[0].content }}<|im_start|>" + ending).replace("\n", "{{ '\\n' }}").encode())
    assert model.opens_thought(model.chat([Message("user", content)])) == opened


def test_an_end_token_that_is_none_opens_no_thought() -> None:
    model = TextModel.load({"tokenizer.json": TOKENIZER, "tokenizer_config.json": CONFIG}, [files.EOS, SIZE + 7], SIZE)
    assert not model.opens_thought(model.encode("write the tag <think>"))


@pytest.mark.parametrize("characters", [b"\x01", struct.pack("<I", 0) + b"abc", struct.pack("<I", 1024) + b"\xff" * 1024 + b"x"])
def test_a_table_of_characters_that_is_none_ends_in_an_error_of_ours(characters: bytes) -> None:
    """The library's Rust panics over some of them, which is no Exception in Python."""
    normalizer = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(characters).decode()}
    model = {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
    tokenizer = {"version": "1.0", "added_tokens": [], "normalizer": normalizer, "model": model}
    with pytest.raises((Corrupt, InvalidInput)):
        TextModel.load({"tokenizer.json": json.dumps(tokenizer).encode()}, [0], 2).encode("abé ａ")


def test_bad_messages_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no messages"):
        load().chat([])
    with pytest.raises(InvalidInput, match="chat template refuses"):
        load(template=b"{{ messages[0]['content'].missing.deeper }}").chat(USER)


def test_half_a_surrogate_pair_is_refused() -> None:
    for ask in (load().encode, lambda text: load().chat([Message("user", text)])):
        with pytest.raises(InvalidInput, match="cannot be tokenized") as caught:
            ask("a\ud800b")
        assert "\n" not in caught.value.detail


def test_a_prompt_beyond_all_bounds_is_refused_before_work() -> None:
    with pytest.raises(InvalidInput, match="longer than"):
        load().encode("x" * (4 * 1024 * 1024 + 1))


def test_a_tokenizer_of_another_model_is_noticed() -> None:
    assert load().encode("hello") == load(vocab_size=SIZE - 1).encode("hello")
    assert max(load().encode("你")) == SIZE - 1  # its first bytes are the last merge
    with pytest.raises(Corrupt, match=f"gives token {SIZE - 1}, but the model knows {SIZE - 1} tokens"):
        load(vocab_size=SIZE - 1).encode("你")


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b"\xff", TOKENIZER[:-100], TOKENIZER.replace(b'"BPE"', b'"XYZ"')])
def test_a_damaged_tokenizer_is_one_line(data: bytes) -> None:
    with pytest.raises(Corrupt, match=r"tokenizer\.json cannot be read") as caught:
        load(tokenizer=data)
    assert "\n" not in caught.value.detail


def test_other_damaged_files_are_one_line() -> None:
    with pytest.raises(Corrupt, match=r"tokenizer_config\.json"):
        load(config=b"{")
    with pytest.raises(Corrupt, match=r"tokenizer_config\.json is not an object"):
        load(config=b"[]")
    with pytest.raises(InvalidInput, match=r"no tokenizer\.json"):
        load(tokenizer=None)


def test_tags_that_part_an_answer_are_text_of_it_even_where_they_are_special() -> None:
    plain = json.loads(TOKENIZER)
    first = SIZE
    tags = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<|user|>"]
    plain["added_tokens"] += [files.added(first + number, text, True) for number, text in enumerate(tags)]
    model = TextModel.load({"tokenizer.json": json.dumps(plain).encode()}, [first + 4], SIZE + 20)
    ids = [first, *model.encode("hello"), first + 1, first + 2, first + 3, first + 4]
    assert model.decode(ids) == "<think>hello</think><tool_call></tool_call>"
    stream = model.stream()
    assert stream.push(ids) + stream.finish() == model.decode(ids)


def test_all_ends_are_known_and_are_no_text() -> None:
    model = TextModel.load({"tokenizer.json": TOKENIZER}, [files.EOS, files.THINK], SIZE)
    assert model.eos_token_ids == {files.EOS, files.THINK}
    assert model.decode([*model.encode("hello"), files.THINK, files.EOS]) == "hello"
