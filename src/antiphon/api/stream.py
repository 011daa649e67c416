"""A run, answered over HTTP: streamed or waited for. The run stops when the connection that created it leaves."""

import asyncio
from collections.abc import Mapping

from starlette.types import Receive, Send

from antiphon.api.http import send_json
from antiphon.engine.run import Run
from antiphon.wire import codec
from antiphon.wire.events import Event
from antiphon.wire.response import Response

SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
OPENING_EVENTS = 2
"""response.created and response.in_progress are there at once; what comes after them is the model's."""


async def answer_whole(run: Run, receive: Receive, send: Send, headers: Mapping[bytes, bytes]) -> None:
    """The final response as JSON; raises the error the run failed with."""
    watcher = asyncio.create_task(_cancel_when_left(run, receive))
    try:
        response = await run.wait()
    except asyncio.CancelledError:
        run.cancel()
        raise
    finally:
        watcher.cancel()
    await send_json(send, codec.encode(response), headers=headers)


async def answer_streamed(
    run: Run,
    receive: Receive,
    send: Send,
    headers: Mapping[bytes, bytes],
    *,
    include_usage: bool,
    first_byte_wait_s: float,
    keepalive_s: float,
) -> None:
    """The run's events as SSE. The head waits a while for the model, so that an early failure has an HTTP status;
    raises that failure."""
    watcher = asyncio.create_task(_cancel_when_left(run, receive))
    try:
        await _await_model(run, first_byte_wait_s)
        run.announced = True
        await send({"type": "http.response.start", "status": 200, "headers": [*SSE_HEADERS, *headers.items()]})
        await _send_events(run, send, keepalive_s)
        ending = codec.DONE
        if include_usage:
            ending = _usage_frame(run.response) + ending
        await send({"type": "http.response.body", "body": ending})
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


async def _send_events(run: Run, send: Send, keepalive_s: float) -> None:
    """All events until the log closes, what came together in one write; a comment on silence."""
    log = run.log
    ticker = _Ticker(run, keepalive_s)
    sent = 0
    try:
        while True:
            batch = log.events[sent:]
            if batch:
                sent += len(batch)
                await send({"type": "http.response.body", "body": _frames(batch), "more_body": True})
                ticker.wrote()
            elif log.closed:
                return
            elif ticker.is_silent():
                await send({"type": "http.response.body", "body": codec.KEEPALIVE, "more_body": True})
                ticker.wrote()
            await log.wait(sent)
    finally:
        ticker.close()


def _frames(batch: list[Event]) -> bytes:
    return codec.frame(batch[0]) if len(batch) == 1 else b"".join(map(codec.frame, batch))


class _Ticker:
    """Wakes the reader when nothing was written for a while. One timer a stream, not one a token."""

    __slots__ = ("_last", "_loop", "_run", "_silence_s", "_timer")

    def __init__(self, run: Run, silence_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._run = run
        self._silence_s = silence_s
        self._last = self._loop.time()
        self._timer = self._loop.call_later(silence_s, self._tick)

    def wrote(self) -> None:
        self._last = self._loop.time()

    def is_silent(self) -> bool:
        return self._loop.time() - self._last >= self._silence_s

    def close(self) -> None:
        self._timer.cancel()

    def _tick(self) -> None:
        silent = self.is_silent()
        if silent:
            self._run.log.wake()
        due = self._silence_s if silent else self._last + self._silence_s - self._loop.time()
        self._timer = self._loop.call_later(max(due, 0.001), self._tick)


def _usage_frame(response: Response) -> bytes:
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
