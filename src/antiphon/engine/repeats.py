"""Repeats: requests that come again under their Idempotency-Key, and must not be carried out again. Knows no HTTP."""

from typing import Final

from antiphon.core.ids import Clock
from antiphon.core.requests import Mark, Requests
from antiphon.errors import InvalidRequest, RequestUnderWay

KEPT_S: Final = 24 * 3600
UNDER_WAY_S: Final = 600
"""How long a response that is not stored may be under way somewhere: as long as clients wait."""


class Repeats:
    def __init__(self, requests: Requests, clock: Clock) -> None:
        self._requests = requests
        self._clock = clock

    async def first(self, project: str, key: str, digest: bytes, response_id: str) -> Mark | None:
        """None: nobody has come with this key, and `response_id` is the response to make. Otherwise, what the earlier
        request made. Raises InvalidRequest when that was another one."""
        now = self._clock()
        mark = Mark(digest=digest, response_id=response_id, created_at=now)
        found = await self._requests.mark(project, key, mark, expired_at=now - KEPT_S)
        if found.response_id == response_id:
            return None
        if found.digest != digest:
            raise InvalidRequest(
                "This Idempotency-Key was used for another request. Use a new one.", code="idempotency_key_reused"
            )
        return found

    async def gone(self, project: str, key: str, found: Mark) -> None:
        """What the earlier request made is not stored. Raises RequestUnderWay, as long as it may still be made."""
        if self._clock() - found.created_at < UNDER_WAY_S:
            raise RequestUnderWay
        await self.forget(project, key, found.response_id)

    async def forget(self, project: str, key: str, response_id: str) -> None:
        """It made nothing: whoever comes again with the key is the first."""
        await self._requests.unmark(project, key, response_id)
