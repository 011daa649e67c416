"""What `antiphon responses prune` does: deletes what is old from a database, which servers may use. Knows no HTTP."""

import argparse
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from antiphon.config import Settings
from antiphon.errors import SettingsError

if TYPE_CHECKING:
    from antiphon.core.retention import Retention

EXAMPLES: Final = """\
examples:
  antiphon responses prune --older-than 30d --dry-run
  antiphon responses prune --older-than 30d --project shop --metadata kind=test
  antiphon responses prune --older-than 12h --events-only

Responses go as by DELETE, with all that is stored of them; conversations keep their items, and so do later responses
what they build on. Servers may go on meanwhile. `[retention]` in the settings does it by itself.
"""
UNITS_S: Final = {"m": 60, "h": 3_600, "d": 24 * 3_600, "w": 7 * 24 * 3_600}
STATUSES: Final = ("completed", "incomplete", "failed", "cancelled")
"""Those of responses that are over."""


def words(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--older-than",
        type=_seconds,
        required=True,
        metavar="AGE",
        help="such as 90m, 12h, 30d or 8w: of a response since it was created, of events since they ended",
    )
    parser.add_argument("--project", help="only this project's (default: all)")
    parser.add_argument("--status", choices=STATUSES, help="only those that ended so")
    parser.add_argument("--model", metavar="NAME", help="only those of this model")
    parser.add_argument(
        "--metadata",
        action="append",
        type=_label,
        default=[],
        metavar="KEY=VALUE",
        help="only those that have it; repeatable",
    )
    parser.add_argument(
        "--events-only", action="store_true", help="keep responses: only background ones are streamed no longer"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be deleted")
    parser.add_argument("--yes", action="store_true", help="do not ask, which is done on a terminal only")


def _seconds(text: str) -> int:
    found = re.fullmatch(r"(\d{1,6})([mhdw])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age such as 90m, 12h, 30d or 8w")
    return int(found[1]) * UNITS_S[found[2]]


def _label(text: str) -> tuple[str, str]:
    key, is_one, value = text.partition("=")
    if not is_one:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def run(settings: Settings, arguments: argparse.Namespace) -> Iterator[str]:
    """Does it, and says in lines what was done. Raises SettingsError, StorageError."""
    database = settings.storage.database
    if not settings.storage.is_postgres and not Path(database).is_file():
        raise SettingsError(f"there is no database {database}")
    if arguments.events_only and (arguments.project or arguments.status or arguments.model or arguments.metadata):
        raise SettingsError("--events-only goes with --older-than alone: events are not told apart further")
    asks = sys.stdin.isatty() and not (arguments.yes or arguments.dry_run)
    if arguments.dry_run or asks:
        found = _pruned(settings, arguments, only_counts=True)
        yield from _lines("would delete", found)
        if not asks or not found or not _is_sure():
            return
    yield from _lines("deleted", _pruned(settings, arguments, only_counts=False))


def _is_sure() -> bool:
    sys.stderr.write("Delete? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _lines(did: str, what: Sequence[str]) -> Iterator[str]:
    return (f"{did} {one}" for one in what or ["nothing"])


def _pruned(settings: Settings, arguments: argparse.Namespace, *, only_counts: bool) -> Sequence[str]:
    import asyncio

    async def work() -> Sequence[str]:
        from antiphon import stores

        store = stores.build(settings.storage, settings.limits)
        try:
            return await _swept(store.retention, arguments, only_counts=only_counts)
        finally:
            await store.close()

    return asyncio.run(work())


async def _swept(store: "Retention", arguments: argparse.Namespace, *, only_counts: bool) -> Sequence[str]:
    from antiphon.core.retention import Pruning
    from antiphon.engine.retention import STEP_RESPONSES, Sweeper

    sweeper = Sweeper(store, lambda: int(time.time()), only_counts=only_counts)
    before = int(time.time()) - arguments.older_than
    if arguments.events_only:
        return [f"the events of {count} background responses"] if (count := await sweeper.events(before)) else []
    pruning = Pruning(
        project=arguments.project or "",
        created_before=before,
        status=arguments.status,
        model=arguments.model,
        metadata=(*arguments.metadata,),
        limit=STEP_RESPONSES,
    )
    if arguments.project is not None:
        count = await sweeper.responses(pruning)
        return [f"{count} responses of project {arguments.project}"] if count else []
    return [f"{count} responses of project {project}" for project, count in (await sweeper.everywhere(pruning)).items()]
