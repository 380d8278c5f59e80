"""Serve the web page and its files, from memory."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from resnet_infer.serving.http.context import Context

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Media type of a file by its suffix."""
INDEX = "index.html"
"""File of the path that ends in a slash."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content Security Policy: load nothing from other sites, and send nothing to them."""

_CONTENT = {path.name: path.read_bytes() for path in (Path(__file__).parent / "web").iterdir() if path.suffix in TYPES}
"""Content of every file."""


async def page(context: Context, request: Request) -> Response:
    """Return the file of the page that the path names, or 304 to a client that has it (RFC 9110, section 13.1.2)."""
    name = request.scope["path"].rpartition("/")[2] or INDEX
    content = _CONTENT[name]
    headers = {
        "ETag": f'"{sha256(content).hexdigest()[:16]}"',
        "Cache-Control": "no-cache",
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers={**headers, "Content-Type": TYPES[Path(name).suffix]})
