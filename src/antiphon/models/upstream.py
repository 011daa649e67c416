"""HTTP to a model server: payloads as they arrive, retries, failures in our words. Knows nothing of what payloads say.

Retries happen only before the first payload, and only for what another try may mend: a connection refused or lost, and
the statuses of RETRIED. Everything else that goes wrong is raised at once, as the one class of `antiphon.errors` that a
client should see. The key is in no message.
"""

import asyncio
import logging
import math
import os
import random
import re
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit, urlunsplit

import aiohttp

from antiphon import __version__
from antiphon.errors import ApiError, ModelError, SettingsError
from antiphon.models.faults import excerpt, read_fault, refusal
from antiphon.models.sse import DONE, EventSplitter, is_json

RETRIED = frozenset({429, 502, 503, 504})
RETRY_FIRST_S = 0.2
RETRY_WAIT_MAX_S = 8.0
"""A server that asks for a longer wait is not asked again: the client waits for headers, and can retry by itself."""
DRAIN_S = 0.1
"""How long the end of an answer is waited for after [DONE], which is what lets its connection be used again."""
ERROR_BODY_BYTES_MAX = 64 * 1024
"""Room for any vendor's error; a larger one is a page."""
SECRET_CHARS_MIN = 8
"""A shorter key ("x", "none", "EMPTY") is a placeholder; blanking it out would only garble messages."""

_BROKEN = (aiohttp.ClientError, OSError, TimeoutError)
_LASTING = (TimeoutError, aiohttp.ClientConnectorDNSError, aiohttp.ClientSSLError, aiohttp.ClientResponseError)
"""Those that another try would not mend."""
_WARNED_BYTES = 2**20
"""aiohttp warns of larger bodies that are bytes: as a file they go out in pieces."""
_STREAM_START = re.compile(rb"\xef\xbb\xbf|[a-z]*(:|$)")
"""A field of an event stream, maybe cut short by the end of the read."""

_log = logging.getLogger("antiphon.upstream")
T = TypeVar("T")


class Upstream:
    """One model server. Close it when done; a session is opened at the first call, in the loop that runs then."""

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
        self._connect_timeout_s = connect_timeout_s
        self.silence_timeout_s = silence_timeout_s
        self._attempts_max = attempts_max
        self._sleep = sleep
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        """By whether their connections are used again."""
        self._has_answered = False

    async def post_events(self, path: str, body: bytes) -> AsyncGenerator[list[bytes], None]:
        """The `data:` payloads of the answer, one list per network read, `[DONE]` included.

        A server that answers with plain JSON gives one payload, the whole body; the log says so. Closing the generator,
        or cancelling the task that reads it, closes the connection at once, so that the server stops working.
        """
        answer = await self._retried(lambda reuse: self._begin(path, body, reuse=reuse))
        try:
            payloads = answer.first
            while payloads:
                yield payloads
                payloads = await answer.read()
        except _BROKEN as error:
            raise self.broken(error) from None
        finally:
            answer.close()

    async def get(self, path: str) -> bytes:
        return await self._retried(lambda reuse: self._whole(path, reuse=reuse))

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()

    def masked(self, error: ApiError) -> ApiError:
        """The same error, without the key that a server may have quoted in its stream."""
        error.args = (self._without_key(error.message.encode()).decode(),)
        return error

    def _without_key(self, text: bytes) -> bytes:
        return text.replace(self._key.encode(), b"***") if len(self._key) >= SECRET_CHARS_MIN else text

    def broken(self, error: Exception) -> ModelError:
        """A fault of the connection, told."""
        match error:
            case aiohttp.ConnectionTimeoutError():
                what = f"cannot be reached at {self.url}: no connection within {self._connect_timeout_s:g} s"
            case aiohttp.ClientConnectorError():
                what = f"cannot be reached at {self.url}: {_reason(error)}"
            case TimeoutError():
                what = f"at {self.url} said nothing for {self.silence_timeout_s:g} s"
            case aiohttp.ClientResponseError():
                what = f"at {self.url} does not speak HTTP: {_reason(error)}"
            case _:
                what = f"at {self.url} closed the connection before its answer was finished"
        return ModelError(f"The model server {what}.")

    def nonsense(self, data: bytes) -> ModelError:
        what = f"something that is no model's answer: {excerpt(self._without_key(data))}"
        if data.startswith(b"<"):
            what = "a web page: its url in the settings must name the API, with its /v1"
        return ModelError(f"The model server at {self.url} answered with {what}.")

    async def _retried(self, attempt: Callable[[bool], Awaitable[T]]) -> T:
        number, reuse = 1, self.reuses_connections
        while True:
            try:
                return await attempt(reuse)
            except _Stale:
                reuse = False
                continue
            except _Passing as failure:
                if number >= self._attempts_max or failure.asked_s > RETRY_WAIT_MAX_S:
                    raise failure.error from None
                wait_s = max(failure.asked_s, _backoff_s(number))
                _log.warning("%s Trying again in %.1f s.", failure.error.message, wait_s)
            await self._sleep(wait_s)
            number += 1

    async def _begin(self, path: str, body: bytes, *, reuse: bool) -> "_Answer":
        answer = _Answer(self, await self._request("POST", path, body, reuse=reuse))
        try:
            await answer.begin()
        except BaseException as error:
            answer.close()
            if isinstance(error, _BROKEN):
                raise self._failed_try(error) from None
            raise
        return answer

    async def _whole(self, path: str, *, reuse: bool) -> bytes:
        response = await self._request("GET", path, reuse=reuse)
        try:
            return await self.read_whole(response, self.line_bytes_max)
        except _BROKEN as error:
            raise self._failed_try(error) from None
        finally:
            response.close()

    async def read_whole(self, response: aiohttp.ClientResponse, bytes_max: int, start: bytes = b"") -> bytes:
        """The whole of a body; `start` is what was read of it already."""
        body = bytearray(start)
        while True:
            if len(body) > bytes_max:
                raise ModelError(f"The model server at {self.url} sent more than {bytes_max} bytes at once.")
            async with asyncio.timeout(self.silence_timeout_s):
                data = await response.content.readany()
            if not data:
                return bytes(body)
            body += data

    def _failed_try(self, error: Exception) -> Exception:
        told = self.broken(error)
        return told if isinstance(error, _LASTING) else _Passing(told)

    async def _request(self, method: str, path: str, body: bytes = b"", *, reuse: bool) -> aiohttp.ClientResponse:
        target = urlunsplit(self._parts._replace(path=self._parts.path.rstrip("/") + path))
        data = BytesIO(body) if len(body) > _WARNED_BYTES else body or None
        try:
            async with asyncio.timeout(self._connect_timeout_s + self.silence_timeout_s):
                response = await self._session(reuse).request(method, target, data=data, allow_redirects=False)
        except _BROKEN as error:
            if reuse and self._has_answered and _is_closed(error):
                raise _Stale from None
            raise self._failed_try(error) from None
        self._has_answered = True
        if response.status < 300:
            return response
        try:
            raise await self._refusal(response)
        finally:
            response.close()

    def _session(self, reuse: bool) -> aiohttp.ClientSession:
        if reuse not in self._sessions:
            self._sessions[reuse] = aiohttp.ClientSession(
                headers=self._headers(),
                connector=aiohttp.TCPConnector(limit=0, force_close=not reuse),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=self._connect_timeout_s,  # name resolution included
                    sock_connect=self._connect_timeout_s,
                ),  # silence is watched here: see _Answer
                cookie_jar=aiohttp.DummyCookieJar(),  # one client's answer must not mark another's request
                auto_decompress=True,
                trust_env=False,
            )
        return self._sessions[reuse]

    def _headers(self) -> dict[str, str]:
        headers = {
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",  # a compressor would hold tokens back
            "Content-Type": "application/json",
            "User-Agent": f"antiphon/{__version__}",
        }
        return headers | ({"Authorization": f"Bearer {self._key}"} if self._key else {})

    async def _refusal(self, response: aiohttp.ClientResponse) -> Exception:
        """What to raise for an answer that is none."""
        if response.status < 400:
            return ModelError(
                f"The model server at {self.url} redirects elsewhere (HTTP {response.status}), which is not followed. "
                "Its settings must name the address that answers."
            )
        try:
            body = await self.read_whole(response, ERROR_BODY_BYTES_MAX)
        except (ModelError, *_BROKEN):
            body = b""
        fault = read_fault(response.status, self._without_key(body))
        error = refusal(fault)
        if response.status not in RETRIED or fault.code == "insufficient_quota":
            return error
        return _Passing(error, _asked_wait_s(response.headers.get("Retry-After", "")))


