"""What comes with a model can neither stop this process nor take its memory; its prompts are what they would be here."""

from __future__ import annotations

import json
import threading
import time
from functools import partial
from typing import Any

import psutil
import pytest

from device.text import confined
from device.text.confined import ConfinedMaker, ConfinedText
from device.text.messages import Message, ToolCall
from device.text.model import TextModel
from device.text.words import Words
from protos.errors import Corrupt, InvalidInput
from tests.support import hostile_text as hostile
from tests.support import tokenizer_files as files
from tests.support.tokenizer_files import CHATML

HELLO = (Message("user", "hello", name="Ann"),)
LONG = confined.SHORT_CHARACTERS + 1
BOMBED = "a" * 4000


def texts(tokenizer: bytes, template: str = CHATML) -> dict[str, bytes]:
    return {"tokenizer.json": tokenizer, "chat_template.jinja": template.encode()}


def confine(tokenizer: bytes, template: str = CHATML) -> ConfinedText:
    return ConfinedText(texts(tokenizer, template), [files.EOS], 10**6)


def process_of(maker: ConfinedMaker) -> psutil.Process:
    assert maker._worker._child is not None
    return psutil.Process(maker._worker._child.process.pid)


@pytest.mark.parametrize("tokenizer", [files.byte_level(), files.sentence_piece(), files.word_piece()], ids=["bytes", "pieces", "words"])
@pytest.mark.parametrize("characters", [0, LONG])
def test_prompts_and_answers_are_those_of_the_tokenizer(tokenizer: bytes, characters: int) -> None:
    here, there = TextModel.load(texts(tokenizer), [files.EOS], 10**6), confine(tokenizer)
    with there.maker(characters) as maker:
        for text in ("hello world.", "é 中 <|user|>", ""):
            assert maker.encode(text) == here.encode(text)
            assert there.words.decode(here.encode(text)) == here.decode(here.encode(text))
        assert maker.all_pieces(["hello", " a"]) == here.all_pieces(["hello", " a"])
        assert maker.chat(HELLO, False, variables={"x": 1}) == here.chat(HELLO, False, variables={"x": 1})
        assert maker.frame == here.frame
        assert maker.token(files.EOS) == here.token(files.EOS)
    assert there.chat_problem() == here.chat_problem() == ""


def test_tools_and_calls_come_through_and_errors_are_the_same() -> None:
    there = confine(files.byte_level(), "{{ messages[0].nothing.deeper }}")
    assert "refuses these messages" in there.chat_problem()
    with there.maker(0) as maker:
        with pytest.raises(InvalidInput, match="a tool is not JSON"):
            maker.chat((Message("assistant", "", (ToolCall("f", "{}"),)),), tools=("{",))
        with pytest.raises(InvalidInput, match="cannot be tokenized") as refused:
            maker.encode("\ud800")
        assert refused.value.advice == "send valid Unicode"
    with pytest.raises(Corrupt, match=r"tokenizer\.json cannot be read"):
        confine(b"{}")


@pytest.mark.parametrize("characters", [0, LONG])
def test_a_tokenizer_that_never_ends_is_ended_and_the_next_prompt_is_made(characters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "SHORT_SECONDS", 1.0)
    monkeypatch.setattr(confined, "LONG_SECONDS", 1.0)
    there = confine(hostile.endless())
    with there.maker(characters) as maker:
        with pytest.raises(InvalidInput, match="took too much time or memory for this prompt") as refused:
            maker.encode(BOMBED)
        assert refused.value.advice
    with there.maker(0) as maker:
        assert there.words.decode(maker.encode("hello")) == "hello"


def test_a_tokenizer_that_takes_all_memory_gets_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "SHORT_SECONDS", 60.0)
    there = confine(hostile.growing())
    with there.maker(0) as maker, pytest.raises(InvalidInput, match="took too much time or memory for this prompt"):
        maker.encode("q" * 4000)


