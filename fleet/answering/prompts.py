"""From a request to what the head is given: prompt ids through the model's own template, every limit checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from device.text.confined import ConfinedText, PromptMaker
from device.text.encoder import SHORTEN, too_long
from device.text.formats import Format, names_of
from device.text.messages import Message
from fleet.answering.infill import blank_prompt, fills_blanks, mark_blank
from fleet.answering.views import GenerateRequest
from protos.errors import Corrupt, InvalidInput
from protos.manifest import Manifest, ModelConfig, TextFile
from protos.sampling import ANY_TOKEN, PARAMETERS, TokenRules, check_bias, check_counts, to_message
from protos.told import Told
from protos.v1 import pipeline_pb2 as pb
from quantize.artifact.store import ArtifactStore

_ONE_OF = "give exactly one of prompt, text, messages and prompt ids"
_PLAIN = GenerateRequest()
# What a template is told from the rest of the request, or what transformers takes by these names for something else.
_OURS = {"messages", "conversation", "tools", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize", "self"}
_FOR_THE_TEMPLATE = ("tools", "chat_template_kwargs", "add_generation_prompt")


def load_text(artifacts: ArtifactStore, manifest: Manifest) -> ConfinedText:
    """Blocks up to a second. Raises Corrupt, also where a file is not the one that was imported, InvalidInput."""
    files = {file.name: _read(artifacts.blob_path(file.blob.digest), file) for file in manifest.text_files}
    return ConfinedText(files, manifest.config.eos_token_ids, manifest.config.vocab_size)


def _read(path: Path, file: TextFile) -> bytes:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != file.blob.digest:
        raise Corrupt(f"the model's {file.name} has changed since it was imported", advice="import the model again")
    return data


def characters(request: GenerateRequest) -> int:
    """Of all that is made tokens."""
    beside = [one for message in request.messages for call in message.tool_calls for one in (call.name, call.arguments)]
    told = [text for one in request.messages for text in (one.role, one.content, one.reasoning_content, one.metadata, one.name)]
    texts = [
        request.prompt,
        request.text,
        request.suffix,
        request.json_schema,
        request.chat_template_kwargs,
        *request.tools,
        *request.bad_words,
        *told,
        *beside,
    ]
    return sum(len(text) for text in texts if text)


def prompt_ids(text: PromptMaker, request: GenerateRequest, config: ModelConfig, context: int | None = None) -> list[int]:
    """Raises InvalidInput unless the request has exactly one form of prompt, it is not empty, and leaves something of the context."""
    given = [form for form in (request.prompt, request.text) if form is not None]
    if len(given) + bool(request.messages) + bool(request.prompt_ids) != 1:
        raise InvalidInput("there is no prompt, or more than one form of it", advice=_ONE_OF)
    raw = fills_blanks(config) or (request.prompt is None and not request.messages)
    if raw and (unseen := [name for name in _FOR_THE_TEMPLATE if getattr(request, name) != getattr(_PLAIN, name)]):
        raise InvalidInput(f"{unseen[0]} is for the chat template, which this request does not go through", advice=f"leave {unseen[0]} out")
    if request.forced_ids and (request.echo or request.prompt_logprobs is not None):
        raise InvalidInput("forced_ids are given, and the prompt is to be told", advice="leave one out")
    if request.suffix is not None and request.text is None and request.prompt is None:
        raise InvalidInput("a suffix is for a text, and the prompt is none", advice="send the prompt as a text, or leave suffix out")
    if fills_blanks(config):
        return blank_prompt(text, request, config, context)
    if request.suffix is not None:
        raise InvalidInput("suffix: this model fills no blanks, it only goes on behind a prompt", advice="leave suffix out")
    if request.infill or request.fills:
        raise InvalidInput("this model fills no blanks", advice="ask it without infill and fills")
    try:
        ids = _ids(text, request, context)
    except InvalidInput as error:
        if error.advice == SHORTEN and context is not None:
            error.advice += _or_larger(context, config)
        raise
    if not ids:
        raise InvalidInput("the prompt is empty", advice="say something")
    return ids


def _ids(text: PromptMaker, request: GenerateRequest, context: int | None) -> list[int]:
    """Of whichever form the prompt has. Raises InvalidInput."""
    if request.prompt_ids:
        return list(request.prompt_ids)
    if request.prompt is not None:
        if not request.prompt.strip():
            raise InvalidInput("the prompt is empty", advice="say something")
        return _chat(text, [Message("user", request.prompt)], request, context)
    if request.messages:
        return _chat(text, request.messages, request, context)
    return text.encode(request.text or "", context)


def _chat(text: PromptMaker, messages: Sequence[Message], request: GenerateRequest, context: int | None) -> list[int]:
    variables = json.loads(request.chat_template_kwargs or "{}")
    if ours := sorted(_OURS & variables.keys()):
        raise InvalidInput(f"chat_template_kwargs may not have {ours[0]}", advice=f"leave {ours[0]} out of it")
    return text.chat(messages, request.add_generation_prompt, request.tools, variables, context)


def token_rules(text: PromptMaker, request: GenerateRequest) -> TokenRules:
    """A bad word is kept out as it is written at the begin of a text, and behind a space where that is one token too, as vLLM does."""
    runs: list[tuple[int, ...]] = []
    words = [word.lstrip() for word in request.bad_words]
    pieces = text.all_pieces([*words, *(f" {word}" for word in words)]) if words else []
    for first, spaced in zip(map(tuple, pieces[: len(words)]), map(tuple, pieces[len(words) :]), strict=True):
        runs.append(first)
        if len(spaced) == len(first) and spaced[:1] != first[:1]:
            runs.append(spaced)
    return TokenRules(request.min_tokens, request.allowed_token_ids or (), tuple(runs), request.logit_bias)


def format_of(request: GenerateRequest) -> Format:
    """What the answer has to be. Raises InvalidInput for what cannot be called, and for an answer with a format that could not end."""
    wish = Format(request.json_schema, request.tools, request.called_tools, request.parallel_tool_calls)
    if unknown := set(wish.called).difference(names_of(wish.tools)):
        raise InvalidInput(f"{min(unknown)} is none of the tools", advice="name one of those that are sent")
    if request.ignore_eos and not wish.free:
        raise InvalidInput("ignore_eos and a format of the answer are asked for at once", advice="leave one out: a format has an end")
    return wish


def submit(
    request: GenerateRequest, prompt: list[int], manifest: Manifest, context: int, seed: int, rules: TokenRules = ANY_TOKEN
) -> pb.Submit:
    """Raises InvalidInput naming the figure that is out of range."""
    forced = list(request.forced_ids)
    room = context - len(prompt)
    if room < 1:
        error = too_long(len(prompt), context)
        raise InvalidInput(error.detail, advice=error.advice + _or_larger(context, manifest.config))
    told = Told(request.logprobs, request.prompt_logprobs, request.embedding)
    told.check()
    if told.of_prompt and manifest.config.prefix_whole:
        raise InvalidInput("this model reads a prompt in both directions: its tokens have no log probabilities, and it no embedding")
    if request.max_tokens is not None and request.max_tokens < (0 if told.of_prompt or request.echo else 1):
        raise InvalidInput(f"max_tokens is {request.max_tokens}", advice="ask for at least 1")
    max_tokens = room if request.max_tokens is None else min(request.max_tokens, room)
    more_room = _or_larger(context, manifest.config) if max_tokens == room else ", or raise max_tokens"
    if forced and len(forced) >= max_tokens:
        raise InvalidInput(f"{len(forced)} forced tokens leave nothing to generate of {max_tokens}", advice=f"force fewer{more_room}")
    if request.min_tokens > max_tokens:
        raise InvalidInput(
            f"min_tokens is {request.min_tokens}, and the answer has at most {max_tokens}",
            advice=f"lower it{more_room}",
        )
    if not all(rules.bad_words):
        raise InvalidInput("bad_words has one without a token", advice="leave it out")
    stops = [*(() if request.ignore_eos else manifest.config.eos_token_ids), *request.stop_token_ids]
    check_counts([len(run) for run in rules.bad_words], len(rules.allowed_token_ids), len(stops), len(rules.logit_bias))
    check_bias(rules.logit_bias)
    vocabulary = manifest.config.vocab_size
    for token_id in (*prompt, *forced, *request.stop_token_ids, *rules.token_ids):
        if not 0 <= token_id < vocabulary:
            raise InvalidInput(f"token id {token_id} is not in the vocabulary", advice=f"this model's ids are 0 to {vocabulary - 1}")
    said = {name: value for name, value in manifest.sampling.said.items() if name in request.left_to_model and name in PARAMETERS}
    sampling = replace(request.sampling, **{**said, "seed": seed})
    sampling.check()
    message = pb.Submit(
        prompt_ids=prompt,
        forced_ids=forced,
        sampling=to_message(sampling, rules, told),
        max_tokens=max_tokens,
        stop_token_ids=stops,
        reuse_decoded=request.reuse_decoded,
    )
    if fills_blanks(manifest.config):
        mark_blank(message, manifest.config)
    return message


def _or_larger(context: int, config: ModelConfig) -> str:
    """The end of an advice, where the model could take more than its deployment allows."""
    return f", or deploy it anew with a larger --context (up to {config.max_positions})" if context < config.max_positions else ""
