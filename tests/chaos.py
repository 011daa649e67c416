"""Servers killed at random moments while they make background responses, and what became of those.

python -m tests.chaos 500                     500 kills; the last line says what came of it; exit code 0: all is well
python -m tests.chaos 500 --seed 7
python -m tests.chaos 500 --store postgresql  sqlite, postgresql, or both (half of the kills each)
python -m tests.chaos 500 --database postgresql://…   an empty one, that is not restarted

Two servers share one database, and a crowd of clients keeps them busy. A server that makes something is killed, a
quarter of the times in a commit, and started anew. Between the kills, and not counted, a server stands still for longer
than its leases and wakes again; it finds its disk full for as long (SQLite); or the database is restarted (PostgreSQL).
Of every response it is asked at the end:

    lost      it is gone, or is not what its script says, or somebody saw a stream with a gap, a repetition or a break
    repeated  a tool ran twice for it
    stuck     it was not over in a minute

A response may fail only where it must: with a tool running.
"""

import argparse
import asyncio
import json
import math
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from antiphon.core.fold import fold
from tests.chaosnodes import LEASE_S, Database, PostgresDatabase, Server, SqliteFile, in_flight, until
from tests.postgres import Cluster, binaries
from tests.rawclient import Exchange, Frame, ask, events_of, parsed

STUCK_S: Final = 60.0
AWAY_S: Final = LEASE_S * 1.5
CLIENTS: Final = 12
SERVERS: Final = 2
COMMIT_SHARE: Final = 0.25
KILLS_PER_INCIDENT: Final = 12
TRIES_MAX: Final = 20
"""For a kill that finds nothing in flight."""
TOOL: Final = {"type": "antiphon:scripted"}
SCRIPTS: Final = {
    "pace 10 | say a b c d e f g h": "a b c d e f g h",
    "pace 10 | think a b c d e f g h i j k l m n o p | say done": "done",
    'pace 10 | think a b c d | call scripted {"text":"wait 80"} => pace 10 | think a b c d | say done': "done",
    'call scripted {"text":"wait 20"} => think a | call scripted {"text":"wait 20"} => pace 10 | say b c d': "b c d",
}
FAILING: Final = frozenset({"while a tool was running"})
UNFINISHED: Final = ("queued", "in_progress")
GONE: Final = (OSError, asyncio.IncompleteReadError, TimeoutError)
"""What a client meets whose server dies."""

Incident: TypeAlias = Callable[[], Awaitable[None]]


class Asked(NamedTuple):
    """A response that was asked for, and all that its reader saw."""

    id: str
    text: str
    frames: list[Frame]
    calls: int
    """Of tools, in its script."""
    streams: bool


class Result(NamedTuple):
    kills: int
    lost: int
    repeated: int
    stuck: int
    asked: int
    failed: int
    done: Counter[str]
    """Where responses were when their servers died, and what else was done."""

    @property
    def is_well(self) -> bool:
        return not (self.lost or self.repeated or self.stuck)


