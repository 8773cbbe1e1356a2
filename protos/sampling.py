"""The sampling parameters and the rules for tokens: what each one means, its default and its bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, get_args, get_type_hints

from google.protobuf.unknown_fields import UnknownFieldSet

from protos.errors import InvalidInput
from protos.told import TOKENS_ALONE, Told
from protos.v1 import pipeline_pb2 as pb


@dataclass(frozen=True)
class Bounds:
    """Values from `least` (without it where `above`) to `most`; `meaning` is a help text."""

    least: int
    most: int
    meaning: str
    above: bool = False

    def __str__(self) -> str:
        return f"{'above' if self.above else 'at least'} {self.least} and at most {self.most}"

    def check(self, name: str, value: float) -> None:
        """Raises InvalidInput naming the parameter. Not-a-number is outside of all bounds."""
        if not self.least <= value <= self.most or (self.above and value == self.least):
            raise InvalidInput(f"{name} is {value}: it must be {self}", advice=f"leave {name} out, or choose another")


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from its logits. A parameter is added here, in `Sampling` of pipeline.proto and in the sampler.

    The HTTP bodies, the options of the commands and the message to the device follow from these fields.
    """

    temperature: Annotated[float, Bounds(0, 100, "0 is greedy, 100 the most.")] = 0.0
    top_k: Annotated[int, Bounds(0, 2**32 - 1, "Sample from the K likeliest; 0: from all.")] = 0
    top_p: Annotated[float, Bounds(0, 1, "Sample from the likeliest that sum up to this; above 0, at most 1.", above=True)] = 1.0
    # None: the coordinator draws one for each request. The sampler has nothing to draw from: there it counts as 0.
    seed: Annotated[int | None, Bounds(0, 2**64 - 1, "Makes sampling repeat itself.")] = None
    min_p: Annotated[float, Bounds(0, 1, "Sample from those with at least this share of the likeliest's probability; 0: from all.")] = 0.0
    repetition_penalty: Annotated[
        float, Bounds(0, 100, "Above 1: what prompt and answer already have gets less likely; above 0, 1 is none.", above=True)
    ] = 1.0
    typical_p: Annotated[
        float, Bounds(0, 1, "Sample from those as surprising as is usual that sum up to this; above 0, at most 1.", above=True)
    ] = 1.0
    presence_penalty: Annotated[float, Bounds(-2, 2, "Above 0: what the answer already has gets less likely.")] = 0.0
    frequency_penalty: Annotated[float, Bounds(-2, 2, "Above 0: it gets less likely each time that the answer has it.")] = 0.0

    def check(self) -> None:
        """Raises InvalidInput naming the first parameter that is out of its bounds."""
        for parameter in PARAMETERS.values():
            value = getattr(self, parameter.name)
            if value is not None:
                parameter.bounds.check(parameter.name, value)


# Of one request. What has to be looked at for each token of its answer, while others' wait, is little.
MOST_BAD_WORDS = 1024  # each in two spellings, of the 256 that the HTTP bodies take
MOST_BAD_TOKENS = 1 << 14  # of all bad words together
MOST_ALLOWED_TOKENS = 1 << 20  # more than any vocabulary has
MOST_STOP_TOKENS = 1024
MOST_BIASED_TOKENS = 1 << 14
MOST_GRAMMAR_CHARACTERS = 1 << 18
LOGIT_BIAS = Bounds(-100, 100, "Added to a token's logit.")


@dataclass(frozen=True)
class TokenRules:
    """Which tokens may come next, whatever their logits say."""

    min_tokens: int = 0  # of the answer, forced ones included, before one that ends it may come
    allowed_token_ids: tuple[int, ...] = ()  # (): all
    bad_words: tuple[tuple[int, ...], ...] = ()  # runs of token ids; the last of one never follows its others in the answer
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, what is added to its logit), each id once
    grammar: str = ""  # that the answer fits (device/grammar.py); "": any answer

    @property
    def token_ids(self) -> Iterator[int]:
        """All that are named, to be looked for in a vocabulary."""
        yield from self.allowed_token_ids
        for run in self.bad_words:
            yield from run
        for token_id, _ in self.logit_bias:
            yield token_id


@dataclass(frozen=True)
class SamplingParameter:
    """A field of Sampling; `annotation` is its type without the bounds, for those who make options or fields of it."""

    name: str
    annotation: type
    default: float | None
    bounds: Bounds


