"""The written events of a background response, answered over HTTP. It does not depend on who reads along."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing

from starlette.types import Receive

from antiphon.api.http import Call, ClientLeft
from antiphon.api.stream import SSE_HEADERS, body, noisy, usage_frame
from antiphon.errors import Unavailable
from antiphon.wire import codec
from antiphon.wire.events import TERMINAL, Event
from antiphon.wire.included import framing
from antiphon.wire.request import StreamOptions


async def answer_followed(
    events: AsyncGenerator[Sequence[Event], None],
    call: Call,
    headers: Mapping[bytes, bytes],
    *,
    wanted: Collection[str],
    options: StreamOptions,
    keepalive_s: float,
) -> None:
    """Batches of events as SSE, and a comment on silence. Where this process stops before the last event, nothing says
    that it was the last, and the client asks another one."""
    frame = framing(call.dialect.frame, wanted)
    frame = noisy(frame) if options.include_obfuscation else frame
    kind = (b"content-type", call.dialect.stream_type)
    await call.send(call.scope["antiphon"].head(200, [kind, *SSE_HEADERS, *headers.items()]))
    last: Event | None = None
    try:
        async with aclosing(_until_left(events, call.receive, keepalive_s)) as batches:
            async for batch in batches:
                last = batch[-1] if batch else last
                await call.send(body(b"".join(map(frame, batch)) or codec.KEEPALIVE, more=True))
    except ClientLeft:
        return
    except Unavailable:
        ending = b""
    else:
        is_told = options.include_usage and isinstance(last, TERMINAL)
        ending = (usage_frame(last.response) if is_told else b"") + codec.DONE  # type: ignore[union-attr] # terminal
    await call.send(body(ending, more=False))


async def _until_left(
    events: AsyncGenerator[Sequence[Event], None], receive: Receive, silence_s: float
) -> AsyncGenerator[Sequence[Event], None]:
    """The batches, an empty one after each silence. Raises ClientLeft."""
    left = asyncio.create_task(_left(receive))
    coming: asyncio.Task[Sequence[Event] | None] = asyncio.create_task(_next(events))
    try:
        while True:
            await asyncio.wait({left, coming}, timeout=silence_s, return_when=asyncio.FIRST_COMPLETED)
            if left.done():
                raise ClientLeft
            if not coming.done():
                yield ()
                continue
            batch = coming.result()
            if batch is None:
                return
            yield batch
            coming = asyncio.create_task(_next(events))
    finally:
        left.cancel()
        coming.cancel()
        await asyncio.gather(left, coming, return_exceptions=True)
        await events.aclose()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _next(events: AsyncGenerator[Sequence[Event], None]) -> Sequence[Event] | None:
    return await anext(events, None)
