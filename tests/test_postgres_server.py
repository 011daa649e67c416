"""A server on PostgreSQL, as its user sees it: the commands, the API on two servers, the move from SQLite."""

import asyncio
import base64
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import openai
import pytest
from msgspec.structs import replace

from antiphon import app, migration, origins
from antiphon.config import Limits, Settings, Storage
from antiphon.core.ports import CopyBounds, FileQuery, Lock, Store
from antiphon.crypto import Secret
from antiphon.errors import SettingsError
from antiphon.stores.sqlite import SqliteStore
from antiphon.wire.conversation import Conversation
from tests import test_file_store, test_store_runs
from tests.conftest import WAIT_S, changed, serve
from tests.postgres import Cluster
from tests.test_cli import Terminal, antiphon, free
from tests.test_store import erased, key, open_postgres, query, said, turn
from tests.test_store_conversations import said_in

__all__ = ["antiphon", "free"]

SECRET = base64.b64encode(b"s" * 32).decode()
A = Conversation(id="conv_a", created_at=1, metadata={"topic": "tests"})


@pytest.fixture
def settings(scripted: Settings, database: str, tmp_path: Path) -> Settings:
    files = str(tmp_path / "shared")
    return changed(scripted, storage={"database": database, "files": files}, server={"secret": SECRET})


# -- settings


def test_what_several_servers_must_share_is_asked_for(settings: Settings) -> None:
    async def run(**sections: dict[str, Any]) -> None:
        async with app.running(changed(settings, **sections)):
            pass

    with pytest.raises(SettingsError, match=r"server\.secret_env"):
        asyncio.run(run(server={"secret": ""}))
    with pytest.raises(SettingsError, match=r"storage\.files"):
        asyncio.run(run(storage={"files": ""}))


@pytest.mark.parametrize("text", ["short", base64.b64encode(b"x" * 31).decode(), "ä" * 44])
def test_a_secret_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="32 bytes in base64"):
        Secret.given(text)


def test_a_secret_of_the_settings_goes_before_the_file(scripted: Settings) -> None:
    assert app.secret(changed(scripted, server={"secret": SECRET})).value == b"s" * 32
    assert not Path(f"{scripted.storage.database}.secret").exists()


def test_the_secret_is_read_from_the_environment() -> None:
    environ = {"ANTIPHON_SERVER__SECRET_ENV": "OURS", "OURS": SECRET, "HOME": "."}
    assert origins.load(None, environ).server.secret == SECRET
    with pytest.raises(SettingsError, match=r"server\.secret_env: the environment variable OURS is not set"):
        origins.load(None, environ | {"OURS": ""})


ADDRESS = "postgresql://ann:geheim@db.internal:5432/antiphon?sslpassword=verborgen&password=heimlich&x=1"


