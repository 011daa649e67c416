"""The chunks of a streamed chat completion as deltas. Pure: knows nothing of where they come from."""

from typing import Any, get_args

import msgspec
from msgspec import Struct

from antiphon.core.deltas import Delta, Finish, FinishReason, Refusal, Text, Thought, ToolCall
from antiphon.errors import ApiError, ModelError
from antiphon.models.faults import excerpt, read_fault, refusal
from antiphon.models.sse import DONE
from antiphon.wire.response import InputTokensDetails, OutputTokensDetails, ServiceTier, Usage


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, object] | None = None


class _Fragment(Struct, gc=False):
    """A piece of a call. OpenAI sends `id` and `name` once and always an `index`; others do otherwise."""

    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Part(Struct, gc=False):
    """Mistral's models that think send content as parts."""

    text: str | None = None
    thinking: list["_Part"] | str | None = None


class _Said(Struct, gc=False):
    content: str | list[_Part] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_Fragment] | None = None
    function_call: _Function | None = None


class _InputDetails(Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class Choice(Struct, gc=False):
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: str | None = None
    usage: _Usage | None = None
    logprobs: Any = None
    """Of any form here: they are read where they were asked for (logprobs.py)."""


class Chunk(Struct, gc=False):
    choices: list[Choice] | None = None
    usage: _Usage | None = None
    service_tier: Any = None
    error: Any = None


_decode_chunk = msgspec.json.Decoder(Chunk, strict=False).decode

_REASONS: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",  # Mistral
    "content_filter": "content_filter",
    "safety": "content_filter",  # Gemini
    "sensitive": "content_filter",  # Zhipu
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
}
"""All others are one or another word for having come to the end."""
_FAILED_REASONS = frozenset({"error", "abort", "network_error", "insufficient_system_resource"})
"""OpenRouter · vLLM and SGLang · Zhipu · DeepSeek."""
_TIERS = get_args(ServiceTier)
"""Other words, such as Groq's on_demand, are no word of this API."""


class ChunkReader:
    """The payloads of one streamed answer as deltas. Pure; one per answer, `end` when no more payloads come.

    Every chunk that holds text gives its own Text. The Finish is given at `[DONE]`, for usage may follow the reason to
    finish, come with it, or come with every chunk: the last one counts. An error that a vendor sends in the stream is
    raised after the deltas that came before it were given: by `check`, or by the next call.
    """

    def __init__(self) -> None:
        self._calls = _Calls()
        self._usage: _Usage | None = None
        self._service_tier: ServiceTier | None = None
        self._reason = ""
        self._has_said = False
        self._is_ended = False
        self._failure: ApiError | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the model is done; only usage may be missing."""
        return bool(self._reason) or self._is_ended

    def feed(self, payloads: list[bytes]) -> list[Delta]:
        self.check()
        deltas: list[Delta] = []
        try:
            for payload in payloads:
                if payload == DONE:
                    self._finish(deltas)
                elif not self._is_ended:
                    self._read(payload, deltas)
        except ApiError as error:
            if not deltas:
                raise
            self._failure = error
        if deltas:
            self._has_said = True
        return deltas

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def end(self) -> list[Delta]:
        """The Finish, when the stream has ended without `[DONE]`."""
        self.check()
        deltas: list[Delta] = []
        if not self._is_ended:
            if not self._reason:
                raise ModelError("The model server's answer ended before it was finished.")
            self._finish(deltas)
        return deltas

    def _read(self, payload: bytes, deltas: list[Delta]) -> None:
        try:
            chunk = _decode_chunk(payload)
        except (msgspec.DecodeError, RecursionError):
            raise _not_a_chunk(payload) from None
        if chunk.usage is not None:
            self._usage = chunk.usage
        if chunk.error is not None:
            raise _not_a_chunk(payload)
        if choices := chunk.choices:
            self._hear(chunk, choices[0], deltas)
        elif choices is None and chunk.usage is None:
            raise _not_a_chunk(payload)

    def _hear(self, chunk: Chunk, choice: Choice, deltas: list[Delta]) -> None:
        said = choice.delta or choice.message
        if said is not None:
            if thought := said.reasoning_content or said.reasoning:  # vLLM sends both, with the same text
                deltas.append(Thought(thought))
            if content := said.content:
                if isinstance(content, str):
                    deltas.append(Text(content))
                else:
                    deltas += _part_deltas(content)
            if said.refusal:
                deltas.append(Refusal(said.refusal))
            if said.tool_calls or said.function_call:
                deltas += self._calls.read(said)
        if choice.message is not None:  # not streamed, so it is whole
            self._reason = "stop"
        if choice.usage is not None:  # Moonshot
            self._usage = choice.usage
        if choice.finish_reason:
            if choice.finish_reason in _FAILED_REASONS:
                raise ModelError(f"The model server broke the answer off (finish_reason {choice.finish_reason!r}).")
            self._reason = choice.finish_reason.lower()
            if chunk.service_tier in _TIERS:  # vendors that tell it do so in every chunk
                self._service_tier = chunk.service_tier

    def _finish(self, deltas: list[Delta]) -> None:
        if self._is_ended:
            return
        if not (self._reason or self._has_said or deltas):
            raise ModelError("The model server's answer ended before it had begun.")
        reason = _REASONS.get(self._reason, "stop")
        if reason == "stop" and self._calls:
            reason = "tool_calls"  # OpenAI says "stop" after a call that tool_choice named, Ollama after any
        if reason == "tool_calls":
            deltas += self._calls.completed()
        self._is_ended = True
        deltas.append(Finish(reason, _usage(self._usage), self._service_tier))


class _Calls:
    """Puts the fragments of calls together, by whatever a vendor gives to tell them apart."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def read(self, said: _Said) -> list[Delta]:
        fragments = said.tool_calls or [_Fragment(index=0, function=said.function_call)]
        return [piece for fragment in fragments if (piece := self._piece(fragment)) is not None]

    def completed(self) -> list[Delta]:
        """What makes the arguments of calls that came with none a JSON document, as OpenAI sends them."""
        if not all(call.name for call in self._calls):
            raise ModelError("The model server sent a call of a tool without naming it.")
        return [ToolCall(call.key, "{}") for call in self._calls if not call.has_arguments]

    def _piece(self, fragment: _Fragment) -> ToolCall | None:
        function = fragment.function or _Function()
        arguments = function.arguments or ""
        if not isinstance(arguments, str) or function.arguments == {}:
            arguments = msgspec.json.encode(function.arguments).decode()
        call = self._continued(fragment, function.name, arguments)
        if call is None:
            call = _Call(str(len(self._calls)), fragment.id)
            self._calls.append(call)
        if fragment.index is not None:
            self._by_index[fragment.index] = call
        return call.piece(function.name, arguments)

    def _continued(self, fragment: _Fragment, name: str | None, arguments: str) -> "_Call | None":
        """The call that a fragment goes on with; None when it begins one."""
        is_numbered = fragment.index is not None
        call = self._by_index.get(fragment.index or 0) if is_numbered else self._unnumbered(fragment.id, name)
        if call is None or (name and call.name and call.is_over_before(fragment.id, arguments)):
            return None
        return call

    def _unnumbered(self, call_id: str | None, name: str | None) -> "_Call | None":
        """Gemini numbers no calls: a new id that comes with a name begins one."""
        same = next((call for call in self._calls if call_id and call.call_id == call_id), None)
        if same is None and self._calls and not (call_id and name):
            return self._calls[-1]
        return same


