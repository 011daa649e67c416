"""The fetcher against what requests and servers may try, on real sockets. Names are resolved by a function that is
handed in; nothing else is not as in the product, and what tests may reach they are allowed by settings."""

import asyncio
import gzip
import re
import ssl
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from antiphon import app, config
from antiphon.config import Settings
from antiphon.core.ports import IMAGE_CODES, Fetched
from antiphon.errors import InvalidRequest, SettingsError, UnsupportedParameter
from antiphon.net.address import Address, Allowed, Refused, addresses_of, is_public, parse
from antiphon.net.fetch import LOOKUPS_MAX, UNREACHABLE, Fetcher, Resolve, is_own
from tests.conftest import WAIT_S, changed
from tests.rawserver import RawServer, Script, Wire, answers, hangs_up

PNG = answers(b"\x89PNG", kind="image/png")
PARAM = "input[0].content[0].image_url"
PUBLIC = ("8.8.8.8", "172.32.0.1", "100.128.0.1", "169.253.255.255", "2606:4700::1111", "64:ff9b::808:808")
NOT_PUBLIC = (
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "100.64.0.1", "100.100.100.200", "169.254.169.254", "168.63.129.16", "192.0.0.192", "192.0.2.1", "192.88.99.1",
    "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254", "ff02::1", "100::1", "5f00::1",
    "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1",
    "2002:7f00:1::", "2002:a9fe:a9fe::", "2001:0:7f00:1::", "2001:0:808:808::f7f7:f7f7", "2001:10::1", "2001:db8::1",
    "3fff::1", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::8.8.8.8", "4000::1",
)  # fmt: skip


def nowhere(host: str) -> Sequence[str]:
    raise AssertionError(f"{host} was looked up")


def leads_to(*addresses: str) -> Resolve:
    return lambda _: addresses


@asynccontextmanager
async def fetcher(
    *allow: str,
    resolve: Resolve = nowhere,
    is_own: Callable[[Address], bool] = is_own,
    places: int = 4,
    tls: ssl.SSLContext | None = None,
    **settings: Any,
) -> AsyncIterator[Fetcher]:
    opened = Fetcher(config.Fetch(allow=allow, **settings), places, resolve=resolve, is_own=is_own, tls=tls)
    try:
        async with asyncio.timeout(WAIT_S):
            yield opened
    finally:
        await opened.close()


