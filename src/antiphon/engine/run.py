"""Run: makes one Response, in turns, from a Plan. Owns its task and its log; knows no HTTP and no SQL."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Literal, NamedTuple, TypeGuard

from msgspec import UNSET, UnsetType, json, structs

from antiphon.core import citations, compaction
from antiphon.core import plan as planning
from antiphon.core import usage as counting
from antiphon.core.builder import Builder
from antiphon.core.calls import Calls, HostedRequest, Refused
from antiphon.core.citations import Citing
from antiphon.core.compaction import Kept
from antiphon.core.deltas import Finish, Refusal, Summary, Text, Thought, ToolCall, joined
from antiphon.core.lowering import is_async, text_of
from antiphon.core.past import NOTHING_YET
from antiphon.core.plan import Plan
from antiphon.core.ports import Lock, Model, TextCheck
from antiphon.core.prompt import Prompt
from antiphon.engine import compaction as compacting
from antiphon.engine.errands import Errands
from antiphon.engine.journal import Journal, Left
from antiphon.engine.log import EventLog
from antiphon.engine.wholly import wholly
from antiphon.engine.window import Window
from antiphon.engine.world import World
from antiphon.errors import ApiError, ModelError, ServerError, StorageError
from antiphon.observe import log as logger
from antiphon.wire.events import Terminal
from antiphon.wire.items import Asking, Compaction, HostedCall, Item, Opening, Reasoning, ToolSearchOutput
from antiphon.wire.response import Response, ResponseError, ServiceTier, Usage

CHECKED_HERE_CHARS = 16_000
"""A text this long is checked in well under a millisecond; a longer one in a thread, so that no other run waits."""
Ending = Literal["completed", "incomplete", "cancelled", "failed"]


class Checks(NamedTuple):
    """What this server judges itself: the answer's text, and the input of custom tools, by their names."""

    answer: TextCheck | None = None
    inputs: Mapping[str, TextCheck] = {}


