"""The console's files, served as they were built. They hold nothing of anybody's, so they need no key: the page itself
asks the API with one. Knows no resource of it.
"""

import asyncio
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from antiphon.packed import Packed

HERE = Path(__file__).parent
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
GUARDS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
FOR_EVER, ASKED_AGAIN = b"public, max-age=31536000, immutable", b"no-cache"
INDEX, MANIFEST = "index.html", "manifest.json"
"""The page, and the compatibility manifest: the two whose names do not change with what they hold."""


def routes() -> list[Route]:
    """`/` and what the page loads. The page's own addresses lie behind the `#`, which no server sees."""
    return [
        Route("/", _File(), methods=["GET"]),
        Route("/console/{name}", _File(), methods=["GET"]),
    ]


class _Built(NamedTuple):
    body: Packed
    kind: bytes
    caching: bytes


class _File:
    """One file, by the last step of its path."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        files = await asyncio.to_thread(_files)
        file = files.get(scope["path_params"].get("name", INDEX))
        if file is None:
            raise HTTPException(404)
        status, lines, body = file.body.answer(Headers(scope=scope))
        headers = [*GUARDS, (b"content-type", file.kind), (b"cache-control", file.caching), *lines]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@cache
def _files() -> dict[str, _Built]:
    """All of them, read when somebody first looks: some 200 KB."""
    return dict(_built())


def _built() -> Iterator[tuple[str, _Built]]:
    for path in (*(HERE / "static").iterdir(), HERE / MANIFEST):
        caching = ASKED_AGAIN if path.name in (INDEX, MANIFEST) else FOR_EVER
        yield path.name, _Built(Packed.of(path.read_bytes()), KINDS[path.suffix].encode(), caching)
