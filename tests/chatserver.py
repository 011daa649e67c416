"""The two ends of a server under test: the chat-completions server that it asks, and the official SDK that asks it."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeAlias, cast

import httpx2
import openai
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from antiphon.config import ChatUpstream, Limits, ScriptedToolSettings, Settings, Storage, Tools
from antiphon.core.fold import Fold
from tests.conftest import WAIT_S, serve
from tests.rawserver import RawServer, Script, Wire, answers, streams

Object: TypeAlias = dict[str, Any]

# -- behind: a chat-completions server


class ChatServer(RawServer):
    """Serves one model, which has a reply to each prompt: to the text of the last message, whoever's it is."""

    def __init__(self, replies: Mapping[str, Script], *, model: str = "upstream") -> None:
        super().__init__(self._answer)
        self._replies = replies
        self._model = model
        self.otherwise: Script | None = None
        """The reply to all other prompts."""

    @property
    def bodies(self) -> list[Object]:
        """What was asked for, request by request."""
        return [json.loads(asked.body) for asked in self.asked if asked.method == "POST"]

    async def _answer(self, wire: Wire) -> None:
        await self._reply(wire.asked.path, wire.asked.body)(wire)

    def _reply(self, path: str, body: bytes) -> Script:
        if path == "/v1/models":
            return answers(json.dumps({"object": "list", "data": [{"id": self._model, "object": "model"}]}).encode())
        content = json.loads(body)["messages"][-1]["content"]
        prompt = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        return self._replies.get(prompt) or self.otherwise or refuses(f"no reply to {prompt!r} is scripted")


def replies(*deltas: Object, finish: str = "stop", usage: Object | None = None) -> Script:
    """A turn: a chunk for each delta, then the reason to finish, and usage where there is any."""
    return streams(*(sse(chunk(delta)) for delta in deltas), sse(chunk({}, finish)), *_ending(usage))


def says(*words: str, finish: str = "stop") -> Script:
    """An answer in text, with its usage: 7 tokens in, one a word out."""
    return replies(*map(text, words), finish=finish, usage=used(7, len(words)))


def says_with_logprobs(*words: str, top: int) -> Script:
    """An answer in text, each word a token whose logprob is -0.5, with `top` others that are less likely."""
    chunks = [chunk(text(word)) for word in words]
    for word, one in zip(words, chunks, strict=True):
        others = [
            {"token": f"{word}{n}", "bytes": list(f"{word}{n}".encode()), "logprob": -1.0 - n} for n in range(top)
        ]
        score = {"token": word, "bytes": list(word.encode()), "logprob": -0.5, "top_logprobs": others}
        one["choices"][0]["logprobs"] = {"content": [score], "refusal": None}
    return streams(*map(sse, chunks), sse(chunk({}, "stop")), *_ending(used(7, len(words))))


def _score(token: str, logprob: float) -> Object:
    return {"token": token, "bytes": list(token.encode()), "logprob": logprob}


def says_by_tier(word: str, tier: str) -> Script:
    """An answer in text that says by which service tier it was made, in every chunk as OpenAI does."""
    told = {"service_tier": tier}
    return streams(sse(chunk(text(word)) | told), sse(chunk({}, "stop") | told), *_ending(None))


def refuses(message: str, *, status: int = 400, code: str | None = None, param: str | None = None) -> Script:
    """An error in place of an answer."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return answers(json.dumps({"error": error}).encode(), status=status)


def in_order(*scripts: Script) -> Script:
    """One reply after the other."""
    waiting = list(scripts)

    async def script(wire: Wire) -> None:
        await waiting.pop(0)(wire)

    return script


def text(piece: str) -> Object:
    return {"content": piece}


def thought(piece: str) -> Object:
    return {"reasoning_content": piece}


def call(index: int, call_id: str, name: str) -> Object:
    """The beginning of a call; `arguments` gives the rest."""
    function = {"name": name, "arguments": ""}
    return {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}


def arguments(index: int, piece: str) -> Object:
    return {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def used(given: int, made: int, *, cached: int = 0, thought: int = 0) -> Object:
    return {
        "prompt_tokens": given,
        "completion_tokens": made,
        "total_tokens": given + made,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": thought},
    }


def chunk(delta: Object, finish: str | None = None) -> Object:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "upstream", "choices": choices}


def sse(data: Object) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def _ending(usage: Object | None) -> list[bytes]:
    counted = [sse(chunk({}) | {"choices": [], "usage": usage})] if usage else []
    return [*counted, b"data: [DONE]\n\n"]


# -- before: the official SDK, which holds every answer to the rules

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""The usual context loads all authorities, for every client anew; nothing here speaks TLS."""


