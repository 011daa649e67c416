"""The HTTP/1.1 client, against a server that plays scripts on a real socket."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from antiphon.net import h1
from tests.conftest import WAIT_S
from tests.rawserver import HEAD, RawServer, Wire, answers, chunked, hangs_up, streams


@asynccontextmanager
async def client(server: RawServer, **changes: Any) -> AsyncIterator[h1.Client]:
    port = urlsplit(server.url).port
    assert port is not None
    options: dict[str, Any] = {"headers": {}, "connect_timeout_s": WAIT_S, "silence_timeout_s": WAIT_S} | changes
    opened = h1.Client("127.0.0.1", port, **options)
    try:
        async with asyncio.timeout(WAIT_S):
            yield opened
    finally:
        await opened.close()


async def whole(opened: h1.Client) -> bytes:
    answer = await opened.request("GET", "/")
    body = b""
    while data := await answer.read():
        body += data
    answer.close()
    return body


async def test_a_connection_is_used_again_after_a_whole_answer() -> None:
    async with RawServer(answers(b"{}"), streams(b"a")) as server, client(server) as opened:
        assert [await whole(opened), await whole(opened)] == [b"{}", b"a"]

    assert server.connections == 1


async def test_a_connection_that_the_server_closed_between_two_uses_is_replaced() -> None:
    async with RawServer(answers(b"1"), hangs_up, answers(b"2")) as server, client(server) as opened:
        assert [await whole(opened), await whole(opened)] == [b"1", b"2"]

    assert server.connections == 2


async def test_an_answer_closed_early_takes_its_connection_along() -> None:
    gone = asyncio.Event()

    async def endless(wire: Wire) -> None:
        await wire.send(HEAD + chunked(b"a"))
        await wire.wait_gone()
        gone.set()

    async with RawServer(endless) as server, client(server) as opened:
        answer = await opened.request("GET", "/")
        assert await answer.read() == b"a"
        answer.close()
        await gone.wait()


async def test_what_comes_in_pieces_is_one_read_for_who_gathers() -> None:
    async with RawServer(streams(b"a", b"b", b"c")) as server, client(server) as opened:
        answer = await opened.request("GET", "/")

        assert await answer.read_gathered(WAIT_S) == b"abc"
        assert await answer.read_gathered(WAIT_S) == b""


async def test_gathering_ends_when_its_time_is_up() -> None:
    async def stalled(wire: Wire) -> None:
        await wire.send(HEAD + chunked(b"a"))
        await wire.wait_gone()

    async with RawServer(stalled) as server, client(server) as opened:
        answer = await opened.request("GET", "/")

        assert await answer.read_gathered(0.01) == b"a"
        answer.close()


async def test_more_than_fits_waits_for_its_reader() -> None:
    piece = b"x" * 100_000
    async with RawServer(streams(*[piece] * 40)) as server, client(server) as opened:
        assert await whole(opened) == piece * 40


async def test_a_body_without_a_length_ends_with_its_connection() -> None:
    async def plain(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")

    async with RawServer(plain) as server, client(server) as opened:
        assert await whole(opened) == b"all of it"


async def test_an_interim_answer_is_passed_over() -> None:
    async def hinted(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with RawServer(hinted) as server, client(server) as opened:
        assert await whole(opened) == b"ok"


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", h1.NotHttp),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", h1.Broken),
        (HEAD + b"zz\r\n", h1.NotHttp),
        (b"HTTP/1.1 200 OK\r\nA: " + b"a" * 2**20, h1.NotHttp),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 2**15, h1.NotHttp),
        (HEAD + chunked(b"a") + b"1;" + b"a" * 2**20, h1.NotHttp),
        (HEAD + chunked(b"a") + b"0\r\nA: " + b"a" * 2**20, h1.NotHttp),
        (b"", h1.Broken),
    ],
)
async def test_what_breaks_is_named(sent: bytes, fault: type[h1.Fault]) -> None:
    async def broken(wire: Wire) -> None:
        await wire.send(sent)

    async with RawServer(broken) as server, client(server) as opened:
        with pytest.raises(fault):
            await whole(opened)


async def test_silence_ends_an_answer() -> None:
    async def silent(wire: Wire) -> None:
        await wire.send(HEAD)
        await wire.wait_gone()

    async with RawServer(silent) as server, client(server, silence_timeout_s=0.05) as opened:
        with pytest.raises(h1.Silent):
            await whole(opened)


async def test_a_body_that_is_not_to_be_inflated_comes_as_it_was_sent() -> None:
    body = gzip.compress(b"ok")
    packed = answers(body, headers=["Content-Encoding: gzip"])
    async with RawServer(packed) as server, client(server, inflate=False) as opened:
        assert await whole(opened) == body


@pytest.mark.parametrize("more", [b"SSH-2.0\r\n\r\n", b"HTTP/1.1 500 No\r\nX-A: b\r\nContent-Length: 2\r\n\r\nno"])
async def test_an_answer_is_whole_although_more_comes_with_its_end(more: bytes) -> None:
    async def two(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + more)

    async with RawServer(two, answers(b"2")) as server, client(server) as opened:
        answer = await opened.request("GET", "/")
        assert (answer.status, "x-a" in answer.headers, await answer.read(), await answer.read()) == (
            200,
            False,
            b"ok",
            b"",
        )
        answer.close()
        assert await whole(opened) == b"2"

    assert server.connections == 2
