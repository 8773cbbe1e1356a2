from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file

from protos.errors import InvalidInput
from quantize.checkpoints.huggingface import _added_tokens, open_huggingface
from tests.support.checkpoints import (
    CHAT_TEMPLATE,
    EOS_TOKEN_IDS,
    SPECIAL_TOKENS,
    TinyGlm,
    random_tensors,
    write_checkpoint,
    write_json,
    write_tensors,
)
from tests.support.torch_files import write_torch_file


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_tensor_is_read_as_it_was_written(tmp_path: Path, dtype: str, shards: int) -> None:
    model = TinyGlm(dtype=dtype, shards=shards)
    written = {name: values.astype(np.float32) for name, values in random_tensors(model).items()}
    with open_huggingface(write_checkpoint(tmp_path, model)) as checkpoint:
        layer = "model.layers.1.self_attn."
        for kind in ("weight", "bias"):
            qkv = np.concatenate([written[f"{layer}{name}_proj.{kind}"] for name in "qkv"])
            read = checkpoint.read(f"layers.1.qkv.{kind}", 0, len(qkv))
            assert read.dtype == np.float32
            assert np.array_equal(read, qkv)
            # Rows across the seam of q and k.
            assert np.array_equal(checkpoint.read(f"layers.1.qkv.{kind}", 60, 70), qkv[60:70])
        assert np.array_equal(checkpoint.read("layers.2.gate_up.weight", 5, 9), written["model.layers.2.mlp.gate_up_proj.weight"][5:9])
        assert np.array_equal(checkpoint.read("head.weight", 0, 272), written["lm_head.weight"])
        assert np.array_equal(checkpoint.read("head.norm", 0, 72), written["model.norm.weight"])


@pytest.mark.parametrize("shards", [1, 2])
def test_pickled_files_are_read_where_there_are_no_others(tmp_path: Path, shards: int) -> None:
    model = TinyGlm(dtype="float16")
    written = random_tensors(model)
    write_checkpoint(tmp_path, model)
    (tmp_path / "model.safetensors").unlink()
    if shards == 1:
        write_torch_file(tmp_path / "pytorch_model.bin", written)
    else:
        places = {name: f"pytorch_model-{index % shards}.bin" for index, name in enumerate(written)}
        for file in set(places.values()):
            write_torch_file(tmp_path / file, {name: values for name, values in written.items() if places[name] == file})
        write_json(tmp_path / "pytorch_model.bin.index.json", {"weight_map": places})
    with open_huggingface(tmp_path) as checkpoint:
        rows = checkpoint.read("layers.1.down.weight", 3, 50)
        assert np.array_equal(rows, written["model.layers.1.mlp.down_proj.weight"][3:50].astype(np.float32))
    write_torch_file(tmp_path / "pytorch_model.bin", {**written, "model.norm.weight": np.arange(72)})
    with pytest.raises(InvalidInput, match=r"model\.norm\.weight is stored as I64"), open_huggingface(tmp_path):
        pass


def test_config_and_text_files(tmp_path: Path) -> None:
    with open_huggingface(write_checkpoint(tmp_path)) as checkpoint:
        assert checkpoint.config.eos_token_ids == EOS_TOKEN_IDS
        assert set(checkpoint.text_files) == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
        assert checkpoint.text_files["chat_template.jinja"].decode() == CHAT_TEMPLATE


