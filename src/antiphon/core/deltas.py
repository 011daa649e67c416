"""Deltas: what a model may say. A vendor's keys are carried as they are; ids and indices are the builder's alone.

`key` names the vendor's stream within one turn ("0" where a vendor has only one): deltas of one kind and key belong
to one item. An adapter yields *batches* of deltas, one per network read, in the order the model said them, and ends
every turn with exactly one Finish.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import Literal, TypeAlias

from msgspec import Struct

from antiphon.wire.items import Annotation, Logprob, MessagePhase
from antiphon.wire.response import ServiceTier, Usage

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter"]


class Phase(Struct, frozen=True, gc=False):
    """The message that begins now under `key` is a remark on the way, or the answer. Comes before its text."""

    phase: MessagePhase
    key: str = "0"


class Text(Struct, frozen=True, gc=False):
    """A piece of the answer."""

    text: str
    key: str = "0"
    logprobs: tuple[Logprob, ...] = ()


class Refusal(Struct, frozen=True, gc=False):
    """A piece of a refusal."""

    text: str
    key: str = "0"


class Thought(Struct, frozen=True, gc=False):
    """A piece of raw reasoning."""

    text: str
    key: str = "0"


class Summary(Struct, frozen=True, gc=False):
    """A piece of a summary of reasoning; another `part` begins another summary part."""

    text: str
    key: str = "0"
    part: int = 0


class Sealed(Struct, frozen=True, gc=False):
    """The thought of this key, as its vendor sealed it, which alone can open it. Comes after the thought, if that is
    shown at all, and before anything else is said."""

    text: str
    key: str = "0"


class ToolCall(Struct, frozen=True, gc=False):
    """A piece of a call. The first piece of a key carries `name` (and `call_id` where the vendor has one).

    `arguments` is the next fragment of the JSON document, verbatim; it may be empty.
    """

    key: str
    arguments: str = ""
    name: str | None = None
    call_id: str | None = None


class Annotate(Struct, frozen=True, gc=False):
    """An annotation of the text said last under `key`: with `spans`, of its last so many characters, and its indices
    are filled in."""

    annotation: Annotation
    key: str = "0"
    spans: int = 0


class Finish(Struct, frozen=True, gc=False):
    """The turn is over. `usage` is None where the vendor reports none: it is then estimated by the run.
    `service_tier` is the one that the vendor says it used."""

    reason: FinishReason
    usage: Usage | None = None
    service_tier: ServiceTier | None = None


Delta: TypeAlias = Phase | Text | Refusal | Thought | Summary | Sealed | ToolCall | Annotate | Finish


def joined(batch: Iterable[Delta]) -> list[Delta]:
    """The same in fewer pieces, for an answer that nobody watches come: texts that follow each other are one."""
    whole: list[Delta] = []
    for stream, deltas in groupby(batch, _stream):
        if stream is None:
            whole += deltas
        else:
            kind, key = stream
            whole.append(kind("".join([delta.text for delta in deltas]), key))  # type: ignore[union-attr]
    return whole


def _stream(delta: Delta) -> tuple[type[Text] | type[Thought], str] | None:
    """What a text goes on with; None where something stands beside it."""
    kind = type(delta)
    if kind is Thought or (kind is Text and not delta.logprobs):  # type: ignore[union-attr]
        return kind, delta.key  # type: ignore[union-attr]
    return None