def sdk(url: str, *, key: str = "none") -> openai.AsyncOpenAI:
    """The SDK; it must not hide a fault by trying again. Each answer it gets is also read by `_Ruled`."""
    http = httpx2.AsyncClient(verify=_NO_TLS, timeout=WAIT_S, event_hooks={"response": [_rule_async]})
    return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, http_client=http)


def sync_sdk(url: str, *, key: str = "none") -> openai.OpenAI:
    http = httpx2.Client(verify=_NO_TLS, timeout=WAIT_S, event_hooks={"response": [_rule]})
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0, http_client=http)


async def ended(client: openai.AsyncOpenAI, response_id: str) -> Response:
    """The response once it runs no longer."""
    async with asyncio.timeout(WAIT_S):
        while (response := await client.responses.retrieve(response_id)).status == "in_progress":
            pass
    return response


def _rule(response: httpx2.Response) -> None:
    response.stream = _Ruled(response)


async def _rule_async(response: httpx2.Response) -> None:
    response.stream = _Ruled(response)


_EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
_OWN_TYPE = b'"type":"antiphon:'
"""Of items that the package does not know: what holds one is not of its types."""


class _Ruled(httpx2.AsyncByteStream, httpx2.SyncByteStream):
    """A body on its way to the SDK: a stream must fold, event by event; events, responses and errors be well-typed."""

    def __init__(self, answer: httpx2.Response) -> None:
        assert answer.headers["x-request-id"].startswith("req_")
        self._answer = answer
        self._body = answer.stream
        self._is_stream = answer.headers.get("content-type", "").startswith("text/event-stream")
        self._unread = b""
        self._fold = Fold()
        self._is_done = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in cast("httpx2.AsyncByteStream", self._body):
            self._read(piece)
            yield piece
        self._end()

    def __iter__(self) -> Iterator[bytes]:
        for piece in cast("httpx2.SyncByteStream", self._body):
            self._read(piece)
            yield piece
        self._end()

    async def aclose(self) -> None:
        await cast("httpx2.AsyncByteStream", self._body).aclose()

    def close(self) -> None:
        cast("httpx2.SyncByteStream", self._body).close()

    def _read(self, piece: bytes) -> None:
        self._unread += piece
        if self._is_stream:
            *frames, self._unread = self._unread.split(b"\n\n")
            for frame in frames:
                self._read_frame(frame)

    def _read_frame(self, frame: bytes) -> None:
        assert not self._is_done, "nothing follows [DONE]"
        if frame == b": keep-alive":
            return
        *head, data = frame.split(b"\n")
        data = data.removeprefix(b"data: ")
        if data == b"[DONE]":
            assert self._fold.finished
            self._is_done = True
        elif not head:
            assert self._fold.finished, "only the usage frame is no event"
            assert json.loads(data)["object"] == "response.chunk"
        else:
            self._read_event(head, data)

    def _read_event(self, head: list[bytes], data: bytes) -> None:
        event = json.loads(data)
        assert head == [f"event: {event['type']}".encode()]
        self._fold.feed(event)
        if _OWN_TYPE not in data and not event["type"].startswith("response.antiphon:"):
            _EVENT.validate_json(data, strict=True)

    def _end(self) -> None:
        """Not reached when the SDK has read enough: then the stream is done, or the test closed it."""
        if self._is_stream:
            assert self._is_done
            return
        body = json.loads(self._unread)
        if self._answer.is_error:
            assert body.keys() == {"error"}
            assert body["error"].keys() == {"message", "type", "param", "code"}
            assert len(self._unread) <= 4096
        elif body.get("object") == "response" and "output" in body and _OWN_TYPE not in self._unread:
            Response.model_validate_json(self._unread, strict=True)


# -- both


class Relay(NamedTuple):
    upstream: ChatServer
    client: openai.AsyncOpenAI


@asynccontextmanager
async def relay(replies: Mapping[str, Script], limits: Limits = Limits()) -> AsyncIterator[Relay]:  # noqa: B008 # frozen
    """The server under test between the two."""
    async with ChatServer(replies) as upstream:
        settings = Settings(
            models=(ChatUpstream(url=upstream.url, attempts_max=1),),
            storage=Storage(database=":memory:"),
            limits=limits,
            tools=Tools(scripted=ScriptedToolSettings(enabled=True)),
        )
        async with serve(settings) as url, sdk(url) as client:
            yield Relay(upstream, client)
