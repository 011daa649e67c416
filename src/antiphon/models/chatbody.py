"""The body of a chat-completions request for a Prompt. Pure: knows no server, and nothing of answers."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import structs

from antiphon.core.prompt import Named, Offer, Prompt, PromptItem
from antiphon.wire.formats import JsonObjectFormat, JsonSchemaFormat
from antiphon.wire.items import (
    Brought,
    FunctionCall,
    FunctionCallOutput,
    InputAudio,
    InputFile,
    InputImage,
    InputText,
    Message,
    MessagePart,
    OutputPart,
    OutputText,
    Reasoning,
    ReasoningText,
    SummaryText,
)
from antiphon.wire.items import Refusal as RefusalPart

Object: TypeAlias = dict[str, Any]
ReasoningField: TypeAlias = Literal["reasoning_content", "reasoning"] | None
LimitField: TypeAlias = Literal["max_tokens", "max_completion_tokens"]


VERBOSITY = {"low": "Keep your answers short.", "high": "Answer at length and in detail."}
"""No parameter for it is common to servers of this API; medium is what a model does by itself."""


def chat_request(prompt: Prompt, *, reasoning_field: ReasoningField, limit_field: LimitField = "max_tokens") -> Object:
    """The JSON body for a prompt. Holds only what was asked for: unknown fields make strict servers refuse."""
    asked = {
        **structs.asdict(prompt.sampling),
        limit_field: prompt.max_output_tokens,
        "stop": list(prompt.stop) or None,
        "response_format": _format(prompt.format),
        "reasoning_effort": prompt.effort,
        "service_tier": None if prompt.service_tier in ("auto", "default") else prompt.service_tier,
        "user": prompt.user,
    }
    return {
        "model": prompt.model,
        "messages": _messages(prompt, reasoning_field),
        "stream": True,
        "stream_options": {"include_usage": True},
        **{name: value for name, value in asked.items() if value is not None},
        **_logprobs(prompt.top_logprobs),
        **(_tools(prompt) if prompt.tools else {}),
    }


PREFILLED: Object = {"continue_final_message": True, "add_generation_prompt": False}
"""What tells vLLM, SGLang and llama.cpp to write the last message on, as Transformers' templates name it."""


def _format(wanted: JsonObjectFormat | JsonSchemaFormat | None) -> Object | None:
    if not isinstance(wanted, JsonSchemaFormat):
        return None if wanted is None else {"type": "json_object"}
    told = {"name": wanted.name, "schema": wanted.schema, "description": wanted.description, "strict": wanted.strict}
    return {"type": "json_schema", "json_schema": {name: field for name, field in told.items() if field is not None}}


def _logprobs(top: int | None) -> Object:
    """At least one, since to llama.cpp 0 means no logprobs at all; the LogprobReader leaves out what is too much."""
    return {} if top is None else {"logprobs": True, "top_logprobs": max(1, top)}


def _tools(prompt: Prompt) -> Object:
    fields: Object = {"tools": [_tool(offer) for offer in prompt.tools]}
    match prompt.tool_choice:
        case Named(name):
            fields["tool_choice"] = {"type": "function", "function": {"name": name}}
        case "none" | "required":
            fields["tool_choice"] = prompt.tool_choice
    if not prompt.parallel_tool_calls:
        fields["parallel_tool_calls"] = False
    return fields


def _tool(offer: Offer) -> Object:
    # absent parameters mean "takes none" to OpenAI, but are an error to several servers
    function: Object = {"name": offer.name, "parameters": offer.parameters or {"type": "object", "properties": {}}}
    if offer.description is not None:
        function["description"] = offer.description
    if offer.strict is not None:
        function["strict"] = offer.strict
    return {"type": "function", "function": function}


def _messages(prompt: Prompt, reasoning_field: ReasoningField) -> msgspec.Raw:
    """The array of messages, of which all before the last thing a user said is remembered for the next turn."""
    key, items = ("chat", reasoning_field), prompt.items
    count, made = prompt.memo.recall(key, items)
    until = _last_user(items, count)
    if until > count:
        earlier = _Conversation(items[count:until], reasoning_field)
        if earlier.is_whole:
            made = earlier.behind(made)
            count = until
            prompt.memo.keep(key, items, count, made, len(made.messages))
    begun = (Message(role="assistant", content=(OutputText(text=prompt.prefix),)),) if prompt.prefix else ()
    system, messages = _Conversation((*items[count:], *begun), reasoning_field).behind(made)
    text = "\n\n".join(filter(None, [prompt.instructions, *system, VERBOSITY.get(prompt.verbosity or "medium")]))
    head = _joined([{"role": "system", "content": text}] * bool(text))
    return msgspec.Raw(b"[%b]" % b",".join(filter(None, (head, messages))))


def _last_user(items: Sequence[PromptItem], least: int) -> int:
    """Where the last thing a user said stands: what comes before it is in messages of its own."""
    for place in range(len(items) - 1, least, -1):
        item = items[place]
        if type(item) is Message and item.role == "user":
            return place
    return least


def _joined(messages: Sequence[Object]) -> bytes:
    return msgspec.json.encode(messages)[1:-1]


class _Made(NamedTuple):
    """What became of the first items: texts for the system message, and messages as JSON, between commas."""

    system: tuple[str, ...]
    messages: bytes


