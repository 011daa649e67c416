"""Plug-ins: tools of other packages behind the port. Knows none by name, and loads none that the settings do not name.

A package brings a class for each by an entry point of the group `antiphon.tools`. What its author needs of antiphon is
`Plugin`, `Errand` and `Failed`; docs/plug-ins.md shows a whole package.
"""

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Final

import msgspec
from msgspec import UNSET, Struct, structs

from antiphon import schemas
from antiphon.core import hosted
from antiphon.core.hosted import Outcome, Step, Tool
from antiphon.core.ports import Check, Fetch, TextCheck
from antiphon.core.prompt import Offer
from antiphon.errors import InvalidRequest, InvalidValue, SettingsError
from antiphon.observe import log as logger
from antiphon.wire.items import FunctionCall, FunctionCallOutput, HostedCall, Item, PluginCall
from antiphon.wire.tools import NAME_PATTERN, JsonObject
from antiphon.wire.tools import PluginTool as Declaration

GROUP: Final = "antiphon.tools"
CLOSE_S: Final = 5.0
"""For all plug-ins when the server stops."""


class Errand(Struct, frozen=True, kw_only=True):
    """For whom a call is made. `config` is what the request says beside the tool's name."""

    project: str
    response_id: str
    config: JsonObject


class Failed(Exception):  # read as what a plug-in says: the call failed
    """A call failed, and the model is told why. What else a plug-in raises is logged, and no matter of the model's."""


class Plugin(ABC):
    """A tool of another package: a subclass, of which one is made when the server starts. One loop runs everything: who
    would block it uses asyncio.to_thread."""

    description: ClassVar[str]
    """Told to the model, as are the parameters: a JSON Schema, which every call that is made fits."""
    parameters: ClassVar[JsonObject]
    config_parameters: ClassVar[JsonObject | None] = None
    """A JSON Schema of what a request may say in `config`. None: nothing."""
    is_repeatable: ClassVar[bool] = False
    """A call that was cut off by a crash does no harm if it is made a second time."""
    timeout_s: ClassVar[float | None] = None
    """For one call, where less than `limits.tool_timeout_s`."""

    def __init__(self, settings: Mapping[str, Any]) -> None:  # noqa: B027 # most need none
        """`settings` is its table, `[tools.plugins.NAME]`. A ValueError, TypeError or KeyError ends the start, and is
        shown."""

    @abstractmethod
    async def call(self, arguments: JsonObject, errand: Errand) -> str:
        """What the model is told. Cancelled when its time is over, or nobody wants the response any more."""

    async def close(self) -> None:  # noqa: B027 # most hold nothing
        """The server stops."""


class _Loaded(Struct, frozen=True):
    plugin: Plugin
    fits: TextCheck
    configures: TextCheck | None
    package: str


