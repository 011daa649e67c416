"""Search engines behind one small port: SearXNG, Brave, Tavily. Knows no item and no page.

Sources: docs.searxng.org/dev/search_api, api-dashboard.search.brave.com (Web Search API), docs.tavily.com (/search).
Their addresses stand in the settings, so they are asked directly, past the guarded fetcher.
"""

import asyncio
import re
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from antiphon import __version__
from antiphon.config import WebSearch as Settings
from antiphon.net import h1

ANSWER_BYTES_MAX = 8 * 1024 * 1024
OPERATORS_MAX = 8
"""Domains that are put into a query as `site:`; of more, the results alone are sifted."""
COUNT_MAX = 20
"""What Brave and Tavily give at most."""
ENGINES_TOLD_MAX = 5


class SearchFailed(Exception):
    """Why there are no results, in words for the model; they may not tell an address or a key."""


class Wish(Struct, frozen=True, kw_only=True):
    """What of a query beside its words an engine may know to do. All of it is seen to afterwards, too, but the country:
    an ISO code of two letters, or empty."""

    results_max: int
    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    country: str = ""


class Found(Struct, frozen=True, kw_only=True):
    """`date` is as the engine has it, or empty."""

    url: str
    title: str
    snippet: str
    date: str = ""


class Search(Protocol):
    is_offline: bool
    """Nothing outside is asked."""

    async def find(self, query: str, wish: Wish) -> Sequence[Found]:
        """The best first. Raises SearchFailed."""
        ...

    async def page(self, url: str) -> tuple[str, str] | None:
        """The title and the text of a page that it has itself."""
        ...

    async def close(self) -> None: ...


T = TypeVar("T")


class Engine:
    """A search engine with a JSON API over HTTP. `name` is what it is called in messages."""

    is_offline = False
    name: str
    url: str

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        parts = urlsplit(settings.url or self.url)
        self._path = parts.path.rstrip("/")
        is_tls = parts.scheme == "https"
        self._client = h1.Client(
            parts.hostname or "",
            parts.port or (443 if is_tls else 80),
            headers={"Accept": "application/json", "User-Agent": f"antiphon/{__version__}", **self.headers()},
            tls=ssl.create_default_context() if is_tls else None,
            connect_timeout_s=settings.timeout_s,
            silence_timeout_s=settings.timeout_s,
        )

    def headers(self) -> Mapping[str, str]:
        return {}

    async def page(self, url: str) -> tuple[str, str] | None:
        return None

    async def close(self) -> None:
        await self._client.close()

    async def ask(self, method: str, path: str, kind: type[T], body: bytes = b"") -> T:
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                answer = await self._client.request(method, self._path + path, body)
                try:
                    return self._read(answer.status, await _whole(answer), kind)
                finally:
                    answer.close()
        except TimeoutError:
            raise SearchFailed(f"{self.name} did not answer within {self._settings.timeout_s:g} s") from None
        except h1.Fault:
            raise SearchFailed(f"{self.name} cannot be reached, or broke off") from None

    def _read(self, status: int, data: bytes, kind: type[T]) -> T:
        if status in (401, 402, 403, 429):
            raise SearchFailed(f"{self.name} refuses this server (status {status}): {self.remedy}")
        if status != 200:
            raise SearchFailed(f"{self.name} answered with status {status}")
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.DecodeError:
            raise SearchFailed(f"{self.name} answered with something else than results: {self.remedy}") from None

    remedy = "its key may be wrong, used up, or in use too often"


async def _whole(answer: h1.Answer) -> bytes:
    body = bytearray()
    while piece := await answer.read():
        body += piece
        if len(body) > ANSWER_BYTES_MAX:
            raise SearchFailed("the search engine's answer is too long")
    return bytes(body)


def _scoped(query: str, wish: Wish) -> str:
    """With the operators that most engines know."""
    allowed = " OR ".join(f"site:{domain}" for domain in wish.allowed) if len(wish.allowed) <= OPERATORS_MAX else ""
    blocked = [f"-site:{domain}" for domain in wish.blocked[:OPERATORS_MAX]]
    return " ".join(filter(None, [query, allowed and f"({allowed})" if "OR" in allowed else allowed, *blocked]))


class _SearxngResult(Struct):
    """Rows of a table have no address."""

    url: str | None = None
    title: str | None = None
    content: str | None = None
    publishedDate: str | None = None  # noqa: N815 -- its name there


