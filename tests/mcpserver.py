"""Real MCP servers, built with the official SDK and served by uvicorn on a loopback port, that note what reaches them.

python tests/mcpserver.py serves the same tools on stdin and stdout.
"""

import asyncio
import json
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Image
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp_types import ToolAnnotations
from starlette.types import Message, Receive, Scope, Send

ANY_HOST = TransportSecuritySettings(enable_dns_rebinding_protection=False)
READ = ToolAnnotations(read_only_hint=True)
PIXEL = b"\x89PNG\r\n\x1a\n"


class Remote:
    """An MCP server and what it has seen. `era`: "modern", "legacy" (streamable HTTP with sessions) or "sse"."""

    def __init__(self, era: str = "modern", port: int = 0) -> None:
        self.era = era
        self.port = port
        self.calls: list[str] = []
        self.methods: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.refuses: int | None = None
        """Every request, with this status."""
        self.redirects = ""
        """Every request, there."""
        self.breaks = False
        """Ends the connection instead of answering a call."""
        self.answers: dict[str, str] = {}
        """To these methods, instead of its own: what follows the id. Nothing at all where that is empty."""
        self.stopping = asyncio.Event()
        self.listening: Any = None
        """The SDK's own, of the subscriptions: its close() ends them all, as agreed."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{'sse' if self.era == 'sse' else 'mcp'}"

    def tool(self, **fields: Any) -> dict[str, Any]:
        """How a request declares it."""
        return {"type": "mcp", "server_label": "docs", "server_url": self.url, "require_approval": "never"} | fields

    def listings(self) -> int:
        return self.methods.count("tools/list")

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Remote"]:
        """Serves on the port of the time before, if there was one."""
        self.stopping = asyncio.Event()
        made = tools(self)
        listening = made._lowlevel_server.get_request_handler("subscriptions/listen")
        assert listening is not None
        self.listening = listening.handler
        app: Any = made.sse_app() if self.era == "sse" else made.streamable_http_app(transport_security=ANY_HOST)

        async def noting(scope: Scope, receive: Receive, send: Send) -> None:
            await self._noted(app, scope, receive, send)

        # asyncio turns Nagle's algorithm off only for sockets that say that they are TCP
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            self.port = listener.getsockname()[1]
            config = uvicorn.Config(noting, log_config=None, timeout_graceful_shutdown=1)
            server = uvicorn.Server(config)
            server.capture_signals = nullcontext  # type: ignore[method-assign, assignment] # the signals are pytest's
            task = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                yield self
            finally:
                self.stopping.set()
                server.should_exit = True
                await asyncio.wait_for(task, 60)

    async def _noted(self, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        body, more = b"", scope["method"] == "POST"
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        method = body.partition(b'"method":"')[2].partition(b'"')[0].decode()
        self.methods.append(method or scope["method"])
        if self.breaks and method == "tools/call":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            await send({"type": "http.response.body", "body": b"{", "more_body": True})
            return
        if method in self.answers:
            await self._answer(self.answers[method], json.loads(body).get("id"), receive, send)
            return
        if self.redirects:
            location = [(b"location", self.redirects.encode())]
            await send({"type": "http.response.start", "status": 307, "headers": location})
            await send({"type": "http.response.body", "body": b""})
            return
        refused = 404 if self.era == "legacy" and method == "server/discover" else self.refuses
        if refused:
            await send({"type": "http.response.start", "status": refused, "headers": []})
            await send({"type": "http.response.body", "body": b"no"})
            return
        first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}] * (
            scope["method"] == "POST"
        )

        async def again() -> Message:
            return first.pop() if first else await self._heard(receive)

        await app(scope, again, send)

    async def _answer(self, rest: str, id_: object, receive: Receive, send: Send) -> None:
        if not rest:
            self.begun.set()
            await self._heard(receive)
            return
        told = f'{{"jsonrpc": "2.0", "id": {json.dumps(id_)}, {rest}}}'.encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(told)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": told})

    async def _heard(self, receive: Receive) -> Message:
        """What comes; once the server stops, that the client has left: so streams end of themselves."""
        coming, stopping = asyncio.ensure_future(receive()), asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return coming.result() if coming.done() else {"type": "http.disconnect"}
        finally:
            coming.cancel()
            stopping.cancel()


def tools(remote: Remote) -> MCPServer:
    server = MCPServer("docs", log_level="CRITICAL")

    @server.tool(annotations=READ)
    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        remote.calls.append(f"add {a} {b}")
        return a + b

    @server.tool(annotations=ToolAnnotations(read_only_hint=False))
    def erase(name: str) -> str:
        """Erases a file."""
        remote.calls.append(f"erase {name}")
        return f"erased {name}"

    @server.tool()
    def fail() -> str:
        raise ToolError("the disk is full")

    @server.tool()
    def refuse(chars: int = 0) -> str:
        raise MCPError(code=-32050, message="not today" + "!" * chars)

    @server.tool()
    async def wait(port: int = 0) -> str:
        remote.begun.set()
        if port:
            _call(port)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            remote.cancelled.set()
            raise
        return ""

    @server.tool()
    def picture() -> Image:
        return Image(data=PIXEL, format="png")

    @server.tool()
    def long(chars: int) -> str:
        return "x" * chars

    @server.tool(name="odd.name/with a very long tail " + "x" * 60)
    def odd() -> str:
        return "odd"

    @server.tool()
    async def grow(ctx: Context) -> None:
        """Offers one more tool, and says so in the words of either era."""
        server.add_tool(odd, name="grown")
        await ctx.notify_tools_changed()
        await ctx.session.send_tool_list_changed()

    _add_what_a_process_has(server)
    return server


def _call(port: int) -> None:
    """How another process says that a call has begun here."""
    socket.create_connection(("127.0.0.1", port)).close()


def _add_what_a_process_has(server: MCPServer) -> None:
    """For a server on stdin and stdout."""

    @server.tool()
    async def crash(ctx: Context) -> str:
        """Ends the process."""
        os._exit(1)

    @server.tool()
    async def block(port: int) -> None:
        """Keeps the whole server from answering, once it has said that it begins."""
        _call(port)
        threading.Event().wait()

    @server.tool()
    def process() -> int:
        return os.getpid()

    @server.tool()
    def variable(name: str) -> str:
        return os.environ.get(name, "not set")


if __name__ == "__main__":
    logging.disable()
    tools(Remote()).run("stdio")
