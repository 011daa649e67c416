"""What is old goes by itself, and when `antiphon responses prune` says so; what has gone is said clearly."""

import asyncio
import base64
import os
import pty
import sys
import time
from collections.abc import Callable
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, get_args

import apsw
import openai
import psycopg
import pytest

from antiphon import pruning, stores
from antiphon.config import Limits, Retention, Settings
from antiphon.core.ports import Store
from antiphon.core.retention import Pruning
from antiphon.engine.background import PAGE_EVENTS, Background
from antiphon.engine.retention import DAY_S, HOUR_S, Sweeper
from antiphon.engine.world import World
from antiphon.errors import StreamExpired, Unavailable
from antiphon.sealing import Seal
from antiphon.stores import postgres_connection, postgres_schema, sql
from antiphon.stores.postgres import PostgresStore
from antiphon.stores.sqlite import SqliteStore
from antiphon.stores.sqlite_file import APPLICATION_ID
from antiphon.wire import codec
from antiphon.wire.events import ResponseCompleted
from antiphon.wire.response import ResponseStatus
from tests.chaosnodes import until
from tests.conftest import WAIT_S, changed, serve
from tests.postgres import Cluster
from tests.test_cli import ROOT, Terminal, antiphon
from tests.test_store import bounded, made, open_file, open_postgres
from tests.test_store_retention import T, expired, forgotten
from tests.test_store_runs import NOW, begun, deltas, ended, numbers

__all__ = ["antiphon", "bounded"]

MONTH = ("--older-than", "30d")


async def later(settings: Settings, hours: float, kept: Retention | None = None) -> None:
    """What a server sweeps so many hours from now, under the default settings or these."""
    store = stores.build(settings.storage, settings.limits)
    await Sweeper(store.retention, lambda: round(time.time() + hours * HOUR_S), pause_s=0).sweep(kept or Retention())
    await store.close()


def aged(settings: Settings, response_id: str, days: int = 31) -> None:
    """As if it had been created so many days ago."""
    n = f"(SELECT n FROM responses WHERE id = '{response_id}')"  # noqa: S608
    for table, column in (("responses", "n"), ("metadata", "response")):
        change(settings, f"UPDATE {table} SET created_at = created_at - {days * DAY_S} WHERE {column} = {n}")  # noqa: S608


def change(settings: Settings, statement: str) -> None:
    if settings.storage.is_postgres:
        with psycopg.connect(settings.storage.database, autocommit=True) as connection:
            connection.execute(f"SET search_path = antiphon; {statement}".encode())
    else:
        with closing(apsw.Connection(settings.storage.database)) as connection:
            connection.set_busy_timeout(WAIT_S * 1000)
            connection.execute(statement)


async def streamed(client: openai.AsyncOpenAI) -> str:
    """The id of a background response whose stream was read to its end."""
    events = [
        event
        async for event in await client.responses.create(
            model="scripted", input="say a b c", background=True, stream=True
        )
    ]
    assert events[-1].type == "response.completed"
    return events[-1].response.id


# -- by itself


async def test_a_background_response_is_streamed_for_a_day_and_retrieved_for_ever(
    scripted: Settings, client: openai.AsyncOpenAI
) -> None:
    response_id = await streamed(client)
    await later(scripted, 23.9)
    again = [event async for event in await client.responses.retrieve(response_id, stream=True)]
    await later(scripted, 24.1)
    await later(scripted, 24 * 10_000)
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.retrieve(response_id, stream=True)

    assert again[-1].type == "response.completed"
    assert (refused.value.code, refused.value.param) == ("response_stream_expired", "stream")
    assert "retention.background_events_hours" in refused.value.message
    response = await client.responses.retrieve(response_id)
    assert (response.status, response.output_text) == ("completed", "a b c")


async def test_events_can_be_kept_as_long_as_their_response(scripted: Settings, client: openai.AsyncOpenAI) -> None:
    response_id = await streamed(client)
    await later(scripted, 24 * 10_000, Retention(background_events_hours=0))

    events = [event async for event in await client.responses.retrieve(response_id, stream=True)]
    assert events[-1].type == "response.completed"


