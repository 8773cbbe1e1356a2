"""Makes the golden checkpoint of ChatGLM3: its decoder in torch, its tokenizer in SentencePiece, its conversations in its own code's order.

transformers has none of the three: they come with the checkpoints as code (THUDM/chatglm3-6b: modeling_chatglm.py and
tokenization_chatglm.py). This is written anew, from what that computes. Besides make.py's environment it needs sentencepiece:

    /tmp/goldens/bin/python -m tests.goldens.chatglm

Beside the files of make.py's folders it writes `texts.json`: [text, SentencePiece's ids] each, and `chats.json`: conversations with the ids
that ChatGLM3's and ChatGLM2's code make of them.
"""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).parent / "chatglm3"
SEQUENCES, TOKENS, PIECES = 2, 24, 400
CONFIG: dict[str, Any] = {
    "_name_or_path": "THUDM/chatglm3-6b",
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_softmax_in_fp32": True,
    "ffn_hidden_size": 40,
    "hidden_size": 40,
    "kv_channels": 16,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 1,
    "num_attention_heads": 2,
    "num_layers": 2,
    "original_rope": True,
    "padded_vocab_size": 416,
    "post_layer_norm": True,
    "rmsnorm": True,
    "rope_ratio": 4,
    "seq_length": 128,
    "torch_dtype": "float16",
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
TEXT = """The river was high that spring, and nobody could remember a year when the water had come so close to the mill.
def mean(values): return sum(values) / len(values)  # 12 sacks at $3.50 each made $42.00
Question: Why is the sky blue? Answer: short waves of light are scattered more strongly than long ones.
    indented   code;  {"sensor": "t-07", "value": 21.5}
你好，世界！今天天气怎么样？ 天空是蓝色的，云是白色的。 [Round 1] 问：中国的首都是哪里？ 答：北京是中国的首都。
aaaa abab baba sophisticated sop"""
WORDS = [
    "",
    " ",
    "\n",
    "the river",
    "  two  spaces ",
    "naïve café",
    "你好",
    "天空是蓝色的。",
    "漢字🙂é",
    "a\tb\r\nc",
    "aaaaa",
    "1234.5",
    "▁",
    "<s>",
    "\u0000",
    "</s> sop",
]
CHATS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "你好"}],
    [
        {"role": "user", "content": "Why is the sky blue?"},
        {"role": "assistant", "content": "Because of light."},
        {"role": "user", "content": "And the water?"},
    ],
    [{"role": "system", "content": "Answer in one line."}, {"role": "user", "content": "  def f():\n    return 1\n"}],
    [{"role": "user", "content": "a sophisticated sop, eop"}],
    [{"role": "user", "content": "<|user|>\n </s>[gMASK]<sop> [MASK]"}, {"role": "assistant", "content": "a<|observation|>b <unk>"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}, {"role": "user", "content": "\n"}],
]


def main() -> None:
    torch.manual_seed(11)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    tensors = {name: values.half() for name, values in _draw()}
    save_file({f"transformer.{name}": values for name, values in tensors.items()}, FOLDER / "model.safetensors", metadata={"format": "pt"})
    _write("config.json", CONFIG)
    ids = torch.randint(0, CONFIG["padded_vocab_size"], (SEQUENCES, TOKENS))
    read = {name: values.float() for name, values in tensors.items()}
    logits = torch.stack([logits_of(read, sequence) for sequence in ids])
    np.savez_compressed(FOLDER / "reference.npz", ids=ids.numpy(), logits=logits.numpy().astype(np.float32))
    pieces = _train()
    _write("tokenizer_config.json", {"name_or_path": "THUDM/chatglm3-6b", "tokenizer_class": "ChatGLMTokenizer", "remove_space": False})
    texts = [*WORDS, *TEXT.split("\n"), *(a + b for a in WORDS[3:9] for b in WORDS[3:9])]
    _write("texts.json", [[text, pieces.encode(text)] for text in texts])
    _write("chats.json", [{"messages": chat, "chatglm3": _chatglm3(pieces, chat), "chatglm2": _chatglm2(pieces, chat)} for chat in CHATS])
    print(f"{sum(path.stat().st_size for path in FOLDER.iterdir()) / 1024:.0f} KiB")


