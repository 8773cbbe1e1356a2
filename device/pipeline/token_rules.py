"""The logits that a sampler may choose from: what was said made less likely, what may not come put out of reach."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from protos.sampling import ANY_TOKEN, Sampling, TokenRules

_Ids = npt.NDArray[np.int64]
_Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LogitRules:
    """What holds for all of one answer. Built once: a prompt or a list of allowed tokens may be long."""

    rules: TokenRules
    penalty: float
    in_prompt: _Ids  # each once; none where there is no penalty
    allowed: _Ids | None = field(repr=False)
    ends: _Ids

    @property
    def idle(self) -> bool:
        return self.rules == ANY_TOKEN and self.penalty == 1.0

    def apply(self, logits: _Logits, answer: Sequence[int]) -> _Logits:
        """Logits [vocab] for the token behind `answer`; those given are not changed.

        The penalty is as in the paper of CTRL (Keskar et al., 2019, section 4.1) and in transformers and vLLM: a logit above 0 is divided
        by it, one below is multiplied. Bans of tokens that leave none of those allowed do not hold: some token has to come.
        """
        if self.idle:
            return logits
        finite = np.finfo(np.float32)
        found = np.nan_to_num(logits, nan=float(finite.min))  # a copy
        if self.penalty != 1.0:
            said = np.union1d(self.in_prompt, np.asarray(answer, np.int64))
            with np.errstate(over="ignore"):
                shifted = np.where(found[said] > 0, found[said] / self.penalty, found[said] * self.penalty)
            found[said] = np.clip(shifted, finite.min, finite.max)
        open_ = np.full(len(found), self.allowed is None)
        if self.allowed is not None:
            open_[self.allowed] = True
        left = open_.copy()
        left[list(_completing(self.rules.bad_words, answer))] = False
        if len(answer) < self.rules.min_tokens:
            left[self.ends[self.ends < len(left)]] = False  # a model may name ends that its vocabulary lacks
        found[~(left if left.any() else open_)] = -np.inf
        return found


def logit_rules(rules: TokenRules, sampling: Sampling, prompt: Sequence[int], ends: Iterable[int]) -> LogitRules:
    """`ends`: the tokens that end an answer. All other ids have to be in the vocabulary."""
    penalty = sampling.repetition_penalty
    allowed = np.unique(np.asarray(rules.allowed_token_ids, np.int64)) if rules.allowed_token_ids else None
    in_prompt = np.unique(np.asarray(prompt if penalty != 1.0 else (), np.int64))
    return LogitRules(rules, penalty, in_prompt, allowed, np.asarray(sorted(ends), np.int64))


def _completing(runs: Sequence[Sequence[int]], answer: Sequence[int]) -> Iterable[int]:
    """The last tokens of those runs whose others end the answer."""
    for run in runs:
        *before, last = run
        if not before or (len(before) <= len(answer) and answer[-1] == before[-1] and list(answer[-len(before) :]) == before):
            yield last
