"""Toolbox: what a model may call in one request, and what a call by each name becomes. Pure; runs nothing."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from msgspec import UNSET, Struct, UnsetType, structs

from antiphon.core import clienttools, toolsearch
from antiphon.core.clienttools import ClientTool, Lift
from antiphon.core.hosted import Tool, runner_of
from antiphon.core.prompt import Named, Offer
from antiphon.core.toolsearch import Deferred, Group, Indexes, Search, Unfound
from antiphon.core.unwrap import unwrapped
from antiphon.errors import InvalidRequest, InvalidValue, UnsupportedParameter
from antiphon.wire import tools as wire
from antiphon.wire.faults import array_too_long
from antiphon.wire.items import CustomToolCall, FunctionCall, Item
from antiphon.wire.tools import NAME_PATTERN, CustomTool, FunctionTool, Grammar, JsonObject, NamespaceTool
from antiphon.wire.tools import Tool as Declaration

_NAME = re.compile(NAME_PATTERN)
INPUT_PARAMETERS: JsonObject = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
"""How a custom tool, which takes any text, is shown to models that know only functions."""


class Streamed(Struct, frozen=True):
    """A client's call that is shown as it is written. `empty` lacks only its call_id."""

    empty: FunctionCall | CustomToolCall


class Gathered(Struct, frozen=True):
    """A client's call that is shown once it is whole and found to be one."""

    lift: Lift


class Hosted(Struct, frozen=True):
    """A call that this server runs."""

    tool: Tool
    declaration: Any
    brought: Sequence[Item] = ()
    """The items of the conversation that bring tools."""


Callee: TypeAlias = Streamed | Gathered | Hosted | Search | Unfound


class Toolbox(Struct, frozen=True):
    """`offers` are what the model is shown, by name; `callees` what becomes of calls; `params` where each was declared,
    also those that wait to be found;
    `omitted` are hosted tools that this server cannot run, and what would have to be set."""

    offers: dict[str, Offer]
    callees: dict[str, Callee]
    params: dict[str, str]
    omitted: dict[str, str]
    runs: list[Hosted]
    """The declarations that this server serves, also those of which nothing is offered yet."""

    @property
    def hosted(self) -> dict[str, Hosted]:
        return {name: callee for name, callee in self.callees.items() if isinstance(callee, Hosted)}

    @property
    def search(self) -> Search | None:
        found = self.callees.get(toolsearch.NAME)
        return found if isinstance(found, Search) else None


EMPTY = Toolbox({}, {}, {}, {}, [])
"""That of most requests. Nobody puts anything into it."""


class Declared(NamedTuple):
    """A declaration, and where it stands. `is_found`: another tool of its name gives way to it. `is_of_search`: this
    server found it, so a tool that the server runs is only meant, and must be declared by the request."""

    tool: Declaration
    param: str
    is_found: bool = False
    is_of_search: bool = False


def flat_name(namespace: str | UnsetType, name: str) -> str:
    """The one name by which a model knows a tool in a namespace."""
    return name if namespace is UNSET else f"{namespace}__{name}"


def make(
    declared: Iterable[Declared],
    runners: Mapping[str, Tool],
    tools_max: int,
    brought: Sequence[Item] = (),
    wanted: frozenset[str] = frozenset(),
    indexes: Indexes | None = None,
) -> Toolbox:
    """`brought` are items that bring tools of servers; `wanted` are shown though they are deferred. Raises
    InvalidRequest naming the tool that cannot be offered."""
    declared = list(declared)
    packing = _Packing(runners, tools_max, brought, _searching(declared), wanted)
    for one in declared:
        if not one.is_found:
            packing.pack(one)
    packing.add_search(indexes or Indexes())
    for one in declared:
        if one.is_found:
            packing.pack(one)
    return packing.toolbox


