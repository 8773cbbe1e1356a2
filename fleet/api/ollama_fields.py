"""Every field of Ollama's API that ours does not do: harmless, or refused by name. `docs/ollama.md` has the list in words.

Source: ollama-python, _types.py; Ollama's api/types.go and docs/modelfile.
"""

from __future__ import annotations

from fleet.api.openai_fields import Others, asks_only, never

_empty = asks_only({}, [], "", False)
# When a model is in memory is the deployment's affair; `shift` and `truncate` are of prompts that are too long, which are refused.
_HARMLESS = frozenset({"keep_alive", "shift", "truncate"})
_IMAGES = {"images": _empty, "width": never, "height": never, "steps": never}

CHAT = Others(_HARMLESS, {"template": _empty})
GENERATE = Others(_HARMLESS, {"template": _empty, "context": _empty, **_IMAGES})
EMBED = Others(_HARMLESS, {})
MESSAGE = Others(frozenset({"tool_call_id"}), {"images": _empty})
CALL = Others(frozenset({"id", "type"}), {})
FUNCTION = Others(frozenset({"index"}), {})
OPTIONS = Others(
    frozenset(
        {
            # Of the memory and the processor that a model is loaded into, and of a context that is shifted.
            *("numa", "num_ctx", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "use_mmap", "use_mlock", "num_thread"),
            *("logits_all", "vocab_only", "embedding_only", "num_keep"),
            # Of what is refused.
            *("mirostat_tau", "mirostat_eta", "penalize_newline"),
        }
    ),
    {"tfs_z": asks_only(1), "mirostat": asks_only(0)},
)
