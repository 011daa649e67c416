"""Contexts: those of the latest turns, in memory, so that the usual next turn reads no history. Knows no store."""

from typing import TypeAlias

from antiphon.core.context import Context

Key: TypeAlias = tuple[str, str] | tuple[str, str, int]
"""The project, and the id of the response whose context it is, or the id of the conversation and its version."""


class Contexts:
    """The least recently used go first, once there is more than `bytes_max` of them. Contexts are values: one that is
    found here can be out of date only in that its response was erased, which the store knows."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._kept: dict[Key, tuple[Context, int]] = {}
        """In the order of use."""
        self._bytes = 0

    def get(self, key: Key) -> Context | None:
        found = self._kept.pop(key, None)
        if found is None:
            return None
        self._kept[key] = found
        return found[0]

    def put(self, key: Key, context: Context, *, instead_of: Key | None = None) -> None:
        """`instead_of` is the one it grew from, whose items it holds too: kept beside it, they would count twice."""
        self.drop(key)
        if instead_of is not None:
            self.drop(instead_of)
        size = context.size + context.memo.size
        if size > self._bytes_max:
            return
        self._kept[key] = context, size
        self._bytes += size
        while self._bytes > self._bytes_max:
            self.drop(next(iter(self._kept)))

    def drop(self, key: Key) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._bytes -= found[1]