GREEDY = Sampling()
ANY_TOKEN = TokenRules()


def _parameters() -> Iterator[SamplingParameter]:
    for name, annotated in get_type_hints(Sampling, include_extras=True).items():
        annotation, bounds = get_args(annotated)
        yield SamplingParameter(name, annotation, getattr(GREEDY, name), bounds)


PARAMETERS: Mapping[str, SamplingParameter] = {parameter.name: parameter for parameter in _parameters()}


def to_message(sampling: Sampling, rules: TokenRules = ANY_TOKEN, told: Told = TOKENS_ALONE) -> pb.Sampling:
    """What a head is asked by.

    Only what differs from the defaults is set: a device that knows fewer parameters runs every request that needs no others."""
    given = {name: getattr(sampling, name) for name in PARAMETERS}
    return pb.Sampling(
        **{name: value for name, value in given.items() if value != PARAMETERS[name].default},
        min_tokens=rules.min_tokens or None,
        allowed_token_ids=rules.allowed_token_ids,
        bad_words=[pb.TokenRun(ids=run) for run in rules.bad_words],
        logit_bias=[pb.TokenBias(id=token_id, bias=bias) for token_id, bias in rules.logit_bias],
        grammar=rules.grammar,
        logprobs=told.logprobs,
        prompt_logprobs=told.prompt_logprobs,
        embedding=told.embedding,
    )


def from_message(message: pb.Sampling) -> Sampling:
    """What is not set is its default.

    Raises InvalidInput naming the parameter that is out of its bounds, and for one that is not known here: without it the answer would be
    another than the one asked for.
    """
    if len(UnknownFieldSet(message)):
        raise InvalidInput("the request has a sampling parameter that this device does not know", advice="update the device's glmfleet")
    sampling = Sampling(**{name: getattr(message, name) for name in PARAMETERS if message.HasField(name)})
    sampling.check()
    return sampling


def check_counts(bad_words: Sequence[int], allowed_token_ids: int, stop_token_ids: int, logit_bias: int = 0) -> None:
    """Of the tokens of each bad word, and how many there are of the others. Raises InvalidInput naming what is too much."""
    counts = (
        ("bad_words", len(bad_words), MOST_BAD_WORDS, "texts"),
        ("bad_words", sum(bad_words), MOST_BAD_TOKENS, "tokens in all"),
        ("allowed_token_ids", allowed_token_ids, MOST_ALLOWED_TOKENS, "ids"),
        ("stop_token_ids", stop_token_ids, MOST_STOP_TOKENS, "ids"),
        ("logit_bias", logit_bias, MOST_BIASED_TOKENS, "ids"),
    )
    for name, count, most, what in counts:
        if count > most:
            raise InvalidInput(f"{name} has {count} {what}: it may have {most} at most", advice="send fewer")


def check_bias(logit_bias: Iterable[tuple[int, float]]) -> None:
    """Raises InvalidInput naming the first token whose bias is out of its bounds, or that has two."""
    seen: set[int] = set()
    for token_id, bias in logit_bias:
        LOGIT_BIAS.check(f"logit_bias of token {token_id}", bias)
        if token_id in seen:
            raise InvalidInput(f"logit_bias has token {token_id} twice", advice="give each token one bias")
        seen.add(token_id)


def rules_from_message(message: pb.Sampling) -> TokenRules:
    """Raises InvalidInput for a run without a token, for too much, for a bias out of its bounds, and as `from_message` for what is not
    known here."""
    check_counts(
        [len(run.ids) for run in message.bad_words[: MOST_BAD_WORDS + 1]], len(message.allowed_token_ids), 0, len(message.logit_bias)
    )
    runs = tuple(tuple(run.ids) for run in message.bad_words)
    if not all(runs) or any(len(UnknownFieldSet(run)) for run in message.bad_words):
        raise InvalidInput("bad_words has one that this device cannot keep out")
    if any(len(UnknownFieldSet(one)) for one in message.logit_bias):
        raise InvalidInput("logit_bias has more than this device knows of", advice="update the device's glmfleet")
    biases = tuple((one.id, one.bias) for one in message.logit_bias)
    check_bias(biases)
    return TokenRules(message.min_tokens, tuple(message.allowed_token_ids), runs, biases, message.grammar)
