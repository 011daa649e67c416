"""Search engines and the local index. The engines are played on 127.0.0.1: SearXNG in the shapes of a real one, Brave
and Tavily, which were never asked live, in those that they document."""

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from antiphon.config import Fetch, WebSearch
from antiphon.net.fetch import Fetcher
from antiphon.tools import web_local
from antiphon.tools.web_engines import Brave, Engine, Found, SearchFailed, Searxng, Tavily, Wish, fault
from antiphon.tools.web_local import LocalIndex
from antiphon.tools.web_pages import Domains, Pages, host_of, matches, parts
from antiphon.tools.web_search import WebSearchTool
from antiphon.wire.tools import WebSearchTool as Declaration
from tests.conftest import WAIT_S
from tests.rawserver import RawServer, answers, hangs_up
from tests.websites import article, engine, website

ALL = Wish(results_max=10)
SEARXNG: dict[str, Any] = {
    "query": "rate",
    "results": [
        {"url": "https://a.example/1", "title": "One", "content": "first", "publishedDate": "2026-01-02T00:00:00",
         "pubdate": "2026-01-02 00:00:00", "engines": ["x"], "positions": [1], "score": 1.5, "length": None},
        {"url": None, "parsed_url": None, "title": "", "content": "", "publishedDate": None, "kvmap": {"rate": 3},
         "template": "keyvalue.html"},
        {"url": "https://b.example/2", "title": "Two", "content": None, "publishedDate": None},
    ],
    "answers": [{"url": None, "answer": "4", "template": "answer/legacy.html"}],
    "corrections": [],
    "infoboxes": [],
    "suggestions": ["rates"],
    "unresponsive_engines": [["y", "timeout"]],
}  # fmt: skip
BRAVE = {
    "type": "search",
    "query": {"original": "rate", "country": "de"},
    "web": {
        "type": "search",
        "results": [
            {"url": "https://a.example/1", "title": "One", "description": "first", "page_age": "2026-01-02T00:00:00",
             "age": "January 2, 2026", "extra_snippets": ["more"], "family_friendly": True},
            {"url": "https://b.example/2", "title": "Two", "description": "second"},
        ],
    },
}  # fmt: skip
TAVILY = {
    "query": "rate",
    "answer": None,
    "images": [],
    "results": [
        {"title": "One", "url": "https://a.example/1", "content": "first", "score": 0.9, "raw_content": None,
         "published_date": "2026-01-02"},
        {"title": "Two", "url": "https://b.example/2", "content": "second", "score": 0.5},
    ],
    "response_time": 0.7,
}  # fmt: skip


def searxng(server: RawServer) -> Engine:
    return Searxng(WebSearch(backend="searxng", url=f"http://127.0.0.1:{server.port}/base/"))


def brave(server: RawServer) -> Engine:
    return Brave(WebSearch(backend="brave", key="the-key", url=f"http://127.0.0.1:{server.port}/res/v1"))


def tavily(server: RawServer) -> Engine:
    return Tavily(WebSearch(backend="tavily", key="the-key", url=f"http://127.0.0.1:{server.port}"))


ENGINES: dict[str, tuple[Any, str, Any]] = {
    "searxng": (searxng, "/base/search", SEARXNG),
    "brave": (brave, "/res/v1/web/search", BRAVE),
    "tavily": (tavily, "/search", TAVILY),
}
each_engine = pytest.mark.parametrize("name", ENGINES)


async def found(made: Any, query: str = "rate", wish: Wish = ALL) -> list[Found]:
    try:
        return list(await made.find(query, wish))
    finally:
        await made.close()


@each_engine
async def test_an_engines_answer_is_read(name: str) -> None:
    make, path, answer = ENGINES[name]
    async with engine(path, answer) as server:
        one, two = await found(make(server))

    assert (one.url, one.title, one.date[:10]) == ("https://a.example/1", "One", "2026-01-02")
    assert one.snippet.startswith("first")
    assert (two.url, two.title, two.date) == ("https://b.example/2", "Two", "")


