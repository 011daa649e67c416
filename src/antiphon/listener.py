"""The socket that is served on, by one process or by several. Knows no HTTP."""

import socket
import sys
from typing import Self

from antiphon.config import Server
from antiphon.errors import SettingsError

BACKLOG = 2048
BALANCES = sys.platform == "linux"
"""Whether the system shares out connections over sockets with one address. From one socket for all, the first process
that wakes takes all that have come: of sixteen connections made at once, mostly every one."""


def listen(server: Server) -> socket.socket:
    """Raises SettingsError."""
    family, where = _place(server)
    try:
        return socket.create_server(where, family=family, backlog=BACKLOG)
    except OSError as error:
        raise _fault(server, error) from None


def address(listener: socket.socket) -> str:
    """Where clients on this host find the API."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


class Port:
    """A port on which several processes listen, each on a socket of its own. It stays taken until it is closed."""

    def __init__(self, server: Server) -> None:
        """Raises SettingsError."""
        self._server = server
        self._holds = self._bound(*_place(server)) if BALANCES else listen(server)
        self.address = address(self._holds)

    def listener(self) -> socket.socket:
        """One more socket. Closing it resets what nobody has accepted from it. Raises SettingsError."""
        if not BALANCES:
            return self._holds.dup()
        bound = self._bound(self._holds.family, self._holds.getsockname()[:2])
        bound.listen(BACKLOG)
        return bound

    def _bound(self, family: socket.AddressFamily, where: tuple[str, int]) -> socket.socket:
        """As `socket.create_server` makes one, but that it does not listen yet: then nobody is sent to it."""
        bound = socket.socket(family)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind(where)
        except OSError as error:
            bound.close()
            raise _fault(self._server, error) from None
        return bound

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._holds.close()


def _place(server: Server) -> tuple[socket.AddressFamily, tuple[str, int]]:
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    return family, (server.host.strip("[]"), server.port)


def _fault(server: Server, error: OSError) -> SettingsError:
    return SettingsError(f"Cannot listen on {server.host}:{server.port}: {error.strerror or error}.")