class _Passing(Exception):
    """A failure that another try may mend."""

    def __init__(self, error: ApiError, asked_s: float = 0.0) -> None:
        super().__init__(error.message)
        self.error = error
        self.asked_s = asked_s


class _Stale(Exception):
    """A connection was closed just as it was used again: the next try, at once, is on a new one.

    llama.cpp does so after most streams; nothing was answered, so nothing is done twice that matters.
    """


class _Answer:
    """The answer to one POST, from its first payloads to its end.

    Watches the silence with one timer a stream, which looks how long the read in progress has waited: aiohttp's
    `sock_read` sets a timer at every read, which costs some 5 us a token.
    """

    __slots__ = ("_is_over", "_loop", "_response", "_splitter", "_timer", "_upstream", "_waits_since_s", "first")

    def __init__(self, upstream: Upstream, response: aiohttp.ClientResponse) -> None:
        self._upstream = upstream
        self._response = response
        self._splitter = EventSplitter(upstream.line_bytes_max)
        self._is_over = False
        self._loop = asyncio.get_running_loop()
        self._waits_since_s = math.inf
        self._timer = self._loop.call_later(upstream.silence_timeout_s, self._watch)
        self.first: list[bytes] = []

    async def begin(self) -> None:
        """Reads the first payloads. Judges by the bytes: content types are often wrong."""
        data = b""
        while not (data or self._response.content.at_eof()):
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
        """Closes the connection, unless its answer came to its end: then it went back to the pool by itself."""
        self._timer.cancel()
        self._response.close()

    async def _read(self) -> bytes:
        self._waits_since_s = self._loop.time()
        data = await self._response.content.readany()
        self._waits_since_s = math.inf
        return data

    def _watch(self) -> None:
        """Time spent by whoever handles the payloads is not the server's silence."""
        waited_s = max(0.0, self._loop.time() - self._waits_since_s)
        if waited_s >= self._upstream.silence_timeout_s:
            self._response.content.set_exception(TimeoutError())
        else:
            self._timer = self._loop.call_later(self._upstream.silence_timeout_s - waited_s, self._watch)

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
        if not self._upstream.reuses_connections:
            return
        try:
            async with asyncio.timeout(DRAIN_S):
                while await self._response.content.readany():
                    pass
        except _BROKEN:
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


def _is_closed(error: Exception) -> bool:
    """Whether there was a connection, and the server closed it."""
    is_opening = isinstance(error, aiohttp.ClientConnectorError)
    return isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError) and not is_opening


def _reason(error: Exception) -> str:
    cause = getattr(error, "os_error", error)
    number = getattr(cause, "errno", None) or 0
    is_plain = number > 0 and not isinstance(cause, ssl.SSLError)  # names and TLS have numbers of their own
    return os.strerror(number) if is_plain else str(cause) or type(cause).__name__


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
