"""adapter_config.json of PEFT: how much each matrix of a LoRA adapter counts; what is neither LoRA nor DoRA is refused by its name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from protos.errors import InvalidInput

SETTINGS_FILE = "adapter_config.json"
_MERGE = "merge it with PEFT first (merge_and_unload), and import what that saves"
# Settings of training, of where an adapter came from, and those that are read below.
_KNOWN = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_dora",
        "use_rslora",
    }
)
# Of `init_lora_weights`: those that change the base's matrices too when the adapter is made.
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Patterns are regular expressions from a file, and some take for ever: these are names with dots, numbers, a few alternatives and ".*".
_SIMPLE = re.compile(r"(?:\w|[-.^$|()]|\\\.|\\d\+?|\[0-9\]\+?|\.\*)+")
_MOST_ANYTHINGS, _MOST_GROUPS, _LONGEST_PATTERN = 2, 3, 200


@dataclass(frozen=True)
class LoraSettings:
    """Of matrices B [out, rank] and A [rank, in] the base's [out, in] gets `scale` x B A added."""

    rank: int
    alpha: float
    by_root: bool  # rank-stabilized: by the rank's square root
    ranks: tuple[tuple[str, int], ...]  # by pattern of module names, the first that matches counts
    alphas: tuple[tuple[str, float], ...]
    by_magnitude: bool = False  # DoRA: each row of the sum is given a length of its own

    def rank_of(self, module: str) -> int:
        return next((rank for pattern, rank in self.ranks if _matches(pattern, module)), self.rank)

    def scale_of(self, module: str) -> float:
        rank, alpha = self.rank_of(module), next((alpha for pattern, alpha in self.alphas if _matches(pattern, module)), self.alpha)
        return alpha / math.sqrt(rank) if self.by_root else alpha / rank


def parse_lora(settings: Mapping[str, Any]) -> LoraSettings:
    """Raises InvalidInput."""
    if settings.get("peft_type") != "LORA":
        _refuse(f"an adapter of type {str(settings.get('peft_type'))[:40]!r} is not supported, only LORA")
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGE_THE_BASE):
        _refuse(f"init_lora_weights {start[:40]!r} changes the base too")
    if settings.get("bias", "none") not in ("none", "all", "lora_only"):
        _refuse(f"bias {str(settings['bias'])[:40]!r} is not supported")
    for key in sorted(settings):
        if key not in _KNOWN and settings[key] not in (None, False, "", [], {}):
            _refuse(f"{key[:60]} is not supported")
    ranks = _pattern(settings, "rank_pattern")
    for pattern, rank in ranks:
        if int(rank) != rank:
            _refuse(f"rank_pattern: the rank of {pattern[:40]!r} is no whole number")
    rank = settings.get("r", 8)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= 1 << 16:
        _refuse(f"r must be a whole number, not {repr(rank)[:40]}")
    return LoraSettings(
        rank,
        _number("lora_alpha", settings.get("lora_alpha", 8)),
        settings.get("use_rslora") is True,
        tuple((pattern, int(rank)) for pattern, rank in ranks),
        _pattern(settings, "alpha_pattern"),
        settings.get("use_dora") is True,
    )


def _pattern(settings: Mapping[str, Any], key: str) -> tuple[tuple[str, float], ...]:
    found = settings.get(key) or {}
    if not isinstance(found, dict):
        _refuse(f"{key} must be an object")
    for pattern in found:
        if len(pattern) > _LONGEST_PATTERN:
            _refuse(f"{key}: {pattern[:40]!r} is too general")
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError):
            _refuse(f"{key}: {pattern[:40]!r} is no pattern")
        if pattern.count(".*") > _MOST_ANYTHINGS or pattern.count("(") > _MOST_GROUPS or not _SIMPLE.fullmatch(pattern):
            _refuse(f"{key}: {pattern[:40]!r} is too general")
    return tuple((pattern, _number(key, value)) for pattern, value in found.items())


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
        _refuse(f"{key} must be a number above 0, not {repr(value)[:40]}")
    return float(value)


def _matches(pattern: str, module: str) -> bool:
    """As PEFT's get_pattern_key."""
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


def _refuse(what: str) -> NoReturn:
    raise InvalidInput(f"{SETTINGS_FILE}: {what}", advice=_MERGE)
