"""A server that dies in a commit: told by SIGUSR1, its next one is its last. Otherwise it is `python -m antiphon`.

The file that MORTAL names says afterwards where death came: "in" the commit, or, as the hand was too slow, "by" it.
"""

import os
import random
import signal
import sys
from pathlib import Path
from typing import Final

import apsw

from antiphon.cli import main
from antiphon.stores import postgres_play, postgres_writer, sqlite_file, sqlite_writer
from antiphon.stores.postgres_connection import Connection
from antiphon.stores.sqlite_file import Job, T

NOTE: Final = Path(os.environ["MORTAL"])
SQLITE_COMMIT_S: Final = 0.0001
POSTGRES_COMMIT_S: Final = 0.0005
"""About as long as they take."""

is_doomed = False


def doom(*_: object) -> None:
    global is_doomed  # a process dies once
    is_doomed = True


def begin(takes_s: float) -> None:
    """Nothing catches SIGALRM: it ends the process as SIGKILL does, but in so many microseconds."""
    if is_doomed:
        NOTE.write_text("in", encoding="ascii")
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, takes_s))  # noqa: S311 # no secret


def end() -> None:
    if is_doomed:
        NOTE.write_text("by", encoding="ascii")


def transaction(how: str, job: Job[T], connection: apsw.Connection) -> T:
    def last(connection: apsw.Connection) -> T:
        value = job(connection)
        begin(SQLITE_COMMIT_S)
        return value

    value = sqlite_file.transaction(how, last, connection)
    end()
    return value


async def commit(connection: Connection) -> None:
    begin(POSTGRES_COMMIT_S)
    await postgres_play.commit(connection)
    end()


if __name__ == "__main__":
    vars(sqlite_writer)["transaction"] = transaction
    vars(postgres_writer)["commit"] = commit
    signal.signal(signal.SIGUSR1, doom)
    sys.exit(main())