@pytest.mark.parametrize("background", [False, True])
async def test_a_response_goes_when_it_was_asked_to(
    scripted: Settings, client: openai.AsyncOpenAI, background: bool
) -> None:
    wish: dict[str, Any] = {"model": "scripted", "input": "say hi", "background": background}
    made = await client.responses.create(**wish, extra_body={"expires_after": {"seconds": 7200}})
    kept = await client.responses.create(**wish)

    async def is_over() -> bool:
        return (await client.responses.retrieve(made.id)).status == "completed"

    await asyncio.wait_for(until(is_over), WAIT_S)
    await later(scripted, hours=1)
    shown = await client.responses.retrieve(made.id)
    await later(scripted, hours=2.1)

    assert shown.to_dict()["expires_at"] == made.created_at + 7200
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(made.id)
    assert (await client.responses.retrieve(kept.id)).id == kept.id


async def test_the_one_value_that_there_is_is_named_alone(client: openai.AsyncOpenAI) -> None:
    wish = {"anchor": "last_active_at", "seconds": 60}
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="scripted", input="hi", extra_body={"expires_after": wish})

    assert "Supported values are: 'created_at'." in refused.value.message


async def test_a_server_deletes_what_is_older_than_the_settings_say(scripted: Settings) -> None:
    async with serve(scripted) as url, openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        old, middle, young = [(await client.responses.create(model="scripted", input="say a")).id for _ in range(3)]
        child = (await client.responses.create(model="scripted", previous_response_id=old, input="tell items")).id
    aged(scripted, old)
    aged(scripted, middle, days=29)
    kept = changed(scripted, retention={"responses_days": 30})
    async with serve(kept) as url, openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        async with asyncio.timeout(WAIT_S):
            while await is_there(client, old):
                pass
        assert [await is_there(client, one) for one in (middle, young, child)] == [True] * 3
        again = await client.responses.create(
            model="scripted", previous_response_id=child, input="tell items.0.content.0.text"
        )
    assert again.output_text == '"say a"'


async def is_there(client: openai.AsyncOpenAI, response_id: str) -> bool:
    try:
        await client.responses.retrieve(response_id)
    except openai.NotFoundError:
        return False
    return True


@pytest.mark.parametrize("events_gone", [PAGE_EVENTS + 50, 10**6])
async def test_a_reader_whose_events_go_meanwhile_is_not_told_that_it_is_over(tmp_path: Path, events_gone: int) -> None:
    store = open_file(tmp_path)
    ticket = await begun(store)
    await store.runs.append(ticket, deltas(*range(2, PAGE_EVENTS + 100)), NOW, 2**50)
    await store.runs.finish(ticket, ended(), [ResponseCompleted(PAGE_EVENTS + 100, ended())], T * 1000)
    world = World(store, {}, Limits(), lambda prefix: f"{prefix}_1", lambda: T, Seal(b"s" * 32))
    background = Background(world, None, None)  # type: ignore[arg-type] # it makes nothing here
    reading = await background.follow("p", "resp_x", -1)
    assert len(await anext(reading)) == PAGE_EVENTS
    await store.retention.prune_events(T + 1, T, events_gone)

    with pytest.raises(Unavailable):
        await anext(reading)
    with pytest.raises(StreamExpired):
        await background.follow("p", "resp_x", PAGE_EVENTS)
    await background.close()
    await store.close()


async def test_a_sweep_that_fails_is_logged_and_comes_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_file(tmp_path)
    await store.close()
    sweeping = asyncio.create_task(Sweeper(store.retention, lambda: T).sweep_for_ever(Retention()))
    said = ""
    async with asyncio.timeout(WAIT_S):
        while "what is old was not swept" not in said:
            await asyncio.sleep(0)
            said += "".join(capsys.readouterr())
    assert sweeping.cancel()


# -- antiphon responses prune


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, scripted: Settings, tmp_path: Path) -> Settings:
    if request.param == "sqlite":
        return scripted
    storage = {"database": request.getfixturevalue("database"), "files": str(tmp_path / "files")}
    return changed(scripted, storage=storage, server={"secret": base64.b64encode(b"s" * 32).decode()})


