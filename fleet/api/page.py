"""The page at `/`: files, for everybody, that ask the other routes with the reader's own key."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from fleet.page.files import PREFIX, page_files

# Nothing of another host, nothing in line, no frame around it: what a device or a model says can be no script.
POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for each time, and by its tag not sent again
}
# Open to whoever has no key: the page has to be there to ask for one. It holds nothing of the fleet.
PATHS = frozenset(page_files())


def routes() -> APIRouter:
    router = APIRouter()

    @router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    @router.api_route(f"{PREFIX}{{name:path}}", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        """A file of the page."""
        file = page_files().get(request.url.path)
        if file is None:
            raise HTTPException(404)
        headers = {**HEADERS, "ETag": file.tag}
        if file.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.body, media_type=file.media_type, headers=headers)

    return router
