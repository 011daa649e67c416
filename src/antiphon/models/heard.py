"""Items as an upstream's stream tells them: what of each was passed on, and what a later snapshot adds. Pure.

Snapshots (`*.done` events, the final object) repeat what deltas told. What was passed on cannot be taken back, so a
snapshot only adds: the rest of a text that it holds longer. What is held back has not been told yet: there the
snapshot decides.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from msgspec import Raw, structs

from antiphon.core.deltas import Annotate, Delta, Phase, Refusal, Sealed, Summary, Text, Thought, ToolCall
from antiphon.errors import ModelError
from antiphon.models.forms import ItemForm, PartForm, as_logprobs, as_phase, as_text, formed, parts_of
from antiphon.wire.items import Annotation, ContainerFileCitation, Logprob, MessagePhase, UrlCitation

ItemType: TypeAlias = Literal["message", "reasoning", "function_call"]
Tokens: TypeAlias = tuple[Logprob, ...]

_log = logging.getLogger("antiphon.responses")


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of text, and the type of item that holds it."""

    item: Literal["message", "reasoning"]
    delta: type[Text | Refusal | Thought | Summary]


TEXT = Kind("message", Text)
REFUSAL = Kind("message", Refusal)
THOUGHT = Kind("reasoning", Thought)
SUMMARY = Kind("reasoning", Summary)
KINDS = (SUMMARY, THOUGHT, TEXT, REFUSAL)

PART_KINDS = {
    "output_text": TEXT,
    "text": TEXT,
    "refusal": REFUSAL,
    "reasoning_text": THOUGHT,
    "summary_text": SUMMARY,
}


class _Told:
    """What all items have in common. `key` is ours, for vendors repeat their ids."""

    __slots__ = ("added", "id", "index", "is_open", "key")
    type: ItemType

    def __init__(self, key: str, item_id: str | None, index: int | None) -> None:
        self.key = key
        self.id = item_id
        self.index = index
        self.is_open = True
        self.added: ItemForm | None = None
        """As it was added: commonly empty. What it holds counts only where nothing else tells it."""

    def _contradicted(self) -> None:
        _log.info("A model server's snapshot of a %s contradicts what it streamed, which stands.", self.type)


class _Part:
    """One part of an item, numbered as the stream does it: what of it was passed on."""

    __slots__ = ("chunks", "is_done", "tokens")

    def __init__(self) -> None:
        self.chunks: list[str] = []
        self.tokens = 0
        self.is_done = False

    @property
    def text(self) -> str:
        text = "".join(self.chunks)
        self.chunks = [text] if text else []
        return text


