"""The scripted model: deterministic, for tests and client developers. It reads its script from the last user message.

    say hello                     answers "hello", a word a delta
    think hmm | say hello         reasons, then answers
    call get_weather {"a": 1}     calls a function that the request offers
    call f {} | call g {}         two calls in one turn
    refuse no                     refuses
    long 500                      answers with 500 words
    pace 20 | say x y             from there on each word takes 20 ms
    stall                         says one word, then nothing until it is cancelled
    fail before | say x, fail     fails before the first token, or after it
    cut | say x, cut              ends at the token limit
    tell sampling.seed            says, as JSON, what it was told: any field of core/prompt.py

Steps are parted by " | ", turns by " => ": when the calls of one turn are answered, the next one is due, as in

    say first | call f {} => call g {} | call h {} => say done

Behind a prefix (core/prompt.py) it goes on in its script.
Asked for a summary (core/compaction.py), it says the first words of every message.
After the outputs of the last turn's calls it says "got: " and the outputs; without a script it echoes the text.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any, TypeAlias

import msgspec

from antiphon.config import Limits
from antiphon.config import ScriptedModel as Settings
from antiphon.core import compaction
from antiphon.core.deltas import Delta, Finish, FinishReason, Refusal, Text, Thought, ToolCall
from antiphon.core.ports import Check, Count, ModelCard, Sense
from antiphon.core.prompt import Named, Prompt
from antiphon.errors import ContextLengthExceeded, ModelError
from antiphon.wire.items import (
    FunctionCallOutput,
    InputAudio,
    InputFile,
    InputImage,
    InputText,
    Logprob,
    Message,
    ToolOutput,
    TopLogprob,
)
from antiphon.wire.response import OutputTokensDetails, Usage

KINDS: dict[str, Callable[[str], Delta]] = {"think": Thought, "refuse": Refusal}
SHOWN: dict[type, str] = {InputImage: "[image]", InputFile: "[file]", InputAudio: "[audio]"}
VERBS = frozenset({"say", "think", "call", "refuse", "long", "stall", "fail", "cut", "tell", "pace"})
Step: TypeAlias = tuple[str, str]
"""A verb and what follows it."""
SUMMARISED_WORDS = 3
FIRST_OF_JANUARY_2026 = 1_767_225_600


class ScriptedModel:
    """Port Model. One batch a delta, so that every reader sees every step."""

    takes: frozenset[Sense] = frozenset(("image", "audio"))

    def __init__(self, settings: Settings, limits: Limits) -> None:
        del limits
        self._name = settings.name
        self._context_tokens = settings.context_tokens or None

    async def cards(self, *, fresh: bool = False) -> Sequence[ModelCard]:
        return [ModelCard(id=self._name, created=FIRST_OF_JANUARY_2026, owned_by="antiphon")]

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        budget, prefix = prompt.max_output_tokens, prompt.prefix
        if self._context_tokens and _given(prompt) >= self._context_tokens:
            raise ContextLengthExceeded
        said = thought = 0
        pause_s = 0.0
        reason: FinishReason = "stop"
        for verb, text in _due(prompt):
            if verb == "fail":
                raise ModelError(f"The scripted model failed: {text or 'as told'}.")
            if verb == "stall":
                if not prefix:
                    yield [Text("stalling")]
                await asyncio.Event().wait()
            if verb == "cut":
                reason = "length"
                break
            if verb == "pace":
                pause_s = int(text) / 1000
                continue
            if verb == "tell":
                verb, text = "say", _told(prompt, text)
            for delta in _deltas(verb, text, len(prompt.items), said):
                if prefix:
                    prefix, rest = _behind(prefix, delta)
                    if rest is None:
                        continue
                    delta = rest
                if budget is not None and said >= budget:
                    reason = "length"
                    break
                said += 1
                thought += isinstance(delta, Thought)
                yield [_sure(delta, prompt.top_logprobs) if isinstance(delta, Text) else delta]
                await asyncio.sleep(pause_s)  # other tasks get their turn, as they would between network reads
            if verb == "call" and reason == "stop":
                reason = "tool_calls"
        yield [Finish(reason, _usage(prompt, said, thought))]

    def prefills(self, prompt: Prompt) -> bool:
        return True

    async def count(self, prompt: Prompt) -> Count:
        return Count(_given(prompt), is_exact=True)

    def window(self, name: str) -> int | None:
        return self._context_tokens

    async def start(self) -> None:
        return None

    async def check(self) -> Check:
        return Check(name=f"model {self._name}", ok=True, detail="scripted, for tests")

    async def close(self) -> None:
        return None


def _due(prompt: Prompt) -> list[Step]:
    """The first turn of the script whose calls are not answered. Outputs are counted, since clients hand the calls and
    outputs of one turn in any order."""
    outputs = _outputs(prompt)
    answered = len(outputs)
    for turn in _turns(prompt):
        steps = list(_permitted(prompt, turn))
        if answered <= 0:
            return steps
        answered -= max(1, sum(verb == "call" for verb, _ in steps))
    return [("say", "got: " + ", ".join(outputs))]


def _turns(prompt: Prompt) -> Iterator[Iterator[Step]]:
    text = _last_text(prompt)
    if text == compaction.WISH:
        yield iter([("say", "Summary: " + " / ".join(_said(prompt)))])
    elif text.split(" ", 1)[0] in VERBS:
        yield from (_steps(turn) for turn in text.split(" => "))
    elif prompt.tool_choice == "required" or isinstance(prompt.tool_choice, Named):
        chosen = prompt.tool_choice.name if isinstance(prompt.tool_choice, Named) else prompt.tools[0].name
        yield iter([("call", chosen + " {}")])
    else:
        yield iter([("say", text)])


def _steps(turn: str) -> Iterator[Step]:
    for step in turn.split(" | "):
        verb, _, rest = step.partition(" ")
        is_step = verb in VERBS and (verb not in ("long", "pace") or rest.isdecimal()) and (verb != "call" or rest)
        yield (verb, rest) if is_step else ("say", step)


def _permitted(prompt: Prompt, steps: Iterator[Step]) -> Iterator[Step]:
    """The steps as far as the request's tool choice and stop strings let them come."""
    has_called = False
    for verb, text in steps:
        if verb == "call":
            if prompt.tool_choice == "none" or (has_called and not prompt.parallel_tool_calls):
                continue
            has_called = True
        if verb == "say":
            stops = [place for stop in prompt.stop if (place := text.find(stop)) >= 0]
            if stops:
                yield verb, text[: min(stops)]
                return
        yield verb, text