class Run:
    """`error` is set when it failed, `is_saved` when it is stored; `announced`, by a reader, when a client knows it."""

    def __init__(
        self,
        world: World,
        project: str,
        plan: Plan,
        model: Model,
        checks: Checks,
        on_end: Callable[["Run"], None],
        journal: Journal | None = None,
    ) -> None:
        """`journal`: of a background response, which may have a past."""
        self.project = project
        self.plan = plan
        self.log = EventLog()
        self.error: ApiError | None = None
        self.announced = self.is_saved = False
        self._world = world
        self._model = model
        self._compact_at = compacting.threshold(plan.compacts_at, model, plan.prompt.model)
        self._window = Window(model, truncates=plan.response.truncation == "auto")
        self._builder = Builder(
            plan.response,
            world.new_id,
            callees=plan.box.callees,
            allowed=plan.prompt.allowed,
            checks=checks.inputs,
            thought_as_summary=plan.thought_as_summary,
            seal=partial(_sealed, world, project, plan),  # nothing of this run's: a cycle would be the collector's work
            past=journal.past if journal else NOTHING_YET,
        )
        self._kit, self._box = plan.kit, plan.box
        self._sources = plan.context.sources
        self._journal = journal
        self._checks = checks
        self._usages: list[Usage] = []
        self._service_tier: ServiceTier | None = None
        self._hosted = self._repairs = 0
        self._is_limit_told = False
        self._chars = 0
        self._on_end = on_end
        self._began = time.monotonic()
        self._first_token_s: float | None = None
        world.meter.begun()
        self._started = self._cancelled = self._is_saving = False
        if journal is not None:
            journal.keep(self.log, self.cancel)
        self._builder.start()
        self._publish()
        self.task = asyncio.create_task(self._make())

    @property
    def id(self) -> str:
        return self.plan.response.id

    @property
    def response(self) -> Response:
        """As it stands now."""
        return self._builder.response

    def cancel(self) -> None:
        """The model stops; the response ends as cancelled. Does nothing once it is saved or has ended."""
        self._cancelled = True
        if self._started and not self._is_saving:  # a task cancelled before its first step would never run its ending
            self.task.cancel()

    async def wait(self) -> Response:
        """The final response. Raises the error it failed with."""
        await self.log.end()
        if self.error is not None:
            raise self.error
        return self.response

    # -- the one try

    async def _make(self) -> None:
        self._started = True
        try:
            if self._cancelled:
                raise asyncio.CancelledError  # noqa: TRY301 # as if it had come one step later
            async with asyncio.timeout(self._world.limits.response_timeout_s or None):
                status, reason = await self._take_turns()
            await self._end(status, reason=reason)
        except TimeoutError:  # nobody else's: those within are errors of their own
            most = self._world.limits.response_timeout_s
            await self._fail(ServerError(f"The response took longer than {most:g} s (limits.response_timeout_s)."))
        except asyncio.CancelledError:
            # Whoever cancels wants the model stopped, not the response lost: it still ends, and is saved.
            await self._end("cancelled")
        except Left:
            logger.info("a run was left to others", response=self.id)
        except ApiError as error:
            await self._fail(error)
        except Exception:  # noqa: BLE001 # the second of the two places: whatever broke, the response still ends
            logger.exception("a run broke", response=self.id)
            await self._fail(ServerError())
        finally:
            self.log.close()
            self._world.meter.over()
            self._on_end(self)

    async def _take_turns(self) -> tuple[Ending, Any]:
        prompt = await self._beginning()
        if prompt is None:
            return "completed", None
        prompt = await self._open(prompt)
        if self.plan.compacts_now:
            await self._compact(prompt)
            return "completed", None
        for _ in range(self._world.limits.turns_max):
            if prompt.max_output_tokens is not None and prompt.max_output_tokens < 1:
                return "incomplete", "max_output_tokens"
            compact_at = None if prompt.prefix else self._compact_at
            if compact_at is not None and await compacting.is_due(self._model, prompt, compact_at):
                prompt = await self._compact(prompt)
            before = self._builder.added - bool(prompt.prefix)  # the turn's items: the first may be begun
            has_said_nothing = partial(self._has_told_only, len(self.log.events))
            finish, prompt = await self._window.told(prompt, self._say, has_said_nothing)
            cut_short = finish.reason in INCOMPLETE
            if self._checks.inputs:
                await asyncio.to_thread(self._builder.judge)
            calls = self._within_limit(self._builder.end_turn(cut_short=cut_short))
            self._publish()
            if cut_short:
                return "incomplete", INCOMPLETE[finish.reason]
            if calls.hosted:
                await self._errands().take(calls.hosted)
            added = self._builder.output[before:]
            if self._is_over(calls):
                await self._check(added)
                return "completed", None
            self._count_repair(calls)
            prompt = self._next(prompt, added, calls.refused)
        raise ServerError(f"The model took more than {self._world.limits.turns_max} turns (limits.turns_max).")

    def _has_told_only(self, events: int) -> bool:
        return len(self.log.events) == events

    async def _beginning(self) -> Prompt | None:
        """The first prompt: after what turns of another attempt have added. None: nothing is missing but the end."""
        prompt, past = self.plan.prompt, self._journal.past if self._journal else None
        if past is None or not past.items:
            return prompt
        if begun := past.begun:
            return await self._resumed(prompt, begun)
        running = [(index, item) for index, item in past.running.items() if _tells_its_call(item)]
        self._builder.abandon(keeps=[index for index, _ in running])
        self._publish()
        if running:  # whether they may be made again has been asked before
            await self._errands().run([(index, self._kit.whose(item, self._box)) for index, item in running])
        added = self._builder.output[: past.settled]
        told = [item for item in added if not isinstance(item, Compaction)]  # it is made again, if need be
        self._hosted = sum(map(_is_counted, added))
        if told and all(map(_is_first, told)):
            self._has_grown(told)
            return self._opened(prompt, told)
        said = counting.Said()
        said.text = len(json.encode([item for item in self._builder.output if not isinstance(item, Opening)]))
        self._count(Finish("stop"), prompt, said)  # what it really took is forgotten
        if past.is_whole or (self.plan.compacts_now and past.is_compacted):
            await self._check(added)
            return None
        return self._next(prompt, told, ()) if told else prompt

    async def _resumed(self, prompt: Prompt, begun: str) -> Prompt:
        """The prompt that goes on with a message that was begun. What that and the items before it took is counted by
        the model, where it can, or estimated."""
        self._builder.reopen()
        before = [item for item in self._builder.output[:-1] if getattr(item, "status", "") != "incomplete"]
        self._hosted = sum(map(_is_counted, before))
        said = counting.Said()
        said.text = len(json.encode(before)) if before else 0
        self._count(Finish("stop"), prompt, said)
        if before and all(map(_is_first, before)):
            self._has_grown(before)
            prompt = self._opened(prompt, before)
        else:
            prompt = self._next(prompt, before, ())
        resumed = structs.replace(prompt, prefix=begun)
        spent = max(0, (await self._model.count(resumed)).tokens - (await self._model.count(prompt)).tokens)
        self._usages.append(Usage(input_tokens=0, output_tokens=spent, total_tokens=spent))
        self._chars = len(begun)
        limit = prompt.max_output_tokens
        return structs.replace(resumed, max_output_tokens=None if limit is None else limit - spent)

    def _is_over(self, calls: Calls) -> bool:
        """The client has something to do, or the model asked for nothing more. It goes on by itself after hosted calls,
        after calls that were not made, and after asynchronous ones."""
        if any(not is_async(call) for call in calls.client):
            return True
        if any(isinstance(call.item, Asking) for call in calls.hosted):
            return True
        return not (calls.client or calls.hosted or calls.refused)

    def _within_limit(self, calls: Calls) -> Calls:
        """Hosted calls beyond `max_tool_calls` are not made. The model is told once; after that they are ignored, as
        the reference has it, so that a model which goes on asking ends the response with what it said."""
        most = self.plan.max_tool_calls
        hosted: list[HostedRequest] = []
        beyond: list[Refused] = []
        for call in calls.hosted:
            if isinstance(call.item, Asking):
                hosted.append(call)  # it is not made yet
            elif most is None or self._hosted < most:
                self._hosted += 1
                hosted.append(call)
            else:
                beyond.append(Refused(call.name, call.arguments, LIMIT_REACHED))
        if not beyond:
            return calls
        refused = calls.refused if self._is_limit_told else (*calls.refused, *beyond)
        self._is_limit_told = True
        return Calls(calls.client, tuple(hosted), refused)

    def _next(self, prompt: Prompt, added: Sequence[Item], refused: Sequence[Refused]) -> Prompt:
        world, spent = self._world, self._usages[-1].output_tokens if self._usages else 0
        shown = world.opened(self.project, added, "input")
        prompt = planning.extended(prompt, shown, refused, world.tools, world.new_id, spent)
        self._sources = (*self._sources, *citations.sources(added, world.tools))
        return self._equipped(prompt, added)

    def _equipped(self, prompt: Prompt, added: Sequence[Item]) -> Prompt:
        """With the tools that came up on the way."""
        return self._chosen(prompt, chooses=False) if self._has_grown(added) else prompt

    def _has_grown(self, added: Sequence[Item]) -> bool:
        """Whether these items bring tools."""
        kit = self._kit.grown(added)
        if kit is self._kit:
            return False
        self._kit, self._box = kit, kit.box()
        return True

    def _chosen(self, prompt: Prompt, *, chooses: bool) -> Prompt:
        prompt = planning.equipped(prompt, self._kit, self._box, chooses=chooses)
        self._builder.equip(self._box.callees, prompt.allowed)
        return prompt

    def _count_repair(self, calls: Calls) -> None:
        """A model that goes on making the same mistake must end."""
        faults = [call for call in calls.refused if call.reason != LIMIT_REACHED]
        self._repairs += bool(faults)
        if self._repairs > self._world.limits.repairs_max:
            raise ModelError(f"The model's call of '{faults[0].name}' could not be made: {faults[0].reason}")

    async def _check(self, added: Sequence[Item]) -> None:
        """What came must be what `text.format` promises."""
        check = self._checks.answer
        if check is None or not (text := text_of(added)):
            return
        fault = check(text) if len(text) < CHECKED_HERE_CHARS else await asyncio.to_thread(check, text)
        if fault:
            raise ModelError(f"The model's answer does not fit text.format: {fault}")

    # -- a turn

    async def _compact(self, prompt: Prompt) -> Prompt:
        """Adds a compaction, and gives the prompt that goes on from it."""
        index = self._builder.begin_compaction()
        self._publish()
        text, used = await compacting.summary(self._model, prompt)
        self._usages.append(used)
        item_id = self._builder.output[index].id
        assert item_id is not UNSET
        kept = Kept(id=item_id, summary=text, asked=compaction.asked(prompt.items))
        self._builder.compacted(index, self._world.compactions(self.project).sealed(kept))
        self._publish()
        return compaction.compacted(prompt, kept)

    async def _say(self, prompt: Prompt) -> Finish:
        """One model call: every batch becomes events at once."""
        said = counting.Said()
        builder, limit = self._builder, self._world.limits.output_chars_max
        finish: Finish | None = None
        citing = Citing(self._sources, writes=prompt.format is None) if self._sources else None
        async with aclosing(self._model.stream(prompt)) as batches:
            async for batch in batches:
                if self._first_token_s is None:
                    self._first_token_s = time.monotonic() - self._began
                told = batch if citing is None else citing.read(batch)
                for delta in told if prompt.is_live else joined(told):
                    builder.feed(delta)
                    kind = type(delta)
                    if kind is Text or kind is Refusal:
                        said.text += len(delta.text)  # type: ignore[union-attr]
                    elif kind is Thought or kind is Summary:
                        said.thought += len(delta.text)  # type: ignore[union-attr]
                    elif kind is ToolCall:
                        said.text += len(delta.arguments)  # type: ignore[union-attr]
                    elif kind is Finish:
                        finish = delta  # type: ignore[assignment]
                self._publish()
                if self._chars + said.text + said.thought > limit:
                    raise ModelError(f"The answer grew beyond {limit} characters (limits.output_chars_max).")
        if finish is None:
            raise ModelError("The model's answer ended before it was finished.")
        self._chars += said.text + said.thought
        self._count(finish, prompt, said)
        return finish

    def _count(self, finish: Finish, prompt: Prompt, said: counting.Said) -> None:
        self._service_tier = finish.service_tier or self._service_tier
        usage, estimated = counting.settle(finish.usage, prompt, said)
        if estimated:
            logger.info("usage estimated", response=self.id, reported=finish.usage is not None)
        self._usages.append(usage)

    async def _open(self, prompt: Prompt) -> Prompt:
        """Does what tools have to do before the model is asked."""
        if not self._kit.firsts(self._box):
            return prompt
        before = self._builder.added
        for kind in (True, False):  # which calls may be made depends on what a server has listed
            place = self._builder.added
            firsts = self._kit.firsts(self._box)
            await self._errands().begin(one for one in firsts if isinstance(one.item, Opening) is kind)
            self._has_grown(self._builder.output[place:])
        added = self._builder.output[before:]
        self._hosted += sum(map(_is_counted, added))
        return self._opened(prompt, added)

    def _opened(self, prompt: Prompt, added: Sequence[Item]) -> Prompt:
        """With what came before the first turn: now it is known what there is to choose from."""
        shown = self._world.opened(self.project, added, "input")
        self._sources = (*self._sources, *citations.sources(added, self._world.tools))
        return self._chosen(planning.told(prompt, shown, self._world.tools), chooses=True)

    def _errands(self) -> Errands:
        return Errands(self.project, self._builder, self.log, self._journal, self._world.limits.tool_timeout_s)

    # -- the end

    async def _fail(self, error: ApiError) -> None:
        self.error = error
        await self._end("failed", error=error)

    async def _end(self, status: Ending, *, reason: Any = None, error: ApiError | None = None) -> None:
        """Closes what is open, saves, and only then says so. A failed save is a failed response."""
        self._builder.abandon()
        self._publish()
        usage = counting.total(self._usages) if status != "cancelled" else None
        final = self._builder.propose(
            status,
            now=self._world.clock(),
            usage=usage,
            reason=reason,
            error=wire_error(error),
            service_tier=self._service_tier,
        )
        if self._is_kept(final.response):
            try:
                await self._save(final)
                self.is_saved = True
            except Left:
                return
            except StorageError as failure:
                logger.error("a response could not be saved", response=self.id, error=failure.message)
                self.error = self.error or failure
                final = self._builder.propose("failed", usage=usage, error=wire_error(self.error))
        if final.response.conversation and not self.is_saved:
            await self._release(final.response.conversation.id)
        self._builder.append(final)
        self._publish()
        seconds = time.monotonic() - self._began
        self._world.meter.ended(self.project, final.response, seconds, self._first_token_s)
        logger.info(
            "response ended",
            response=self.id,
            model=final.response.model,
            status=final.response.status,
            seconds=round(seconds, 3),
            output_tokens=usage.output_tokens if usage else None,
        )

    def _is_kept(self, response: Response) -> bool:
        """A response that failed before anybody could know of it leaves nothing behind."""
        return (response.store or bool(response.conversation)) and (
            self.error is None or self.announced or bool(response.output) or self._journal is not None
        )

    async def _save(self, final: Terminal) -> None:
        if self._journal is not None:
            await self._journal.finish(final)
        else:
            self._is_saving = True
            await self._world.will_expire(self.project, final.response)
            await self._world.store.save(self.project, final.response, self.plan.given, self.plan.history)

    async def _release(self, conversation_id: str) -> None:
        """Before anybody is told of the end, who may try again at once."""
        lock = Lock(project=self.project, conversation_id=conversation_id, response_id=self.id)
        try:
            await wholly(self._world.store.conversations.release(lock))
        except StorageError as failure:  # it ends by itself
            logger.error("a conversation stays locked", response=self.id, error=failure.message)

    def _publish(self) -> None:
        self.log.extend(self._builder.take())


