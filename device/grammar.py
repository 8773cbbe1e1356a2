"""Grammars of answers, by llguidance: which tokens may come next so that the whole fits one, within bounds of time and memory.

A grammar is a text in llguidance's dialect of Lark. It may be a stranger's: no step of work on it is without a limit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import llguidance
import numpy as np
import numpy.typing as npt

from device.vocabulary import Vocabulary
from protos.errors import InvalidInput
from protos.sampling import MOST_GRAMMAR_CHARACTERS

# llguidance does some 50,000 units of lexer work in a millisecond at first and 14,000 later, and 20,000 items; a state takes 1 to 2 kB.
# A token of an everyday schema takes some tens of microseconds; these let a hostile one take some milliseconds, and 20 MB.
_LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_lexer_states=10_000,
    max_grammar_size=20_000,
    verbose_errors=False,
)
_ADVICE = "simplify the schema: see the limits in docs/openai.md"

_PLACE = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")

Mask = npt.NDArray[np.bool_]


class Grammars:
    """Of one vocabulary. Making it takes some tenths of a second and 20 MB."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises InvalidInput for a vocabulary without a token that ends an answer: no answer of a grammar could end."""
        ends = [one for one in vocabulary.ends if 0 <= one < len(vocabulary.tokens)]
        if not ends:
            raise InvalidInput("the model names no token that ends an answer", advice="ask it without a format for the answer")
        wrapped = llguidance.TokenizerWrapper(_Tokens(vocabulary, ends[0]))
        self._tokenizer = llguidance.LLTokenizer(wrapped, n_vocab=len(vocabulary.tokens), eos_token=ends)

    def compile(self, grammar: str) -> Matcher:
        """At the begin of an answer. Takes as long as llguidance's limits let it: milliseconds, up to some tenths of a second.

        Raises InvalidInput for a text that is no grammar, or too large a one.
        """
        if len(grammar) > MOST_GRAMMAR_CHARACTERS:
            raise InvalidInput(f"the grammar has {len(grammar):,} characters: {MOST_GRAMMAR_CHARACTERS:,} are the most", advice=_ADVICE)
        found = Matcher(llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=_LIMITS), self._tokenizer)
        found.check()
        return found


class Matcher:
    """Of one answer; used by one thread at a time."""

    def __init__(self, matcher: llguidance.LLMatcher, tokenizer: llguidance.LLTokenizer) -> None:
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._taken = 0

    def fresh(self) -> Matcher:
        """For another answer: of one that has taken no token."""
        assert not self._taken
        return Matcher(self._matcher.deep_copy(), self._tokenizer)

    def allowed(self, answer: Sequence[int]) -> Mask:
        """[vocab]: what may come behind `answer`, which is the one of the call before, or a longer one.

        Follows from grammar and answer alone, so another matcher that is given the same goes on as this would have.
        Raises InvalidInput where the answer does not fit the grammar, or the next token takes more work than the limits allow.
        """
        self._take(answer)
        self.check()
        bits = self._matcher.compute_bitmask()
        self.check()
        return np.unpackbits(np.frombuffer(bits, np.uint8), count=self._tokenizer.vocab_size, bitorder="little").astype(np.bool_)

    def forced(self, answer: Sequence[int]) -> list[int]:
        """Tokens of the text that alone may come behind `answer`, as `allowed` takes it; none where there is a choice, or it has failed.

        They are a guess: the model may write the same text in other tokens.
        """
        self._take(answer)
        if self._matcher.is_error():
            return []
        # What ends within a character goes on with the next proposal.
        return list(self._tokenizer.greedy_tokenize(self._matcher.compute_ff_bytes().decode(errors="ignore")))

    def _take(self, answer: Sequence[int]) -> None:
        news = list(answer[self._taken :])
        self._taken = len(answer)
        if news:
            self._matcher.consume_tokens(news)

    def check(self) -> None:
        """Raises InvalidInput once it has failed: it stays so."""
        if self._matcher.is_error():
            why = _PLACE.sub("", self._matcher.get_error().partition("\n")[0])[:200]
            raise InvalidInput(f"the answer's format cannot be kept: {why}", advice=_ADVICE)


class _Tokens:
    """A vocabulary as llguidance takes it."""

    def __init__(self, vocabulary: Vocabulary, end: int) -> None:
        self.tokens = list(vocabulary.tokens)
        self.special_token_ids = list(vocabulary.special)
        self.eos_token_id = end
        self.bos_token_id = None

    def __call__(self, text: bytes) -> list[int]:
        """Never asked for: our grammars force no tokens (`no_forcing`), since only the model's own tokenizer knows how it writes them."""
        raise AssertionError("a grammar forces tokens")