class Written(_Told):
    """A message or a reasoning item."""

    __slots__ = ("annotations", "held", "holds_text", "is_phase_told", "is_sealed", "parts", "phase", "type")

    def __init__(
        self,
        kind: Literal["message", "reasoning"],
        key: str,
        item_id: str | None,
        index: int | None,
        *,
        holds_text: bool = False,
    ) -> None:
        super().__init__(key, item_id, index)
        self.type: ItemType = kind
        self.holds_text = holds_text
        """All text waits; otherwise only blank text at the beginning does."""
        self.held: list[tuple[int, str, Tokens]] = []
        self.parts: dict[Kind, dict[int, _Part]] = {}
        self.annotations: dict[int, int] = {}
        """By part, how many were passed on or left out."""
        self.phase: MessagePhase | None = None
        self.is_phase_told = self.is_sealed = False

    @property
    def has_told(self) -> bool:
        """Whether any of it was passed on."""
        return any(map(self._has_told, self.parts))

    @property
    def has_begun(self) -> bool:
        """Whether any of it came, passed on or not."""
        return bool(self.held) or self.has_told

    @property
    def is_blank(self) -> bool:
        """Whether what is held may be no text at all."""
        return not any(text.strip() for _, text, _ in self.held)

    def add(self, kind: Kind, number: int, text: str, tokens: Tokens = ()) -> list[Delta]:
        """A piece of a text. It is held while it may be no message: see models/events.py."""
        if not text and not tokens:
            return []
        if kind is TEXT and (self.holds_text or not (text.strip() or self._has_told(TEXT))):
            self.held.append((number, text, tokens))
            return []
        return [*self.release(), *self._tell(kind, number, text, tokens)]

    def release(self) -> list[Delta]:
        """What was held, as it came."""
        held, self.held = self.held, []
        return [delta for piece in held for delta in self._tell(TEXT, *piece)]

    def settle_part(self, kind: Kind, number: int, form: PartForm) -> list[Delta]:
        """What a snapshot of one part adds."""
        text, tokens = _text(form), as_logprobs(form.logprobs)
        if text is None:
            return []
        if kind is TEXT and self.holds_text:
            return [] if self.held else self.add(kind, number, text, tokens)
        parts = self.parts.setdefault(kind, {})
        if number not in parts:  # some number a part otherwise when it is done
            number = next((n for n, part in parts.items() if not part.is_done or part.text == text), number)
        part = parts.setdefault(number, _Part())
        part.is_done = True
        deltas = self._supply(kind, (part.text, part.tokens), [(number, text, tokens)])
        told = self.annotations.get(number, 0)
        return deltas + [delta for one in (form.annotations or [])[told:] for delta in self.annotate(number, one)]

    def settle(self, item: ItemForm) -> list[Delta]:
        """What a snapshot of the whole item adds."""
        deltas = self._settle_texts(item)
        if self.type == "reasoning" and item.encrypted_content and not self.is_sealed:
            self.is_sealed = True
            deltas.append(Sealed(item.encrypted_content, self.key))
        return deltas

    def _settle_texts(self, item: ItemForm) -> list[Delta]:
        self.phase = self.phase or as_phase(item.phase)
        forms = [*(item.summary or ()), *parts_of(item.content)]
        if self.type == "reasoning" and self._told(SUMMARY)[0] + self._told(THOUGHT)[0] == _texts(forms):
            return []  # some stream as raw thoughts what they call a summary in the end
        deltas: list[Delta] = []
        for kind in KINDS:
            mine = [form for form in forms if PART_KINDS.get(form.type) is kind and kind.item == self.type]
            parts = [(n, _text(form) or "", as_logprobs(form.logprobs)) for n, form in enumerate(mine)]
            deltas += self._supply(kind, self._told(kind), parts)
            if kind is TEXT:
                deltas += self._supply_annotations(mine)
        return deltas

    def is_begun_by(self, item: ItemForm) -> bool:
        """Whether what was passed on, which is something, is the beginning of this item."""
        forms = [*(item.summary or ()), *parts_of(item.content)]
        told = {kind: self._told(kind)[0] for kind in KINDS}
        wholes = {kind: _texts(form for form in forms if PART_KINDS.get(form.type) is kind) for kind in KINDS}
        return any(told.values()) and all(wholes[kind].startswith(told[kind]) for kind in KINDS)

    def annotate(self, number: int, raw: Raw) -> list[Delta]:
        """An annotation. Those of text that is held come with the snapshot that settles it."""
        if self.held:
            return []
        self.annotations[number] = self.annotations.get(number, 0) + 1
        annotation = formed(raw, cast("type[Annotation]", Annotation))  # to msgspec a union is a type
        if annotation is None:
            _log.info("A model server sent an annotation of no known type, which is left out.")
            return []
        before = sum(len(part.text) for other, part in self.parts.get(TEXT, {}).items() if other < number)
        return [Annotate(_shifted(annotation, before), self.key)]

    def _has_told(self, kind: Kind) -> bool:
        return any(part.chunks for part in self.parts.get(kind, {}).values())

    def _told(self, kind: Kind) -> tuple[str, int]:
        """The text of all parts of a kind that was passed on, and how many logprobs. Snapshots of whole items are
        compared with it, for vLLM numbers parts as it likes."""
        parts = self.parts.get(kind, {}).values()
        return "".join(part.text for part in parts), sum(part.tokens for part in parts)

    def _supply(self, kind: Kind, told: tuple[str, int], whole: Sequence[tuple[int, str, Tokens]]) -> list[Delta]:
        """What parts hold beyond what of them was told."""
        text_told, tokens_told = told
        deltas: list[Delta] = []
        text_whole = "".join(text for _, text, _ in whole)
        if kind is TEXT and self.held:
            held, tokens_held = "".join(text for _, text, _ in self.held), sum(len(tokens) for *_, tokens in self.held)
            if text_whole.startswith(text_told + held):
                deltas = self.release()
                text_told, tokens_told = text_told + held, tokens_told + tokens_held
            self.held = []
        if not text_whole.startswith(text_told):
            self._contradicted()
            return deltas
        for number, text, tokens in whole:
            rest, tokens_rest = text[len(text_told) :], tokens[tokens_told:]
            text_told, tokens_told = text_told[len(text) :], max(0, tokens_told - len(tokens))
            if rest or tokens_rest:
                deltas += self._tell(kind, number, rest, tokens_rest)
        return deltas

    def _supply_annotations(self, forms: Iterable[PartForm]) -> list[Delta]:
        found = [(number, one) for number, form in enumerate(forms) for one in form.annotations or ()]
        told = sum(self.annotations.values())
        return [delta for number, one in found[told:] for delta in self.annotate(number, one)]

    def _tell(self, kind: Kind, number: int, text: str, tokens: Tokens = ()) -> list[Delta]:
        part = self.parts.setdefault(kind, {}).setdefault(number, _Part())
        part.chunks.append(text)
        part.tokens += len(tokens)
        deltas: list[Delta] = []
        if self.phase and not self.is_phase_told:
            deltas.append(Phase(self.phase, self.key))
            self.is_phase_told = True
        if kind is TEXT:
            deltas.append(Text(text, self.key, tokens))
        elif kind is SUMMARY:
            deltas.append(Summary(text, self.key, number))
        else:
            deltas.append(kind.delta(text, self.key))
        return deltas


