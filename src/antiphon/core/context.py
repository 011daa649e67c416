"""Context: what came before, ready to be told again. A value that grows by new items, at the cost of those alone.

It is what is kept in memory between the turns of a conversation, so everything that planning wants to know of a history
stands here: nothing in planning walks over a long one. Pure.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias

from msgspec import UNSET, Struct, UnsetType, json, structs

from antiphon.core import compaction, lowering, usage
from antiphon.core.compaction import Compacted
from antiphon.core.hosted import Answered, Source, Tool
from antiphon.core.ids import ID_CHARS_MAX
from antiphon.core.lowering import is_async, is_call, is_output
from antiphon.core.ports import Sense
from antiphon.core.prompt import Memo, PromptItem
from antiphon.errors import InvalidRequest
from antiphon.wire import codec
from antiphon.wire.formats import ReasoningEffort
from antiphon.wire.items import (
    AdditionalTools,
    Approval,
    Asking,
    ClientCall,
    ClientOutput,
    Compaction,
    ConfigurationUpdate,
    FunctionCall,
    FunctionCallOutput,
    HostedCall,
    InputImage,
    Item,
    LocalShellCall,
    Message,
    MessagePart,
    Opening,
    Reasoning,
    TextUpdate,
    ToolSearchCall,
    ToolSearchOutput,
)

ITEM_BYTES = 800
"""What Python adds around an item's text, here and in what is told of it."""
Bringing: TypeAlias = AdditionalTools | ToolSearchOutput | Opening
"""Items that bring tools."""


class Context(Struct, frozen=True, kw_only=True):
    """`items` as they are stored and listed; `told`, what a model is told of them."""

    items: tuple[Item, ...] = ()
    told: tuple[PromptItem, ...] = ()
    turn: int = 0
    """Where in `told` the last thing stands that a user said."""
    waiting: tuple[ClientCall, ...] = ()
    """Calls without an output yet."""
    brought: tuple[Bringing, ...] = ()
    asked: tuple[Asking, ...] = ()
    """Calls that nobody has approved or denied."""
    approved: tuple[Answered, ...] = ()
    """Calls that were approved, and are still to be made."""
    sources: tuple[Source, ...] = ()
    """What the model was told by this server's tools, and may cite."""
    effort: ReasoningEffort | None = None
    format: TextUpdate | None = None
    """As the last configuration_update has them."""
    senses: frozenset[Sense] = frozenset()
    """What is told beside words."""
    size: int = 0
    """About how many bytes of memory the items take."""
    told_size: int = 0
    """About how many bytes `told` is to a model."""
    memo: Memo
    """What an adapter made of `told`. Shared by all that grew from one context."""


def empty() -> Context:
    return Context(memo=Memo())


def grown(
    context: Context,
    items: Sequence[Item],
    shown: Sequence[Item],
    runners: Mapping[str, Tool],
    senses: frozenset[Sense] = frozenset(),
) -> Context:
    """The context with `items` behind what it holds, each output under the call_id of the call it answers. `shown` are
    the same items in the form in which a model may be told of them, and `senses` what they hold beside words.

    Raises InvalidRequest for an output that has no call before it. Matched in order, not by id alone: some vendors give
    the same call id again in a later turn.
    """
    waiting, hosted = _Waiting(context.waiting), _Hosted(context, runners)
    earlier, size, memo = context.told, context.told_size, context.memo
    stored, told = list(items), list[PromptItem]()
    turn, effort, wanted = context.turn, context.effort, context.format
    for place, item in enumerate(shown):
        if type(item) is Message:
            if item.role == "user":
                turn = len(earlier) + len(told)
            if item.content:  # what was cut short before it said anything is left out
                told.append(item)
        elif is_call(item):
            waiting.add(item)
            told += hosted.called(item) if item.call_id is None else lowering.call(item)
        elif is_output(item):
            if isinstance(item, ToolSearchOutput):
                hosted.brought.append(item)
            if item.call_id is None:
                told += hosted.found(item)
            else:
                call = waiting.answered(item)
                if call.call_id != item.call_id:
                    item = structs.replace(item, call_id=call.call_id)
                    stored[place] = structs.replace(stored[place], call_id=call.call_id)
                told.append(lowering.late(call, item) if is_async(call) else lowering.output(item))
        elif isinstance(item, ConfigurationUpdate):
            effort = (item.reasoning.effort if item.reasoning else None) or effort
            wanted = item.text or wanted
        elif isinstance(item, AdditionalTools):
            hosted.brought.append(item)
        elif isinstance(item, Reasoning):
            told.append(item)
        elif isinstance(item, Compacted):
            told = compaction.told((*earlier, *told), item.kept)
            earlier, size, memo = (), 0, Memo()
            turn = max((at for at, one in enumerate(told) if isinstance(one, Message) and one.role == "user"))
            waiting = _Waiting(filter(is_async, waiting.calls.values()))
        elif not isinstance(item, Compaction):  # one that was cut short says nothing
            told += hosted.told(item)
    beside = context.senses | senses
    if memo is not context.memo and not any(map(usage.shows_more_than_text, (*earlier, *told))):
        beside = frozenset()  # it was compacted away
    return Context(
        items=(*context.items, *stored),
        told=(*earlier, *told),
        turn=turn,
        waiting=(*waiting.calls.values(),),
        brought=(*context.brought, *hosted.brought),
        asked=(*hosted.asked.values(),),
        approved=(*hosted.approved.values(),),
        sources=(*context.sources, *hosted.sources),
        effort=effort,
        format=wanted,
        senses=beside,
        size=context.size + sum(map(_size, items)) + _more(items, shown if senses else items),
        told_size=size + sum(map(usage.size, told)),
        memo=memo,
    )


