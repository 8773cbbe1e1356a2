"""Prompts of models that fill blanks: the text with its blanks is a prefix, each fill follows a <|startofpiece|> of its own.

Source: THUDM/GLM, generate_samples.py: blanks are filled from left to right, each fill seeing those before it.
"""

from __future__ import annotations

from device.text.confined import PromptMaker
from fleet.answering.views import GenerateRequest
from protos.errors import InvalidInput
from protos.manifest import ModelConfig
from protos.v1 import pipeline_pb2 as pb


def fills_blanks(config: ModelConfig) -> bool:
    return bool(config.mask_token_ids)


def blank_prompt(text: PromptMaker, request: GenerateRequest, config: ModelConfig, context: int | None = None) -> list[int]:
    """The prefix, the fills that are known, and the token that begins the next. A text without a blank gets one behind it, and one with a
    suffix the blank before that.

    Raises InvalidInput for a conversation, which such a model does not have, where every blank's fill is known, and for a text with a
    suffix that has another blank.
    """
    if request.messages:
        raise InvalidInput("this model has no chat template: it fills blanks", advice='use `glmfleet generate "text with a [MASK]"`')
    if request.prompt_ids:
        ids = list(request.prompt_ids)
        ids = ids[:-1] if ids[-1] == config.start_token_id else ids
        if not any(token in config.mask_token_ids for token in ids):
            raise InvalidInput("the prompt ids have no blank to fill", advice=f"put one of {config.mask_token_ids} among them")
    else:
        given = request.text if request.prompt is None else request.prompt
        if not (given or "").strip():
            raise InvalidInput("the prompt is empty", advice="say something")
        whole = given or "" if request.suffix is None else f"{given}{text.token(config.mask_token_ids[0])}{request.suffix}"
        ids = text.encode(whole, context)
        if request.suffix is not None and sum(token in config.mask_token_ids for token in ids) != 1:
            raise InvalidInput("the text or its suffix has a blank of its own", advice="leave the suffix out, or the blank")
        if not any(token in config.mask_token_ids for token in ids):
            ids = text.encode(f"{given} {text.token(config.mask_token_ids[-1])}", context)
    if config.start_token_id in (*ids, *(token for fill in request.fills for token in fill)):
        raise InvalidInput(
            f"{text.token(config.start_token_id)} begins a fill, and cannot be in the text or in a fill",
            advice="leave it out; fills that are known go into `fills`",
        )
    blanks = sum(token in config.mask_token_ids for token in ids)
    if len(request.fills) >= blanks:
        raise InvalidInput(f"{len(request.fills)} fills are given of {blanks} blanks: none is left to fill", advice="give one fewer")
    known = [token for fill in request.fills for token in (config.start_token_id, *fill)]
    return [*ids, *known, config.start_token_id]


def mark_blank(submit: pb.Submit, config: ModelConfig) -> None:
    """Say where the prefix ends, and which of its rows is each fill's blank."""
    starts = [row for row, token in enumerate(submit.prompt_ids) if token == config.start_token_id]
    submit.prefix = starts[0]
    blanks = [row for row, token in enumerate(submit.prompt_ids[: submit.prefix]) if token in config.mask_token_ids]
    for start, blank in zip(starts, blanks[: len(starts)], strict=True):
        submit.spans.add(start=start, anchor=blank)
