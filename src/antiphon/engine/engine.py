"""Engine: prepares, starts and finds runs, and answers for what is stored. Knows no HTTP."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final, TypeVar

from msgspec import UNSET, structs

from antiphon import schemas
from antiphon.core.compaction import Kept
from antiphon.core.context import said_by_users
from antiphon.core.plan import Plan
from antiphon.core.ports import (
    JOINING,
    Count,
    Lock,
    Model,
    ModelCard,
    Order,
    Page,
    ResponsePage,
    ResponseQuery,
    TextCheck,
)
from antiphon.core.prompt import Offer
from antiphon.core.runs import Claimed, EventTime
from antiphon.core.templates import Template
from antiphon.engine import compaction as compacting
from antiphon.engine.background import Background, Made
from antiphon.engine.catalog import Catalog
from antiphon.engine.conversations import Conversations
from antiphon.engine.inputs import Inputs
from antiphon.engine.locks import Locks
from antiphon.engine.overview import Overviews
from antiphon.engine.prepare import Preparation, unfinished
from antiphon.engine.repeats import Repeats
from antiphon.engine.run import Checks, Run
from antiphon.engine.window import Window
from antiphon.engine.world import World
from antiphon.errors import ApiError, InvalidRequest, NotFound, TooManyRequests, Unavailable
from antiphon.wire.events import Event
from antiphon.wire.formats import JsonSchemaFormat
from antiphon.wire.items import ID_PREFIXES, Compaction, Item
from antiphon.wire.request import CreateResponse
from antiphon.wire.resources import CompactedResponse
from antiphon.wire.response import Response

T = TypeVar("T", bound=Item)
UNFINISHED: Final = frozenset({"queued", "in_progress"})


class Engine:
    """Every method takes the project: what belongs to another does not exist."""

    def __init__(
        self, world: World, catalog: Catalog, inputs: Inputs, *, prompts: Sequence[Template] = (), strict: bool = False
    ) -> None:
        """`strict`: what is else left out and named is refused."""
        self._world = world
        self._preparation = Preparation(world, catalog, inputs, prompts, strict=strict)
        self._catalog = catalog
        self._locks = Locks(world.store.conversations, world.clock)
        self.conversations = Conversations(world)
        self.overviews = Overviews(world.store, catalog, world.tools.values(), world.meter)
        self._background = Background(world, self._made_again, self._remember)
        self._repeats = Repeats(world.store.requests, world.clock)
        self._runs: dict[str, Run] = {}
        self._compacting = 0
        self._closing = False

    def start(self) -> None:
        """Begins to make background responses. Without it they wait for another process."""
        self._background.start()

    @property
    def is_ready(self) -> bool:
        """Whether new work is taken."""
        return not self._closing

    # -- making

    async def first(self, project: str, key: str, digest: bytes) -> tuple[str, Response | None]:
        """Of a request with an Idempotency-Key: the id of its response, and that response as it is now, if the request
        came before. Raises InvalidRequest where the key was another request's, RequestUnderWay."""
        response_id = self._world.new_id("resp")
        for _ in range(2):
            found = await self._repeats.first(project, key, digest, response_id)
            if found is None:
                break
            if await self._world.store.has(project, found.response_id):
                return found.response_id, await self.retrieve(project, found.response_id)
            await self._repeats.gone(project, key, found)
        return response_id, None

    async def settle(self, project: str, key: str, response_id: str) -> None:
        """The request with this key was carried out. Where nothing came of it, it is carried out again when it comes
        again."""
        response = await self._world.store.response(project, response_id)
        if response is None or response.status == "cancelled":
            await self._repeats.forget(project, key, response_id)

    def refused(self, project: str, error: ApiError) -> None:
        """A request for a response that nothing was begun for."""
        self._world.meter.refused(project, error.code or error.type)

    async def create(self, project: str, request: CreateResponse, response_id: str | None = None) -> Run:
        """Starts a run. Raises before anything is started when the request cannot be served."""
        try:
            plan, model, checks = await self._admitted(project, request, response_id)
        except ApiError as error:
            self.refused(project, error)
            raise
        run = Run(self._world, project, plan, model, checks, self._forget)
        self._runs[run.id] = run
        return run

    async def _admitted(self, project: str, request: CreateResponse, response_id: str | None) -> Made:
        if self._closing:
            raise Unavailable
        if len(self._runs) >= self._world.limits.runs_max:
            raise TooManyRequests(code="rate_limit_exceeded")
        plan, model = await self._planned(project, request, response_id)
        checks = await self._checks(plan)
        if (lock := _lock(project, plan)) is not None:
            await self._locks.take(lock, plan.version)
        return Made(plan, model, checks)

    async def count(self, project: str, request: CreateResponse) -> Count:
        """How many tokens the model would be told. Raises what `create` would."""
        plan, model = await self._planned(project, request)
        await self._checks(plan)
        truncates = plan.response.truncation == "auto"
        return await model.count(await Window(model, truncates=True).fitted(plan.prompt) if truncates else plan.prompt)

    async def compact(self, project: str, request: CreateResponse) -> CompactedResponse:
        """The conversation made shorter: all that users said, and a compaction. Nothing is stored."""
        if self._closing:
            raise Unavailable
        if len(self._runs) + self._compacting >= self._world.limits.runs_max:
            raise TooManyRequests(code="rate_limit_exceeded")
        self._compacting += 1
        try:
            plan, model = await self._planned(project, request)
            text, used = await compacting.summary(model, plan.prompt)
        finally:
            self._compacting -= 1
        item_id = self._world.new_id(ID_PREFIXES[Compaction])
        sealed = self._world.compactions(project).sealed(Kept(id=item_id, summary=text, keeps_users=True))
        return CompactedResponse(
            id=plan.response.id,
            created_at=plan.response.created_at,
            output=(
                *said_by_users(plan.context),
                Compaction(id=item_id, status="completed", encrypted_content=sealed),
            ),
            usage=used,
        )

    async def _planned(
        self, project: str, request: CreateResponse, response_id: str | None = None
    ) -> tuple[Plan, Model]:
        self._refuse_unfinished(project, request.previous_response_id)
        plan = await self._preparation.plan(project, request)
        model = await self._catalog.find(plan.prompt.model, plan.prompt.cache_key)
        compacting.threshold(plan.compacts_at, model, plan.prompt.model)  # refuses what it cannot tell
        if response_id is not None:
            plan = structs.replace(plan, response=structs.replace(plan.response, id=response_id))
        return plan, model

    async def create_background(self, project: str, request: CreateResponse, response_id: str | None = None) -> Plan:
        """Queues a response, which somebody will make, and gives what was planned. Raises as `create` does."""
        try:
            return await self._queued(project, request, response_id)
        except ApiError as error:
            self.refused(project, error)
            raise

    async def _queued(self, project: str, request: CreateResponse, response_id: str | None) -> Plan:
        if self._closing:
            raise Unavailable
        plan, _ = await self._planned(project, request, response_id)
        await self._checks(plan)
        plan = structs.replace(plan, response=structs.replace(plan.response, status="queued"))
        lock = _lock(project, plan)
        if lock is not None:
            await self._locks.take(lock, plan.version)
        try:
            await self._world.will_expire(project, plan.response)
            await self._background.add(project, plan, self._preparation.lasting(project, request))
        except ApiError:
            if lock is not None:
                await self._world.store.conversations.release(lock)
            raise
        finally:
            self._locks.forget(plan.response.id)  # it is its run's, as long as that is there
        return plan

    async def _made_again(self, claimed: Claimed) -> Made:
        plan = await self._preparation.again(claimed)
        model = await self._catalog.find(plan.prompt.model, plan.prompt.cache_key)
        return Made(plan, model, await self._checks(plan))

    async def _checks(self, plan: Plan) -> Checks:
        """Compiled in a thread: mostly quick, but whoever writes a huge schema must not stop the others."""
        judged = [offer for offer in plan.prompt.tools if offer.grammar is not None or offer.strict]
        if plan.box.search is not None:  # what is found later is written under its grammar, too
            judged += [tool.offer for tool in plan.box.search.tools if tool.offer.grammar is not None]
        if plan.prompt.format is None and not judged:
            return Checks()
        return await asyncio.to_thread(_compiled, plan, judged)

    def _refuse_unfinished(self, project: str, response_id: str | None) -> None:
        if response_id is not None and self._running(project, response_id):
            raise unfinished(response_id)

    # -- finding

    def _running(self, project: str, response_id: str) -> Run | None:
        run = self._runs.get(response_id)
        return run if run is not None and run.project == project and run.plan.response.store else None

    def _forget(self, run: Run) -> None:
        del self._runs[run.id]
        self._locks.forget(run.id)
        self._remember(run)

    def _remember(self, run: Run) -> None:
        if run.is_saved and (not run.response.conversation or run.response.status in JOINING):
            self._preparation.remember(run.project, run.plan, run.response.output)

    async def retrieve(self, project: str, response_id: str) -> Response:
        run = self._running(project, response_id) or self._background.running(project, response_id)
        if run is not None:
            return run.response
        response = await self._world.store.response(project, response_id)
        if response is None:
            raise _not_found(response_id)
        return await self._background.seen(project, response) if response.status in UNFINISHED else response

    async def follow(self, project: str, response_id: str, after: int) -> AsyncGenerator[Sequence[Event], None]:
        """The events of a background response behind the one of this number, as they are written. Raises NotFound, and
        NotStreamable for one whose events are not kept."""
        await self._require(project, response_id)
        return await self._background.follow(project, response_id, after)

    async def times(self, project: str, response_id: str, after: int, limit: int) -> Sequence[EventTime]:
        """When those events were written. Raises as `follow` does."""
        await self._require(project, response_id)
        return await self._background.times(project, response_id, after, limit)

    async def _require(self, project: str, response_id: str) -> None:
        if not (self._running(project, response_id) or await self._world.store.has(project, response_id)):
            raise _not_found(response_id)

    async def cancel(self, project: str, response_id: str) -> Response:
        """Of a background response. Raises InvalidRequest for any other, and for one that has ended otherwise."""
        if await self._world.store.runs.standing(project, response_id) is None:
            await self.retrieve(project, response_id)
            raise InvalidRequest("Cannot cancel a synchronous response.")
        await self._background.cancel(project, response_id)
        response = await self.retrieve(project, response_id)
        if response.status != "cancelled":
            raise InvalidRequest("Cannot cancel a completed response.")
        return response

    def sealed(self, project: str, items: Sequence[T]) -> tuple[T, ...]:
        """What `include: reasoning.encrypted_content` adds to items that are stored."""
        return self._world.thoughts(project).included(items)

    async def responses(self, project: str, query: ResponseQuery) -> ResponsePage:
        """Stored ones: what is being made in the foreground is in no list before it has ended."""
        return await self._world.store.responses(project, query)

    async def delete(self, project: str, response_id: str) -> None:
        run = await self._world.store.runs.standing(project, response_id)
        if self._running(project, response_id) or (run is not None and not run.is_over):
            raise InvalidRequest("Cannot delete an in-flight response.")
        if not await self._world.store.delete(project, response_id):
            raise _not_found(response_id)

    async def input_items(self, project: str, response_id: str, *, limit: int, order: Order, after: str | None) -> Page:
        """Of a response that was made in a conversation, its own alone: those before are the conversation's to list."""
        run = self._running(project, response_id)
        if run is not None:
            return _page((*run.plan.history, *run.plan.given), limit, order, after)
        page = await self._world.store.input_items(project, response_id, limit=limit, order=order, after=after)
        if page is None:
            raise _not_found(response_id)
        return page

    async def models(self) -> list[ModelCard]:
        return await self._catalog.cards()

    async def model(self, name: str) -> ModelCard:
        for card in await self._catalog.cards():
            if card.id == name:
                return card
        raise NotFound(f"The model '{name[:128]}' does not exist.", param="model", code="model_not_found")

    # -- the end

    async def close(self) -> None:
        """Lets running responses finish within limits.shutdown_grace_s, then cancels them; each is saved. Background
        responses are left to others."""
        self._closing = True
        await asyncio.gather(self._background.close(), self._end_foreground())
        await self._world.meter.close()

    async def _end_foreground(self) -> None:
        runs = [*self._runs.values()]
        if not runs:
            return
        tasks = [run.task for run in runs]
        await asyncio.wait(tasks, timeout=self._world.limits.shutdown_grace_s)
        for run in runs:
            run.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _compiled(plan: Plan, judged: Sequence[Offer]) -> Checks:
    """Raises InvalidRequest, which says where, for a schema or a grammar that is none."""
    inputs: dict[str, TextCheck] = {}
    for offer in judged:
        param = plan.box.params[offer.name]
        if offer.grammar is not None:
            inputs[offer.name] = schemas.grammar(offer.grammar, f"{param}.format.definition")
        elif offer.parameters is not None:
            schemas.check_parameters(offer.parameters, f"{param}.parameters")
    answer, wanted = None, plan.prompt.format
    if isinstance(wanted, JsonSchemaFormat):
        fits = schemas.json_schema(wanted.schema, f"{plan.format_param}.schema")
        answer = fits if wanted.strict else None
    elif wanted is not None:
        answer = schemas.json_object
    return Checks(answer, inputs)


def _lock(project: str, plan: Plan) -> Lock | None:
    conversation, response_id = plan.response.conversation, plan.response.id
    return Lock(project=project, conversation_id=conversation.id, response_id=response_id) if conversation else None


def _page(items: tuple[Item, ...], limit: int, order: Order, after: str | None) -> Page:
    if order == "desc":
        items = items[::-1]
    start = 0
    if after is not None:
        places = [place for place, item in enumerate(items) if item.id is not UNSET and item.id == after]
        if not places:
            raise NotFound(f"Item with id '{after[:128]}' not found.", param="after")
        start = places[0] + 1
    return Page(items=items[start : start + limit], has_more=len(items) > start + limit)


def _not_found(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id[:128]}' not found.")
