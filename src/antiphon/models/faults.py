"""What vendors answer when they do not answer, in our words. Knows nothing of connections."""

import re

import msgspec
from msgspec import Struct

from antiphon.errors import ApiError, ContextLengthExceeded, InvalidRequest, ModelError, ModelOverloaded

SHOWN_CHARS_MAX = 300
"""Of what a server said, in a message."""


class Fault(Struct, frozen=True, kw_only=True):
    """A vendor's error, whatever form it came in. Strings are empty where the vendor said nothing."""

    status: int
    message: str
    code: str = ""
    type: str = ""
    param: str = ""


def read_fault(status: int, body: bytes) -> Fault:
    """Reads OpenAI's envelope, vLLM's `{"object":"error",…}`, FastAPI's `{"detail":…}`, a bare string, a list of one.

    A `status` below 400 says that the answer had begun well: then a vendor's numeric code is the status.
    """
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return Fault(status=status, message=excerpt(body))
    if isinstance(said, list) and said:
        said = said[0]
    outer = said if isinstance(said, dict) else {}
    inner = outer.get("error")
    fields = inner if isinstance(inner, dict) else outer
    code, kind, param = (fields.get(name) for name in ("code", "type", "param"))
    return Fault(
        status=_status(status, code),
        message=_words(said)[:SHOWN_CHARS_MAX] or excerpt(body),
        code=code if isinstance(code, str) else "",
        type=kind if isinstance(kind, str) else "",
        param=param if isinstance(param, str) else "",
    )


def _status(status: int, code: object) -> int:
    if status >= 400:
        return status
    return code if isinstance(code, int) and 400 <= code < 600 else 500


def _words(said: object) -> str:
    """The text in whatever a vendor put where its message belongs."""
    if isinstance(said, str):
        return said
    if isinstance(said, list):
        return "; ".join(_words(one) for one in said[:3])
    if isinstance(said, dict):
        found = next((said[name] for name in ("message", "detail", "msg", "error") if said.get(name)), "")
        where = said.get("loc")  # FastAPI names the place apart from the fault
        return f"{'.'.join(map(str, where))}: {_words(found)}" if isinstance(where, list) else _words(found)
    return ""


_OVERFLOW_MARKS = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_OVERFLOW = re.compile(
    # OpenAI, vLLM, DeepSeek, OpenRouter, Mistral · vLLM · SGLang, llama.cpp, LM Studio, Ollama, Bedrock
    r"maximum context length|maximum model length"
    r"|(exceed|longer|larger|greater|too long|overflow|fit)\w*\b.{0,60}\bcontext\b"
    r"|context.{0,25}(exceed|overflow|is only)"
    # Anthropic · Bedrock · Gemini · xAI · Groq · TGI · Kimi · older vLLM, whose room left is negative
    r"|prompt is too long|input is too long|input token count.{0,40}exceeds|maximum prompt length"
    r"|reduce the length of|must have less than \d+ tokens|exceeded model token limit"
    r"|max_tokens must be at least 1, got -",
    re.IGNORECASE | re.DOTALL,
)
_OVERLOAD_MARKS = frozenset({"rate_limit_exceeded", "overloaded_error", "rate_limit_error", "insufficient_quota"})
_PARAMS = {
    "messages": "input",
    "image_url": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "json_schema": "text.format",
    "logprobs": "include",
} | {
    name: name
    for name in (
        *("model", "stop", "tools", "tool_choice", "parallel_tool_calls", "user", "service_tier", "top_logprobs"),
        *("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "seed", "logit_bias"),
        *("input", "instructions", "text", "reasoning", "include", "max_output_tokens"),
    )
}
"""A vendor's parameters, as our clients know them."""
_NAMED = re.compile(
    r"(?:(?<=['\"`])|(?<=\bbody\.))(?:{})(?=[:.\['\"`])|\b(?:{})\b".format(
        "|".join(_PARAMS), "|".join(name for name in _PARAMS if "_" in name or name == "logprobs")
    )
)
"""A parameter in a sentence, for vendors that have no other place for it. Some are common words unless marked."""


_TOLD: dict[int, tuple[type[ApiError], str]] = {
    401: (ModelError, "refused the key that this server has for it"),
    403: (ModelError, "refused the key that this server has for it"),
    413: (InvalidRequest, "takes no request of this size"),
    429: (ModelOverloaded, "is overloaded or limits the rate of this server"),
    529: (ModelOverloaded, "is overloaded or limits the rate of this server"),
}


def refusal(fault: Fault) -> ApiError:
    """What our client is told."""
    marks = {fault.code, fault.type}
    status = 429 if marks & _OVERLOAD_MARKS else fault.status
    may_overflow = status in (400, 413, 422, 500)
    if marks & _OVERFLOW_MARKS or (may_overflow and _OVERFLOW.search(fault.message)):
        return ContextLengthExceeded(f"{ContextLengthExceeded.__doc__} (The model server said: {fault.message})")
    param = _param(fault)
    if status in (400, 422) or (status == 501 and param):  # so vLLM calls a tool_choice that it does not do
        return InvalidRequest(fault.message, param=param, code=fault.code or None)
    kind, what = _TOLD.get(status, (ModelError, "failed"))
    if status == 404:
        names_model = "model" in fault.message.lower()
        what = "does not know the model" if names_model else "has no such path (does its url end with its /v1?)"
    return kind(f"The model server {what} (HTTP {fault.status}): {fault.message}")


def _param(fault: Fault) -> str | None:
    """Ours that the vendor's complaint is about. Of what is ours already, the whole path is told."""
    head, *rest = re.split(r"[.\[]", fault.param, maxsplit=1)
    if head in ("text", "reasoning") and rest:
        return fault.param
    if named := _PARAMS.get(head):
        return named
    found = _NAMED.search(fault.message)
    return _PARAMS[found[0]] if found else None


def excerpt(data: bytes) -> str:
    """The beginning of what a server said, fit for a message."""
    if data.lstrip().startswith(b"<"):
        return "a web page"
    return data[:SHOWN_CHARS_MAX].decode(errors="replace").strip() or "no message"
