"""What embeddings are good for, and what reading a prompt costs: paraphrases that are to find each other, and seconds of long prompts.

python -m benchmarks.embeddings        (makes or takes the model of `benchmarks.speed`'s cache)
python -m benchmarks.embeddings --url http://127.0.0.1:7400 --model NAME        (of any server that speaks OpenAI's API, quality alone)

Each first sentence of `paraphrases.tsv` is to find its second among all second ones, by the largest dot product: `hits` is the share that
does, `mean reciprocal rank` counts later places too. By chance it is 1 of their number; `shared words` takes the share of words that two
sentences have in common instead, ties at half their places. Seconds are medians of rounds that alternate, of prompts of random tokens that
nobody has sent before.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from benchmarks.models import prepare
from benchmarks.product import LocalFleet
from quantize.hub.catalog import DEFAULT_MODEL

DEPLOYMENT, PROMPT_TOKENS, ROUNDS, VOCABULARY = "embeddings", 512, 7, 40_000
PAIRS = Path(__file__).with_name("paraphrases.tsv")
READINGS: dict[str, dict[str, Any]] = {
    "prefill and a token": {"max_tokens": 1},
    "rated": {"max_tokens": 0, "echo": True, "logprobs": 0},
    "rated, with the 5 likeliest": {"max_tokens": 0, "echo": True, "logprobs": 5},
}

Scores = npt.NDArray[np.float64]


def pairs() -> list[tuple[str, str]]:
    lines = [line.split("\t") for line in PAIRS.read_text().splitlines()]
    return [(first, second) for first, second in lines]


def ranks(scores: Scores) -> Scores:
    """Of each row's own column, 1 the best; [rows, rows]. Ties share their places."""
    own = scores.diagonal()[:, None]
    ranked: Scores = 1.0 + (scores > own).sum(axis=1) + ((scores == own).sum(axis=1) - 1) / 2
    return ranked


def told(scores: Scores) -> str:
    found = ranks(scores)
    return f"{(found == 1).mean():.0%} hits, mean reciprocal rank {(1 / found).mean():.2f}"


def shared_words(texts: Sequence[tuple[str, str]]) -> Scores:
    """Jaccard's index of each first with each second."""
    first, second = ([set(re.findall(r"\w+", pair[side].lower())) for pair in texts] for side in (0, 1))
    return np.array([[len(one & other) / len(one | other) for other in second] for one in first])


def embedded(url: str, model: str, texts: Sequence[str], dimensions: int | None = None) -> Scores:
    """[texts, dimensions]."""
    wish = {"model": model, "input": list(texts), **({"dimensions": dimensions} if dimensions else {})}
    answer = httpx.post(f"{url}/v1/embeddings", json=wish, timeout=600)
    answer.raise_for_status()
    return np.array([one["embedding"] for one in answer.json()["data"]])


def quality(url: str, model: str) -> None:
    texts = pairs()
    print(f"{len(texts)} pairs: by chance {1 / len(texts):.1%} hits; shared words: {told(shared_words(texts))}")
    size = embedded(url, model, ["size"]).shape[1]
    for dimensions in (size, size // 2, size // 8):
        first, second = (embedded(url, model, [pair[side] for pair in texts], dimensions) for side in (0, 1))
        print(f"{dimensions} dimensions: {told(first @ second.T)}", flush=True)


def costs(url: str, model: str) -> None:
    random = np.random.default_rng(1)
    seconds: dict[str, list[float]] = {name: [] for name in (*READINGS, "embedded")}
    for _ in range(ROUNDS + 1):
        for name in seconds:
            ids = random.integers(1000, VOCABULARY, PROMPT_TOKENS).tolist()
            route, wish = ("embeddings", {"input": ids}) if name == "embedded" else ("completions", {"prompt": ids, **READINGS[name]})
            answer = httpx.post(f"{url}/v1/{route}", json={"model": model, **wish}, timeout=600)
            answer.raise_for_status()
            seconds[name].append(answer.json()["usage"]["seconds"])
    plain = statistics.median(seconds["prefill and a token"][1:])
    for name, found in seconds.items():
        median = statistics.median(found[1:])
        print(f"{PROMPT_TOKENS} tokens, {name}: {median:.2f} s, {median / plain:.2f} of the first", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="")
    parser.add_argument("--model", default=DEPLOYMENT)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "glmfleet-benchmarks")
    options = parser.parse_args(arguments)
    if options.url:
        quality(options.url, options.model)
        return
    model = prepare(DEFAULT_MODEL, options.cache)
    with tempfile.TemporaryDirectory() as folder, LocalFleet(Path(folder), model.artifacts, {"one": 1}) as fleet:
        fleet.deploy(DEPLOYMENT, model.name, ["one"], 1024, 4)
        quality(fleet.url, DEPLOYMENT)
        costs(fleet.url, DEPLOYMENT)


if __name__ == "__main__":
    main()