async def test_searxng_is_asked_for_json_with_operators_for_domains() -> None:
    async with engine("/base/search", SEARXNG) as server:
        await found(searxng(server), "ä & b", Wish(results_max=5, allowed=("a.example", "b.example"), blocked=("c",)))
        asked = parse_qs(urlsplit(server.asked[0].path).query)

    assert asked == {"q": ["ä & b (site:a.example OR site:b.example) -site:c"], "format": ["json"]}


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("!!g rate", "g rate"),
        ("rate !images :de <3", "rate images de 3"),
        ("!<:x", "x"),
        ("a:b c! x<y 'q !", "a:b c! x<y 'q !"),
        ("!!", "!"),
    ],
)
async def test_searxng_is_given_no_orders_in_a_query(query: str, asked: str) -> None:
    async with engine("/base/search", SEARXNG) as server:
        await found(searxng(server), query)
        assert parse_qs(urlsplit(server.asked[0].path).query)["q"] == [asked]


async def test_what_an_encyclopedia_has_comes_first_in_searxng() -> None:
    boxes = [
        {"infobox": "Rate", "id": "https://wiki.example/Rate", "content": "A ratio.", "url": None, "title": ""},
        {"infobox": "Bare", "id": "https://wiki.example/Bare", "content": [], "url": None},
        {"infobox": "Nowhere", "content": "x", "url": None},
    ]
    async with engine("/base/search", SEARXNG | {"infoboxes": boxes}) as server:
        rate, bare, *others = await found(searxng(server))

    assert rate == Found(url="https://wiki.example/Rate", title="Rate", snippet="A ratio.")
    assert (bare.title, bare.snippet) == ("Bare", "")
    assert [one.title for one in others] == ["One", "Two"]


async def test_that_searxng_found_nothing_is_a_failure_only_where_engines_of_its_failed() -> None:
    nothing = SEARXNG | {"results": []}
    async with engine("/base/search", nothing) as failing, engine("/base/search", {"results": []}) as fine:
        with pytest.raises(SearchFailed, match=r"some of its engines failed \(y: timeout\)"):
            await found(searxng(failing))
        assert await found(searxng(fine)) == []


async def test_brave_is_asked_with_its_key_for_a_country_and_a_number() -> None:
    async with engine("/res/v1/web/search", BRAVE) as server:
        await found(brave(server), wish=Wish(results_max=5, country="de"))
        [asked] = server.asked

    assert asked.headers["x-subscription-token"] == "the-key"
    assert parse_qs(urlsplit(asked.path).query) == {
        "q": ["rate"], "count": ["5"], "country": ["DE"], "text_decorations": ["false"],
    }  # fmt: skip


async def test_tavily_is_asked_with_its_key_and_the_domains() -> None:
    async with engine("/search", TAVILY) as server:
        await found(tavily(server), wish=Wish(results_max=5, allowed=("a.example",), blocked=("b.example",)))
        [asked] = server.asked

    assert (asked.method, asked.headers["authorization"]) == ("POST", "Bearer the-key")
    assert msgspec.json.decode(asked.body) == {
        "query": "rate", "max_results": 5, "include_domains": ["a.example"], "exclude_domains": ["b.example"],
    }  # fmt: skip


@each_engine
@pytest.mark.parametrize(
    ("script", "why"),
    [
        (answers(b"<html>", status=403), "refuses this server"),
        (answers(b"Too Many Requests", status=429), "refuses this server"),
        (answers(b"{}", status=500), "status 500"),
        (answers(b"<html>"), "something else than results"),
        (answers(b'{"web": 5, "results": 5}'), "something else than results"),
        (hangs_up, "broke off"),
    ],
)
async def test_what_an_engine_cannot_do_is_told_without_its_key_or_address(name: str, script: Any, why: str) -> None:
    async with RawServer(script) as server:
        with pytest.raises(SearchFailed) as failed:
            await found(ENGINES[name][0](server))

    assert why in str(failed.value)
    assert "the-key" not in str(failed.value)
    assert "127.0.0.1" not in str(failed.value)


