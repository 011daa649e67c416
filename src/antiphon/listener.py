"""The socket that is served on. Knows no HTTP."""

import socket

from antiphon.config import Server
from antiphon.errors import SettingsError

BACKLOG = 2048


def listen(server: Server) -> socket.socket:
    """Raises SettingsError."""
    host, port = server.host, server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(f"Cannot listen on {host}:{port}: {error.strerror or error}.") from None


def address(listener: socket.socket) -> str:
    """Where clients on this host find the API."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
