"""A run, answered over HTTP: streamed or waited for. The run stops when the connection that created it leaves."""

import asyncio
import secrets
import types
from collections.abc import Callable, Collection, Coroutine, Generator, Mapping
from functools import partial
from typing import Any, cast

from starlette.types import Message, Receive, Send

from antiphon.api.http import Call, send_value
from antiphon.engine.log import EventLog
from antiphon.engine.run import Run
from antiphon.wire import codec
from antiphon.wire.events import Event
from antiphon.wire.included import framing
from antiphon.wire.request import StreamOptions
from antiphon.wire.response import Response

SSE_HEADERS = [
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
OPENING_EVENTS = 2
"""response.created and response.in_progress are there at once; what comes after them is the model's."""


async def answer_whole(run: Run, call: Call, headers: Mapping[bytes, bytes], wanted: Collection[str]) -> None:
    """The final response as JSON; raises the error the run failed with."""
    watcher = asyncio.create_task(_cancel_when_left(run, call.receive))
    try:
        response = await run.wait()
    except asyncio.CancelledError:
        run.cancel()
        raise
    finally:
        watcher.cancel()
    await send_value(call, response, wanted=wanted, headers=headers)


async def answer_streamed(
    run: Run,
    call: Call,
    headers: Mapping[bytes, bytes],
    *,
    wanted: Collection[str],
    options: StreamOptions,
    first_byte_wait_s: float,
    keepalive_s: float,
) -> None:
    """The run's events as SSE. The head waits a while for the model, so that an early failure has an HTTP status;
    raises that failure."""
    watcher = asyncio.create_task(_cancel_when_left(run, call.receive))
    try:
        await _await_model(run, first_byte_wait_s)
        run.announced = True
        kind = (b"content-type", call.dialect.stream_type)
        await call.send(call.scope["antiphon"].head(200, [kind, *SSE_HEADERS, *headers.items()]))
        frame = call.dialect.frame
        if run.plan.has_hosted:
            frame = framing(frame, wanted)
        writer = _Writer(run.log, noisy(frame) if options.include_obfuscation else frame, call.send, keepalive_s)
        try:
            await writer.is_done
        finally:
            await writer.close()
        ending = usage_frame(run.response) + codec.DONE if options.include_usage else codec.DONE
        await call.send(body(ending, more=False))
    except asyncio.CancelledError:
        run.cancel()
        raise
    finally:
        watcher.cancel()


async def _cancel_when_left(run: Run, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    run.cancel()


async def _await_model(run: Run, timeout_s: float) -> None:
    """Returns when the model has said something, the run has ended, or `timeout_s` passed. Raises what it failed with
    before it said anything."""
    is_overdue = False

    def give_up() -> None:  # a flag, not the clock: a timer may fire a hair before its time
        nonlocal is_overdue
        is_overdue = True
        run.log.wake()

    timer = asyncio.get_running_loop().call_later(timeout_s, give_up)
    try:
        while len(run.log.events) <= OPENING_EVENTS and not run.log.closed and not is_overdue:
            await run.log.wait(OPENING_EVENTS)
    finally:
        timer.cancel()
    if run.error is not None and not run.response.output:
        raise run.error


def noisy(frame: Callable[[Event], bytes]) -> Callable[[Event], bytes]:
    """Frames whose sizes tell nothing (`stream_options.include_obfuscation`)."""
    return lambda event: codec.obfuscated(event, frame(event), _noise)


def _noise(size: int) -> bytes:
    return secrets.token_hex((size + 1) // 2)[:size].encode()


class _Writer:
    """Sends a run's events as they come, what came together in one write, and a comment on silence.

    It writes in the run's own step as long as the connection takes what it is given. When the client is slow, the
    rest of that write waits in a task of its own, and what comes meanwhile goes out together after it: the run is
    never held up.
    """

    __slots__ = ("_frame", "_last", "_log", "_loop", "_rest", "_send", "_sent", "_silence_s", "_timer", "is_done")

    def __init__(self, log: EventLog, frame: Callable[[Event], bytes], send: Send, silence_s: float) -> None:
        self._log = log
        self._frame = frame
        self._send = send
        self._silence_s = silence_s
        self._loop = asyncio.get_running_loop()
        self._sent = 0
        self._last = self._loop.time()
        self._rest: asyncio.Task[None] | None = None
        self.is_done = self._loop.create_future()
        self._timer = self._loop.call_later(silence_s, self._tick)
        log.listener = self._write
        self._write()

    async def close(self) -> None:
        self._log.listener = None
        self._timer.cancel()
        if self._rest is not None:
            self._rest.cancel()
            await asyncio.gather(self._rest, return_exceptions=True)

    def _write(self) -> None:
        log = self._log
        if self._rest is None and len(log.events) > self._sent:
            batch = log.events[self._sent :]
            self._sent += len(batch)
            frame = self._frame
            self._put(frame(batch[0]) if len(batch) == 1 else b"".join(map(frame, batch)))
        if log.closed and self._rest is None and not self.is_done.done():
            self.is_done.set_result(None)

    def _put(self, data: bytes) -> None:
        """Takes the first step of sending by hand: it is the last one too unless the client is slow."""
        self._last = self._loop.time()
        sending = cast("Coroutine[Any, Any, None]", self._send(body(data, more=True)))
        try:
            waits_for = sending.send(None)
        except StopIteration:
            return
        self._rest = self._loop.create_task(self._send_rest(sending, waits_for))

    async def _send_rest(self, sending: Coroutine[Any, Any, None], waits_for: object) -> None:
        await _go_on(sending, waits_for)
        self._rest = None
        self._write()

    def _tick(self) -> None:
        """One timer a stream, not one a token: it looks how long the silence has been."""
        silent_s = self._loop.time() - self._last
        if silent_s >= self._silence_s:
            if self._rest is None:
                self._put(codec.KEEPALIVE)
            silent_s = 0.0
        self._timer = self._loop.call_later(max(self._silence_s - silent_s, 0.001), self._tick)


@types.coroutine
def _go_on(begun: Coroutine[Any, Any, None], waits_for: object) -> Generator[object, Any, None]:
    """The rest of a coroutine whose first step was taken by hand and asked to wait for something."""
    while True:
        try:
            came = yield waits_for
        except asyncio.CancelledError as error:  # all that a task throws into what it runs
            step = partial(begun.throw, error)
        else:
            step = partial(begun.send, came)
        try:
            waits_for = step()
        except StopIteration:
            return


def body(data: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def usage_frame(response: Response) -> bytes:
    """The extra frame of `stream_options.include_usage`: no event, not numbered, not logged."""
    chunk = {
        "object": "response.chunk",
        "id": response.id,
        "created": response.created_at,
        "model": response.model,
        "choices": [],
        "usage": response.usage,
    }
    return b"data: " + codec.encode(chunk) + b"\n\n"
