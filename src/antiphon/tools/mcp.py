"""The tool mcp: what MCP servers offer, listed, approved and called. Knows no transport: mcp_pool.py speaks to them.

A server's tools are listed once in a conversation, all of them; which of them the model is shown, and which calls ask
for approval, the declaration says each time. Nothing is kept between requests but connections and lists: an approval is
two items, so any server process can go on from it.
"""

import asyncio
import importlib.util
from collections.abc import AsyncGenerator, Iterator, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET, UnsetType, structs

from antiphon.config import McpSettings
from antiphon.core.hosted import Answered, Errand, Outcome, Step, Tool
from antiphon.core.ports import Check
from antiphon.core.prompt import Offer, PromptItem
from antiphon.errors import DependencyFailed
from antiphon.net.fetch import Fetcher
from antiphon.tools.mcp_place import Place, Places
from antiphon.tools.mcp_told import called_name, failure_text, own_name
from antiphon.wire.items import (
    FunctionCall,
    FunctionCallOutput,
    HostedCall,
    Item,
    ListedTool,
    McpApprovalRequest,
    McpCall,
    McpListTools,
    McpProtocolError,
)
from antiphon.wire.tools import JsonObject, McpApprovals, McpFilter
from antiphon.wire.tools import McpTool as Declaration

if TYPE_CHECKING:
    from antiphon.tools.mcp_speech import Speech

INSTALL: Final = "pip install 'antiphon[mcp]'"
REMEDY: Final = "Start that server, or correct its url or command, and its key, under [[tools.mcp.servers]]."
INTERNAL_ERROR: Final = -32603
LISTINGS_MAX: Final = 256


class McpTool(Tool):
    declares = frozenset({"mcp"})
    records = frozenset({"mcp_list_tools", "mcp_call", "mcp_approval_request"})

    def __init__(self, settings: McpSettings, fetch: Fetcher) -> None:
        self._settings = settings
        self._fetch = fetch
        self._places = Places(settings)
        self._is_installed = importlib.util.find_spec("mcp") is not None
        self._speech: Speech | None = None
        self._listings: dict[tuple[str, bytes], tuple[float, tuple[ListedTool, ...]]] = {}

    # -- what is declared

    def missing(self, declaration: Declaration) -> str:
        if not self._settings.enabled:
            return "The tool 'mcp' is not enabled on this server ([tools.mcp] enabled)."
        if not self._is_installed:
            return f"The tool 'mcp' needs more on this server: {INSTALL}"
        self._places.of(declaration)
        return ""

    def offers(self, declaration: Declaration, brought: Sequence[Item]) -> Sequence[Offer]:
        note, offers = declaration.server_description or "", []
        for tool in _allowed(declaration, brought):
            name = called_name(declaration.server_label, tool.name)
            if note:
                note = f"The tools of '{declaration.server_label}' belong together: {note}\n\n"
            described = f"{note}{tool.description or ''}" or None
            offers.append(Offer(name=name, description=described, parameters=tool.input_schema))
            note = ""
        return offers

    def offer_name(self, declaration: Declaration, name: str) -> str:
        return called_name(declaration.server_label, name)

    # where this server searches for tools

    def deferred(self, declaration: Declaration) -> tuple[str, str] | None:
        if declaration.defer_loading is not True:
            return None
        return declaration.server_label, declaration.server_description or ""

    def found(self, declaration: Declaration, names: Sequence[str]) -> JsonObject:
        label = declaration.server_label
        return {"type": "mcp", "server_label": label, "allowed_tools": [own_name(label, name) for name in names]}

    def meant(self, found: Declaration) -> Sequence[str]:
        names = found.allowed_tools if isinstance(found.allowed_tools, tuple) else ()
        return [*(called_name(found.server_label, name) for name in names), *names]

    def is_of(self, item: HostedCall, declaration: Declaration) -> bool:
        return getattr(item, "server_label", None) == declaration.server_label

    def first(
        self, declaration: Declaration, brought: Sequence[Item], approved: Sequence[Answered]
    ) -> Sequence[HostedCall]:
        label, listed = declaration.server_label, _listed(declaration.server_label, brought)
        allowed = None if listed is None else {tool.name for tool in _allowed(declaration, brought)}
        listing = (McpListTools(server_label=label),) if listed is None else ()
        asked = (one.asked for one in approved if one.asked.server_label == label)
        return (*listing, *(_approved_call(one) for one in asked if allowed is None or one.name in allowed))

    # -- calls

    def begin(
        self, name: str, arguments: str, declaration: Declaration, brought: Sequence[Item]
    ) -> McpCall | McpApprovalRequest:
        label, arguments = declaration.server_label, arguments or "{}"
        tool = next(tool for tool in _allowed(declaration, brought) if called_name(label, tool.name) == name)
        _decoded(arguments)
        if _asks(declaration.require_approval, tool):
            return McpApprovalRequest(arguments=arguments, name=tool.name, server_label=label)
        return McpCall(status="in_progress", arguments=arguments, name=tool.name, server_label=label)

    async def run(self, item: HostedCall, errand: Errand) -> AsyncGenerator[Step, None]:
        place = self._places.of(errand.declaration)
        if isinstance(item, McpListTools):
            tools = await self._list(errand.project, item.server_label, place)
            yield Outcome(structs.replace(item, tools=tools))
        else:
            assert isinstance(item, McpCall)
            output, error = await self._speaking().call(errand.project, place, item.name, _decoded(item.arguments))
            status = "completed" if error is None else "failed"
            yield Outcome(structs.replace(item, status=status, output=output, error=error))

    def failed(self, item: HostedCall, reason: str) -> HostedCall:
        if isinstance(item, McpListTools):
            return structs.replace(item, error=reason)
        assert isinstance(item, McpCall)
        return structs.replace(item, status="failed", error=McpProtocolError(code=INTERNAL_ERROR, message=reason))

    def is_repeatable(self, item: HostedCall) -> bool:
        return isinstance(item, McpListTools)

    # -- what the model is told

    def replay(self, item: HostedCall) -> Sequence[PromptItem]:
        if isinstance(item, McpListTools):
            return ()
        assert isinstance(item, McpCall)
        return _told(item, failure_text(item.error) if item.error is not None else item.output or "")

    def denied(self, call: Answered) -> Sequence[PromptItem]:
        reason = f" Reason: {call.answer.reason}" if call.answer.reason else ""
        return _told(call.asked, f"The call was not made: the user did not approve it.{reason}")

    # -- the servers

    def _speaking(self) -> "Speech":
        """The SDK is loaded when it is first needed: an idle server is spared 40 MB."""
        if self._speech is None:
            from antiphon.tools.mcp_speech import Speech

            self._speech = Speech(self._settings, self._fetch, lambda key: self._listings.pop(key, None))
        return self._speech

    async def _list(self, project: str, label: str, place: Place) -> tuple[ListedTool, ...]:
        key = (project, place.digest)
        until, tools = self._listings.pop(key, (0.0, ()))
        if monotonic() >= until:
            self._listings[key] = until, tools  # to be taken away, should the tools change meanwhile
            try:
                tools, good_s = await self._speaking().list(project, place)
            except DependencyFailed as error:
                text = f"Error retrieving tool list from MCP server: '{label}'. {error.message}"
                raise DependencyFailed(text, param="tools", code=error.code) from None
            finally:
                is_still_so = self._listings.pop(key, None) is not None
            if not is_still_so:
                return tools
            until = monotonic() + (good_s or self._settings.listing_s)
        self._listings[key] = until, tools
        if len(self._listings) > LISTINGS_MAX:
            del self._listings[next(iter(self._listings))]
        return tools

    async def check(self) -> Check | None:
        name, places = "tool mcp", self._places.known
        if not self._settings.enabled or not places:
            return None
        if not self._is_installed:
            return Check(name=name, ok=False, detail="not installed", remedy=INSTALL)
        at_once = asyncio.Semaphore(self._settings.connections_max)
        found = await asyncio.gather(*(self._checked(label, place, at_once) for label, place in places.items()))
        faults = [text for text, is_well in found if not is_well]
        if faults:
            return Check(name=name, ok=False, detail="; ".join(faults), remedy=REMEDY)
        return Check(name=name, ok=True, detail=", ".join(text for text, _ in found))

    async def _checked(self, label: str, place: Place, at_once: asyncio.Semaphore) -> tuple[str, bool]:
        try:
            async with at_once:
                return f"{label}: {len(await self._list('', label, place))} tools", True
        except DependencyFailed as error:
            return error.message, False

    async def close(self) -> None:
        if self._speech is not None:
            await self._speech.close()


