"""/v1/responses and what hangs under it, and the same under the prefix of every other dialect."""

import hashlib
from collections.abc import Mapping
from functools import partial

from msgspec import Struct, structs

from antiphon.api.follow import answer_followed
from antiphon.api.http import Call, Parameter, Served, decoded, header_value, read_json, send_value
from antiphon.api.paging import INCLUDE, PAGING, SEALED, asked, included
from antiphon.api.stream import answer_streamed, answer_whole
from antiphon.config import Limits
from antiphon.core.plan import Plan
from antiphon.engine.engine import Engine
from antiphon.errors import ApiError, InvalidRequest
from antiphon.observe import log
from antiphon.wire import codec
from antiphon.wire.dialect import DIALECTS, OPENAI, Dialect
from antiphon.wire.request import CreateResponse, StreamOptions
from antiphon.wire.resources import DeletedResponse, ItemList
from antiphon.wire.response import Response

NUMBER_MAX = 2**53
KEY_CHARS_MAX = 255
STREAMING = (
    Parameter(
        name="stream",
        schema={"type": "boolean", "default": False},
        description="The events of a background response that was created with `stream`: all, and then as they come.",
    ),
    Parameter(
        name="starting_after",
        schema={"type": "integer", "minimum": -1, "maximum": NUMBER_MAX},
        description="With `stream`: only the events behind the one of this number.",
    ),
    Parameter(
        name="include_obfuscation",
        schema={"type": "boolean", "default": False},
        description="With `stream`: pads deltas, so that the sizes of events tell nothing.",
    ),
)


class _Responses(Struct, frozen=True):
    engine: Engine
    limits: Limits
    strict: bool

    async def create(self, call: Call) -> None:
        body = await read_json(call.scope, call.receive, self.limits.body_bytes_max)
        decoding = partial(
            codec.decode_request,
            body,
            strict=self.strict or call.dialect.is_strict,
            items_max=self.limits.history_items_max,
            narrow=call.dialect.narrow,
        )
        try:
            request, unknown = await decoded(body, decoding)
        except ApiError as error:
            self.engine.refused(call.project, error)
            raise
        key = _key(call) if request.store else None
        if key is None:
            await self._create(call, request, unknown)
            return
        digest = hashlib.sha256(call.dialect.prefix.encode() + b"\n" + body).digest()
        response_id, earlier = await self.engine.first(call.project, key, digest)
        if earlier is not None:
            await self._show(call, request, earlier, {b"idempotent-replayed": b"true"})
            return
        try:
            await self._create(call, request, unknown, response_id)
        finally:
            await self.engine.settle(call.project, key, response_id)

    async def _create(
        self, call: Call, request: CreateResponse, unknown: tuple[str, ...], response_id: str | None = None
    ) -> None:
        if request.background:
            plan = await self.engine.create_background(call.project, request, response_id)
            await self._show(call, request, plan.response, _noted(plan, unknown))
            return
        run = await self.engine.create(call.project, request, response_id)
        headers = _noted(run.plan, unknown)
        if not request.stream:
            await answer_whole(run, call, headers, request.include)
            return
        await answer_streamed(
            run,
            call,
            headers,
            wanted=request.include,
            options=request.stream_options or StreamOptions(),
            first_byte_wait_s=self.limits.first_byte_wait_s,
            keepalive_s=self.limits.keepalive_s,
        )

    async def _show(
        self, call: Call, request: CreateResponse, response: Response, headers: Mapping[bytes, bytes]
    ) -> None:
        """A stored response as the request wants it: whole as it is now, or as a stream from the beginning."""
        if not request.stream:
            await send_value(call, response, wanted=request.include, headers=headers)
            return
        events = await self.engine.follow(call.project, response.id, -1)
        options, wanted = request.stream_options or StreamOptions(), request.include
        await answer_followed(
            events, call, headers, wanted=wanted, options=options, keepalive_s=self.limits.keepalive_s
        )

    async def retrieve(self, call: Call) -> None:
        query = call.query()
        wanted = included(query)
        options = StreamOptions(include_obfuscation=query.yes("include_obfuscation"))
        after = query.integer("starting_after", None, -1, NUMBER_MAX)
        if query.yes("stream"):
            if SEALED in wanted:
                raise InvalidRequest(
                    f"'{SEALED}' cannot be added to a stream that was made without it.", param="include"
                )
            events = await self.engine.follow(call.project, call.path("response_id"), -1 if after is None else after)
            await answer_followed(events, call, {}, wanted=wanted, options=options, keepalive_s=self.limits.keepalive_s)
            return
        for name, is_asked in (
            ("starting_after", after is not None),
            ("include_obfuscation", options != StreamOptions()),
        ):
            if is_asked:
                raise InvalidRequest(f"The '{name}' parameter is only allowed when 'stream' is true.", param=name)
        response = await self.engine.retrieve(call.project, call.path("response_id"))
        if SEALED in wanted:
            response = structs.replace(response, output=self.engine.sealed(call.project, response.output))
        await send_value(call, response, wanted=wanted)

    async def cancel(self, call: Call) -> None:
        await send_value(call, await self.engine.cancel(call.project, call.path("response_id")))

    async def delete(self, call: Call) -> None:
        response_id = call.path("response_id")
        await self.engine.delete(call.project, response_id)
        await send_value(call, DeletedResponse(id=response_id))

    async def input_items(self, call: Call) -> None:
        query = call.query()
        query.refuse("before")
        wanted = included(query)
        page = await self.engine.input_items(call.project, call.path("response_id"), **asked(query))
        items = self.engine.sealed(call.project, page.items) if SEALED in wanted else page.items
        await send_value(call, ItemList.of(items, has_more=page.has_more), wanted=wanted)


