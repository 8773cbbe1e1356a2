"""A model's tokenizer and chat template, from the text files of its artifact."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property, partial
from typing import Any

from tokenizers import Tokenizer

from device.text import calls
from device.text.charsmap import check_charsmaps
from device.text.detokenizer import Detokenizer
from device.text.encoder import Encoder
from device.text.formats import CallForm
from device.text.messages import Message
from device.text.parts import in_parts, roles_in_parts
from device.text.template import ChatTemplate
from device.text.thoughts import CLOSE, OPEN
from device.text.tools import Dialect, Plain, find_dialect, form_of_calls, in_dialect, in_generic, needs_dialect, plain
from device.text.words import Words
from protos.errors import Corrupt, InvalidInput

_SPECIAL_TOKEN_KEYS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_HELLO = (Message("user", "Hello"),)
_PARTING_TAGS = calls.TAGS | {OPEN, CLOSE}
_REIMPORT = "import the model again"
_NO_VARIABLES: Mapping[str, Any] = {}


def local_now() -> datetime:
    return datetime.now().astimezone()


class TextModel:
    """Immutable after `load`, and safe to use from several threads. A stranger's can take any time and memory: `device.text.confined`."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None, eos_token_ids: Iterable[int], vocab_size: int) -> None:
        self.eos_token_ids = frozenset(eos_token_ids)
        self.vocab_size = vocab_size
        self._tokenizer = tokenizer
        self._template = template
        added = tokenizer.get_added_tokens_decoder()
        special = {number: token.content for number, token in added.items() if token.special}
        # Tags that part an answer are text of it, whatever the file says.
        skipped = self.eos_token_ids.union(number for number, text in special.items() if text not in _PARTING_TAGS)
        tokens = {number: text for text, number in tokenizer.get_vocab(with_added_tokens=False).items()}
        tokens |= {number: token.content for number, token in added.items()}
        self._added = {token.content for token in added.values()}
        self.words = Words(tokens, skipped, _decoder(tokenizer))
        self._encoder = Encoder(tokenizer, self.eos_token_ids.union(special), vocab_size, self.words.longest)

    @classmethod
    def load(
        cls, files: Mapping[str, bytes], eos_token_ids: Iterable[int], vocab_size: int, clock: Callable[[], datetime] = local_now
    ) -> TextModel:
        """From "tokenizer.json" and, when present, "tokenizer_config.json" and "chat_template.jinja" (which outdoes the config's).

        Takes up to a second for a large vocabulary: call in an executor. Raises Corrupt when a file cannot be read, InvalidInput when
        there is no tokenizer, or one that asks for more than it is. The template is not looked at: raw prompts do not need it.
        """
        if "tokenizer.json" not in files:
            raise InvalidInput("the model has no tokenizer.json", advice="add it to the checkpoint and import it again, or use token ids")
        check_charsmaps(files["tokenizer.json"])
        try:
            tokenizer = Tokenizer.from_buffer(files["tokenizer.json"])
        except BaseException as error:  # the library raises plain Exception, and where its Rust panics what is none
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise Corrupt(f"the model's tokenizer.json cannot be read: {_line(error)}", advice=_REIMPORT) from error
        tokenizer.no_truncation()  # a prompt is never cut in silence
        tokenizer.no_padding()
        config = _config(files.get("tokenizer_config.json", b"{}"))
        source = _template_source(files.get("chat_template.jinja"), config.get("chat_template"))
        template = None if source is None else ChatTemplate(source, _special_tokens(config), clock)
        return cls(tokenizer, template, eos_token_ids, vocab_size)

    @property
    def longest(self) -> int:
        """Characters of a text that one token can be."""
        return self._encoder.longest

    def encode(self, text: str, context: int | None = None) -> list[int]:
        """A raw prompt, with what the tokenizer's own post-processor adds (GLM-4: [gMASK]<sop>), unless the text begins so already.

        Raises InvalidInput, also when it leaves nothing of a `context` of so many tokens.
        """
        ids, bare = (self._encoder.encode(text, framed=framing, context=context) for framing in (True, False))
        added = len(ids) - len(bare)
        return bare if 0 < added <= len(bare) and ids[added:] == bare and bare[:added] == ids[:added] else ids

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """What the tokenizer's own post-processor puts before and behind a text."""
        framed, bare = (self._encoder.encode("a", framed=framing) for framing in (True, False))
        start = next((start for start in range(len(framed)) if framed[start : start + len(bare)] == bare), None)
        if start is None:
            raise InvalidInput("the tokenizer writes a text with special tokens around it otherwise than without", advice="get it again")
        return framed[:start], framed[start + len(bare) :]

    def pieces(self, text: str) -> list[int]:
        """A piece of an answer as the tokenizer writes it, without what it puts around a text. Raises InvalidInput."""
        return self._encoder.encode(text)

    def all_pieces(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.pieces(text) for text in texts]

    def chat(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[str] = (),
        variables: Mapping[str, Any] = _NO_VARIABLES,
        context: int | None = None,
    ) -> list[int]:
        """A conversation through the model's own template, which writes every special token itself; `tools` are OpenAI's objects as JSON,
        `variables` what else the template is to know (values of JSON).

        A template that knows no tools is told of them in a system message. Raises InvalidInput when the model has no template, or the
        template refuses; and as `encode`.
        """
        if self._template is None:
            raise InvalidInput("the model has no chat template", advice="send a raw prompt: `generate --raw`, or /v1/completions")
        if not messages:
            raise InvalidInput("no messages", advice="send at least one")
        told: Sequence[Plain] = [plain(message) for message in messages]
        objects: Sequence[Plain] = ()
        if needs_dialect(messages, tools):
            told, objects = (in_generic(messages, tools), ()) if self._dialect is None else in_dialect(messages, tools, self._dialect)
        told = in_parts(told, self._roles_in_parts)
        render = partial(self._template.render, add_generation_prompt=add_generation_prompt)
        return self._encoder.encode_rendered(render, {**variables, "messages": told, "tools": objects or None}, context)

    def chat_problem(self) -> str:
        """Why nobody can talk with the model although it has a chat template; "" where one can, or it has none."""
        if self._template is None:
            return ""
        try:
            self.chat(_HELLO)
        except InvalidInput as error:
            return error.detail
        return ""

    @property
    def may_think(self) -> bool:
        """It may open a thought itself."""
        return self._template is not None and OPEN in self._added

    @property
    def call_form(self) -> CallForm:
        """How it writes a call of a tool."""
        return CallForm.JSON if self._template is None else form_of_calls(self._rendered, self._dialect)

    def _rendered(self, messages: Sequence[Plain], tools: Sequence[Plain]) -> str:
        assert self._template is not None
        return self._template.render({"messages": messages, "tools": tools or None}, add_generation_prompt=True)

    @cached_property
    def _dialect(self) -> Dialect | None:
        return find_dialect(self._rendered)

    @cached_property
    def _roles_in_parts(self) -> frozenset[str]:
        return roles_in_parts(self._rendered)

    def token(self, token_id: int) -> str:
        return self.words.token(token_id)

    def decode(self, token_ids: Iterable[int]) -> str:
        return self.words.decode(token_ids)

    def stream(self) -> Detokenizer:
        return self.words.stream()

    def opens_thought(self, prompt_ids: Sequence[int]) -> bool:
        return self.words.opens_thought(prompt_ids)


