"""The bytes of a chat-completions answer, as inference servers send them; decides nothing about when they go out."""

from bench.fakemodel import token

_START = (
    b'{"id":"chatcmpl-fake0123456789","object":"chat.completion.chunk","created":1750000000,"model":"fake","choices":['
)
_PROMPT_TOKENS = 12


def _framed(data: bytes) -> bytes:
    """One server-sent event in one HTTP chunk."""
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def _choice(delta: bytes, finish_reason: bytes) -> bytes:
    return _framed(b'%b{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]}' % (_START, delta, finish_reason))


_BEFORE_TOKEN, _AFTER_TOKEN = _choice(b'{"content":"%b"}' % token(0), b"null").split(token(0))
_LAST = _framed(b"[DONE]") + b"0\r\n\r\n"

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
    + _choice(b'{"role":"assistant","content":""}', b"null")
)


def content(at_us: int) -> bytes:
    """The chunk of one token."""
    return _BEFORE_TOKEN + token(at_us) + _AFTER_TOKEN


def _usage(tokens: int) -> bytes:
    total = tokens + _PROMPT_TOKENS
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (_PROMPT_TOKENS, tokens, total)


def tail(tokens: int, *, with_usage: bool) -> bytes:
    """All that follows the last token."""
    usage = _framed(_START + b'],"usage":%b}' % _usage(tokens)) if with_usage else b""
    return _choice(b"{}", b'"stop"') + usage + _LAST


def completion(tokens: int, at_us: int) -> bytes:
    """A whole answer as one JSON object."""
    text = b"".join(token(at_us + number) for number in range(tokens))
    message = b'{"role":"assistant","content":"%b","refusal":null}' % text
    choice = b'{"index":0,"message":%b,"logprobs":null,"finish_reason":"stop"}' % message
    start = _START.replace(b"chat.completion.chunk", b"chat.completion")
    return b'%b%b],"usage":%b}' % (start, choice, _usage(tokens))


def plain(status: bytes, body: bytes) -> bytes:
    """A JSON answer with its HTTP head."""
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


def missing(what: bytes) -> bytes:
    return plain(b"404 Not Found", b'{"error":{"message":"no such %b","type":"not_found_error"}}' % what)
