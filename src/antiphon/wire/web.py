"""Calls of the hosted tool web_search: what was done, and what came of it. Data only.

Source: openai 3.54.0 types/responses/response_function_web_search.py; tests/recordings/openai-responses.
"""

from typing import Any, ClassVar, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType


class WebTagged(Struct, frozen=True, kw_only=True, tag_field="type"):
    """One of several forms, told apart by `type`."""


class WebSource(WebTagged, frozen=True, kw_only=True, tag="url"):
    url: str


class SearchWeb(WebTagged, frozen=True, kw_only=True, tag="search"):
    """`query` is the first of the `queries`, for older clients."""

    queries: tuple[str, ...] | UnsetType = UNSET
    query: str | UnsetType = UNSET
    sources: tuple[WebSource, ...] | UnsetType = UNSET


class OpenPage(WebTagged, frozen=True, kw_only=True, tag="open_page"):
    """`part`, this server's own, is there from the second part of a long page on."""

    url: str | UnsetType = UNSET
    part: int | UnsetType = UNSET


class FindInPage(WebTagged, frozen=True, kw_only=True, tag="find_in_page"):
    url: str
    pattern: str


WebAction: TypeAlias = SearchWeb | OpenPage | FindInPage


class WebResult(Struct, frozen=True, kw_only=True):
    """A page, and as much of it as the model was told. `mark` is how it may cite it; `date` is as the page has it."""

    url: str
    title: str
    text: str
    mark: str
    date: str | UnsetType = UNSET


class WebSearchCall(WebTagged, frozen=True, kw_only=True, tag="web_search_call"):
    """`results` and `note`, what else the model was told, are no more in the published types than what `include` may
    ask of them: their shape is this server's. Without `results` they are gone: a client has sent the item back."""

    id: str | UnsetType = UNSET
    status: Literal["in_progress", "searching", "completed", "incomplete", "failed"] | UnsetType = UNSET
    action: WebAction | UnsetType = UNSET
    results: tuple[WebResult, ...] | UnsetType = UNSET
    note: str | UnsetType = UNSET

    done_only: ClassVar[frozenset[str]] = frozenset({"action", "results", "note"})
    untold: ClassVar[frozenset[str]] = frozenset({"failed"})
    asked_for: ClassVar[dict[str, tuple[str, ...]]] = {
        "web_search_call.results": ("results", "note"),
        "web_search_call.action.sources": ("action.sources",),
    }

    @property
    def searches(self) -> int:
        """How many searches were put to a search engine."""
        action: Any = self.action
        return len(action.queries or ()) if isinstance(action, SearchWeb) and self.status == "completed" else 0
