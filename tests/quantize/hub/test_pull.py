"""Pulling from a hub on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, file_download

from protos.errors import Busy, Corrupt, Denied, FleetError, InvalidInput, NoSpace, NotFound, Unavailable
from quantize.checkpoints.formats import open_checkpoint
from quantize.hub import pull as module
from quantize.hub.pull import _Counted, _Remote, pull
from tests.support.checkpoints import TinyGlm, write_checkpoint
from tests.support.fake_hub import COMMIT, FakeHub, serving_hub

REPOSITORY = "zai-org/glm-tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    folder = write_checkpoint(tmp_path / "published", TinyGlm(shards=2))
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: glm-4\n---\n# Tiny\n")
    (folder / "LICENSE").write_text("The GLM-4 licence")
    (folder / "modeling_glm.py").write_text("raise SystemExit")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=lambda _: None, time=lambda: 0.0))
    with serving_hub(FakeHub({REPOSITORY: folder})) as serving:
        monkeypatch.setenv("HF_ENDPOINT", serving.url)
        yield serving


def test_a_folder_that_can_be_imported(hub: FakeHub, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pulled = pull(REPOSITORY, tmp_path / "downloads", progress=lambda done, total: seen.append((done, total)))
    assert pulled.commit == COMMIT
    assert pulled.folder.name == "zai-org--glm-tiny@0123456789ab"
    source = hub.folders[REPOSITORY]
    fetched = {path.name for path in pulled.folder.iterdir() if not path.name.startswith(".")}
    assert fetched == {path.name for path in source.iterdir()} - {"modeling_glm.py"}
    assert all((pulled.folder / name).read_bytes() == (source / name).read_bytes() for name in fetched)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (sum((source / name).stat().st_size for name in fetched),) * 2
    with open_checkpoint(pulled.folder) as checkpoint:
        assert checkpoint.provenance.source == "Hugging Face checkpoint zai-org/glm-tiny@0123456789ab"
        assert checkpoint.provenance.license == "glm-4"
        assert checkpoint.text_files["LICENSE"] == b"The GLM-4 licence"


def test_a_second_pull_fetches_nothing(hub: FakeHub, tmp_path: Path) -> None:
    first = pull(REPOSITORY, tmp_path)
    hub.gets.clear()
    assert pull(REPOSITORY, tmp_path, revision="main") == first
    assert hub.gets == []


def test_a_pull_broken_off_goes_on_where_it_stopped(hub: FakeHub, tmp_path: Path) -> None:
    shard = "model-00002-of-00002.safetensors"
    size = (hub.folders[REPOSITORY] / shard).stat().st_size

    def interrupt(done: int, total: int) -> None:
        if done >= total - size + 25_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(REPOSITORY, tmp_path, progress=interrupt)
    hub.gets.clear()
    seen: list[int] = []
    pulled = pull(REPOSITORY, tmp_path, progress=lambda done, total: seen.append(done))
    assert hub.gets[0] == (shard, "bytes=30000-")
    assert len(hub.gets) == 2  # and the index
    assert min(seen) > size + 30_000  # what was there counts from the beginning
    assert (pulled.folder / shard).read_bytes() == (hub.folders[REPOSITORY] / shard).read_bytes()
    assert not (pulled.folder / ".parts").exists()


def test_a_connection_that_ends_is_taken_up_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.cut_after = 20_000
    pulled = pull(REPOSITORY, tmp_path)
    ranges = [asked for _, asked in hub.gets if asked]
    assert ranges == ["bytes=20000-"]
    with open_checkpoint(pulled.folder):
        pass


def test_bytes_that_are_not_what_was_announced(hub: FakeHub, tmp_path: Path) -> None:
    hub.corrupt = {"model-00001-of-00002.safetensors"}
    with pytest.raises(Corrupt, match="is not what the hub said"):
        pull(REPOSITORY, tmp_path)
    hub.corrupt = set()
    hub.gets.clear()
    pull(REPOSITORY, tmp_path)
    assert {asked for _, asked in hub.gets} == {None}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes"),
    ],
)
def test_a_model_that_could_not_be_imported_is_told_before_its_weights(
    hub: FakeHub, tmp_path: Path, change: dict[str, object], says: str
) -> None:
    config = hub.folders[REPOSITORY] / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(InvalidInput, match=says):
        pull(REPOSITORY, tmp_path)
    assert [name for name, _ in hub.gets] == ["config.json"]


@pytest.mark.parametrize(
    ("repository", "revision", "kind", "detail", "advice"),
    [
        ("zai-org/other", None, NotFound, "has no model zai-org/other", "HF_TOKEN"),
        ("zai-org/gated", None, Denied, "zai-org/gated is gated", "agree at"),
        (REPOSITORY, "v9", NotFound, "has no revision v9", "branch"),
        ("a/b/c", None, InvalidInput, "not a model of a hub", "ORG/NAME"),
        ("zai-org/..", None, InvalidInput, "not a model of a hub", "ORG/NAME"),
        ("zai-org/busy", None, Busy, "patience", "again"),
        ("zai-org/broken", None, Unavailable, "answers with status 500", "again later"),
        ("zai-org/key", None, Denied, "access token", "HF_TOKEN"),
    ],
)
def test_refusals(
    hub: FakeHub, tmp_path: Path, repository: str, revision: str | None, kind: type[FleetError], detail: str, advice: str
) -> None:
    hub.gated = {"zai-org/gated"}
    hub.failing = {"zai-org/busy": 429, "zai-org/broken": 500, "zai-org/key": 403}
    with pytest.raises(kind, match=detail) as caught:
        pull(repository, tmp_path / "downloads", revision)
    assert advice in caught.value.advice
    assert not (tmp_path / "downloads").exists()


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}/")
        with pytest.raises(Unavailable, match="cannot be reached") as caught:
            pull(REPOSITORY, tmp_path)
    assert "network" in caught.value.advice


def test_offline_by_choice(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Unavailable, match="HF_HUB_OFFLINE is set"):
        pull(REPOSITORY, tmp_path)


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(NoSpace, match="iB more"):
        pull(REPOSITORY, tmp_path)
    assert hub.gets == []


def test_two_pulls_of_one_model(hub: FakeHub, tmp_path: Path) -> None:
    def second(done: int, total: int) -> None:
        if done == total:
            with pytest.raises(Busy, match="is being pulled already"):
                pull(REPOSITORY, tmp_path)

    pull(REPOSITORY, tmp_path, progress=second)


def test_names_from_the_hub_do_not_lead_out_of_the_folder() -> None:
    listed = [
        SimpleNamespace(rfilename=name, size=1, blob_id="0" * 40, lfs=None)
        for name in ("../config.json", "config.json", "model.safetensors")
    ]
    assert [file.name for file in module._wanted(REPOSITORY, listed)] == ["config.json", "model.safetensors"]


def test_no_more_is_taken_than_was_announced(tmp_path: Path) -> None:
    with (tmp_path / "part").open("wb") as file:
        counted = _Counted(file, _Remote("config.json", 5, "0" * 40), lambda _: None)
        counted.write(b"1234")
        with pytest.raises(Corrupt, match="longer than the hub said"):
            counted.write(b"56")


def test_the_library_reports_to_nobody() -> None:
    program = (
        "import quantize.hub.pull, huggingface_hub.constants as c; assert c.HF_HUB_DISABLE_TELEMETRY and c.HF_HUB_DISABLE_PROGRESS_BARS"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