@asynccontextmanager
async def serving(
    *scripts: Script, certificate: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[tuple[RawServer, Fetcher]]:
    """A server, and a fetcher that may reach nothing else."""
    async with RawServer(*scripts, tls=certificate) as server, fetcher(f"127.0.0.1:{server.port}", **options) as opened:
        yield server, opened


async def get(opened: Fetcher, url: str, *, bytes_max: int = 1000, accept: Sequence[str] = ("image/",)) -> Fetched:
    return await opened.get(url, param=PARAM, bytes_max=bytes_max, accept=accept, codes=IMAGE_CODES)


async def refusal(opened: Fetcher, url: str, **options: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        await get(opened, url, **options)
    assert caught.value.param == PARAM
    return caught.value


async def reason(opened: Fetcher, url: str, **options: Any) -> tuple[str | None, str]:
    error = await refusal(opened, url, **options)
    start = f"Could not fetch '{PARAM}': "
    assert error.message.startswith(start)
    return error.code, error.message.removeprefix(start).removesuffix(".")


NOT_REACHED = ("invalid_image_url", UNREACHABLE)


def redirects(location: str, status: int = 302) -> Script:
    return answers(b"", status=status, headers=[f"Location: {location}"])


# What is asked for, and what comes.


async def test_what_an_address_gives_is_fetched() -> None:
    async with serving(answers(b"\x89PNG", kind="Image/PNG; a=b")) as (server, opened):
        host = f"127.0.0.1:{server.port}"
        fetched = await get(opened, f"http://{host}/a?b=ü#c")

    assert fetched == Fetched(url=f"http://{host}/a?b=%C3%BC", media_type="image/png", body=b"\x89PNG")
    asked = server.asked[0]
    assert (asked.method, asked.path) == ("GET", "/a?b=%C3%BC")
    assert asked.headers == {
        "host": host,
        "accept": "image/*",
        "accept-encoding": "identity",
        "user-agent": "antiphon",
        "connection": "close",
    }


@pytest.mark.parametrize(("path", "asked"), [("", "/"), ("?a", "/?a"), ("#a", "/"), ("/%0d%0a", "/%0d%0a")])
async def test_the_path_is_asked_for_as_it_is_written(path: str, asked: str) -> None:
    async with serving(PNG) as (server, opened):
        await get(opened, f"http://127.0.0.1:{server.port}{path}")

    assert server.asked[0].path == asked


async def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(hangs_up) as proxy, serving(PNG) as (server, opened):
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        await get(opened, server.url)

    assert proxy.connections == 0


@pytest.mark.parametrize(
    ("kind", "accept"),
    [("text/html", ("image/",)), ("", ("image/",)), ("image", ("image/",)), ("application/pdfx", ("application/pdf",))],
)
async def test_another_media_type_is_refused_before_its_body(kind: str, accept: Sequence[str]) -> None:
    async def only_head(wire: Wire) -> None:
        await wire.send(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: 9\r\n\r\n".encode())
        await wire.wait_gone()

    async with serving(only_head) as (server, opened):
        code, why = await reason(opened, server.url, accept=accept)

    assert (code, "media type" in why) == ("unsupported_image_media_type", True)


@pytest.mark.parametrize("status", [204, 206, 304, 404, 500])
async def test_an_answer_that_is_none_is_told_by_its_status_and_nothing_else(status: int) -> None:
    async with serving(answers(b"secret", status=status, kind="image/png")) as (server, opened):
        told = await reason(opened, server.url)

    assert told == ("failed_to_download_image", f"its server answered with status {status}")


async def test_nothing_is_fetched_when_that_is_switched_off() -> None:
    async with serving(PNG, enabled=False) as (server, opened):
        assert isinstance(await refusal(opened, server.url), UnsupportedParameter)

    assert server.connections == 0


# Where addresses lead.


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_told(address: str) -> None:
    assert is_public(addresses_of([address])[0])


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_an_address_that_is_not_public_is_not_reached(address: str) -> None:
    literal = f"[{address}]" if ":" in address else address
    async with fetcher(resolve=leads_to(address)) as opened:
        assert await reason(opened, f"http://{literal}/a.png") == NOT_REACHED
        assert await reason(opened, "https://files.example/a.png") == NOT_REACHED


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST", "localhost.", "a.localhost", "ⓛocalhost", "local\u00adhost", "127.0.0.1.",
     "１２７.0.0.1", "127。0。0。1", "①②⑦.0.0.1", "[0:0:0:0:0:0:0:1]", "[::ffff:7f00:1]", "[::FFFF:127.0.0.1]"],
)  # fmt: skip
async def test_loopback_is_known_under_all_its_names(host: str) -> None:
    async with fetcher() as opened:
        assert await reason(opened, f"http://{host}/") == NOT_REACHED


NO_HOSTS = (
    *("2130706433", "0x7f000001", "0X7F000001", "017700000001", "127.1", "127.0.1", "0177.0.0.1", "0x7f.0.0.1"),
    *("127.0.0.01", "0", "0x", "127.1.", "1.2.3.4.5", "a.1", "256.0.0.1", "２１３０７０６４３３", "１２７.1"),
    *("[127.0.0.1]", "[v1.a]", "[::1%25lo]", "[::1%lo]", "[fe80::1%eth0]", "[::1", "::1", "[]", "[::1]a", "a[::1]"),
    *("", ".", "..", "a..", "a..b", "%31%32%37.0.0.1", "127.0.0.1%2f", "a％b", "a＠b", "℀.example", "ex,ample", "a'b"),
    *("a:b", "a:80:80", "a:0", "a:65536", "a:999999", "a:-1", "a:８０", ":80", "straße.example", "a\u200db.example"),
    *("a" * 64, "a." * 130 + "b", "ü" * 300, "\ud800"),
)
OTHER_SCHEMES = (
    *("file:///etc/passwd", "gopher://a/", "ftp://a/", "data:image/png;base64,", "unix:///run/a", "http+unix://a/"),
    *("javascript:1", "httpſ://a/", "//a/", "a.example", "http:/a/", "http:a", "http//a", ""),
)
BAD_CHARACTERS = (
    *(
        "http://a\\@127.0.0.1/",
        "http:\\\\a/",
        "http://a/\\b",
        " http://a/",
        "http://a/ ",
        "http://a b/",
        "http://a/\tb",
    ),
    *("http://a/\r\nX: y", "http://a\r\nX: y/", "ht\ntp://a/", "http://a/\0", "http://a\x7f/", "http://a/\x85"),
    *("http://a\u3000/", "http://a/\u2028"),
)
ACCOUNTS = ("http://good@127.0.0.1/", "http://u:p@a/", "http://@a/", "http://a:80@127.0.0.1:80/", "https://a%40b@c/")


@pytest.mark.parametrize("host", NO_HOSTS)
async def test_a_host_written_oddly_is_no_host(host: str) -> None:
    async with fetcher("0.0.0.0/0", "::/0") as opened:
        assert await reason(opened, f"http://{host}/") == ("invalid_image_url", "its host, or its port, is not valid")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        *((url, "it is no http:// or https:// address") for url in OTHER_SCHEMES),
        *((url, "spaces, control characters and backslashes do not belong in an address") for url in BAD_CHARACTERS),
        *((url, "a user name or password in an address is not supported") for url in ACCOUNTS),
        ("http://a/" + "a" * 9000, "it is longer than 8192 characters"),
    ],
)
async def test_what_is_no_plain_address_is_refused(url: str, why: str) -> None:
    async with fetcher("0.0.0.0/0", "::/0") as opened:
        assert await reason(opened, url) == ("invalid_image_url", why)


