"""Speech: what is asked of MCP servers, in the SDK's words, and what their answers are here. Loaded on first use."""

from collections.abc import Callable
from typing import Any, Final

import mcp_types as mcp
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from msgspec import json

from antiphon.config import McpSettings
from antiphon.errors import DependencyFailed
from antiphon.net.fetch import Fetcher
from antiphon.tools.mcp_http import TOO_LARGE
from antiphon.tools.mcp_place import Place
from antiphon.tools.mcp_pool import Failure, Key, Pool
from antiphon.wire.items import ListedTool, McpExecutionError, McpHttpError, McpProtocolError
from antiphon.wire.tolerance import DEPTH_MAX, is_deeper

PAGES_MAX: Final = 100
CallError = McpProtocolError | McpExecutionError | McpHttpError


class Speech:
    def __init__(self, settings: McpSettings, fetch: Fetcher, changed: Callable[[Key], object]) -> None:
        self._pool = Pool(settings, fetch, changed)
        self._bytes_max = settings.answer_bytes_max

    async def list(self, project: str, place: Place) -> tuple[tuple[ListedTool, ...], float]:
        """The server's tools, and for how many seconds it says that the list is good. Raises DependencyFailed."""
        try:
            return await self._pool.ask(Key(project, place.digest), place, _list, may_repeat=True)
        except Failure as failure:
            raise DependencyFailed(f"{failure} Http status code: {failure.status}") from None
        except MCPError as error:
            raise DependencyFailed(f"{error.message} (MCP error {error.code})", code="mcp_protocol_error") from None

    async def call(
        self, project: str, place: Place, name: str, arguments: dict[str, Any]
    ) -> tuple[str | None, CallError | None]:
        """The tool's output, or why there is none."""

        async def ask(client: Client) -> mcp.CallToolResult:
            return await _call(client, name, arguments)

        try:
            result = await self._pool.ask(Key(project, place.digest), place, ask, may_repeat=False)
        except Failure as failure:
            return None, McpHttpError(code=failure.status, message=str(failure))
        except MCPError as error:
            return None, McpProtocolError(code=error.code, message=error.message)
        output = "\n".join(map(_text, result.content))
        if not result.is_error and not result.content and result.structured_content is not None:
            output = json.encode(result.structured_content).decode()
        if len(output) > self._bytes_max:  # of a command's answer nobody has counted the bytes
            return None, McpHttpError(code=502, message=TOO_LARGE.format(self._bytes_max))
        if result.is_error:
            return None, McpExecutionError(content=[{"type": "text", "text": output}])
        return output, None

    async def close(self) -> None:
        await self._pool.close()


async def _list(client: Client) -> tuple[tuple[ListedTool, ...], float]:
    tools: list[ListedTool] = []
    cursor, good_ms = None, 0
    for _ in range(PAGES_MAX):
        page = await client.list_tools(cursor=cursor)
        tools += map(_listed, page.tools)
        cursor, good_ms = page.next_cursor, page.ttl_ms
        if cursor is None:
            break
    return tuple(tools), good_ms / 1000


def _listed(tool: mcp.Tool) -> ListedTool:
    if is_deeper(tool.input_schema, DEPTH_MAX):
        raise Failure(502, f"The schema of the tool '{tool.name[:64]}' is nested too deeply.")
    annotations = tool.annotations.model_dump(by_alias=True, exclude_none=True) if tool.annotations else None
    return ListedTool(
        name=tool.name, description=tool.description, input_schema=tool.input_schema, annotations=annotations
    )


async def _call(client: Client, name: str, arguments: dict[str, Any]) -> mcp.CallToolResult:
    """Not by the SDK's own call_tool: that one lists a new connection's tools first, to judge what was returned."""
    request = mcp.CallToolRequest(params=mcp.CallToolRequestParams(name=name, arguments=arguments))
    try:
        return await client.session.send_request(request, mcp.CallToolResult)
    except MCPError as error:
        if error.code != mcp.HEADER_MISMATCH:
            raise
    await _list(client)  # some arguments go into headers, which the list tells; the call was refused without them
    return await client.session.send_request(request, mcp.CallToolResult)


def _text(block: mcp.ContentBlock) -> str:
    """What is no text is named: an item of a call holds nothing else."""
    match block:
        case mcp.TextContent():
            return block.text
        case mcp.ImageContent() | mcp.AudioContent():
            return f"[{block.type}: {block.mime_type}, {len(block.data) * 3 // 4:,} bytes, which cannot be shown here]"
        case mcp.EmbeddedResource(resource=mcp.TextResourceContents() as resource):
            return resource.text
        case mcp.EmbeddedResource():
            return f"[resource: {block.resource.uri}, {block.resource.mime_type}, which cannot be shown here]"
        case mcp.ResourceLink():
            return " ".join(filter(None, (f"[resource link: {block.name}", str(block.uri), block.description))) + "]"
