"""The logits that a sampler may choose from: what was said made less likely, what may not come put out of reach."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from protos.sampling import ANY_TOKEN, Sampling, TokenRules

_Ids = npt.NDArray[np.int64]
_Logits = npt.NDArray[np.float32]
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LogitRules:
    """What holds for all of one answer. Built once: a prompt or a list of allowed tokens may be long."""

    rules: TokenRules
    sampling: Sampling
    in_prompt: _Ids  # each once; none where repetition costs nothing
    allowed: _Ids | None = field(repr=False)
    ends: _Ids
    biased: _Ids = field(repr=False)
    biases: npt.NDArray[np.float64] = field(repr=False)

    @property
    def idle(self) -> bool:
        return self.rules == ANY_TOKEN and not self._penalized

    def apply(self, logits: _Logits, answer: Sequence[int], fitting: _Mask | None = None) -> _Logits:
        """Logits [vocab] for the token behind `answer`, forced tokens included; those given are not changed.

        `fitting` [vocab]: the tokens with which the answer fits its grammar; None: it has none.

        First the biases are added, then repetition is penalized, then presence and frequency, as vLLM does. Bans of tokens that leave none
        of those allowed do not hold: some token has to come.
        """
        if self.idle:
            return logits
        finite = np.finfo(np.float32)
        found = np.nan_to_num(logits, nan=float(finite.min))  # a copy
        if len(self.biased):
            found[self.biased] += self.biases
        if self._penalized:
            self._penalize(found, answer)
            np.clip(found, finite.min, finite.max, out=found)
        open_ = np.ones(len(found), np.bool_) if fitting is None else fitting
        if self.allowed is not None:
            named = np.zeros(len(found), np.bool_)
            named[self.allowed] = open_[self.allowed]
            open_ = named if named.any() else open_
        left = open_.copy()
        left[list(_completing(self.rules.bad_words, answer))] = False
        if len(answer) < self.rules.min_tokens:
            left[self.ends[self.ends < len(left)]] = False  # a model may name ends that its vocabulary lacks
        found[~(left if left.any() else open_)] = -np.inf
        return found

    @property
    def _penalized(self) -> bool:
        wish = self.sampling
        return wish.repetition_penalty != 1.0 or wish.presence_penalty != 0.0 or wish.frequency_penalty != 0.0

    def _penalize(self, found: _Logits, answer: Sequence[int]) -> None:
        """Repetition, of prompt and answer, as in the paper of CTRL (Keskar et al., 2019, section 4.1) and in transformers: a logit above 0
        is divided by the penalty, one below is multiplied. Presence and frequency, of the answer alone, as OpenAI documents them: each
        token's logit loses presence_penalty if it was there, and frequency_penalty as often as it was."""
        wish = self.sampling
        said, counts = np.unique(np.asarray(answer, np.int64), return_counts=True)
        if wish.repetition_penalty != 1.0:
            all_said = np.concatenate([self.in_prompt, said])  # what is in both is set twice, to the same
            before = found[all_said]
            with np.errstate(over="ignore"):
                found[all_said] = np.where(before > 0, before / wish.repetition_penalty, before * wish.repetition_penalty)
        found[said] -= wish.presence_penalty + wish.frequency_penalty * counts


def logit_rules(rules: TokenRules, sampling: Sampling, prompt: Sequence[int], ends: Iterable[int]) -> LogitRules:
    """`ends`: the tokens that end an answer. All other ids have to be in the vocabulary."""
    allowed = _distinct(rules.allowed_token_ids) if rules.allowed_token_ids else None
    in_prompt = _distinct(prompt if sampling.repetition_penalty != 1.0 else ())
    biased = np.asarray([token_id for token_id, _ in rules.logit_bias], np.int64)
    biases = np.asarray([bias for _, bias in rules.logit_bias], np.float64)
    return LogitRules(rules, sampling, in_prompt, allowed, np.asarray(sorted(ends), np.int64), biased, biases)


def _distinct(ids: Iterable[int]) -> _Ids:
    """Ascending. np.unique without counts imports numpy.ma, 1.6 MiB that stay, and 9 ms of the first request."""
    return np.array(sorted(set(ids)), np.int64)


def _completing(runs: Sequence[Sequence[int]], answer: Sequence[int]) -> Iterable[int]:
    """The last tokens of those runs whose others end the answer."""
    for run in runs:
        *before, last = run
        if not before or (len(before) <= len(answer) and answer[-1] == before[-1] and list(answer[-len(before) :]) == before):
            yield last
