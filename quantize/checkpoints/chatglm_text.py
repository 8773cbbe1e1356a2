"""ChatGLM2's and ChatGLM3's text: SentencePiece's pieces, the special tokens behind them, and the form of a conversation.

Both are told apart by code alone (tokenization_chatglm.py, `build_prompt` and `build_chat_input`), which is never run: it is read for the
roles that it names, where it comes along.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from protos.errors import InvalidInput
from quantize.checkpoints.bpe import AddedToken
from quantize.checkpoints.sentencepiece_file import MODEL_FILE, SentencePieces, read_sentencepiece
from quantize.checkpoints.sentencepiece_tokenizer import tokenizer_of_pieces

CODE_FILE = "tokenization_chatglm.py"
# In the order of their numbers, which follow the last piece's. The start and end of a piece are called "sop" and "eop" there, as words
# that any text may hold: here they are what GLM-4 calls them.
_SPECIAL = ("[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>")
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
PREFIX = ("[gMASK]", "<sop>")
_SPELLED_OUT = re.compile(r"(?<![\w<])([se]op)(?![\w>])")
_NUMBER = re.compile(r"\d{1,9}")


class Generation(Enum):
    """Which of the two a checkpoint is, as far as it can be known."""

    CHATGLM2 = "chatglm2"
    CHATGLM3 = "chatglm3"
    UNKNOWN = ""


# ChatGLM2 knows no system message: one is put before the first round, as FastChat does.
_CHATGLM2_TEMPLATE = (
    "[gMASK]<sop>{% set count = namespace(round=0) %}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{% set count.round = count.round + 1 %}"
    "{{ '[Round ' ~ count.round ~ ']\\n\\n问：' ~ message['content'] ~ '\\n\\n答：' }}"
    "{% elif message['role'] == 'assistant' or (message['role'] == 'system' and loop.first) %}{{ message['content'] ~ '\\n\\n' }}"
    "{% else %}{{ raise_exception('only the roles user and assistant are known, and system in the first message') }}{% endif %}{% endfor %}"
)
# A text is encoded apart from its role's line, and begins with a space; of an empty one there is nothing.
_CHATGLM3_TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant', 'observation'] %}"
    "{{ raise_exception('the role ' ~ message['role'] ~ ' is not known') }}{% endif %}"
    "{{ '<|' ~ message['role'] ~ '|>' ~ (message['metadata'] or '') ~ '\\n' ~ (' ' ~ message['content'] if message['content'] else '') }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_TEMPLATES = {Generation.CHATGLM2: _CHATGLM2_TEMPLATE, Generation.CHATGLM3: _CHATGLM3_TEMPLATE, Generation.UNKNOWN: ""}


def generation_of(settings: Mapping[str, Any], names: Iterable[object], code: str) -> Generation:
    """By tokenizer_config.json's tokens, else by what the tokenizer's `code` names, else by what the checkpoint is called."""
    if _ROLES[1] in (token.get("content") for token in _listed(settings).values()):
        return Generation.CHATGLM3
    if code:
        return Generation.CHATGLM3 if _ROLES[1] in code else Generation.CHATGLM2
    called = " ".join(name.lower() for name in names if isinstance(name, str))
    return next((one for one in (Generation.CHATGLM3, Generation.CHATGLM2) if one.value in called), Generation.UNKNOWN)


def chatglm_tokenizer(data: bytes, generation: Generation, settings: Mapping[str, Any]) -> bytes:
    """tokenizer.json of SentencePiece's tokenizer.model, and of tokens that tokenizer_config.json adds. Raises InvalidInput."""
    model = read_sentencepiece(data)
    special = _special_tokens(model, generation, settings)
    return tokenizer_of_pieces(model, special, [token for token in special if token.text in PREFIX])


def chatglm_template(given: str, generation: Generation) -> str:
    """The checkpoint's own with the tokens' names of here, else what its code does; "" where that is not known."""
    return spelled(given) if given else _TEMPLATES[generation]


def spelled(text: str) -> str:
    """With "sop" and "eop", where they are words, as they are called here."""
    return _SPELLED_OUT.sub(r"<\1>", text)


def _special_tokens(model: SentencePieces, generation: Generation, settings: Mapping[str, Any]) -> list[AddedToken]:
    """Roles are ChatGLM3's, and harmless where neither is known."""
    texts = _SPECIAL if generation is Generation.CHATGLM2 else (*_SPECIAL, *_ROLES)
    taken = {piece.text for piece in model.pieces}
    if repeated := [text for text in texts if text in taken]:
        raise InvalidInput(
            f"{MODEL_FILE} has a piece {repeated[0]}, which is a special token of ChatGLM's", advice="give a tokenizer.json beside it"
        )
    first = len(model.pieces)
    special = [AddedToken(first + number, text) for number, text in enumerate(texts)]
    for number, token in sorted(_listed(settings).items()):
        at, text = number - first, spelled(str(token.get("content")))
        if at == len(special):
            special.append(AddedToken(number, text, token.get("special") is True))
        elif at > len(special) or (at >= 0 and special[at].text != text):
            raise InvalidInput(
                f"tokenizer_config.json: added token {number} cannot be {text[:40]!r} behind {first} pieces of {MODEL_FILE}",
                advice="give a tokenizer.json beside it",
            )
    return special


def _listed(settings: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """tokenizer_config.json's added tokens by number; what is none is left out."""
    listed = settings.get("added_tokens_decoder")
    entries = listed.items() if isinstance(listed, dict) else ()
    return {int(number): token for number, token in entries if _NUMBER.fullmatch(number) and isinstance(token, dict)}