def _key(call: Call) -> str | None:
    key = next((value.decode("latin-1") for name, value in call.scope["headers"] if name == b"idempotency-key"), None)
    if key is not None and not 0 < len(key) <= KEY_CHARS_MAX:
        raise InvalidRequest(f"The Idempotency-Key must have from 1 to {KEY_CHARS_MAX} characters.")
    return key


def _noted(plan: Plan, unknown: tuple[str, ...]) -> dict[bytes, bytes]:
    """What of the request was left out: the headers that say so."""
    headers = {}
    if unknown:
        headers[b"antiphon-ignored-parameters"] = header_value(unknown)
        log.warning("unknown parameters", response=plan.response.id, parameters=unknown[:20])
    if omitted := plan.box.omitted:
        headers[b"antiphon-omitted-tools"] = header_value(tuple(omitted))
        log.info("hosted tools left out", response=plan.response.id, tools=tuple(omitted))
    return headers


def routes(engine: Engine, limits: Limits, *, strict: bool) -> list[Served]:
    it = _Responses(engine, limits, strict)
    return [served for dialect in DIALECTS for served in _routes(it, dialect)]


def _routes(it: _Responses, dialect: Dialect) -> list[Served]:
    """/openapi.json describes the bodies of OpenAI's dialect; another has a description of its own, elsewhere."""
    is_described = dialect is OPENAI
    whose = "" if is_described else f", in the wire of {dialect.name}"
    response, items = (Response, ItemList) if is_described else (dict, dict)
    one = dialect.prefix + "/responses/{response_id}"
    return [
        Served(
            method="POST",
            path=f"{dialect.prefix}/responses",
            endpoint=it.create,
            summary=f"Create a response{whose}",
            takes=CreateResponse if is_described else dict,
            gives=response,
            streams=is_described,
        ),
        Served(
            method="GET",
            path=one,
            endpoint=it.retrieve,
            summary=f"Retrieve a response, also one still running{whose}",
            gives=response,
            streams=is_described,
            query=(INCLUDE, *STREAMING),
        ),
        Served(
            method="POST",
            path=one + "/cancel",
            endpoint=it.cancel,
            summary=f"Cancel a background response{whose}",
            gives=response,
        ),
        Served(
            method="DELETE",
            path=one,
            endpoint=it.delete,
            summary=f"Delete a response{whose}",
            gives=DeletedResponse,
        ),
        Served(
            method="GET",
            path=one + "/input_items",
            endpoint=it.input_items,
            summary=f"List the items a response was built from{whose}",
            gives=items,
            query=PAGING,
        ),
    ]
