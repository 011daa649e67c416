"""Window: what is left out of a conversation that is too long for its model. Pure; knows no tokenizer.

What goes, goes from the oldest on, up to a *cut*: a place where nothing is torn apart. Up to the last thing that a user
said, cuts are before what users said, so that a question goes with its answer, thoughts and tool exchanges. Behind it,
where a model works on by itself, they are between its rounds of tool calls. A call and its output are on one side of
every cut. System and developer texts stay, and so does the last thing that a user said.
"""

from collections.abc import Iterator, Sequence

from antiphon.core import usage
from antiphon.core.prompt import PromptItem
from antiphon.wire.items import FunctionCall, FunctionCallOutput, Message


def shortened(items: Sequence[PromptItem], excess: int) -> tuple[PromptItem, ...] | None:
    """The items without the fewest of the oldest that are `excess` bytes (`usage.size`), or without as many as
    may go. None: none may."""
    last = _last_said(items)
    cut = done = gone = 0
    for place in _cuts(items, last):
        gone += sum(usage.size(items[at]) for at in range(done, place) if not _stays(items[at], at, last))
        done = place
        if gone:
            cut = place
        if gone >= excess:
            break
    if not gone:
        return None
    return (*(item for at, item in enumerate(items[:cut]) if _stays(item, at, last)), *items[cut:])


def _last_said(items: Sequence[PromptItem]) -> int:
    """Where the last thing stands that a user said; -1 if none."""
    for place in range(len(items) - 1, -1, -1):
        item = items[place]
        if isinstance(item, Message) and item.role == "user":
            return place
    return -1


def _stays(item: PromptItem, place: int, last: int) -> bool:
    return place == last or (isinstance(item, Message) and item.role in ("system", "developer"))


def _cuts(items: Sequence[PromptItem], last: int) -> Iterator[int]:
    waiting: dict[str, int] = {}
    for place, item in enumerate(items):
        is_cut = place <= last and isinstance(item, Message) and item.role == "user"
        is_cut |= place > last + 1 and isinstance(items[place - 1], FunctionCallOutput)
        if is_cut and not waiting:
            yield place
        if isinstance(item, FunctionCall):
            waiting[item.call_id] = waiting.get(item.call_id, 0) + 1
        elif isinstance(item, FunctionCallOutput) and item.call_id in waiting:
            waiting[item.call_id] -= 1
            if not waiting[item.call_id]:
                del waiting[item.call_id]