def _searching(declared: Sequence[Declared]) -> Declared | None:
    """The tool search, the client's or ours: beside both, nobody could say who is meant."""
    searches = [one for one in declared if isinstance(one.tool, wire.ToolSearchTool)]
    if len({one.tool.execution for one in searches}) > 1:  # type: ignore[union-attr] # so says the line above
        raise InvalidValue(
            "There can be one 'tool_search', executed by the client or by the server.", param=searches[-1].param
        )
    return searches[-1] if searches else None


class _Packing:
    """Puts a toolbox together, one declaration after another."""

    def __init__(
        self,
        runners: Mapping[str, Tool],
        tools_max: int,
        brought: Sequence[Item],
        searching: Declared | None,
        wanted: frozenset[str],
    ) -> None:
        self._runners = runners
        self._tools_max = tools_max
        self._brought = brought
        self._searching = searching
        """Who searches: deferred tools wait to be found by it. Where nobody does, they are shown at once."""
        self._searches_here = searching is not None and searching.tool.execution == "server"  # type: ignore[union-attr]
        self._wanted = wanted
        self._deferred: list[Deferred] = []
        self._waiting: dict[str, tuple[Offer, Hosted]] = {}
        """Of these, what the server runs, by name."""
        self._omitted: dict[str, str] = {}
        self._found: set[str] = set()
        self._distinct: set[tuple[str, str]] = set()
        self.toolbox = Toolbox({}, {}, {}, self._omitted, [])

    def pack(self, declared: Declared) -> None:
        tool = declared.tool
        match tool:
            case FunctionTool() | CustomTool():
                self._add_named(tool, None, declared)
            case NamespaceTool():
                self._add_namespace(tool, declared)
            case wire.Unserved():
                self._omitted[tool.kind] = ""
            case wire.ToolSearchTool(execution="server"):
                if tool.parameters is not UNSET:
                    raise UnsupportedParameter(
                        "The parameters of a 'tool_search' are the client's to say only where the client executes it.",
                        param=f"{declared.param}.parameters",
                    )
            case wire.ServerTool() if declared.is_of_search:
                self._add_meant(tool, declared)
            case wire.ServerTool():
                self._add_hosted(tool, declared)
            case _:
                kind, more = _client_tool(tool)
                _check_callers(tool, declared.param)
                self._add(kind.offer(more), Gathered(kind.lift), declared)

    def add_search(self, indexes: Indexes) -> None:
        """Shown where there is something to find."""
        searching = self._searching
        if self._searches_here and self._deferred:
            assert searching is not None
            assert isinstance(searching.tool, wire.ToolSearchTool)
            search = Search(self._deferred, searching.tool.description, indexes)
            self._add(search.offer(), search, searching)

    def _add_namespace(self, namespace: NamespaceTool, declared: Declared) -> None:
        _check_name(namespace.name, f"{declared.param}.name")
        group = _namespace_group(namespace)
        described = False
        for index, tool in enumerate(namespace.tools):
            place = declared._replace(param=f"{declared.param}.tools[{index}]")
            described = self._add_named(tool, group, place, is_first=not described) or described

    def _add_named(
        self, tool: FunctionTool | CustomTool, group: Group | None, declared: Declared, *, is_first: bool = False
    ) -> bool:
        """Whether it is shown: a deferred tool is not, until it was found. The first of a namespace describes that."""
        _check_name(tool.name, f"{declared.param}.name")
        _check_callers(tool, declared.param)
        namespace = UNSET if group is None else group.name
        name = flat_name(namespace, tool.name)
        if tool.defer_loading is True and self._searching and not (declared.is_found or name in self._wanted):
            self._defer(Deferred(tool.name, _offer(tool, name), tool, group), declared)
            return False
        note = ""
        if group and is_first and group.description:
            note = f"The tools {group.name}__… belong together: {group.description}"
        self._add(_offer(tool, name, note), _callee(tool, namespace), declared)
        return True

    def _add_hosted(self, tool: wire.ServerTool, declared: Declared) -> None:
        kind, runner = _tag(tool), runner_of(tool, self._runners)
        missing = "" if runner is None else _missing(runner, declared)
        if runner is None or missing:
            reason = missing or f"The tool '{kind}' is not enabled on this server."
            if runner is None or not runner.may_be_left_out:
                raise UnsupportedParameter(reason, param=f"{declared.param}.type")
            self._omitted[kind] = reason
            return
        _check_callers(tool, declared.param)
        if self._is_known(tool, declared):
            return
        hosted = Hosted(runner, tool, self._brought)
        self.toolbox.runs.append(hosted)
        group = _hosted_group(runner, tool) if self._searches_here else None
        for offer in runner.offers(tool, self._brought):
            if group and offer.name not in self._wanted:
                self._defer(Deferred(offer.name, offer, tool, group), declared)
                self._waiting[offer.name] = offer, hosted
                self.toolbox.callees.setdefault(offer.name, Unfound())
            else:
                self._add(offer, hosted, declared)

    def _is_known(self, tool: wire.ServerTool, declared: Declared) -> bool:
        """Whether one of its name is there already, to which one that an item brings gives way."""
        if not tool.NAMED_BY:
            return False
        key = (_tag(tool), getattr(tool, tool.NAMED_BY))
        if key in self._distinct and not declared.is_found:
            param = f"{declared.param}.{tool.NAMED_BY}"
            raise InvalidValue(f"Invalid '{param}': another tool of the request has it, too.", param=param)
        is_known = key in self._distinct
        self._distinct.add(key)
        return is_known

    def _add_meant(self, found: wire.ServerTool, declared: Declared) -> None:
        """What was found of that which the server runs, if the request declares it still."""
        runner = runner_of(found, self._runners)
        for name in runner.meant(found) if runner else ():
            if name in self._waiting:
                self._add(*self._waiting[name], declared)

    def _defer(self, deferred: Deferred, declared: Declared) -> None:
        self._take_name(deferred.offer.name, declared)
        self._deferred.append(deferred)

    def _take_name(self, name: str, declared: Declared) -> None:
        if name in self.toolbox.params and not (declared.is_found or name in self._found):
            param = f"{declared.param}.name" if hasattr(declared.tool, "name") else declared.param
            raise InvalidValue(f"Invalid '{param}': there is already a tool named '{name}'.", param=param)
        self.toolbox.params[name] = declared.param

    def _add(self, offer: Offer, callee: Callee, declared: Declared) -> None:
        name = offer.name
        _check_name(name, f"{declared.param}.name")
        self._take_name(name, declared)
        if declared.is_found:
            self._found.add(name)
        self.toolbox.offers[name] = offer
        self.toolbox.callees[name] = callee
        if len(self.toolbox.offers) > self._tools_max:
            raise InvalidValue(f"Invalid 'tools': array too long. Expected at most {self._tools_max} tools.",
                               param="tools", code="array_above_max_length")  # fmt: skip