class _Conversation:
    """Items as the messages that strict servers want: calls of a turn in one message, right before their outputs.

    One assistant message is open at a time; what belongs to it is gathered until something else begins.
    """

    def __init__(self, items: Iterable[PromptItem], reasoning_field: ReasoningField) -> None:
        self.is_whole = True
        """Whether each call has its output."""
        self._reasoning_field = reasoning_field
        self._system: list[str] = []
        self._messages: list[Object] = []
        self._outputs: dict[str, deque[FunctionCallOutput]] = {}
        """By call, those not yet placed. Vendors repeat call ids over turns: the first call takes the first output."""
        for item in items:
            if isinstance(item, FunctionCallOutput):
                self._outputs.setdefault(item.call_id, deque()).append(item)
        self._thoughts: list[str] = []
        self._text = ""
        self._calls: list[FunctionCall] = []
        for item in items:
            self._add(item)
        self._close()

    def behind(self, made: "_Made | None") -> "_Made":
        system, messages = made or _Made((), b"")
        return _Made((*system, *self._system), b",".join(filter(None, (messages, _joined(self._messages)))))

    def _add(self, item: PromptItem) -> None:
        match item:
            case Message(role="system" | "developer"):
                self._system.append(_text(item.content))
                self._show("of the instructions", item.content)
            case FunctionCall():
                self._calls.append(item)
            case FunctionCallOutput():
                self._close()
                if self._is_unplaced(item):  # its call is not in the prompt
                    self._place_outputs([(item.call_id, "")])
            case Reasoning():
                if self._text or self._calls:
                    self._close()
                self._thoughts += filter(None, [_text(item.content or item.summary)])  # only its vendor knows some
            case Message(role="assistant"):
                if self._text or self._calls:
                    self._close()
                self._text = _text(item.content)
                self._show("of this answer", item.content)
            case Message():
                self._close()
                self._messages.append({"role": "user", "content": _content(item.content)})

    def _show(self, whose: str, parts: Iterable[MessagePart]) -> None:
        """A user message with what is no text among the parts, where there is any: other roles commonly take text
        only."""
        if shown := [part for part in parts if isinstance(part, Brought)]:
            self._close()
            things = " and ".join(sorted({f"{_THINGS[type(part)]}s" for part in shown})).capitalize()
            self._messages.append({"role": "user", "content": _content((InputText(text=f"{things} {whose}:"), *shown))})

    def _close(self) -> None:
        """Thoughts without an answer or a call belong to no message, and are left out."""
        if self._text or self._calls:
            self._messages.append(self._assistant())
        calls = [(call.call_id, call.name) for call in self._calls]
        self._thoughts, self._text, self._calls = [], "", []
        self._place_outputs(calls)

    def _assistant(self) -> Object:
        message: Object = {"role": "assistant", "content": self._text or None}
        if self._reasoning_field and self._thoughts:
            message[self._reasoning_field] = "\n".join(self._thoughts)
        if self._calls:
            message["tool_calls"] = [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments or "{}"},
                }
                for call in self._calls
            ]
        return message

    def _is_unplaced(self, output: FunctionCallOutput) -> bool:
        waiting = self._outputs[output.call_id]
        return bool(waiting) and waiting[0] is output

    def _place_outputs(self, calls: Iterable[tuple[str, str]]) -> None:
        """The outputs of calls, by id and name, in one row; after it, the images and files that are among them."""
        shown: list[tuple[str, tuple[OutputPart, ...]]] = []
        for call_id, name in calls:
            if waiting := self._outputs.get(call_id):
                output = waiting.popleft().output
                parts = (InputText(text=output),) if isinstance(output, str) else output
                things = {_THINGS[type(part)] for part in parts if isinstance(part, Brought)}
                below = f"See the {' and the '.join(sorted(things))} below." if things else ""
                text = _text(parts) or below  # some servers refuse an empty output
                self._messages.append({"role": "tool", "tool_call_id": call_id, "content": text})
                shown.append((f"from the call {call_id}{name and f' of {name}'}", parts))
            else:
                self.is_whole = False
        for whose, parts in shown:
            self._show(whose, parts)


def _content(parts: Sequence[MessagePart]) -> str | list[Object]:
    """What a user said: a string wherever that can say it."""
    if not any(isinstance(part, Brought) for part in parts):
        return _text(parts)
    return [_shown(part) if isinstance(part, Brought) else {"type": "text", "text": _text([part])} for part in parts]


def _shown(part: Brought) -> Object:
    match part:
        case InputImage():
            image = {"url": part.image_url}
            if part.detail != "auto":
                image["detail"] = "high" if part.detail == "original" else part.detail  # chat servers know low and high
            return {"type": "image_url", "image_url": image}
        case InputFile():
            return {"type": "file", "file": {"filename": part.filename, "file_data": part.file_data}}
        case InputAudio():
            return {"type": "input_audio", "input_audio": structs.asdict(part.input_audio)}


_THINGS: dict[type, str] = {InputImage: "image", InputFile: "file", InputAudio: "recording"}


def _text(parts: Iterable[MessagePart | ReasoningText | SummaryText]) -> str:
    """Parts as one string: several servers take no lists, and those that do join them by a line feed themselves."""
    texts = (part for part in parts if not isinstance(part, Brought))
    return "\n".join(part.refusal if isinstance(part, RefusalPart) else part.text for part in texts)
