"""The laws of docs/design.md, held against a builder: a script of what models and tools do goes in, a verdict out.

A script is plain data, so that hypothesis can make it and mutants can be fed the same one.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Struct, UnsetType, structs

from antiphon.core import builder as real
from antiphon.core import toolbox
from antiphon.core.deltas import Annotate, Delta, Phase, Refusal, Sealed, Summary, Text, Thought, ToolCall
from antiphon.core.fold import Fold
from antiphon.core.hosted import registry
from antiphon.core.toolbox import Declared, Gathered
from antiphon.core.unwrap import unwrapped
from antiphon.tools.scripted import ScriptedTool
from antiphon.wire import codec
from antiphon.wire import tools as wire
from antiphon.wire.events import Event
from antiphon.wire.items import CustomToolCall, Reasoning, ScriptedCall, ShellCall
from antiphon.wire.response import Response, ResponseError

HOSTED = "lookup"
NOTE = "note"
"""A custom tool of any text, which streams."""
DIGITS = "digits"
"""A custom tool whose input is held to a rule, and so comes whole."""
SHELL = "shell"

BOX = toolbox.make(
    [
        Declared(wire.CustomTool(name=NOTE), "tools[0]"),
        Declared(
            wire.CustomTool(name=DIGITS, format=wire.Grammar(syntax="regex", definition="[0-9]+")),
            "tools[1]",
        ),
        Declared(wire.ShellTool(), "tools[2]"),
        Declared(wire.ScriptedTool(name=HOSTED), "tools[3]"),
    ],
    registry([ScriptedTool()]),
    10,
)


def no_digits(text: str) -> str:
    return "" if text.isdecimal() else "these are no digits"


class Turn(Struct, frozen=True):
    """Deltas in the order a model says them; then each hosted call passes through these statuses to its end."""

    deltas: tuple[Delta, ...]
    statuses: tuple[str, ...] = ()
    hosted_ends: Literal["completed", "failed", "never"] = "completed"
    cut_short: bool = False
    compacts: Literal["first", "never done"] | None = None


class Script(Struct, frozen=True):
    turns: tuple[Turn, ...]
    ending: Literal["completed", "incomplete", "failed", "cancelled"] = "completed"
    abandoned: tuple[Delta, ...] = ()
    """Said in a last turn that never ended."""
    thought_as_summary: bool = False


def sealed(thought: Reasoning, vendor: str | UnsetType) -> Reasoning:
    return structs.replace(thought, encrypted_content="none" if vendor is UNSET else vendor)


def skeleton() -> Response:
    return Response(id="resp_1", created_at=1, status="in_progress", model="m")


class Step(NamedTuple):
    """What one action brought, and the response as the builder shows it then."""

    events: list[Event]
    response: Response


def play(script: Script, module: ModuleType = real) -> tuple[list[Event], Response]:
    """The events and the final response that the builder in `module` makes of a script."""
    steps = list(act(script, module))
    return [event for step in steps for event in step.events], steps[-1].response


def act(script: Script, module: ModuleType = real) -> Iterator[Step]:
    numbers = itertools.count()
    builder = module.Builder(
        skeleton(),
        lambda prefix: f"{prefix}_{next(numbers)}",
        callees=BOX.callees,
        checks={DIGITS: no_digits},
        thought_as_summary=script.thought_as_summary,
        seal=sealed,
    )
    for action in _actions(builder, script):
        action()
        yield Step(builder.take(), builder.response)


def _actions(builder: Any, script: Script) -> Iterator[Callable[[], object]]:
    yield builder.start
    for turn in script.turns:
        yield from _turn(builder, turn)
    for delta in script.abandoned:
        yield partial(builder.feed, delta)
    yield builder.abandon
    error = ResponseError(code="server_error", message="broke") if script.ending == "failed" else None
    reason = "max_output_tokens" if script.ending == "incomplete" else None
    yield lambda: builder.append(builder.propose(script.ending, now=2, reason=reason, error=error))


def _turn(builder: Any, turn: Turn) -> Iterator[Callable[[], object]]:
    if turn.compacts is not None:
        compactions: list[int] = []
        yield lambda: compactions.append(builder.begin_compaction())
        if turn.compacts == "first":
            yield lambda: builder.compacted(compactions[0], "sealed")
    for delta in turn.deltas:
        yield partial(builder.feed, delta)
    calls: list[Any] = []
    yield lambda: calls.extend(builder.end_turn(cut_short=turn.cut_short).hosted)
    begun: list[int] = []
    for call in calls:
        item = ScriptedCall(name=call.name, arguments=call.arguments, status="in_progress")
        yield partial(_begin, builder, item, begun)
    for status in turn.statuses:  # interleaved: every running call takes the step before any takes the next
        for index in begun:
            yield partial(builder.progress, index, status)
    for index in reversed(begun if turn.hosted_ends != "never" else []):
        ended = structs.replace(builder.response.output[index], status=turn.hosted_ends, output="found")
        yield partial(builder.outcome, index, ended)


def _begin(builder: Any, item: ScriptedCall, begun: list[int]) -> None:
    begun.append(builder.begin(item))


def check(script: Script, module: ModuleType = real) -> None:
    """Raises (AssertionError or Unlawful) where a law is broken."""
    fold = Fold()
    for step in act(script, module):
        for event in step.events:
            assert not fold.finished, "law 4: the terminal event is the last"
            data = codec.encode(event)
            assert codec.decode_event(data) == event, "law 5: wire"
            fold.feed(msgspec.json.decode(data))  # raises where law 2 or 4 is broken
        # law 6, prefix: not only does every prefix fold, it gives what the builder shows
        assert fold.response == msgspec.json.decode(codec.encode(step.response)), "law 1: replay"
    assert fold.finished, "law 4: there is a terminal event"
    assert _said(fold.response, script.thought_as_summary) == _meant(script), "law 3: conservation"
    assert _runs_said(fold.response) == _runs_meant(script), "law 3: in order"
    kept = [item["encrypted_content"] for item in fold.response["output"] if item["type"] == "reasoning"]
    assert kept == list(_sealed_meant(script)), "law 3: what a vendor sealed is its thought's"


# -- law 3: what the model said = what the items hold


def _said(response: dict[str, Any], as_summary: bool) -> dict[str, Any]:
    said: dict[str, Any] = {"text": "", "refusal": "", "thought": "", "summary": "", "calls": [], "annotations": 0}
    said["compactions"] = [item["status"] for item in response["output"] if item["type"] == "compaction"]
    for item in response["output"]:
        if item["type"] == "message":
            for part in item["content"]:
                said["refusal" if part["type"] == "refusal" else "text"] += part.get("text", part.get("refusal"))
                said["annotations"] += len(part.get("annotations", ()))
        elif item["type"] == "reasoning":
            said["thought"] += "".join(part["text"] for part in item.get("content", ()))
            said["thought" if as_summary else "summary"] += "".join(part["text"] for part in item["summary"])
        elif item["type"] == "shell_call":
            said["calls"].append((SHELL, json.dumps(item["action"]["commands"])))
        elif item["type"] != "compaction":
            said["calls"].append((item["name"], item["input"] if "input" in item else item["arguments"]))
    said["calls"].sort()
    return said


def _meant(script: Script) -> dict[str, Any]:
    meant: dict[str, Any] = {"text": "", "refusal": "", "thought": "", "summary": "", "calls": [], "annotations": 0}
    ends = {"first": "completed", "never done": "incomplete"}
    meant["compactions"] = [ends[turn.compacts] for turn in script.turns if turn.compacts is not None]
    for number, turn in enumerate([*script.turns, Turn(script.abandoned)]):
        ran = number < len(script.turns) and not turn.cut_short
        calls: dict[str, list[str]] = {}
        for delta in turn.deltas:
            if isinstance(delta, ToolCall):
                calls.setdefault(delta.key, [delta.name or "", ""])[1] += delta.arguments
            elif isinstance(delta, Annotate):
                meant["annotations"] += 1
            elif not isinstance(delta, Phase | Sealed):
                kinds = {Text: "text", Refusal: "refusal", Thought: "thought"}
                summary = "thought" if script.thought_as_summary else "summary"
                meant[kinds.get(type(delta), summary)] += getattr(delta, "text", "")
        meant["calls"] += [call for name, text in calls.values() if (call := _called(name, text, ran))]
    meant["calls"].sort()
    return meant


def _called(name: str, arguments: str, ran: bool) -> tuple[str, str] | None:
    """What the item of a call must hold. One that is judged as a whole has none when its turn was cut short or never
    ended, or when it was no such call."""
    if name == NOTE:
        return name, unwrapped(arguments)
    callee = BOX.callees.get(name)
    if isinstance(callee, Gathered):
        try:
            lifted = callee.lift("", arguments)
        except ValueError:
            return None
        if isinstance(lifted, ShellCall):
            return (name, json.dumps(lifted.action.commands)) if ran else None
        assert isinstance(lifted, CustomToolCall)
        return (name, lifted.input) if ran and not no_digits(lifted.input) else None
    return (name, arguments) if ran or name != HOSTED else None


def _runs_said(response: dict[str, Any]) -> list[tuple[str, str]]:
    runs = []
    for item in response["output"]:
        if item["type"] in {"message", "reasoning"}:
            parts = (*item.get("content", ()), *item.get("summary", ()))
            kind = f"message {item.get('phase', '')}" if item["type"] == "message" else "reasoning"
            runs.append((kind, "".join(part.get("text", part.get("refusal")) for part in parts)))
    return _merged(runs)


def _runs_meant(script: Script) -> list[tuple[str, str]]:
    runs: list[tuple[str, str]] = []
    for turn in [*script.turns, Turn(script.abandoned)]:
        coming = phase = ""
        is_open = False
        named: set[str] = set()
        for delta in turn.deltas:
            if isinstance(delta, Text | Refusal):
                if not is_open:
                    phase, coming, is_open = coming, "", True
                runs.append((f"message {phase}", delta.text))
            elif isinstance(delta, Thought | Summary):
                is_open = False
                runs.append(("reasoning", delta.text))
            elif isinstance(delta, Sealed):
                is_open = False
                runs.append(("reasoning", ""))
            elif isinstance(delta, Phase):
                coming, is_open = delta.phase, False
            elif isinstance(delta, ToolCall) and delta.key not in named:
                named.add(delta.key)
                is_open = False
    return _merged(runs)


def _sealed_meant(script: Script) -> Iterator[str]:
    """Of each thought in order, how its vendor sealed it last, or "none"."""
    for turn in [*script.turns, Turn(script.abandoned)]:
        vendor = ""
        named: set[str] = set()
        for delta in turn.deltas:
            if isinstance(delta, Sealed):
                vendor = delta.text
            elif isinstance(delta, Thought | Summary):
                vendor = vendor or "none"
            elif not isinstance(delta, Annotate) and not (isinstance(delta, ToolCall) and delta.key in named):
                named |= {delta.key} if isinstance(delta, ToolCall) else set()
                if vendor:
                    yield vendor
                vendor = ""
        if vendor:
            yield vendor


def _merged(runs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Neighbours of one kind put together. Within reasoning, thought and summary stand apart: there only the letters
    can be compared."""
    merged = [(kind, "".join(text for _, text in group)) for kind, group in itertools.groupby(runs, lambda run: run[0])]
    return [(kind, text if kind != "reasoning" else "".join(sorted(text))) for kind, text in merged]
