"""Plan: all that is decided before the first token, or a refusal. Pure: what it needs of the world is handed in."""

from collections.abc import Container, Iterator, Mapping, Sequence

from msgspec import UNSET, Struct, UnsetType, structs

from antiphon.core import lowering, parts, secrets
from antiphon.core import usage as counting
from antiphon.core.calls import Refused
from antiphon.core.context import Bringing, Context, empty, grown, require_outputs
from antiphon.core.hosted import Tool
from antiphon.core.ids import ID_CHARS_MAX, NewId
from antiphon.core.kit import Kit, found_in
from antiphon.core.ports import Sense
from antiphon.core.prompt import Prompt, PromptItem, Sampling, VendorThought
from antiphon.core.thoughts import check_led_on
from antiphon.core.toolbox import Choice, Declared, Toolbox
from antiphon.errors import InvalidRequest, InvalidValue, MissingParameter, NotFound, UnsupportedParameter
from antiphon.wire.faults import array_too_long
from antiphon.wire.formats import Format, JsonSchemaFormat, TextFormat
from antiphon.wire.items import (
    ID_PREFIXES,
    AdditionalTools,
    CompactionTrigger,
    ConfigurationUpdate,
    InputItem,
    Item,
    ItemReference,
    Opening,
    Reasoning,
    ToolSearchOutput,
)
from antiphon.wire.request import ContextManagement, CreateResponse
from antiphon.wire.response import InputTransformation, PromptCacheOptions, ReasoningConfig, Response, TextConfig
from antiphon.wire.tools import DECLARED_MAX, FunctionTool, ServerTool, ToolSearchTool, Unserved
from antiphon.wire.tools import Tool as Declaration


class Plan(Struct, frozen=True, kw_only=True):
    """`context` holds what came before and, behind it, `given`: the request's own items, under their ids."""

    response: Response
    given: tuple[Item, ...]
    context: Context
    prompt: Prompt
    kit: Kit
    box: Toolbox
    max_tool_calls: int | None
    thought_as_summary: bool
    seals_thoughts: bool
    compacts_now: bool
    """Instead of answering."""
    compacts_at: tuple[ContextManagement, ...]
    format_param: str
    """Where the format was asked for."""
    version: int = 0
    """Of the conversation, if `context` begins with one."""

    @property
    def has_hosted(self) -> bool:
        """Whether this server may run a tool for it."""
        return any(isinstance(one.tool, ServerTool | ToolSearchTool) for one in self.kit.declared)

    @property
    def history(self) -> tuple[Item, ...]:
        """What came before through previous_response_id. What a conversation holds is its own."""
        return () if self.response.conversation else self.context.items[: len(self.context.items) - len(self.given)]


class Bounds(Struct, frozen=True, kw_only=True):
    history_items_max: int
    tools_max: int


def arranged(
    request: CreateResponse, before: Context, referenced: Mapping[str, Item], bounds: Bounds, new_id: NewId
) -> tuple[Item, ...]:
    """The request's items, with `referenced`, the stored items that they name, in the place of references. Each gets an
    id of its own within the conversation, so that a listing can be paged by ids: the client's own where it is free.

    Raises InvalidRequest (or NotFound, for an item reference) naming the parameter.
    """
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("The 'stream_options' parameter is only allowed when 'stream' is true.",
                             param="stream_options")  # fmt: skip
    if request.background and not request.store:
        raise InvalidRequest("Background sampling requires `store=true`; stateless requests are rejected.",
                             param="background")  # fmt: skip
    if request.expires_after is not None and not request.store:
        raise InvalidRequest("What is not stored cannot expire: 'expires_after' needs `store=true`.",
                             param="expires_after")  # fmt: skip
    sources = (request.input, request.previous_response_id, request.conversation, request.prompt)
    if all(source is None for source in sources):
        raise MissingParameter("Missing required parameter: 'input'.", param="input")
    items = request.input or ()
    if not (before.items or items):
        raise InvalidRequest("The 'input' must hold at least one item.", param="input", code="empty_array")
    if len(before.items) + len(items) > bounds.history_items_max:
        raise InvalidRequest(f"The input and its history hold more than {bounds.history_items_max} items.",
                             param="input")  # fmt: skip
    check_led_on([referenced.get(item.id, item) if isinstance(item, ItemReference) else item for item in items])
    return entered(items, before.items, referenced, new_id, "input")


