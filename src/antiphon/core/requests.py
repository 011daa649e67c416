"""The port Requests: which response a request with an Idempotency-Key made. Knows no HTTP."""

from typing import Protocol

from msgspec import Struct


class Mark(Struct, frozen=True, kw_only=True):
    """`digest` tells the request's body from others; `created_at` is in Unix seconds."""

    digest: bytes
    response_id: str
    created_at: int


class Requests(Protocol):
    async def mark(self, project: str, key: str, mark: Mark, *, expired_at: int) -> Mark:
        """The mark that stands under the key: an earlier one, if there is one that was made after `expired_at`, else
        this one. Those that have expired are dropped."""
        ...

    async def unmark(self, project: str, key: str, response_id: str) -> None:
        """Nothing happens when another one stands there."""
        ...
