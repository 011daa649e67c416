"""What concerns a model's window, and makes no response: POST /v1/responses/input_tokens says how much of it a request
takes, POST /v1/responses/compact makes a conversation shorter; the latter in every dialect."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from msgspec import Struct
from starlette.types import Receive

from antiphon.api.http import Call, ClientLeft, Served, decoded, header_value, read_json, send_json
from antiphon.config import Limits
from antiphon.engine.engine import Engine
from antiphon.errors import UnsupportedParameter
from antiphon.wire import codec
from antiphon.wire.dialect import DIALECTS, OPENAI, Dialect
from antiphon.wire.request import COMPACTED, COUNTED, CompactConversation, CountInputTokens, CreateResponse
from antiphon.wire.resources import CompactedResponse, InputTokens
from antiphon.wire.tolerance import Object

Narrow: TypeAlias = Callable[[Object], Object]


class _Window(Struct, frozen=True):
    engine: Engine
    limits: Limits
    strict: bool

    async def input_tokens(self, call: Call) -> None:
        request, unknown = await self._read(call, COUNTED, _without_personality)
        count = await self.engine.count(call.project, request)
        found = InputTokens(input_tokens=count.tokens, found="exact" if count.is_exact else "estimated")
        await _send(call, found, unknown)

    async def compact(self, call: Call) -> None:
        request, unknown = await self._read(call, COMPACTED, call.dialect.narrow_compact)
        compacting = asyncio.ensure_future(self.engine.compact(call.project, request))
        watcher = asyncio.create_task(_cancel_when_left(compacting, call.receive))
        try:
            compacted = await compacting
        except asyncio.CancelledError:
            compacting.cancel()
            if not watcher.done():
                raise
            raise ClientLeft from None
        finally:
            watcher.cancel()
        await _send(call, compacted, unknown)

    async def _read(
        self, call: Call, only: frozenset[str], narrow: Narrow | None
    ) -> tuple[CreateResponse, tuple[str, ...]]:
        body = await read_json(call.scope, call.receive, self.limits.body_bytes_max)
        decoding = partial(
            codec.decode_request,
            body,
            strict=self.strict or call.dialect.is_strict,
            items_max=self.limits.history_items_max,
            narrow=narrow,
            only=only,
        )
        return await decoded(body, decoding)


async def _cancel_when_left(task: asyncio.Future[Any], receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


async def _send(call: Call, value: Any, unknown: tuple[str, ...]) -> None:
    headers = {b"antiphon-ignored-parameters": header_value(unknown)} if unknown else {}
    await send_json(call.scope, call.send, call.dialect.encode(value), headers=headers)


def _without_personality(raw: Object) -> Object:
    if raw.get("personality") is not None:
        raise UnsupportedParameter(
            "Unsupported parameter: 'personality' is not supported by this server. Say in 'instructions' how the "
            "model shall be.",
            param="personality",
        )
    return {name: field for name, field in raw.items() if name != "personality"}


def routes(engine: Engine, limits: Limits, *, strict: bool) -> list[Served]:
    it = _Window(engine, limits, strict)
    return [
        Served(
            method="POST",
            path=f"{OPENAI.prefix}/responses/input_tokens",
            endpoint=it.input_tokens,
            summary="Count the tokens of a request's input, exactly where somebody can tell",
            takes=CountInputTokens,
            gives=InputTokens,
        ),
        *(_compact(it, dialect) for dialect in DIALECTS),
    ]


def _compact(it: _Window, dialect: Dialect) -> Served:
    is_described = dialect is OPENAI
    return Served(
        method="POST",
        path=f"{dialect.prefix}/responses/compact",
        endpoint=it.compact,
        summary="Make a conversation shorter" + ("" if is_described else f", in the wire of {dialect.name}"),
        takes=CompactConversation if is_described else dict,
        gives=CompactedResponse if is_described else dict,
    )
