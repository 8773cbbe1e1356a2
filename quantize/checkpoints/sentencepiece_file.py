"""SentencePiece's tokenizer.model: pieces, their scores, and how text is normalized before it is cut into them.

A message of google/sentencepiece, src/sentencepiece_model.proto, of which these are the fields that say how text becomes pieces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NoReturn

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from protos.errors import InvalidInput

MODEL_FILE = "tokenizer.model"
_MOST_PIECES = 1 << 20
_BPE = 2
_MODELS = {1: "unigram", _BPE: "BPE", 3: "word", 4: "char"}


class Kind(IntEnum):
    """What a piece is for; the numbers are SentencePiece's, and GGUF's."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    text: str
    score: float
    kind: Kind


@dataclass(frozen=True)
class Normalizer:
    """What is done to a text before it is cut: `characters` is a compiled map of SentencePiece's, "" for none."""

    characters: bytes = b""
    add_space: bool = True
    remove_extra_spaces: bool = False


@dataclass(frozen=True)
class SentencePieces:
    """Of a BPE model: neighbours are joined by the score of their piece. A piece's number is its place."""

    pieces: tuple[Piece, ...]
    byte_fallback: bool
    normalizer: Normalizer


def is_sentencepiece(data: bytes) -> bool:
    """Whether a file of this name is SentencePiece's: GLM-4's, which has the name too, is lines of base64."""
    return not data.isascii()


def read_sentencepiece(data: bytes) -> SentencePieces:
    """Raises InvalidInput for what is no such file, or cuts text in a way that is not supported."""
    try:
        model: Any = _message()()
        model.ParseFromString(data)
        pieces = tuple(Piece(piece.piece.decode(), piece.score, _kind(piece.type)) for piece in model.pieces[:_MOST_PIECES])
    except (message.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{MODEL_FILE} is neither SentencePiece's nor tiktoken's", advice="get the checkpoint again") from error
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    if trainer.model_type != _BPE:
        _wrong(f"a SentencePiece model of type {_MODELS.get(trainer.model_type, trainer.model_type)} is not supported, only BPE")
    if trainer.treat_whitespace_as_suffix or not normalizer.escape_whitespaces:
        _wrong("a SentencePiece model that keeps white space otherwise than before words is not supported")
    texts = {piece.text for piece in pieces}
    if not pieces or len(texts) != len(model.pieces) or "" in texts or not all(math.isfinite(piece.score) for piece in pieces):
        _wrong("the SentencePiece model's pieces are none, empty, repeated, or have no score")
    return SentencePieces(
        pieces,
        byte_fallback=trainer.byte_fallback,
        normalizer=Normalizer(normalizer.precompiled_charsmap, normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces),
    )


def _kind(number: int) -> Kind:
    try:
        return Kind(number)
    except ValueError:
        _wrong(f"the SentencePiece model has a piece of kind {number}, which is none")


def _wrong(what: str) -> NoReturn:
    raise InvalidInput(f"{MODEL_FILE}: {what}", advice="give a tokenizer.json beside it")


_Field = descriptor_pb2.FieldDescriptorProto
# (name, number, type, default), of each message. Enumerations are read as numbers, so that an unknown one is told of.
_FIELDS: Mapping[str, tuple[tuple[str, int, _Field.Type.ValueType, str], ...]] = {
    "Piece": (("piece", 1, _Field.TYPE_BYTES, ""), ("score", 2, _Field.TYPE_FLOAT, "0"), ("type", 3, _Field.TYPE_INT32, "1")),
    "Trainer": (
        ("model_type", 3, _Field.TYPE_INT32, "1"),
        ("treat_whitespace_as_suffix", 24, _Field.TYPE_BOOL, "false"),
        ("byte_fallback", 35, _Field.TYPE_BOOL, "false"),
    ),
    "Normalizer": (
        ("precompiled_charsmap", 2, _Field.TYPE_BYTES, ""),
        ("add_dummy_prefix", 3, _Field.TYPE_BOOL, "true"),
        ("remove_extra_whitespaces", 4, _Field.TYPE_BOOL, "true"),
        ("escape_whitespaces", 5, _Field.TYPE_BOOL, "true"),
    ),
}
_PACKAGE = "glmfleet.sentencepiece"


def _message() -> type[message.Message]:
    file = descriptor_pb2.FileDescriptorProto(name="glmfleet/sentencepiece.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _FIELDS.items():
        described = file.message_type.add(name=name)
        for field, number, kind, default in fields:
            described.field.add(name=field, number=number, type=kind, label=_Field.LABEL_OPTIONAL, default_value=default)
    model = file.message_type.add(name="Model")
    for field, number, inner in (("pieces", 1, "Piece"), ("trainer_spec", 2, "Trainer"), ("normalizer_spec", 3, "Normalizer")):
        label = _Field.LABEL_REPEATED if field == "pieces" else _Field.LABEL_OPTIONAL
        model.field.add(name=field, number=number, type=_Field.TYPE_MESSAGE, label=label, type_name=f".{_PACKAGE}.{inner}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Model"))