def test_check_shows_the_address_without_passwords(antiphon: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_SERVER__SECRET", SECRET)
    for words in (("check",), ("check", "--json")):
        code, out, _ = antiphon(*words, "--database", ADDRESS)
        assert code == 0
        shown = json.loads(out) if "--json" in words else tomllib.loads(out)
        assert shown["storage"]["database"] == (
            "postgresql://***@db.internal:5432/antiphon?sslpassword=***&password=***&x=1"
        )
        assert SECRET not in out


def test_a_database_that_is_down_is_one_line_and_2_without_its_password(antiphon: Terminal, free: int) -> None:
    code, _, err = antiphon("keys", "list", "--database", f"postgresql://ann:geheim@127.0.0.1:{free}/db")
    assert code == 2
    assert err.startswith(f"antiphon: The database postgresql://***@127.0.0.1:{free}/db cannot be reached")
    assert "geheim" not in err


def test_doctor_asks_the_database_and_says_what_to_do(
    antiphon: Terminal, settings: Settings, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("doctor", "--scripted", "--port", str(free), "--database")
    code, out, _ = antiphon(*words, settings.storage.database)
    assert code == 1
    assert "PostgreSQL 1" in out
    assert "writable" in out
    assert "FAIL  files" in out
    assert "FAIL  secret" in out

    monkeypatch.setenv("ANTIPHON_STORAGE__FILES", settings.storage.files)
    monkeypatch.setenv("ANTIPHON_SERVER__SECRET", SECRET)
    code, out, _ = antiphon(*words, settings.storage.database)
    assert (code, "All is well" in out) == (0, True)
    code, out, _ = antiphon(*words, f"postgresql://u@127.0.0.1:{free}/db")
    assert code == 1
    assert "cannot be reached" in out


# -- the API


async def test_a_conversation_goes_on_at_another_server(settings: Settings) -> None:
    async with serve(settings) as first, serve(settings) as second:
        here = openai.AsyncOpenAI(base_url=first, api_key="none", max_retries=0, timeout=WAIT_S)
        there = openai.AsyncOpenAI(base_url=second, api_key="none", max_retries=0, timeout=WAIT_S)
        async with here, there:
            one = await here.responses.create(model="scripted", input="hello", metadata={"a": "b"})
            two = await there.responses.create(model="scripted", input="again", previous_response_id=one.id)
            assert [item.id for item in (await here.responses.input_items.list(two.id, order="asc")).data][:1]
            stream = await there.responses.create(model="scripted", input="x", stream=True)
            assert [event.type async for event in stream][-1] == "response.completed"

            conversation = await here.conversations.create()
            await there.responses.create(model="scripted", input="hi", conversation=conversation.id)
            assert len((await here.conversations.items.list(conversation.id)).data) == 2

            file = await here.files.create(file=("a.txt", b"some text"), purpose="user_data")
            assert (await there.files.content(file.id)).content == b"some text"
            await there.responses.delete(one.id)
            with pytest.raises(openai.NotFoundError):
                await here.responses.retrieve(one.id)


async def test_a_key_made_by_the_command_is_taken_by_every_server(
    antiphon: Terminal, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTIPHON_SERVER__SECRET", SECRET)
    words = ("--database", settings.storage.database)
    settings = changed(settings, auth={"required": True})
    async with serve(settings) as url:
        _, made_, _ = await asyncio.to_thread(antiphon, "keys", "create", "--project", "shop", *words)
        async with openai.AsyncOpenAI(base_url=url, api_key=made_.strip(), max_retries=0) as client:
            assert (await client.responses.create(model="scripted", input="hello")).status == "completed"
            _, listed, _ = await asyncio.to_thread(antiphon, "keys", "list", *words)
            (key_id,) = re.findall(r"^key_\w+", listed, re.MULTILINE)
            assert (await asyncio.to_thread(antiphon, "keys", "revoke", key_id, *words)).code == 0
            with pytest.raises(openai.AuthenticationError):  # the other server is told in a moment
                await asyncio.wait_for(asked_for_ever(client), WAIT_S)


async def asked_for_ever(client: openai.AsyncOpenAI) -> None:
    while True:
        await client.models.list()


# -- antiphon migrate


def test_migrate_says_what_it_did(antiphon: Terminal, cluster: Cluster, tmp_path: Path) -> None:
    address = cluster.make("command")
    for database in (address, str(tmp_path / "new.db")):
        first, second = (antiphon("migrate", "--database", database) for _ in range(2))
        assert (first.code, second.code) == (0, 0)
        assert "0001_responses.sql, 0002_listing.sql" in first.out
        assert second.out.endswith("is up to date (it was)\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--database", ":memory:"), "in memory"),
        (("--database", "a.db", "--from-sqlite", "b.db"), "imports into PostgreSQL"),
    ],
)
def test_a_migration_that_makes_no_sense_is_refused(antiphon: Terminal, words: tuple[str, ...], message: str) -> None:
    code, _, err = antiphon("migrate", *words)
    assert code == 2
    assert message in err


async def filled(file: Path) -> SqliteStore:
    """A database that holds some of everything."""
    store = SqliteStore(Storage(database=str(file)), Limits())
    for name, after in (("a", None), ("b", "a"), ("c", "b"), ("d", "a")):
        await turn(store, name, after=after, metadata={"name": name, "nul": "\0"})
    await erased(store, "a", "d")
    await turn(store, "b", project="other")
    await store.conversations.add("p", A, [said("one"), said("two")])
    await store.conversations.delete_item("p", A.id, "one", now=1)
    await store.add_key(replace(key("a"), name="\0\1"))
    await test_file_store.add(store.files, test_file_store.made("a", filename="\0.txt", expires_at=2**40))
    await test_file_store.add(store.files, test_file_store.made("b"))
    await store.files.delete("p", "file-b", test_file_store.NOW)
    await store.files.add_upload("p", test_file_store.begun("u"), test_file_store.ROOMY)
    await test_file_store.add_part(store.files, "u", "x")
    await store.files.reserve("copy-a", 1)
    await store.files.keep_copy("digest", "copy-a", 5, CopyBounds(copies_max=9, bytes_max=99), 1)
    await store.runs.append(await test_store_runs.begun(store), test_store_runs.deltas(2, 3), 2**41, 2**42)
    return store


