"""Servers in processes of their own, started as a user starts them, and what they say of themselves."""

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.conftest import WAIT_S

ROOT = Path(__file__).parent.parent
SECRET = base64.b64encode(b"s" * 32).decode()


class Served:
    """`antiphon serve`, with all that it starts."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.other: list[str] = []
        """What is no line of its log."""
        self._lines: list[dict[str, Any]] = []
        self._more = asyncio.Condition()
        self._is_over = False
        self.reading = asyncio.create_task(self._read())
        self.url = ""

    async def _read(self) -> None:
        """To the end: a full pipe would stop the server."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            async with self._more:
                if line.startswith(b"{"):
                    self._lines.append(json.loads(line))
                else:
                    self.other.append(line.decode())
                self._more.notify_all()
        async with self._more:
            self._is_over = True
            self._more.notify_all()

    def said(self, **fields: Any) -> list[dict[str, Any]]:
        """The lines with these fields, as far as they have come."""
        return [line for line in self._lines if fields.items() <= line.items()]

    async def wait_said(self, count: int = 1, **fields: Any) -> dict[str, Any]:
        """The line with these fields that comes as the so-manieth of them."""
        async with asyncio.timeout(WAIT_S), self._more:
            await self._more.wait_for(lambda: self._is_over or len(self.said(**fields)) >= count)
        found = self.said(**fields)
        assert len(found) >= count, f"no {fields}: {self.other} {self._lines}"
        return found[count - 1]

    async def maker(self, response_id: str) -> int:
        """The worker that made it."""
        return int((await self.wait_said(event="response ended", response=response_id))["worker"])

    async def wait_ended(self) -> int:
        async with asyncio.timeout(WAIT_S):
            code = await self.process.wait()
            await self.reading
        return code


@asynccontextmanager
async def started(*words: str, **environ: str) -> AsyncIterator[Served]:
    """A server on a free port, with what else it is told; it need not serve yet."""
    command = (sys.executable, "-m", "antiphon", "serve", "--port", "0", "--log-format", "json", *words)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ANTIPHON_")}
    path = os.pathsep.join(filter(None, (environ.pop("PYTHONPATH", ""), str(ROOT / "src"))))
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=clean | environ | {"PYTHONPATH": path}, stderr=asyncio.subprocess.PIPE
    )
    served = Served(process)
    try:
        yield served
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await served.wait_ended()  # the workers too: they hold its standard error


@asynccontextmanager
async def served(*words: str, **environ: str) -> AsyncIterator[Served]:
    """A server that serves the scripted model, or what else it is told."""
    async with started(*words, **environ) as one:
        one.url = (await one.wait_said(event="serving"))["address"].removesuffix("/v1")
        yield one


def processes() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def told_of(pid: int, name: str) -> str:
    """What the system tells of a process; nothing, when it has gone meanwhile."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def stat_of(pid: int) -> list[str]:
    """Its state, its parent, and so on."""
    return told_of(pid, "stat").rpartition(")")[2].split()


def on(database: str, folder: Path) -> Mapping[str, str]:
    """The environment of servers that share this database."""
    shared = {"ANTIPHON_STORAGE__DATABASE": database}
    if database.startswith("postgresql:"):
        shared |= {"ANTIPHON_STORAGE__FILES": str(folder / "files"), "ANTIPHON_SERVER__SECRET": SECRET}
    return shared
