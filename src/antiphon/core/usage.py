"""Token counts: added up over turns, and estimated where a vendor reports none. Knows no tokenizer."""

from collections.abc import Sequence

from msgspec import json, structs

from antiphon.core.prompt import Prompt, PromptItem
from antiphon.wire.items import FunctionCall, FunctionCallOutput, Message
from antiphon.wire.response import InputTokensDetails, OutputTokensDetails, Usage

BYTES_PER_TOKEN = 3.6
"""English prose and code come to about four bytes a token with common vocabularies; the estimate errs high."""
TOKENS_PER_ITEM = 4
"""What a chat template adds around one message."""
TOKENS_PER_PICTURE = 1_000
"""Of anything that is no text. Vendors count from 85 to some thousands."""


class Said:
    """How much a model said in one turn, in bytes of UTF-8 where cheap, else characters."""

    __slots__ = ("text", "thought")

    def __init__(self) -> None:
        self.text = 0
        self.thought = 0


def tokens(size: int) -> int:
    """An estimate for `size` bytes of text; at least 1 where there is any."""
    return max(1, round(size / BYTES_PER_TOKEN)) if size else 0


def size(item: PromptItem) -> int:
    """About how many bytes of text an item is to a model, with what a template adds."""
    if isinstance(item, Message):
        text = sum(map(_part_size, item.content))
    elif isinstance(item, FunctionCall):
        text = _bytes(item.name) + _bytes(item.arguments)
    elif isinstance(item, FunctionCallOutput):
        text = _bytes(item.output) if isinstance(item.output, str) else sum(map(_part_size, item.output))
    else:
        text = sum(map(_part_size, item.content or item.summary))
    return text + _ITEM_BYTES


def shows_more_than_text(item: PromptItem) -> bool:
    """What pictures and files are to a model is not known before it has looked at them."""
    parts: Sequence[object] = item.content if isinstance(item, Message) else ()
    if isinstance(item, FunctionCallOutput) and not isinstance(item.output, str):
        parts = item.output
    return any(_text(part) is None for part in parts)


_ITEM_BYTES, _PICTURE_BYTES = round(TOKENS_PER_ITEM * BYTES_PER_TOKEN), round(TOKENS_PER_PICTURE * BYTES_PER_TOKEN)


def _part_size(part: object) -> int:
    text = _text(part)
    return _PICTURE_BYTES if text is None else _bytes(text)


def _text(part: object) -> str | None:
    text = getattr(part, "text", None)
    return getattr(part, "refusal", None) if text is None else text


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def given(prompt: Prompt) -> int:
    """An estimate of the tokens that a model is told."""
    told = sum(map(size, prompt.items)) if prompt.size is None else prompt.size
    told += _bytes(prompt.instructions or "") + _bytes(prompt.prefix)
    return tokens(told + (len(json.encode(prompt.tools)) if prompt.tools else 0))


def settle(reported: Usage | None, prompt: Prompt, said: Said) -> tuple[Usage, bool]:
    """The usage of a turn, and whether any of it had to be estimated."""
    if reported is None:
        return _estimate(prompt, said), True
    if said.thought and not reported.output_tokens_details.reasoning_tokens:
        share = said.thought / (said.thought + said.text)
        details = OutputTokensDetails(reasoning_tokens=round(reported.output_tokens * share))
        return structs.replace(reported, output_tokens_details=details), True
    return reported, False


def _estimate(prompt: Prompt, said: Said) -> Usage:
    thought, told = tokens(said.thought), given(prompt)
    made = tokens(said.text) + thought
    return Usage(
        input_tokens=told,
        output_tokens=made,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=thought),
        total_tokens=told + made,
    )


def total(turns: Sequence[Usage]) -> Usage | None:
    """The usage of several turns of one response; None of none."""
    if len(turns) <= 1:
        return turns[0] if turns else None
    return Usage(
        input_tokens=sum(turn.input_tokens for turn in turns),
        input_tokens_details=InputTokensDetails(
            cached_tokens=sum(turn.input_tokens_details.cached_tokens for turn in turns),
            cache_write_tokens=sum(turn.input_tokens_details.cache_write_tokens for turn in turns),
        ),
        output_tokens=sum(turn.output_tokens for turn in turns),
        output_tokens_details=OutputTokensDetails(
            reasoning_tokens=sum(turn.output_tokens_details.reasoning_tokens for turn in turns)
        ),
        total_tokens=sum(turn.total_tokens for turn in turns),
    )
