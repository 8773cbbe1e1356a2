"""One definition of the sampling parameters, on the wire and off it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from protos.errors import InvalidInput
from protos.sampling import (
    ANY_TOKEN,
    GREEDY,
    PARAMETERS,
    Sampling,
    TokenRules,
    from_message,
    rules_from_message,
    to_message,
)
from protos.told import Told
from protos.v1 import pipeline_pb2 as pb

WISH = Sampling(
    temperature=0.5,
    top_k=3,
    top_p=0.25,
    seed=2**64 - 1,
    min_p=0.125,
    repetition_penalty=1.25,
    typical_p=0.5,
    presence_penalty=-0.5,
    frequency_penalty=1.5,
)
RULES = TokenRules(min_tokens=3, allowed_token_ids=(7, 5), bad_words=((1,), (2, 3)), logit_bias=((9, -2.5),))
UNKNOWN = b"\xf8\x06\x01"  # field 111, a varint


def test_the_message_has_the_same_parameters() -> None:
    on_the_wire = pb.Sampling.DESCRIPTOR.fields
    rules, told = ({field.name for field in fields(kind)} for kind in (TokenRules, Told))
    assert {field.name for field in on_the_wire} - rules - told == {field.name for field in fields(Sampling)} == set(PARAMETERS)
    assert rules <= {field.name for field in on_the_wire}
    scalar = [field for field in on_the_wire if field.name in PARAMETERS]
    assert all(field.has_presence for field in scalar), "a zero that was asked for must be told from what was left out"


def test_each_parameter_arrives() -> None:
    assert from_message(to_message(WISH)) == WISH
    assert len(to_message(WISH).ListFields()) == len(PARAMETERS)
    for name in PARAMETERS:
        alone = replace(GREEDY, **{name: getattr(WISH, name)})
        assert from_message(to_message(alone)) == alone != GREEDY


def test_defaults_are_not_sent_and_what_is_not_sent_is_the_default() -> None:
    assert to_message(GREEDY, ANY_TOKEN) == pb.Sampling()
    assert rules_from_message(pb.Sampling()) == ANY_TOKEN
    assert from_message(pb.Sampling()) == GREEDY == Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=None, min_p=0.0)


def test_rules_arrive() -> None:
    message = to_message(WISH, RULES)
    assert (from_message(message), rules_from_message(message)) == (WISH, RULES)
    assert sorted(RULES.token_ids) == [1, 2, 3, 5, 7, 9]


@pytest.mark.parametrize("run", [pb.TokenRun(), pb.TokenRun.FromString(b"\x0a\x01\x05" + UNKNOWN)], ids=["empty", "unknown field"])
def test_a_run_that_cannot_be_kept_is_refused(run: pb.TokenRun) -> None:
    with pytest.raises(InvalidInput, match="bad_words"):
        rules_from_message(pb.Sampling(bad_words=[run]))


@pytest.mark.parametrize(
    ("bias", "why"),
    [
        ([pb.TokenBias(id=5, bias=101)], "logit_bias of token 5 is 101.0: it must be at least -100 and at most 100"),
        ([pb.TokenBias(id=5, bias=float("nan"))], "logit_bias of token 5 is nan"),
        ([pb.TokenBias(id=5, bias=1), pb.TokenBias(id=5, bias=2)], "logit_bias has token 5 twice"),
        ([pb.TokenBias(id=5)] * 16385, "logit_bias has 16385 ids: it may have 16384 at most"),
        ([pb.TokenBias.FromString(b"\x08\x05" + UNKNOWN)], "logit_bias has more than this device knows"),
    ],
    ids=["large", "nan", "twice", "many", "unknown field"],
)
def test_a_bias_that_cannot_be_meant_is_refused(bias: list[pb.TokenBias], why: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{why}"):
        rules_from_message(pb.Sampling(logit_bias=bias))


def test_a_seed_of_zero_is_a_seed() -> None:
    assert to_message(Sampling(seed=0)).HasField("seed")
    assert from_message(to_message(Sampling(seed=0))).seed == 0


def test_a_parameter_that_is_not_known_here_is_refused() -> None:
    message = pb.Sampling.FromString(pb.Sampling(temperature=1.0).SerializeToString() + UNKNOWN)
    with pytest.raises(InvalidInput, match="does not know"):
        from_message(message)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_bounds_are_in_and_what_is_beyond_is_refused_by_name(name: str) -> None:
    bounds = PARAMETERS[name].bounds

    def check(value: Any) -> None:
        replace(GREEDY, **{name: value}).check()

    check(bounds.most)
    check(bounds.least + 1 if bounds.above else bounds.least)
    for value in (bounds.least - 1, bounds.most + 1, float("nan"), float("inf"), *([bounds.least] if bounds.above else [])):
        with pytest.raises(InvalidInput, match=f"^{name} is {value}: it must be {bounds}$"):
            check(value)


def test_a_top_p_of_zero_on_the_wire_is_no_default() -> None:
    with pytest.raises(InvalidInput, match=r"^top_p is 0\.0: it must be above 0 and at most 1$"):
        from_message(pb.Sampling(top_p=0.0))