@pytest.mark.parametrize("what", ["time", "memory"])
def test_a_tokenizer_that_takes_too_much_to_be_read_is_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if what == "time":
        monkeypatch.setattr("device.text.worker.LOAD_SECONDS", 0.01)
    else:  # 8 GB by a way that is not looked at beforehand
        monkeypatch.setattr("device.text.charsmap._check", lambda charsmap: None)
    with pytest.raises(InvalidInput) as refused:
        confine(hostile.with_charsmap(hostile.charsmap(b"", b"", 0xFFFFFFFC)) if what == "memory" else files.byte_level())
    assert refused.value.advice


DOUBLED = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}


@pytest.mark.parametrize(
    "decoder",
    [
        {"type": "Replace", "pattern": {"Regex": hostile.ENDLESS}, "content": ""},
        DOUBLED,
        {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Sequence", "decoders": [DOUBLED]}]},
        {"type": "Sequence", "decoders": [{"type": "Fuse"}] * 20},
        {"type": "BPEDecoder", "suffix": ""},
    ],
    ids=["endless", "doubling", "nested", "many", "no suffix"],
)
def test_a_decoder_whose_work_is_not_bounded_is_refused(decoder: dict[str, Any]) -> None:
    """It runs where everybody's answers are written."""
    with pytest.raises(Corrupt, match="its decoder has a"):
        confine(hostile.changed(decoder=decoder))


@pytest.mark.parametrize("template", [None, CHATML])
def test_what_no_tokens_of_the_context_could_say_is_refused_before_work(template: str | None) -> None:
    """With a tokenizer that would never end."""
    there = confine(hostile.endless(), "{{ messages[0].content }}")
    text = "a" * 100_000
    with there.maker(LONG) as maker:
        making = partial(maker.chat, (Message("user", text),), context=50) if template else partial(maker.encode, text, 50)
        with pytest.raises(InvalidInput, match=r"has 100000 characters, 50 tokens have \d+ at most") as refused:
            making()
    assert "shorten the prompt" in refused.value.advice


def test_of_a_prompt_with_too_many_tokens_only_their_number_comes_back() -> None:
    with confine(files.byte_level()).maker(0) as maker:
        assert len(maker.encode("x" * 49, 50)) == 49
        with pytest.raises(InvalidInput, match="has 50 tokens; this deployment's context is 50"):
            maker.encode("x" * 50, 50)


def test_a_long_prompt_has_a_process_that_goes_with_it() -> None:
    there = confine(files.byte_level())
    with there.maker(0) as short, there.maker(LONG) as long:
        short.encode("a")
        long.encode("a")
        kept, gone = process_of(short), process_of(long)
        assert kept != gone
    gone.wait(5)
    assert kept.is_running()


def test_one_that_nobody_waits_for_is_ended_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "LONG_SECONDS", 60.0)
    maker = confine(hostile.endless()).maker(LONG)
    leaving = threading.Timer(1.0, maker.leave)
    leaving.start()
    began = time.monotonic()
    with maker, pytest.raises(InvalidInput):
        maker.encode(BOMBED)
    assert time.monotonic() - began < 30


def test_processes_end_with_the_text() -> None:
    there = confine(files.byte_level())
    with there.maker(0) as maker:
        maker.encode("a")
        process = process_of(maker)
    del there, maker
    process.wait(5)
    there = confine(files.byte_level())
    with there.maker(0) as maker:
        maker.encode("a")
        process = process_of(maker)
        there.close()
        process.wait(5)
        with pytest.raises(InvalidInput):
            maker.encode("a")


def test_a_template_is_as_confined_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "SHORT_SECONDS", 2.0)
    there = confine(files.byte_level(), "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    with there.maker(0) as maker, pytest.raises(InvalidInput, match="chat template took too much time"):
        maker.chat(HELLO)


def test_plain_words_say_the_same() -> None:
    """What crosses from one process to the other."""
    here = TextModel.load(texts(files.sentence_piece()), [files.EOS], 10**6)
    there = Words.of_plain(json.loads(json.dumps(here.words.as_plain())))
    ids = here.encode("a word é中")
    assert there.decode(ids) == here.decode(ids)
