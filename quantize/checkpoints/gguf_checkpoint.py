"""A GGUF file of llama.cpp's architectures for GLM, or a `llama` one whose weights are a GLM decoder, as a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from protos.errors import InvalidInput
from protos.manifest import ModelConfig, Provenance
from quantize.architectures import glm4_moe
from quantize.blocks import Floats
from quantize.checkpoints.checkpoint import tensor_shapes
from quantize.checkpoints.gguf_experts import mixture_names, parse_experts
from quantize.checkpoints.gguf_file import GgufFile, open_gguf_file
from quantize.checkpoints.gguf_latent import latent_names, with_latent
from quantize.checkpoints.gguf_rope import factor_tensors, rope_scaling
from quantize.checkpoints.gguf_tokenizer import eos_token_ids, text_files
from quantize.checkpoints.licenses import stated_license
from quantize.checkpoints.prediction_layers import left_out
from quantize.checkpoints.sampling_defaults import GGUF_PREFIX, FoundSampling, of_gguf
from quantize.sources import FileNames, InnerNames, Sources, read_rows, sources_of

_OUTER = {"embedding.weight": "token_embd.weight", "head.norm": "output_norm.weight", "head.weight": "output.weight"}
_LAYER = "blk.{}."
_SPLIT_QKV = ("attn_q", "attn_k", "attn_v")


@dataclass(frozen=True)
class Family:
    """What `general.architecture` means to us. All keep q and k rows in the order of interleaved RoPE pairs, which is GLM's, unless
    `rotary_halves`, which is GLM-4.5's, and unless positions have sections (GLM-4.1V, GLM-4.6V, GLM-OCR): there pairs are half of the
    rotated rows apart.

    llama.cpp's converter permutes Llama's rows to that order, and leaves GLM's as they are (conversion/llama.py, chatglm.py, glm.py).
    """

    architecture: str
    gate_up: tuple[str, ...]
    notice: str = ""
    rotary_fraction: float = 1.0  # where rope.dimension_count is left out
    rotary_halves: bool = False
    post_norm: str = "ffn_norm"
    head_norms: bool = False  # it may have norms of query and key heads
    experts: bool = False
    latent: bool = False


FAMILIES: Mapping[str, Family] = {
    "chatglm": Family("GlmForCausalLM", ("ffn_up",), rotary_fraction=0.5),
    "glm4": Family("Glm4ForCausalLM", ("ffn_up",), rotary_fraction=0.5),
    "glm4moe": Family(
        "Glm4MoeForCausalLM",
        ("ffn_gate", "ffn_up"),
        rotary_fraction=0.5,
        rotary_halves=True,
        post_norm="post_attention_norm",
        head_norms=True,
        experts=True,
    ),
    "deepseek2": Family("Glm4MoeLiteForCausalLM", ("ffn_gate", "ffn_up"), experts=True, latent=True),  # GLM-4.7-Flash
    "llama": Family("GlmForCausalLM", ("ffn_gate", "ffn_up"), notice="expressed in the GLM architecture"),
}


@dataclass(frozen=True)
class GgufCheckpoint:
    """See `quantize.checkpoints.checkpoint.Checkpoint`; made by `open_gguf`."""

    config: ModelConfig
    provenance: Provenance
    text_files: Mapping[str, bytes]
    file: GgufFile
    sources: Sources
    sampling: FoundSampling

    def read(self, name: str, start: int, stop: int) -> Floats:
        return read_rows(self.sources[name], start, stop, self.file.read)


@contextmanager
def open_gguf(path: Path) -> Iterator[GgufCheckpoint]:
    """Opens the file and checks all of it but the weights' values. Raises InvalidInput in one clear line."""
    try:
        opened = path.open("rb")
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", advice="give a GGUF file") from error
    with opened, open_gguf_checkpoint(opened, path.name) as checkpoint:
        yield checkpoint


@contextmanager
def open_gguf_checkpoint(opened: IO[bytes], name: str) -> Iterator[GgufCheckpoint]:
    """The same of an open file; `name` is what errors call it."""
    with open_gguf_file(opened, name) as file:
        family = _family(file)
        config = _config(file, family)
        sources = _sources(file, config, family)
        file.check(tensor for parts in sources.values() for tensor in parts)
        known = {tensor.name for parts in sources.values() for tensor in parts} | factor_tensors(file)
        predicting = tuple(f"blk.{layer}." for layer in range(config.layers, _blocks(file)))  # further tokens: not for us
        for tensor in sorted(name for name in file.tensor_names - known if not name.startswith(predicting)):
            file.refuse(f"it has a tensor that its architecture has not: {tensor[:80]}")
        text, sampling = text_files(file, config.max_positions), of_gguf(file.values(GGUF_PREFIX))
        yield GgufCheckpoint(config, _provenance(file, family, config), text, file, sources, sampling)


def _family(file: GgufFile) -> Family:
    architecture = file.text("general.architecture")
    if file.text("general.type", "model") != "model":
        raise InvalidInput(
            f"{file.name} is of type {file.text('general.type')[:40]!r}, and no model",
            advice="give a whole model; PEFT's adapters can be merged",
        )
    if architecture not in FAMILIES:
        raise InvalidInput(
            f"{file.name}: architecture {architecture[:60]!r} is not supported", advice=f"supported in GGUF files: {', '.join(FAMILIES)}"
        )
    return FAMILIES[architecture]


