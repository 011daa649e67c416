"""The APIs that are measured: how each is asked, and how its streams show a token and their proper end."""

from collections.abc import Callable

import msgspec
from msgspec import Struct

Body = dict[str, object]


def _responses_body(model: str, text: str) -> Body:
    return {"model": model, "input": text, "store": True}


def _chat_body(model: str, text: str) -> Body:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


class Dialect(Struct, frozen=True):
    path: str
    body: Callable[[str, str], Body]
    stream_fields: Body
    token_mark: bytes
    end_mark: bytes
    end_repeats_text: bool

    def request(self, port: int, model: str, text: str, *, stream: bool) -> bytes:
        """The whole HTTP request."""
        stream_fields = self.stream_fields if stream else {}
        body = msgspec.json.encode(self.body(model, text) | stream_fields)
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer bench\r\n"
            f"Content-Type: application/json\r\nAccept: */*\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def _responses(path: str) -> Dialect:
    return Dialect(
        path=path,
        body=_responses_body,
        stream_fields={"stream": True},
        token_mark=b"response.output_text.delta",
        end_mark=b"response.completed",
        end_repeats_text=True,
    )


RESPONSES, OPEN_RESPONSES = "responses", "openresponses"
DIALECTS = {
    RESPONSES: _responses("/v1/responses"),
    OPEN_RESPONSES: _responses("/openresponses/v1/responses"),
    "chat": Dialect(
        path="/v1/chat/completions",
        body=_chat_body,
        stream_fields={"stream": True, "stream_options": {"include_usage": True}},
        token_mark=b'"content":"T',
        end_mark=b"[DONE]",
        end_repeats_text=False,
    ),
}