@given(
    st.lists(
        st.sampled_from([*"/:@?#[]%.\\ \t-_~", "http:", "//", "a", "é", "ß", "。", "127", "0x7f", "::1", "\ud800"])
    )
)
@example(["a" * 300])
def test_no_text_is_read_in_two_ways(rest: list[str]) -> None:
    """What is parsed is refused, or is its own canonical form, and another reader finds the same host in it."""
    try:
        target = parse("http://" + "".join(rest))
    except Refused:
        return
    parts = urlsplit(target.url)
    assert parse(target.url) == target
    assert (parts.scheme, parts.hostname, parts.port or 80) == (target.scheme, target.host, target.port)
    assert (parts.username, parts.fragment, target.url.isascii()) == (None, "", True)


@pytest.mark.parametrize("host", ["127.0.0.1#@files.example", "127.0.0.1?@files.example", "127.0.0.1/@files.example"])
async def test_the_host_ends_where_the_path_the_query_or_the_fragment_begins(host: str) -> None:
    async with fetcher() as opened:
        assert await reason(opened, f"http://{host}/") == NOT_REACHED


@pytest.mark.parametrize(("port", "is_reached"), [(80, True), (443, True), (22, False), (8080, False), (6379, False)])
async def test_public_addresses_are_reached_on_the_ports_of_websites_only(port: int, is_reached: bool) -> None:
    async with fetcher(is_own=lambda _: False) as opened:
        assert opened._may_reach(addresses_of(["8.8.8.8"])[0], port) == is_reached


async def test_an_address_of_this_machine_is_not_reached_though_public() -> None:
    async with fetcher(is_own=lambda _: True) as opened:
        assert await reason(opened, "http://8.8.8.8/") == NOT_REACHED


def test_this_machine_knows_its_own_addresses() -> None:
    assert [is_own(address) for address in addresses_of(["127.0.0.1", "192.0.2.1", "2001:db8::1"])] == [
        True,
        False,
        False,
    ]


# Names.


async def test_only_the_address_that_was_checked_is_connected_to() -> None:
    """Rebinding: a name that leads elsewhere when it is looked up again. It is looked up once, and that stands."""
    answers_left = [["127.0.0.1"], ["127.0.0.2"]]
    async with serving(PNG, resolve=lambda _: answers_left.pop(0)) as (server, opened):
        await get(opened, f"http://Rebound.example.:{server.port}/")

    assert server.asked[0].headers["host"] == f"rebound.example:{server.port}"
    assert answers_left == [["127.0.0.2"]]


