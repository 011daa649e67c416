"""Kit: the tools of one request, from which its toolbox is made; and made again when more come up on the way. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct, field, structs

from antiphon.core import toolbox
from antiphon.core.hosted import Answered, Tool
from antiphon.core.toolbox import Choice, Declared, Hosted, Toolbox
from antiphon.core.toolsearch import Indexes
from antiphon.errors import InvalidRequest, ServerError
from antiphon.wire import codec
from antiphon.wire.items import AdditionalTools, HostedCall, Item, Opening, ToolSearchOutput
from antiphon.wire.tools import ToolChoice


class First(NamedTuple):
    """What must be done before the model is asked, and by whom."""

    hosted: Hosted
    item: HostedCall


def found_in(item: ToolSearchOutput | AdditionalTools, place: str) -> Iterator[Declared]:
    """The tools that an item brings, which stand at this place."""
    is_of_search = isinstance(item, ToolSearchOutput) and item.execution == "server"
    for number, tool in enumerate(codec.decode_tools(item.tools, place)):
        yield Declared(tool, f"{place}[{number}]", is_found=True, is_of_search=is_of_search)


class Kit(Struct, frozen=True, kw_only=True):
    declared: tuple[Declared, ...]
    brought: tuple[Opening, ...]
    """What servers offer."""
    approved: tuple[Answered, ...]
    runners: Mapping[str, Tool]
    choice: ToolChoice
    tools_max: int
    indexes: Indexes = field(default_factory=Indexes)
    """Of deferred tools. Shared by all kits that grew from one."""

    def box(self) -> Toolbox:
        """Raises InvalidRequest."""
        if not self.declared:
            return toolbox.EMPTY
        wanted = toolbox.wanted(self.choice)
        return toolbox.make(self.declared, self.runners, self.tools_max, self.brought, wanted, self.indexes)

    def chosen(self, box: Toolbox) -> Choice:
        """Raises InvalidRequest when the choice names what is not there."""
        return toolbox.choice(self.choice, box, self.tools_max)

    def grown(self, items: Sequence[Item]) -> "Kit":
        """With the tools that these items of the response bring; the same where they bring none."""
        found = [item for item in items if isinstance(item, ToolSearchOutput | AdditionalTools)]
        brought = [item for item in items if isinstance(item, Opening)]
        made = {getattr(item, "approval_request_id", None) for item in items if isinstance(item, HostedCall)} - {None}
        if not (found or brought or made):
            return self
        declared = [one for item in found for one in found_in(item, "tools")]
        return structs.replace(
            self,
            declared=(*self.declared, *declared),
            brought=(*self.brought, *brought),
            approved=tuple(one for one in self.approved if one.asked.id not in made),
        )

    def whose(self, item: HostedCall, box: Toolbox) -> Hosted:
        """Who made that call, and can make it again. Raises ServerError where the request does not declare it."""
        for hosted in box.runs:
            if str(item.__struct_config__.tag) in hosted.tool.records and hosted.tool.is_of(item, hosted.declaration):
                return hosted
        raise ServerError("The server stopped while a tool was running that it no longer has.")

    def firsts(self, box: Toolbox) -> tuple[First, ...]:
        """Raises InvalidRequest for an approved call whose tool is not declared."""
        if not (box.runs or self.approved):
            return ()
        firsts = [
            First(hosted, item)
            for hosted in box.runs
            for item in hosted.tool.first(hosted.declaration, self.brought, self.approved)
        ]
        made = {getattr(first.item, "approval_request_id", None) for first in firsts}
        for call in self.approved:
            if call.asked.id not in made:
                raise InvalidRequest(
                    f"The call that was approved ('{call.asked.id}') cannot be made: its tool is not among 'tools'.",
                    param="tools",
                )
        return tuple(firsts)
