"""A search engine of one's own: the HTML, Markdown and text files of a folder, in an FTS5 index in memory.

For places without internet, and for tests. The folder is the operator's, so its files are read here, by the standard
library. What changed in it is noticed when the next query comes.
"""

import asyncio
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from stat import S_ISREG
from threading import Lock
from typing import Any
from urllib.parse import quote

import apsw

from antiphon.config import WebSearch as Settings
from antiphon.tools.web_engines import Found, SearchFailed, Wish

KINDS = frozenset({".html", ".htm", ".md", ".markdown", ".txt"})
FILES_MAX = 20_000
FILE_BYTES_MAX = 2 * 1024 * 1024
"""What is larger is not read."""
LOOKED_AGAIN_S = 2.0
"""The folder is not walked more often."""
WORDS_MAX = 32
SNIPPET_WORDS = 64
"""The most that FTS5 gives."""

SCHEMA = "CREATE VIRTUAL TABLE pages USING fts5(title, text, url UNINDEXED, tokenize='unicode61 remove_diacritics 2')"
FIND = """
SELECT url, title, snippet(pages, 1, '', '', ' … ', ?) FROM pages
WHERE pages MATCH ? ORDER BY bm25(pages, 4.0, 1.0) LIMIT ?
"""


class LocalIndex:
    """Port Search."""

    is_offline = True
    name = "the local index"

    def __init__(self, settings: Settings) -> None:
        self._folder = Path(settings.folder).expanduser()
        self._base = settings.url
        self._db = apsw.Connection(":memory:")
        self._db.execute(SCHEMA)
        self._seen: dict[Path, tuple[int, int, int]] = {}
        """By file: its row, when it was changed, and its size."""
        self._looked = float("-inf")
        self._lock = Lock()

    async def find(self, query: str, wish: Wish) -> Sequence[Found]:
        return await asyncio.to_thread(self._find, query, wish)

    async def page(self, url: str) -> tuple[str, str] | None:
        return await asyncio.to_thread(self._page, url)

    async def close(self) -> None:
        self._db.close()

    # -- in a thread

    def _find(self, query: str, wish: Wish) -> Sequence[Found]:
        words = re.findall(r"\w+", query)[:WORDS_MAX]
        asked = " OR ".join(f'"{word}"' for word in words)
        most = -1 if wish.allowed or wish.blocked else wish.results_max  # else they are sifted later
        rows = self._rows(FIND, SNIPPET_WORDS, asked, most) if words else []
        return [Found(url=url, title=title, snippet=snippet) for url, title, snippet in rows]

    def _page(self, url: str) -> tuple[str, str] | None:
        rows = self._rows("SELECT title, text FROM pages WHERE url = ?", url)
        return rows[0] if rows else None

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._lock:
            self._look()
            return list(self._db.execute(query, values))

    def _look(self) -> None:
        if time.monotonic() - self._looked < LOOKED_AGAIN_S:
            return
        if not self._folder.is_dir():
            raise SearchFailed("the folder of the local index is not there")
        found, seen = dict(self._files()), self._seen.copy()
        with self._db:
            for path in seen.keys() - found.keys():
                self._db.execute("DELETE FROM pages WHERE rowid = ?", (seen.pop(path)[0],))
            for path, (changed, size) in found.items():
                row, *known = seen.get(path, (0, 0, 0))
                if known != [changed, size]:
                    with suppress(OSError):  # gone meanwhile, or not for this server to read
                        seen[path] = (self._read(path, row), changed, size)
        self._seen = seen
        self._looked = time.monotonic()

    def _files(self) -> Iterator[tuple[Path, tuple[int, int]]]:
        count = 0
        for path in self._folder.rglob("*"):
            if path.suffix.lower() not in KINDS:
                continue
            try:
                stat = path.lstat()
            except OSError:
                continue  # gone meanwhile, or not for this server to see
            if S_ISREG(stat.st_mode) and stat.st_size <= FILE_BYTES_MAX:
                count += 1
                if count > FILES_MAX:
                    return
                yield path, (stat.st_mtime_ns, stat.st_size)

    def _read(self, path: Path, row: int) -> int:
        """The row in which the file stands now."""
        text = path.read_text(encoding="utf-8", errors="replace")
        title, text = of_html(text) if path.suffix.lower() in (".html", ".htm") else (_first_line(text), text)
        self._db.execute("DELETE FROM pages WHERE rowid = ?", (row,))
        values = (title or _legible(path.stem), text, self._address(path))
        self._db.execute("INSERT INTO pages (title, text, url) VALUES (?, ?, ?)", values)
        return self._db.last_insert_rowid()

    def _address(self, path: Path) -> str:
        name = path.relative_to(self._folder).as_posix()
        return f"{self._base.rstrip('/')}/{quote(os.fsencode(name))}" if self._base else _legible(name)


def _legible(name: str) -> str:
    """A name may hold bytes that are no text."""
    return name.encode("utf-8", "replace").decode()


def _first_line(text: str) -> str:
    return next((line.strip("# \t") for line in text.splitlines() if line.strip("# \t")), "")


def of_html(text: str) -> tuple[str, str]:
    """Title and text of a page."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.pieces).splitlines())
    return " ".join("".join(reader.title).split()), "\n".join(filter(None, lines))


class _Reader(HTMLParser):
    SKIPPED = frozenset({"script", "style", "template", "noscript", "svg"})
    INLINE = frozenset({"a", "abbr", "b", "code", "em", "i", "q", "s", "small", "span", "strong", "sub", "sup", "u"})

    def __init__(self) -> None:
        super().__init__()
        self.title: list[str] = []
        self.pieces: list[str] = []
        self._skips = 0
        self._is_title = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._skips += tag in self.SKIPPED
        self._is_title = tag == "title"
        if tag not in self.INLINE:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._skips = max(0, self._skips - (tag in self.SKIPPED))
        self._is_title = False
        if tag not in self.INLINE:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if self._is_title:
            self.title.append(data)
        elif not self._skips:
            self.pieces.append(data)
