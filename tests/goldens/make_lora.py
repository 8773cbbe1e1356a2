"""Makes the folder lora: a tiny base, adapters as PEFT saves them, and what PEFT merges them to.

Development only, in the environment of `tests.goldens.make` and with `pip install peft==0.21.2`:

    /tmp/goldens/bin/python -m tests.goldens.make_lora

lora/base is a checkpoint; lora/NAME has adapter_config.json, adapter_model.safetensors and `merged.safetensors`: the tensors that differ
from the base's, in float32.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

HERE = Path(__file__).parent / "lora"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"]
BASE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "vocab_size": 272,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "attention_bias": True,
    "max_position_embeddings": 64,
    "eos_token_id": 256,
    "pad_token_id": 256,
}
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "rank-stabilized": {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": ALL},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ALL,
        "rank_pattern": {"down_proj": 2, "layers.1.self_attn.q_proj": 3, r"model\.layers\.0\.self_attn\.(k|v)_proj": 6},
        "alpha_pattern": {"^model.layers.0.mlp.down_proj": 5, "o_proj": 1.5, "proj": 3},
    },
    "some-layers": {"r": 2, "lora_alpha": 3, "target_modules": r".*\.o_proj", "layers_to_transform": None},
    "embedding-and-head": {"r": 2, "lora_alpha": 4, "target_modules": ["embed_tokens", "lm_head"]},
    "saved-modules": {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "input_layernorm"]},
    "biases": {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "k_proj"], "bias": "lora_only"},
    "weight-decomposed": {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "gate_up_proj"], "use_dora": True},
}


def main() -> None:
    shutil.rmtree(HERE, ignore_errors=True)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("glm", **BASE)).to(torch.bfloat16)
    model.save_pretrained(HERE / "base")
    for name, settings in ADAPTERS.items():
        base = AutoModelForCausalLM.from_pretrained(HERE / "base", dtype=torch.float32)
        adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **settings))
        for parameter in adapted.parameters():
            if parameter.requires_grad:  # biases and whole modules as a training would leave them
                parameter.data += 0.1 * torch.randn_like(parameter)
        adapted.save_pretrained(HERE / name)
        (HERE / name / "README.md").unlink()
        again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(HERE / "base", dtype=torch.float32), HERE / name)
        before = {key: value.float() for key, value in load_file(HERE / "base" / "model.safetensors").items()}
        after = again.merge_and_unload().state_dict()
        changed = {key: value.contiguous() for key, value in after.items() if not torch.equal(value, before[key])}
        save_file(changed, HERE / name / "merged.safetensors")
        path = HERE / name / "adapter_config.json"
        saved = {**json.loads(path.read_text()), "base_model_name_or_path": "someone/base"}
        for key, value in saved.items():
            saved[key] = sorted(value) if isinstance(value, list) else value  # sets, in whatever order
        path.write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
