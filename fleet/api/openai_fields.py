"""Every field that OpenAI's, vLLM's and llama.cpp's APIs know and ours does not do: harmless, or refused by name.

The other fields are those of the bodies, which are honoured; what is in neither is refused too. `docs/http-api.md` has this list in words
(`tests/house/test_reference.py`). Sources: OpenAI's API reference; vLLM, vllm/entrypoints/openai/*/protocol.py; llama.cpp,
tools/server/README.md and server-task.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic import BaseModel

from fleet.api.errors import UnsupportedParameter

AsksForNothing: TypeAlias = Callable[[Any], bool]


@dataclass(frozen=True)
class Others:
    """What one object of a request may have beside its honoured fields. null asks for nothing, whatever the field."""

    harmless: frozenset[str] = frozenset()  # no value of it changes the answer
    refused: Mapping[str, AsksForNothing] = field(default_factory=dict)  # unless this says that the value asks for nothing

    def check(self, body: BaseModel, where: str = "") -> None:
        """Raises UnsupportedParameter for the first field that is refused, then for the first that nobody knows."""
        given = {name: value for name, value in (body.model_extra or {}).items() if value is not None and name not in self.harmless}
        for name in self.refused.keys() & given.keys():
            if not self.refused[name](given.pop(name)):
                raise UnsupportedParameter(where + name, f"{where}{name} is not supported", _INSTEAD.get(name, ""))
        for name in given:
            place = where + name[:100]
            raise UnsupportedParameter(place[:100], f"{place} is not a field that is known here", _INSTEAD.get(place, ""))


def asks_only(*values: Any) -> AsksForNothing:
    """0 and false are not the same: a `logprobs` of 0 asks for one of each token, a false one for none."""
    return lambda given: any(given == value and isinstance(given, bool) == isinstance(value, bool) for value in values)


def never(_given: Any) -> bool:
    return False


def _each(names: Iterable[str], nothing: AsksForNothing) -> dict[str, AsksForNothing]:
    return dict.fromkeys(names, nothing)


_empty = asks_only({}, [], "", False)
_INSTEAD = {
    "repeat_penalty": "use repetition_penalty, which counts the whole prompt and answer",
    "n_predict": "use max_tokens",
    "n_cmpl": "use n",
    "max_new_tokens": "use max_tokens",
    "max_completion_tokens": "use max_tokens",
    "messages": "send it to /v1/chat/completions",
    "prompt": "send it to /v1/completions",
    "functions": "use tools",
    "previous_response_id": "no answer is kept: send the conversation as input",
    "conversation": "no answer is kept: send the conversation as input",
    "function_call": "use tool_choice",
    "guided_json": "use response_format with a json_schema",
    "prompt_logprobs": "send echo and logprobs to /v1/completions",
}

_HARMLESS = frozenset(
    {
        # OpenAI's: for its own accounts, caches and queues, or a guess at the answer that saves time.
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prediction"),
        "prompt_cache_options",
        # vLLM's: names, scheduling, how often a stream tells; what only counts with a field that is refused.
        *("request_id", "session_id", "priority", "stream_interval", "guided_decoding_backend", "guided_whitespace_pattern"),
        *("truncation_side", "spaces_between_special_tokens", "media_io_kwargs", "mm_processor_kwargs"),
        *("return_mm_kwargs", "routed_experts_prompt_start"),
        # llama.cpp's: slots, caches, progress; what only counts with a field that is refused, or where the context is shifted.
        *("cache_prompt", "id_slot", "n_keep", "n_discard", "timings_per_token", "return_progress", "sse_ping_interval", "verbose"),
        *("speculative.n_max", "speculative.n_min", "speculative.p_min", "speculative.type"),
        *("dynatemp_exponent", "repeat_last_n", "penalize_nl", "dry_base", "dry_allowed_length", "dry_penalty_last_n"),
        *("dry_sequence_breakers", "xtc_threshold", "mirostat_tau", "mirostat_eta", "adaptive_decay", "t_max_prompt_ms"),
    }
)
_REFUSED: dict[str, AsksForNothing] = {
    # OpenAI's.
    **_each(("audio", "functions"), _empty),
    "function_call": asks_only("none", "auto"),
    "modalities": asks_only(["text"], []),
    "web_search_options": never,
    "moderation": never,
    "verbosity": asks_only("medium"),
    # vLLM's. An empty schema asks for JSON of any kind, and for nothing but JSON.
    **_each(("guided_json", "guided_regex", "guided_choice", "guided_grammar"), never),
    **_each(("structured_outputs", "structural_tag"), _empty),
    **_each(("documents", "logprob_token_ids", "kv_transfer_params", "ec_transfer_params", "vllm_xargs", "logits_processors"), _empty),
    **_each(("repetition_detection", "prompt_embeds", "cache_salt"), _empty),
    **_each(("chat_template", "truncate_prompt_tokens", "prompt_logprobs"), never),
    **_each(("use_beam_search", "include_stop_str_in_output", "continue_final_message", "watermarking"), asks_only(False)),
    **_each(("return_token_ids", "return_token_offsets", "return_tokens_as_token_ids", "return_prompt_text"), asks_only(False)),
    **_each(("skip_special_tokens", "include_reasoning"), asks_only(True)),
    "length_penalty": asks_only(1),
    "thinking_token_budget": asks_only(-1),
    # llama.cpp's.
    **_each(("repeat_penalty", "tfs_z", "n_cmpl"), asks_only(1)),
    **_each(("dynatemp_range", "dry_multiplier", "xtc_probability", "mirostat", "min_keep"), asks_only(0)),
    **_each(("n_probs", "n_indent", "n_cache_reuse"), asks_only(0)),
    **_each(("top_n_sigma", "adaptive_target", "t_max_predict_ms"), asks_only(0, -1)),
    **_each(("grammar", "grammar_triggers", "preserved_tokens", "lora", "response_fields", "multimodal_data"), _empty),
    **_each(("n_predict", "json_schema", "samplers"), never),
    **_each(("grammar_lazy", "post_sampling_probs", "return_tokens", "reasoning_control", "thinking_forced_open"), asks_only(False)),
    "parse_tool_calls": asks_only(True),
    "reasoning_format": asks_only("auto", "deepseek"),
}
_OF_CHAT = ("tools", "tool_choice", "parallel_tool_calls", "chat_template_kwargs", "enable_thinking", "thinking", "reasoning_effort")

# A template writes special tokens itself; a plain text gets those that its tokenizer puts around it.
CHAT = Others(_HARMLESS, {**_REFUSED, "add_special_tokens": asks_only(False), "suffix": _empty, "echo": asks_only(False)})
COMPLETION = Others(
    _HARMLESS,
    {
        **_REFUSED,
        "top_logprobs": asks_only(0),
        **_each(_OF_CHAT, _empty),
        "add_special_tokens": asks_only(True),
        "response_format": asks_only({"type": "text"}),
    },
)

EMBEDDINGS = Others(
    frozenset({"user", "priority", "request_id", "truncation_side", "mm_processor_kwargs"}),
    {
        # vLLM's.
        "messages": _empty,
        "add_special_tokens": asks_only(True),
        **_each(("normalize", "use_activation"), asks_only(True)),
        **_each(("truncate_prompt_tokens", "chat_template", "chat_template_kwargs", "instruction"), never),
        "embed_dtype": asks_only("float32"),
        "endianness": asks_only("native", "little"),
        "prompt": _empty,
    },
)

_ACCOUNTS = ("user", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options")
# Nothing is kept. `store` is told to be false with the answer, as in vLLM (entrypoints/openai/responses/serving.py): most send it since it
# is the default. An answer that is named, to go on from, is refused, as in llama.cpp (tools/server/server-common.cpp). `max_tool_calls`
# counts calls that OpenAI runs itself.
RESPONSES = Others(
    frozenset({*_ACCOUNTS, "max_tool_calls", "priority", "request_id"}),
    {
        **_each(("previous_response_id", "conversation", "prompt", "context_management", "moderation", "background_options"), never),
        **_each(("access_programs", "image", "cache_salt", "mm_processor_kwargs", "previous_input_messages", "previous_response"), never),
        **_each(("structured_outputs", "vllm_xargs", "logit_bias"), _empty),
        **_each(("background", "enable_response_messages", "include_stop_str_in_output", "ignore_eos"), asks_only(False)),
        "skip_special_tokens": asks_only(True),
        "truncation": asks_only("disabled"),
        "stop": _empty,
        **_each(("messages", "n", "max_tokens", "max_completion_tokens", "response_format", "functions", "logprobs"), never),
    },
)
RESPONSE_ITEM = Others(frozenset({"id", "status", "summary", "phase"}), {"namespace": _empty, "caller": _empty, "async": asks_only(False)})
RESPONSE_PART = Others(frozenset({"annotations", "logprobs", "cache_control", "prompt_cache_breakpoint"}))
RESPONSE_TEXT = Others(frozenset(), {"verbosity": asks_only("medium")})
RESPONSE_STREAM_OPTIONS = Others(frozenset({"include_obfuscation"}))
REASONING = Others(frozenset({"summary", "generate_summary"}), {"context": asks_only("auto"), "mode": asks_only("standard")})
FUNCTION_TOOL = Others(
    frozenset(),
    {"defer_loading": asks_only(False), "allowed_callers": asks_only(["direct"]), "output_schema": never, "async": asks_only(False)},
)

STREAM_OPTIONS = Others(frozenset({"include_obfuscation"}), {"continuous_usage_stats": asks_only(False)})
MESSAGE = Others(
    frozenset({"cache_control", "id"}),
    {
        **_each(("refusal", "audio", "annotations", "function_call", "reasoning_details", "provider_specific_fields"), _empty),
        **_each(("images", "videos", "audios", "files"), _empty),  # as Ollama's clients send them with every message
        **_each(("prefix", "partial"), asks_only(False)),
    },
)
CONTENT_PART = Others(frozenset({"cache_control"}))
CALL = Others(frozenset({"index"}))
CALLED_FUNCTION = Others()
