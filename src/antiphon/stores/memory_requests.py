"""MemoryRequests: requests of the verified fake, in one dictionary. Knows no file, and keeps nothing."""

from antiphon.core.requests import Mark


class MemoryRequests:
    """Implements the port Requests."""

    def __init__(self) -> None:
        self._marks: dict[tuple[str, str], Mark] = {}

    async def mark(self, project: str, key: str, mark: Mark, *, expired_at: int) -> Mark:
        self._marks = {place: one for place, one in self._marks.items() if one.created_at > expired_at}
        return self._marks.setdefault((project, key), mark)

    async def unmark(self, project: str, key: str, response_id: str) -> None:
        mark = self._marks.get((project, key))
        if mark is not None and mark.response_id == response_id:
            del self._marks[project, key]
