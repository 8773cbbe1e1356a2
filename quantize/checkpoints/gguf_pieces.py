"""A GGUF file's tokenizer of kind `llama`: SentencePiece's pieces with their scores, special tokens among them (ChatGLM3's conversions)."""

from __future__ import annotations

from protos.errors import InvalidInput
from quantize.checkpoints.bpe import AddedToken
from quantize.checkpoints.chatglm_text import PREFIX, chatglm_template, generation_of, spelled
from quantize.checkpoints.gguf_file import GgufFile
from quantize.checkpoints.sentencepiece_file import Kind, Normalizer, Piece, SentencePieces
from quantize.checkpoints.sentencepiece_tokenizer import tokenizer_of_pieces

_LIST, _KINDS, _SCORES = (f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "scores"))


def pieces_tokenizer(file: GgufFile) -> bytes:
    """tokenizer.json. Defaults are llama.cpp's for this kind (src/llama-vocab.cpp): a space before, a begin token. Raises InvalidInput."""
    pieces = _pieces(file)
    control = {piece.text: AddedToken(number, piece.text) for number, piece in enumerate(pieces) if piece.kind is Kind.CONTROL}
    normalizer = Normalizer(
        add_space=file.flag("tokenizer.ggml.add_space_prefix", True),
        remove_extra_spaces=file.flag("tokenizer.ggml.remove_extra_whitespaces", False),
    )
    prefix = [control[text] for text in PREFIX if text in control]
    if len(prefix) < len(PREFIX):
        key = "tokenizer.ggml.bos_token_id"
        begin = pieces[file.integer(key, 0, len(pieces) - 1)].text if file.has(key) else ""
        prefix = [control[begin]] if begin in control and file.flag("tokenizer.ggml.add_bos_token", True) else []
    return tokenizer_of_pieces(SentencePieces(pieces, byte_fallback=True, normalizer=normalizer), (), prefix)


def pieces_template(file: GgufFile, template: str) -> str:
    """ChatGLM's with its tokens as they are called here, or its code's where the file's name tells which; another's as it is."""
    if PREFIX[0] not in file.texts(_LIST):
        return template
    names = [file.text(f"general.{key}", "") for key in ("name", "basename")]
    return chatglm_template(template, generation_of({}, names, ""))


def _pieces(file: GgufFile) -> tuple[Piece, ...]:
    tokens, kinds, scores = file.texts(_LIST), file.integers(_KINDS), file.numbers(_SCORES)
    if not len(tokens) == len(kinds) == len(scores):
        file.refuse("its tokens have not one type and one score each")
    try:
        stated = [Kind(kind) for kind in kinds]
    except ValueError:
        file.refuse(f"{_KINDS} has a type that is none")
    pieces = tuple(
        Piece(spelled(text) if kind is Kind.CONTROL else text, score, kind)
        for text, kind, score in zip(tokens, stated, scores, strict=True)
    )
    if len({piece.text for piece in pieces}) < len(pieces) or not all(piece.text for piece in pieces):
        raise InvalidInput(f"{file.name}: {_LIST} names a token twice, or an empty one", advice="convert the model again")
    return pieces
