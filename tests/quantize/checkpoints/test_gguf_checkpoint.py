"""GGUF files of GLM models: the same tensors as the Hugging Face folder of the same model."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import tokenizers

from protos.errors import InvalidInput
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.checkpoint import tensor_shapes
from quantize.checkpoints.formats import open_checkpoint
from quantize.checkpoints.gguf_checkpoint import open_gguf
from quantize.checkpoints.huggingface_config import parse_config
from quantize.importing.importer import import_model
from tests.quantize.stages import Pipeline
from tests.support import oracle
from tests.support.checkpoints import TinyGlm, config_json, tokenizer_json, write_checkpoint, write_json
from tests.support.gguf_files import TOKENS, TYPES, write_gguf, write_gguf_of
from tests.support.goldens import golden_folder

Q = gguf.GGMLQuantizationType
LLAMA = TinyGlm(rotary_fraction=1.0, qkv_bias=False)


@pytest.mark.parametrize(
    ("architecture", "model", "fused"),
    [
        ("chatglm", TinyGlm(), False),
        ("chatglm", TinyGlm(), True),
        ("chatglm", TinyGlm(qkv_bias=False, rotary_fraction=1.0, tied_head=True), False),
        ("llama", LLAMA, False),
        ("llama", TinyGlm(rotary_fraction=1.0, tied_head=True), False),
    ],
)
def test_every_tensor_is_that_of_the_checkpoint_folder(tmp_path: Path, architecture: str, model: TinyGlm, fused: bool) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", model, architecture=architecture, fused_qkv=fused)
    with open_checkpoint(path) as ours, open_checkpoint(write_checkpoint(tmp_path / "folder", model)) as theirs:
        assert ours.config == theirs.config
        for name, (rows, *_) in tensor_shapes(theirs.config).items():
            whole = theirs.read(name, 0, rows)
            assert np.array_equal(ours.read(name, 0, rows), whole), name
            low, high = rows // 3, rows // 3 + rows // 2
            part = ours.read(name, low, high)
            assert part.dtype == np.float32
            assert np.array_equal(part, whole[low:high]), name


@pytest.mark.parametrize(
    ("golden", "architecture"),
    [
        ("glm-edge", "chatglm"),
        ("glm-4-9b-chat", "chatglm"),
        ("glm-4-0414", "glm4"),
        ("glm-4-0414-tied", "glm4"),
        ("glm-4.5", "glm4moe"),
        ("glm-4.5-groups", "glm4moe"),
        ("glm-4.7-flash", "deepseek2"),
    ],
)
def test_the_goldens_tensors(tmp_path: Path, golden: str, architecture: str) -> None:
    """What transformers computes with them is in test_goldens.py."""
    folder = Path(shutil.copytree(golden_folder(golden), tmp_path / "folder"))
    write_json(folder / "tokenizer.json", tokenizer_json())
    with open_gguf(write_gguf_of(folder, tmp_path / "golden.gguf", architecture)) as ours, open_checkpoint(folder) as theirs:
        assert ours.config == theirs.config
        for name, (rows, *_) in tensor_shapes(theirs.config).items():
            assert np.array_equal(ours.read(name, 0, rows), theirs.read(name, 0, rows)), name


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    extra = {"blk.3.nextn.enorm.weight": np.ones(72), "blk.3.attn_norm.weight": np.ones(72)}
    metadata = {"chatglm.block_count": 4, "chatglm.nextn_predict_layers": 1}
    with open_gguf(write_gguf(tmp_path / "tiny.gguf", extra=extra, metadata=metadata)) as checkpoint:
        assert checkpoint.config.layers == 3


def test_it_computes_what_the_checkpoint_does(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    digests = set()
    for path in (write_gguf(tmp_path / "tiny.gguf"), write_checkpoint(tmp_path / "folder")):
        with open_checkpoint(path) as checkpoint:
            manifest = import_model(checkpoint, store, "tiny")
        # The layers' scales of an int8 cache depend on the tokenizer, which is another one here.
        digests.add(tuple(manifest.part(name).variants[0].blobs[0].digest for name in ("embedding", "positions", "head")))
    assert len(digests) == 1
    ids = list(range(24))
    expected = oracle.run(manifest.config, oracle.load_weights(manifest, store.blob_folder), ids).logits
    assert np.abs(Pipeline(manifest, store.blob_folder, level=0).step(np.array([ids]), [0])[0] - expected).max() < 1e-3


def test_mixed_types_are_dequantized(tmp_path: Path) -> None:
    model = TinyGlm(hidden_size=256, intermediate_size=256)
    types = {
        "token_embd": Q.Q8_0,
        "output": Q.F16,
        "attn_q": Q.Q4_0,
        "attn_k": Q.Q5_1,
        "attn_v": Q.BF16,
        "ffn_up": Q.Q4_1,
        "ffn_down": Q.Q8_0,
    }
    path = write_gguf(tmp_path / "mixed.gguf", model, types=types)
    with open_gguf(path) as ours, open_checkpoint(write_checkpoint(tmp_path / "folder", model)) as theirs:
        assert ours.provenance.source == "GGUF file Tiny GLM (Q8_0, BF16, F32, Q4_0, Q4_1, Q5_1, F16)"
        bounds = {"embedding.weight": 0.02, "head.weight": 1e-3, "layers.1.qkv.weight": 0.05, "layers.2.gate_up.weight": 0.05}
        for name, bound in bounds.items():
            rows = tensor_shapes(theirs.config)[name][0]
            off = np.abs(ours.read(name, 0, rows) - theirs.read(name, 0, rows)).max()
            assert 0 < off < bound, (name, off)


def test_k_quants_are_read_by_rows(tmp_path: Path) -> None:
    """The package dequantizes but does not quantize them: any bytes will do."""
    random = np.random.default_rng(0)
    model = TinyGlm(hidden_size=256, intermediate_size=256)
    raw: dict[gguf.GGMLQuantizationType, np.ndarray] = {}
    path = tmp_path / "k.gguf"
    original = gguf.quantize

    def quantize(array: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
        if kind in (Q.Q4_K, Q.Q6_K):
            block, size = gguf.GGML_QUANT_SIZES[kind]
            raw[kind] = random.integers(0, 60, (array.shape[0], array.shape[1] // block * size), dtype=np.uint8)
            return raw[kind]
        return original(array, kind)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "quantize", quantize)
        write_gguf(path, model, types={"output": Q.Q6_K, "token_embd": Q.Q4_K})
    with open_gguf(path) as checkpoint:
        for name, kind in (("head.weight", Q.Q6_K), ("embedding.weight", Q.Q4_K)):
            expected = gguf.dequantize(raw[kind], kind)
            assert np.array_equal(checkpoint.read(name, 7, 99), expected[7:99])


def test_text_files_eos_and_licence(tmp_path: Path) -> None:
    with open_gguf(write_gguf(tmp_path / "tiny.gguf")) as checkpoint:
        assert checkpoint.config.eos_token_ids == (256, 260)
        assert checkpoint.provenance.license == "MIT"
        assert set(checkpoint.text_files) == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
        tokenizer = tokenizers.Tokenizer.from_str(checkpoint.text_files["tokenizer.json"].decode())
    assert tokenizer.encode("H t").tokens == ["[gMASK]", "<sop>", "H", "Ġt"]
    assert tokenizer.encode("[gMASK]<sop><|user|>\nHi", add_special_tokens=False).ids == [257, 258, 260, 10, 72, 105]


_YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("metadata", "theirs"),
    [
        ({"scaling.factor": 4.0}, {"type": "linear", "factor": 4.0}),
        ({"scale_linear": 4.0}, {"type": "linear", "factor": 4.0}),
        ({"scaling.factor": 2.0, "scale_linear": 4.0}, {"type": "linear", "factor": 2.0}),
        ({"scaling.type": "none", "scaling.factor": 4.0}, {}),
        ({"scaling.type": "linear", "scaling.finetuned": True}, {}),
        ({"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 64}, _YARN),
        ({"scaling.type": "yarn", "scaling.factor": 4.0}, {"type": "yarn", "factor": 4.0}),
        (
            {
                "scaling.type": "yarn",
                "scaling.factor": 4.0,
                "scaling.original_context_length": 64,
                "scaling.yarn_beta_fast": 8.0,
                "scaling.yarn_beta_slow": 2.0,
                "scaling.attn_factor": 2.0,
            },
            {**_YARN, "beta_fast": 8.0, "beta_slow": 2.0, "attention_factor": 2 * (0.1 * np.log(4) + 1)},
        ),
    ],
    ids=str,
)
def test_scaled_positions_are_those_of_the_checkpoint_folder(
    tmp_path: Path, metadata: dict[str, object], theirs: dict[str, object]
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", metadata={f"chatglm.rope.{key}": value for key, value in metadata.items()})
    config = {**config_json(TinyGlm()), "rope_scaling": theirs or None}
    with open_gguf(path) as checkpoint:
        assert checkpoint.config.rope_scaling == parse_config(config).rope_scaling
        assert (checkpoint.config.rope_scaling is None) == (not theirs)


def test_llama_3s_factors_of_each_pair(tmp_path: Path) -> None:
    """As its converter writes them: what the law of transformers makes of the frequencies."""
    law = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    wanted = parse_config({**config_json(LLAMA), "rope_scaling": law}).rope_scaling
    assert wanted
    plain = 10_000.0 ** (-np.arange(0, 16, 2) / 16)
    factors = (plain / np.array(wanted.frequencies)).astype(np.float32)
    assert len(set(factors)) > 2
    with open_gguf(write_gguf(tmp_path / "tiny.gguf", LLAMA, architecture="llama", extra={"rope_freqs.weight": factors})) as checkpoint:
        found = checkpoint.config.rope_scaling
    assert found
    assert found.magnitude == 1
    assert np.allclose(found.frequencies, wanted.frequencies, rtol=1e-6)
    for bad, says in ((factors[:4], "has shape"), (0 * factors, "no factor"), (np.nan * factors, "no factor")):
        path = write_gguf(tmp_path / "bad.gguf", LLAMA, architecture="llama", extra={"rope_freqs.weight": bad})
        with pytest.raises(InvalidInput, match=says), open_gguf(path):
            pytest.fail("opened")


def test_every_way_to_end_an_answer(tmp_path: Path) -> None:
    """llama.cpp's converter names one eos and one eot; GLM-4 has a third."""
    metadata = {"tokenizer.ggml.tokens": [*TOKENS, "<|observation|>"], "tokenizer.ggml.token_type": [*TYPES, 3]}
    with open_gguf(write_gguf(tmp_path / "tiny.gguf", metadata=metadata)) as checkpoint:
        assert checkpoint.config.eos_token_ids == (256, 260, 263)


