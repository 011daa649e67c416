"""/antiphon/…: what the console shows of the server, beyond the API: how it does, over time and now, and its keys."""

import time
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from antiphon.api.http import Call, Parameter, Served, read_json, send_value
from antiphon.core.ports import ApiKey
from antiphon.engine.keys import Keys
from antiphon.engine.overview import Overviews
from antiphon.errors import InvalidType, InvalidValue, NotFound
from antiphon.wire.overview import Conditions, CreateKey, DeletedKey, Key, KeyList, Overview

MINUTE: Final = 60
TIME_MAX: Final = 2**40
SPAN_MAX: Final = 7 * 24 * 3600
SPAN_DEFAULT: Final = 3600
POINTS_MAX: Final = 1_500
BODY_BYTES_MAX: Final = 64 * 1024
SPAN = (
    Parameter(
        name="since",
        schema={"type": "integer", "minimum": 0},
        description="In Unix seconds; an hour ago when it is left out.",
    ),
    Parameter(
        name="until",
        schema={"type": "integer", "minimum": 0},
        description=f"In Unix seconds, exclusive; now when it is left out. At most {SPAN_MAX} seconds after `since`.",
    ),
    Parameter(
        name="step",
        schema={"type": "integer", "minimum": MINUTE, "multipleOf": MINUTE, "default": MINUTE},
        description="Seconds that one point stands for.",
    ),
)


class _Overview(Struct, frozen=True):
    overviews: Overviews

    async def overview(self, call: Call) -> None:
        query = call.query()
        now = int(time.time())
        until = query.integer("until", now + 1, 0, TIME_MAX)
        since = query.integer("since", until - SPAN_DEFAULT, 0, TIME_MAX)
        step = query.integer("step", MINUTE, MINUTE, SPAN_MAX)
        if step % MINUTE:
            raise InvalidValue(
                f"Invalid 'step': expected a multiple of {MINUTE}, but got {step} instead.", param="step"
            )
        since -= since % MINUTE
        if not since < until <= since + SPAN_MAX + MINUTE:
            raise InvalidValue(f"Invalid 'until': expected up to {SPAN_MAX} seconds after 'since'.", param="until")
        if (until - since) // step > POINTS_MAX:
            raise InvalidValue(f"Invalid 'step': that makes more than {POINTS_MAX} points.", param="step")
        await send_value(call, await self.overviews.over_time(call.project, since, until, step))

    async def conditions(self, call: Call) -> None:
        await send_value(call, await self.overviews.conditions())


class _Keys(Struct, frozen=True):
    keys: Keys

    async def list_keys(self, call: Call) -> None:
        await send_value(call, KeyList(data=tuple(_shown(key) for key in await self.keys.all(call.project))))

    async def create_key(self, call: Call) -> None:
        body = await read_json(call.scope, call.receive, BODY_BYTES_MAX)
        try:
            wanted = msgspec.json.decode(body or b"{}", type=CreateKey)
        except msgspec.MsgspecError as error:
            raise InvalidType(f"The body is no key: {error}", param="name") from None
        await send_value(call, _shown(*await self.keys.add(call.project, wanted.name)))

    async def delete_key(self, call: Call) -> None:
        key_id = call.path("key_id")
        if not await self.keys.revoke(call.project, key_id):
            raise NotFound(f"Key with id '{key_id[:128]}' not found.")
        await send_value(call, DeletedKey(id=key_id))


def _shown(key: ApiKey, secret: str | UnsetType = UNSET) -> Key:
    return Key(id=key.id, project=key.project, name=key.name, hint=key.hint, created_at=key.created_at, key=secret)


def routes(overviews: Overviews, keys: Keys | None) -> list[Served]:
    """`keys`: whoever has one may make and revoke keys of the same project. None: nobody may over HTTP."""
    it = _Overview(overviews)
    served = [
        Served(
            method="GET",
            path="/antiphon/overview",
            endpoint=it.overview,
            summary="What was asked for and what came of it, over time",
            gives=Overview,
            query=SPAN,
        ),
        Served(
            method="GET",
            path="/antiphon/health",
            endpoint=it.conditions,
            summary="How the store, the models and the tools are, and what to do about what is ill",
            gives=Conditions,
        ),
    ]
    if keys is not None:
        of, one = _Keys(keys), "/antiphon/keys/{key_id}"
        served += [
            Served(method="GET", path="/antiphon/keys", endpoint=of.list_keys, summary="List keys", gives=KeyList),
            Served(
                method="POST",
                path="/antiphon/keys",
                endpoint=of.create_key,
                summary="Create a key of this project, which is shown this once",
                takes=CreateKey,
                gives=Key,
            ),
            Served(method="DELETE", path=one, endpoint=of.delete_key, summary="Revoke a key", gives=DeletedKey),
        ]
    return served
