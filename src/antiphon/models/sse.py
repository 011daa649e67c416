"""Server-sent events: bytes in any pieces to the payloads of events. Knows nothing of what payloads say."""

import msgspec

from antiphon.errors import ModelError

DONE = b"[DONE]"


class EventSplitter:
    """Cuts the bytes of an event stream into the `data:` payloads of its events. Pure; one per stream.

    Source: WHATWG HTML, section 9.2.6. Two liberties: an `error:` field, in which llama.cpp reported errors until late
    2025, becomes a payload `{"error": …}`, and an event at the very end needs no blank line when it is complete.
    """

    __slots__ = ("_bytes_max", "_ends_in_cr", "_held")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held = bytearray()
        self._ends_in_cr = False

    def feed(self, data: bytes) -> list[bytes]:
        if self._ends_in_cr or b"\r" in data:
            data = self._with_line_feeds(data)
        held = self._held
        if held:
            seen = len(held) - 1  # the blank line may lie across the border of two reads
            held += data
            if held.find(b"\n\n", seen) < 0:
                self._check_size()
                return []
            data = bytes(held)
            held.clear()
        events = data.split(b"\n\n")
        held += events.pop()
        self._check_size()
        return [
            payload
            for event in events
            # the first form is all that vendors commonly send
            if (payload := event[6:] if event.startswith(b"data: ") and b"\n" not in event else _payload(event))
        ]

    def end(self) -> list[bytes]:
        """The payload of a last event that no blank line ended, if it is whole."""
        payload = _payload(bytes(self._held))
        self._held.clear()
        return [payload] if payload == DONE or is_json(payload) else []

    def _with_line_feeds(self, data: bytes) -> bytes:
        if self._ends_in_cr and data.startswith(b"\n"):
            data = data[1:]
            self._ends_in_cr = False
        if data:
            self._ends_in_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _check_size(self) -> None:
        if len(self._held) > self._bytes_max:
            raise ModelError(f"The model server sent a line of more than {self._bytes_max} bytes.")


def _payload(event: bytes) -> bytes:
    """The data of an event of any form; empty when it has none (comments, other fields)."""
    data = []
    for line in event.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"error" and value:
            data.append(b'{"error":%b}' % value)
    return b"\n".join(data)


def is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