async def test_an_engine_that_is_silent_is_given_up() -> None:
    async def silent(wire: Any) -> None:
        await wire.wait_gone()

    async with RawServer(silent) as server:
        settings = WebSearch(backend="searxng", url=f"http://127.0.0.1:{server.port}", timeout_s=0.05)
        with pytest.raises(SearchFailed, match=r"did not answer within 0\.05 s"):
            await found(Searxng(settings))
        await asyncio.wait_for(asyncio.gather(*server._tasks), WAIT_S)  # nobody waits for it any more


async def test_an_answer_without_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("antiphon.tools.web_engines.ANSWER_BYTES_MAX", 100)
    async with RawServer(answers(b" " * 1000)) as server:
        with pytest.raises(SearchFailed, match="too long"):
            await found(searxng(server))


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        (WebSearch(), "backend"),
        (WebSearch(backend="searxng"), "url"),
        (WebSearch(backend="brave"), "key_env"),
        (WebSearch(backend="tavily"), "key_env"),
        (WebSearch(backend="local"), "folder"),
        (WebSearch(backend="brave", key="k"), ""),
    ],
)
async def test_what_is_missing_in_the_settings_is_named(settings: WebSearch, missing: str) -> None:
    assert (missing in fault(settings)) if missing else fault(settings) == ""


# -- the tool around an engine


def tool(settings: WebSearch) -> tuple[WebSearchTool, Fetcher]:
    fetcher = Fetcher(Fetch(), 1)
    return WebSearchTool(settings, fetcher), fetcher


async def checked(settings: WebSearch) -> Any:
    made, fetcher = tool(settings)
    try:
        return await made.check()
    finally:
        await made.close()
        await fetcher.close()


async def test_doctor_asks_the_engine(tmp_path: Path) -> None:
    async with engine("/search", SEARXNG) as server, engine("/search", {}, status=403) as closed:
        fine = await checked(WebSearch(backend="searxng", url=f"http://127.0.0.1:{server.port}"))
        shut = await checked(WebSearch(backend="searxng", url=f"http://127.0.0.1:{closed.port}"))

    assert (fine.ok, shut.ok) == (True, False)
    assert "found 2" in fine.detail
    assert "json" in shut.detail
    assert await checked(WebSearch()) is None
    assert not (await checked(WebSearch(backend="brave"))).ok
    assert not (await checked(WebSearch(backend="local", folder=str(tmp_path / "none")))).ok
    assert (await checked(WebSearch(backend="local", folder=str(tmp_path)))).ok


async def test_what_two_queries_found_is_told_once_the_best_of_each_first() -> None:
    async def script(wire: Any) -> None:
        [query] = parse_qs(urlsplit(wire.asked.path).query)["q"]
        urls = {"a": ["https://x.example/", "https://y.example/"], "b": ["https://z.example/", "https://x.example/"]}
        results = [{"url": url, "title": f"{url} of {query}"} for url in [*urls[query], "javascript:alert(1)"]]
        await answers(msgspec.json.encode({"results": results}))(wire)

    async with RawServer(script) as server:
        made, fetcher = tool(WebSearch(backend="searxng", url=f"http://127.0.0.1:{server.port}"))
        begun = made.begin("web_search", '{"query": "a", "queries": ["b"]}', Declaration())
        done = await made._done(begun, Declaration())
        await made.close()
        await fetcher.close()

    assert [result.title for result in done.results or ()] == [
        "https://x.example/ of a", "https://z.example/ of b", "https://y.example/ of a",
    ]  # fmt: skip


