"""The scripted hosted tool: deterministic, for tests and client developers. It knows no network and no disk.

A call's arguments are `{"text": "…"}`; its output is that text in capitals, or what the declaration's `output` says.
The text "fail" fails the call; "wait" leaves it running until the response is cancelled, and "wait 20" takes 20 ms.
"""

import asyncio
from collections.abc import AsyncGenerator

import msgspec
from msgspec import UNSET, Struct, structs

from antiphon.core.ports import Outcome, Progress
from antiphon.core.prompt import Offer
from antiphon.wire.items import FunctionCall, FunctionCallOutput, ScriptedCall
from antiphon.wire.tools import ScriptedTool as Declaration


class _Arguments(Struct):
    text: str = ""


class ScriptedTool:
    """Port Tool."""

    def offer(self, declaration: Declaration) -> Offer:
        return Offer(
            name=declaration.name,
            description="Gives a text back in capitals.",
            parameters={"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        )

    def begin(self, name: str, arguments: str) -> ScriptedCall:
        return ScriptedCall(status="in_progress", name=name, arguments=arguments)

    async def run(self, item: ScriptedCall, declaration: Declaration) -> AsyncGenerator[Progress | Outcome, None]:
        yield Progress("searching")
        text = msgspec.json.decode(item.arguments or b"{}", type=_Arguments).text
        if text == "wait":
            await asyncio.Event().wait()
        first, _, number = text.partition(" ")
        if first == "wait" and number.isdecimal():
            await asyncio.sleep(int(number) / 1000)
        if text == "fail":
            raise ValueError("told to fail")
        await asyncio.sleep(0)
        output = text.upper() if declaration.output is UNSET else declaration.output
        yield Outcome(structs.replace(item, status="completed", output=output))

    def replay(self, item: ScriptedCall) -> tuple[FunctionCall, FunctionCallOutput]:
        call_id = f"call_{item.id}"
        return (
            FunctionCall(id=item.id, call_id=call_id, name=item.name, arguments=item.arguments, status="completed"),
            FunctionCallOutput(id=item.id, call_id=call_id, output=item.output or "", status="completed"),
        )
