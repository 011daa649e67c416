"""One answer as a client reads it: which tokens came when, and what is wrong with it; owns no connection."""

from bench.dialects import Dialect
from bench.fakemodel import STAMP, FakeModel, lag_us

EXCERPT_BYTES = 300


class Answer:
    """Reads one answer's body, in whatever pieces it comes."""

    def __init__(self, dialect: Dialect, model: FakeModel, *, stream: bool) -> None:
        self.first_token_us: int | None = None
        self.lags_us: list[int] = []
        self._dialect = dialect
        self._model = model
        self._stream = stream
        self._rest = b""
        self._stamps: list[bytes] = []
        self._last_event = b""
        self._end_event = b""

    @property
    def tokens(self) -> int:
        return len(self._stamps)

    def feed(self, data: bytes, at_us: int) -> None:
        self._rest += data
        if self._stream:
            *events, self._rest = self._rest.split(b"\n\n")
            for event in events:
                self._event(event, at_us)

    def _event(self, event: bytes, at_us: int) -> None:
        if self._dialect.token_mark in event:
            if self.first_token_us is None:
                self.first_token_us = at_us
            for stamp in STAMP.findall(event):
                self._stamps.append(stamp)
                self.lags_us.append(lag_us(stamp, at_us))
            return
        self._last_event = event
        if self._dialect.end_mark in event:
            self._end_event = event

    def problem(self, status: int) -> str | None:
        """What is wrong with the whole answer, if anything."""
        if status != 200:
            return f"status {status}: {_excerpt(self._rest or self._last_event)}"
        if not self._stream:
            self._stamps = STAMP.findall(self._rest)
        if len(self._stamps) != self._model.tokens:
            return f"{len(self._stamps)} tokens of {self._model.tokens}: {_excerpt(self._rest or self._last_event)}"
        return self._stream_problem() if self._stream else None

    def _stream_problem(self) -> str | None:
        if not self._end_event:
            return f"no {self._dialect.end_mark.decode()} at the end: {_excerpt(self._last_event)}"
        text = b"".join(b"T" + stamp for stamp in self._stamps)
        if self._dialect.end_repeats_text and text not in self._end_event:
            return "the final event's text is not what the deltas said"
        return None


def _excerpt(data: bytes) -> str:
    return data[:EXCERPT_BYTES].decode(errors="replace")
