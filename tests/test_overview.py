"""What the server tells of itself: rollups in every store, the overview over time, its health, and keys over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest

from antiphon import stores
from antiphon.config import Auth, ChatUpstream, Settings
from antiphon.core.ports import Store
from antiphon.core.rollups import BOUNDS_MS, Rollup, Tally, class_of, quantile
from antiphon.engine.meter import Meter
from tests.conftest import WAIT_S, changed, serve
from tests.rawclient import ask, create
from tests.test_store import KINDS, bounded, opened

__all__ = ["bounded"]

MINUTE = 1_800_000_000


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = opened(request, tmp_path)
    yield store
    await store.close()


def rollup(minute: int, count: int, *, process: str = "a", project: str = "p", model: str = "m") -> Rollup:
    tally = Tally(endings={"completed": count}, errors={"e": 1}, output_tokens=count)
    return Rollup(minute=minute, process=process, project=project, model=model, tally=tally)


# -- stores


async def test_a_rollup_takes_the_place_of_what_its_process_wrote_before(store: Store) -> None:
    await store.rollups.write([rollup(MINUTE, 1), rollup(MINUTE, 5, process="b")])
    await store.rollups.write([rollup(MINUTE, 2)])

    found = await store.rollups.read(["p"], MINUTE, MINUTE + 60, 10)

    assert list(found) == [rollup(MINUTE, 2), rollup(MINUTE, 5, process="b")]


async def test_rollups_are_read_by_project_and_time_in_order_and_bounded(store: Store) -> None:
    await store.rollups.write([])
    await store.rollups.write([rollup(MINUTE + 60 * at, at, project=project) for project in "pqr" for at in range(4)])

    found = await store.rollups.read(["q", "p"], MINUTE + 60, MINUTE + 180, 10)
    bounded = await store.rollups.read(["p"], MINUTE, MINUTE + 1000, 3)

    assert [(one.minute, one.project) for one in found] == [
        (MINUTE + 60, "p"),
        (MINUTE + 60, "q"),
        (MINUTE + 120, "p"),
        (MINUTE + 120, "q"),
    ]
    assert [one.minute for one in bounded] == [MINUTE, MINUTE + 60, MINUTE + 120]


async def test_old_rollups_are_dropped_in_batches_oldest_first(store: Store) -> None:
    await store.rollups.write([rollup(MINUTE + 60 * at, at) for at in range(5)])

    dropped = [await store.rollups.drop(MINUTE + 180, 2) for _ in range(3)]
    left = await store.rollups.read(["p"], 0, MINUTE + 1000, 10)

    assert dropped == [2, 1, 0]
    assert [one.minute for one in left] == [MINUTE + 180, MINUTE + 240]


async def test_who_waits_is_counted(store: Store) -> None:
    assert await store.runs.waiting() == 0


# -- values


def test_a_quantile_lies_in_the_class_of_what_was_counted() -> None:
    classes = [0] * (len(BOUNDS_MS) + 1)
    for seconds in (0.0004, 0.003, 0.040, 0.045, 7.0):
        classes[class_of(seconds)] += 1

    assert quantile([0, 0], 0.5) is None
    assert 20 <= (quantile(classes, 0.5) or 0) <= 50
    assert 5_000 <= (quantile(classes, 1.0) or 0) <= 10_000
    assert quantile([0] * len(BOUNDS_MS) + [1], 0.5) == BOUNDS_MS[-1]


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_what_could_not_be_written_is_tried_again(store: Store) -> None:
    meter = Meter(store.rollups, lambda prefix: prefix, store.runs.waiting)
    meter.refused("p", "e")
    await store.close()
    await meter.close()  # only logs

    assert meter._changed


# -- the overview


async def points(url: str, query: str = "") -> list[dict[str, Any]]:
    answer = await ask(url.removesuffix("/v1"), "GET", f"/antiphon/overview{query}")
    assert answer.status == 200, answer.body
    return list(json.loads(answer.body)["points"])


LAST_HOURS = "?step=14400"
"""In one point, whichever minute it was."""


async def test_all_that_is_asked_for_is_counted_with_what_came_of_it(url: str, client: openai.AsyncOpenAI) -> None:
    root = url.removesuffix("/v1")
    await client.responses.create(model="scripted", input="say one two three", store=False)
    async with client.responses.stream(model="scripted", input="say four") as stream:
        await stream.until_done()
    assert (await create(root, input="fail now")).status >= 400
    assert (await create(root, model="none")).status == 400
    assert (await create(root, temperature=9)).status == 400
    made = await client.responses.create(model="scripted", input="say five", background=True)
    async with asyncio.timeout(WAIT_S):
        while made.status != "completed":
            made = await client.responses.retrieve(made.id)

    whole, unknown, scripted = await points(url, LAST_HOURS)

    assert (whole["model"], unknown["model"], scripted["model"]) == (None, "", "scripted")
    assert whole["endings"] == {"completed": 3, "failed": 1, "refused": 2}
    assert scripted["endings"] == {"completed": 3, "failed": 1}
    assert whole["requests"] == 6
    assert unknown["errors"].keys() == {"model_not_found", "decimal_above_max_value"}
    assert scripted["output_tokens"] >= 5
    assert scripted["duration_ms"]["p50"] > 0
    assert scripted["first_token_ms"]["p95"] > 0
    assert whole["running_max"] >= 1


async def test_what_was_counted_is_still_there_after_a_restart(scripted: Settings) -> None:
    async with serve(scripted) as first:
        await create(first.removesuffix("/v1"))
    async with serve(scripted) as second:
        whole, *_ = await points(second, LAST_HOURS)

    assert whole["endings"] == {"completed": 1}


async def test_another_project_is_not_shown(scripted: Settings) -> None:
    keys = {"keys": (
        {"project": "shop", "key": "sk-shop-0123456789abcdef0123"},
        {"project": "desk", "key": "sk-desk-0123456789abcdef0123"},
    )}  # fmt: skip
    settings = msgspec.structs.replace(scripted, auth=msgspec.convert(keys, Auth))
    async with serve(settings) as url:
        root = url.removesuffix("/v1")
        mine, theirs = ({"authorization": f"Bearer {key['key']}"} for key in keys["keys"])
        assert (await create(root, mine)).status == 200
        shown = json.loads((await ask(root, "GET", "/antiphon/overview", headers=mine)).body)["points"]
        hidden = json.loads((await ask(root, "GET", "/antiphon/overview", headers=theirs)).body)["points"]
        stranger = await ask(root, "GET", "/antiphon/overview")

    assert sum(point["requests"] for point in shown) == 2  # altogether, and of its model
    assert sum(point["requests"] for point in hidden) == 0
    assert stranger.status == 401


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("?step=90", "step"),
        ("?step=0", "step"),
        ("?since=0", "until"),
        ("?since=100&until=60", "until"),
        ("?since=x", "since"),
        ("?since=1800000000&until=1800600000", "step"),
    ],
)
async def test_a_span_that_is_none_is_refused_by_name(url: str, query: str, param: str) -> None:
    answer = await ask(url.removesuffix("/v1"), "GET", f"/antiphon/overview{query}")

    assert answer.status == 400
    assert json.loads(answer.body)["error"]["param"] == param


async def test_steps_are_added_up(scripted: Settings) -> None:
    async with serve(scripted) as url:
        store = stores.build(scripted.storage, scripted.limits)
        try:
            await store.rollups.write(
                [rollup(MINUTE + 60 * at, 1, project="default", process=process) for at in range(4) for process in "ab"]
            )
            gauges = [
                Rollup(minute=MINUTE, process=process, project="", model="", tally=Tally(running_max=2, waiting_max=3))
                for process in "ab"
            ]
            await store.rollups.write(gauges)
        finally:
            await store.close()

        found = await points(url, f"?since={MINUTE}&until={MINUTE + 240}&step=120")

    assert [(one["start"], one["model"], one["requests"]) for one in found] == [
        (MINUTE, None, 4),
        (MINUTE, "m", 4),
        (MINUTE + 120, None, 4),
        (MINUTE + 120, "m", 4),
    ]
    assert (found[0]["running_max"], found[0]["waiting_max"]) == (4, 3)


# -- health


async def test_every_part_says_how_it_is(url: str) -> None:
    answer = json.loads((await ask(url.removesuffix("/v1"), "GET", "/antiphon/health")).body)

    assert [part["ok"] for part in answer["data"]] == [True, True]
    assert answer["data"][0]["name"] == "store"


async def test_an_upstream_that_is_down_says_what_to_do(scripted: Settings) -> None:
    down = msgspec.structs.replace(scripted, models=(*scripted.models, ChatUpstream(url="http://127.0.0.1:9/v1")))
    async with serve(down) as url:
        answer = json.loads((await ask(url.removesuffix("/v1"), "GET", "/antiphon/health")).body)

    ill = [part for part in answer["data"] if not part["ok"]]
    assert len(ill) == 1
    assert ill[0]["remedy"]


# -- keys


async def test_a_key_is_made_used_listed_and_revoked_over_http(url: str) -> None:
    root = url.removesuffix("/v1")
    made = json.loads((await ask(root, "POST", "/antiphon/keys", {"name": "laptop"})).body)
    mine = {"authorization": f"Bearer {made['key']}"}

    without = await ask(root, "GET", "/antiphon/keys")
    listed = json.loads((await ask(root, "GET", "/antiphon/keys", headers=mine)).body)["data"]
    worked = await create(root, mine)
    unknown = await ask(root, "DELETE", "/antiphon/keys/key_none", headers=mine)
    gone = await ask(root, "DELETE", f"/antiphon/keys/{made['id']}", headers=mine)
    open_again = await ask(root, "GET", "/antiphon/keys")

    assert without.status == 401  # from the first key on
    assert [(key["id"], key["name"], key["project"]) for key in listed] == [(made["id"], "laptop", "default")]
    assert "key" not in listed[0]
    assert worked.status == 200
    assert unknown.status == 404
    assert json.loads(gone.body) == {"id": made["id"], "object": "antiphon.key", "deleted": True}
    assert open_again.status == 200


async def test_a_key_without_a_sound_body_is_refused(url: str) -> None:
    root = url.removesuffix("/v1")

    assert (await ask(root, "POST", "/antiphon/keys", {"name": 5})).status == 400
    assert (await ask(root, "POST", "/antiphon/keys", {"name": "n" * 101})).status == 400


async def test_keys_are_nobodys_to_make_over_http_where_the_settings_say_so(scripted: Settings) -> None:
    async with serve(changed(scripted, auth={"manage_over_http": False})) as url:
        assert (await ask(url.removesuffix("/v1"), "POST", "/antiphon/keys", {})).status == 404
