from __future__ import annotations

from dataclasses import replace

import pytest

from protos.errors import InvalidInput
from protos.manifest import ModelConfig
from quantize.architectures.registry import ARCHITECTURES, architecture_named, architecture_of, architecture_of_type

CONFIG = ModelConfig("GlmForCausalLM", 8, 2, 2, 1, 16, 10, 20, 1e-5, 1e4, 16, False, True, 64, ())


def test_each_is_found_by_each_of_its_names_and_no_name_is_taken_twice() -> None:
    names = [name for architecture in ARCHITECTURES for name in architecture.names]
    assert len(set(names)) == len(names)
    for architecture in ARCHITECTURES:
        assert all(architecture_named(name) is architecture for name in architecture.names)
        assert architecture_of_type(architecture.model_type) is architecture
    assert architecture_of(CONFIG).names == ("GlmForCausalLM",)


def test_another_is_refused_with_the_list() -> None:
    for look_up in (
        lambda: architecture_named("LlamaForCausalLM"),
        lambda: architecture_of_type("llama"),
        lambda: architecture_of(replace(CONFIG, architecture="Llama")),
    ):
        with pytest.raises(InvalidInput, match=r"'[Ll]lama.*' is not supported") as caught:
            look_up()
        assert all(architecture.names[0] in caught.value.advice for architecture in ARCHITECTURES)