async def test_one_query_that_fails_does_not_take_the_others_along() -> None:
    async def script(wire: Any) -> None:
        is_bad = "q=bad" in wire.asked.path
        await answers(msgspec.json.encode(SEARXNG), status=500 if is_bad else 200)(wire)

    async with RawServer(script) as server:
        made, fetcher = tool(WebSearch(backend="searxng", url=f"http://127.0.0.1:{server.port}"))
        begun = made.begin("web_search", '{"query": "bad", "queries": ["good"]}', Declaration())
        done = await made._done(begun, Declaration())
        alone = made.begin("web_search", '{"query": "bad"}', Declaration())
        with pytest.raises(SearchFailed):
            await made._done(alone, Declaration())
        with pytest.raises(SearchFailed, match="external_web_access"):
            await made._done(begun, Declaration(external_web_access=False))
        await made.close()
        await fetcher.close()

    assert len(done.results or ()) == 2


# -- the local index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "rate.html").write_bytes(article("Über die Rate", "Der Leitzins beträgt 3 Prozent.", "<b>Fest</b>er."))
    (tmp_path / "sub/note (1).md").write_text("\n# A Note\n\nThe meeting is on Monday.\n", "utf-8")
    (tmp_path / "plain.txt").write_text("Nothing of note", "utf-8")
    (tmp_path / "picture.png").write_text("the meeting", "utf-8")
    return tmp_path


async def test_html_markdown_and_text_are_found_by_their_words(folder: Path) -> None:
    index = LocalIndex(WebSearch(backend="local", folder=str(folder), url="https://intern.example/wiki/"))

    [page] = await index.find("leitzins BETRAGT?", ALL)
    [note] = await index.find('"meeting" OR (monday', ALL)
    nothing = [await index.find(query, ALL) for query in ("elephant", "", "alert", "'; DROP TABLE pages --")]

    assert (page.url, page.title) == ("https://intern.example/wiki/rate.html", "Über die Rate")
    assert "Der Leitzins beträgt 3 Prozent." in page.snippet
    assert (note.url, note.title) == ("https://intern.example/wiki/sub/note%20%281%29.md", "A Note")
    assert nothing == [[]] * 4
    assert await index.page(note.url) == ("A Note", "\n# A Note\n\nThe meeting is on Monday.\n")
    assert await index.page("https://intern.example/wiki/picture.png") is None
    await index.close()


async def test_without_an_address_a_files_name_is_its_address(folder: Path) -> None:
    index = LocalIndex(WebSearch(backend="local", folder=str(folder)))

    assert {one.url for one in await index.find("note", ALL)} == {"sub/note (1).md", "plain.txt"}
    await index.close()


async def test_what_changes_in_the_folder_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_local, "LOOKED_AGAIN_S", 0.0)
    index = LocalIndex(WebSearch(backend="local", folder=str(folder)))
    before = [one.url for one in await index.find("monday elephant", ALL)]
    (folder / "plain.txt").write_text("An elephant", "utf-8")
    os.utime(folder / "plain.txt", ns=(1, 1))
    (folder / "sub/note (1).md").unlink()
    after = [one.url for one in await index.find("monday elephant", ALL)]

    assert (before, after) == (["sub/note (1).md"], ["plain.txt"])
    await index.close()


async def test_a_link_that_leads_out_of_the_folder_is_not_followed(folder: Path, tmp_path_factory: Any) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.txt"
    outside.write_text("a secret elephant", "utf-8")
    (folder / "link.txt").symlink_to(outside)
    index = LocalIndex(WebSearch(backend="local", folder=str(folder)))

    assert await index.find("elephant", ALL) == []
    await index.close()


@pytest.mark.parametrize(
    ("base", "url"), [("", "b?d.md"), ("https://intern.example", "https://intern.example/b%FFd.md")]
)
async def test_a_name_that_is_no_text_hides_nothing(folder: Path, base: str, url: str) -> None:
    (folder / os.fsdecode(b"b\xffd.md")).write_text("# An elephant", "utf-8")
    index = LocalIndex(WebSearch(backend="local", folder=str(folder), url=base))

    [found] = await index.find("elephant", ALL)
    assert found.url == url
    assert await index.page(url) == ("An elephant", "# An elephant")
    assert len(await index.find("monday", ALL)) == 1
    await index.close()