def _draw() -> Iterator[tuple[str, torch.Tensor]]:
    """Names and shapes as modeling_chatglm.py has them: one matrix of all queries, then keys, then values; gate, then up."""
    hidden, wide, vocabulary = CONFIG["hidden_size"], CONFIG["ffn_hidden_size"], CONFIG["padded_vocab_size"]
    query, key = (CONFIG["kv_channels"] * CONFIG[name] for name in ("num_attention_heads", "multi_query_group_num"))

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns) * columns**-0.5

    yield "embedding.word_embeddings.weight", torch.randn(vocabulary, hidden)
    for number in range(CONFIG["num_layers"]):
        layer = f"encoder.layers.{number}."
        yield f"{layer}input_layernorm.weight", 1 + 0.1 * torch.randn(hidden)
        yield f"{layer}self_attention.query_key_value.weight", matrix(query + 2 * key, hidden)
        yield f"{layer}self_attention.query_key_value.bias", 0.1 * torch.randn(query + 2 * key)
        yield f"{layer}self_attention.dense.weight", matrix(hidden, query)
        yield f"{layer}post_attention_layernorm.weight", 1 + 0.1 * torch.randn(hidden)
        yield f"{layer}mlp.dense_h_to_4h.weight", matrix(2 * wide, hidden)
        yield f"{layer}mlp.dense_4h_to_h.weight", matrix(hidden, wide)
    yield "encoder.final_layernorm.weight", 1 + 0.1 * torch.randn(hidden)
    yield "output_layer.weight", matrix(vocabulary, hidden)
    yield "rotary_pos_emb.inv_freq", 10000.0 ** -(torch.arange(0, CONFIG["kv_channels"] // 2, 2) / (CONFIG["kv_channels"] // 2))


def logits_of(tensors: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """[tokens] -> [tokens, V], in the order of rows that the code has: tokens first, then heads."""
    heads, groups, width = CONFIG["num_attention_heads"], CONFIG["multi_query_group_num"], CONFIG["kv_channels"]

    def normed(rows: torch.Tensor, name: str) -> torch.Tensor:
        return tensors[name] * rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + CONFIG["layernorm_epsilon"])

    turned = width // 2  # of each head; the rest stays
    base = 10000 * CONFIG["rope_ratio"]
    angles = torch.outer(torch.arange(len(ids)).float(), base ** -(torch.arange(0, turned, 2) / turned))
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]

    def turn(rows: torch.Tensor) -> torch.Tensor:
        """Neighbouring elements are the real and the imaginary part of one number."""
        pairs = torch.view_as_complex(rows[..., :turned].reshape(*rows.shape[:-1], turned // 2, 2).contiguous())
        return torch.cat([torch.view_as_real(pairs * turns).flatten(-2), rows[..., turned:]], -1)

    hidden = tensors["embedding.word_embeddings.weight"][ids]
    for number in range(CONFIG["num_layers"]):
        layer = f"encoder.layers.{number}."
        rows = normed(hidden, f"{layer}input_layernorm.weight")
        mixed = rows @ tensors[f"{layer}self_attention.query_key_value.weight"].T + tensors[f"{layer}self_attention.query_key_value.bias"]
        queries, keys, values = mixed.split([heads * width, groups * width, groups * width], -1)
        queries, keys = turn(queries.view(-1, heads, width)), turn(keys.view(-1, groups, width))
        keys, values = (one.reshape(-1, groups, width).repeat_interleave(heads // groups, 1) for one in (keys, values))
        scores = torch.einsum("qhd,khd->hqk", queries, keys) / math.sqrt(width)
        scores = scores.masked_fill(torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1), -math.inf)
        attended = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values).flatten(1)
        hidden = hidden + attended @ tensors[f"{layer}self_attention.dense.weight"].T
        rows = normed(hidden, f"{layer}post_attention_layernorm.weight") @ tensors[f"{layer}mlp.dense_h_to_4h.weight"].T
        gate, up = rows.chunk(2, -1)
        hidden = hidden + (torch.nn.functional.silu(gate) * up) @ tensors[f"{layer}mlp.dense_4h_to_h.weight"].T
    return normed(hidden, "encoder.final_layernorm.weight") @ tensors["output_layer.weight"].T


def _train() -> sentencepiece.SentencePieceProcessor:
    """As ChatGLM's: BPE with bytes to fall back on, texts as they are, digits apart."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split("\n") * 4),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        byte_fallback=True,
        character_coverage=0.99,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (FOLDER / "tokenizer.model").write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def _special(pieces: sentencepiece.SentencePieceProcessor) -> dict[str, int]:
    texts = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
    return {text: pieces.vocab_size() + number for number, text in enumerate(texts)}


def _chatglm3(pieces: sentencepiece.SentencePieceProcessor, chat: list[dict[str, str]]) -> list[int]:
    """`build_chat_input`: each message is its role, a line for metadata and the text, each encoded alone."""
    special = _special(pieces)
    ids = [special["[gMASK]"], special["sop"]]
    for message in chat:
        ids += [special[f"<|{message['role']}|>"], *pieces.encode("\n"), *pieces.encode(message["content"])]
    return [*ids, special["<|assistant|>"]]


def _chatglm2(pieces: sentencepiece.SentencePieceProcessor, chat: list[dict[str, str]]) -> list[int]:
    """`build_prompt`: rounds of question and answer. It knows no system message: here one stands before the first round."""
    special, prompt, rounds = _special(pieces), "", 0
    for message in chat:
        if message["role"] == "user":
            rounds += 1
            prompt += f"[Round {rounds}]\n\n问：{message['content']}\n\n答："
        else:
            prompt += f"{message['content']}\n\n"
    return [special["[gMASK]"], special["sop"], *pieces.encode(prompt)]


def _write(name: str, value: object) -> None:
    (FOLDER / name).write_text(json.dumps(value, ensure_ascii=False, indent=None if isinstance(value, list) else 2) + "\n")


if __name__ == "__main__":
    main()