async def test_a_redirect_to_the_same_name_is_checked_anew() -> None:
    answers_left = [["127.0.0.1"], ["169.254.169.254"]]
    async with serving(redirects("/again"), resolve=lambda _: answers_left.pop(0)) as (server, opened):
        assert await reason(opened, f"http://rebound.example:{server.port}/") == NOT_REACHED

    assert server.connections == 1


@pytest.mark.parametrize("inside", ["10.0.0.1", "::1"])
async def test_a_name_that_leads_inside_as_well_as_to_the_allowed_is_refused(inside: str) -> None:
    async with serving(PNG, resolve=leads_to("127.0.0.1", inside)) as (server, opened):
        assert await reason(opened, f"http://files.example:{server.port}/") == NOT_REACHED

    assert server.connections == 0


async def test_an_unknown_host_cannot_be_told_from_one_that_may_not_be_reached() -> None:
    def unknown(host: str) -> Sequence[str]:
        raise OSError(f"no {host}")

    errors = []
    for resolve in (unknown, leads_to(), leads_to("10.0.0.1"), leads_to("8.8.8.8")):
        async with fetcher(resolve=resolve) as opened:
            errors.append((await refusal(opened, "http://wiki:8080/")).message)

    assert len(set(errors)) == 1


async def test_an_address_that_does_not_answer_is_followed_by_the_next() -> None:
    resolve = leads_to("127.0.0.3", "127.0.0.1")
    async with RawServer(PNG) as server, fetcher("127.0.0.0/8", resolve=resolve, connect_timeout_s=2) as opened:
        await get(opened, f"http://files.example:{server.port}/")

    assert server.connections == 1


@pytest.mark.parametrize("is_swapped", [False, True])
async def test_both_families_are_tried_and_no_long_list_is(is_swapped: bool) -> None:
    first, second = ([f"{start}{number}" for number in range(1, 9)] for start in ("192.0.2.", "2001:db8::"))
    if is_swapped:
        first, second = second, first
    async with fetcher("*.example", resolve=leads_to(*first, *first, *second)) as opened:
        tried = await opened._permitted(parse("http://a.example/"))

    assert list(map(str, tried)) == [first[0], second[0], first[1], second[1]]


@pytest.mark.parametrize("is_given_up", [True, False])
async def test_a_lookup_that_hangs_holds_up_nobody_else_and_is_given_up(is_given_up: bool) -> None:
    hang = threading.Event()

    def slow(_: str) -> Sequence[str]:
        hang.wait(WAIT_S)
        return []

    wait_s = 0.1 if is_given_up else WAIT_S
    async with serving(PNG, resolve=slow, connect_timeout_s=wait_s, places=LOOKUPS_MAX * 2) as (server, opened):
        hung = [asyncio.create_task(reason(opened, "http://slow.example/")) for _ in range(LOOKUPS_MAX + 2)]
        try:
            if not is_given_up:
                await get(opened, server.url)
                hang.set()
            assert await asyncio.gather(*hung) == [NOT_REACHED] * len(hung)
        finally:
            hang.set()


# Redirects.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_without_what_the_server_set(status: int) -> None:
    first = answers(
        b"", status=status, headers=["Location: b?c=\u00fc#d", "Set-Cookie: a=b", "WWW-Authenticate: Basic"]
    )
    async with serving(first, PNG) as (server, opened):
        fetched = await get(opened, f"http://127.0.0.1:{server.port}/a/a")

    assert fetched.url == f"http://127.0.0.1:{server.port}/a/b?c=%C3%BC"
    assert server.asked[1].path == "/a/b?c=%C3%BC"
    assert server.asked[0].headers == server.asked[1].headers


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("http://169.254.169.254/latest/meta-data/", UNREACHABLE),
        ("//10.0.0.1/", UNREACHABLE),
        ("http://localhost/", UNREACHABLE),
        ("http://[::ffff:127.0.0.1]/", UNREACHABLE),
        ("http://inside.example/", UNREACHABLE),
        ("http://0x7f000001/", "its host, or its port, is not valid"),
        ("http://[/", "its server redirects to what is no address"),
        ("http://good@127.0.0.1/", "a user name or password in an address is not supported"),
        ("file:///etc/passwd", "it is no http:// or https:// address"),
        ("gopher://127.0.0.1/_a", "it is no http:// or https:// address"),
        ("/\\127.0.0.1/", "its server redirects to what is no address"),
        ("/a\tb", "its server redirects to what is no address"),
        ("", "its server redirects to what is no address"),
    ],
)
async def test_each_redirect_is_checked_in_full(location: str, why: str) -> None:
    async with serving(redirects(location), resolve=leads_to("10.0.0.1")) as (server, opened):
        assert await reason(opened, server.url) == ("invalid_image_url", why)

    assert server.connections == 1