def _more(items: Sequence[Item], shown: Sequence[Item]) -> int:
    """What is shown beside what is stored, such as a picture beside its address."""
    return 0 if shown is items else sum(_size(new) for new, old in zip(shown, items, strict=True) if new is not old)


def _size(item: Item) -> int:
    if type(item) is Message:  # by far the most, and the largest
        return ITEM_BYTES + sum(map(_part_size, item.content))
    return ITEM_BYTES + len(json.encode(item))


def _part_size(part: MessagePart) -> int:
    if text := getattr(part, "text", ""):
        return len(text)
    return len(part.image_url or part.file_id or "") if isinstance(part, InputImage) else len(json.encode(part))


def said_by_users(context: Context) -> tuple[Message, ...]:
    """What users said, of that which is still told word by word, as it came."""
    told = {item.id for item in context.told if isinstance(item, Message)} - {UNSET}
    return tuple(
        item for item in context.items if isinstance(item, Message) and item.role == "user" and item.id in told
    )


def require_outputs(context: Context) -> None:
    """Raises InvalidRequest where a finished call that is not asynchronous has no output."""
    for call in context.waiting:
        if not is_async(call):
            raise InvalidRequest(
                f"No tool output found for function call {str(call.call_id)[:ID_CHARS_MAX]}.", param="input"
            )


class _Waiting:
    """Calls that have no output yet, in order."""

    def __init__(self, calls: Iterable[ClientCall]) -> None:
        self.calls: dict[int, ClientCall] = {}
        self._by_id: dict[str, deque[int]] = {}
        self._functions: dict[str | UnsetType, list[int]] = {}
        """Numbers of function calls by their names, and of all of them under UNSET; some are answered already."""
        self._number = 0
        for call in calls:
            self.add(call)

    def add(self, call: ClientCall) -> None:
        if call.status == "incomplete" or call.call_id is None:
            return
        self._number += 1
        self.calls[self._number] = call
        self._by_id.setdefault(call.call_id, deque()).append(self._number)
        if isinstance(call, FunctionCall):
            for name in (call.name, UNSET):
                self._functions.setdefault(name, []).append(self._number)
        if isinstance(call, LocalShellCall) and isinstance(call.id, str):  # whose outputs may name the item
            self._by_id.setdefault(call.id, deque()).append(self._number)

    def answered(self, output: ClientOutput) -> ClientCall:
        """The call that an output answers, which waits no longer."""
        numbers = self._unnamed(output) if output.call_id == "" else self._named(str(output.call_id))
        number = next(numbers, None)
        if number is None:
            raise InvalidRequest(_unanswerable(output), param="input")
        return self.calls.pop(number)

    def _named(self, call_id: str) -> Iterator[int]:
        numbers = self._by_id.get(call_id, deque())
        while numbers:
            if (number := numbers.popleft()) in self.calls:
                yield number

    def _unnamed(self, output: ClientOutput) -> Iterator[int]:
        name = output.name if isinstance(output, FunctionCallOutput) else UNSET
        numbers = self._functions.get(name, [])
        while numbers:
            if (number := numbers.pop()) in self.calls:
                yield number


class _Hosted:
    """What this server's own tools add."""

    def __init__(self, context: Context, runners: Mapping[str, Tool]) -> None:
        self._runners = runners
        self._searches: deque[ToolSearchCall] = deque()
        self.brought: list[Bringing] = []
        self.sources: list[Source] = []
        self.asked = {asked.id: asked for asked in context.asked}
        self.approved = {one.asked.id: one for one in context.approved}

    def told(self, item: Item) -> Sequence[PromptItem]:
        """What the model is told of an item; nothing of a call that was cut short."""
        if isinstance(item, Opening):
            self.brought.append(item)
        elif isinstance(item, Asking):
            self.asked[item.id] = item
        elif isinstance(item, Approval):
            return self._answered(item)
        else:
            assert isinstance(item, HostedCall)
            self.approved.pop(getattr(item, "approval_request_id", UNSET), None)
            if item.status != "incomplete":
                runner = lowering.runner(item, self._runners)
                self.sources += runner.sources(item)
                return runner.replay(item)
        return ()

    def called(self, search: ClientCall) -> Sequence[PromptItem]:
        """This server's own search for tools, which is told with what it found."""
        assert isinstance(search, ToolSearchCall)
        self._searches.append(search)
        return ()

    def found(self, output: ClientOutput) -> Iterator[PromptItem]:
        assert isinstance(output, ToolSearchOutput)
        if self._searches:
            yield from lowering.search(self._searches.popleft(), output, self._own(output))

    def _own(self, output: ToolSearchOutput) -> Iterator[str]:
        """The names of this server's own tools in it."""
        for tool in output.tools:
            runner = self._runners.get(str(tool.get("type")))
            if runner is not None:
                with suppress(InvalidRequest):  # which is told where it is offered
                    yield from runner.meant(*codec.decode_tools((tool,), "tools"))

    def _answered(self, answer: Approval) -> Sequence[PromptItem]:
        asked = self.asked.pop(answer.approval_request_id, None)
        if asked is None:
            named = answer.approval_request_id[:ID_CHARS_MAX]
            raise InvalidRequest(f"No approval request with id '{named}' waits for an answer.", param="input")
        call = Answered(asked, answer)
        if not answer.approve:
            return lowering.runner(asked, self._runners).denied(call)
        self.approved[asked.id] = call
        return ()


def _unanswerable(output: ClientOutput) -> str:
    if output.call_id == "":
        return "A function call output has no 'call_id', and no call waits for one."
    return f"No tool call found for function call output with call_id {str(output.call_id)[:ID_CHARS_MAX]}."
