"""How events, items and answers of the Responses API look on the wires of others: everything may be absent, null or
something else. Knows nothing of what they mean.

Our own wire (antiphon.wire) says how they must look.
"""

from typing import Any, TypeVar, get_args

import msgspec
from msgspec import Raw, Struct

from antiphon.wire.items import Logprob, MessagePhase, TopLogprob
from antiphon.wire.response import InputTokensDetails, OutputTokensDetails, ServiceTier, Usage


class EventForm(Struct, gc=False):
    """Any event; or a whole answer, or an error, in the place of one."""

    type: Any = None
    object: Any = None
    item_id: Any = None
    output_index: Any = None
    content_index: Any = None
    summary_index: Any = None
    delta: Any = None
    text: Any = None
    refusal: Any = None
    arguments: Any = None
    name: Any = None
    logprobs: Raw = Raw()
    item: Raw = Raw()
    part: Raw = Raw()
    annotation: Raw = Raw()
    response: Raw = Raw()
    error: Raw = Raw()
    detail: Raw = Raw()


class TokenForm(Struct, gc=False):
    token: str | None = None
    logprob: float | None = None
    bytes: list[int] | None = None
    top_logprobs: list["TokenForm"] | None = None


class PartForm(Struct, gc=False):
    type: str = ""
    text: str | None = None
    refusal: str | None = None
    annotations: list[Raw] | None = None
    logprobs: list[TokenForm] | None = None


class ItemForm(Struct, gc=False):
    """A message, a reasoning item or a call of a function. `item_id` is what vLLM once calls the id of a call."""

    type: str = ""
    id: str | None = None
    item_id: str | None = None
    phase: str | None = None
    content: list[PartForm] | str | None = None
    summary: list[PartForm] | None = None
    encrypted_content: str | None = None
    name: str | None = None
    call_id: str | None = None
    arguments: Any = None


class ErrorForm(Struct, gc=False):
    code: str | int | None = None
    type: str | None = None
    message: str | None = None
    param: str | None = None


class ReasonForm(Struct, gc=False):
    reason: str | None = None


class InputDetailsForm(Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class OutputDetailsForm(Struct, gc=False):
    reasoning_tokens: int | None = None


class UsageForm(Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    input_tokens_details: InputDetailsForm | None = None
    output_tokens_details: OutputDetailsForm | None = None


class AnswerForm(Struct, gc=False):
    """The Response object, as a terminal event or a plain JSON answer holds it."""

    status: Any = None
    service_tier: Any = None
    output: Raw = Raw()
    usage: Raw = Raw()
    error: Raw = Raw()
    incomplete_details: Raw = Raw()


class Tagged(Struct, gc=False):
    type: str = ""


T = TypeVar("T")

decode_event = msgspec.json.Decoder(EventForm).decode


def is_there(raw: Raw) -> bool:
    return bytes(raw) not in (b"", b"null")


def formed(raw: Raw, form: type[T]) -> T | None:
    """What raw JSON holds; None when it is absent, or no such thing."""
    if not is_there(raw):
        return None
    try:
        return msgspec.json.decode(raw, type=form, strict=False)
    except (msgspec.DecodeError, RecursionError):
        return None


def parts_of(content: list[PartForm] | str | None) -> list[PartForm]:
    """Content is a list of parts; a string is one."""
    if isinstance(content, str):
        return [PartForm(type="output_text", text=content)]
    return content or []


def as_text(arguments: object) -> str:
    """Arguments are a JSON document in a string; some send the document itself."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else msgspec.json.encode(arguments).decode()


def as_logprobs(tokens: list[TokenForm] | None) -> tuple[Logprob, ...]:
    return tuple(
        Logprob(
            token=one.token or "",
            bytes=tuple(one.bytes or ()),
            logprob=one.logprob or 0.0,
            top_logprobs=tuple(
                TopLogprob(token=top.token or "", bytes=tuple(top.bytes or ()), logprob=top.logprob or 0.0)
                for top in one.top_logprobs or ()
            ),
        )
        for one in tokens or ()
    )


def as_usage(usage: UsageForm | None) -> Usage | None:
    if usage is None or usage.input_tokens is None or usage.output_tokens is None:
        return None
    given = usage.input_tokens_details or InputDetailsForm()
    made = usage.output_tokens_details or OutputDetailsForm()
    return Usage(
        input_tokens=usage.input_tokens,
        input_tokens_details=InputTokensDetails(
            cached_tokens=given.cached_tokens or 0, cache_write_tokens=given.cache_write_tokens or 0
        ),
        output_tokens=usage.output_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=made.reasoning_tokens or 0),
        total_tokens=usage.total_tokens or usage.input_tokens + usage.output_tokens,
    )


def as_tier(tier: object) -> ServiceTier | None:
    """The tier that was used; "auto" is none, but what vLLM repeats."""
    return tier if tier != "auto" and tier in get_args(ServiceTier) else None  # type: ignore[return-value]


def as_phase(phase: str | None) -> MessagePhase | None:
    return phase if phase in get_args(MessagePhase) else None  # type: ignore[return-value]
