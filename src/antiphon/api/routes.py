"""The paths, who is let in, and how an error becomes an answer. The first of the two places where errors are caught."""

import secrets
from collections.abc import Mapping, Sequence

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from antiphon.api import conversations, listing, meta, overview, responses, times, window
from antiphon.api import files as files_api
from antiphon.api.auth import Gate
from antiphon.api.http import Answering, Call, ClientLeft, Served, send_error
from antiphon.config import Cors, Limits, Role
from antiphon.engine.engine import Engine
from antiphon.engine.files import Files
from antiphon.engine.keys import Keys
from antiphon.errors import ApiError, Forbidden, MethodNotAllowed, NotFound, ServerError
from antiphon.observe import log
from antiphon.wire import dialect

NOTHING_HERE = "There is nothing at this path. See /openapi.json for what is served."
WORKER_HERE = "This server makes background responses; it answers /health and /ready alone. Ask one with another role."


class Api:
    """The API as one ASGI application. `stop` ends what runs, so that every client still gets its last event."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self._app = app
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["antiphon"] = Answering("req_" + secrets.token_hex(16), dialect.of(scope["path"]))
        await self._app(scope, receive, send)

    async def stop(self) -> None:
        await self._engine.close()


def build(
    engine: Engine,
    files: Files,
    keys: Keys | None,
    gate: Gate,
    limits: Limits,
    cors: Cors,
    *,
    strict: bool,
    role: Role = "all",
    beside: Sequence[BaseRoute] = (),
) -> Api:
    """The API as one ASGI application, without start-up and shutdown. `keys`: None where nobody may make any. `beside`:
    what is no API and needs no key."""
    served: list[Served] = []
    if role != "worker":
        served += responses.routes(engine, limits, strict=strict)  # first what is asked for most
        served += [*listing.routes(engine), *meta.routes(engine)]
        served += conversations.routes(engine, limits, strict=strict)
        served += files_api.routes(files, limits, strict=strict)
        served += window.routes(engine, limits, strict=strict)
        served += [*overview.routes(engine.overviews, keys), *times.routes(engine)]
    served += meta.probes(engine)
    if role != "worker":
        served.append(meta.description(tuple(served)))
    methods: dict[str, dict[str, Served]] = {}
    for one in served:
        methods.setdefault(one.path, {})[one.method] = one
    routes = [Route(path, _Endpoint(by_method, gate), methods=list(by_method)) for path, by_method in methods.items()]
    app: ASGIApp = Border(
        Router([*routes, *beside], redirect_slashes=False), WORKER_HERE if role == "worker" else NOTHING_HERE
    )
    return Api(_with_cors(app, cors) if cors.origins else app, engine)


class _Endpoint:
    """The operations of one path, behind the gate."""

    def __init__(self, by_method: Mapping[str, Served], gate: Gate) -> None:
        self._by_method = by_method
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        served = self._by_method["GET" if method == "HEAD" else method]
        project = await self._gate.admit(Headers(scope=scope)) if served.needs_key else ""
        await served.endpoint(Call(project, scope, receive, send))


class Border:
    """Every error gets its envelope. Once an answer has begun, errors are the run's."""

    def __init__(self, app: ASGIApp, nowhere: str) -> None:
        """`nowhere`: what an unknown path is told."""
        self._app = app
        self._nowhere = nowhere

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # makes the router raise for an unknown path or method, instead of answering itself
        answering: Answering = scope["antiphon"]
        try:
            await self._app(scope, receive, send)
        except ClientLeft:
            return
        except Exception as error:  # the first of the two places: whatever broke gets its envelope
            answer = self._answer(error, answering.request_id)
            if answering.has_begun:
                raise
            allow = getattr(error, "headers", None) or {}
            headers = {name.lower().encode(): value.encode() for name, value in allow.items()}
            await send_error(scope, send, answer, headers)

    def _answer(self, error: Exception, request_id: str) -> ApiError:
        if isinstance(error, ApiError):
            return error
        if isinstance(error, HTTPException):
            return MethodNotAllowed() if error.status_code == 405 else NotFound(self._nowhere)
        log.exception("a request broke", request=request_id)
        return ServerError()


class _Cors(CORSMiddleware):
    """Answers a preflight as the API answers everything."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        is_preflight = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
        if not (is_preflight and "origin" in headers):
            await super().__call__(scope, receive, send)
            return
        response = self.preflight_response(headers)
        if response.status_code >= 400:
            error = Forbidden("This origin, method or header may not be used. Allow the origin with [cors] origins.")
            await send_error(scope, send, error)
            return
        response.headers["x-request-id"] = scope["antiphon"].request_id
        await response(scope, receive, send)


def _with_cors(app: ASGIApp, cors: Cors) -> ASGIApp:
    return _Cors(
        app,
        allow_origins=list(cors.origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "antiphon-ignored-parameters", "antiphon-omitted-tools"],
    )