async def test_what_is_allowed_on_one_port_is_not_on_another() -> None:
    async with RawServer(PNG) as other, serving(redirects(other.url)) as (server, opened):
        assert await reason(opened, server.url) == NOT_REACHED

    assert other.connections == 0


@pytest.mark.parametrize("redirects_max", [0, 5])
async def test_redirects_end(redirects_max: int) -> None:
    async with serving(redirects("/"), redirects_max=redirects_max) as (server, opened):
        told = await reason(opened, server.url)

    assert told == ("failed_to_download_image", f"its server redirects more than {redirects_max} times")
    assert server.connections == redirects_max + 1


async def test_the_body_of_a_redirect_is_not_read() -> None:
    async def endless(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 302 X\r\nLocation: /b\r\nContent-Length: 9999999\r\n\r\n")
        await wire.wait_gone()

    async with serving(endless, PNG) as (server, opened):
        await get(opened, server.url)


# Bounds.


async def no_answer(wire: Wire) -> None:
    await wire.wait_gone()


async def no_body(wire: Wire) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
    await wire.wait_gone()


def drips(start: bytes, drop: bytes) -> Script:
    """Never silent for long, never done."""

    async def script(wire: Wire) -> None:
        await wire.send(start)
        while True:
            await wire.send(drop)
            await asyncio.sleep(0.01)

    return script


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"
SLOW = ("failed_to_download_image", "it took longer than 0.3 s")
SILENT = ("failed_to_download_image", "its server said nothing for 0.1 s")
ODD = ("failed_to_download_image", "its server broke off, or does not speak HTTP")
LARGE = ("image_file_too_large", "it is larger than 1,000 bytes")
PATIENT = {"timeout_s": WAIT_S, "silence_timeout_s": WAIT_S}
HASTY: dict[Any, Any] = {SLOW: {"timeout_s": 0.3}, SILENT: {"silence_timeout_s": 0.1}, ODD: {}}
"""Only what a test is about ends in time, since a slow machine may be slow at all else."""


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (no_answer, SILENT),
        (no_body, SILENT),
        (drips(HEAD, b"A: b\r\n"), SILENT),  # a head must be there within that time
        (drips(HEAD + b"\r\n", b"a"), SLOW),
        (drips(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a"), SLOW),
        (hangs_up, ODD),
        (answers(b"a", kind="image/png", headers=["Content-Length: 2"]), ODD),
        (answers(b"a", kind="image/png", headers=["A: " + "a" * 2**20]), ODD),
    ],
)
async def test_a_server_that_takes_its_time_or_breaks_off_is_left(script: Script, told: tuple[str, str]) -> None:
    async with serving(script, **(PATIENT | HASTY[told])) as (server, opened):
        assert await reason(opened, server.url, bytes_max=10_000) == told


async def test_slow_redirects_have_one_time_for_all() -> None:
    async def slow(wire: Wire) -> None:
        await asyncio.sleep(0.1)
        await redirects("/")(wire)

    async with serving(slow, timeout_s=0.3, redirects_max=100) as (server, opened):
        assert await reason(opened, server.url) == SLOW


async def floods(wire: Wire) -> None:
    await wire.send(HEAD + b"\r\n")
    while True:
        await wire.send(b"a" * 500)


async def announces(wire: Wire) -> None:
    """A size beyond all bounds, and no body: what is announced need not be waited for."""
    await wire.send(HEAD + b"Content-Length: 1001\r\n\r\n")
    await wire.wait_gone()


@pytest.mark.parametrize("script", [floods, announces, answers(b"a" * 1001, kind="image/png")])
async def test_a_body_that_is_too_large_is_left(script: Script) -> None:
    async with serving(script) as (server, opened):
        assert await reason(opened, server.url) == LARGE


async def test_a_body_may_be_as_large_as_is_allowed() -> None:
    async with serving(answers(b"a" * 1000, kind="image/png")) as (server, opened):
        assert len((await get(opened, server.url)).body) == 1000


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity, gzip"])
async def test_a_compressed_body_is_refused_and_not_inflated(coding: str) -> None:
    bomb = gzip.compress(b"\0" * 2**24)
    tracemalloc.start()
    async with serving(answers(bomb, kind="image/png", headers=[f"Content-Encoding: {coding}"])) as (server, opened):
        told = await reason(opened, server.url, bytes_max=2**20)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < 2**22
    assert told == ("failed_to_download_image", "its server compressed it, though asked not to")


async def test_more_than_there_are_places_wait_their_turn() -> None:
    first_waits, go = asyncio.Event(), asyncio.Event()

    async def held(wire: Wire) -> None:
        first_waits.set()
        await go.wait()
        await PNG(wire)

    async with serving(held, PNG, places=1) as (server, opened):
        first = asyncio.create_task(get(opened, server.url))
        await first_waits.wait()
        second = asyncio.create_task(get(opened, server.url))
        await asyncio.wait([second], timeout=0.1)
        assert (server.connections, second.done()) == (1, False)
        go.set()
        await asyncio.gather(first, second)

    assert server.connections == 2


async def test_one_that_is_left_frees_its_place_and_its_connection() -> None:
    there, gone = asyncio.Event(), asyncio.Event()

    async def held(wire: Wire) -> None:
        await wire.send(HEAD + b"\r\na")
        there.set()
        await wire.wait_gone()
        gone.set()

    async with serving(held, PNG, places=1) as (server, opened):
        first = asyncio.create_task(get(opened, server.url))
        await there.wait()
        first.cancel()
        await gone.wait()
        await get(opened, server.url)


# TLS.


@asynccontextmanager
async def secure(
    directory: Path, script: Script, *, is_trusted: bool = True
) -> AsyncIterator[tuple[RawServer, Fetcher]]:
    """A server with a certificate for files.example, which all names lead to."""
    authority = Authority(directory)
    options = {"resolve": leads_to("127.0.0.1"), "tls": authority.trusting() if is_trusted else None}
    async with serving(script, certificate=authority.server("files.example"), **options) as (server, opened):
        yield server, opened


async def test_a_server_with_the_right_certificate_is_believed(tmp_path: Path) -> None:
    async with secure(tmp_path, PNG) as (server, opened):
        assert (await get(opened, f"https://files.example:{server.port}/")).body


@pytest.mark.parametrize(
    ("host", "is_trusted"), [("other.example", True), ("127.0.0.1", True), ("files.example", False)]
)
async def test_a_certificate_of_another_name_or_authority_is_not_believed(
    tmp_path: Path, host: str, is_trusted: bool
) -> None:
    async with secure(tmp_path, PNG, is_trusted=is_trusted) as (server, opened):
        told = await reason(opened, f"https://{host}:{server.port}/")

    assert told == ("failed_to_download_image", "no connection to its server, or none that is secure, could be made")
    assert server.asked == []


async def test_the_name_is_told_to_the_server_before_its_certificate(tmp_path: Path) -> None:
    asked: list[str | None] = []
    authority = Authority(tmp_path)
    certificate = authority.server("files.example")
    certificate.sni_callback = lambda _, name, __: asked.append(name)
    options = {"resolve": leads_to("127.0.0.1"), "tls": authority.trusting()}
    async with serving(PNG, certificate=certificate, **options) as (server, opened):
        await get(opened, f"https://files.example.:{server.port}/")

    assert asked == ["files.example"]


async def test_https_does_not_lead_to_http(tmp_path: Path) -> None:
    async with secure(tmp_path, redirects("http://127.0.0.1/")) as (server, opened):
        told = await reason(opened, f"https://files.example:{server.port}/")

    assert told == ("invalid_image_url", "its server redirects from https to http")


class Authority:
    """Certificates of its own making."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._sign("authority", self._key.public_key(), is_authority=True)

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self._certificate.public_bytes(Encoding.PEM).decode())

    def server(self, name: str) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file = self._directory / f"{name}.pem"
        file.write_bytes(self._sign(name, key.public_key(), is_authority=False).public_bytes(Encoding.PEM) + secret)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file)
        return context

    def _sign(self, name: str, key: ec.EllipticCurvePublicKey, *, is_authority: bool) -> x509.Certificate:
        now, subject = datetime.now(UTC), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        own, signer = x509.SubjectKeyIdentifier.from_public_key, x509.AuthorityKeyIdentifier.from_issuer_public_key
        return (
            x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number(), now, now + timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(own(key), critical=False)
            .add_extension(signer(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )


# What an operator allows.


@pytest.mark.parametrize(
    ("entry", "url", "leads", "is_reached"),
    [
        ("10.0.0.0/8", "http://10.1.2.3:8080/", "", True),
        ("10.0.0.0/8", "http://a.example:8080/", "10.1.2.3", True),
        ("10.0.0.0/8", "http://11.1.2.3:8080/", "", False),
        ("10.0.0.0/8", "http://[::ffff:10.1.2.3]/", "", False),
        ("10.1.2.3", "http://10.1.2.3:8080/", "", True),
        ("10.1.2.3:8080", "http://10.1.2.3:8080/", "", True),
        ("10.1.2.3:8080", "http://a.example:8080/", "10.1.2.3", True),
        ("10.1.2.3:8080", "http://10.1.2.3/", "", False),
        ("10.1.2.3:8080", "http://10.1.2.4:8080/", "", False),
        ("8.8.8.8:8080", "http://8.8.8.8:8080/", "", True),
        ("::1", "http://[::1]:8080/", "", True),
        ("[::1]:8080", "http://[0::1]:8080/", "", True),
        ("[::1]:8080", "http://[::1]:8081/", "", False),
        ("fd00::/8", "http://[fd00::1]/", "", True),
        ("files.internal", "http://FILES.internal.:8080/", "10.0.0.1", True),
        ("files.internal:8080", "http://files.internal:8080/", "10.0.0.1", True),
        ("files.internal:8080", "http://files.internal/", "10.0.0.1", False),
        ("files.internal", "http://a.files.internal/", "10.0.0.1", False),
        ("files.internal", "http://10.0.0.1/", "", False),
        ("*.corp.example", "http://a.b.corp.example/", "10.0.0.1", True),
        ("*.corp.example:81", "http://a.corp.example:81/", "10.0.0.1", True),
        ("*.corp.example", "http://corp.example/", "10.0.0.1", False),
        ("*.corp.example", "http://xcorp.example/", "10.0.0.1", False),
        ("*.corp.example", "http://a.corp.example.evil.example/", "10.0.0.1", False),
        ("münchen.example", "http://xn--mnchen-3ya.example/", "10.0.0.1", True),
        ("localhost:8080", "http://localhost:8080/", "", True),
        ("127.0.0.1:8080", "http://localhost:8080/", "", False),  # which is ::1, too
    ],
)
async def test_allowed_is_what_the_settings_name(entry: str, url: str, leads: str, is_reached: bool) -> None:
    async with fetcher(entry, resolve=leads_to(leads)) as opened:
        try:
            assert bool(await opened._permitted(parse(url))) is is_reached
        except Refused:
            assert not is_reached


BAD_ENTRIES = (
    *("", "*", "*:80", "*.", "10.0.0.1/8", "10.0.0.0/33", "127.1", "0x7f000001", "*.10.0.0.1", "http://a.example"),
    *(
        "a.example/b",
        "a.example:0",
        "a.example:65536",
        "a.example:http",
        "a b",
        "a@b",
        "[::1",
        "::1:80:",
        "a.*.example",
    ),
    "fe80::1%eth0",
)


@pytest.mark.parametrize("entry", BAD_ENTRIES)
def test_a_bad_entry_is_named(entry: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(repr(entry))):
        Allowed([entry])


async def test_a_bad_entry_ends_the_start(scripted: Settings) -> None:
    with pytest.raises(SettingsError, match=r"fetch\.allow: 'a b' is no network"):
        async with app.running(changed(scripted, fetch={"allow": ("a b",)})):
            pass


async def test_a_bad_entry_is_found_by_doctor(scripted: Settings) -> None:
    with pytest.raises(SettingsError, match=r"fetch\.allow"):
        await app.doctor(changed(scripted, fetch={"allow": ("a b",)}))