async def test_prune_deletes_from_a_database_that_a_server_uses(settings: Settings, antiphon: Terminal) -> None:
    async with serve(settings) as url, openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        old = [await made_with(client, colour) for colour in ("red", "blue", "red")]
        young = await made_with(client, "red")
        for response_id in old:
            aged(settings, response_id)
        outs = [
            await said_by(antiphon, settings, *words)
            for words in (
                (*MONTH, "--dry-run"),
                (*MONTH, "--metadata", "colour=blue", "--model", "scripted", "--status", "completed"),
                (*MONTH, "--project", "nobody"),
                MONTH,
                MONTH,
            )
        ]
        there = [await is_there(client, response_id) for response_id in (*old, young)]

    assert outs == [
        "would delete 3 responses of project default",
        "deleted 1 responses of project default",
        "deleted nothing",
        "deleted 2 responses of project default",
        "deleted nothing",
    ]
    assert there == [False, False, False, True]


async def said_by(antiphon: Terminal, settings: Settings, *words: str) -> str:
    """The last line; the server of this process logs, too."""
    ended = await asyncio.to_thread(antiphon, "responses", "prune", "--database", settings.storage.database, *words)
    assert ended.code == 0
    return ended.out.splitlines()[-1]


async def made_with(client: openai.AsyncOpenAI, colour: str) -> str:
    return (await client.responses.create(model="scripted", input="say a", metadata={"colour": colour})).id


async def test_prune_can_forget_events_alone(settings: Settings, antiphon: Terminal) -> None:
    words = ("--events-only", "--older-than", "1h")
    async with serve(settings) as url, openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        response_id = await streamed(client)
        outs = [await said_by(antiphon, settings, *words)]
        change(settings, f"UPDATE runs SET ended_at = ended_at - {2 * HOUR_S}")  # noqa: S608
        outs += [await said_by(antiphon, settings, *words, *more) for more in (("--dry-run",), (), ())]
        with pytest.raises(openai.BadRequestError, match="can no longer be streamed"):
            await client.responses.retrieve(response_id, stream=True)
        assert (await client.responses.retrieve(response_id)).output_text == "a b c"

    assert outs == [
        "deleted nothing",
        "would delete the events of 1 background responses",
        "deleted the events of 1 background responses",
        "deleted nothing",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--older-than", "30"), "'30' is no age such as 90m, 12h, 30d or 8w"),
        (("--older-than", "-1d"), "expected one argument"),
        ((), "--older-than"),
        ((*MONTH, "--status", "queued"), "invalid choice"),
        ((*MONTH, "--metadata", "colour"), "'colour' is not KEY=VALUE"),
        ((*MONTH, "--events-only", "--model", "m"), "--events-only goes with --older-than alone"),
        ((*MONTH, "--database", "nowhere.db"), "there is no database nowhere.db"),
        ((*MONTH, "--database", ":memory:"), "give --database FILE"),
    ],
)
def test_a_pruning_that_makes_no_sense_is_refused(antiphon: Terminal, words: tuple[str, ...], message: str) -> None:
    Path("there.db").touch()
    ended = antiphon("responses", "prune", "--database", "there.db", *words)

    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert not Path("nowhere.db").exists()


