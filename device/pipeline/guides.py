"""What keeps answers to their grammars: compiled beside the ring, asked by the sampler."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

from device.grammar import Grammars, Mask, Matcher
from device.vocabulary import Vocabulary
from protos.errors import InvalidInput
from protos.rpc_errors import as_fleet_error
from protos.v1 import pipeline_pb2 as pb

COMPILED = 16  # grammars kept: agents ask with the same one again and again
MOST_VOCABULARY_BYTES = 32 << 20  # GLM-4's has 1.2 MB


class Guide:
    """Of one answer."""

    def __init__(self, compiled: Future[Matcher]) -> None:
        self._compiled = compiled

    @property
    def ready(self) -> bool:
        return self._compiled.done()

    def when_ready(self, tell: Callable[[], object]) -> None:
        """`tell` is called in any thread, also when it failed."""
        self._compiled.add_done_callback(lambda _: tell())

    def check(self) -> None:
        """Once it is ready: raises InvalidInput where the grammar cannot be kept."""
        try:
            self._compiled.result()
        except CancelledError:
            raise InvalidInput("the pipeline was unloaded") from None
        except Exception as error:
            raise as_fleet_error(error) from error

    def fitting(self, answer: Sequence[int]) -> Mask:
        """[vocab]: what may come behind `answer`. Once it is ready; raises InvalidInput as `Matcher.allowed`."""
        return self._compiled.result().allowed(answer)

    def forced(self, answer: Sequence[int]) -> list[int]:
        """As `Matcher.forced`; none where the grammar cannot be kept, which `fitting` says."""
        failed = not self._compiled.done() or self._compiled.cancelled() or self._compiled.exception() is not None
        return [] if failed else self._compiled.result().forced(answer)


class Guides:
    """Of one pipeline, at its head. Grammars are compiled one after the other in a thread of its own, so that no step waits for them."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._thread = ThreadPoolExecutor(1, "grammars")
        self._tokens: list[bytes] = []
        self._bytes = 0
        self._told: Vocabulary | None = None
        self._grammars: tuple[Vocabulary, Grammars] | None = None  # of the thread, as is what it compiled
        self._compiled: OrderedDict[str, Matcher] = OrderedDict()

    def learn(self, part: pb.Vocabulary) -> None:
        """The next part of the vocabulary; a whole one takes the place of the one before. Raises InvalidInput for what is not the next."""
        if part.first == 0:
            self._tokens, self._bytes = [], 0
        if part.first != len(self._tokens) or part.first + len(part.tokens) > self._vocab_size:
            raise InvalidInput(f"the vocabulary goes on at {part.first}, not at {len(self._tokens)} of {self._vocab_size}")
        self._bytes += sum(map(len, part.tokens))
        if self._bytes > MOST_VOCABULARY_BYTES:
            raise InvalidInput(f"the vocabulary has more than {MOST_VOCABULARY_BYTES >> 20} MiB")
        self._tokens.extend(part.tokens)
        if len(self._tokens) == self._vocab_size:
            whole = Vocabulary(tuple(self._tokens), tuple(part.special), tuple(part.ends))
            self._tokens = []
            if whole != self._told:
                self._told = whole

    def guide(self, grammar: str) -> Guide:
        """Soon ready. Raises InvalidInput where no vocabulary was told."""
        if self._told is None:
            raise InvalidInput("a grammar was sent before the vocabulary")
        return Guide(self._thread.submit(self._compile, self._told, grammar))

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _compile(self, vocabulary: Vocabulary, grammar: str) -> Matcher:
        if self._grammars is None or self._grammars[0] is not vocabulary:
            self._grammars = (vocabulary, Grammars(vocabulary))
            self._compiled.clear()
        if grammar not in self._compiled:
            self._compiled[grammar] = self._grammars[1].compile(grammar)
        self._compiled.move_to_end(grammar)
        while len(self._compiled) > COMPILED:
            self._compiled.popitem(last=False)
        return self._compiled[grammar].fresh()
