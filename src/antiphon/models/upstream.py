"""HTTP to a model server: payloads as they arrive, retries, failures in our words. Knows nothing of what payloads say.

Retries happen only before the first payload, and only for what another try may mend: a connection refused or lost, and
the statuses of RETRIED. Everything else that goes wrong is raised at once, as the one class of `antiphon.errors` that a
client should see. The key is in no message.
"""

import asyncio
import base64
import logging
import random
import re
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache, partial
from typing import TypeVar
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from antiphon import __version__
from antiphon.errors import ApiError, ModelError, SettingsError
from antiphon.models.faults import excerpt, read_fault, refusal
from antiphon.models.sse import DONE, EventSplitter, is_json
from antiphon.net import h1

RETRIED = frozenset({429, 502, 503, 504})
RETRY_FIRST_S = 0.2
RETRY_WAIT_MAX_S = 8.0
"""A server that asks for a longer wait is not asked again: the client waits for headers, and can retry by itself."""
GATHER_S = 0.1
"""How long an answer that nobody watches is gathered before it is looked at: a wake-up costs more than a token."""
DRAIN_S = 0.1
"""How long the end of an answer is waited for after its last word, which is what lets its connection be used again."""
ERROR_BODY_BYTES_MAX = 64 * 1024
"""Room for any vendor's error; a larger one is a page."""
SECRET_CHARS_MIN = 8
"""A shorter key ("x", "none", "EMPTY") is a placeholder; blanking it out would only garble messages."""

_STREAM_START = re.compile(rb"\xef\xbb\xbf|[a-z]*(:|$)")
"""A field of an event stream, maybe cut short by the end of the read."""

_log = logging.getLogger("antiphon.upstream")
T = TypeVar("T")


