"""Addresses from a request: how one is written, and where it may lead. Resolves nothing and connects to nothing.

There is one parse, and what it gives is what is connected to: no second reader can see another host in the same text.
How a host is written is judged strictly; what counts in the end is the numeric address that it leads to.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal, TypeAlias
from urllib.parse import quote, urljoin

from msgspec import Struct

from antiphon.errors import SettingsError

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

URL_CHARS_MAX = 8192
HOST_CHARS_MAX = 253
PORT_MAX = 65535
PORTS = frozenset({80, 443})
"""Where websites are. On others this server could be used to look for, or talk to, what is none."""

# Source: IANA's registries of special-purpose addresses.
NOT_PUBLIC_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # unspecified, "this network"
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carriers' NAT, and Alibaba's metadata
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # Azure's metadata: public by number, not by nature
            "169.254.0.0/16",  # link-local, and most clouds' metadata
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments, and Oracle's metadata
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
        ),
    )
)
GLOBAL_6 = IPv6Network("2000::/3")
"""All else is loopback, unspecified, local, multicast, reserved, or an IPv4 address in other clothes."""
NOT_PUBLIC_6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments; Teredo, which embeds IPv4
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which embeds IPv4
            "3fff::/20",  # documentation
        ),
    )
)
NAT64 = IPv6Network("64:ff9b::/96")
"""How a network without IPv4 reaches it (RFC 6052): the address within is what counts."""

_FORBIDDEN = re.compile(r"[\s\x00-\x20\x7f-\x9f\\]")
_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE | re.ASCII)
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:%]+)(?::([0-9]{0,5}))?", re.IGNORECASE | re.ASCII)
_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_ENDS_IN_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
_DEVIANT = re.compile("[ßς\u200c\u200d]")
"""Means one name to IDNA 2003, another to IDNA 2008."""
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))


class Refused(Exception):
    """Why nothing is fetched, in words for who asked. `kind` is a field of FetchCodes."""

    def __init__(self, kind: Literal["address", "download", "size", "media_type"], reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Target(Struct, frozen=True):
    """An address, taken apart. `host` is in lower case, a name in ASCII or a number without brackets."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _default_port(self.scheme) else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    def redirected(self, location: str) -> "Target":
        """Where an answer's Location leads from here. `location` as it came, in Latin-1."""
        text = location.encode("latin-1").decode("utf-8", "replace")
        if not text or _FORBIDDEN.search(text):
            raise Refused("address", "its server redirects to what is no address")
        try:
            target = parse(urljoin(self.url, text))
        except ValueError:
            raise Refused("address", "its server redirects to what is no address") from None
        if self.scheme == "https" and target.scheme == "http":
            raise Refused("address", "its server redirects from https to http")
        return target


def parse(url: str) -> Target:
    """Raises Refused."""
    if len(url) > URL_CHARS_MAX:
        raise Refused("address", f"it is longer than {URL_CHARS_MAX} characters")
    if _FORBIDDEN.search(url):
        raise Refused("address", "spaces, control characters and backslashes do not belong in an address")
    if not (whole := _URL.fullmatch(url)):
        raise Refused("address", "it is no http:// or https:// address")
    scheme, authority, path = whole[1].lower(), whole[2], whole[3]
    if "@" in authority:
        raise Refused("address", "a user name or password in an address is not supported")
    try:
        host, port = _host_and_port(authority)
        path = quote(path if path.startswith("/") else f"/{path}", safe=_VISIBLE)
    except ValueError:  # half a character among them
        raise Refused("address", "its host, or its port, is not valid") from None
    return Target(scheme, host, port or _default_port(scheme), path)


def _host_and_port(text: str) -> tuple[str, int | None]:
    parts = _AUTHORITY.fullmatch(text)
    port = int(parts[2]) if parts and parts[2] else None
    if not parts or port == 0 or (port or 0) > PORT_MAX:
        raise ValueError(text)
    return _host(parts[1]), port


def _default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def _host(text: str) -> str:
    """A host in its one canonical form. Raises ValueError, also for numbers in any but their usual notation."""
    if text.startswith("["):
        return str(IPv6Address(text[1:-1]))
    if len(text) > HOST_CHARS_MAX or _DEVIANT.search(text):
        raise ValueError(text)
    name = text if text.isascii() else text.encode("idna").decode()
    name = name.lower().removesuffix(".")
    if _ENDS_IN_NUMBER.fullmatch(name):
        return str(IPv4Address(name))
    if not _NAME.fullmatch(name):
        raise ValueError(text)
    return name


def is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address in NAT64:
        address = IPv4Address(int(address) & 0xFFFF_FFFF)
    if isinstance(address, IPv4Address):
        return not any(address in network for network in NOT_PUBLIC_4)
    return address in GLOBAL_6 and not any(address in network for network in NOT_PUBLIC_6)


class Allowed:
    """The operator's `[fetch] allow`. Raises SettingsError."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._networks: list[tuple[Network, int | None]] = []
        self._names: list[tuple[str, int | None]] = []
        for entry in entries:
            try:
                where, port = _entry(entry)
            except ValueError:
                raise SettingsError(
                    f'fetch.allow: {entry!r} is no network ("10.0.0.0/8"), address ("127.0.0.1:8123", "[::1]:8123") or '
                    'host ("files.internal", "files.internal:8443", "*.corp.example")'
                ) from None
            if isinstance(where, str):
                self._names.append((where, port))
            else:
                self._networks.append((where, port))

    def has_host(self, host: str, port: int) -> bool:
        """Whether a name is allowed wherever it leads."""
        return any(
            only in (None, port) and (host.endswith(name) if name.startswith(".") else host == name)
            for name, only in self._names
        )

    def has_address(self, address: Address, port: int) -> bool:
        return any(only in (None, port) and address in network for network, only in self._networks)


_ENTRY = re.compile(r"(\*\.)?(\[[^\[\]]+\]|[^:\[\]]+)(?::([1-9][0-9]{0,4}))?")


def _entry(text: str) -> tuple[Network | str, int | None]:
    """A network or a name, and its port. "*.name" becomes ".name". Raises ValueError."""
    if "%" in text:  # a zone, which is no part of what is compared
        raise ValueError(text)
    parts = _ENTRY.fullmatch(text)
    if "/" in text or not parts:
        return ip_network(text), None
    host, port = _host(parts[2]), int(parts[3]) if parts[3] else None
    if port and port > PORT_MAX:
        raise ValueError(text)
    is_number = ":" in host or _ENDS_IN_NUMBER.fullmatch(host)
    if is_number and parts[1]:
        raise ValueError(text)
    return ip_network(host) if is_number else f"{(parts[1] or '').removeprefix('*')}{host}", port


def addresses_of(texts: Iterable[str]) -> list[Address]:
    """Each once, in their order."""
    return list(dict.fromkeys(map(ip_address, texts)))
