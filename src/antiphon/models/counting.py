"""Counting: how an upstream is asked how many tokens a prompt is. Knows no connection, and makes no body.

Servers of one API count in different ways, or not at all. Which way an upstream has is learnt from its answers: one
that it does not know is not tried again. Ways of llama.cpp and vLLM, from their sources of autumn 2026.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import msgspec
from msgspec import Struct

from antiphon.core import usage
from antiphon.core.ports import Count
from antiphon.core.prompt import Prompt
from antiphon.errors import ApiError
from antiphon.models.chatbody import Object
from antiphon.models.upstream import Upstream

TIMEOUT_S = 5.0
"""For an answer that takes milliseconds: a request waits for it."""
UNSERVED = frozenset({401, 403, 404, 405, 501})
COUNTED = frozenset(
    {"model", "messages", "tools", "chat_template_kwargs", "continue_final_message", "add_generation_prompt"}
)
"""Of a chat body, what makes the prompt."""

_log = logging.getLogger("antiphon.upstream")


class Unserved(Exception):
    """The upstream does not count so."""


class Answered(Struct):
    """Whatever any of them answers. Counts are in tokens."""

    input_tokens: int | None = None
    count: int | None = None
    prompt: str | None = None
    tokens: list[int] | None = None
    how: str = msgspec.field(name="antiphon:count", default="exact")


Ask: TypeAlias = Callable[[str, object], Awaitable[Answered]]
"""A path from the server's root, or one that begins with "." from its API's, and a body. Raises Unserved, or an
ApiError for what may pass."""
Way: TypeAlias = Callable[[Ask, Object], Awaitable[Count]]


class Counter:
    """Counts for the models of one upstream."""

    def __init__(self, upstream: Upstream, ways: Sequence[Way]) -> None:
        self._upstream = upstream
        self._ways = list(ways)
        """Those that may be served."""

    async def count(self, prompt: Prompt, body: Callable[[], Object]) -> Count:
        """`body` makes what the model would be asked with."""
        made = body() if self._ways else {}
        while self._ways:
            way = self._ways[0]
            try:
                counted = await way(self._ask, made)
            except Unserved:
                if way in self._ways:
                    self._ways.remove(way)
                if not self._ways:
                    _log.info("The model server at %s does not count tokens: they are estimated.", self._upstream.url)
            except ApiError as error:
                _log.warning("Tokens are estimated: %s", error.message)
                break
            else:
                return Count(
                    counted.tokens, is_exact=counted.is_exact and not any(map(usage.shows_more_than_text, prompt.items))
                )
        return Count(usage.given(prompt), is_exact=False)

    async def _ask(self, path: str, body: object) -> Answered:
        status, answer = await self._upstream.ask(path, msgspec.json.encode(body), TIMEOUT_S)
        if status in UNSERVED:
            raise Unserved
        if status != 200:
            raise ApiError(f"The model server at {self._upstream.url} answered {path} with HTTP {status}.")
        try:
            return msgspec.json.decode(answer, type=Answered)
        except msgspec.DecodeError:
            raise Unserved from None


def _counted(tokens: int | None, how: str = "exact") -> Count:
    if tokens is None:
        raise Unserved
    return Count(tokens, is_exact=how == "exact")


async def input_tokens_of_chat(ask: Ask, body: Object) -> Count:
    """llama.cpp since the end of 2025."""
    return _counted((await ask("./chat/completions/input_tokens", body)).input_tokens)


async def tokenize_chat(ask: Ask, body: Object) -> Count:
    """vLLM. llama.cpp answers at this path too, but counts no messages."""
    asked = {name: field for name, field in body.items() if name in COUNTED}
    return _counted((await ask("/tokenize", asked)).count)


async def apply_and_tokenize(ask: Ask, body: Object) -> Count:
    """llama.cpp before that."""
    prompt = (await ask("/apply-template", body)).prompt
    if prompt is None:
        raise Unserved
    tokens = (await ask("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})).tokens
    return _counted(None if tokens is None else len(tokens))


async def input_tokens(ask: Ask, body: Object) -> Count:
    """Servers of the Responses API; another antiphon says whether it knows."""
    answer = await ask("./responses/input_tokens", body)
    return _counted(answer.input_tokens, answer.how)


CHAT: tuple[Way, ...] = (input_tokens_of_chat, tokenize_chat, apply_and_tokenize)
RESPONSES: tuple[Way, ...] = (input_tokens,)
