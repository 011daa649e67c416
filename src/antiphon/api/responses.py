"""/v1/responses and what hangs under it, and the same under the prefix of every other dialect."""

from functools import partial

from msgspec import Struct, structs

from antiphon.api.http import Call, Served, decoded, header_value, read_json, send_value
from antiphon.api.paging import INCLUDE, PAGING, SEALED, asked, included
from antiphon.api.stream import answer_streamed, answer_whole
from antiphon.config import Limits
from antiphon.engine.engine import Engine
from antiphon.observe import log
from antiphon.wire import codec
from antiphon.wire.dialect import DIALECTS, OPENAI, Dialect
from antiphon.wire.request import CreateResponse, StreamOptions
from antiphon.wire.resources import DeletedResponse, ItemList
from antiphon.wire.response import Response


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
        request, unknown = await decoded(body, decoding)
        run = await self.engine.create(call.project, request)
        headers = {}
        if unknown:
            headers[b"antiphon-ignored-parameters"] = header_value(unknown)
            log.warning("unknown parameters", response=run.id, parameters=unknown[:20])
        if omitted := run.plan.box.omitted:
            headers[b"antiphon-omitted-tools"] = header_value(omitted)
            log.info("hosted tools left out", response=run.id, tools=omitted)
        if not request.stream:
            await answer_whole(run, call, headers)
            return
        await answer_streamed(
            run,
            call,
            headers,
            options=request.stream_options or StreamOptions(),
            first_byte_wait_s=self.limits.first_byte_wait_s,
            keepalive_s=self.limits.keepalive_s,
        )

    async def retrieve(self, call: Call) -> None:
        query = call.query()
        for name, default in (("stream", "false"), ("starting_after", ""), ("include_obfuscation", "false")):
            query.refuse(name, default)
        response = await self.engine.retrieve(call.project, call.path("response_id"))
        if SEALED in included(query):
            response = structs.replace(response, output=self.engine.sealed(call.project, response.output))
        await send_value(call, response)

    async def delete(self, call: Call) -> None:
        response_id = call.path("response_id")
        await self.engine.delete(call.project, response_id)
        await send_value(call, DeletedResponse(id=response_id))

    async def input_items(self, call: Call) -> None:
        query = call.query()
        query.refuse("before")
        page = await self.engine.input_items(call.project, call.path("response_id"), **asked(query))
        items = self.engine.sealed(call.project, page.items) if SEALED in included(query) else page.items
        await send_value(call, ItemList.of(items, has_more=page.has_more))


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
            query=(INCLUDE,),
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
