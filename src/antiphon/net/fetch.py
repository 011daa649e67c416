"""The one fetcher for addresses that come from a request. Knows no item, no model and no proxy.

An address is resolved once, what it resolves to is checked, and the connection goes to the very address that was
checked; each redirect begins anew. docs/security.md lists the attacks that were tried.

What a request is told must not make this server a map of its network: a host that does not exist and one that may not
be reached are the same error, and nothing that a server says is quoted.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain, zip_longest
from typing import TypeAlias

from antiphon import config
from antiphon.core.ports import FILE_CODES, FetchCodes, Fetched
from antiphon.errors import InvalidRequest, UnsupportedParameter
from antiphon.net import h1
from antiphon.net.address import PORTS, Address, Allowed, Refused, Target, addresses_of, is_public, parse

ADDRESSES_MAX = 4
"""Of one host that are tried."""
LOOKUPS_MAX = 16
"""At once: each holds a thread, for as long as the system's resolver likes."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})
UNREACHABLE = (
    "its host is not known, or may not be reached from here: without the operator's leave only public addresses may, "
    "on ports 80 and 443"
)

Resolve: TypeAlias = Callable[[str], Sequence[str]]
"""A host's numeric addresses. It may block, and raise OSError."""


def resolve(host: str) -> Sequence[str]:
    """As the system does it."""
    return [str(address[0]) for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


def is_own(address: Address) -> bool:
    """Whether it is this machine's: then the system reaches it from itself. Nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return str(probe.getsockname()[0]) == str(address)
    except OSError:
        return False  # no way leads there


class Fetcher:
    """`places`: fetches at once. `tls`: whom to trust instead of the system's authorities."""

    def __init__(
        self,
        settings: config.Fetch,
        places: int,
        *,
        resolve: Resolve = resolve,
        is_own: Callable[[Address], bool] = is_own,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._allowed = Allowed(settings.allow)
        self._places = asyncio.Semaphore(places)
        self._resolve = resolve
        self._is_own = is_own
        self._given_tls = tls
        self._threads = ThreadPoolExecutor(LOOKUPS_MAX, "lookup")

    async def get(
        self, url: str, *, param: str, bytes_max: int, accept: Sequence[str], codes: FetchCodes = FILE_CODES
    ) -> Fetched:
        if not self._settings.enabled:
            raise UnsupportedParameter(
                f"Unsupported parameter: '{param}': this server fetches no addresses. Send the content itself.",
                param=param,
            )
        try:
            async with asyncio.timeout(self._settings.timeout_s), self._places:
                return await self._follow(parse(url), bytes_max, accept)
        except Refused as error:
            refused = error
        except h1.Fault as error:
            refused = Refused("download", self._told(error))
        except TimeoutError:
            refused = Refused("download", f"it took longer than {self._settings.timeout_s:g} s")
        raise InvalidRequest(f"Could not fetch '{param}': {refused}.", param=param, code=getattr(codes, refused.kind))

    async def reach(self, target: Target) -> Sequence[str]:
        """Numeric addresses, for who speaks to a server in another way. Whoever connects to one of them, and to nothing
        else, stays within the rules. Raises Refused."""
        if not self._settings.enabled:
            raise Refused("address", "this server fetches no addresses")
        return [str(address) for address in await self._permitted(target)]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _follow(self, target: Target, bytes_max: int, accept: Sequence[str]) -> Fetched:
        kinds = [f"{kind}*" if kind.endswith("/") else kind for kind in accept]
        for _ in range(self._settings.redirects_max + 1):
            answer = await self._ask(target, kinds)
            try:
                if answer.status not in REDIRECTS:
                    media_type = _media_type(answer, kinds)
                    return Fetched(url=target.url, media_type=media_type, body=await _body(answer, bytes_max))
                target = target.redirected(answer.headers.get("location", ""))
            finally:
                answer.close()
        raise Refused("download", f"its server redirects more than {self._settings.redirects_max} times")

    async def _ask(self, target: Target, kinds: Sequence[str]) -> h1.Answer:
        """The head of the answer, of the first of the host's addresses that can be connected to."""
        fault: h1.Fault | None = None
        for address in await self._permitted(target):
            client = h1.Client(
                target.host,
                target.port,
                address=str(address),
                headers={"Accept": ", ".join(kinds), "Accept-Encoding": "identity", "User-Agent": "antiphon"},
                tls=self.tls if target.scheme == "https" else None,
                connect_timeout_s=self._settings.connect_timeout_s,
                silence_timeout_s=self._settings.silence_timeout_s,
                reuse=False,
                inflate=False,
            )
            try:
                return await client.request("GET", target.path)
            except h1.Unreachable as error:
                fault = error
        raise fault or Refused("address", UNREACHABLE)

    async def _permitted(self, target: Target) -> list[Address]:
        """Where to connect to. One address that may not be reached refuses all: a host that leads inside as well as
        outside is a mistake or an attack."""
        addresses = _first_of_each_family(await self._addresses(target.host))
        if self._allowed.has_host(target.host, target.port):
            return addresses
        if not all(self._may_reach(address, target.port) for address in addresses):
            raise Refused("address", UNREACHABLE)
        return addresses

    def _may_reach(self, address: Address, port: int) -> bool:
        is_usual = port in PORTS and is_public(address) and not self._is_own(address)
        return is_usual or self._allowed.has_address(address, port)

    async def _addresses(self, host: str) -> list[Address]:
        try:
            return addresses_of([host])
        except ValueError:
            pass  # a name
        if f".{host}".endswith(".localhost"):  # loopback by definition (RFC 6761), whatever a resolver says
            return addresses_of(["127.0.0.1", "::1"])
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                return addresses_of(await loop.run_in_executor(self._threads, self._resolve, host))
        except (OSError, ValueError):  # unknown; too slow; a name that the resolver cannot write
            raise Refused("address", UNREACHABLE) from None

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """Made when it is first needed: the authorities take a while to read."""
        return self._given_tls or ssl.create_default_context()

    def _told(self, fault: h1.Fault) -> str:
        match fault:
            case h1.Unreachable():
                return "no connection to its server, or none that is secure, could be made"
            case h1.Silent():
                return f"its server said nothing for {self._settings.silence_timeout_s:g} s"
            case _:
                return "its server broke off, or does not speak HTTP"


def _first_of_each_family(addresses: Sequence[Address]) -> list[Address]:
    """A few, in their order, but such that a family that leads nowhere leaves room for the other."""
    families = [[one for one in addresses if one.version == version] for version in (6, 4)]
    families.sort(key=lambda family: addresses[:1] != family[:1])
    return [one for one in chain(*zip_longest(*families)) if one][:ADDRESSES_MAX]


def _media_type(answer: h1.Answer, kinds: Sequence[str]) -> str:
    """Raises Refused for whatever has no body that was asked for."""
    if answer.status != 200:
        raise Refused("download", f"its server answered with status {answer.status}")
    if answer.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise Refused("download", "its server compressed it, though asked not to")
    media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not any(media_type.startswith(kind[:-1]) if kind.endswith("*") else media_type == kind for kind in kinds):
        raise Refused("media_type", f"its media type is none of {', '.join(kinds)}")
    return media_type


async def _body(answer: h1.Answer, bytes_max: int) -> bytes:
    too_large = Refused("size", f"it is larger than {bytes_max:,} bytes")
    if len(length := answer.headers.get("content-length", "")) > 15 or int(length or 0) > bytes_max:
        raise too_large
    pieces, size = [], 0
    while piece := await answer.read():
        pieces.append(piece)
        size += len(piece)
        if size > bytes_max:
            raise too_large
    return b"".join(pieces)