class Chaos:
    def __init__(self, database: Database, folder: Path, seed: int) -> None:
        self._database = database
        self._random = random.Random(seed)  # noqa: S311 # no secret
        self._servers = [Server(database, folder, f"server{number}") for number in range(SERVERS)]
        self._asked: list[Asked] = []
        self._stuck: set[str] = set()
        self._done: Counter[str] = Counter()
        self._is_over = False

    async def run(self, kills: int) -> Result:
        await asyncio.gather(*(server.start() for server in self._servers))
        try:
            clients = [asyncio.create_task(self._client()) for _ in range(CLIENTS)]
            for strike in self._strikes(kills):
                await strike()
            self._is_over = True
            await asyncio.gather(*clients)
            return await self._result(kills)
        finally:
            await asyncio.gather(*(server.kill() for server in self._servers))

    # -- striking

    def _strikes(self, kills: int) -> list[Incident]:
        """In what order things happen."""
        in_commit = math.ceil(kills * COMMIT_SHARE)
        strikes: list[Incident] = [partial(self._kill, in_commit=number < in_commit) for number in range(kills)]
        strikes += self._incidents() * math.ceil(kills / KILLS_PER_INCIDENT)
        self._random.shuffle(strikes)
        return strikes

    def _incidents(self) -> list[Incident]:
        if not isinstance(self._database, PostgresDatabase):
            return [self._pause, self._fill_disk]
        if self._database.cluster is None:
            return [self._pause]
        return [self._pause, partial(self._restart, "fast"), partial(self._restart, "immediate")]

    async def _kill(self, *, in_commit: bool) -> None:
        """Kills a server while it makes something."""
        for _ in range(TRIES_MAX):
            victim = await self._victim()
            pid = victim.pid
            was_in_commit = in_commit and await victim.kill_in_commit()
            await victim.kill()
            moments = await in_flight(self._database, pid)
            await victim.start()
            if moments:
                self._done.update(f"died with their server, {moment}" for moment in moments)
                self._done["kills in a commit"] += was_in_commit
                return
        raise RuntimeError("no server has anything to do")

    async def _victim(self) -> Server:
        """A server, while it makes something."""
        victim = self._random.choice(self._servers)
        await asyncio.sleep(self._random.uniform(0, 0.4))

        async def makes_something() -> bool:
            return bool(await in_flight(self._database, victim.pid))

        await until(makes_something)
        return victim

    async def _pause(self) -> None:
        await (await self._victim()).pause(AWAY_S)
        self._done["pauses"] += 1

    async def _fill_disk(self) -> None:
        await (await self._victim()).fill_disk(AWAY_S)
        self._done["full disks"] += 1

    async def _restart(self, mode: str) -> None:
        await self._victim()
        assert isinstance(self._database, PostgresDatabase)
        await self._database.restart(mode)
        self._done[f"restarts ({mode})"] += 1

    # -- asking

    async def _client(self) -> None:
        while not self._is_over:
            script, text = self._random.choice(list(SCRIPTS.items()))
            asked = await self._ask(script, text, streams=self._random.random() < 0.5)
            if asked is None:
                await asyncio.sleep(0.05)
                continue
            self._asked.append(asked)
            try:
                async with asyncio.timeout(STUCK_S):
                    await (self._read(asked) if asked.streams else until(partial(self._is_ended, asked)))
            except TimeoutError:
                self._stuck.add(asked.id)

    def _any(self) -> str:
        return self._random.choice(self._servers).url

    async def _ask(self, script: str, text: str, *, streams: bool) -> Asked | None:
        """None: the server died before it said that it would, or could not."""
        fields = {"model": "scripted", "input": script, "tools": [TOOL], "background": True, "stream": streams}
        frames: list[Frame] = []
        calls = script.count("call scripted")
        with suppress(*GONE):
            async with await Exchange.open(self._any()) as one:
                one.send("POST", "/v1/responses", fields)
                if not streams:
                    answer = await one.answer()
                    return Asked(answer.value["id"], text, frames, calls, streams) if answer.status == 200 else None
                if (await one.head()).status == 200:
                    await _take(one, frames)
        return Asked(frames[0].data["response"]["id"], text, frames, calls, streams) if frames else None

    async def _read(self, asked: Asked) -> None:
        """Goes on reading wherever somebody answers, until the end."""
        while not asked.frames or asked.frames[-1].data != "[DONE]":
            await self._read_some(asked)

    async def _read_some(self, asked: Asked) -> None:
        after = events_of(asked.frames)[-1]["sequence_number"]
        with suppress(*GONE):
            async with await Exchange.open(self._any()) as one:
                one.send("GET", f"/v1/responses/{asked.id}?stream=true&starting_after={after}")
                if (await one.head()).status == 200:
                    await _take(one, asked.frames)
                    return
        await asyncio.sleep(0.05)

    async def _is_ended(self, asked: Asked) -> bool:
        response = await self._get(asked)
        return response is not None and response.get("status") not in UNFINISHED

    async def _get(self, asked: Asked) -> Any:
        """The response, or why there is none. None: whoever was asked cannot say."""
        with suppress(*GONE):
            answer = await ask(self._any(), "GET", f"/v1/responses/{asked.id}")
            return json.loads(answer.body) if answer.status < 500 else None
        return None

    # -- what came of it

    async def _result(self, kills: int) -> Result:
        outcomes = Counter([await self._outcome(asked) for asked in self._asked])
        runs = sum((server.tool_runs for server in self._servers), Counter())
        return Result(
            kills,
            lost=outcomes["lost"],
            repeated=sum(runs[asked.id] > asked.calls for asked in self._asked),
            stuck=outcomes["stuck"],
            asked=len(self._asked),
            failed=outcomes["failed"],
            done=self._done,
        )

    async def _outcome(self, asked: Asked) -> str:
        response = await self._get(asked)
        if asked.id in self._stuck or response is None or response.get("status") in UNFINISHED:
            return _told("stuck", asked, response)
        if "status" not in response:
            return _told("lost", asked, response)
        if asked.streams:
            again = [*asked.frames[:1]]
            await self._read_some(asked._replace(frames=again))
            if again != asked.frames or fold(events_of(again)) != response:
                return _told("lost", asked, response)
        if response["status"] == "completed":
            said = [
                part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"]
            ]
            return "completed" if said == [asked.text] else _told("lost", asked, response)
        message = (response["error"] or {}).get("message", "")
        return "failed" if any(reason in message for reason in FAILING) else _told("lost", asked, response)


