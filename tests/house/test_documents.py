"""The house: what a newcomer reads is short enough, complete, and points at things that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_WORDS = 1200  # of ARCHITECTURE.md: a map is read in ten minutes or not at all
MOST_README_LINES = 150
MOST_PICTURE_BYTES = 100_000
DECISIONS = ROOT / "docs" / "decisions"
HEADINGS = ["## Context", "## Decision", "## What was measured", "## Consequences"]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_PATH = re.compile(r"`((?:protos|quantize|device|sim_devices|fleet|benchmarks|tests|docs)/[\w./-]*)`")


def tracked(*patterns: str) -> list[Path]:
    """Files of the source tree, those not yet committed too."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [path for line in listing.stdout.splitlines() if (path := ROOT / line).is_file()]


PAGES = tracked("*.md")
PYTHON_FOLDERS = sorted({str(path.parent.relative_to(ROOT)) for path in tracked("*.py")})
CODE_FOLDERS = [folder for folder in PYTHON_FOLDERS if not folder.startswith("tests")]
TEST_FOLDERS = [folder for folder in PYTHON_FOLDERS if folder.startswith("tests") and folder.removeprefix("tests/") not in CODE_FOLDERS]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = [line.lstrip("#").strip() for line in page.read_text().splitlines() if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    """Relative links of the page whose file, or heading in it, does not exist."""
    dead = []
    for link in _LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


def missing_paths(page: Path) -> list[str]:
    """Files and folders of the source tree that the page names and that do not exist."""
    return [path for path in _PATH.findall(page.read_text()) if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert not dead_links(page)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    assert not missing_paths(page)


def test_dead_links_and_missing_paths_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One heading\n[a](page.md#one-heading) [b](gone.md) [c](#gone) [d](https://example.org/) `fleet/gone.py` `fleet/api/`"
    )
    assert dead_links(page) == ["gone.md", "#gone"]
    assert missing_paths(page) == ["fleet/gone.py"]


def test_the_map_is_short() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().split()) <= MOST_WORDS


def test_the_readme_is_short_and_its_picture_light() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_README_LINES
    assert (ROOT / "docs" / "fleet.svg").stat().st_size <= MOST_PICTURE_BYTES


@pytest.mark.parametrize("folder", CODE_FOLDERS)
def test_the_map_has_a_line_for_every_folder_of_code(folder: str) -> None:
    assert re.search(rf"^\| `{folder}/` \| \S", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("folder", TEST_FOLDERS)
def test_the_map_names_every_folder_of_tests_that_mirrors_no_code(folder: str) -> None:
    assert f"`{folder}/`" in (ROOT / "ARCHITECTURE.md").read_text()


def test_every_decision_is_in_the_index_and_has_its_four_parts() -> None:
    pages = sorted(DECISIONS.glob("[0-9]*.md"))
    numbers = [page.name[:4] for page in pages]  # a gap is a number that was given to a decision that is not made yet
    assert len(set(numbers)) == len(numbers)
    listed = re.findall(r"^- \[(\d{4})\]\((\S+)\) (.+)$", (DECISIONS / "README.md").read_text(), re.MULTILINE)
    assert listed == [(page.name[:4], page.name, page.read_text().splitlines()[0].removeprefix(f"# {page.name[:4]} ")) for page in pages]
    for page in [*pages, DECISIONS / "template.md"]:
        assert [line for line in page.read_text().splitlines() if line.startswith("## ")] == HEADINGS, page.name


def test_each_promise_to_clients_has_its_test() -> None:
    page = (ROOT / "docs" / "answers.md").read_text()
    promises = re.findall(r"^- (?:.|\n  )*", page, re.MULTILINE)
    assert len(promises) > 15
    for promise in promises:
        tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", promise)
        assert tests, f"no test: {promise}"
        for file, name in tests:
            assert re.search(rf"def {name}\(", (ROOT / file).read_text()), f"{file} has no {name}"
