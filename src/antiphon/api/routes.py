"""The paths, who is let in, and how an error becomes an answer. The first of the two places where errors are caught."""

import secrets

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from antiphon.api import meta, responses
from antiphon.api.auth import Gate
from antiphon.api.http import Call, ClientLeft, Served, send_error
from antiphon.config import Cors, Limits
from antiphon.engine.engine import Engine
from antiphon.errors import ApiError, MethodNotAllowed, NotFound, ServerError
from antiphon.observe import log


def build(engine: Engine, gate: Gate, limits: Limits, cors: Cors, *, strict: bool) -> ASGIApp:
    """The API as one ASGI application, without start-up and shutdown."""
    served = [*responses.routes(engine, limits, strict=strict), *meta.routes(engine)]
    served.append(meta.description(tuple(served)))
    routes = [Route(one.path, _Endpoint(one, gate), methods=[one.method]) for one in served]
    app: ASGIApp = Border(Router(routes, redirect_slashes=False))
    if cors.origins:
        app = CORSMiddleware(
            app,
            allow_origins=list(cors.origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "antiphon-ignored-parameters"],
        )
    return app


class _Endpoint:
    """An operation behind the gate."""

    def __init__(self, served: Served, gate: Gate) -> None:
        self._served = served
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        project = await self._gate.admit(Headers(scope=scope)) if self._served.needs_key else ""
        await self._served.endpoint(Call(project, scope, receive, send))


class Border:
    """Every answer gets its x-request-id; every error its envelope. Once an answer has begun, errors are the run's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        scope["app"] = self  # makes the router raise for an unknown path or method, instead of answering itself
        request_id = b"req_" + secrets.token_hex(16).encode()
        begun = False

        async def stamped(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, stamped)
        except ClientLeft:
            return
        except Exception as error:
            answer = _answer(error, request_id.decode())
            if begun:
                raise
            await send_error(stamped, answer)


def _answer(error: Exception, request_id: str) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        if error.status_code == 405:
            return MethodNotAllowed()
        return NotFound("There is nothing at this path. See /openapi.json for what is served.")
    log.exception("a request broke", request=request_id)
    return ServerError()