def entered(
    items: Sequence[InputItem],
    before: Sequence[Item],
    referenced: Mapping[str, Item],
    new_id: NewId,
    param: str,
) -> tuple[Item, ...]:
    """Items of a request as they stand in a conversation, behind `before`. `param` is what they are called there."""
    parts.check(items, param)
    secrets.check(items, param)
    found = [
        _resolved(item, referenced, param, place) if isinstance(item, ItemReference | CompactionTrigger) else item
        for place, item in enumerate(items)
    ]
    taken = {item.id for item in before} if any(item.id for item in found) else set()
    given: list[Item] = []
    for index, item in enumerate(found):
        wanted = _own_id(item.id, f"{param}[{index}].id")
        own = new_id(ID_PREFIXES[type(item)]) if wanted is UNSET or wanted in taken else wanted
        taken.add(own)
        given.append(_settled(structs.replace(item, id=own)))
    return tuple(given)


def make(
    request: CreateResponse,
    *,
    before: Context,
    given: tuple[Item, ...],
    shown: Sequence[Item],
    senses: frozenset[Sense] = frozenset(),
    runners: Mapping[str, Tool],
    bounds: Bounds,
    new_id: NewId,
    now: int,
    compacts_now: bool = False,
    strict: bool = False,
) -> Plan:
    """`given` are the request's items, and `shown` the same in the form in which a model may be told of them, with
    `senses`, what they hold beside words; `runners` are this server's hosted tools, by declaration type. `strict`
    refuses what is else left out and named.

    Raises InvalidRequest naming the parameter.
    """
    model = require_model(request)
    context = grown(before, given, shown, runners, senses)
    require_outputs(context)
    given = context.items[len(before.items) :]
    request, format_param = _configured(request, before, given)
    kit = Kit(
        declared=tuple(_declared(request, before.brought, given)),
        brought=tuple(item for item in context.brought if isinstance(item, Opening)),
        approved=context.approved,
        runners=runners,
        choice=request.tool_choice,
        tools_max=bounds.tools_max,
    )
    box = kit.box()
    if box.omitted and strict:
        kind, reason = next(iter(box.omitted.items()))
        raise UnsupportedParameter(reason or f"The tool '{kind}' is not enabled on this server.", param="tools")
    choice = _choice(kit, box)
    response = _skeleton(request, model, new_id("resp"), now, box.omitted)
    if withheld := _withheld(request, model, before, context):
        response = structs.replace(response, input_transformations=withheld)
    return Plan(
        response=response,
        given=given,
        context=context,
        prompt=_prompt(request, model, context, box, choice),
        kit=kit,
        box=box,
        max_tool_calls=request.max_tool_calls,
        thought_as_summary=request.reasoning.summary is not None,
        seals_thoughts="reasoning.encrypted_content" in request.include or not request.store,
        compacts_now=compacts_now,
        compacts_at=request.context_management,
        format_param=format_param,
    )


def _configured(request: CreateResponse, before: Context, given: Sequence[Item]) -> tuple[CreateResponse, str]:
    """The request as the configuration_update items make it, the last one of all counting most; and where its format
    was asked for. What the request says counts more than what came before its own items."""
    effort, wanted, param = request.reasoning.effort or before.effort, request.text.format, "text.format"
    if wanted is None and before.format is not None:
        wanted, param = before.format.format, _earlier(request)
    for index, item in enumerate(given):
        if type(item) is not ConfigurationUpdate:
            continue
        if item.reasoning and item.reasoning.effort:
            effort = item.reasoning.effort
        if item.text:
            wanted, param = item.text.format, f"input[{index}].text.format"
    if (effort, wanted) != (request.reasoning.effort, request.text.format):
        reasoning, text = request.reasoning, request.text
        request = structs.replace(
            request, reasoning=structs.replace(reasoning, effort=effort), text=structs.replace(text, format=wanted)
        )
    return request, param