class PluginTools(Tool):
    declares = frozenset({"antiphon:tool"})
    records = frozenset({"antiphon:tool_call"})

    def __init__(self, settings: Mapping[str, JsonObject], fetch: Fetch | None = None) -> None:
        """Raises SettingsError."""
        points = {point.name: point for point in entry_points(group=GROUP)} if settings else {}
        self._loaded = {name: _load(name, table, points) for name, table in settings.items()}

    # -- what is declared

    def missing(self, declaration: Declaration) -> str:
        loaded = self._loaded.get(declaration.name)
        if loaded is None:
            name = declaration.name[:128]
            raise InvalidValue(
                f"The tool '{name}' is not enabled on this server ([tools.plugins.{name}]).", param="name"
            )
        if declaration.config is not UNSET:
            if loaded.configures is None:
                raise InvalidValue(f"The tool '{declaration.name}' takes no 'config'.", param="config")
            if fault := loaded.configures(msgspec.json.encode(declaration.config).decode()):
                raise InvalidValue(f"Invalid 'config' of the tool '{declaration.name}': {fault}", param="config")
        return ""

    def offers(self, declaration: Declaration, brought: Sequence[Item]) -> Sequence[Offer]:
        plugin = self._loaded[declaration.name].plugin
        return [Offer(name=declaration.name, description=plugin.description, parameters=plugin.parameters)]

    def deferred(self, declaration: Declaration) -> tuple[str, str] | None:
        return ("plug-ins", "") if declaration.defer_loading is True else None

    def found(self, declaration: Declaration, names: Sequence[str]) -> JsonObject:
        return {"type": "antiphon:tool", "name": declaration.name, "defer_loading": True}

    def meant(self, found: Declaration) -> Sequence[str]:
        return [found.name]

    # -- calls

    def begin(self, name: str, arguments: str, declaration: Declaration, brought: Sequence[Item] = ()) -> PluginCall:
        if fault := self._loaded[name].fits(arguments or "{}"):
            raise ValueError(fault)
        return PluginCall(status="in_progress", name=name, arguments=arguments or "{}")

    async def run(self, item: HostedCall, errand: hosted.Errand) -> AsyncGenerator[Step, None]:
        assert isinstance(item, PluginCall)
        plugin, config = self._loaded[item.name].plugin, errand.declaration.config
        told = Errand(project=errand.project, response_id=errand.response_id, config={} if config is UNSET else config)
        whole = asyncio.timeout(plugin.timeout_s)
        try:
            async with whole:
                output = await plugin.call(msgspec.json.decode(item.arguments), told)
        except Failed as failure:
            yield Outcome(self.failed(item, str(failure)))
            return
        except TimeoutError:
            if not whole.expired():
                raise
            yield Outcome(self.failed(item, f"The tool took longer than {plugin.timeout_s:g} s."))
            return
        except SystemExit as end:  # of code that was written for a command line: it would end the server
            raise RuntimeError(f"the plug-in '{item.name}' wanted to end the process") from end
        if not isinstance(output, str):
            raise TypeError(f"the plug-in '{item.name}' gave no text, but {type(output).__name__}")
        yield Outcome(structs.replace(item, status="completed", output=_writable(output)))

    def is_of(self, item: HostedCall, declaration: Declaration) -> bool:
        assert isinstance(item, PluginCall)
        return item.name == declaration.name

    def is_repeatable(self, item: HostedCall) -> bool:
        assert isinstance(item, PluginCall)
        loaded = self._loaded.get(item.name)
        return loaded is not None and loaded.plugin.is_repeatable

    def failed(self, item: HostedCall, reason: str) -> PluginCall:
        assert isinstance(item, PluginCall)
        return structs.replace(item, status="failed", error=_writable(reason))

    def replay(self, item: HostedCall) -> tuple[FunctionCall, FunctionCallOutput]:
        assert isinstance(item, PluginCall)
        call_id = f"call_{item.id}"
        output = item.output or "" if item.error is None else f"The call failed: {item.error}"
        return (
            FunctionCall(id=item.id, call_id=call_id, name=item.name, arguments=item.arguments, status="completed"),
            FunctionCallOutput(id=item.id, call_id=call_id, output=output, status="completed"),
        )

    # -- the plug-ins

    async def check(self) -> Check | None:
        if not self._loaded:
            return None
        told = ", ".join(f"{name} ({loaded.package})" for name, loaded in self._loaded.items())
        return Check(name="tool plug-ins", ok=True, detail=told)

    async def close(self) -> None:
        tasks = {asyncio.create_task(_closed(loaded.plugin)): name for name, loaded in self._loaded.items()}
        if not tasks:
            return
        done, late = await asyncio.wait(tasks, timeout=CLOSE_S)
        for task in late:
            task.cancel()
            logger.error("a plug-in did not close in time", plugin=tasks[task])
        for task in done:
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if error is not None:
                logger.error("a plug-in could not be closed", plugin=tasks[task], exc_info=error)


def _says_what_it_is(kind: type[Plugin]) -> bool:
    parameters, timeout_s = getattr(kind, "parameters", None), kind.timeout_s
    return (
        isinstance(getattr(kind, "description", None), str)
        and isinstance(parameters, dict)
        and parameters.get("type") == "object"
        and (timeout_s is None or (isinstance(timeout_s, int | float) and timeout_s > 0))
    )


async def _closed(plugin: Plugin) -> None:
    try:
        await plugin.close()
    except SystemExit as end:  # asyncio would let it out of the loop
        raise RuntimeError("the plug-in wanted to end the process") from end


def _writable(text: str) -> str:
    """As JSON can hold it: half a pair, as names of files may have it, is no character, and a class of text no text."""
    return text.encode("utf-8", "replace").decode()


def _load(name: str, table: JsonObject, points: Mapping[str, EntryPoint]) -> _Loaded:
    place = f"tools.plugins.{name}"
    point = points.get(name)
    if point is None:
        there = ", ".join(sorted(points)) or "none"
        raise SettingsError(f"{place}: no plug-in of this name is installed; there are: {there}")
    try:
        kind = point.load()
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"{place}: {point.value} cannot be loaded: {error}") from None
    if not (isinstance(kind, type) and issubclass(kind, Plugin) and _says_what_it_is(kind)):
        raise SettingsError(
            f"{place}: {point.value} is no Plugin with a description and parameters, which are the schema of an object"
            " (and a number of seconds, where it has timeout_s)"
        )
    if not re.fullmatch(NAME_PATTERN, name):
        raise SettingsError(f"{place}: a model can call no tool of this name")
    try:
        plugin = kind(table)
    except (ValueError, TypeError, KeyError) as error:
        missing = "missing: " if isinstance(error, KeyError) else ""
        raise SettingsError(f"{place}: {missing}{error}") from None
    try:
        wanted = plugin.config_parameters
        configures = None if wanted is None else schemas.json_schema(wanted, "config_parameters")
        fits = schemas.json_schema(plugin.parameters, "parameters")
    except InvalidRequest as error:
        raise SettingsError(f"{place}: {error.message}") from None
    package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
    return _Loaded(plugin, fits, configures, package)
