"""Unwrapping: the one text in `{"input": "…"}`, as the document comes. Pure; knows nothing of tools.

A custom tool takes any text, but models know only functions, whose arguments are JSON.
"""

import json
import re
from typing import Literal

_HEAD = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_MAY_BE_HEAD = re.compile(r'\s*(\{\s*("(i(n(p(u(t("\s*(:\s*)?)?)?)?)?)?)?)?)?')
_BODY = re.compile(r'(?:[^"\\]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*')
_HALF_A_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2})\Z")
HEAD_CHARS_MAX = 256


class InputReader:
    """Feed it pieces of the document. What is no such document is taken for the text itself: weak models forget the
    wrapping, and what they wrote must not be lost."""

    def __init__(self) -> None:
        self._held = ""
        self._state: Literal["before", "inside", "after", "bare"] = "before"

    def feed(self, piece: str) -> str:
        """What of the text has become known."""
        if self._state == "bare":
            return piece
        if self._state == "after":
            return ""
        self._held += piece
        if self._state == "before":
            if head := _HEAD.match(self._held):
                self._state, self._held = "inside", self._held[head.end() :]
            elif _MAY_BE_HEAD.fullmatch(self._held) and len(self._held) < HEAD_CHARS_MAX:
                return ""
            else:
                self._state = "bare"
                return self._take(len(self._held))
        return self._read_body()

    def end(self) -> str:
        """The rest, when no more comes."""
        return "" if self._state != "before" or self._held.strip() in {"", "{}"} else self._take(len(self._held))

    def _read_body(self) -> str:
        """Up to the closing quote, or to an escape that may be cut in two."""
        match = _BODY.match(self._held)
        assert match is not None
        is_closed = self._held.startswith('"', match.end())
        half = None if is_closed else _HALF_A_PAIR.search(match[0])
        text = _unescaped(self._take(half.start(2) if half else match.end()))
        if is_closed:
            self._state = "after"
        return text

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        return taken


def unwrapped(document: str) -> str:
    reader = InputReader()
    return reader.feed(document) + reader.end()


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    decoded: str = json.loads(f'"{text}"', strict=False)
    return decoded.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # half a pair is no character
