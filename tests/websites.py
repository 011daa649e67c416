"""Websites and search engines on 127.0.0.1: each answers by path, and remembers what it was asked."""

from collections.abc import Mapping

import msgspec

from tests.rawserver import RawServer, Wire, answers

Pages = Mapping[str, tuple[str, bytes]]
"""Path without its query -> media type and body; "->" as media type: a redirect there."""


def website(pages: Pages) -> RawServer:
    async def script(wire: Wire) -> None:
        kind, body = pages.get(wire.asked.path.partition("?")[0], ("", b""))
        if kind == "->":
            await answers(b"", status=302, headers=[f"Location: {body.decode()}"])(wire)
        else:
            await answers(body, status=200 if kind else 404, kind=kind or "text/plain")(wire)

    return RawServer(script)


def engine(path: str, answer: object, *, status: int = 200) -> RawServer:
    """One that gives the same to every query."""

    async def script(wire: Wire) -> None:
        is_there = wire.asked.path.partition("?")[0] == path
        await answers(msgspec.json.encode(answer), status=status if is_there else 404)(wire)

    return RawServer(script)


def article(title: str, *paragraphs: str) -> bytes:
    """A page with what stands around an article everywhere."""
    text = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    return (
        f"<!doctype html><html><head><title>{title}</title><meta charset='utf-8'></head><body>"
        f"<nav><a href='/'>Home</a><a href='/login'>Log in</a></nav>"
        f"<main><article><h1>{title}</h1>{text}</article></main>"
        "<footer>All rights reserved</footer><script>alert(1)</script></body></html>"
    ).encode()
