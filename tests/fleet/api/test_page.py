"""The page's routes: types, policy, tags, and that they are for everybody while the fleet is not."""

from __future__ import annotations

import httpx
import pytest

from fleet.page.files import page_files
from fleet.trust.api_key import authenticator
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.shared_app import shared_app


@pytest.mark.parametrize("path", sorted(page_files()))
async def test_each_file_comes_with_its_type_and_a_strict_policy(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert answer.status_code == 200
    assert answer.content == page_files()[path].body
    assert answer.headers["content-type"] == page_files()[path].media_type
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert "*" not in policy
    head = await http.head(path)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", answer.headers["content-length"])


async def test_what_the_reader_has_is_not_sent_again(http: httpx.AsyncClient) -> None:
    tag = (await http.get("/page/app.js")).headers["etag"]
    again = await http.get("/page/app.js", headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert "content-security-policy" in again.headers
    assert (await http.get("/page/app.js", headers={"if-none-match": '"another"'})).status_code == 200


@pytest.mark.parametrize(
    "path", ["/page/", "/page/gone.js", "/page/../files.py", "/page/%2e%2e/vendor.toml", "/page/index.html", "/index.html"]
)
async def test_nothing_else_is_there(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).status_code == 404
    assert (await http.post("/")).status_code == 405


async def test_the_page_needs_no_key_and_what_it_asks_for_does() -> None:
    app = shared_app(FakeCoordinator(), authenticator("secret"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://board.local") as http:
        assert (await http.get("/")).status_code == (await http.get("/page/app.js")).status_code == 200
        assert (await http.get("/page/gone.js")).status_code == 401
        assert (await http.get("/api/v1/devices")).status_code == 401


async def test_only_its_own_page_and_names_may_ask_for_it_without_a_key(http: httpx.AsyncClient) -> None:
    frame = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}
    assert (await http.get("/", headers=frame)).status_code == 403
    assert (await http.get("/", headers={**frame, "sec-fetch-dest": "document"})).status_code == 200
    assert (await http.get("/", headers={"host": "evil.example"})).status_code == 400