def _prompt(
    request: CreateResponse,
    model: str,
    context: Context,
    box: Toolbox,
    choice: Choice,
) -> Prompt:
    wants_logprobs = "message.output_text.logprobs" in request.include
    return Prompt(
        model=model,
        instructions=request.instructions,
        items=_remembered(context, request),
        tools=tuple(box.offers.values()),
        tool_choice=choice.must,
        allowed=choice.allowed,
        parallel_tool_calls=request.parallel_tool_calls,
        sampling=Sampling(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            min_p=request.min_p,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            seed=request.seed,
            logit_bias=request.logit_bias,
        ),
        max_output_tokens=request.max_output_tokens,
        stop=request.stop,
        format=None if isinstance(request.text.format, TextFormat) else request.text.format,
        verbosity=request.text.verbosity,
        top_logprobs=(request.top_logprobs or 0) if wants_logprobs else None,
        effort=request.reasoning.effort,
        summary=request.reasoning.summary,
        service_tier=request.service_tier,
        user=request.user,
        cache_key=request.prompt_cache_key,
        memo=context.memo,
        size=context.told_size,
        is_live=request.stream,
    )


def _remembered(context: Context, request: CreateResponse) -> tuple[PromptItem, ...]:
    """With `reasoning.context: current_turn`, thoughts from before the last thing a user said are not told."""
    if request.reasoning.context != "current_turn":
        return context.told
    earlier = (item for item in context.told[: context.turn] if not isinstance(item, Reasoning))
    return (*earlier, *context.told[context.turn :])


def _earlier(request: CreateResponse) -> str:
    """Which parameter brought what came before."""
    return "conversation" if request.conversation else "previous_response_id"


def _withheld(
    request: CreateResponse, model: str, before: Context, context: Context
) -> tuple[InputTransformation, ...]:
    """Of the request's own thoughts, those that the model is not told of."""
    ends = context.turn if request.reasoning.context == "current_turn" else 0
    withheld: list[InputTransformation] = []
    for place in range(len(before.told), len(context.told)):
        item = context.told[place]
        if isinstance(item, Reasoning):
            assert item.id is not UNSET
            if place < ends:
                withheld.append(InputTransformation(id=item.id, reason="turn_boundary"))
            elif isinstance(item, VendorThought) and item.model != model and not (item.content or item.summary):
                withheld.append(InputTransformation(id=item.id, reason="model_mismatch"))
    return tuple(withheld)


def require_model(request: CreateResponse) -> str:
    if not request.model:
        raise MissingParameter("Missing required parameter: 'model'.", param="model")
    return request.model


def references(items: Sequence[InputItem]) -> list[str]:
    """The ids that must be looked up before planning."""
    return [item.id for item in items if isinstance(item, ItemReference)]


# -- the response as it will first be seen


def _skeleton(
    request: CreateResponse, model: str, response_id: str, now: int, omitted: Container[str] = ()
) -> Response:
    context, cache = request.reasoning.context, request.prompt_cache_options
    return Response(
        id=response_id,
        created_at=now,
        background=request.background,
        expires_at=UNSET if request.expires_after is None else now + request.expires_after.seconds,
        conversation=request.conversation or UNSET,
        status="in_progress",
        frequency_penalty=request.frequency_penalty or 0.0,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        model=model,
        parallel_tool_calls=request.parallel_tool_calls,
        presence_penalty=request.presence_penalty or 0.0,
        previous_response_id=request.previous_response_id,
        prompt=request.prompt,
        prompt_cache_key=request.prompt_cache_key,
        prompt_cache_options=UNSET if cache is None else PromptCacheOptions(mode=cache.mode, ttl=cache.ttl),
        prompt_cache_retention=request.prompt_cache_retention,
        reasoning=ReasoningConfig(
            effort=request.reasoning.effort,
            summary=request.reasoning.summary,
            context=UNSET if context is None else "all_turns" if context == "auto" else context,
        ),
        safety_identifier=request.safety_identifier,
        store=request.store,
        temperature=1.0 if request.temperature is None else request.temperature,
        text=TextConfig(format=_echoed_format(request.text.format), verbosity=request.text.verbosity or "medium"),
        tool_choice=request.tool_choice,
        tools=tuple(_echoed(tool) for tool in request.tools if not _is_omitted(tool, omitted)),
        top_logprobs=request.top_logprobs or 0,
        top_p=1.0 if request.top_p is None else request.top_p,
        truncation=request.truncation,
        user=request.user,
        metadata=request.metadata,
    )


def _is_omitted(tool: Declaration, omitted: Container[str]) -> bool:
    return isinstance(tool, Unserved) or (isinstance(tool, ServerTool) and tool.__struct_config__.tag in omitted)


