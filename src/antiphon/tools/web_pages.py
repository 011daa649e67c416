"""Pages of the web: fetched with the guard, their text taken out in a process of its own, kept for a while.

Which domains a request allows is seen to here, for the address that was asked for as for the one it led to.
"""

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from msgspec import Struct

from antiphon.config import Documents
from antiphon.config import WebSearch as Settings
from antiphon.core.ports import Fetch
from antiphon.documents.reader import DocumentReader, Unreadable
from antiphon.errors import ApiError
from antiphon.tools.web_engines import Search

HTML = frozenset({"text/html", "application/xhtml+xml"})
ACCEPT = ("text/html", "application/xhtml+xml", "text/", "application/pdf", "application/json")
AROUND_CHARS = 200
"""What is told around a match, on either side."""
MATCHES_MAX = 20
PATTERN_CHARS_MAX = 300


class NoPage(Exception):
    """Why a page cannot be told, in words for the model."""


class Domains(Struct, frozen=True):
    """What a request allows: these and those below them; none named: all. What is blocked is so in any case."""

    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()

    def allow(self, url: str) -> bool:
        if not (self.allowed or self.blocked):
            return True
        host = host_of(url)
        return (not self.allowed or _is_among(host, self.allowed)) and not _is_among(host, self.blocked)


def host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".").lower()
    except ValueError:
        return ""


def _is_among(host: str, domains: tuple[str, ...]) -> bool:
    return any(host == domain or host.endswith(f".{domain}") for domain in (one.lower() for one in domains))


class Page(Struct, frozen=True):
    url: str
    title: str
    text: str


class Pages:
    def __init__(self, settings: Settings, fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._fetch = fetch
        self._clock = clock
        bounds = Documents(
            bytes_max=settings.page_bytes_max,
            timeout_s=settings.page_timeout_s,
            chars_max=settings.page_chars_max,
        )
        self._reader = DocumentReader(bounds)
        self._kept: OrderedDict[str, tuple[float, Page]] = OrderedDict()
        self._kept_bytes = 0

    async def open(self, url: str, domains: Domains, search: Search, *, may_fetch: bool) -> Page:
        """Raises NoPage."""
        if not domains.allow(url):
            raise NoPage(f"pages of '{host_of(url) or url}' may not be opened here")
        if own := await search.page(url):
            return Page(url, *own)
        page = self._known(url)
        if page is None and not may_fetch:
            raise NoPage("it is not at hand, and this request allows no access to the web (external_web_access)")
        page = page or await self._fetched(url)
        if not domains.allow(page.url):
            raise NoPage(f"it leads to '{host_of(page.url)}', whose pages may not be opened here")
        return page

    async def _fetched(self, url: str) -> Page:
        try:
            got = await self._fetch.get(url, param="url", bytes_max=self._settings.page_bytes_max, accept=ACCEPT)
            title, text = await self._reader.page(got.body, is_html=got.media_type in HTML)
        except ApiError as error:
            raise NoPage(error.message.rstrip(".")) from None
        except Unreadable as reason:
            raise NoPage(str(reason)) from None
        page = Page(got.url, title or got.url, text)
        self._keep(url, page)
        return page

    def _known(self, url: str) -> Page | None:
        until, page = self._kept.get(url, (0.0, None))
        return page if self._clock() < until else None

    def _keep(self, url: str, page: Page) -> None:
        _, old = self._kept.pop(url, (0.0, None))
        self._kept_bytes += _size(page) - (_size(old) if old else 0)
        self._kept[url] = (self._clock() + self._settings.cache_s, page)
        while self._kept_bytes > self._settings.cache_bytes_max:
            _, (_, oldest) = self._kept.popitem(last=False)
            self._kept_bytes -= _size(oldest)


def _size(page: Page) -> int:
    """At most so many bytes in memory, without what Python adds."""
    return 4 * (len(page.text) + len(page.title) + len(page.url))


def parts(text: str, chars: int) -> list[str]:
    """The text in parts of about that length, each ending where a paragraph, a line or a word does if it can."""
    found: list[str] = []
    start = 0
    while len(text) - start > chars:
        piece = text[start : start + chars]
        end = next((at for mark in ("\n\n", "\n", " ") if (at := piece.rfind(mark)) > chars // 2), chars)
        found.append(text[start : start + end])
        start += end
    return [*found, text[start:]]


def matches(text: str, pattern: str) -> Iterator[str]:
    """Where the words stand, in any case and with any space between them, with what stands around."""
    wanted = r"\s+".join(map(re.escape, pattern[:PATTERN_CHARS_MAX].split()))
    end = 0
    for count, match in enumerate(re.finditer(wanted, text, re.IGNORECASE)):
        if count >= MATCHES_MAX:
            return
        if match.start() < end:
            continue  # it was told with the one before
        start, end = max(0, match.start() - AROUND_CHARS), match.end() + AROUND_CHARS
        yield " ".join(text[start:end].split())
