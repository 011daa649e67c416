"""Compaction: a conversation made shorter, by its own model. Pure: what seals and opens is handed in.

A compaction item stands for all that came before it, but for system and developer texts, which stay. What stands there
instead is sealed in it: a summary, told as something that the user says, for it may hold anything that anybody said;
and, where the user waits for an answer, what was said last, as it was. Of /responses/compact, whose answer begins with
all that users said, these stay too.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import msgspec
from msgspec import UNSET, Struct, structs

from antiphon.core import usage
from antiphon.core.ids import ID_CHARS_MAX
from antiphon.core.prompt import Prompt, PromptItem
from antiphon.errors import InvalidEncryptedContent, InvalidRequest
from antiphon.wire.items import Compaction, CompactionTrigger, InputItem, InputText, Item, Message, MessagePart
from antiphon.wire.request import CreateResponse

WISH = """\
Summarise this conversation so far, for yourself: your summary will take the place of everything above, and you will \
go on from it alone. Answer nothing, and call no tool. Say, as far as there is any:
- what the user wants, with all wishes and conditions that hold;
- what was found out and decided, with names, numbers, paths and identifiers exactly as they are;
- what was done, and what of the results of tools still matters;
- what is open, and what comes next.
Leave out what matters no more. Write plain text, and no more than a page."""
HEAD = "This is a summary of our conversation so far, which you wrote:"
SUMMARY_TOKENS_MAX = 4_096
"""A page is some 700; those that think need more."""
WORTH_SHARE = 0.25
"""Of the threshold: where less would go, for instance because the tools alone reach it, compacting is no use."""

Seal: TypeAlias = Callable[[bytes], str]
Open: TypeAlias = Callable[[str], bytes]
"""Raises InvalidEncryptedContent."""


class Kept(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is sealed. `asked` is what the user said last, where it waits for an answer."""

    id: str
    summary: str
    keeps_users: bool = False
    asked: tuple[MessagePart, ...] = ()


class Compacted(Compaction, frozen=True, kw_only=True, tag="compaction"):
    """A compaction, opened. Never sent."""

    kept: Kept


class Summary(Message, frozen=True, kw_only=True, tag="message"):
    """What a compaction tells."""


def told(before: Iterable[PromptItem], kept: Kept) -> list[PromptItem]:
    """What a model is told in the place of what came before. What users said has an id; what is told as if they had
    said it has none."""
    roles = {"system", "developer", *(["user"] if kept.keeps_users else [])}
    stay = [
        item
        for item in before
        if isinstance(item, Message) and item.role in roles and (item.role != "user" or item.id is not UNSET)
    ]
    summary = Summary(role="user", content=(InputText(text=f"{HEAD}\n\n{kept.summary}"),))
    return [*stay, summary, *([Message(role="user", content=kept.asked)] if kept.asked else [])]


# -- making one


def wish(prompt: Prompt, window: int | None) -> Prompt:
    """What the model is asked for its summary: the prompt as it is, which upstreams remember, and one more message."""
    message = Message(role="user", content=(InputText(text=WISH),))
    return structs.replace(
        prompt,
        items=(*prompt.items, message),
        tool_choice="none",
        max_output_tokens=min(SUMMARY_TOKENS_MAX, (window or SUMMARY_TOKENS_MAX * 4) // 4),
        stop=(),
        format=None,
        verbosity=None,
        top_logprobs=None,
        size=None if prompt.size is None else prompt.size + usage.size(message),
        is_live=False,
    )


def compacted(prompt: Prompt, kept: Kept) -> Prompt:
    """The prompt with the compaction in the place of its items."""
    return structs.replace(prompt, items=tuple(told(prompt.items, kept)), size=None)


def asked(items: Sequence[PromptItem]) -> tuple[MessagePart, ...]:
    """What the user said last, where no answer has come yet."""
    for item in reversed(items):
        if isinstance(item, Message) and item.role in ("user", "assistant"):
            return () if item.role == "assistant" or isinstance(item, Summary) else item.content
    return ()


def is_worth_it(prompt: Prompt, threshold: int) -> bool:
    """Whether enough would go."""
    going = sum(usage.size(item) for item in prompt.items if not isinstance(item, Summary) and not _is_system(item))
    last = sum(map(usage.size, [Message(role="user", content=asked(prompt.items))]))
    return usage.tokens(going - last) >= threshold * WORTH_SHARE


def _is_system(item: PromptItem) -> bool:
    return isinstance(item, Message) and item.role in ("system", "developer")


def triggered(request: CreateResponse) -> tuple[CreateResponse, bool]:
    """The request without a trigger at its end, and whether there was one."""
    items = request.input
    if not items or type(items[-1]) is not CompactionTrigger:
        return request, False
    return structs.replace(request, input=items[:-1]), True


# -- sealing


_decode = msgspec.json.Decoder(Kept).decode


class Compactions:
    """Of one project, for which `seal` and `open_` work."""

    def __init__(self, seal: Seal, open_: Open) -> None:
        self._seal = seal
        self._open = open_

    def sealed(self, kept: Kept) -> str:
        return self._seal(msgspec.json.encode(kept))

    def restored(self, items: Sequence[InputItem], param: str) -> tuple[InputItem, ...]:
        """A request's items, with compactions under the ids that they were made under. `param` is what they are called.

        Raises InvalidEncryptedContent where one is not ours or stands under another's id, InvalidRequest where one
        comes twice.
        """
        found, ids = list(items), set[str]()
        for index, item in enumerate(items):
            if type(item) is not Compaction:
                continue
            place = f"{param}[{index}].encrypted_content"
            kept = self._opened(item, place)
            if item.id not in (UNSET, kept.id):
                raise InvalidEncryptedContent(param=place)
            if kept.id in ids:
                raise InvalidRequest(
                    f"Duplicate item found with id {kept.id[:ID_CHARS_MAX]}. Remove duplicate items from your input "
                    "and try again.",
                    param=param,
                )
            ids.add(kept.id)
            found[index] = structs.replace(item, id=kept.id)
        return tuple(found)

    def shown(self, items: Iterable[Item], param: str) -> list[Item]:
        """The items with compactions opened. One that was never finished stays as it is: it stands for nothing."""
        return [
            Compacted(**structs.asdict(item), kept=self._opened(item, param))
            if type(item) is Compaction and item.status != "incomplete"
            else item
            for item in items
        ]

    def _opened(self, item: Compaction, param: str) -> Kept:
        try:
            return _decode(self._open(item.encrypted_content))
        except (InvalidEncryptedContent, msgspec.DecodeError):
            raise InvalidEncryptedContent(param=param) from None
