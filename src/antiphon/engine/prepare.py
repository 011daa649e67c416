"""Prepare: what planning needs from the world, and the plan that comes of it. Knows no HTTP and starts nothing."""

from collections.abc import Sequence

from msgspec import structs

from antiphon.core import plan as planning
from antiphon.core import templates
from antiphon.core.context import Context, empty, grown
from antiphon.core.plan import Bounds, Plan
from antiphon.core.templates import Template
from antiphon.engine.contexts import Contexts
from antiphon.engine.inputs import Inputs
from antiphon.engine.run import World
from antiphon.errors import PreviousResponseNotFound
from antiphon.wire.items import Item
from antiphon.wire.request import CreateResponse


class Preparation:
    """Requests become plans here."""

    def __init__(self, world: World, inputs: Inputs, prompts: Sequence[Template], *, strict: bool) -> None:
        self._world = world
        self._inputs = inputs
        self._prompts = prompts
        self._strict = strict
        limits = world.limits
        self._bounds = Bounds(history_items_max=limits.history_items_max, tools_max=limits.tools_max)
        self._contexts = Contexts(limits.context_cache_bytes_max)

    async def plan(self, project: str, request: CreateResponse) -> Plan:
        """Raises an ApiError when the request cannot be served."""
        if request.input:
            request = structs.replace(request, input=self._world.thoughts(project).restored(request.input))
        request = templates.applied(request, self._prompts)
        planning.require_model(request)
        before = await self._before(project, request.previous_response_id)
        ids = planning.references(request)
        referenced = await self._world.store.items(project, ids) if ids else {}
        given = planning.arranged(request, before, referenced, self._bounds, self._world.new_id)
        return planning.make(
            request,
            before=before,
            given=given,
            shown=await self._shown(project, given, "input"),
            runners=self._world.tools,
            bounds=self._bounds,
            new_id=self._world.new_id,
            now=self._world.clock(),
            strict=self._strict,
        )

    def remember(self, project: str, plan: Plan, output: Sequence[Item]) -> None:
        """Called when a stored response has ended: whoever continues it finds its context in memory."""
        before = plan.response.previous_response_id
        shown = self._world.thoughts(project).shown(output)
        context = grown(plan.context, output, shown, self._world.tools)
        key = (project, plan.response.id)
        self._contexts.put(key, context, instead_of=None if before is None else (project, before))

    async def _before(self, project: str, response_id: str | None) -> Context:
        if response_id is None:
            return empty()
        key, store = (project, response_id), self._world.store
        context = self._contexts.get(key)
        if context is not None and await store.has(project, response_id):
            return context
        items = await store.context(project, response_id)
        if items is None:
            self._contexts.drop(key)
            raise PreviousResponseNotFound(f"Previous response with id '{response_id[:128]}' not found.")
        shown = await self._shown(project, items, "previous_response_id")
        context = grown(empty(), items, shown, self._world.tools)
        self._contexts.put(key, context)
        return context

    async def _shown(self, project: str, items: Sequence[Item], param: str) -> Sequence[Item]:
        return await self._inputs.shown(project, self._world.thoughts(project).shown(items), param)