def _outputs(prompt: Prompt) -> list[str]:
    """What tools have answered since the user last spoke."""
    found: list[str] = []
    for item in reversed(prompt.items):
        if isinstance(item, Message) and item.role == "user":
            break
        if isinstance(item, FunctionCallOutput):
            found.append(_text(item.output))
    return found[::-1]


def _text(output: ToolOutput) -> str:
    if isinstance(output, str):
        return output
    return "".join(part.text if isinstance(part, InputText) else SHOWN[type(part)] for part in output)


def _said(prompt: Prompt) -> Iterator[str]:
    """The first words of what was said before the last message."""
    for item in prompt.items[:-1]:
        if isinstance(item, Message):
            yield " ".join(_words(item)[:SUMMARISED_WORDS])


def _last_text(prompt: Prompt) -> str:
    for item in reversed(prompt.items):
        if isinstance(item, Message) and item.role == "user":
            return "".join(part.text for part in item.content if isinstance(part, InputText))
    return "hello"


def _deltas(verb: str, text: str, turn: int, place: int) -> Iterator[Delta]:
    if verb == "call":
        name, _, arguments = text.partition(" ")
        key = str(place)
        yield ToolCall(key, name=name, call_id=f"call_{turn}_{place}")
        for piece in _pieces(arguments or "{}"):
            yield ToolCall(key, piece)
        return
    if verb == "long":
        text = " ".join(f"word{number}" for number in range(int(text)))
    for piece in _pieces(text):
        yield KINDS.get(verb, Text)(piece)


def _pieces(text: str) -> Iterator[str]:
    """Words, each with the space before it: put together again they are the text."""
    for number, word in enumerate(text.split(" ")):
        yield word if number == 0 else " " + word


def _behind(prefix: str, delta: Delta) -> tuple[str, Delta | None]:
    """What of the prefix is to come after this delta, and what of the delta is behind the prefix."""
    if not isinstance(delta, Text):
        return prefix, None
    if prefix.startswith(delta.text):
        return prefix[len(delta.text) :], None
    if delta.text.startswith(prefix):
        return "", Text(delta.text[len(prefix) :])
    raise ModelError(f"The scripted model does not say {prefix!r}.")


def _told(prompt: Prompt, path: str) -> str:
    """What stands at a path such as `items.0.content.0.text`; null where nothing does."""
    told: Any = msgspec.to_builtins(prompt, enc_hook=lambda _: None)  # a memo is no part of what is told
    for step in path.split("."):
        if isinstance(told, list | tuple) and step.isdecimal():
            told = dict(enumerate(told)).get(int(step))
        else:
            told = told.get(step) if isinstance(told, dict) else None
    return msgspec.json.encode(told).decode()


def _sure(delta: Text, top: int | None) -> Text:
    """With logprobs, where they are asked for: every word is certain."""
    if top is None:
        return delta
    token = tuple(delta.text.encode())
    others = (TopLogprob(token=delta.text, bytes=token, logprob=0.0),) * min(top, 1)
    return Text(delta.text, logprobs=(Logprob(token=delta.text, bytes=token, logprob=0.0, top_logprobs=others),))


def _usage(prompt: Prompt, said: int, thought: int) -> Usage:
    given = _given(prompt)
    return Usage(
        input_tokens=given,
        output_tokens=said,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=thought),
        total_tokens=given + said,
    )


def _given(prompt: Prompt) -> int:
    return sum(len(_words(item)) for item in prompt.items) + len(prompt.prefix.split())


def _words(item: object) -> list[str]:
    if isinstance(item, Message):
        return " ".join(getattr(part, "text", "") for part in item.content).split()
    return ["item"]