def _config(file: GgufFile, family: Family) -> ModelConfig:
    own = file.text("general.architecture")
    hidden, heads = file.integer(f"{own}.embedding_length", 1, 1 << 16), file.integer(f"{own}.attention.head_count", 1, 1024)
    kv_heads = file.integer(f"{own}.attention.head_count_kv", 1, 1024, heads)
    head_dim = file.integer(f"{own}.attention.key_length", 1, 1024, hidden // heads)
    rotary_dim = file.integer(f"{own}.rope.dimension_count", 2, head_dim, int(head_dim * family.rotary_fraction))
    # Of a model that sees, whose rows the converter puts in this order.
    halves = family.rotary_halves or file.has(f"{own}.rope.dimension_sections")
    head_step = 1 if family.latent else 16  # whose cache has rows of another size, see `with_latent`
    if heads % kv_heads or head_dim % head_step or rotary_dim % (glm4_moe.ROTARY_STEP if halves else 2):
        file.refuse(f"{heads} heads of {head_dim}, {kv_heads} of them for keys, {rotary_dim} rotated, cannot be")
    for key in ("expert_count", "attention.sliding_window", "attention.clamp_kqv"):
        if file.has(f"{own}.{key}") and not (family.experts and key == "expert_count"):
            file.refuse(f"{own}.{key} is not supported")
    theta, positions = file.number(f"{own}.rope.freq_base", 1.0, 1e12, 10_000.0), file.integer(f"{own}.context_length", 1, 1 << 24)
    layers = _blocks(file) - file.integer(f"{own}.nextn_predict_layers", 0, _blocks(file) - 1, 0)
    config = ModelConfig(
        architecture=family.architecture,
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=file.integer(f"{own}.feed_forward_length", 1, 1 << 20),
        vocab_size=file.rows(_OUTER["embedding.weight"]),
        norm_epsilon=file.number(f"{own}.attention.layer_norm_rms_epsilon", 1e-20, 0.1),
        rope_theta=theta,
        rotary_dim=rotary_dim,
        qkv_bias=bool({"blk.0.attn_qkv.bias", "blk.0.attn_q.bias"} & file.tensor_names),
        tied_head=_OUTER["head.weight"] not in file.tensor_names,
        max_positions=positions,
        eos_token_ids=eos_token_ids(file),
        rope_scaling=rope_scaling(file, theta, rotary_dim, positions),
        rotary_halves=halves,
        qk_norm=family.head_norms and "blk.0.attn_q_norm.weight" in file.tensor_names,
        experts=parse_experts(file, layers) if family.experts else None,
    )
    return with_latent(file, config) if family.latent else config


def _blocks(file: GgufFile) -> int:
    return file.integer(f"{file.text('general.architecture')}.block_count", 1, 1024)


def _sources(file: GgufFile, config: ModelConfig, family: Family) -> Sources:
    qkv = ("attn_qkv",) if "blk.0.attn_qkv.weight" in file.tensor_names else _SPLIT_QKV
    inner: InnerNames = {
        "input_norm": ("attn_norm.weight",),
        "qkv.weight": tuple(f"{name}.weight" for name in qkv),
        "qkv.bias": tuple(f"{name}.bias" for name in qkv),
        "o.weight": ("attn_output.weight",),
        "q_norm": ("attn_q_norm.weight",),
        "k_norm": ("attn_k_norm.weight",),
        "post_norm": (f"{family.post_norm}.weight",),
        "gate_up.weight": tuple(f"{name}.weight" for name in family.gate_up),
        "down.weight": ("ffn_down.weight",),
        "attention_norm": ("post_attention_norm.weight",),
        "mlp_norm": ("post_ffw_norm.weight",),
    }
    if family.latent:
        inner = {**inner, **latent_names(file, config)}
    if family.experts:
        inner = mixture_names(file, config, inner)
    return sources_of(config, tensor_shapes(config), FileNames(_OUTER, _LAYER, inner))


def _provenance(file: GgufFile, family: Family, config: ModelConfig) -> Provenance:
    """With what the weights were stored as: what a quantization before ours lost is lost."""
    name, identifier = file.text("general.name", "")[:80], file.text("general.license", "")[:64]
    source = f"GGUF file {name} ({', '.join(file.types())})".replace("  ", " ")
    notices = (f"{name or 'the model'} {family.notice}" if family.notice else "", left_out(file.tensor_names, _LAYER, config.layers))
    notice = "; ".join(filter(None, notices))
    return Provenance(source, stated_license(identifier, file.text("general.license.name", "")[:64]), notice)


def with_provenance(checkpoint: GgufCheckpoint, provenance: Provenance, **text_files: bytes) -> GgufCheckpoint:
    """The same checkpoint said to come from elsewhere, with further text files."""
    return replace(checkpoint, provenance=provenance, text_files={**checkpoint.text_files, **text_files})
