"""Added tokens of a checkpoint, which several files list: tokenizer.json as transformers completes it from the others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from protos.errors import InvalidInput

SPECIAL_MAP_FILE = "special_tokens_map.json"
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class TokenFiles:
    """tokenizer_config.json, special_tokens_map.json and added_tokens.json, {} for one that is not there."""

    settings: Mapping[str, Any]
    special_map: Mapping[str, Any]
    added: Mapping[str, Any]

    @property
    def merged(self) -> Mapping[str, Any]:
        """The settings with what special_tokens_map.json says otherwise; transformers reads it where the settings list no added tokens."""
        if "added_tokens_decoder" in self.settings:
            return self.settings
        other = {
            name: value
            for name, value in self.special_map.items()
            if value != self.settings.get(name) and (named_token(self.special_map, name) or "") != named_token(self.settings, name)
        }
        return {**self.settings, **other}


@dataclass(frozen=True)
class _Token:
    """As `tokenizers` has it. `flags`: of `_FLAGS`, in order."""

    content: str
    flags: tuple[bool, ...]


def complete_tokenizer(data: bytes, files: TokenFiles, vocab_size: int) -> bytes:
    """tokenizer.json with every token that another file adds to it; the same bytes where there is none.

    As transformers does (tokenization_utils_tokenizers.py): the settings' flags outdo tokenizer.json's, and a new token gets the next
    free number, whatever number it is listed under. One beyond the model's `vocab_size` stays text. Raises InvalidInput.
    """
    tokenizer = json.loads(data)
    listed = [_parsed(token, "tokenizer.json") for token in tokenizer.get("added_tokens") or ()]
    known = {token.content: token for token in listed}
    wanted = list(_wanted(files, known))
    numbers = _numbers(tokenizer, [*listed, *wanted])
    wanted = [token for token in wanted if numbers[token.content] < vocab_size]
    if not wanted:
        return data
    tokens = {token.content: token for token in [*listed, *wanted]}
    tokenizer["added_tokens"] = [
        {"id": numbers[text], "content": text, **dict(zip(_FLAGS, tokens[text].flags, strict=True))}
        for text in sorted(tokens, key=numbers.__getitem__)
    ]
    return json.dumps(tokenizer, ensure_ascii=False).encode()


def named_token(settings: Mapping[str, Any], name: str) -> str | None:
    """The text of "eos_token" or another of `NAMED`: the settings have a text, or an object with its `content`."""
    value = settings.get(name)
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) and text else None


def _wanted(files: TokenFiles, known: Mapping[str, _Token]) -> Iterable[_Token]:
    """What tokenizer.json has not, or has with other flags, each once and in the order of adding."""
    settings = files.merged
    named = {text for name in settings if (text := named_token(settings, name)) and name.endswith("_token")}
    seen: set[str] = set()
    for token in _listed(files, named):
        if known.get(token.content) != token and token.content not in seen:
            seen.add(token.content)
            special = token.flags[-1] or token.content in named
            yield _Token(token.content, (*token.flags[:-1], special))
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or ()
    values = [settings[name] for name in NAMED if name in settings]
    values += [value for name, value in settings.items() if name.endswith("_token") and name not in NAMED]
    values += list(extra.values()) if isinstance(extra, dict) else list(extra) if isinstance(extra, list) else []
    for value in values:
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str) and text and text not in known and text not in seen:
            seen.add(text)
            yield _parsed({**value, "special": True} if isinstance(value, dict) else {"content": text, "special": True}, SPECIAL_MAP_FILE)


def _listed(files: TokenFiles, named: set[str]) -> list[_Token]:
    """By number: of the settings' added_tokens_decoder, or of added_tokens.json where they have none."""
    file, listed = "tokenizer_config.json", files.settings.get("added_tokens_decoder")
    if "added_tokens_decoder" not in files.settings:
        file = "added_tokens.json"
        extra = files.merged.get("extra_special_tokens") or files.merged.get("additional_special_tokens") or ()
        special = named | {text for text in extra if isinstance(text, str)}
        listed = {number: {"content": text, "special": text in special} for text, number in files.added.items()}
    if listed is None:
        return []
    if not isinstance(listed, dict) or not all(str(number).isdecimal() for number in listed):
        raise InvalidInput(f"{file}: its added tokens are not listed by number", advice="get the checkpoint again")
    return [_parsed(listed[number], file) for number in sorted(listed, key=lambda number: int(str(number)[:20]))]


def _numbers(tokenizer: Mapping[str, Any], tokens: Iterable[_Token]) -> dict[str, int]:
    """What `tokenizers` gives tokens that are added in this order: the vocabulary's own number, else the next."""
    vocabulary = (tokenizer.get("model") or {}).get("vocab") or {}
    own = vocabulary if isinstance(vocabulary, dict) else {entry[0]: number for number, entry in enumerate(vocabulary)}
    numbers: dict[str, int] = {}
    last = len(own) - 1
    for token in tokens:
        if token.content not in numbers:
            number = own.get(token.content, last + 1)
            numbers[token.content] = number
            last = max(last, number)
    return numbers


def _parsed(token: object, file: str) -> _Token:
    """AddedToken's defaults where a flag is left out."""
    content = token.get("content") if isinstance(token, dict) else None
    if not isinstance(token, dict) or not isinstance(content, str):
        raise InvalidInput(f"{file}: an added token is none: {repr(token)[:60]}", advice="get the checkpoint again")
    special = token.get("special") is True
    defaults = (False, False, False, not special, False)
    flags = tuple(default if token.get(flag) is None else token[flag] is True for flag, default in zip(_FLAGS, defaults, strict=True))
    return _Token(content, flags)