def _decoder(tokenizer: Tokenizer) -> dict[str, Any]:
    if tokenizer.decoder is None:
        return {}
    plain: dict[str, Any] = json.loads(tokenizer.decoder.__getstate__())
    return plain


def _config(data: bytes) -> dict[str, Any]:
    try:
        config = json.loads(data)
    except ValueError as error:
        raise Corrupt(f"the model's tokenizer_config.json cannot be read: {_line(error)}", advice=_REIMPORT) from error
    if not isinstance(config, dict):
        raise Corrupt("the model's tokenizer_config.json is not an object", advice=_REIMPORT)
    return config


def _template_source(file: bytes | None, configured: object) -> str | None:
    """The file's, else the config's: a string, or a list of named ones of which "default" counts."""
    if file is not None:
        return file.decode(errors="surrogateescape")  # what is not UTF-8 is no template: ChatTemplate says so when it is asked for
    if isinstance(configured, list):
        named = {one.get("name"): one.get("template") for one in configured if isinstance(one, dict)}
        configured = named.get("default")
    return configured if isinstance(configured, str) else None


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """By name, for the template: each a string, or an object with its `content`."""
    found = {}
    for key in _SPECIAL_TOKEN_KEYS:
        value = config.get(key)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            found[key] = value
    return found


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
