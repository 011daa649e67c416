"""POST /v1/responses/input_tokens: how much of a model's window a request takes. It makes no response."""

import asyncio
from functools import partial
from typing import Any

from msgspec import Struct

from antiphon.api.http import Call, Served, header_value, read_json, send_json
from antiphon.api.responses import QUICK_BYTES_MAX
from antiphon.config import Limits
from antiphon.engine.engine import Engine
from antiphon.errors import UnsupportedParameter
from antiphon.wire import codec
from antiphon.wire.dialect import OPENAI
from antiphon.wire.request import COUNTED, CountInputTokens, CreateResponse
from antiphon.wire.resources import InputTokens


class _Window(Struct, frozen=True):
    engine: Engine
    limits: Limits
    strict: bool

    async def input_tokens(self, call: Call) -> None:
        request, unknown = await self._read(call, COUNTED)
        count = await self.engine.count(call.project, request)
        found = InputTokens(input_tokens=count.tokens, found="exact" if count.is_exact else "estimated")
        await _send(call, found, unknown)

    async def _read(self, call: Call, only: frozenset[str]) -> tuple[CreateResponse, tuple[str, ...]]:
        body = await read_json(call.scope, call.receive, self.limits.body_bytes_max)
        decoding = partial(
            codec.decode_request,
            body,
            strict=self.strict,
            items_max=self.limits.history_items_max,
            narrow=_narrow,
            only=only,
        )
        return await asyncio.to_thread(decoding) if len(body) > QUICK_BYTES_MAX else decoding()


async def _send(call: Call, value: Any, unknown: tuple[str, ...]) -> None:
    headers = {b"antiphon-ignored-parameters": header_value(unknown)} if unknown else {}
    await send_json(call.scope, call.send, call.dialect.encode(value), headers=headers)


def _narrow(raw: dict[str, object]) -> dict[str, object]:
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
    ]