def _namespace_group(namespace: NamespaceTool) -> Group:
    def declare(found: Sequence[Deferred]) -> JsonObject:
        tools = [toolsearch.plain(one.declaration) for one in found]
        return toolsearch.plain(structs.replace(namespace, tools=())) | {"tools": tools}

    return Group(namespace.name, namespace.description, declare)


def _hosted_group(runner: Tool, declaration: Any) -> Group | None:
    """None: its tools are shown at once."""
    deferred = runner.deferred(declaration)
    if deferred is None:
        return None
    return Group(*deferred, lambda found: runner.found(declaration, [one.offer.name for one in found]))


def _missing(runner: Tool, declared: Declared) -> str:
    try:
        return runner.missing(declared.tool)
    except InvalidRequest as error:
        error.param = f"{declared.param}.{error.param}" if error.param else declared.param
        raise


def _check_name(name: str, param: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidValue(
            f"Invalid '{param}': expected a string of 1 to 128 characters that matches '^[a-zA-Z0-9_-]+$'.", param=param
        )


def _check_callers(tool: Any, param: str) -> None:
    callers = getattr(tool, "allowed_callers", UNSET)
    if callers is not UNSET and "direct" not in callers:
        raise UnsupportedParameter("A tool that only programs may call cannot be called: this server runs none.",
                                   param=f"{param}.allowed_callers")  # fmt: skip


# -- functions and custom tools


def _joined(*texts: str | UnsetType | None) -> str | None:
    return "\n\n".join(text for text in texts if isinstance(text, str) and text) or None


def _offer(tool: FunctionTool | CustomTool, name: str, note: str = "") -> Offer:
    return _function_offer(tool, name, note) if isinstance(tool, FunctionTool) else _custom_offer(tool, name, note)


def _callee(tool: FunctionTool | CustomTool, namespace: str | UnsetType) -> Callee:
    if isinstance(tool, FunctionTool):
        return Streamed(_empty_function(tool, namespace))
    return _custom_callee(tool, namespace)


def _function_offer(tool: FunctionTool, name: str, note: str) -> Offer:
    described = _joined(note, tool.description) if note else tool.description
    return Offer(name=name, description=described, parameters=tool.parameters, strict=tool.strict)


def _custom_offer(tool: CustomTool, name: str, note: str) -> Offer:
    grammar = tool.format if isinstance(tool.format, Grammar) else None
    rule = "" if grammar is None else f"The input must fit this {_SYNTAX[grammar.syntax]}:\n{grammar.definition}"
    return Offer(
        name=name, description=_joined(note, tool.description, rule), parameters=INPUT_PARAMETERS, grammar=grammar
    )


_SYNTAX = {"lark": "Lark grammar", "regex": "regular expression"}


def _empty_function(tool: FunctionTool, namespace: str | UnsetType) -> FunctionCall:
    return FunctionCall(
        status="in_progress",
        call_id="",
        arguments="",
        name=tool.name,
        namespace=namespace,
        async_=True if tool.async_ is True else UNSET,
    )


def _custom_callee(tool: CustomTool, namespace: str | UnsetType) -> Callee:
    """One with a grammar is shown only once it is known to fit: nothing that was shown can be taken back."""
    empty = CustomToolCall(
        status="in_progress",
        call_id="",
        input="",
        name=tool.name,
        namespace=namespace,
        async_=True if tool.async_ is True else UNSET,
    )
    return Gathered(_custom_lift(empty)) if isinstance(tool.format, Grammar) else Streamed(empty)


def _custom_lift(empty: CustomToolCall) -> Lift:
    def lift(call_id: str, arguments: str) -> CustomToolCall:
        return structs.replace(empty, call_id=call_id, input=unwrapped(arguments), status="completed")

    return lift


# -- the client's other tools


def _client_tool(tool: Declaration) -> tuple[ClientTool, str]:
    """The kind, and what this declaration adds to its description."""
    match tool:
        case wire.ShellTool():
            skills = tool.environment.skills if isinstance(tool.environment, wire.LocalEnvironment) else UNSET
            return clienttools.SHELL, "\n".join(_skills(skills))
        case wire.ComputerUsePreviewTool():
            size = f"{tool.display_width} by {tool.display_height} pixels"
            return clienttools.COMPUTER_PREVIEW, f"The screen has {size}; it shows: {tool.environment}."
        case wire.ToolSearchTool():
            return clienttools.search_tool(tool), ""
        case _:
            return _PLAIN[type(tool)], ""


_PLAIN: dict[type, ClientTool] = {
    wire.LocalShellTool: clienttools.LOCAL_SHELL,
    wire.ApplyPatchTool: clienttools.APPLY_PATCH,
    wire.ComputerTool: clienttools.COMPUTER,
}


def _skills(skills: Sequence[wire.LocalSkill] | UnsetType) -> Iterator[str]:
    if skills is not UNSET and skills:
        yield "Skills: read the SKILL.md in a skill's folder before you use it."
        for skill in skills:
            yield f"- {skill.name} ({skill.path}): {skill.description}"


# -- the choice among them


class Choice(NamedTuple):
    """What the model must and may call. `allowed` is None where all tools are."""

    must: Any
    allowed: frozenset[str] | None


def choice(wanted: wire.ToolChoice, box: Toolbox, tools_max: int) -> Choice:
    """Raises InvalidRequest when it names what is not there."""
    if isinstance(wanted, str):
        if wanted == "required" and not box.offers:
            raise InvalidRequest("Tool choice 'required' must be specified with 'tools' parameter.",
                                 param="tool_choice")  # fmt: skip
        return Choice(wanted, None)
    if isinstance(wanted, wire.AllowedTools):
        if len(wanted.tools) > tools_max:
            raise array_too_long("tool_choice.tools", tools_max, len(wanted.tools))
        names = frozenset(name for tool in wanted.tools for name in _names(tool, box))
        if not names:
            raise InvalidRequest("Tool choice 'allowed_tools' must allow at least one tool.", param="tool_choice")
        return Choice(wanted.mode, names)
    meant = _names({"type": _tag(wanted)} | structs.asdict(wanted), box)
    if not meant:
        raise InvalidRequest(f"Tool choice '{_tag(wanted)}' has yet to be found by 'tool_search'.", param="tool_choice")
    hosted = box.hosted.get(meant[0])
    if len(meant) > 1 and hosted is not None and hosted.declaration.NAMED_BY:  # a server, and any of its tools
        return Choice("required", frozenset(meant))
    return Choice(Named(meant[0]), None)


def wanted(choice: wire.ToolChoice) -> frozenset[str]:
    """The names that a choice calls tools by: it would mean nothing if they had yet to be found."""
    if isinstance(choice, wire.NamedFunction | wire.NamedCustom):
        return frozenset({choice.name})
    named = choice.tools if isinstance(choice, wire.AllowedTools) else ()
    return frozenset(
        flat_name(tool.get("namespace", UNSET), str(tool.get("name", "")))
        for tool in named
        if str(tool.get("type")) in {"function", "custom"}
    )


def _names(tool: Mapping[str, Any], box: Toolbox) -> list[str]:
    """The offers that a reference to a tool means."""
    kind, name, namespace = str(tool.get("type")), str(tool.get("name") or ""), tool.get("namespace", UNSET)
    if kind == "namespace":
        found = [offer for offer in box.offers if offer.startswith(f"{name}__")]
    elif kind in {"function", "custom"}:
        named = box.offers.get(flat_name(namespace, name))
        found = [named.name] if named and (named.parameters is INPUT_PARAMETERS) is (kind == "custom") else []
    else:
        wanted = _COMPUTERS if kind == "computer_use" else {kind}
        found = [offer for offer in box.offers if offer in wanted and not isinstance(box.callees[offer], Streamed)]
        found += [offer for offer, hosted in box.hosted.items() if _is_meant(offer, hosted, tool, kind, name)]
    if not found and box.search and box.search.waits(kind, name):
        return []  # they may be called once they are found
    if not found:
        reason = f" ({box.omitted[kind] or 'this server cannot run it'})" if kind in box.omitted else ""
        what = f"{kind}' '{name}" if name else f"{kind}"
        raise InvalidRequest(f"Tool choice '{what}' not found in 'tools' parameter{reason}.", param="tool_choice")
    return found


def _is_meant(offer: str, hosted: Hosted, tool: Mapping[str, Any], kind: str, name: str) -> bool:
    declaration = hosted.declaration
    if _tag(declaration) != kind:
        return False
    by = declaration.NAMED_BY
    if not by:
        return True
    named = not name or hosted.tool.offer_name(declaration, name) == offer
    return named and tool.get(by) == getattr(declaration, by)


_COMPUTERS = {clienttools.COMPUTER.name, clienttools.COMPUTER_PREVIEW.name}


def _tag(struct: Struct) -> str:
    tag = struct.__struct_config__.tag
    assert isinstance(tag, str)
    return tag