def _echoed(tool: Declaration) -> Declaration:
    """The tool with its defaults filled in (strict is false here unless asked for), and without what is secret."""
    if isinstance(tool, FunctionTool) and tool.strict is None:
        return structs.replace(tool, strict=False)
    return tool.shown() if isinstance(tool, ServerTool) else tool


def _echoed_format(wanted: Format | None) -> Format:
    if isinstance(wanted, JsonSchemaFormat) and wanted.strict is None:
        return structs.replace(wanted, strict=False)
    return wanted or TextFormat()


# -- tools


def _declared(request: CreateResponse, before: Sequence[Bringing], given: Sequence[Item]) -> Iterator[Declared]:
    """The request's tools, and those that items of the conversation brought."""
    for index, tool in enumerate(request.tools):
        yield Declared(tool, f"tools[{index}]")
    places = [(_earlier(request), item) for item in before if not isinstance(item, Opening)]
    for index, item in enumerate(given):
        if type(item) is AdditionalTools or type(item) is ToolSearchOutput:
            places.append((f"input[{index}].tools", item))
    brought = 0
    for place, item in places:
        brought += len(item.tools)
        if brought > DECLARED_MAX:
            raise array_too_long(place, DECLARED_MAX, brought)
        yield from found_in(item, place)


# -- items


def _own_id(given: str | UnsetType, param: str) -> str | UnsetType:
    if given is not UNSET and len(given) > ID_CHARS_MAX:
        raise InvalidValue(
            f"Invalid '{param}': string too long. Expected a string with maximum length {ID_CHARS_MAX}, "
            f"but got a string with length {len(given)} instead.",
            param=param,
            code="string_above_max_length",
        )
    return given or UNSET


def _settled(item: Item) -> Item:
    """What a client hands in is finished, except what it says was cut short."""
    return structs.replace(item, status="completed") if getattr(item, "status", "") in UNSETTLED else item


UNSETTLED = (UNSET, "in_progress")


def _resolved(named: ItemReference | CompactionTrigger, referenced: Mapping[str, Item], param: str, place: int) -> Item:
    if isinstance(named, CompactionTrigger):  # one at the end of a request was taken out before
        raise InvalidRequest(
            "A 'compaction_trigger' must be the last item of a request's input.", param=f"{param}[{place}].type"
        )
    item = referenced.get(named.id)
    if item is None:
        raise NotFound(
            f"Item with id '{named.id[:ID_CHARS_MAX]}' not found. Items are not persisted when `store` is set to "
            "false. Try again with `store` set to true, or remove this item from your input.",
            param=param,
        )
    return item


NOT_YET = Choice("auto", None)
"""What must be called, before it is known what can be."""


def equipped(prompt: Prompt, kit: Kit, box: Toolbox, *, chooses: bool) -> Prompt:
    """The prompt with the tools that are known now. `chooses`: the choice among them has yet to be made. Raises
    InvalidRequest when it names none of them."""
    choice = _choice(kit, box)
    must = choice.must if chooses else prompt.tool_choice
    return structs.replace(prompt, tools=tuple(box.offers.values()), tool_choice=must, allowed=choice.allowed)


def _choice(kit: Kit, box: Toolbox) -> Choice:
    return NOT_YET if kit.firsts(box) else kit.chosen(box)


def told(prompt: Prompt, items: Sequence[Item], runners: Mapping[str, Tool]) -> Prompt:
    """The prompt with what items of this response tell, before the model has said anything."""
    return extended(prompt, items, (), runners, lambda prefix: prefix, 0)


def extended(
    prompt: Prompt,
    items: Sequence[Item],
    refused: Sequence[Refused],
    runners: Mapping[str, Tool],
    new_id: NewId,
    spent_tokens: int,
) -> Prompt:
    """The prompt of the next turn: with what the last one added, and with why some of its calls were not made. A forced
    choice that was met is not made again: it would never end. The token limit is for the whole response."""
    limit = prompt.max_output_tokens
    told = (
        *grown(empty(), items, items, runners).told,
        *lowering.told(refused, (new_id("call") for _ in refused)),
    )
    return structs.replace(
        prompt,
        items=(*prompt.items, *told),
        size=None if prompt.size is None else prompt.size + sum(map(counting.size, told)),
        prefix="",
        tool_choice=prompt.tool_choice if refused or prompt.tool_choice == "none" else "auto",
        max_output_tokens=None if limit is None else limit - spent_tokens,
    )
