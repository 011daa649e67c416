"""Answers of the embedded engine: what of the deltas that came the turn says. Pure; knows no process and no HTTP.

`Answer` passes everything on; `OneCall` ends the turn before a second call; `Constrained` takes the calls out of the
text of a model that could write nothing but what a Constraint leaves (constraint.py has the grammar).
"""

import json
import re
from contextlib import suppress
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct, structs

from antiphon.core.deltas import Delta, Finish, Text, ToolCall
from antiphon.errors import ModelError
from antiphon.models.constraint import ARGUMENTS, CLOSE_TAG, INPUT, OPEN_TAG, Constraint
from antiphon.wire.items import Logprob
from antiphon.wire.response import InputTokensDetails, Usage

HEAD_CHARS_MAX = 4096
"""Text in which the head of a call must begin and end; names are far shorter. More is no call."""


class Answer:
    """Makes of what is read what the turn says, read by read. This one passes everything on."""

    is_over = False
    """The rest of the answer is not wanted."""

    def read(self, deltas: list[Delta], payloads: list[bytes]) -> list[Delta]:
        del payloads
        return deltas


class OneCall(Answer):
    """Ends the turn where a second call begins: llama.cpp takes `parallel_tool_calls: false`, and makes two anyway."""

    _key: str | None = None

    def read(self, deltas: list[Delta], payloads: list[bytes]) -> list[Delta]:
        kept: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, ToolCall):
                self._key = self._key or delta.key
                if delta.key != self._key:
                    self.is_over = True
                    return [*kept, Finish("tool_calls", _counted(payloads))]
            kept.append(delta)
        return kept


State: TypeAlias = Literal["begin", "text", "document", "head", "arguments", "input"]


class Constrained(Answer):
    """Takes calls out of the text, piece by piece; thoughts pass.

    What it says does not depend on how the text was cut. A stop string ends free text; in calls and documents it is
    text like any other, and the engine must not be told of it.
    """

    def __init__(self, constraint: Constraint, stop: tuple[str, ...] = ()) -> None:
        self._state: State = "head" if constraint.must_call else "begin" if constraint.format is not None else "text"
        self._may_call = bool(constraint.tools)
        self._markers = (OPEN_TAG,) * self._may_call + stop
        self._close = f"\n{CLOSE_TAG}" if constraint.has_tags else ""
        self._held = ""
        self._scores: list[Logprob] = []
        self._count = 0
        self._arguments = _Nesting()

    def read(self, deltas: list[Delta], payloads: list[bytes]) -> list[Delta]:
        found: list[Delta] = []
        for delta in deltas:
            match delta:
                case Text():
                    self._hear(delta, found)
                case Finish():
                    found.append(self._finish(delta, found))
                case _:
                    found.append(delta)
            if self.is_over:
                return [*found, Finish("stop", _counted(payloads))]
        return found

    def _hear(self, delta: Text, found: list[Delta]) -> None:
        text = delta.text
        if self._state in ("begin", "text", "document"):
            self._scores += delta.logprobs
        while text and not self.is_over:
            match self._state:
                case "begin":
                    text = text.lstrip("\n")  # what is left of the gap behind a thought
                    if text:
                        self._state = "head" if self._may_call and text[0] == "<" else "document"
                case "document":
                    text = self._say(text, "", found)
                case "text":
                    text = self._seek_marker(text, found)
                case "head":
                    text = self._seek_head(text, found)
                case "arguments":
                    text = self._read_arguments(text, found)
                case "input":
                    self._read_input(text, found)
                    text = ""

    def _seek_marker(self, text: str, found: list[Delta]) -> str:
        """Of several markers that come, the one that is whole first counts: whether more will come, nobody knows."""
        self._held += text
        ends = [(at + len(marker), at, marker) for marker in self._markers if (at := self._held.find(marker)) >= 0]
        if not ends:
            said = len(self._held) - _beginning_at_end(self._held, self._markers)
            self._held = self._say(self._held[:said], self._held[said:], found)
            return ""
        end, at, marker = min(ends)
        rest = self._say(self._held[:at], self._held[end:], found)
        self._held = ""
        if marker == OPEN_TAG:
            self._state = "head"
            return rest
        self.is_over = True
        return ""

    def _say(self, text: str, rest: str, found: list[Delta]) -> str:
        """Gives the rest back. The text goes with the logprobs of the tokens that end in it."""
        if text:
            found.append(Text(text, logprobs=_taken(self._scores, len(text.encode()) if rest else None)))
        return rest

    def _seek_head(self, text: str, found: list[Delta]) -> str:
        """What follows the head of a call, if it ends in this text."""
        self._held += text
        if len(self._held) > HEAD_CHARS_MAX:
            raise _uncalled()
        if not (head := _HEAD.search(self._held)):
            return ""
        rest, self._held = self._held[head.end() :], ""
        self._count += 1
        is_worded = head[2] == INPUT
        self._state = "input" if is_worded else "arguments"
        self._arguments = _Nesting()
        found.append(ToolCall(str(self._count), '{"input": "' * is_worded, name=json.loads(head[1])))
        return rest

    def _read_arguments(self, text: str, found: list[Delta]) -> str:
        length = self._arguments.length_in(text)
        found.append(ToolCall(str(self._count), arguments=text[:length]))
        if self._arguments.is_closed:
            if text[length - 1] != "}":
                raise _uncalled()
            self._state = "head"
        return text[length:]

    def _read_input(self, text: str, found: list[Delta]) -> None:
        """The tag that closes a call belongs to the input, unless the answer ends with it."""
        self._held += text
        said = len(self._held) - _beginning_at_end(self._held, (self._close,), is_whole_too=True)
        self._word(self._held[:said], found)
        self._held = self._held[said:]

    def _word(self, text: str, found: list[Delta]) -> None:
        if text:
            found.append(ToolCall(str(self._count), arguments=json.dumps(text, ensure_ascii=False)[1:-1]))

    def _finish(self, finish: Finish, found: list[Delta]) -> Finish:
        """The end, once what was held is said. An answer that was cut holds no whole call, and need not."""
        is_whole = finish.reason == "stop"
        if self._state == "text":
            self._say(self._held, "", found)
        elif self._state == "input":
            self._word(self._held.removesuffix(self._close) if is_whole else self._held, found)
            if is_whole:
                found.append(ToolCall(str(self._count), arguments='"}'))
        elif is_whole and (self._state == "arguments" or (self._state == "head" and not self._count)):
            raise _uncalled()
        return structs.replace(finish, reason="tool_calls") if is_whole and self._count else finish