def test_a_template_file_wins_and_a_list_has_a_default(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    settings = {"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}
    write_json(tmp_path / "tokenizer_config.json", settings)
    with open_huggingface(tmp_path) as checkpoint:
        assert checkpoint.text_files["chat_template.jinja"] == b"D"
    (tmp_path / "chat_template.jinja").write_text("F")
    with open_huggingface(tmp_path) as checkpoint:
        assert checkpoint.text_files["chat_template.jinja"] == b"F"


def test_a_model_that_sees_may_have_its_template_in_its_processors_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    write_json(tmp_path / "chat_template.json", {"chat_template": "P"})
    with open_huggingface(tmp_path) as checkpoint:
        assert checkpoint.text_files["chat_template.jinja"] == b"P"
    (tmp_path / "chat_template.jinja").write_text("F")
    with open_huggingface(tmp_path) as checkpoint:
        assert checkpoint.text_files["chat_template.jinja"] == b"F"


def test_tiktoken_ranks_serve_where_there_is_no_tokenizer_json(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(b"".join(base64.b64encode(bytes([byte])) + b" %d\n" % byte for byte in range(256)))
    special = {str(256 + number): {"content": text, "special": True} for number, text in enumerate(SPECIAL_TOKENS)}
    write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": special, "chat_template": CHAT_TEMPLATE})
    with open_huggingface(tmp_path) as checkpoint:
        tokenizer = tokenizers.Tokenizer.from_str(checkpoint.text_files["tokenizer.json"].decode())
        assert tokenizer.encode("Hi").ids == [257, 258, *b"Hi"]
        assert "tokenizer.model" not in checkpoint.text_files


def test_provenance_says_nothing_of_the_folder(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# A model\n")
    with open_huggingface(tmp_path) as checkpoint:
        assert (checkpoint.provenance.source, checkpoint.provenance.license) == ("Hugging Face checkpoint", "MIT")
    config = json.loads((tmp_path / "config.json").read_text())
    for name, said in (
        ("zai-org/glm-edge-1.5b-chat", "Hugging Face checkpoint zai-org/glm-edge-1.5b-chat"),
        ("/x/y", "Hugging Face checkpoint"),
    ):
        write_json(tmp_path / "config.json", {**config, "_name_or_path": name})
        with open_huggingface(tmp_path) as checkpoint:
            assert checkpoint.provenance.source == said


def test_a_stored_head_that_differs_is_used_though_the_config_says_tied(tmp_path: Path) -> None:
    """GLM-Edge-1.5B."""
    model = TinyGlm(tied_head=True)
    write_checkpoint(tmp_path, model)
    tensors = random_tensors(model)
    embedding = tensors["model.embed_tokens.weight"]
    write_tensors(tmp_path, {**tensors, "lm_head.weight": embedding.copy()})
    with open_huggingface(tmp_path) as checkpoint:
        assert checkpoint.config.tied_head
    other = embedding.copy()
    other[-1, -1] += 1
    write_tensors(tmp_path, {**tensors, "lm_head.weight": other})
    with open_huggingface(tmp_path) as checkpoint:
        assert not checkpoint.config.tied_head
        assert np.array_equal(checkpoint.read("head.weight", 0, len(other)), other)


def _edit_config(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        write_json(path, {**json.loads(path.read_text()), **changes})

    return edit


def _edit_tensors(edit: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        write_tensors(folder, tensors)

    return apply


def _cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _header(**changes: object) -> Callable[[Path], None]:
    """Of the final norm's tensor."""

    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        header["model.norm.weight"] |= changes
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])

    return damage


def _header_size(size: int) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors").write_bytes(
        size.to_bytes(8, "little") + (folder / "model.safetensors").read_bytes()[8:]
    )


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), r"config\.json is missing"),
    "config no JSON": (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is not JSON"),
    "other model": (_edit_config(architectures=["LlavaForConditionalGeneration"]), "'LlavaForConditionalGeneration' is not supported"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
    "tokenizer empty": (lambda folder: (folder / "tokenizer.json").write_text("{}"), r"tokenizer\.json has no model"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), r"neither model\.safetensors nor"),
    "cut short": (_cut_short, r"model\.safetensors is damaged or cut short"),
    "empty file": (lambda folder: (folder / "model.safetensors").write_bytes(b""), r"model\.safetensors is damaged"),
    "huge header": (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 16), r"model\.safetensors is damaged"),
    "header beyond the file": (_header_size(1 << 40), r"model\.safetensors is damaged"),
    "header of nothing": (_header_size(0), r"model\.safetensors is damaged"),
    "header one short": (_header_size(100), r"model\.safetensors is damaged"),
    "offsets beyond the file": (_header(data_offsets=[0, 1 << 50]), r"model\.safetensors is damaged"),
    "offsets that overlap": (_header(data_offsets=[0, 288]), r"model\.safetensors is damaged"),
    "offsets backwards": (_header(data_offsets=[288, 0]), r"model\.safetensors is damaged"),
    "a shape beyond its bytes": (_header(shape=[1 << 40, 1 << 40]), r"model\.safetensors is damaged"),
    "a shape of zero": (_header(shape=[0]), r"model\.safetensors is damaged"),
    "a shape below zero": (_header(shape=[-72]), r"model\.safetensors is damaged"),
    "a dtype that is none": (_header(dtype="F33"), r"model\.safetensors is damaged"),
    "a folder in its place": (
        lambda folder: ((folder / "model.safetensors").unlink(), (folder / "model.safetensors").mkdir()),
        "is damaged",
    ),
    "a tensor missing": (
        _edit_tensors(lambda tensors: tensors.pop("model.layers.2.mlp.down_proj.weight")),
        r"no tensor model\.layers\.2\.mlp\.down_proj\.weight",
    ),
    "a shape wrong": (
        _edit_tensors(lambda tensors: tensors.update({"model.norm.weight": np.zeros(71, np.float32)})),
        r"model\.norm\.weight has shape \[71\], config\.json asks for \[72\]",
    ),
    "a dtype unknown": (
        _edit_tensors(lambda tensors: tensors.update({"model.norm.weight": np.zeros(72, np.int32)})),
        r"model\.norm\.weight is stored as I32",
    ),
    "a bias unannounced": (_edit_config(attention_bias=False), r"has not: model\.layers\.0\.self_attn\.k_proj\.bias"),
    "config of a larger one": (_edit_config(num_hidden_layers=4), r"no tensor model\.layers\.3\."),
    "config of a smaller one": (_edit_config(num_hidden_layers=2), r"has not: model\.layers\.2\."),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_folder_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    damage, says = DAMAGE[what]
    damage(write_checkpoint(tmp_path))
    with pytest.raises(InvalidInput, match=says) as caught, open_huggingface(tmp_path):
        pytest.fail("opened")
    assert "\n" not in caught.value.detail + caught.value.advice
    assert caught.value.advice


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("[", "is not JSON"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {"a": "../a.safetensors"}}', r"'\.\./a\.safetensors', which is no"),
        ('{"weight_map": {"a": 5}}', "'5', which is no"),
        ('{"weight_map": {"a": "absent.safetensors"}}', r"absent\.safetensors is missing"),
        ('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}', "has no tensor a, though"),
        ('{"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}', "has a tensor .* does not place there"),
        ('{"weight_map": {"a": "/etc/a.safetensors"}}', r"which is no \.safetensors file of this folder"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_bad_index_is_refused(tmp_path: Path, index: str, says: str) -> None:
    write_checkpoint(tmp_path, TinyGlm(shards=2))
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InvalidInput, match=says), open_huggingface(tmp_path):
        pytest.fail("opened")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, TinyGlm(shards=3))
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(InvalidInput, match=r"model-00002-of-00003\.safetensors is missing"), open_huggingface(tmp_path):
        pytest.fail("opened")


def test_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not a folder"), open_huggingface(tmp_path / "absent"):
        pytest.fail("opened")


def test_added_tokens_that_are_malformed_are_left_out() -> None:
    tokens: list[object] = [{"content": "<a>", "id": 3}, {"content": "<b>", "id": -3}, {"content": "<c>", "id": True}, {"id": 4}, "x"]
    assert _added_tokens(json.dumps({"added_tokens": tokens}).encode()) == {"<a>": 3}
    assert _added_tokens(b'{"added_tokens": 7}') == {}
