"""Tokens that another file adds to tokenizer.json get the ids that transformers 5.24 gives them; TEXT's were made with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from protos.errors import InvalidInput
from quantize.checkpoints.added_tokens import TokenFiles, complete_tokenizer
from quantize.checkpoints.huggingface import open_huggingface
from tests.support.checkpoints import EOS_TOKEN_IDS, tokenizer_json, write_checkpoint, write_json

TEXT = "a<|user|> <|x|>b"
USER, X = "<|user|>", "<|x|>"
LETTERS = {token: list(token.encode()) for token in (USER, X)}


def flagged(content: str, **flags: bool) -> dict[str, Any]:
    return {"content": content, **dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False), "special": True, **flags}


def bare_tokenizer() -> dict[str, Any]:
    """Bytes, 256 <|endoftext|> and 257 [gMASK]; what follows in a vocabulary of 272 is free."""
    plain = tokenizer_json()
    return {**plain, "added_tokens": plain["added_tokens"][:2]}


def completed(settings: object = None, special_map: object = None, added: object = None, vocab_size: int = 272) -> tokenizers.Tokenizer:
    files = TokenFiles(*(value if isinstance(value, dict) else {} for value in (settings, special_map, added)))
    return tokenizers.Tokenizer.from_str(complete_tokenizer(json.dumps(bare_tokenizer()).encode(), files, vocab_size).decode())


def with_ids(user: int | None, x: int | None, *, swallows: bool = False) -> list[int]:
    """TEXT's tokens, those without a number in letters."""
    space = [] if swallows else [32]
    return [97, *([user] if user else LETTERS[USER]), *space, *([x] if x else LETTERS[X]), 98]


@pytest.mark.parametrize(
    ("settings", "special_map", "added", "ids"),
    [
        ({}, {}, {}, with_ids(None, None)),
        ({"added_tokens_decoder": {"258": flagged(USER), "259": flagged(X)}}, {}, {}, with_ids(258, 259)),
        ({"added_tokens_decoder": {"259": flagged(X, lstrip=True), "258": flagged(USER)}}, {}, {}, with_ids(258, 259, swallows=True)),
        ({"added_tokens_decoder": {"260": flagged(USER), "270": flagged(X)}}, {}, {}, with_ids(258, 259)),
        ({"added_tokens_decoder": {"257": flagged(USER)}}, {}, {}, with_ids(258, None)),
        ({"eos_token": USER, "pad_token": X}, {}, {}, with_ids(258, 259)),
        ({"eos_token": {**flagged(USER), "__type": "AddedToken"}}, {}, {}, with_ids(258, None)),
        ({"additional_special_tokens": [X, USER]}, {}, {}, with_ids(259, 258)),
        ({"extra_special_tokens": [X], "additional_special_tokens": [USER]}, {}, {}, with_ids(None, 258)),
        ({"extra_special_tokens": {"image_token": X}, "boi_token": USER}, {}, {}, with_ids(258, 259)),
        ({}, {"eos_token": flagged(USER), "additional_special_tokens": [X]}, {}, with_ids(258, 259)),
        ({"added_tokens_decoder": {"258": flagged(X)}}, {"eos_token": USER}, {}, with_ids(None, 258)),
        ({}, {}, {X: 259, USER: 258}, with_ids(258, 259)),
        ({"added_tokens_decoder": {"258": flagged(X)}}, {}, {USER: 258}, with_ids(None, 258)),
    ],
    ids=str,
)
def test_every_file_counts(settings: dict[str, Any], special_map: dict[str, Any], added: dict[str, Any], ids: list[int]) -> None:
    assert completed(settings, special_map, added).encode(TEXT, add_special_tokens=False).ids == ids


def test_flags_of_the_settings_outdo_the_files_own() -> None:
    settings = {"added_tokens_decoder": {"257": flagged("[gMASK]", special=False, lstrip=True)}}
    token = completed(settings).get_added_tokens_decoder()[257]
    assert (token.content, token.special, token.lstrip) == ("[gMASK]", False, True)
    assert completed({**settings, "mask_token": "[gMASK]"}).get_added_tokens_decoder()[257].special  # it has a name


def test_a_token_beyond_the_models_vocabulary_stays_text() -> None:
    settings = {"eos_token": USER, "pad_token": X}
    assert completed(settings, vocab_size=259).encode(TEXT, add_special_tokens=False).ids == with_ids(258, None)


def test_where_nothing_is_missing_the_bytes_stay() -> None:
    data = json.dumps(tokenizer_json()).encode()
    settings = {"eos_token": "<|endoftext|>", "added_tokens_decoder": {"256": flagged("<|endoftext|>"), "260": flagged(USER)}}
    assert complete_tokenizer(data, TokenFiles(settings, {"eos_token": USER}, {}), 272) is data


@pytest.mark.parametrize("listed", [[], {"x": flagged(USER)}, {"258": USER}, {"258": {"content": 5}}])
def test_lists_that_are_none_are_refused(listed: object) -> None:
    with pytest.raises(InvalidInput, match=r"tokenizer_config\.json"):
        completed({"added_tokens_decoder": listed})


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("token", [USER, {"content": USER}])
def test_an_end_token_that_only_the_tokenizer_names_ends_answers(tmp_path: Path, file: str, token: object) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    write_json(tmp_path / "tokenizer_config.json", {})
    with open_huggingface(tmp_path) as checkpoint:
        assert checkpoint.config.eos_token_ids == (256,)
    write_json(tmp_path / file, {"eos_token": token})
    with open_huggingface(tmp_path) as checkpoint:
        assert checkpoint.config.eos_token_ids == EOS_TOKEN_IDS == (256, 260)
        assert json.loads(checkpoint.text_files["tokenizer_config.json"])["eos_token"] == token
    for unknown in ("<|nobody|>" * 3, None, 7):
        write_json(tmp_path / file, {"eos_token": unknown})
        with open_huggingface(tmp_path) as checkpoint:
            assert 260 not in checkpoint.config.eos_token_ids
