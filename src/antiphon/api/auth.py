"""Who may ask: keys and projects, and, while there are no keys, which hosts and origins. Knows no route."""

import re
from collections.abc import Sequence

from starlette.datastructures import Headers

from antiphon.config import Auth, Cors
from antiphon.core.ports import Store
from antiphon.crypto import Secret, digest
from antiphon.errors import Forbidden, Unauthorized

DEFAULT_PROJECT = "default"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})


class Gate:
    """Gives the project of a request, or refuses it."""

    def __init__(
        self, store: Store, secret: Secret, auth: Auth, cors: Cors, *, needs_keys: bool = False, hosts_open: bool
    ) -> None:
        """`needs_keys`: this address is never served without, not even when the last key is revoked. `hosts_open`: the
        operator said that a non-loopback address may be served without keys."""
        self._store = store
        self._secret = secret
        self._static = {digest(key, secret): project for project, key in _static(auth)}
        self._required = needs_keys or auth.required or bool(self._static)
        self._origins = frozenset(cors.origins)
        self._hosts_open = hosts_open
        self._known: Sequence[object] = ()
        self._projects: dict[bytes, str] = {}

    async def admit(self, headers: Headers) -> str:
        """The project. Raises Unauthorized or Forbidden."""
        keys = await self._store.keys()
        if keys is not self._known:
            self._known = keys
            self._projects = {key.digest: key.project for key in keys}
        if not self._required and not keys:
            self._check_browser(headers)
            return DEFAULT_PROJECT
        return self._project(headers.get("authorization", ""))

    def _project(self, authorization: str) -> str:
        scheme, _, key = authorization.partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise Unauthorized
        hashed = digest(key, self._secret)
        project = self._static.get(hashed) or self._projects.get(hashed)
        if project is None:
            hint = f"{key[:7]}****{key[-4:]}" if len(key) >= 20 else "****"
            raise Unauthorized(f"Incorrect API key provided: {hint}.", code="invalid_api_key")
        return project

    def _check_browser(self, headers: Headers) -> None:
        """Without keys, a page elsewhere must not reach this server through the user's browser: neither by a name that
        it makes point to 127.0.0.1 (Host), nor from its own origin."""
        host = _host(headers.get("host", "localhost"))
        if not self._hosts_open and host not in LOOPBACK:
            raise Forbidden(
                f"The Host '{headers.get('host', '')[:100]}' is not this machine. "
                "To serve others create a key (antiphon keys create)."
            )
        origin = headers.get("origin")
        if origin is None or origin in self._origins or "*" in self._origins:
            return
        scheme, _, rest = origin.partition("://")
        page = _host(rest) if scheme in {"http", "https"} else None
        if page is None or not (page in LOOPBACK or (self._hosts_open and page == host)):
            raise Forbidden(f"The origin '{origin[:100]}' may not call this server. Allow it with [cors] origins.")


def _static(auth: Auth) -> list[tuple[str, str]]:
    return [(static.project, static.key) for static in auth.keys]


_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:/@,\s\[\]]+)(?::\d*)?")


def _host(authority: str) -> str | None:
    """The name in `name` or `name:port`, IPv6 in brackets; None for anything else."""
    match = _HOST.fullmatch(authority)
    return match[1].lower() if match else None