@pytest.mark.parametrize(("said", "is_left"), [("n", True), ("", True), ("y", False)])
async def test_on_a_terminal_it_asks_first(scripted: Settings, said: str, is_left: bool) -> None:
    async with serve(scripted) as url, openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        response_id = await made_with(client, "red")
        aged(scripted, response_id)
        ours, theirs = pty.openpty()
        words = (sys.executable, "-m", "antiphon", "responses", "prune", "--database", scripted.storage.database)
        asked = await asyncio.create_subprocess_exec(
            *words, *MONTH, cwd=ROOT, stdin=theirs, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        os.write(ours, f"{said}\n".encode())
        out, err = await asyncio.wait_for(asked.communicate(), WAIT_S)
        os.close(ours)
        os.close(theirs)

        assert (asked.returncode, err) == (0, b"Delete? [y/N] ")
        assert out.decode().splitlines()[:1] == ["would delete 1 responses of project default"]
        assert await is_there(client, response_id) is is_left


def test_the_statuses_are_those_of_responses_that_are_over() -> None:
    assert {*pruning.STATUSES, "queued", "in_progress"} == set(get_args(ResponseStatus))


# -- from the version before, which goes on meanwhile

END_RUN_BEFORE = "UPDATE runs SET last_seq = 2, is_over = 1, owner = '', request = '' WHERE response = {n}"
ROWS_BEFORE = """
INSERT INTO responses (n, project, id, chain_bytes, status, model, created_at, body)
  VALUES ({n}, 'p', 'resp_{name}', 1, 'completed', 'm', 1, '{body}');
INSERT INTO runs (response, request, given, streams, owner, attempt, lease_until, last_seq)
  VALUES ({n}, '', 0, 1, '', 1, 0, 1);
INSERT INTO response_events (response, seq, attempt, data) VALUES ({n}, 2, 1, '{event}')"""


def rows_before(n: int, name: str) -> str:
    event = codec.encode(deltas(2)[0]).decode()
    return ROWS_BEFORE.format(n=n, name=name, body=sql.encode_body(made(name)), event=event)


def fill(execute: Callable[[str], Any]) -> None:
    """One that is over, and one that is under way."""
    for n, name in ((1, "over"), (2, "x")):
        execute(rows_before(n, name))
    execute(END_RUN_BEFORE.format(n=1))


@contextmanager
def postgres_before(cluster: Cluster) -> Any:
    address = cluster.make("before")
    with postgres_connection.connect_now(address) as connection:
        postgres_schema.migrate(connection, sql.pending("postgres", 0)[:6])
        yield address, lambda statement: connection.execute(statement.encode())


@contextmanager
def sqlite_before(folder: Path) -> Any:
    with closing(apsw.Connection(str(folder / "store.db"))) as connection:
        for migration in sql.pending("sqlite", 0)[:6]:
            connection.execute(migration.script)
        connection.execute(f"PRAGMA user_version = 6; PRAGMA application_id = {APPLICATION_ID}")
        yield None, connection.execute


async def check_from_before(store: Store, execute: Callable[[str], Any]) -> None:
    execute(END_RUN_BEFORE.format(n=2))  # by a server of the version before, which goes on
    assert await store.retention.count_streams(2**50) == 0
    assert await forgotten(store, ended_before=T, now=T) == 0  # when they ended is not known: as if now
    assert not await expired(store)
    assert await numbers(store) == [2]
    assert await forgotten(store, ended_before=T + 1, now=T + 1) == 2
    assert await expired(store)
    assert await numbers(store) == await numbers(store, "over") == []
    assert await store.response("p", "resp_over") is not None


async def test_an_sqlite_database_of_the_version_before_goes_on(tmp_path: Path) -> None:
    with sqlite_before(tmp_path) as (_, execute):
        fill(execute)
        store: SqliteStore = open_file(tmp_path)
        await check_from_before(store, execute)
        await store.close()


async def test_a_postgresql_database_of_the_version_before_goes_on(cluster: Cluster) -> None:
    with postgres_before(cluster) as (address, execute):
        fill(execute)
        store: PostgresStore = open_postgres(address)
        await check_from_before(store, execute)
        await store.close()


# -- what it leaves


async def test_what_is_free_in_a_file_is_used_again(tmp_path: Path) -> None:
    def pages() -> Any:
        with closing(apsw.Connection(str(tmp_path / "store.db"))) as connection:
            ((count,),) = connection.execute("PRAGMA page_count").fetchall()
            return count

    old = Pruning(project="", created_before=T, limit=20)
    sizes = []
    for round_ in range(3):
        store = open_file(tmp_path)
        for number in range(200):
            response = made(f"{round_}_{number}", None, instructions="x" * 4000)
            await store.save("p", response, (), ())
        assert len(await Sweeper(store.retention, lambda: T, pause_s=0).everywhere(old)) == 1
        await store.close()
        sizes.append(pages())
    assert sizes[2] <= sizes[0] * 1.1
