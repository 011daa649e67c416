"""The scripted hosted tool: deterministic, for tests and client developers. It knows no network and no disk.

A call's arguments are `{"text": "…"}`; its output is that text in capitals, or what the declaration's `output` says.
The text "fail" fails the call; "wait" leaves it running until the response is cancelled, and "wait 20" takes 20 ms. A
text that begins with "again" makes a call that may be made again after a crash.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import msgspec
from msgspec import UNSET, Struct, structs

from antiphon.config import ScriptedToolSettings as Settings
from antiphon.core.hosted import Errand, Outcome, Progress, Step, Tool
from antiphon.core.ports import Fetch
from antiphon.core.prompt import Offer
from antiphon.wire.items import FunctionCall, FunctionCallOutput, HostedCall, Item, ScriptedCall
from antiphon.wire.tools import JsonObject
from antiphon.wire.tools import ScriptedTool as Declaration


class _Arguments(Struct):
    text: str = ""


class ScriptedTool(Tool):
    declares = frozenset({"antiphon:scripted"})
    records = frozenset({"antiphon:scripted_call"})

    def __init__(self, settings: Settings | None = None, fetch: Fetch | None = None) -> None:
        self._is_on = settings is None or settings.enabled

    def missing(self, declaration: Declaration) -> str:
        return "" if self._is_on else "The tool 'antiphon:scripted' is not enabled on this server."

    def offers(self, declaration: Declaration, brought: Sequence[Item]) -> Sequence[Offer]:
        return [
            Offer(
                name=declaration.name,
                description="Gives a text back in capitals.",
                parameters={"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
            )
        ]

    def deferred(self, declaration: Declaration) -> tuple[str, str] | None:
        return ("scripted", "Texts in capitals.") if declaration.defer_loading is True else None

    def found(self, declaration: Declaration, names: Sequence[str]) -> JsonObject:
        return {"type": "antiphon:scripted", "name": declaration.name, "defer_loading": True}

    def meant(self, found: Declaration) -> Sequence[str]:
        return [found.name]

    def begin(self, name: str, arguments: str, declaration: Declaration, brought: Sequence[Item] = ()) -> ScriptedCall:
        return ScriptedCall(status="in_progress", name=name, arguments=arguments)

    async def run(self, item: HostedCall, errand: Errand) -> AsyncGenerator[Step, None]:
        assert isinstance(item, ScriptedCall)
        yield Progress("searching")
        text = _text(item)
        if text.removeprefix("again ") == "wait":
            await asyncio.Event().wait()
        first, _, number = text.removeprefix("again ").partition(" ")
        if first == "wait" and number.isdecimal():
            await asyncio.sleep(int(number) / 1000)
        if text == "fail":
            raise ValueError("told to fail")
        await asyncio.sleep(0)
        output = text.upper() if errand.declaration.output is UNSET else errand.declaration.output
        yield Outcome(structs.replace(item, status="completed", output=output))

    def is_of(self, item: HostedCall, declaration: Declaration) -> bool:
        assert isinstance(item, ScriptedCall)
        return item.name == declaration.name

    def is_repeatable(self, item: HostedCall) -> bool:
        assert isinstance(item, ScriptedCall)
        return _text(item).startswith("again")

    def failed(self, item: HostedCall, reason: str) -> ScriptedCall:
        assert isinstance(item, ScriptedCall)
        return structs.replace(item, status="failed", output=reason)

    def replay(self, item: HostedCall) -> tuple[FunctionCall, FunctionCallOutput]:
        assert isinstance(item, ScriptedCall)
        call_id = f"call_{item.id}"
        return (
            FunctionCall(id=item.id, call_id=call_id, name=item.name, arguments=item.arguments, status="completed"),
            FunctionCallOutput(id=item.id, call_id=call_id, output=item.output or "", status="completed"),
        )


def _text(item: ScriptedCall) -> str:
    return msgspec.json.decode(item.arguments or b"{}", type=_Arguments).text
