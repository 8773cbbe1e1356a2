"""Files from strangers: refused in one line, or read; never a traceback, a hang, or the memory that they ask for.

Short here; `GLMFLEET_FUZZ=20000 python -m pytest tests/quantize/test_hostile.py` looks longer, and elsewhere each time.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protos.errors import InvalidInput
from protos.manifest import ModelConfig
from quantize.checkpoints.checkpoint import Checkpoint, tensor_shapes
from quantize.checkpoints.formats import open_checkpoint
from quantize.checkpoints.gguf_header import check_header
from quantize.checkpoints.huggingface_config import parse_config
from quantize.checkpoints.tiktoken_file import tokenizer_of_ranks
from tests.support.checkpoints import TinyGlm, config_json, write_checkpoint
from tests.support.gguf_files import write_gguf
from tests.support.hostile_text import charsmap, with_charsmap

EXAMPLES = int(os.environ.get("GLMFLEET_FUZZ", settings().max_examples))
FUZZED = settings(
    max_examples=EXAMPLES,
    derandomize="GLMFLEET_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MODEL = TinyGlm(layers=1)
PEAK_BYTES, SECONDS = 64 << 20, 5.0
SIZES = st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1])
Change = tuple[float, bytes]


def changes() -> st.SearchStrategy[list[Change]]:
    """(where, as a share of the header; what is written there)."""
    written = st.one_of(st.binary(min_size=1, max_size=4), SIZES.map(lambda size: struct.pack("<Q", size)))
    return st.lists(st.tuples(st.floats(0, 1, exclude_max=True), written), min_size=1, max_size=4)


def changed(data: bytes, header: int, what: list[Change]) -> bytes:
    out = bytearray(data)
    for where, written in what:
        at = int(where * header)
        out[at : at + len(written)] = written
    return bytes(out[: len(data)])


@contextmanager
def bounded() -> Iterator[None]:
    tracemalloc.start()
    begin = time.monotonic()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES
        assert time.monotonic() - begin < SECONDS
    finally:
        tracemalloc.stop()


def refused_or_read(path: Path) -> None:
    try:
        with open_checkpoint(path) as checkpoint:
            read_all(checkpoint)
    except InvalidInput as error:
        one_line(error)


def one_line(error: InvalidInput) -> None:
    assert "\n" not in error.detail + error.advice, error.detail
    assert len(error.detail) < 500
    assert error.advice


def read_all(checkpoint: Checkpoint) -> None:
    for name, (rows, *_) in tensor_shapes(checkpoint.config).items():
        assert len(checkpoint.read(name, rows // 2, rows)) == rows - rows // 2


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, int]:
    """(a file, where its header ends)."""
    data = write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", MODEL).read_bytes()
    return data, data.index(b"output_norm.weight") + 200


@FUZZED
@given(what=changes(), kept=st.one_of(st.just(1.0), st.floats(0, 1)))
def test_gguf(gguf_bytes: tuple[bytes, int], tmp_path: Path, what: list[Change], kept: float) -> None:
    data, header = gguf_bytes
    path = tmp_path / "fuzzed.gguf"
    path.write_bytes(changed(data, header, what)[: int(kept * len(data))])
    with bounded():
        refused_or_read(path)


@FUZZED
@given(data=st.binary(max_size=200), version=st.sampled_from([2, 3]), tensors=SIZES, keys=SIZES)
def test_any_bytes_behind_a_gguf_magic(data: bytes, version: int, tensors: int, keys: int, tmp_path: Path) -> None:
    path = tmp_path / "any.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + data)
    with bounded(), pytest.raises(InvalidInput), open_checkpoint(path):
        pytest.fail("opened")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), MODEL)


@FUZZED
@given(what=changes(), kept=st.one_of(st.just(1.0), st.floats(0, 1)))
def test_safetensors(folder: Path, tmp_path: Path, what: list[Change], kept: float) -> None:
    data = (folder / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    fuzzed = tmp_path / "fuzzed"
    if not fuzzed.exists():
        shutil.copytree(folder, fuzzed)
    (fuzzed / "model.safetensors").write_bytes(changed(data, header, what)[: int(kept * len(data))])
    with bounded():
        refused_or_read(fuzzed)


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from([10**9, 2**63, -1, 0, "glm", 10**400])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


@FUZZED
@given(replaced=st.dictionaries(st.sampled_from([*config_json(MODEL), "rope_parameters", "rope_scaling"]), JSON, min_size=1, max_size=3))
def test_config(replaced: dict[str, Any]) -> None:
    with bounded():
        try:
            config = parse_config({**config_json(MODEL), **replaced}, {"eos_token_id": replaced.get("eos_token_id")})
        except InvalidInput as error:
            one_line(error)
        else:
            assert isinstance(config, ModelConfig)
            assert config.layers <= 1024
            assert sum(math.prod(shape) for shape in tensor_shapes(config).values()) < 1 << 50


@FUZZED
@given(data=st.binary(max_size=300), listed=JSON)
def test_tiktoken_ranks(data: bytes, listed: object) -> None:
    with bounded(), pytest.raises(InvalidInput):
        tokenizer_of_ranks(data, {"added_tokens_decoder": listed})


def write_array_of(kind: int, count: int) -> bytes:
    """A GGUF file of one key, an array that claims `count` elements."""
    key = b"tokenizer.ggml.tokens"
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key + struct.pack("<IIQ", 9, kind, count)


def nested(depth: int) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_text('{"a":' + "[" * depth + "]" * depth + "}")


GREEDY: dict[str, tuple[Callable[[Path], object], str]] = {
    "an array of 2^63 bytes": (lambda folder: (folder / "x.gguf").write_bytes(write_array_of(0, 2**63)), "elements in an array"),
    "an array of 2^21 strings": (lambda folder: (folder / "x.gguf").write_bytes(write_array_of(8, 2**21)), "ends within its header"),
    "arrays in arrays": (lambda folder: (folder / "x.gguf").write_bytes(write_array_of(9, 3)), "unknown type 9"),
    "10^9 layers": (
        lambda folder: (folder / "config.json").write_text(json.dumps({**config_json(MODEL), "num_hidden_layers": 10**9})),
        "num_hidden_layers must be a whole number from 1 to 1024",
    ),
    "1,000 layers of the largest sizes": (
        lambda folder: (folder / "config.json").write_text(
            json.dumps({**config_json(MODEL), "num_hidden_layers": 1024, "hidden_size": 1 << 16, "intermediate_size": 1 << 20})
        ),
        "config.json asks for",
    ),
    "a number of 100,000 digits": (
        lambda folder: (folder / "config.json").write_text('{"hidden_size": ' + "9" * 100_000 + "}"),
        "config.json is not JSON",
    ),
    "nested JSON": (nested(100_000), "config.json is not JSON"),
    "a table of characters of 8 GB": (
        lambda folder: (folder / "tokenizer.json").write_bytes(with_charsmap(charsmap(b"", b"", 0xFFFFFFFC), 1)),
        "the model's tokenizer.json has a precompiled_charsmap that is none: its trie is said to take 4294967292 bytes of 4",
    ),
}


# Each is a process; of those that are alike, one is always tried.
ALIKE = {
    "an array of 2^21 strings",
    "arrays in arrays",
    "10^9 layers",
    "nested JSON",
    "a number of 100,000 digits",
    "an array of 2^63 bytes",
}


@pytest.mark.parametrize("what", [pytest.param(what, marks=pytest.mark.long if what in ALIKE else ()) for what in GREEDY])
def test_what_asks_for_much_is_refused_in_little_memory_and_time(folder: Path, tmp_path: Path, what: str) -> None:
    """As a user meets it: the command in a process that may not take more than 1.5 GiB of address space, 10 s of CPU."""
    write, says = GREEDY[what]
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    write(copied)
    path = copied / "x.gguf" if (copied / "x.gguf").exists() else copied

    home = tmp_path / "home"
    limited = ["sh", "-c", 'ulimit -v 1572864; ulimit -t 10; exec "$@"', "sh"]
    command = [*limited, sys.executable, "-m", "fleet.cli", "model", "import", str(path), "--name", "x", "--home", str(home)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # threads take address space
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2], env=environment)
    assert (ended.returncode, ended.stdout) == (1, "")
    first, second = ended.stderr.splitlines()
    assert first.startswith("error: ")
    assert says in first
    assert second.startswith("  ")
    assert not [file for file in home.rglob("*") if file.is_file() and file.name != "lock"]


def test_the_header_of_a_real_file_is_believed(gguf_bytes: tuple[bytes, int], tmp_path: Path) -> None:
    path = tmp_path / "whole.gguf"
    path.write_bytes(gguf_bytes[0])
    with path.open("rb") as file:
        check_header(file, "whole.gguf")
        assert isinstance(file, io.BufferedReader)


PEAK = """
import sys
from pathlib import Path
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.formats import open_checkpoint
from quantize.importing.importer import import_model
with open_checkpoint(Path(sys.argv[1])) as checkpoint:
    import_model(checkpoint, ArtifactStore(Path(sys.argv[2])), "x")
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))  # ru_maxrss begins with the parent's
"""


@pytest.mark.long
def test_peak_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """15 and 200 MB of weights: a map of the file, or what is kept of each layer, would show."""
    peaks = []
    for layers in (1, 14):
        model = TinyGlm(hidden_size=512, intermediate_size=1536, heads=8, head_dim=64, kv_heads=8, layers=layers)
        folder = write_checkpoint(tmp_path / f"checkpoint{layers}", model)
        command = [sys.executable, "-c", PEAK, str(folder), str(tmp_path / f"store{layers}")]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True, cwd=Path(__file__).parents[2]).stdout) >> 10)
        shutil.rmtree(folder)
    assert peaks[1] - peaks[0] < 40, peaks


def test_a_pipe_in_the_place_of_weights_is_not_waited_for(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "glm")
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    os.mkfifo(folder / "pytorch_model.bin")
    with pytest.raises(InvalidInput, match="it is no file"), open_checkpoint(folder):
        pass
