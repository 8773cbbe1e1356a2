from __future__ import annotations

import numpy as np

from benchmarks.embeddings import pairs, ranks, shared_words, told


def test_a_rank_counts_who_is_nearer_and_half_of_who_is_as_near() -> None:
    scores = np.array([[0.9, 0.1, 0.2], [0.5, 0.5, 0.5], [0.8, 0.9, 0.1]])
    assert ranks(scores).tolist() == [1.0, 2.0, 3.0]
    assert told(scores) == "33% hits, mean reciprocal rank 0.61"


def test_words_alone_find_few_of_the_pairs() -> None:
    texts = pairs()
    assert len(texts) == len({first for first, _ in texts}) == len({second for _, second in texts}) == 40
    assert (ranks(shared_words(texts)) == 1).mean() < 0.1