async def everything(store: Store) -> list[Any]:
    """What it answers to all that can be asked."""
    answers: list[Any] = []
    for project in ("p", "other"):
        for name in "abcd":
            answers += [
                await store.response(project, f"resp_{name}"),
                await store.context(project, f"resp_{name}"),
                await store.input_items(project, f"resp_{name}", limit=9, order="desc", after=None),
            ]
        answers += [
            await store.runs.events(project, "resp_x", -1, 9),
            await store.runs.times(project, "resp_x", -1, 9),
            await store.responses(project, query("desc", metadata=(("nul", "\0"),))),
            await store.items(project, ["in_a", "out_c", "two"]),
            await store.files.page(project, FileQuery(limit=9, order="asc"), test_file_store.NOW),
            await store.files.upload(project, "upload_u", test_file_store.NOW),
            await store.files.parts(project, "upload_u"),
        ]
    now = test_file_store.NOW + 10**6
    answers += [sorted(await store.files.loose(now, 9)), await store.files.copy("digest"), list(await store.keys())]
    return [*answers, await store.conversations.context("p", A.id)]


async def test_an_imported_database_answers_as_the_first_did_and_goes_on(database: str, tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    old = await filled(file)
    lines = list(await asyncio.to_thread(lambda: [*migration.run(Storage(database=database), str(file))]))
    assert lines[1].startswith(f"imported from {file}: 5 responses, 9 items, 4 metadata, 1 api_keys, ")
    assert any(f"base64 < {file}.secret" in line for line in lines)
    assert any(f"{file}.files" in line for line in lines)

    new = open_postgres(database)
    assert await everything(new) == await everything(old)
    for store in (old, new):
        await turn(store, "e", after="c")
        await erased(store, "c", "b")
        await store.conversations.add("p", replace(A, id="conv_b"), [said("x")])
        version = await store.conversations.version("p", A.id)
        lock = Lock(project="p", conversation_id=A.id, response_id="resp_e2")
        await store.conversations.lock(lock, version=version, now=1, until=9)
        await store.save("p", said_in("e2"), [said("in_e2")], ())
        await test_file_store.add(store.files, test_file_store.made("c"))
    assert await everything(new) == await everything(old)
    assert await new.context("p", "resp_e") == await old.context("p", "resp_e")
    await old.close()
    await new.close()


async def test_an_import_that_is_interrupted_has_imported_nothing_and_can_be_run_again(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "old.db"
    old = await filled(file)

    def broken(*_: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("antiphon.stores.postgres_import.Importing.number_on", broken)
    with pytest.raises(KeyboardInterrupt):
        migration.import_sqlite(str(file), Storage(database=database))
    monkeypatch.undo()
    new = open_postgres(database)
    assert await new.keys() == ()
    assert await new.response("p", "resp_c") is None

    migration.import_sqlite(str(file), Storage(database=database))
    assert await everything(new) == await everything(old)
    await new.close()
    await old.close()


async def test_only_an_empty_database_is_imported_into(database: str, tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    await (await filled(file)).close()
    store = open_postgres(database)
    await store.add_key(key("theirs"))
    await store.close()
    with pytest.raises(SettingsError, match=r"not empty \(api_keys\)"):
        migration.import_sqlite(str(file), Storage(database=database))

    again = open_postgres(database)
    assert await again.response("p", "resp_c") is None
    await again.close()


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no SQLite database"), (b"", "older version"), (b"x" * 999, "not an SQLite")]
)
def test_what_is_no_database_of_ours_is_not_imported(
    database: str, tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "old.db"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        migration.import_sqlite(str(file), Storage(database=database))
