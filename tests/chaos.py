"""Servers killed at random moments while they make background responses, and what became of those.

python -m tests.chaos 500          kills 500 times; its last line says what came of it; exit code 0: all is well
python -m tests.chaos 500 --seed 7

Two servers share one SQLite file, and a crowd of clients keeps them busy. A server that makes something is killed, or
stopped for longer than its leases and woken again; then it is started anew. Of every response it is asked at the end:

    lost      it is gone, or is not what its script says, or somebody saw a stream with a gap, a repetition or a break
    repeated  a tool ran twice for it
    stuck     it was not over in time

A response may fail only where it must: with a tool running.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw

from antiphon.core.fold import fold
from tests.rawclient import Exchange, Frame, ask, events_of, parsed

ROOT: Final = Path(__file__).parent.parent
LEASE_S: Final = 1.0
STUCK_S: Final = 60.0
START_S: Final = 30.0
CLIENTS: Final = 8
SERVERS: Final = 2
PAUSE_SHARE: Final = 0.2
"""Of the kills that are pauses."""
TOOL: Final = {"type": "antiphon:scripted"}
SCRIPTS: Final = {
    "pace 10 | say a b c d e f g h": "a b c d e f g h",
    "pace 10 | think a b c d e f g h i j k l m n o p | say done": "done",
    'pace 10 | think a b c d | call scripted {"text":"wait 80"} => pace 10 | think a b c d | say done': "done",
    'call scripted {"text":"wait 20"} => think a | call scripted {"text":"wait 20"} => pace 10 | say b c d': "b c d",
}
FAILING: Final = frozenset({"while a tool was running"})


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

    @property
    def is_well(self) -> bool:
        return not (self.lost or self.repeated or self.stuck)


class Server:
    """One server process on the shared file, started as often as it is killed."""

    def __init__(self, database: Path, log: Path) -> None:
        self._database = database
        self._log = log
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        words = [
            sys.executable,
            "-m",
            "antiphon",
            "serve",
            "--scripted",
            "--log-format",
            "json",
            "--log-level",
            "debug",
        ]
        environment = os.environ | {
            "PYTHONPATH": str(ROOT / "src"),
            "ANTIPHON_LIMITS__BACKGROUND_LEASE_S": str(LEASE_S),
            "ANTIPHON_LIMITS__BACKGROUND_ATTEMPTS_MAX": "1000",
        }
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *words,
                *("--port", str(self.port), "--database", str(self._database)),
                cwd=ROOT,
                env=environment,
                stderr=log,
            )
        await asyncio.wait_for(_until(self._is_up), START_S)

    async def _is_up(self) -> bool:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            return (await ask(self.url, "GET", "/ready")).status == 200
        return False

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def pause(self, seconds: float) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        os.kill(self.pid, signal.SIGCONT)


class Chaos:
    def __init__(self, folder: Path, seed: int) -> None:
        self._database = folder / "chaos.db"
        self._log = folder / "servers.log"
        self._random = random.Random(seed)  # noqa: S311 # no secret
        self._servers = [Server(self._database, self._log) for _ in range(SERVERS)]
        self._asked: list[Asked] = []
        self._is_over = False

    async def run(self, kills: int) -> Result:
        await asyncio.gather(*(server.start() for server in self._servers))
        try:
            clients = [asyncio.create_task(self._client()) for _ in range(CLIENTS)]
            for _ in range(kills):
                await self._strike()
            self._is_over = True
            _, stuck = await asyncio.wait(clients, timeout=STUCK_S)
            for task in stuck:
                task.cancel()
            await asyncio.gather(*clients)
            return await self._result(kills)
        finally:
            for server in self._servers:
                with suppress(ProcessLookupError):
                    await server.kill()

    # -- killing

    async def _strike(self) -> None:
        """Kills a server while it makes something."""
        victim = self._random.choice(self._servers)
        await asyncio.sleep(self._random.uniform(0, 0.4))
        await _until(partial(self._makes_something, victim))
        if self._random.random() < PAUSE_SHARE:
            await victim.pause(LEASE_S * 1.5)
            return
        await victim.kill()
        await victim.start()

    async def _makes_something(self, server: Server) -> bool:
        with closing(apsw.Connection(str(self._database), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
            connection.set_busy_timeout(5_000)
            query = "SELECT count(*) FROM runs WHERE is_over = 0 AND owner GLOB ?"
            ((count,),) = connection.execute(query, (f"*_{server.pid}",)).fetchall()
        return bool(count)

    # -- asking

    async def _client(self) -> None:
        while not self._is_over:
            script, text = self._random.choice(list(SCRIPTS.items()))
            streams = self._random.random() < 0.5
            asked = await self._ask(script, text, streams=streams)
            if asked is not None:
                self._asked.append(asked)
                await (self._read(asked) if streams else self._poll(asked))

    def _any(self) -> str:
        return self._random.choice(self._servers).url

    async def _ask(self, script: str, text: str, *, streams: bool) -> Asked | None:
        """None: the server died before it said that it would."""
        fields = {"model": "scripted", "input": script, "tools": [TOOL], "background": True, "stream": streams}
        frames: list[Frame] = []
        calls = script.count("call scripted")
        try:
            async with await Exchange.open(self._any()) as one:
                one.send("POST", "/v1/responses", fields)
                if not streams:
                    return Asked((await one.answer()).value["id"], text, frames, calls, streams=False)
                assert (await one.head()).status == 200
                while piece := await one.piece():
                    frames += parsed(piece)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            if not frames:
                return None
        return Asked(frames[0].data["response"]["id"], text, frames, calls, streams=True)

    async def _read(self, asked: Asked) -> None:
        """Goes on reading wherever somebody answers, until the end."""
        while not asked.frames or asked.frames[-1].data != "[DONE]":
            await self._read_some(asked)

    async def _read_some(self, asked: Asked) -> None:
        after = events_of(asked.frames)[-1]["sequence_number"]
        try:
            async with await Exchange.open(self._any()) as one:
                one.send("GET", f"/v1/responses/{asked.id}?stream=true&starting_after={after}")
                assert (await one.head()).status == 200
                while piece := await one.piece():
                    asked.frames.extend(frame for frame in parsed(piece) if frame != Frame(None, None))
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            await asyncio.sleep(0.05)

    async def _poll(self, asked: Asked) -> None:
        await _until(partial(self._is_over_now, asked))

    async def _is_over_now(self, asked: Asked) -> bool:
        response = await self._get(asked)
        return response is not None and response.get("status") not in ("queued", "in_progress")

    async def _get(self, asked: Asked) -> Any:
        with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            return json.loads((await ask(self._any(), "GET", f"/v1/responses/{asked.id}")).body)
        return None

    # -- what came of it

    async def _result(self, kills: int) -> Result:
        outcomes = Counter([await self._outcome(asked) for asked in self._asked])
        runs = Counter(
            line["response"]
            for line in map(_parsed, self._log.read_text(encoding="utf-8").splitlines())
            if line.get("event") == "a tool runs"
        )
        repeated = sum(runs[asked.id] > asked.calls for asked in self._asked)
        return Result(
            kills,
            lost=outcomes["lost"],
            repeated=repeated,
            stuck=outcomes["stuck"],
            asked=len(self._asked),
            failed=outcomes["failed"],
        )

    async def _outcome(self, asked: Asked) -> str:
        response = await self._get(asked)
        if response is None or response.get("status") in ("queued", "in_progress"):
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


async def _until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Asks and asks: another process tells nothing by itself."""
    while True:
        if await is_so():
            return
        await asyncio.sleep(0.01)


def _parsed(line: str) -> Any:
    with suppress(ValueError):
        return json.loads(line)
    return {}


def _told(outcome: str, asked: Asked, response: Any) -> str:
    sys.stdout.write(f"{outcome}: {asked.id} {json.dumps(response)[:2000]}\n")
    return outcome


async def chaos(kills: int, seed: int) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        return await Chaos(Path(folder), seed).run(kills)


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill servers that make background responses.")
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311 # no secret
    arguments = parser.parse_args()
    sys.stdout.write(f"seed {arguments.seed}\n")
    result = asyncio.run(chaos(arguments.kills, arguments.seed))
    sys.stdout.write(f"{result.asked} responses, of which {result.failed} failed where they had to\n")
    sys.stdout.write(f"{result.kills} kills: {result.lost} lost, {result.repeated} repeated, {result.stuck} stuck\n")
    return 0 if result.is_well else 1


if __name__ == "__main__":
    sys.exit(main())
