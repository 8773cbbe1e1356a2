"""SentencePiece's pieces in a GGUF file, as llama.cpp's converter writes those of ChatGLM3 (conversion/chatglm.py, set_vocab_chatglm3)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from device.text.messages import Message
from device.text.model import TextModel
from protos.errors import InvalidInput
from quantize.checkpoints.gguf_checkpoint import open_gguf
from quantize.checkpoints.sentencepiece_file import Kind, read_sentencepiece
from tests.support.checkpoints import TinyGlm
from tests.support.gguf_files import write_gguf
from tests.support.goldens import golden_folder

GOLDEN = golden_folder("chatglm3")
CHATS: list[dict[str, Any]] = json.loads((GOLDEN / "chats.json").read_text())
TEXTS: list[tuple[str, list[int]]] = json.loads((GOLDEN / "texts.json").read_text())
SPECIAL = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}[gMASK]sop{% endif %}<|{{ message['role'] }}|>\n {{ message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _metadata(**changes: object) -> dict[str, object]:
    pieces = read_sentencepiece((GOLDEN / "tokenizer.model").read_bytes()).pieces
    renamed = {"<s>": "<bos>", "</s>": "<eos>"}
    padding = range(len(pieces) + len(SPECIAL), 416)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [
            *(renamed.get(one.text, one.text) for one in pieces),
            *SPECIAL,
            *(f"[PAD{number}]" for number in padding),
        ],
        "tokenizer.ggml.scores": [*(float(one.score) for one in pieces), *[0.0] * (416 - len(pieces))],
        "tokenizer.ggml.token_type": [
            *(int(one.kind) for one in pieces),
            *[int(Kind.CONTROL)] * len(SPECIAL),
            *[int(Kind.UNUSED)] * len(padding),
        ],
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eot_token_id": None,
        "tokenizer.ggml.add_bos_token": None,
        "tokenizer.chat_template": TEMPLATE,
        **{f"tokenizer.ggml.{key}": value for key, value in changes.items()},
    }


def _text(path: Path, metadata: dict[str, object]) -> TextModel:
    with open_gguf(write_gguf(path, TinyGlm(vocab_size=416), metadata=metadata)) as checkpoint:
        return TextModel.load(checkpoint.text_files, checkpoint.config.eos_token_ids, checkpoint.config.vocab_size)


def test_chatglm3s_ids(tmp_path: Path) -> None:
    text = _text(tmp_path / "tiny.gguf", _metadata())
    assert text.eos_token_ids == {2, 406, 408}
    for chat in CHATS:
        if all(message["content"] for message in chat["messages"]):
            assert text.chat([Message(message["role"], message["content"]) for message in chat["messages"]]) == chat["chatglm3"]
    for words, ids in TEXTS:
        assert text.encode(words) == [401, 403, *ids], repr(words)
        assert text.decode(ids) == words.replace("▁", " ")


def test_without_a_template_the_files_name_tells_the_form(tmp_path: Path) -> None:
    metadata = {**_metadata(), "tokenizer.chat_template": None}
    text = _text(tmp_path / "2.gguf", {**metadata, "general.name": "Chatglm2 6b"} | {"general.basename": "chatglm2"})
    assert text.chat([Message("user", "你好")]) == CHATS[0]["chatglm2"]
    with pytest.raises(InvalidInput, match="no chat template"):
        _text(tmp_path / "none.gguf", metadata).chat([Message("user", "你好")])


def test_another_models_pieces_get_its_begin_token(tmp_path: Path) -> None:
    """Llama's, whose default it is in llama.cpp."""
    tokens = [text.replace("MASK", "X") for text in _metadata()["tokenizer.ggml.tokens"]]  # type: ignore[attr-defined]
    plain, ids = TEXTS[3]
    assert _text(tmp_path / "a.gguf", _metadata(tokens=tokens)).encode(plain) == [1, *ids]
    assert _text(tmp_path / "b.gguf", _metadata(tokens=tokens, add_bos_token=False)).encode(plain) == ids
    assert _text(tmp_path / "c.gguf", _metadata(tokens=tokens, add_bos_token=False, add_space_prefix=False)).encode(f" {plain}") == ids


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scores": [0.0]}, "have not one type and one score each"),
        ({"token_type": [9] * 416}, "has a type that is none"),
        ({"scores": ["x"] * 416}, "scores is no list of numbers"),
        ({"scores": [float("nan")] * 416}, "scores is no list of numbers"),
        ({"tokens": ["a"] * 416}, "names a token twice"),
    ],
)
def test_refusals_are_one_line(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        _text(tmp_path / "bad.gguf", _metadata(**changes))
    assert "\n" not in caught.value.detail + caught.value.advice
