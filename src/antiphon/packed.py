"""Packed: a body that stays as it is, plain and compressed, and sent as its reader takes it. Knows no path."""

import gzip
import hashlib
import re
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from starlette.datastructures import Headers

Lines: TypeAlias = Sequence[tuple[bytes, bytes]]

NOT_AT_ALL: Final = re.compile(r"\s*q=0(\.0*)?\s*")


class Packed(NamedTuple):
    plain: bytes
    gzipped: bytes
    tag: str
    """Weak, since one stands for both."""

    @classmethod
    def of(cls, plain: bytes) -> "Packed":
        return cls(plain, gzip.compress(plain, mtime=0), f'W/"{hashlib.sha256(plain).hexdigest()[:32]}"')

    def answer(self, asked: Headers) -> tuple[int, Lines, bytes]:
        """The status, the headers that it takes, and the body: none for who has it already."""
        lines = [(b"vary", b"accept-encoding"), (b"etag", self.tag.encode())]
        known = [one.strip().removeprefix("W/") for one in asked.get("if-none-match", "").split(",")]
        if self.tag.removeprefix("W/") in known or "*" in known:
            return 304, lines, b""
        body = self.plain
        if _takes_gzip(asked.get("accept-encoding", "")):
            body = self.gzipped
            lines.append((b"content-encoding", b"gzip"))
        return 200, [*lines, (b"content-length", b"%d" % len(body))], body


def _takes_gzip(accepted: str) -> bool:
    weights = {name.strip(): weight for name, _, weight in (one.partition(";") for one in accepted.lower().split(","))}
    return "gzip" in weights and not NOT_AT_ALL.fullmatch(weights["gzip"])
