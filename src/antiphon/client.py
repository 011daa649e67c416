"""A small client of the Responses API for the terminal. Knows the wire as a stranger does: nothing of this server.

The answer goes to stdout, so that it can be piped; reasoning (dimmed), the id and the usage go to stderr.
Written on http.client: it starts at once, and takes no proxy between two programs of one host.
"""

import http.client
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TextIO
from urllib.parse import SplitResult, quote, urlsplit

import msgspec
from msgspec import Struct

from antiphon.errors import AntiphonError

CONNECT_TIMEOUT_S = 10.0

SILENCE_TIMEOUT_S = 600.0
"""No byte for this long, comments included, and the server counts as gone."""

ERROR_BYTES_MAX = 64 * 1024
"""Of an error body; ours are below 4 KB, a proxy's page may be anything."""

CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""A model's text must not steer the terminal."""

TEXT = frozenset({"response.output_text.delta", "response.refusal.delta"})
THOUGHT = frozenset({"response.reasoning_text.delta", "response.reasoning_summary_text.delta"})
ENDS_LINE = frozenset({"response.content_part.done", "response.reasoning_summary_part.done"})
TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})


class Question(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is posted; what is None is left out."""

    input: str
    model: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    stream: bool = False


class Part(Struct, frozen=True):
    text: str = ""
    refusal: str = ""


class Item(Struct, frozen=True):
    type: str = ""
    name: str = ""
    arguments: str = ""
    summary: tuple[Part, ...] | None = None
    content: tuple[Part, ...] | None = None


class Usage(Struct, frozen=True):
    input_tokens: int = 0
    output_tokens: int = 0


class Fault(Struct, frozen=True):
    message: str = ""


class Reason(Struct, frozen=True):
    reason: str = ""


class Response(Struct, frozen=True):
    id: str
    status: str = ""
    model: str = ""
    output: tuple[Item, ...] = ()
    usage: Usage | None = None
    error: Fault | None = None
    incomplete_details: Reason | None = None


class Event(Struct, frozen=True):
    type: str = ""
    delta: str = ""
    message: str = ""
    item: Item | None = None
    response: Response | None = None


class Card(Struct, frozen=True):
    id: str


class Cards(Struct, frozen=True):
    data: tuple[Card, ...] = ()


class Envelope(Struct, frozen=True):
    error: Fault


def create(url: str, key: str | None, question: Question, *, as_json: bool = False) -> int:
    """Asks and shows; 0 when the response completed. Raises AntiphonError."""
    server = Server(url, key)
    if question.model is None:
        model = (
            server.model_of(question.previous_response_id) if question.previous_response_id else server.first_model()
        )
        question = msgspec.structs.replace(question, model=model)
    with server.call("POST", "/responses", msgspec.json.encode(question)) as answer:
        if as_json:
            return _show_json(answer, question.stream)
        response = _show_stream(answer) if question.stream else _show_whole(answer)
    return _show_end(response)


class Server:
    """Where the API is, and with which key."""

    def __init__(self, url: str, key: str | None, silence_timeout_s: float = SILENCE_TIMEOUT_S) -> None:
        self._silence_timeout_s = silence_timeout_s
        self._url = url.rstrip("/")
        self._parts = _split(self._url)
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})

    def first_model(self) -> str:
        with self.call("GET", "/models") as answer:
            cards = msgspec.json.decode(answer.read(), type=Cards).data
        if not cards:
            raise AntiphonError("the server lists no model")
        return cards[0].id

    def model_of(self, response_id: str) -> str:
        with self.call("GET", f"/responses/{quote(response_id, safe='')}") as answer:
            return msgspec.json.decode(answer.read(), type=Response).model

    @contextmanager
    def call(self, method: str, path: str, body: bytes | None = None) -> Iterator[http.client.HTTPResponse]:
        """A successful answer, to be read inside the block; every failure becomes one clear line."""
        connection = self._connect()
        try:
            connection.request(method, self._parts.path + path, body, self._headers)
            with closing(connection.getresponse()) as answer:  # it may outlive the connection
                if answer.status >= http.client.BAD_REQUEST:
                    raise AntiphonError(_refusal(answer))
                yield answer
        except BrokenPipeError:  # of our own stdout
            raise
        except TimeoutError:
            raise AntiphonError(f"the server at {self._url} was silent for {self._silence_timeout_s:g} s") from None
        except (ConnectionError, http.client.HTTPException):
            raise AntiphonError(f"the server at {self._url} broke the connection before the response ended") from None
        except msgspec.DecodeError as error:
            raise AntiphonError(f"the server at {self._url} does not speak the Responses API: {error}") from None
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.connect()
        except OSError as error:
            reason = error.strerror or str(error)
            raise AntiphonError(f"no server answers at {self._url} ({reason}); start one: antiphon serve") from None
        connection.sock.settimeout(self._silence_timeout_s)
        return connection


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise AntiphonError(f"{url!r} is no address such as http://127.0.0.1:8000/v1")
    return parts


def _refusal(answer: http.client.HTTPResponse) -> str:
    body = answer.read(ERROR_BYTES_MAX)
    try:
        message = msgspec.json.decode(body, type=Envelope).error.message
    except msgspec.DecodeError:
        message = answer.reason
    return f"{answer.status}: {message.translate(CONTROLS)}"


class Page:
    """What is on the terminal: two streams on one screen, so it must know which of them is within a line."""

    def __init__(self) -> None:
        self._within: TextIO | None = None
        self._is_plain = not sys.stderr.isatty() or "NO_COLOR" in os.environ

    def text(self, text: str) -> None:
        self._write(sys.stdout, text.translate(CONTROLS))

    def thought(self, text: str) -> None:
        text = text.translate(CONTROLS)
        self._write(sys.stderr, text if self._is_plain else f"\x1b[2m{text}\x1b[0m")

    def item(self, item: Item) -> None:
        """What no delta has shown: calls."""
        self.end_line()
        if item.type == "function_call":
            self.text(f"{item.name}({item.arguments})")
        elif item.type not in ("message", "reasoning"):
            self.thought(f"[{item.type}]")
        self.end_line()

    def end_line(self) -> None:
        if self._within is not None:
            self._within.write("\n")
            self._within.flush()
            self._within = None

    def _write(self, stream: TextIO, text: str) -> None:
        if self._within is not stream:
            self.end_line()
        stream.write(text)
        stream.flush()
        self._within = stream


def _show_json(answer: http.client.HTTPResponse, is_stream: bool) -> int:
    if not is_stream:
        body = answer.read()
        sys.stdout.write(body.decode().rstrip("\n") + "\n")
        return 0 if msgspec.json.decode(body, type=Response).status == "completed" else 1
    last = Event()
    for data in _data(answer):
        sys.stdout.write(data.decode() + "\n")
        sys.stdout.flush()
        last = msgspec.json.decode(data, type=Event)
    return 0 if last.type == "response.completed" else 1


def _show_stream(answer: http.client.HTTPResponse) -> Response:
    page, response = Page(), None
    for data in _data(answer):
        event = msgspec.json.decode(data, type=Event)
        if event.type in TEXT:
            page.text(event.delta)
        elif event.type in THOUGHT:
            page.thought(event.delta)
        elif event.type in ENDS_LINE:
            page.end_line()
        elif event.type == "response.output_item.done" and event.item:
            page.item(event.item)
        elif event.type == "error":
            raise AntiphonError(event.message.translate(CONTROLS))
        elif event.type in TERMINAL:
            response = event.response
    page.end_line()
    if response is None:
        raise AntiphonError("the stream stopped before the response ended")
    return response


def _show_whole(answer: http.client.HTTPResponse) -> Response:
    response = msgspec.json.decode(answer.read(), type=Response)
    page = Page()
    for item in response.output:
        show = page.thought if item.type == "reasoning" else page.text
        for part in (*(item.summary or ()), *(item.content or ())):
            show(part.text or part.refusal)
            page.end_line()
        page.item(item)
    return response


def _show_end(response: Response) -> int:
    if response.error is not None:
        raise AntiphonError(f"{response.id} {response.status}: {response.error.message.translate(CONTROLS)}")
    why = f" ({response.incomplete_details.reason})" if response.incomplete_details else ""
    usage = response.usage or Usage()
    line = f"{response.id} {response.status}{why}, {usage.input_tokens} tokens in, {usage.output_tokens} out"
    sys.stderr.write(f"{line}\n")
    return 0 if response.status == "completed" else 1


def _data(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """The payloads of a stream of server-sent events; comments and names of events are passed over."""
    for line in answer:
        if line.startswith(b"data:") and (data := line[len(b"data:") :].strip()) != b"[DONE]":
            yield data
