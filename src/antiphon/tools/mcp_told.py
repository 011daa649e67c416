"""What a model is told of MCP: the names of tools, and why calls failed. Pure."""

import hashlib
import re
from typing import Any

from msgspec import json

from antiphon.wire.items import McpExecutionError, McpHttpError, McpProtocolError

NAME_CHARS_MAX = 64
"""Of a function's name, with most models' servers."""
HASH_CHARS = 8
_ILLEGAL = re.compile(r"[^a-zA-Z0-9_-]")


def called_name(label: str, tool: str) -> str:
    """The one name by which a model knows a server's tool. One that cannot stay as it is ends in a hash of itself, so
    that no two are the same."""
    name = f"{label}__{tool}"
    told = _ILLEGAL.sub("_", name)
    if told == name and len(name) <= NAME_CHARS_MAX:
        return name
    mark = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_CHARS]
    return f"{told[: NAME_CHARS_MAX - HASH_CHARS - 1]}_{mark}"


def own_name(label: str, called: str) -> str:
    """The tool's own name, where it can be told from the one by which the model knows it; else that."""
    rest = called.removeprefix(f"{label}__")
    return rest if called_name(label, rest) == called else called


def failure_text(error: McpProtocolError | McpExecutionError | McpHttpError) -> str:
    match error:
        case McpExecutionError():
            return f"The tool failed: {_text(error.content)}"
        case McpHttpError():
            return f"The call failed: {error.message} (HTTP {error.code})"
        case _:
            return f"The call failed: {error.message} ({error.code})"


def _text(content: Any) -> str:
    """Text as it is, anything else as JSON."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = (part.get("text") if isinstance(part, dict) else None for part in parts)
    return "\n".join(
        text if isinstance(text, str) else json.encode(part).decode() for text, part in zip(texts, parts, strict=True)
    )
