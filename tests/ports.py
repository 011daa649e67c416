"""Ports for servers that are told theirs before they start, or come back to it."""

import secrets
import socket
from contextlib import suppress
from typing import Final

FIRST: Final = 20_000
COUNT: Final = 10_000
"""Below those that a system gives to whoever names none: so nobody takes one before its server does, or meanwhile."""


def free_port() -> int:
    """One on which nobody listens."""
    while True:
        port = FIRST + secrets.randbelow(COUNT)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
