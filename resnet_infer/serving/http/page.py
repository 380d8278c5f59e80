"""Serve the web page at `/` and its files, from memory."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import Response

FILES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "/": ("index.html", "text/html; charset=utf-8"),
        "/web/style.css": ("style.css", "text/css; charset=utf-8"),
        "/web/page.js": ("page.js", "text/javascript; charset=utf-8"),
        "/web/icon.svg": ("icon.svg", "image/svg+xml"),
    }
)
"""File and media type of every path."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content Security Policy: load nothing from other sites, and send nothing to them."""

_CONTENT = {path: (Path(__file__).parent / "web" / name).read_bytes() for path, (name, _) in FILES.items()}
"""Content of every path."""


async def page(request: Request) -> Response:
    """Return one of `FILES`, or 304 to a client that has it already (RFC 9110, section 13.1.2)."""
    path = request.url.path
    content = _CONTENT[path]
    headers = {
        "ETag": f'"{sha256(content).hexdigest()[:16]}"',
        "Cache-Control": "no-cache",
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers={**headers, "Content-Type": FILES[path][1]})