_HEAD = re.compile(rf'\{{"name": ("(?:[^"\\]|\\.)*")({re.escape(ARGUMENTS)}|{re.escape(INPUT)})')


def _beginning_at_end(text: str, markers: tuple[str, ...], *, is_whole_too: bool = False) -> int:
    """How many characters at the end of a text may be the beginning of a marker."""
    longest = min(len(text), max(map(len, markers), default=0) - (not is_whole_too))
    return next((size for size in range(longest, 0, -1) if any(m.startswith(text[-size:]) for m in markers)), 0)


def _taken(scores: list[Logprob], size: int | None) -> tuple[Logprob, ...]:
    """Takes those whose bytes are among the first of so many; None: all."""
    count = len(scores) if size is None else 0
    while size is not None and count < len(scores) and size >= len(scores[count].bytes):
        size -= len(scores[count].bytes)
        count += 1
    taken, scores[:count] = tuple(scores[:count]), []
    return taken


def _uncalled() -> ModelError:
    return ModelError("The model did not make the call that was asked for.")


class _Nesting:
    """How deep a JSON document, which is an object, is open as it comes."""

    _depth = 0
    _is_in_string = _is_escaped = is_closed = False

    def length_in(self, text: str) -> int:
        """How much of the text belongs to the document."""
        for at, character in enumerate(text, 1):
            if self._is_in_string:
                self._is_in_string = self._is_escaped or character != '"'
                self._is_escaped = character == "\\" and not self._is_escaped
            else:
                self._is_in_string = character == '"'
                self._depth += (character in "{[") - (character in "}]")
                if not self._depth:
                    self.is_closed = True
                    return at
        return len(text)


class _Timed(Struct):
    """Token counts so far; llama.cpp sends usage only at the end."""

    timings: dict[str, float] = {}


def _counted(payloads: list[bytes]) -> Usage | None:
    for payload in reversed(payloads):
        with suppress(msgspec.DecodeError, KeyError):  # [DONE] is no JSON
            counts = msgspec.json.decode(payload, type=_Timed).timings
            cached, told, said = (int(counts[name]) for name in ("cache_n", "prompt_n", "predicted_n"))
            return Usage(
                input_tokens=cached + told,
                input_tokens_details=InputTokensDetails(cached_tokens=cached),
                output_tokens=said,
                total_tokens=cached + told + said,
            )
    return None
