"""The routes that a server's page is read from. What it shows, it asks the server for itself."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import Route

PAGE = Path(__file__).parent / "page.html"
STATIC = Path(__file__).parent / "static"
TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
HEADERS = {
    # Nothing but these files may run, and no text becomes markup: what a model says can't, whatever it says.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    # A browser asks again, so that the page and the server are always of one version.
    "Cache-Control": "no-cache",
}


def page_routes() -> "list[Route]":
    """The page and its files: a route for each, and no other way to a file.

    They are read once, so that all that is sent is of one version.
    """
    files = sorted(path for path in STATIC.iterdir() if path.suffix[1:] in TYPES)
    return [
        _route("/", PAGE.read_bytes(), "text/html"),
        *(_route(f"/static/{path.name}", path.read_bytes(), TYPES[path.suffix[1:]]) for path in files),
    ]


def _route(path: str, content: bytes, kind: str) -> "Route":
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def send(request: Request) -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return Route(path, send)
