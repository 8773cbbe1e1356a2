"""The page's files: all of this coordinator's, small, and what others wrote as they published it."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path

import pytest

from fleet.page.files import PREFIX, page_files, vendored

ROOT = Path(__file__).resolve().parents[3]
STATIC = ROOT / "fleet" / "page" / "static"
OWN = sorted(path for path in STATIC.rglob("*") if path.suffix in (".js", ".css", ".html", ".svg") and path.parent.name != "vendor")
LONGEST_FILE = 250
# Names of XML's vocabularies, which nothing is fetched from.
NAMESPACES = ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml", "http://www.w3.org/1998/Math/MathML")
_HOST = re.compile(r"""(?:https?:|["'(=]\s*)//[\w.-]+[^\s"')]*""")
_COMMENT = re.compile(r"/\*.*?\*/|(?:^|[\s;,{}()])//[^\n]*", re.DOTALL)


def hosts(text: str) -> list[str]:
    return [found for found in _HOST.findall(text) if found not in NAMESPACES]


def test_another_host_would_be_found() -> None:
    for text in ('fetch("https://x.org/a")', 'src="//x.org"', "url(//x.org/a.png)", "import x from 'http://x.org'"):
        assert hosts(text), text
    assert not hosts('<svg xmlns="http://www.w3.org/2000/svg">')


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_file_names_another_host_or_is_long(path: Path) -> None:
    text = path.read_text()
    assert hosts(text) == []
    assert len(text.splitlines()) <= LONGEST_FILE
    if path.suffix in (".js", ".css"):
        assert text.startswith(("// ", "/* ")), "it says in its first line what it is for"


def test_nothing_stands_in_line() -> None:
    """Which the Content-Security-Policy would not run."""
    html = (STATIC / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)", html) == re.findall(r"<style|\bstyle=|\bon\w+=", html) == []


def test_what_others_wrote_is_as_they_published_it_and_asks_no_host() -> None:
    listed = {one.file: one for one in vendored()}
    found = {str(path.relative_to(STATIC)) for path in (STATIC / "vendor").iterdir() if not path.name.endswith(".LICENSE.txt")}
    assert found == set(listed)
    for name, one in listed.items():
        body = (STATIC / name).read_bytes()
        assert hashlib.sha256(body).hexdigest() == one.sha256, name
        assert hosts(_COMMENT.sub(" ", body.decode())) == [], name
    assert {path.name for path in (STATIC / "vendor").glob("*.LICENSE.txt")} == {
        "uPlot.LICENSE.txt",
        "htm.LICENSE.txt",
        "preact.LICENSE.txt",
    }


def test_every_import_of_a_module_is_a_file_that_is_served() -> None:
    served = page_files()
    assert served["/"].media_type.startswith("text/html")
    asked = {"/page/app.js"}
    for path in OWN:
        asked |= set(re.findall(r"""(?:from|import|href=|src=)\s*["'](/[\w./-]+\.\w+)["']""", path.read_text()))
    assert asked - served.keys() == set()
    assert {f"{PREFIX}{path.relative_to(STATIC)}" for path in OWN if path.name != "index.html"} - asked == set(), (
        "a file that nobody asks for"
    )


def test_the_wheel_has_them() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["fleet.page"]
    packaged = {path for pattern in told for path in (ROOT / "fleet" / "page").glob(pattern) if path.is_file()}
    # Python's own glob takes ** for folders alone; setuptools' for what is in them too.
    packaged |= {path for pattern in told for path in (ROOT / "fleet" / "page").glob(f"{pattern}/*") if path.is_file()}
    assert packaged == {path for path in STATIC.rglob("*") if path.is_file()}
