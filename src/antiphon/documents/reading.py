"""The text that is being read out of a document, and the bounds it is read within. Knows no kind of document."""

from typing import NamedTuple


class Refused(Exception):
    """Why a document is not read, in words for a client that follow a colon."""


class Bounds(NamedTuple):
    """The meaning and reason of each stand in `config.Documents`."""

    unpacked_bytes_max: int
    members_max: int
    pages_max: int
    cells_max: int
    chars_max: int


class Reading:
    """Text that grows, page by page. A document that is larger than a bound is refused, never cut short."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.title = ""
        self._pieces: list[str] = []
        self._chars = 0
        self._cells = 0
        self._has_words = False

    def page(self, heading: str) -> None:
        """Begins a page, sheet or slide: its heading is what a model can cite."""
        between = "" if not self._pieces else "\n" if self._pieces[-1].endswith("\n") else "\n\n"
        self._grow(f"{between}[{heading}]\n")

    def add(self, text: str) -> None:
        if text:
            self._has_words = self._has_words or not text.isspace()
            self._grow(text)

    def count_pages(self, pages: int) -> None:
        self._check(pages, self.bounds.pages_max, "pages, sheets or slides", "pages_max")

    def count_cells(self, cells: int) -> None:
        self._cells += cells
        self._check(self._cells, self.bounds.cells_max, "cells", "cells_max")

    def text(self) -> str:
        if not self._has_words:
            raise Refused("there is no text in it: if it holds scanned pages, send them as images")
        return "".join(self._pieces)

    def _grow(self, text: str) -> None:
        self._chars += len(text)
        self._check(self._chars, self.bounds.chars_max, "characters of text", "chars_max")
        self._pieces.append(text)

    def _check(self, value: int, most: int, noun: str, name: str) -> None:
        if value > most:
            raise Refused(f"it has more than {most} {noun} (documents.{name})")