class Upstream:
    """One model server. Close it when done; connections are opened as they are needed."""

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        connect_timeout_s: float,
        silence_timeout_s: float,
        attempts_max: int,
        line_bytes_max: int,
        reuse_connections: bool = True,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._parts = _address(url, key)
        self.url = _shown_address(self._parts)
        """For messages: without credentials and query."""
        self.line_bytes_max = line_bytes_max
        self.reuses_connections = reuse_connections
        self._key = key
        self._silence_timeout_s = silence_timeout_s
        self._attempts_max = attempts_max
        self._sleep = sleep
        is_tls = self._parts.scheme == "https"
        self._client = h1.Client(
            self._parts.hostname or "",
            self._parts.port or (443 if is_tls else 80),
            headers=_headers(key, self._parts),
            tls=ssl.create_default_context() if is_tls else None,
            connect_timeout_s=connect_timeout_s,
            silence_timeout_s=silence_timeout_s,
            reuse=reuse_connections,
        )

    async def post_events(self, path: str, body: bytes, *, is_live: bool = True) -> AsyncGenerator[list[bytes], None]:
        """The `data:` payloads of the answer, one list per network read, `[DONE]` included. When it is not live, that
        is nobody watches it come, what arrives within GATHER_S is one list.

        A server that answers with plain JSON gives one payload, the whole body; the log says so. Closing the generator,
        or cancelling the task that reads it, closes the connection at once, so that the server stops working.
        """
        answer = await self._retried(lambda: self._begin(path, body, is_live))
        try:
            payloads = answer.first
            while payloads:
                yield payloads
                payloads = await answer.read()
        except h1.Fault as error:
            raise self.broken(error) from None
        finally:
            answer.close()

    async def ask(self, path: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        """The status and the body of the answer to one POST, whatever they are. A path counts from the server's root,
        or, if it begins with ".", from the API's. Raises ModelError when there is no answer in that time."""
        base = self._parts.path.rstrip("/")
        target = base + path[1:] if path.startswith(".") else base.removesuffix("/v1") + path
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._client.request("POST", _target(target, self._parts.query), body)
                try:
                    return response.status, await self.read_whole(response, self.line_bytes_max)
                finally:
                    response.close()
        except h1.Fault as error:
            raise self.broken(error) from None
        except TimeoutError:
            raise ModelError(f"The model server at {self.url} did not answer {path} within {timeout_s:g} s.") from None

    async def get(self, path: str) -> bytes:
        return await self._retried(lambda: self._whole(path))

    async def close(self) -> None:
        await self._client.close()

    def masked(self, error: ApiError) -> ApiError:
        """The same error, without the key that a server may have quoted in its stream."""
        error.args = (self._without_key(error.message.encode()).decode(),)
        return error

    def _without_key(self, text: bytes) -> bytes:
        return text.replace(self._key.encode(), b"***") if len(self._key) >= SECRET_CHARS_MIN else text

    def broken(self, error: h1.Fault) -> ModelError:
        """A fault of the connection, told."""
        match error:
            case h1.Unreachable():
                what = f"cannot be reached at {self.url}: {error}"
            case h1.Silent():
                what = f"at {self.url} said nothing for {self._silence_timeout_s:g} s"
            case h1.NotHttp():
                what = f"at {self.url} does not speak HTTP"
            case _:
                what = f"at {self.url} closed the connection before its answer was finished"
        return ModelError(f"The model server {what}.")

    def nonsense(self, data: bytes) -> ModelError:
        what = f"something that is no model's answer: {excerpt(self._without_key(data))}"
        if data.startswith(b"<"):
            what = "a web page: its url in the settings must name the API, with its /v1"
        return ModelError(f"The model server at {self.url} answered with {what}.")

    async def _retried(self, attempt: Callable[[], Awaitable[T]]) -> T:
        number = 1
        while True:
            try:
                return await attempt()
            except _Passing as failure:
                if number >= self._attempts_max or failure.asked_s > RETRY_WAIT_MAX_S:
                    raise failure.error from None
                wait_s = max(failure.asked_s, _backoff_s(number))
                _log.warning("%s Trying again in %.1f s.", failure.error.message, wait_s)
            await self._sleep(wait_s)
            number += 1

    async def _begin(self, path: str, body: bytes, is_live: bool) -> "_Answer":
        answer = _Answer(self, await self._request("POST", path, body), is_live)
        try:
            await answer.begin()
        except BaseException as error:
            answer.close()
            if isinstance(error, h1.Fault):
                raise self._failed_try(error) from None
            raise
        return answer

    async def _whole(self, path: str) -> bytes:
        response = await self._request("GET", path)
        try:
            return await self.read_whole(response, self.line_bytes_max)
        except h1.Fault as error:
            raise self._failed_try(error) from None
        finally:
            response.close()

    async def read_whole(self, response: h1.Answer, bytes_max: int, start: bytes = b"") -> bytes:
        """The whole of a body; `start` is what was read of it already."""
        body = bytearray()
        data = start or await response.read()
        while data:
            body += data
            if len(body) > bytes_max:
                raise ModelError(f"The model server at {self.url} sent more than {bytes_max} bytes at once.")
            data = await response.read()
        return bytes(body)

    def _failed_try(self, error: h1.Fault) -> Exception:
        """Silence and nonsense stay; a connection that was refused or lost may be there at the next try."""
        told = self.broken(error)
        may_pass = error.may_pass if isinstance(error, h1.Unreachable) else isinstance(error, h1.Broken)
        return _Passing(told) if may_pass else told

    async def _request(self, method: str, path: str, body: bytes = b"") -> h1.Answer:
        try:
            target = _target(self._parts.path.rstrip("/") + path, self._parts.query)
            response = await self._client.request(method, target, body)
        except h1.Fault as error:
            raise self._failed_try(error) from None
        fault = await self._refusal(response) if response.status >= 300 else self._compression(response)
        if fault is not None:
            response.close()
            raise fault
        return response

    def _compression(self, response: h1.Answer) -> ModelError | None:
        """It was not asked for; what cannot be undone is told."""
        coding = response.headers.get("content-encoding", "identity").lower()
        if coding in h1.INFLATED | {"identity", ""}:
            return None
        return ModelError(f"The model server at {self.url} compresses its answers ({coding[:32]}), unasked.")

    async def _refusal(self, response: h1.Answer) -> Exception:
        """What to raise for an answer that is none."""
        if response.status < 400:
            return ModelError(
                f"The model server at {self.url} redirects elsewhere (HTTP {response.status}), which is not followed. "
                "Its settings must name the address that answers."
            )
        try:
            body = await self.read_whole(response, ERROR_BODY_BYTES_MAX)
        except (ModelError, h1.Fault):
            body = b""
        fault = read_fault(response.status, self._without_key(body))
        error = refusal(fault)
        if response.status not in RETRIED or fault.code == "insufficient_quota":
            return error
        return _Passing(error, _asked_wait_s(response.headers.get("retry-after", "")))


class _Passing(Exception):
    """A failure that another try may mend."""

    def __init__(self, error: ApiError, asked_s: float = 0.0) -> None:
        super().__init__(error.message)
        self.error = error
        self.asked_s = asked_s


class _Answer:
    """The answer to one POST, from its first payloads to its end."""

    __slots__ = ("_is_over", "_read", "_response", "_splitter", "_upstream", "first")

    def __init__(self, upstream: Upstream, response: h1.Answer, is_live: bool) -> None:
        self._upstream = upstream
        self._response = response
        self._read = response.read if is_live else partial(response.read_gathered, GATHER_S)
        self._splitter = EventSplitter(upstream.line_bytes_max)
        self._is_over = False
        self.first: list[bytes] = []

    async def begin(self) -> None:
        """Reads the first payloads. Judges by the bytes: content types are often wrong."""
        data = (await self._read()).lstrip()
        while not (data or self._response.is_complete):
            data = (await self._read()).lstrip()
        if data[:1] in (b"{", b"["):
            self.first = [await self._plain_json(data)]
        elif _STREAM_START.match(data):
            self.first = self._payloads(data) or await self.read()
        else:
            raise self._upstream.nonsense(data)

    async def read(self) -> list[bytes]:
        """The payloads of the next network read that holds any; none at the end."""
        if self._is_over:
            await self._drain()
            return []
        while data := await self._read():
            if payloads := self._payloads(data):
                return payloads
        return self._splitter.end()

    def close(self) -> None:
        """Closes the connection, unless its answer came to its end: then it can be used again."""
        self._response.close()

    def _payloads(self, data: bytes) -> list[bytes]:
        payloads = self._splitter.feed(data)
        if payloads and payloads[-1] == DONE:
            self._is_over = True
        return payloads

    async def _plain_json(self, start: bytes) -> bytes:
        _log.warning("The model server at %s does not stream: it answered with plain JSON.", self._upstream.url)
        body = await self._upstream.read_whole(self._response, self._upstream.line_bytes_max, start)
        if not is_json(body):
            raise self._upstream.nonsense(body)
        self._is_over = True
        return body

    async def _drain(self) -> None:
        """Waits for the end of the body, a moment after [DONE]: without it the connection cannot be used again."""
        if self._response.is_complete or not self._upstream.reuses_connections:
            return
        try:
            async with asyncio.timeout(DRAIN_S):
                while await self._response.read():
                    pass
        except (h1.Fault, TimeoutError):
            return  # the answer is complete; only its connection is lost


# -- addresses and waits


def _address(url: str, key: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket or a port that is none
        is_address = False
    if not is_address:
        raise SettingsError(f"{url!r} is no address of a model server: it must be like http://127.0.0.1:8000/v1")
    if not key.isprintable():
        raise SettingsError(f"The key for the model server at {_shown_address(parts)} holds a control character.")
    if key and parts.username:
        raise SettingsError(f"The model server at {_shown_address(parts)} has a key and credentials in its url.")
    return parts


@cache
def _target(path: str, query: str) -> str:
    path, query = quote(path, safe="/%:@!$&'()*+,;=~"), quote(query, safe="/%:@!$&()*+,;=~?")
    return f"{path}?{query}" if query else path


def _headers(key: str, parts: SplitResult) -> dict[str, str]:
    headers = {
        "Accept": "text/event-stream, application/json",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "User-Agent": f"antiphon/{__version__}",
    }
    if parts.username:
        account = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(account.encode()).decode()}"
    elif key:
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _shown_address(parts: SplitResult) -> str:
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _backoff_s(number: int) -> float:
    """Doubles with every try; the spread keeps many streams that failed together from returning together."""
    return min(RETRY_FIRST_S * 2.0 ** (number - 1) * random.uniform(0.75, 1.25), RETRY_WAIT_MAX_S)  # noqa: S311


def _asked_wait_s(retry_after: str) -> float:
    """Seconds that a Retry-After header asks for, in either of its forms; 0 for none."""
    try:
        if retry_after.isdecimal():
            return float(retry_after)
        return max(0.0, float((parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()))
    except (ValueError, TypeError):  # no date, or one without a zone
        return 0.0
