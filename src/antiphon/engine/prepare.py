"""Prepare: what planning needs from the world, and the plan that comes of it. Knows no HTTP and starts nothing."""

from collections.abc import Sequence
from functools import partial

from msgspec import structs

from antiphon.core import compaction, templates
from antiphon.core import plan as planning
from antiphon.core.context import Context, empty, grown
from antiphon.core.plan import Bounds, Plan
from antiphon.core.runs import Claimed
from antiphon.core.templates import Template
from antiphon.engine.catalog import Catalog
from antiphon.engine.contexts import Contexts, Key
from antiphon.engine.inputs import Find, Inputs, Mind, Shown
from antiphon.engine.world import World
from antiphon.errors import InvalidRequest, ModelNotFound, MutuallyExclusive, NotFound, PreviousResponseNotFound
from antiphon.wire.items import Item
from antiphon.wire.request import CreateResponse


class Preparation:
    """Requests become plans here."""

    def __init__(
        self, world: World, catalog: Catalog, inputs: Inputs, prompts: Sequence[Template], *, strict: bool
    ) -> None:
        self._world = world
        self._catalog = catalog
        self._inputs = inputs
        self._prompts = prompts
        self._strict = strict
        limits = world.limits
        self._bounds = Bounds(history_items_max=limits.history_items_max, tools_max=limits.tools_max)
        self._contexts = Contexts(limits.context_cache_bytes_max)

    async def plan(self, project: str, request: CreateResponse) -> Plan:
        """Raises an ApiError when the request cannot be served."""
        request, compacts_now = compaction.triggered(request)
        restored = self._world.restored(project, request.input or (), "input")
        if restored and restored is not request.input:
            request = structs.replace(request, input=restored)
        request = templates.applied(request, self._prompts)
        find = partial(self._mind, planning.require_model(request))
        before, version = await self._earlier(project, request, find)
        ids = planning.references(request.input or ())
        referenced = await self._world.store.items(project, ids) if ids else {}
        given = planning.arranged(request, before, referenced, self._bounds, self._world.new_id)
        is_kept = request.store or request.conversation is not None
        shown = await self._shown(project, given, "input", find, keeps=is_kept)
        plan = self._made(request, before, given, shown, compacts_now=compacts_now)
        return structs.replace(plan, version=version) if request.conversation else plan

    def lasting(self, project: str, request: CreateResponse) -> CreateResponse:
        """What is stored of a request that may be carried out again, beside its items. Settings may change meanwhile,
        so its template is filled in. What is secret in it is sealed."""
        trigger = request.input[-1:] if request.input and compaction.triggered(request)[1] else ()
        tools = self._world.sealed_tools(project, request.tools)
        return structs.replace(templates.applied(request, self._prompts), input=trigger, tools=tools)

    async def again(self, claimed: Claimed) -> Plan:
        """The plan of a background response that is stored. Raises an ApiError when it can no longer be made."""
        project, response, given = claimed.ticket.project, claimed.response, claimed.given
        assert claimed.request is not None
        request, compacts_now = compaction.triggered(claimed.request)
        request = structs.replace(request, tools=self._world.opened_tools(project, request.tools))
        find = partial(self._mind, response.model)
        if response.conversation:
            before, version = await self._in_conversation(project, response.conversation.id, find)
        else:
            items = await self._world.store.context(project, response.id) or given
            history = items[: len(items) - len(given)]
            before, version = await self._told(project, history, "previous_response_id", find), 0
        shown = await self._shown(project, given, "input", find)
        plan = self._made(request, before, given, shown, compacts_now=compacts_now)
        return structs.replace(plan, response=response, version=version)

    def _made(
        self,
        request: CreateResponse,
        before: Context,
        given: tuple[Item, ...],
        shown: Shown,
        *,
        compacts_now: bool,
    ) -> Plan:
        return planning.make(
            request,
            before=before,
            given=given,
            shown=shown.items,
            senses=shown.senses,
            runners=self._world.tools,
            bounds=self._bounds,
            new_id=self._world.new_id,
            now=self._world.clock(),
            compacts_now=compacts_now,
            strict=self._strict,
        )

    def remember(self, project: str, plan: Plan, output: Sequence[Item]) -> None:
        """Called when a response has ended and is kept: whoever continues it, or goes on in its conversation, finds its
        context in memory."""
        conversation, before = plan.response.conversation, plan.response.previous_response_id
        shown = self._world.opened(project, output, "previous_response_id")
        context = grown(plan.context, output, shown, self._world.tools)
        key: Key = (project, plan.response.id)
        old: Key | None = None if before is None else (project, before)
        if conversation:
            key, old = (project, conversation.id, plan.version + 1), (project, conversation.id, plan.version)
        self._contexts.put(key, context, instead_of=old)

    async def _earlier(self, project: str, request: CreateResponse, find: Find) -> tuple[Context, int]:
        """What came before; and, of a conversation, in which version."""
        if request.conversation is None:
            return await self._before(project, request.previous_response_id, find), 0
        if request.previous_response_id is not None:
            raise MutuallyExclusive
        try:
            return await self._in_conversation(project, request.conversation.id, find)
        except ModelNotFound:
            raise
        except (InvalidRequest, NotFound) as error:
            error.param = "conversation"
            raise

    async def _in_conversation(self, project: str, conversation_id: str, find: Find) -> tuple[Context, int]:
        version = await self._world.store.conversations.version(project, conversation_id)
        context = self._contexts.get((project, conversation_id, version))
        if context is None or not await self._inputs.fits(context.senses, "conversation", find):
            version, items = await self._world.store.conversations.context(project, conversation_id)
            context = await self._told(project, items, "conversation", find)
            self._contexts.put((project, conversation_id, version), context)
        return context, version

    async def _before(self, project: str, response_id: str | None, find: Find) -> Context:
        if response_id is None:
            return empty()
        key, store = (project, response_id), self._world.store
        context = self._contexts.get(key)
        if (
            context is not None
            and await store.has(project, response_id)
            and await self._inputs.fits(context.senses, "previous_response_id", find)
        ):
            return context
        run = await store.runs.standing(project, response_id)
        if run is not None and not run.is_over:
            raise unfinished(response_id)
        items = await store.context(project, response_id)
        if items is None:
            self._contexts.drop(key)
            raise PreviousResponseNotFound(f"Previous response with id '{response_id[:128]}' not found.")
        context = await self._told(project, items, "previous_response_id", find)
        self._contexts.put(key, context)
        return context

    async def _told(self, project: str, items: Sequence[Item], param: str, find: Find) -> Context:
        shown, senses = await self._shown(project, items, param, find)
        return grown(empty(), items, shown, self._world.tools, senses)

    async def _shown(self, project: str, items: Sequence[Item], param: str, find: Find, *, keeps: bool = True) -> Shown:
        opened = self._world.opened(project, items, param)
        return await self._inputs.shown(project, opened, param, find, keeps=keeps)

    async def _mind(self, model: str) -> Mind:
        return Mind(model, (await self._catalog.find(model)).takes)


def unfinished(response_id: str) -> InvalidRequest:
    return InvalidRequest(
        f"Previous response with id '{response_id}' is still in progress.", param="previous_response_id"
    )