async def test_a_file_that_cannot_be_read_hides_no_other(folder: Path) -> None:
    class Hurried(LocalIndex):
        def _files(self) -> Iterator[tuple[Path, tuple[int, int]]]:
            yield from super()._files()
            yield folder / "gone.md", (1, 1)

    index = Hurried(WebSearch(backend="local", folder=str(folder)))

    assert [one.url for one in await index.find("monday", ALL)] == ["sub/note (1).md"]
    await index.close()


async def test_a_file_that_cannot_be_seen_hides_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a folder that may be listed, but not entered. A superuser enters any."""
    look = Path.stat

    def stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path.name == "plain.txt":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", stat)
    index = LocalIndex(WebSearch(backend="local", folder=str(folder)))

    assert [one.url for one in await index.find("note", ALL)] == ["sub/note (1).md"]
    await index.close()


# -- pages


@pytest.mark.parametrize(
    ("url", "domains", "is_allowed"),
    [
        ("https://a.example/x", Domains(), True),
        ("https://a.example/x", Domains(("a.example",)), True),
        ("https://A.EXAMPLE./x", Domains(("a.example",)), True),
        ("https://deep.a.example/x", Domains(("A.example",)), True),
        ("https://nota.example/x", Domains(("a.example",)), False),
        ("https://a.example.evil/x", Domains(("a.example",)), False),
        ("https://a.example@evil/x", Domains(("a.example",)), False),
        ("https://a.example/x", Domains((), ("a.example",)), False),
        ("https://deep.a.example/x", Domains(("a.example",), ("deep.a.example",)), False),
        ("https://b.example/x", Domains((), ("a.example",)), True),
        ("plain.txt", Domains(("a.example",)), False),
        ("http://[::1", Domains(("a.example",)), False),
    ],
)
async def test_a_domain_stands_for_those_below_it(url: str, domains: Domains, is_allowed: bool) -> None:
    assert domains.allow(url) is is_allowed


async def test_pages_are_kept_for_a_while_and_within_bounds(folder: Path) -> None:
    now = 0.0
    pages = {f"/{number}.txt": ("text/plain", b"x" * 1000) for number in range(3)}
    async with website(pages) as site:
        fetcher = Fetcher(Fetch(allow=(f"127.0.0.1:{site.port}",)), 1)
        opened = Pages(WebSearch(cache_bytes_max=9_000, cache_s=10.0), fetcher, lambda: now)
        index = LocalIndex(WebSearch(backend="local", folder=str(folder)))

        async def fetched(number: int) -> bool:
            count = len(site.asked)
            page = await opened.open(f"http://127.0.0.1:{site.port}/{number}.txt", Domains(), index, may_fetch=True)
            assert page.text == "x" * 1000
            return len(site.asked) > count

        seen = [await fetched(number) for number in (0, 0, 1, 0, 2, 0)]
        now = 11.0
        later = await fetched(2)
        await index.close()
        await fetcher.close()

    assert seen == [True, False, True, False, True, True]
    assert later


async def test_a_text_is_parted_where_a_paragraph_or_a_word_ends() -> None:
    text = "one two three.\n\nfour five six seven eight nine ten eleven\n\n" + "x" * 60
    cut = parts(text, 25)

    assert "".join(cut) == text
    assert cut[0] == "one two three."
    assert all(len(part) <= 25 for part in cut)
    assert parts("", 30) == [""]


async def test_matches_are_told_once_with_what_stands_around() -> None:
    text = "a needle\nhere. " + "word " * 100 + "Another NEEDLE  here, needle here."
    found = list(matches(text, "needle here"))

    assert len(found) == 2
    assert found[0].startswith("a needle here. word")
    assert found[1].endswith("Another NEEDLE here, needle here.")
    assert len(list(matches("n " * 100_000, "n"))) <= 20
    assert host_of("https://WWW.a.example:8443/x") == "www.a.example"
