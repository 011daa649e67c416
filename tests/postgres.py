"""A PostgreSQL of the tests' own, in a folder that goes with it, on a loopback port, run by a user that is not root."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import psycopg

from antiphon.stores import postgres_schema
from tests.ports import free_port

DEBIAN = Path("/usr/lib/postgresql")
COMMAND_WAIT_S = 60
USER = "postgres"
STORE = "store"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "autovacuum": "off",
    "deadlock_timeout": "50ms",
}


def binaries() -> Path | None:
    """Where PostgreSQL's programs are; Debian does not put them in the path."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    versions = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return versions[-1].parent if versions else None


class Cluster:
    """One server process and its data. Databases are made and dropped as tests need them."""

    def __init__(self, bin_: Path, **settings: str) -> None:
        self._bin = bin_
        self._folder = Path(tempfile.mkdtemp(prefix="antiphon-postgres-"))
        self._data = self._folder / "data"
        self.port = free_port()
        self._tables: list[str] = []
        if os.getuid() == 0:
            shutil.chown(self._folder, "nobody")
        self._run("initdb", "--no-sync", "--auth=trust", f"--username={USER}", "--encoding=UTF8", "--locale=C")
        settings = SETTINGS | {"port": str(self.port)} | settings
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        with (self._data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.writelines(lines)
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        self._control("start", "--log", str(self._folder / "log"))

    def stop(self, mode: str = "fast") -> None:
        self._control("stop", "--mode", mode)

    def remove(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self._folder)

    def url(self, database: str = "postgres", **parameters: str) -> str:
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}{query and '?'}{query}"

    def make(self, database: str, template: str = "template1") -> str:
        """A database that is as new; gives its address."""
        self.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
        self.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url(database)

    def execute(self, query: str, database: str = "postgres") -> list[tuple[object, ...]]:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def emptied(self) -> str:
        """The address of a database of the newest version that holds nothing; another test's is this one too."""
        if not self._tables:
            postgres_schema.prepare(self.make(STORE))
            names = self.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'antiphon'", STORE)
            self._tables = [f"antiphon.{name}" for (name,) in names if name not in ("migrations", "counters")]
        deletes = "; ".join(f"DELETE FROM {table}" for table in self._tables)  # noqa: S608 - constants only
        self.execute(f"SET session_replication_role = replica; {deletes}", STORE)  # foreign keys do not look
        return self.url(STORE)

    def _control(self, *words: str) -> None:
        self._run("pg_ctl", *words, "--wait", f"--timeout={COMMAND_WAIT_S - 10}", "--silent")

    def _run(self, program: str, *words: str) -> None:
        """As nobody in particular where the tests run as root, for whom PostgreSQL does not work."""
        who: Mapping[str, object] = {"user": "nobody", "extra_groups": []} if os.getuid() == 0 else {}
        done = subprocess.run(
            [self._bin / program, "--pgdata", self._data, *words],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_WAIT_S,
            check=False,
            **who,  # type: ignore[call-overload]
        )
        if done.returncode:
            log = self._folder / "log"
            raise RuntimeError(f"{program} failed: {log.read_text(errors='replace') if log.exists() else ''}")
