"""Place: where an MCP server is, and as whom it is spoken to; from a declaration or the settings. Connects nowhere."""

import hashlib
import re
from collections.abc import Mapping
from typing import Literal

from msgspec import UNSET, Struct, json, structs

from antiphon.config import McpServer, McpSettings
from antiphon.errors import InvalidValue, MissingParameter, SettingsError, UnsupportedParameter
from antiphon.net.address import Refused, parse
from antiphon.wire.tools import McpTool

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x20-\x7e\x80-\xff\t]*")
HEADERS_MAX, HEADER_CHARS_MAX = 32, 16_384
NOT_FOR_CLIENTS = re.compile(
    r"host|content-.*|transfer-encoding|connection|upgrade|te|trailer|keep-alive|proxy-.*|accept|accept-encoding|cookie2"
    r"|mcp-.*|last-event-id|expect",
    re.IGNORECASE,
)
"""Headers by which HTTP and MCP themselves work."""


class Place(Struct, frozen=True, kw_only=True):
    """`is_trusted`: the settings name it, so that no rule for addresses of requests applies."""

    url: str = ""
    transport: Literal["http", "sse"] = "http"
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    is_trusted: bool = False

    @property
    def digest(self) -> bytes:
        """Tells places and logins apart, without being them."""
        return hashlib.sha256(json.encode(structs.astuple(self))).digest()


class Places:
    """Raises SettingsError for servers of the settings that cannot be."""

    def __init__(self, settings: McpSettings) -> None:
        self._takes_addresses = settings.addresses
        self.known: dict[str, Place] = {}
        for index, server in enumerate(settings.servers):
            if server.label in self.known:
                raise SettingsError(f"tools.mcp.servers[{index}].label: {server.label} is another server's already")
            if bool(server.url) is bool(server.command):
                raise SettingsError(f"tools.mcp.servers[{index}]: give it a url, or a command")
            self.known[server.label] = _configured(server)

    def of(self, declaration: McpTool) -> Place:
        """Raises InvalidRequest, whose param is the field at fault."""
        known = self.known.get(declaration.server_label)
        if declaration.server_url is UNSET:
            if known is None:
                raise MissingParameter(
                    f"The server '{declaration.server_label}' is not in this server's settings: give its 'server_url'.",
                    param="server_url",
                )
            return structs.replace(known, headers=known.headers + _headers(declaration))
        if known is not None:
            raise InvalidValue(
                f"The label '{declaration.server_label}' is that of a server in this server's settings: leave out "
                "'server_url', or choose another label.",
                param="server_url",
            )
        if not self._takes_addresses:
            raise UnsupportedParameter(
                "This server uses only the MCP servers of its settings ([tools.mcp] addresses = false).",
                param="server_url",
            )
        try:
            url = parse(declaration.server_url).url
        except Refused as error:
            raise InvalidValue(f"Invalid 'server_url': {error}.", param="server_url") from None
        return Place(url=url, headers=_headers(declaration))


def _configured(server: McpServer) -> Place:
    bearer = (("Authorization", f"Bearer {server.key}"),) if server.key else ()
    return Place(
        url=server.url,
        transport=server.transport,
        command=server.command,
        env=server.env,
        headers=bearer,
        is_trusted=True,
    )


def _headers(declaration: McpTool) -> tuple[tuple[str, str], ...]:
    headers: Mapping[str, str] = {} if declaration.headers is UNSET else declaration.headers
    if len(headers) > HEADERS_MAX or sum(map(len, [*headers, *headers.values()])) > HEADER_CHARS_MAX:
        raise InvalidValue(
            f"Invalid 'headers': more than {HEADERS_MAX}, or than {HEADER_CHARS_MAX} characters.", param="headers"
        )
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or NOT_FOR_CLIENTS.fullmatch(name):
            raise InvalidValue("Invalid 'headers': one of them is no header, or not for you to set.", param="headers")
    told = dict(headers)
    if declaration.authorization is not UNSET:
        if any(name.lower() == "authorization" for name in headers):
            raise InvalidValue("'authorization' and a header of that name are both given.", param="authorization")
        if not _VALUE.fullmatch(declaration.authorization):
            raise InvalidValue("Invalid 'authorization': it cannot stand in a header.", param="authorization")
        told["Authorization"] = f"Bearer {declaration.authorization}"
    return tuple(told.items())
