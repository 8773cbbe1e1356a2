"""ChatGLM2's and ChatGLM3's prompts: the ids that their own code makes (tests/goldens/chatglm.py)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import pytest

from device.text.messages import Message
from device.text.model import TextModel
from protos.errors import InvalidInput
from quantize.checkpoints.chatglm_text import Generation, chatglm_template, chatglm_tokenizer, generation_of
from quantize.checkpoints.formats import open_checkpoint
from tests.support.checkpoints import write_json
from tests.support.goldens import golden_folder

GOLDEN = golden_folder("chatglm3")
MODEL = (GOLDEN / "tokenizer.model").read_bytes()
CHATS: list[dict[str, Any]] = json.loads((GOLDEN / "chats.json").read_text())
TEXTS: list[tuple[str, list[int]]] = json.loads((GOLDEN / "texts.json").read_text())
GMASK, START, USER, OBSERVATION = 401, 403, 406, 408
# tokenizer_config.json of THUDM/chatglm3-6b today, the keys that matter.
PUBLISHED = (
    "{% for message in messages %}{% if loop.first %}[gMASK]sop<|{{ message['role'] }}|>\n {{ message['content'] }}{% else %}"
    "<|{{ message['role'] }}|>\n {{ message['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _text(folder: Path, eos: tuple[int, ...] = (2,)) -> TextModel:
    with open_checkpoint(folder) as checkpoint:
        assert set(checkpoint.text_files) - {"chat_template.jinja"} == {"tokenizer.json", "tokenizer_config.json"}
        return TextModel.load(checkpoint.text_files, eos, checkpoint.config.vocab_size)


def _copy(folder: Path, config: dict[str, Any] | None = None, settings: dict[str, Any] | None = None) -> Path:
    shutil.copytree(GOLDEN, folder, dirs_exist_ok=True)
    for name, changes in (("config.json", config), ("tokenizer_config.json", settings)):
        write_json(folder / name, {**json.loads((folder / name).read_text()), **(changes or {})})
    return folder


def _messages(chat: dict[str, Any]) -> list[Message]:
    return [Message(message["role"], message["content"]) for message in chat["messages"]]


@pytest.fixture(scope="module")
def chatglm3() -> TextModel:
    return _text(GOLDEN)


def test_a_conversation_of_chatglm3(chatglm3: TextModel) -> None:
    for chat in CHATS:
        assert chatglm3.chat(_messages(chat)) == chat["chatglm3"]


def test_a_conversation_of_chatglm2(tmp_path: Path) -> None:
    name = {"_name_or_path": "THUDM/chatglm2-6b", "rope_ratio": 1}
    text = _text(_copy(tmp_path, name, {"name_or_path": "THUDM/chatglm2-6b"}))
    for chat in CHATS:
        assert text.chat(_messages(chat)) == chat["chatglm2"]
    with pytest.raises(InvalidInput, match="only the roles user and assistant are known"):
        text.chat([Message("user", "x"), Message("system", "y")])


def test_a_raw_prompt_has_the_prefix_and_sop_is_a_word(chatglm3: TextModel) -> None:
    for text, ids in TEXTS:
        if not {"<s>", "</s>"} & set(text.split()):
            assert chatglm3.encode(text) == [GMASK, START, *ids]
    assert chatglm3.encode("[gMASK]<sop>sop") == chatglm3.encode("sop")


def test_an_answer_streams_as_it_decodes(chatglm3: TextModel) -> None:
    for text, ids in TEXTS:
        stream = chatglm3.stream()
        pieces = [stream.push([one]) for one in [*ids, 2]]
        assert "".join([*pieces, stream.finish()]) == chatglm3.decode(ids) == text.replace("▁", " ")


def test_answers_end_where_another_turn_begins() -> None:
    with open_checkpoint(GOLDEN) as checkpoint:
        assert checkpoint.config.eos_token_ids == (2, USER, OBSERVATION)


def test_the_ends_of_chatglm2_and_those_that_config_names_first(tmp_path: Path) -> None:
    with open_checkpoint(_copy(tmp_path / "2", {"_name_or_path": "x"}, {"name_or_path": "THUDM/chatglm2-6b"})) as checkpoint:
        assert checkpoint.config.eos_token_ids == (2,)
    with open_checkpoint(_copy(tmp_path / "3", {"eos_token_id": [OBSERVATION, 7]})) as checkpoint:
        assert checkpoint.config.eos_token_ids == (OBSERVATION, 7, 2, USER)


def test_the_published_template_is_used_and_its_sop_is_the_token(tmp_path: Path) -> None:
    text = _text(_copy(tmp_path, settings={"chat_template": PUBLISHED}))
    for chat in CHATS:
        if all(message["content"] for message in chat["messages"]):
            assert text.chat(_messages(chat)) == chat["chatglm3"]
    (tmp_path / "chat_template.jinja").write_text("[gMASK]{{ 'sop' }}{% for message in messages %}{{ message['content'] }}{% endfor %}")
    assert _text(tmp_path).chat([Message("user", "sop")]) == [GMASK, START, *_text(tmp_path).encode("sop")[2:]]


def test_metadata_stands_in_the_line_of_the_role() -> None:
    def refuse(what: str) -> NoReturn:
        raise ValueError(what)

    template = jinja2.Environment().from_string(chatglm_template("", Generation.CHATGLM3), {"raise_exception": refuse})
    messages = [{"role": "assistant", "metadata": "get_weather", "content": ""}, {"role": "observation", "content": "21"}]
    rendered = template.render(messages=messages, add_generation_prompt=True)
    assert rendered == "[gMASK]<sop><|assistant|>get_weather\n<|observation|>\n 21<|assistant|>"
    with pytest.raises(ValueError, match="the role tool is not known"):
        template.render(messages=[{"role": "tool", "content": "x"}])


def test_without_a_name_there_is_no_conversation_but_raw_prompts(tmp_path: Path) -> None:
    text = _text(_copy(tmp_path, {"_name_or_path": "/data/tuned"}, {"name_or_path": ""}))
    assert text.encode("你好")[:2] == [GMASK, START]
    with pytest.raises(InvalidInput, match="no chat template"):
        text.chat([Message("user", "x")])
    write_json(tmp_path / ".glmfleet.json", {"source": "THUDM/chatglm3-6b-32k@0123"})
    assert _text(tmp_path).chat([Message("user", "你好")]) == CHATS[0]["chatglm3"]


@pytest.mark.parametrize(
    ("settings", "names", "code", "found"),
    [
        ({}, ["THUDM/chatglm3-6b", None], "", Generation.CHATGLM3),
        ({}, [None, "/models/ChatGLM2-6B-int4"], "", Generation.CHATGLM2),
        ({}, ["zai-org/codegeex2-6b"], "", Generation.UNKNOWN),
        ({"added_tokens_decoder": {"64795": {"content": "<|user|>"}}}, ["x/chatglm2-like"], "", Generation.CHATGLM3),
        ({"added_tokens_decoder": [1]}, [7], "", Generation.UNKNOWN),
        ({}, ["/tuned"], "special_tokens = ['[MASK]', 'sop'] + ['<|system|>', \"<|user|>\"]", Generation.CHATGLM3),
        ({}, ["/tuned-from-chatglm3"], "special_tokens = ['[MASK]', 'sop']", Generation.CHATGLM2),
    ],
)
def test_which_of_the_two_it_is(settings: dict[str, Any], names: list[object], code: str, found: Generation) -> None:
    assert generation_of(settings, names, code) is found


def test_the_tokenizers_code_is_read_where_it_comes_along(tmp_path: Path) -> None:
    _copy(tmp_path, {"_name_or_path": ""}, {"name_or_path": ""})
    (tmp_path / "tokenization_chatglm.py").write_text(
        "role_special_tokens = ['<|system|>', '<|user|>', '<|assistant|>', '<|observation|>']\n"
    )
    assert _text(tmp_path).chat([Message("user", "你好")]) == CHATS[0]["chatglm3"]


def test_special_tokens_that_are_pieces_are_refused() -> None:
    assert MODEL.count(b"<0xFF>") == 1
    taken = MODEL.replace(b"<0xFF>", b"[MASK]")
    with pytest.raises(InvalidInput, match=r"has a piece \[MASK\]"):
        chatglm_tokenizer(taken, Generation.CHATGLM3, {})


PUBLISHED_TOKENS = {
    "401": "[gMASK]",
    "403": "sop",
    "405": "<|system|>",
    "406": "<|user|>",
    "407": "<|assistant|>",
    "408": "<|observation|>",
}


def _decoder(tokens: dict[str, str]) -> dict[str, Any]:
    return {"added_tokens_decoder": {number: {"content": text, "special": False} for number, text in tokens.items()}}


def test_tokens_that_the_settings_list_are_those_of_the_code_and_further_ones(tmp_path: Path) -> None:
    text = _text(_copy(tmp_path, settings={**_decoder({**PUBLISHED_TOKENS, "0": "<unk>", "409": "<|tool|>"}), "name_or_path": ""}))
    assert text.chat([Message("user", "你好")]) == CHATS[0]["chatglm3"]
    assert text.token(409) == "<|tool|>"
    assert text.encode("你好<|tool|>")[-1] == 409


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ({**PUBLISHED_TOKENS, "406": "<|im_start|>"}, r"added token 406 cannot be '<\|im_start\|>' behind 400 pieces"),
        ({**PUBLISHED_TOKENS, "410": "<|tool|>"}, "added token 410 cannot be"),
    ],
)
def test_tokens_that_contradict_the_code_are_refused(listed: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        chatglm_tokenizer(MODEL, Generation.CHATGLM3, _decoder(listed))


def test_words_that_hold_the_tokens_name_stay() -> None:
    assert (
        chatglm_template("[gMASK]sop a sophist's {{ 'eop' }} <sop>", Generation.UNKNOWN) == "[gMASK]<sop> a sophist's {{ '<eop>' }} <sop>"
    )
