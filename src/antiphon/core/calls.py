"""Calls that can be judged only when they are whole: what each of them is, if it is one. Makes no event and no id."""

from collections.abc import Mapping
from typing import TypeAlias

from msgspec import Struct

from antiphon.core.ports import TextCheck
from antiphon.core.toolbox import Callee, Gathered, Hosted
from antiphon.core.toolsearch import NAME, Search, Unfound
from antiphon.wire.items import Asking, ClientCall, CustomToolCall, HostedCall, ToolSearchCall


class HostedRequest(Struct, frozen=True):
    """A call of a hosted tool that the model made in the turn just ended: to be run, or to be asked about first; or a
    search for tools."""

    name: str
    arguments: str
    hosted: Hosted | Search
    item: HostedCall | Asking | ToolSearchCall


class Refused(Struct, frozen=True):
    """A call that the model made and that cannot become an item. The model is told why, and may make another."""

    name: str
    arguments: str
    reason: str


class Calls(Struct, frozen=True):
    """What a turn asked for: `client` is done and waits for the client; `hosted` is for this server to run; `refused`
    left no item."""

    client: tuple[ClientCall, ...]
    hosted: tuple[HostedRequest, ...]
    refused: tuple[Refused, ...]


Judged: TypeAlias = ClientCall | HostedRequest | Refused


class GatheredCall:
    """A call that is being written. `callee` is None for a tool that this request does not allow."""

    __slots__ = ("_judged", "call_id", "callee", "chunks", "name")

    def __init__(self, name: str, call_id: str, callee: Callee | None) -> None:
        self.name = name
        self.call_id = call_id
        self.callee = callee
        self.chunks: list[str] = []
        self._judged: Judged | None = None

    def judged(self, allowed: frozenset[str] | None, checks: Mapping[str, TextCheck]) -> Judged:
        """What it is, now that it is whole. Judged once: a check may take its time."""
        if self._judged is None:
            self._judged = self._judge(allowed, checks)
        return self._judged

    def _judge(self, allowed: frozenset[str] | None, checks: Mapping[str, TextCheck]) -> Judged:
        arguments = "".join(self.chunks)
        if self.callee is None:
            reason = f"only these tools may be called now: {', '.join(sorted(allowed or ()))}."
            return Refused(self.name, arguments, reason)
        if isinstance(self.callee, Unfound):
            return Refused(self.name, arguments, f"find it first, by '{NAME}'.")
        try:
            if isinstance(self.callee, Search):
                return HostedRequest(self.name, arguments, self.callee, self.callee.lift(arguments))
            if isinstance(self.callee, Hosted):
                callee = self.callee
                begun = callee.tool.begin(self.name, arguments, callee.declaration, callee.brought)
                return HostedRequest(self.name, arguments, callee, begun)
            assert isinstance(self.callee, Gathered)
            item = self.callee.lift(self.call_id, arguments)
        except ValueError as error:
            return Refused(self.name, arguments, f"its arguments are wrong: {error}")
        if isinstance(item, CustomToolCall) and (fault := checks[self.name](item.input)):
            return Refused(self.name, arguments, f"its input does not fit the grammar: {fault}")
        return item
