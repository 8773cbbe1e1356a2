"""llama.cpp through its C API, in one process: `llama_decode` alone, without llama-cpp-python's sampling loop."""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from benchmarks.worker import Ask, Figures, answer, unknown

SEQUENCES = 16

# The library calls it as long as the process lives.
_SILENCE = llama_cpp.llama_log_callback(lambda level, text, data: None)
# One row of a batch: token, position, sequence, whether its logits are wanted.
_Row = tuple[int, int, int, bool]


class Peer:
    """Defaults of llama.cpp but for threads: fp16 cache, flash attention as it chooses, weights mapped (and repacked where it does)."""

    def __init__(self, path: Path, threads: int, context: int) -> None:
        llama_cpp.llama_backend_init()
        llama_cpp.llama_log_set(_SILENCE, ctypes.c_void_p(0))
        start = time.perf_counter()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        assert self._model, f"llama.cpp refuses {path}"
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = context * SEQUENCES
        parameters.n_batch = parameters.n_ubatch = 512
        parameters.n_seq_max = SEQUENCES
        parameters.n_threads = parameters.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        assert self._context
        self.load_seconds = time.perf_counter() - start
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch: Any = llama_cpp.llama_batch_init(512, 0, 1)

    def measure(self, ask: Ask) -> Figures:
        llama_cpp.llama_memory_clear(self._memory, False)
        if ask.what == "prefill":
            start = time.perf_counter()
            self._prefill(0, ask.prompts[0])
            return {"seconds": time.perf_counter() - start}
        if ask.what != "decode":
            raise unknown(ask)
        tokens = np.array([self._prefill(sequence, prompt) for sequence, prompt in enumerate(ask.prompts)])
        start = time.perf_counter()
        for step in range(ask.tokens):
            rows = [(int(tokens[s]), len(prompt) + step, s, True) for s, prompt in enumerate(ask.prompts)]
            tokens = self._decode(rows).argmax(axis=1)
        seconds = time.perf_counter() - start
        return {"tokens_per_second": ask.tokens * len(ask.prompts) / seconds}

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        llama_cpp.llama_memory_clear(self._memory, False)
        answer = [self._prefill(0, prompt)]
        while len(answer) < count:
            answer.append(int(self._decode([(answer[-1], len(prompt) + len(answer) - 1, 0, True)])[0].argmax()))
        return answer

    def logits(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """[S, V] of at most 512 tokens from the start of a sequence; a view that the next call overwrites."""
        llama_cpp.llama_memory_clear(self._memory, False)
        return self._decode([(int(token), position, 0, True) for position, token in enumerate(token_ids)])

    def _prefill(self, sequence: int, prompt: Sequence[int]) -> int:
        rows = [(token, position, sequence, position == len(prompt) - 1) for position, token in enumerate(prompt)]
        for start in range(0, len(rows), 512):
            logits = self._decode(rows[start : start + 512])
        return int(logits[0].argmax())

    def _decode(self, rows: Sequence[_Row]) -> npt.NDArray[np.float32]:
        """Logits [wanted rows, vocabulary]."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for index, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[index] = token
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = sequence
            batch.logits[index] = wanted
        code = llama_cpp.llama_decode(self._context, batch)
        assert code == 0, f"llama_decode: {code}"
        shape = (sum(wanted for *_, wanted in rows), self._vocabulary)
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(self._context), shape=shape)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peer", description=__doc__)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=1280)
    options = parser.parse_args()
    answer(Peer(options.gguf, options.threads, options.context).measure)


if __name__ == "__main__":
    main()
