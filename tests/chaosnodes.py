"""What `tests.chaos` strikes: servers, and the database that they share."""

import asyncio
import base64
import json
import os
import resource
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import apsw
import psycopg

from tests.ports import free_port
from tests.postgres import Cluster
from tests.rawclient import ask

ROOT: Final = Path(__file__).parent.parent
LEASE_S: Final = 1.0
START_S: Final = 60.0
IN_FLIGHT: Final = """
SELECT (SELECT e.data FROM response_events e WHERE e.response = b.response ORDER BY e.seq DESC LIMIT 1)
FROM runs b WHERE b.is_over = 0 AND b.owner LIKE '{owner}' ESCAPE '!'"""

TOOL: Final = "antiphon:scripted_call"

Rows: TypeAlias = Sequence[tuple[Any, ...]]


class Server:
    """One server process, started as often as it is killed."""

    def __init__(self, database: "Database", folder: Path, name: str, lease_s: float = LEASE_S) -> None:
        self.name = name
        self._database = database
        self._lease_s = lease_s
        self.flags: tuple[str, ...] = ()
        """More of them, from the next start on."""
        self._note = folder / f"{name}.commit"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self.tool_runs: Counter[str] = Counter()
        """By response, of all its lives."""

    async def start(self) -> None:
        words = ("serve", "--scripted", "--log-format", "json", "--log-level", "debug", "--port", str(self.port))
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.mortal", *words, "--database", self._database.address, *self.flags),
            cwd=ROOT,
            env=os.environ
            | {
                "PYTHONPATH": f"{ROOT / 'src'}",
                "MORTAL": str(self._note),
                "ANTIPHON_LIMITS__BACKGROUND_LEASE_S": str(self._lease_s),
                "ANTIPHON_LIMITS__BACKGROUND_ATTEMPTS_MAX": "1000",
            }
            | self._database.environment,
            stderr=asyncio.subprocess.PIPE,
        )
        self._listening = asyncio.create_task(self._listen(self.process))
        await asyncio.wait_for(until(self._is_up), START_S)

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            with suppress(ValueError):
                said = json.loads(line)
                if said.get("event") == "a tool runs":
                    self.tool_runs[said["response"]] += 1

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
        with suppress(ProcessLookupError):
            self.process.kill()
        await self._is_gone()

    async def stop(self) -> None:
        """As one is told to when it is upgraded. Returns when it has ended by itself."""
        assert self.process is not None
        self.process.terminate()
        await asyncio.wait_for(self._is_gone(), START_S)
        assert self.process.returncode == 0

    async def kill_in_commit(self) -> bool:
        """Whether it died in one."""
        self._note.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR1)
        try:
            await asyncio.wait_for(self._is_gone(), LEASE_S)
        except TimeoutError:  # it had nothing more to commit
            await self.kill()
        return self._note.exists() and self._note.read_text(encoding="ascii") == "in"

    async def _is_gone(self) -> None:
        assert self.process is not None
        assert self._listening is not None
        await self.process.wait()
        await self._listening

    async def pause(self, seconds: float) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        os.kill(self.pid, signal.SIGCONT)

    async def fill_disk(self, seconds: float) -> None:
        """For this process alone: what it writes to files does not fit."""
        was = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (1, was[1]))
        await asyncio.sleep(seconds)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, was)


class Database(Protocol):
    address: str
    environment: dict[str, str]

    async def rows(self, query: str) -> Rows: ...


class SqliteFile:
    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "chaos.db")
        self.environment: dict[str, str] = {}

    async def rows(self, query: str) -> Rows:
        with closing(apsw.Connection(self.address, flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
            connection.set_busy_timeout(5_000)
            return connection.execute(query).fetchall()


class PostgresDatabase:
    def __init__(self, address: str, folder: Path, cluster: Cluster | None) -> None:
        """`cluster`: its server, if that may be restarted."""
        self.address = address
        self.cluster = cluster
        self.environment = {
            "ANTIPHON_SERVER__SECRET": base64.b64encode(b"s" * 32).decode(),
            "ANTIPHON_STORAGE__FILES": str(folder / "files"),
        }

    async def rows(self, query: str) -> Rows:
        connect = psycopg.AsyncConnection.connect(self.address, options="-c search_path=antiphon")
        async with await connect as connection:
            return await (await connection.execute(query.encode())).fetchall()

    async def restart(self, mode: str) -> None:
        assert self.cluster is not None
        await asyncio.to_thread(self.cluster.stop, mode)
        await asyncio.to_thread(self.cluster.start)


async def in_flight(database: Database, owner_pid: int) -> list[str]:
    """The moments at which the responses are that this process makes, or made when it died, as far as it is written."""
    query = IN_FLIGHT.format(owner=f"%!_{owner_pid}")
    return [_moment(data) for (data,) in await database.rows(query)]


def _moment(data: str | None) -> str:
    """That of the last event."""
    if data is None:
        return "untold"  # what nobody streams is written around its tools alone
    event = json.loads(data)
    kind, item_kind = event["type"], event.get("item", {}).get("type", "")
    if kind.endswith(".done"):
        return "between turns" if item_kind == TOOL else "between items"
    if TOOL in (item_kind, kind.rpartition(".")[0].replace("response.", "antiphon:")):
        return "mid-tool"
    return "mid-token" if kind.endswith((".delta", ".added")) else "at its beginning"


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Asks and asks: another process tells nothing by itself."""
    while not await is_so():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
