"""From a text with a blank to what the head is given."""

from __future__ import annotations

from dataclasses import replace

import pytest

from device.text.messages import Message
from device.text.model import TextModel
from fleet.answering.prompts import prompt_ids, submit
from fleet.answering.views import GenerateRequest
from fleet.cli.generate import around_blanks
from protos.errors import InvalidInput
from protos.manifest import Manifest, ModelConfig, Provenance, Quantization
from quantize.checkpoints.huggingface import open_huggingface
from tests.support.blanks import GOLDEN, STOPS, expected


@pytest.fixture(scope="module")
def model() -> tuple[TextModel, ModelConfig]:
    with open_huggingface(GOLDEN) as checkpoint:
        config = checkpoint.config
        return TextModel.load(checkpoint.text_files, config.eos_token_ids, config.vocab_size), config


def test_the_blank_and_the_prefix_are_marked(model: tuple[TextModel, ModelConfig]) -> None:
    text, config = model
    manifest = Manifest(config, Quantization(8, 32, True), Provenance("", "", ""), ())
    for request in (
        GenerateRequest(text="the [sMASK] and the [MASK]."),
        GenerateRequest(prompt="the [sMASK] and the [MASK].", infill=True),
    ):
        ids = prompt_ids(text, request, config)
        assert (ids[0], ids[-2:]) == (503, [500, 501])
        message = submit(request, ids, manifest, 64, 0)
        assert message.prefix == len(ids) - 1
        assert [(span.start, span.anchor) for span in message.spans] == [(len(ids) - 1, ids.index(508))]
        assert tuple(message.stop_token_ids) == STOPS


def test_a_text_without_a_blank_gets_one_behind_it(model: tuple[TextModel, ModelConfig]) -> None:
    text, config = model
    assert prompt_ids(text, GenerateRequest(text="the cat"), config)[-3:] == [507, 500, 501]
    assert prompt_ids(text, GenerateRequest(text="the cat"), config) == prompt_ids(text, GenerateRequest(prompt="the cat [gMASK]"), config)


def test_a_suffix_stands_behind_the_blank(model: tuple[TextModel, ModelConfig]) -> None:
    text, config = model
    ids = prompt_ids(text, GenerateRequest(text="the cat", suffix=" on the mat"), config)
    assert ids == prompt_ids(text, GenerateRequest(text="the cat[MASK] on the mat"), config)
    for request in (GenerateRequest(text="the [MASK]", suffix="x"), GenerateRequest(text="the", suffix="[gMASK]")):
        with pytest.raises(InvalidInput, match="blank of its own"):
            prompt_ids(text, request, config)
    with pytest.raises(InvalidInput, match="suffix is for a text"):
        prompt_ids(text, GenerateRequest(prompt_ids=(503, 5, 500), suffix="x"), config)


def test_nothing_is_told_of_a_prompt_that_is_read_both_ways(model: tuple[TextModel, ModelConfig]) -> None:
    text, config = model
    manifest = Manifest(config, Quantization(8, 32, True), Provenance("", "", ""), ())
    for request in (GenerateRequest(text="the cat", prompt_logprobs=0), GenerateRequest(text="the cat", embedding=True)):
        with pytest.raises(InvalidInput, match="both directions"):
            submit(request, prompt_ids(text, request, config), manifest, 64, 0)


def test_token_ids_are_taken_with_and_without_the_start(model: tuple[TextModel, ModelConfig]) -> None:
    text, config = model
    for case in expected():
        for ids in (case.prompt, case.prompt[:-1]):
            assert prompt_ids(text, GenerateRequest(prompt_ids=tuple(ids)), config) == case.prompt


def test_what_cannot_be_filled_is_refused(model: tuple[TextModel, ModelConfig]) -> None:
    text, config = model
    for request, reason in (
        (GenerateRequest(messages=(Message("user", "hello"),)), "no chat template"),
        (GenerateRequest(prompt_ids=(1, 2)), "no blank"),
        (GenerateRequest(text=" "), "empty"),
    ):
        with pytest.raises(InvalidInput, match=reason):
            prompt_ids(text, request, config)
    with pytest.raises(InvalidInput, match="fills no blanks"):
        prompt_ids(text, GenerateRequest(text="the [MASK]", infill=True), replace(config, mask_token_ids=()))


def test_later_blanks_follow_the_fills_before_them(model: tuple[TextModel, ModelConfig]) -> None:
    text, config = model
    manifest = Manifest(config, Quantization(8, 32, True), Provenance("", "", ""), ())
    first = prompt_ids(text, GenerateRequest(text="the [sMASK] and the [MASK]."), config)
    request = GenerateRequest(text="the [sMASK] and the [MASK].", fills=((7, 8),))
    ids = prompt_ids(text, request, config)
    assert ids == [*first, 7, 8, 501]
    message = submit(request, ids, manifest, 64, 0)
    assert message.prefix == len(first) - 1  # so that the prefix of the first fill's request is taken over
    blanks = [ids.index(token) for token in (config.mask_token_ids[1], config.mask_token_ids[0])]
    assert [(span.start, span.anchor) for span in message.spans] == [(len(first) - 1, blanks[0]), (len(ids) - 1, blanks[1])]
    with pytest.raises(InvalidInput, match="2 fills are given of 2 blanks"):
        prompt_ids(text, replace(request, fills=((7, 8), ())), config)
    for wrong in (
        replace(request, fills=((7, 501),)),
        GenerateRequest(text="the [MASK] <|startofpiece|> cat"),
        GenerateRequest(prompt_ids=(504, 501, 7, 501)),
    ):
        with pytest.raises(InvalidInput, match=r"<\|startofpiece\|> begins a fill"):
            prompt_ids(text, wrong, config)
    with pytest.raises(InvalidInput, match="fills no blanks"):
        prompt_ids(text, GenerateRequest(text="the cat", fills=((1,),)), replace(config, mask_token_ids=()))


def test_the_text_around_blanks() -> None:
    assert around_blanks("Paris is \n [MASK] of [sMASK].") == ["Paris is", " of", "."]
    assert around_blanks("Paris is") == ["Paris is", ""]
