from __future__ import annotations

import pytest

from protos.errors import NotFound
from quantize.hub.files import needed_files

TEXT = ["config.json", "tokenizer.json", "tokenizer_config.json", "README.md", "LICENSE"]
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]


def test_config_first_weights_last_nothing_else() -> None:
    names = [*SHARDS, "modeling_chatglm.py", *TEXT, "pytorch_model.bin", "tf_model.h5", ".gitattributes", "onnx/model.onnx", "figure.png"]
    assert needed_files(names) == ("config.json", "LICENSE", "README.md", "tokenizer.json", "tokenizer_config.json", *SHARDS)


def test_the_whole_file_is_preferred_to_shards_and_safetensors_to_pickles() -> None:
    assert needed_files(["model.safetensors", *SHARDS, "pytorch_model.bin", "config.json"]) == ("config.json", "model.safetensors")
    assert "tokenization_chatglm.py" in needed_files(["config.json", "tokenization_chatglm.py", "modeling_chatglm.py", "model.safetensors"])
    assert needed_files(["config.json", "pytorch_model.bin", "merges.txt"]) == ("config.json", "merges.txt", "pytorch_model.bin")


def test_an_adapter_beside_its_base_is_part_of_it() -> None:
    adapter = ["adapter_config.json", "adapter_model.bin", "adapter_model.safetensors"]
    expected = ("config.json", "adapter_config.json", "adapter_model.safetensors", "model.safetensors")
    assert needed_files(["model.safetensors", *adapter, "config.json"]) == expected


@pytest.mark.parametrize(
    ("names", "detail", "advice"),
    [
        (["README.md"], "no config.json", "zai-org/glm-edge"),
        (["adapter_config.json", "adapter_model.safetensors"], "no config.json", "--adapter"),
        (["glm-Q8_0.gguf", "glm-Q4_0.gguf"], "no config.json", "glm-Q4_0.gguf"),
        (["config.json", "tf_model.h5", "sub/model.safetensors"], "no weights", "choose"),
    ],
)
def test_what_cannot_be_imported(names: list[str], detail: str, advice: str) -> None:
    with pytest.raises(NotFound, match=detail) as caught:
        needed_files(names)
    assert advice in caught.value.advice
