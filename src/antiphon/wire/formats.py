"""Formats: what an answer must look like, and how hard a model shall think. Data only.

Source: openai 3.54.0 types/responses/response_format_text_config.py, types/shared/reasoning_effort.py.
"""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from antiphon.wire.tools import JsonObject

ReasoningEffort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class FormatBase(Struct, frozen=True, kw_only=True, tag_field="type"):
    """What the answer must look like."""


class TextFormat(FormatBase, frozen=True, kw_only=True, tag="text"):
    """Plain text."""


class JsonObjectFormat(FormatBase, frozen=True, kw_only=True, tag="json_object"):
    """Any JSON object."""


class JsonSchemaFormat(FormatBase, frozen=True, kw_only=True, tag="json_schema"):
    """A JSON document. `schema` is a JSON Schema, kept as it came; `strict`: it is a promise, else a hint."""

    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    schema: JsonObject
    description: str | None = None
    strict: bool | None = None


Format: TypeAlias = TextFormat | JsonObjectFormat | JsonSchemaFormat