@pytest.mark.parametrize(
    ("before", "has_prefix"),
    [
        ("{#  Unsloth template fixes  #}", True),
        ("\n{#- one -#}\n{# two, with {{ and %} #} ", True),
        ("{%- set tools = tools or [] -%}{% set ns = namespace(n='{#') %}", True),
        ("{%- set greeting %}Hello{% endset -%}", True),
        ("{% macro text(content) -%}{{ content }}{%- endmacro %}", True),
        ("{{- '", True),
        ('{{ "', True),
        ("Hello ", False),
        ("{% if tools %}Tools{% endif %}", False),
        ("{# never closed ", False),
        ("{{ bos_token }}", False),
    ],
)
def test_what_a_template_begins_with_is_before_a_raw_prompt(tmp_path: Path, before: str, has_prefix: bool) -> None:
    after = f"{before[-1]}}}}}" if before[-1] in "'\"" else ""
    template = f"{before}[gMASK]<sop>{after}{{% for m in messages %}}{{{{ m['content'] }}}}{{% endfor %}}"
    with open_gguf(write_gguf(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": template})) as checkpoint:
        tokenizer = tokenizers.Tokenizer.from_str(checkpoint.text_files["tokenizer.json"].decode())
    assert tokenizer.encode("Hi").tokens == [*(["[gMASK]", "<sop>"] if has_prefix else []), "H", "i"]


@pytest.mark.parametrize(
    ("add", "pre", "first"), [(True, "gpt-2", "<|endoftext|>"), (None, "llama-bpe", "<|endoftext|>"), (False, "llama-bpe", "H")]
)
def test_a_begin_token_where_it_is_asked_for(tmp_path: Path, add: bool | None, pre: str, first: str) -> None:
    metadata = {"tokenizer.ggml.add_bos_token": add, "tokenizer.ggml.bos_token_id": 256, "tokenizer.chat_template": None}
    with open_gguf(write_gguf(tmp_path / "tiny.gguf", LLAMA, architecture="llama", pre=pre, metadata=metadata)) as checkpoint:
        assert "chat_template.jinja" not in checkpoint.text_files
        tokenizer = tokenizers.Tokenizer.from_str(checkpoint.text_files["tokenizer.json"].decode())
    assert tokenizer.encode("Hi").tokens[0] == first


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"metadata": {"general.architecture": "gemma"}}, "architecture 'gemma' is not supported"),
        ({"metadata": {"general.type": "adapter", "adapter.type": "lora"}}, "is of type 'adapter', and no model"),
        ({"pre": "qwen2"}, r"its tokenizer \(gpt2, qwen2\) is not supported"),
        ({"metadata": {"tokenizer.ggml.model": "t5"}}, r"its tokenizer \(t5, chatglm-bpe\) is not supported"),
        ({"metadata": {"chatglm.block_count": None}}, "it has no chatglm.block_count"),
        ({"metadata": {"chatglm.block_count": 1_000_000_000}}, "block_count must be a whole number from 1 to 1024"),
        ({"metadata": {"chatglm.block_count": "x"}}, "block_count must be a whole number"),
        ({"metadata": {"chatglm.attention.head_count_kv": 3}}, "cannot be"),
        ({"metadata": {"chatglm.rope.scaling.type": "longrope"}}, "rope scaling type 'longrope' is not supported"),
        ({"metadata": {"chatglm.rope.scaling.alpha": 2.0}}, "rope.scaling.alpha is not supported"),
        ({"metadata": {"chatglm.rope.scaling.yarn_log_multiplier": 0.1}}, "rope.scaling.yarn_log_multiplier is not supported"),
        ({"metadata": {"chatglm.rope.scaling.factor": 1e-9}}, "cannot be scaled by 1e-09"),
        ({"metadata": {"chatglm.expert_count": 8}}, "chatglm.expert_count is not supported"),
        ({"metadata": {"tokenizer.ggml.eos_token_id": 999}}, "eos_token_id must be a whole number from 0 to 262"),
        ({"metadata": {"tokenizer.ggml.token_type": [1]}}, "not one type for each token"),
        ({"metadata": {"tokenizer.ggml.merges": ["a zz"]}}, "joins what are no tokens"),
        ({"metadata": {"split.count": 2}}, "is one file of several"),
        ({"without": frozenset({"blk.1.ffn_down.weight"})}, "it has no tensor blk.1.ffn_down.weight"),
        ({"extra": {"rope_freqs.weight": np.ones(8)}}, "a tensor that its architecture has not: rope_freqs.weight"),
        ({"extra": {"blk.0.ffn_down.bias": np.ones(72)}}, "a tensor that its architecture has not"),
        (
            {"metadata": {"chatglm.feed_forward_length": 100}},
            r"blk.0.ffn_up.weight has shape \[208, 72\], its metadata ask for \[200, 72\]",
        ),
    ],
)
def test_refusals_are_one_line_and_an_advice(tmp_path: Path, changes: dict[str, object], detail: str) -> None:
    path = write_gguf(tmp_path / "bad.gguf", **changes)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput) as caught, open_gguf(path):
        pytest.fail("opened")
    assert re.search(detail, caught.value.detail), caught.value.detail
    assert "bad.gguf" in caught.value.detail
    assert "\n" not in caught.value.detail
    assert caught.value.advice


