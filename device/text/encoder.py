"""Text to token ids, of which outside text gets no control token that it only spells."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import chain
from typing import TypeAlias

from tokenizers import Encoding, Tokenizer

from device.text.disguise import Disguise, Plain, Spellings
from protos.errors import Corrupt, InvalidInput

MAX_CHARACTERS = 4 * 1024 * 1024  # of a prompt's text: far beyond any context
_SHORTENED = 4

SHORTEN = "shorten the prompt"

Render: TypeAlias = Callable[[Plain], str]
"""What a chat template makes of what comes from outside. Raises InvalidInput."""

# Whatever a file says of it: some mark their tags as tokens that text may contain.
_TURN_TAG = re.compile(r"<\|.*\|>", re.DOTALL)
_UNKNOWN = "\U0010fffd"  # no vocabulary has it


class Encoder:
    """Immutable, and safe to use from several threads. Control tokens are the added ones among `control`, and tags like <|user|>."""

    def __init__(self, tokenizer: Tokenizer, control: Iterable[int], vocab_size: int, longest: int = MAX_CHARACTERS) -> None:
        """`longest`: characters of the longest token."""
        self._tokenizer = tokenizer
        # A normalizer may make fewer characters of a text (of spaces, of accents written apart), though hardly fewer than so.
        self.longest = longest if tokenizer.normalizer is None else _SHORTENED * longest
        self._vocab_size = vocab_size
        added = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
        self._spelled = added
        self._control = frozenset(control).intersection(added) | {number for number, text in added.items() if _TURN_TAG.fullmatch(text)}
        self._unknown = _unknown(tokenizer)
        self._spellings = Spellings(
            (added[number] for number in self._control),
            (text for number, text in added.items() if number not in self._control),
            None if tokenizer.normalizer is None else self._normalized,
        )

    def encode(self, text: str, *, framed: bool = False, context: int | None = None) -> list[int]:
        """Of a text whose control tokens are meant; `framed`: with what the tokenizer's own post-processor puts around it.

        Raises InvalidInput, also for more than a `context` of so many tokens takes, Corrupt.
        """
        check_length(text, context, self.longest)
        return self._checked(self._encoding(text, framed).ids, context)

    def encode_rendered(self, render: Render, outside: Plain, context: int | None = None) -> list[int]:
        """The template's text, in which only what the template itself wrote is a control token. Raises as `encode`.

        Where outside text could have become one, the rendering in disguise shows it: if both have the same control tokens, there was none,
        and the text as it stands is what counts.
        """
        text = render(outside)
        check_length(text, context, self.longest)
        disguise = self._spellings.disguise(outside, text)
        if disguise is None:
            return self.encode(text, context=context)
        hidden = disguise.unescaped(render(disguise.put_on(outside)))
        if self._spellings.control_in(text) == self._spellings.control_in(hidden):
            return self.encode(text, context=context)
        return self._checked(self._uncovered(self._encoding(hidden), hidden, disguise), context)

    def _normalized(self, text: str) -> str:
        try:
            return str(self._tokenizer.normalizer.normalize_str(text))
        except BaseException as error:  # half a surrogate pair, or a panic of the library's Rust: `_encoding` says so
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            return text

    def _encoding(self, text: str, framed: bool = False) -> Encoding:
        try:
            return self._tokenizer.encode(text, add_special_tokens=framed)
        except (
            BaseException
        ) as error:  # UnicodeEncodeError for half a surrogate pair; the library's own are plain; a panic of its Rust is none
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            what = " ".join(str(error).split())[:200] or type(error).__name__
            raise InvalidInput(f"the text cannot be tokenized: {what}", advice="send valid Unicode") from error

    def _checked(self, ids: list[int], context: int | None) -> list[int]:
        if context is not None and len(ids) >= context:
            raise too_long(len(ids), context)
        if ids and max(ids) >= self._vocab_size:
            raise Corrupt(
                f"the tokenizer gives token {max(ids)}, but the model knows {self._vocab_size} tokens", advice="import the model again"
            )
        return ids

    def _is_added(self, token_id: int, text: str) -> bool:
        """Whether `text` has been found as an added token, and not made one for want of a better."""
        return token_id in self._spelled and not (token_id in self._unknown and text.strip() != self._spelled[token_id])

    def _uncovered(self, encoding: Encoding, text: str, disguise: Disguise) -> list[int]:
        """Added tokens as they were found; between them what is in disguise anew, without looking for any in it."""
        ids: list[int] = []
        between: list[int] = []
        start = 0
        found: Iterable[tuple[int | None, tuple[int, int]]] = zip(encoding.ids, encoding.offsets, strict=True)
        for token_id, (begin, end) in chain(found, [(None, (len(text), len(text)))]):
            if token_id is not None and not self._is_added(token_id, text[begin:end]):
                between.append(token_id)
                continue
            piece = text[start:begin]
            ids += self._encode_plain(disguise.take_off(piece), start == 0) if disguise.is_in(piece) else between
            ids += [] if token_id is None else [token_id]
            between, start = [], end
        return ids

    def _encode_plain(self, text: str, first: bool) -> list[int]:
        """By the tokenizer's own steps, but for the search for added tokens. Raises InvalidInput where one comes of it all the same."""
        ids: list[int] = []
        for word in self._words(text, first):
            found = [token.id for token in self._tokenizer.model.tokenize(word)]
            if self._forged(found):  # a vocabulary that has it too, and takes a whole word for a token
                found = [token.id for character in word for token in self._tokenizer.model.tokenize(character)]
            ids += found
        if self._forged(ids):
            raise InvalidInput("the tokenizer makes a control token of plain text", advice="leave it out of the messages")
        return ids

    def _words(self, text: str, first: bool) -> list[str]:
        """As the tokenizer cuts what stands `first` in the prompt, or behind an added token."""
        normalizer, cutter = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        text = text if normalizer is None else normalizer.normalize_str(text)
        if cutter is None:
            return [text]
        if first or getattr(cutter, "prepend_scheme", "") != "first":
            return [word for word, _ in cutter.pre_tokenize_str(text)]
        (begin, *rest) = [word for word, _ in cutter.pre_tokenize_str(f"\n{text}")]  # the mark of a beginning goes before the newline
        return [begin.partition("\n")[2], *rest]

    def _forged(self, ids: Iterable[int]) -> bool:
        return not (self._control - self._unknown).isdisjoint(ids)


def check_length(text: str, context: int | None, longest: int) -> None:
    """Raises InvalidInput for a text that no tokens of at most `longest` characters could bring into the context, or that is beyond any."""
    if len(text) > MAX_CHARACTERS:
        raise InvalidInput(f"the prompt is longer than {MAX_CHARACTERS} characters", advice="send a shorter one")
    if context is not None and len(text) > context * longest:
        raise InvalidInput(f"the prompt has {len(text)} characters, {context} tokens have {context * longest} at most", advice=SHORTEN)


def too_long(tokens: int, context: int) -> InvalidInput:
    return InvalidInput(f"the prompt has {tokens} tokens; this deployment's context is {context}, the answer included", advice=SHORTEN)


def _unknown(tokenizer: Tokenizer) -> frozenset[int]:
    """What stands for a character that the vocabulary does not have, where anything does."""
    try:
        return frozenset(token.id for token in tokenizer.model.tokenize(_UNKNOWN))
    except Exception:  # the library's own: nothing does
        return frozenset()