class _Call:
    __slots__ = ("_pieces", "call_id", "key", "name")

    def __init__(self, key: str, call_id: str | None) -> None:
        self.key = key
        self.call_id = call_id or None  # vLLM sends "" on later fragments, others on all
        self.name = ""
        self._pieces: list[str] = []

    @property
    def has_arguments(self) -> bool:
        return any(piece.strip() for piece in self._pieces)

    def piece(self, name: str | None, arguments: str) -> ToolCall | None:
        """The next delta; None while there is nothing new to say, or the call's name has not come."""
        if arguments:
            self._pieces.append(arguments)
        if not self.name:
            self.name = name or ""
            return ToolCall(self.key, "".join(self._pieces), self.name, self.call_id) if self.name else None
        return ToolCall(self.key, arguments) if arguments else None

    def is_over_before(self, other_id: str | None, arguments: str) -> bool:
        """Whether a named fragment at this call's place begins another one.

        Ollama and gateways number all calls 0 (ollama#15457): another id says so, unless this call is in the middle of
        its arguments; some make up an id per fragment. Without ids, a whole document followed by more does.
        """
        if other_id and other_id == self.call_id:
            return False
        if other_id and self.call_id:
            return not self.has_arguments or self._is_whole()
        return bool(arguments) and self._is_whole()

    def _is_whole(self) -> bool:
        try:
            msgspec.json.decode("".join(self._pieces))
        except (msgspec.DecodeError, RecursionError):
            return False
        return True


def _part_deltas(parts: list[_Part]) -> list[Delta]:
    deltas: list[Delta] = []
    for part in parts:
        if part.text:
            deltas.append(Text(part.text))
        if isinstance(part.thinking, str):
            deltas.append(Thought(part.thinking))
        elif part.thinking:
            deltas += [Thought(inner.text) for inner in part.thinking if inner.text]
    return deltas


def _usage(usage: _Usage | None) -> Usage | None:
    if usage is None or usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    given = usage.prompt_tokens_details or _InputDetails()
    made = usage.completion_tokens_details or _OutputDetails()
    return Usage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(
            cached_tokens=given.cached_tokens or 0, cache_write_tokens=given.cache_write_tokens or 0
        ),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=made.reasoning_tokens or 0),
        total_tokens=usage.total_tokens or usage.prompt_tokens + usage.completion_tokens,
    )


class _NoChunk(Struct):
    """How errors look that come in place of a chunk."""

    error: Any = None
    object: str | None = None
    detail: Any = None


def _not_a_chunk(payload: bytes) -> ApiError:
    """The vendor's own error, or that this is nonsense."""
    try:
        said = msgspec.json.decode(payload, type=_NoChunk)
    except (msgspec.DecodeError, RecursionError):
        said = _NoChunk()
    if said.error or said.detail or said.object == "error":
        return refusal(read_fault(200, payload))
    return ModelError(f"The model server sent something that is no chunk of a chat completion: {excerpt(payload)}")