class _SearxngBox(Struct):
    """What an encyclopedia has on a thing, which by default is all that Wikipedia gives. `id` is an address mostly;
    `content` is an empty list where there is none."""

    infobox: str
    id: str | None = None
    content: Any = ""


class _SearxngAnswer(Struct):
    results: list[_SearxngResult]
    infoboxes: list[_SearxngBox] = []
    unresponsive_engines: list[list[str]] = []
    """Each with the reason. Whatever fails among its engines, SearXNG answers with status 200."""


class Searxng(Engine):
    """It knows no number of results and no country. Words that begin with `!`, `:` or `<` are orders to it: to send its
    user elsewhere, to ask some engines alone, to change its language or its patience."""

    name = "SearXNG"
    url = ""
    remedy = "its settings.yml must have `json` among search.formats, and its limiter must let this server pass"

    async def find(self, query: str, wish: Wish) -> Sequence[Found]:
        words = re.sub(r"(?<!\S)[!:<]+(?=\S)", "", query)
        asked = urlencode({"q": _scoped(words, wish), "format": "json"})
        answer = await self.ask("GET", f"/search?{asked}", _SearxngAnswer)
        found = [
            Found(url=box.id, title=box.infobox, snippet=box.content if isinstance(box.content, str) else "")
            for box in answer.infoboxes
            if box.id
        ]
        found += [
            Found(url=one.url, title=one.title or "", snippet=one.content or "", date=one.publishedDate or "")
            for one in answer.results
            if one.url
        ]
        if not found and (silent := answer.unresponsive_engines[:ENGINES_TOLD_MAX]):
            reasons = ", ".join(": ".join(engine) for engine in silent)
            raise SearchFailed(f"{self.name} found nothing, and some of its engines failed ({reasons})")
        return found


class _BraveResult(Struct):
    url: str = ""
    title: str = ""
    description: str | None = None
    page_age: str | None = None
    extra_snippets: list[str] | None = None


class _BraveResults(Struct, frozen=True):
    results: tuple[_BraveResult, ...] = ()


class _BraveAnswer(Struct):
    web: _BraveResults = _BraveResults()


class Brave(Engine):
    name = "Brave"
    url = "https://api.search.brave.com/res/v1"

    def headers(self) -> Mapping[str, str]:
        return {"X-Subscription-Token": self._settings.key}

    async def find(self, query: str, wish: Wish) -> Sequence[Found]:
        asked: dict[str, str | int] = {"q": _scoped(query, wish), "count": min(wish.results_max, COUNT_MAX)}
        asked |= {"text_decorations": "false"} | ({"country": wish.country.upper()} if wish.country else {})
        answer = await self.ask("GET", f"/web/search?{urlencode(asked)}", _BraveAnswer)
        return [
            Found(
                url=one.url,
                title=one.title,
                snippet="\n".join([one.description or "", *(one.extra_snippets or ())]),
                date=one.page_age or "",
            )
            for one in answer.web.results
        ]


class _TavilyResult(Struct):
    url: str = ""
    title: str | None = None
    content: str | None = None
    published_date: str | None = None


class _TavilyAnswer(Struct):
    results: list[_TavilyResult]


class Tavily(Engine):
    """It knows countries by their English names alone, which a request does not have."""

    name = "Tavily"
    url = "https://api.tavily.com"

    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self._settings.key}", "Content-Type": "application/json"}

    async def find(self, query: str, wish: Wish) -> Sequence[Found]:
        asked: dict[str, object] = {"query": query, "max_results": min(wish.results_max, COUNT_MAX)}
        asked |= {"include_domains": wish.allowed} if wish.allowed else {}
        asked |= {"exclude_domains": wish.blocked} if wish.blocked else {}
        answer = await self.ask("POST", "/search", _TavilyAnswer, msgspec.json.encode(asked))
        return [
            Found(url=one.url, title=one.title or "", snippet=one.content or "", date=one.published_date or "")
            for one in answer.results
        ]


def fault(settings: Settings) -> str:
    """What is missing in the settings, as a sentence; empty: nothing."""
    where = "[tools.web_search]"
    match settings.backend:
        case "":
            return f"{where} backend must name a search engine: searxng, brave, tavily or local."
        case "searxng" if not settings.url.startswith(("http://", "https://")):
            return f"{where} url must be the address of a SearXNG."
        case "brave" | "tavily" if not settings.key:
            return f"{where} key_env must name the variable with the key of {settings.backend.capitalize()}."
        case "local" if not settings.folder:
            return f"{where} folder must be given: its files are what is found."
        case _:
            return ""