async def _take(one: Exchange, frames: list[Frame]) -> None:
    while piece := await one.piece():
        frames.extend(frame for frame in parsed(piece) if frame != Frame(None, None))


def _told(outcome: str, asked: Asked, response: Any) -> str:
    sys.stdout.write(f"{outcome}: {asked.id} {json.dumps(response)[:2000]}\n")
    return outcome


# -- the command


@contextmanager
def started() -> Iterator[Cluster]:
    """A PostgreSQL of its own."""
    programs = binaries()
    if programs is None:
        raise SystemExit("PostgreSQL is not installed: make postgresql, or --store sqlite")
    cluster = Cluster(programs)
    try:
        yield cluster
    finally:
        cluster.remove()


async def on_sqlite(kills: int, seed: int) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        return await Chaos(SqliteFile(Path(folder)), Path(folder), seed).run(kills)


async def on_postgres(kills: int, seed: int, address: str, cluster: Cluster | None) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        return await Chaos(PostgresDatabase(address, Path(folder), cluster), Path(folder), seed).run(kills)


def results(kills: int, seed: int, store: str, address: str | None) -> Iterator[tuple[str, Result]]:
    if address is not None:
        yield address, asyncio.run(on_postgres(kills, seed, address, None))
        return
    on_postgres_too = {"sqlite": 0, "postgresql": kills, "both": kills // 2}[store]
    if kills > on_postgres_too:
        yield "SQLite", asyncio.run(on_sqlite(kills - on_postgres_too, seed))
    if on_postgres_too:
        with started() as cluster:
            yield "PostgreSQL", asyncio.run(on_postgres(on_postgres_too, seed, cluster.make("chaos"), cluster))


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill servers that make background responses.")
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311 # no secret
    parser.add_argument("--store", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--database", help="an empty PostgreSQL database, postgresql://…")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whatever was started is ended
    sys.stdout.write(f"seed {arguments.seed}\n")
    all_: list[Result] = []
    begun = time.monotonic()
    for name, result in results(arguments.kills, arguments.seed, arguments.store, arguments.database):
        all_.append(result)
        sys.stdout.write(
            f"{name}: {result.kills} kills in {time.monotonic() - begun:.0f} s, {result.asked} responses, of which "
            f"{result.failed} failed where they had to\n"
        )
        sys.stdout.writelines(f"    {count:5} {what}\n" for what, count in sorted(result.done.items()))
        sys.stdout.flush()
    kills, lost, repeated, stuck = (sum(getattr(one, name) for one in all_) for name in Result._fields[:4])
    sys.stdout.write(f"{kills} kills: {lost} lost, {repeated} repeated, {stuck} stuck\n")
    return 0 if all(one.is_well for one in all_) else 1


if __name__ == "__main__":
    sys.exit(main())