def _listed(label: str, brought: Sequence[Item]) -> McpListTools | None:
    """The newest list of the server's tools in the conversation."""
    lists = (item for item in reversed(brought) if isinstance(item, McpListTools))
    return next((item for item in lists if item.server_label == label and item.error is None), None)


def _allowed(declaration: Declaration, brought: Sequence[Item]) -> Iterator[ListedTool]:
    listed, allowed = _listed(declaration.server_label, brought), declaration.allowed_tools
    for tool in listed.tools if listed is not None else ():
        if allowed is UNSET or (_fits(allowed, tool) if isinstance(allowed, McpFilter) else tool.name in allowed):
            yield tool


def _fits(filter_: McpFilter, tool: ListedTool) -> bool:
    names, read_only = filter_.tool_names, filter_.read_only
    if names is not UNSET and names is not None and tool.name not in names:
        return False
    is_marked = bool((tool.annotations or {}).get("readOnlyHint"))
    return read_only is UNSET or read_only is None or is_marked is read_only


def _asks(rule: str | McpApprovals, tool: ListedTool) -> bool:
    if not isinstance(rule, McpApprovals):
        return rule == "always"
    return _names(rule.always, tool) or not _names(rule.never, tool)


def _names(filter_: McpFilter | UnsetType | None, tool: ListedTool) -> bool:
    """A filter that says nothing names no tool here."""
    return bool(filter_) and filter_ != McpFilter() and _fits(filter_, tool)  # type: ignore[arg-type] # it is one


def _approved_call(asked: McpApprovalRequest) -> McpCall:
    assert isinstance(asked.id, str)
    return McpCall(
        status="in_progress",
        approval_request_id=asked.id,
        arguments=asked.arguments,
        name=asked.name,
        server_label=asked.server_label,
    )


def _decoded(arguments: str) -> dict[str, Any]:
    """Raises ValueError."""
    try:
        return msgspec.json.decode(arguments, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None


def _told(call: McpCall | McpApprovalRequest, output: str) -> tuple[FunctionCall, FunctionCallOutput]:
    call_id, name = f"call_{call.id}", called_name(call.server_label, call.name)
    return (
        FunctionCall(id=call.id, call_id=call_id, name=name, arguments=call.arguments, status="completed"),
        FunctionCallOutput(id=call.id, call_id=call_id, output=output, status="completed"),
    )
