"""The port Tool: what this server itself runs for a model. A tool never sees an event, a sequence number or a row.

A request *declares* tools, one element of its `tools` each; an item *records* what a tool did. Both are wire types, and
by their tags a tool is found (`registry`), so that nobody else knows one by name. In the life of a response:

    first     what a tool has to do before the model is asked: list what a server offers, make a call that was approved
    offers    what the model is shown for a declaration
    begin     a call of the model's becomes an item: one that is run, or one that asks the client for its approval
    run       makes the call (or does what comes first), and ends with the finished item
    replay    what the model is told of it, in the next turn as in any later one
"""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast

from msgspec import Struct, structs

from antiphon.core.ports import Check
from antiphon.core.prompt import Offer, PromptItem
from antiphon.wire.items import Annotation, Approval, Asking, FunctionCallOutput, HostedCall, Item
from antiphon.wire.tools import JsonObject


class Progress(Struct, frozen=True):
    """A hosted call entered another status, for example "searching"."""

    status: str


class Outcome(Struct, frozen=True):
    """A hosted call ended: its finished item, completed or failed."""

    item: HostedCall


Step: TypeAlias = Progress | Outcome


class Errand(Struct, frozen=True, kw_only=True):
    """For what a tool works. `declaration` is the element of the request's `tools`."""

    project: str
    response_id: str
    declaration: Any


class Answered(Struct, frozen=True):
    """A call that the client was asked about, and what it said."""

    asked: Asking
    answer: Approval


class Source(Struct, frozen=True):
    """Something that a model may cite: by `mark`, in the brackets of core/citations.py. Readers see `text` there, and
    `citation`, whose indices are filled in."""

    mark: str
    text: str
    citation: Annotation


class Tool(Protocol):
    """What most tools need not say is said here: a tool is a subclass."""

    declares: frozenset[str]
    """The tags of its declarations."""
    records: frozenset[str]
    """The tags of its items."""
    may_be_left_out: bool = False
    """Clients offer it without asking whether it is there: where it is not, the model does without."""

    def missing(self, declaration: Any) -> str:
        """What has to be set in this server so that it can run. Empty: nothing. Raises InvalidRequest for a declaration
        that can never be served; the caller names the parameter."""
        return ""

    def offers(self, declaration: Any, brought: Sequence[Item]) -> Sequence[Offer]:
        """What the model is shown. `brought` are the items of the conversation that bring tools."""
        ...

    def deferred(self, declaration: Any) -> tuple[str, str] | None:
        """Whether its offers wait until the model has found them, where this server searches for tools; and if so,
        under which name they belong together, and what is said of them."""
        return None

    def found(self, declaration: Any, names: Sequence[str]) -> JsonObject:
        """How a search tells that it found the offers of these names: as a declaration, stored and shown without any
        secret. Of a tool that is `deferred`."""
        return {"type": str(declaration.__struct_config__.tag)}

    def meant(self, found: Any) -> Sequence[str]:
        """The names that such a declaration tells of."""
        return ()

    def offer_name(self, declaration: Any, name: str) -> str:
        """Under which name the model is shown what `tool_choice` calls so."""
        return name

    def first(self, declaration: Any, brought: Sequence[Item], approved: Sequence[Answered]) -> Sequence[HostedCall]:
        """Items, in progress, of what must be done before the model is asked. Each is run."""
        return ()

    def is_of(self, item: HostedCall, declaration: Any) -> bool:
        """Whether that is a call of this declaration, and not of another one of the same tool."""
        return True

    def begin(self, name: str, arguments: str, declaration: Any, brought: Sequence[Item]) -> HostedCall | Asking:
        """The item, in progress, that records a call of the model's; its id is the builder's to give. One that asks
        ends the response. Raises ValueError, with what the model is told, for arguments that make no call."""
        ...

    def run(self, item: HostedCall, errand: Errand) -> AsyncGenerator[Step, None]:
        """Any number of Progress, then one Outcome. What it raises fails the item, not the response; but what comes
        first fails the response with it. The model hears the message of an ApiError."""
        ...

    def failed(self, item: HostedCall, reason: str) -> HostedCall:
        """The item as it stands when the call broke, or took too long."""
        ...

    def replay(self, item: HostedCall) -> Sequence[PromptItem]:
        """How the model is told of a finished call, also by a tool that is not set up."""
        ...

    def denied(self, call: Answered) -> Sequence[PromptItem]:
        """How the model is told of a call that the client did not approve."""
        return ()

    def sources(self, item: HostedCall) -> Sequence[Source]:
        """What the model may cite, of what `replay` tells."""
        return ()

    def is_repeatable(self, item: HostedCall) -> bool:
        """Whether it does no harm to make this call a second time, after a crash."""
        return False

    async def check(self) -> Check | None:
        """For `antiphon doctor`. None: nothing is set up that could be ill."""
        return None

    async def close(self) -> None:
        return None


TOLD_CHARS_MAX = 400_000
CUT = "\n[The rest of this output is left out: it has {} characters, of which {} are told.]"


class _Bounded:
    """A tool of which models are told so much at most."""

    def __init__(self, tool: Tool, chars_max: int) -> None:
        self._tool = tool
        self._chars_max = chars_max

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tool, name)

    def replay(self, item: HostedCall) -> Sequence[PromptItem]:
        return [_cut(one, self._chars_max) for one in self._tool.replay(item)]


def _cut(item: PromptItem, chars_max: int) -> PromptItem:
    if not isinstance(item, FunctionCallOutput) or not isinstance(item.output, str) or len(item.output) <= chars_max:
        return item
    return structs.replace(item, output=item.output[:chars_max] + CUT.format(len(item.output), chars_max))


def registry(tools: Iterable[Tool], told_chars_max: int = TOLD_CHARS_MAX) -> Mapping[str, Tool]:
    """The tools by the tags of their declarations and items. Of one call a model is told so many characters."""
    bounded = {tool: cast("Tool", _Bounded(tool, told_chars_max)) for tool in tools}
    return {tag: one for tool, one in bounded.items() for tag in (*tool.declares, *tool.records)}


def runner_of(struct: Struct, runners: Mapping[str, Tool]) -> Tool | None:
    """Whose declaration, or item, that is."""
    return runners.get(str(struct.__struct_config__.tag))
