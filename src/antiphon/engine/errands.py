"""Errands: what a turn asks this server to do, done together. Knows no model and no turn."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import aclosing

from antiphon.core.builder import Builder
from antiphon.core.calls import HostedRequest
from antiphon.core.hosted import Errand, Outcome
from antiphon.core.toolbox import Hosted
from antiphon.core.toolsearch import Search
from antiphon.engine.journal import Journal
from antiphon.engine.log import EventLog
from antiphon.errors import ApiError, DependencyFailed, ServerError
from antiphon.observe import log as logger
from antiphon.wire.items import Asking, HostedCall, Opening, ToolSearchCall, ToolSearchOutput

SEARCHED_HERE_MAX = 100
"""Among so few tools it takes well under a millisecond to search; among more it is done in a thread."""


class Errands:
    """Of one run."""

    def __init__(
        self, project: str, builder: Builder, log: EventLog, journal: Journal | None, timeout_s: float
    ) -> None:
        self._project = project
        self._builder = builder
        self._log = log
        self._journal = journal
        self._timeout_s = timeout_s

    async def take(self, requests: Sequence[HostedRequest]) -> None:
        """What the model asked for: asks the client, searches for tools, and runs the rest."""
        found = [await _found(one) for one in requests]
        begun: list[tuple[int, Hosted]] = []
        for one, output in zip(requests, found, strict=True):
            if isinstance(one.item, Asking):
                self._builder.ask(one.item)
            elif isinstance(one.item, ToolSearchCall):
                assert output is not None
                self._builder.searched(one.item, output)
            else:
                assert isinstance(one.hosted, Hosted)
                begun.append((self._builder.begin(one.item), one.hosted))
        await self.run(begun)

    async def begin(self, calls: Iterable[tuple[Hosted, HostedCall]]) -> None:
        """Calls that no model made."""
        await self.run([(self._builder.begin(item), hosted) for hosted, item in calls])

    async def run(self, begun: Sequence[tuple[int, Hosted]]) -> None:
        """Runs together what stands at these indices, each to its end, whatever becomes of the others. Raises what an
        opening failed with."""
        self._publish()
        if not begun:
            return
        if self._journal is not None:
            await self._journal.flush()  # what has begun is known before it does anything
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._run_one(index, hosted)) for index, hosted in begun]
        if self._journal is not None:
            await self._journal.flush()
        for task in tasks:
            if (failure := task.result()) is not None:
                raise failure

    async def _run_one(self, index: int, hosted: Hosted) -> ApiError | None:
        item = self._builder.running(index)
        kind = str(item.__struct_config__.tag)
        failure: ApiError | None = None
        logger.debug("a tool runs", response=self._builder.id, tool=kind, item=item.id)
        whole = asyncio.timeout(self._timeout_s)
        try:
            async with whole:
                done = await self._outcome(index, item, hosted)
        except ApiError as error:
            logger.warning("a hosted call failed", response=self._builder.id, tool=kind, error=error.message)
            failure = error
        except (Exception, asyncio.CancelledError) as error:  # however a tool fails, its item does
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            if whole.expired():
                kind_of = DependencyFailed if isinstance(item, Opening) else ServerError
                failure = kind_of(f"The tool took longer than {self._timeout_s:g} s.")
            else:
                logger.exception("a hosted call failed", response=self._builder.id, tool=kind)
                failure = ServerError("The tool failed.")
        if failure is not None:
            done = hosted.tool.failed(item, failure.message)
        self._builder.outcome(index, done)
        self._publish()
        return failure if isinstance(item, Opening) else None

    async def _outcome(self, index: int, item: HostedCall, hosted: Hosted) -> HostedCall:
        errand = Errand(project=self._project, response_id=self._builder.id, declaration=hosted.declaration)
        async with aclosing(hosted.tool.run(item, errand)) as steps:
            async for step in steps:
                if isinstance(step, Outcome):
                    return step.item
                self._builder.progress(index, step.status)
                self._publish()
        raise ServerError("The tool gave no outcome.")

    def _publish(self) -> None:
        self._log.extend(self._builder.take())


async def _found(request: HostedRequest) -> ToolSearchOutput | None:
    search, call = request.hosted, request.item
    if not isinstance(search, Search):
        return None
    assert isinstance(call, ToolSearchCall)
    if len(search.tools) <= SEARCHED_HERE_MAX:
        return search.output(call)
    return await asyncio.to_thread(search.output, call)


def _is_cancelled() -> bool:
    """From outside: else a tool cancelled itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