def _is_counted(item: Item) -> bool:
    """Whether it is a call of a tool of this server, as `max_tool_calls` counts them."""
    return isinstance(item, HostedCall | ToolSearchOutput) and not isinstance(item, Opening)


def _tells_its_call(item: HostedCall | Compaction) -> TypeGuard[HostedCall]:
    """Whether a call that has begun can be made again from its item alone. Of another its turn is taken again."""
    return isinstance(item, HostedCall) and not getattr(item, "done_only", ())


def _is_first(item: Item) -> bool:
    """Whether no model asked for it in this response."""
    return isinstance(item, Opening) or getattr(item, "approval_request_id", None) is not None


LIMIT_REACHED = "this response may call no more of these tools (max_tool_calls). Answer with what you have."
INCOMPLETE: dict[str, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}


def _sealed(world: World, project: str, plan: Plan, thought: Reasoning, vendor: str | UnsetType) -> Reasoning:
    """How its vendor sealed a thought would be lost, were it not sealed by us."""
    if not plan.seals_thoughts and vendor is UNSET:
        return thought
    return world.thoughts(project).sealed(thought, plan.prompt.model, vendor)


def wire_error(error: ApiError | None) -> ResponseError | None:
    return None if error is None else ResponseError(code=error.code or "server_error", message=error.message)