class Called(_Told):
    """A call of a function."""

    __slots__ = ("call_id", "is_begun", "name", "pending", "told")
    type: ItemType = "function_call"

    def __init__(self, key: str, item_id: str | None, index: int | None) -> None:
        super().__init__(key, item_id, index)
        self.name = ""
        self.call_id: str | None = None
        self.is_begun = False
        self.told: list[str] = []
        self.pending: list[str] = []
        """Of a call whose name has not come."""

    @property
    def has_told(self) -> bool:
        return self.is_begun

    @property
    def has_begun(self) -> bool:
        return bool(self.told or self.pending)

    def named(self, name: object, call_id: str | None = None) -> list[Delta]:
        self._name(name, call_id)
        return self._tell()

    def add(self, piece: str) -> list[Delta]:
        self.pending.append(piece)
        return self._tell()

    def settle_arguments(self, arguments: object, name: object = None, call_id: str | None = None) -> list[Delta]:
        self._name(name, call_id)
        whole, heard = as_text(arguments), "".join(self.told + self.pending)
        if not whole.startswith(heard):
            if whole:
                self._contradicted()
            return self._tell()
        return self.add(whole[len(heard) :])

    def settle(self, item: ItemForm) -> list[Delta]:
        return self.settle_arguments(item.arguments, item.name, item.call_id)

    def is_begun_by(self, item: ItemForm) -> bool:
        return self.is_begun and item.name == self.name and as_text(item.arguments).startswith("".join(self.told))

    def complete(self) -> list[Delta]:
        """What makes the arguments of a call that came with none a JSON document."""
        if not self.name:
            raise ModelError("The model server sent a call of a tool without naming it.")
        return [] if any(piece.strip() for piece in self.told) else self.add("{}")

    def _name(self, name: object, call_id: str | None) -> None:
        self.name = self.name or (name if isinstance(name, str) else "")
        self.call_id = self.call_id or call_id or None

    def _tell(self) -> list[Delta]:
        if not self.name:
            return []
        text, self.pending = "".join(self.pending), []
        if text:
            self.told.append(text)
        if not self.is_begun:
            self.is_begun = True
            return [ToolCall(self.key, text, self.name, self.call_id)]
        return [ToolCall(self.key, text)] if text else []


Heard: TypeAlias = Written | Called


def matched(heard: Sequence[Heard], items: Sequence[ItemForm]) -> dict[int, Heard]:
    """By place in the final output, which of the items that the stream told each of them is.

    By id; else by what was told; else in order. Ids are no help with vLLM, whose final object has others.
    """
    found: dict[int, Heard] = {}
    waiting = list(heard)
    for likeness in (3, 2, 1, 0):
        for place, item in enumerate(items):
            if place not in found and (same := next((o for o in waiting if _likeness(o, item) >= likeness), None)):
                found[place] = same
                waiting.remove(same)
    return found


def _likeness(one: Heard, item: ItemForm) -> int:
    if one.type != item.type:
        return -1
    if item.id and one.id == item.id:
        return 3
    return 2 if one.is_begun_by(item) else int(one.has_told)


def _texts(forms: Iterable[PartForm]) -> str:
    return "".join(_text(form) or "" for form in forms)


def _text(form: PartForm) -> str | None:
    return form.refusal if form.type == "refusal" else form.text


def _shifted(annotation: Annotation, by: int) -> Annotation:
    """Several parts of text are passed on as one: places in a later one lie further on."""
    if not by:
        return annotation
    if isinstance(annotation, UrlCitation | ContainerFileCitation):
        return structs.replace(annotation, start_index=annotation.start_index + by, end_index=annotation.end_index + by)
    return structs.replace(annotation, index=annotation.index + by)