def test_a_vector_in_blocks_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "norms.gguf", TinyGlm(hidden_size=128))
    data, name = path.read_bytes(), b"blk.0.attn_norm.weight"
    at = data.index(name) + len(name) + 4 + 8
    assert data[at] == Q.F32
    path.write_bytes(data[:at] + bytes([Q.Q8_0]) + data[at + 1 :])
    with pytest.raises(InvalidInput, match=r"attn_norm.weight is a vector, stored in blocks as Q8_0"), open_gguf(path):
        pytest.fail("opened")


def test_types_that_cannot_be_dequantized_are_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", extra={"other.weight": np.ones((2, 72))})
    data = path.read_bytes()
    name = b"other.weight"
    at = data.index(name) + len(name) + 4 + 16
    assert data[at] == Q.F32
    path.write_bytes(data[:at] + bytes([Q.I32]) + data[at + 1 :])
    with pytest.raises(InvalidInput, match="stores tensors as I32"), open_gguf(path):
        pytest.fail("opened")


@pytest.mark.parametrize(
    ("architecture", "model", "fused"),
    [
        ("chatglm", TinyGlm(hidden_size=128, head_dim=32, vocab_size=len(TOKENS)), True),
        ("llama", TinyGlm(hidden_size=128, head_dim=32, vocab_size=len(TOKENS), rotary_fraction=1.0, qkv_bias=False), False),
    ],
)
def test_llama_cpp_computes_the_same(tmp_path: Path, architecture: str, model: TinyGlm, fused: bool) -> None:
    """Where the extra `bench` is installed. Its KV cache is fp16."""
    llama_cpp = pytest.importorskip("llama_cpp")
    path = write_gguf(tmp_path / "tiny.gguf", model, architecture=architecture, fused_qkv=fused)
    ids = [5, 100, 257, 258, 40, 41, 42, 77, 200, 3]
    theirs = llama_cpp.Llama(str(path), n_ctx=64, logits_all=True, verbose=False, n_threads=1)
    theirs.eval(ids)
    with open_gguf(path) as checkpoint:
        weights = {name: checkpoint.read(name, 0, shape[0]) for name, shape in tensor_shapes(checkpoint.config).items()}
        tokenizer = tokenizers.Tokenizer.from_str(checkpoint.text_files["tokenizer.json"].decode())
        logits = oracle.run(checkpoint.config, weights, ids).logits
    assert np.abs(theirs.scores[: len(ids)] - logits).max() < 3e-3
    text = "[gMASK]<sop><|user|>\nH the 12345, don't"
    assert tokenizer.encode(text, add_special_tokens=False).ids == theirs.tokenize(text.encode(), add_bos=False, special=True)
    theirs.close()


@pytest.mark.parametrize("golden", ["glm-4-0414", "glm-4-0414-tied"])
def test_llama_cpp_computes_the_same_of_glm4(tmp_path: Path, golden: str) -> None:
    """Of the goldens only these: llama.cpp's chatglm takes it for granted that heads x head_dim is the hidden size."""
    llama_cpp = pytest.importorskip("llama_cpp")
    path = write_gguf_of(golden_folder(golden), tmp_path / "golden.gguf", "glm4")
    ids = np.random.default_rng(0).integers(0, 256, 24)
    theirs = llama_cpp.Llama(str(path), n_ctx=64, logits_all=True, verbose=False, n_threads=1)
    theirs.eval(ids.tolist())
    store = ArtifactStore(tmp_path / "store")
    with open_gguf(path) as checkpoint:
        manifest = import_model(checkpoint, store, "golden", bits=32)
    ours = Pipeline(manifest, store.blob_folder).step(ids[None], [0])[0]
    assert np.abs(theirs.scores[: len(ids)] - ours).max() < 2e-3 * np.abs(ours).max()
    theirs.close()
