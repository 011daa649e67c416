"""Recorded traffic, decoded. A recording is named by its path in tests/recordings, without the suffix."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml

Object: TypeAlias = dict[str, Any]

ROOT = Path(__file__).parent / "recordings"

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in Python alone, the largest recording takes seconds


def names(folder: str) -> list[str]:
    """All recordings under a folder, such as `openai-responses` or `openai-responses/errors`."""
    return sorted(path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / folder).rglob("*.yaml"))


def streams(folder: str) -> list[str]:
    """The recordings under a folder that were answered by a stream, which not every `…-stream` was."""
    return [name for name in names(folder) if "sse" in _recording(name)["response"]]


def events(name: str) -> Iterator[Object]:
    """The events of a stream, decoded afresh at each call: the caller may change them. `[DONE]` is none."""
    for line in _recording(name)["response"]["sse"]:
        if line.startswith("data:") and line.strip() != "data: [DONE]":
            yield json.loads(line.removeprefix("data:"))


def sse(name: str) -> bytes:
    """A stream's bytes as they were received."""
    return "".join(_recording(name)["response"]["sse"]).encode()


def status(name: str) -> int:
    return int(_recording(name)["response"]["status_code"])


def request_body(name: str) -> Object:
    """What was asked. Shared by all callers: read it, do not change it."""
    body: Object = _recording(name)["request"]["body"]
    return body


def response_body(name: str) -> Object:
    """The answer, where it was no stream. Shared by all callers: read it, do not change it."""
    body: Object = _recording(name)["response"]["body"]
    return body


@cache
def _recording(name: str) -> Object:
    text = (ROOT / f"{name}.yaml").read_text(encoding="utf-8")
    recording: Object = yaml.load(text, Loader=_LOADER)  # noqa: S506 -- either is the safe one
    return recording
