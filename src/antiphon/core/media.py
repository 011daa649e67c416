"""Media: what bytes and data URLs hold, as far as their first bytes tell. Pure; decodes no picture."""

import binascii
import re
from base64 import b64encode
from typing import Literal, NamedTuple, TypeAlias

from antiphon.errors import InvalidRequest

IMAGE_MARKS = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF87a", "gif"), (b"GIF89a", "gif"))
"""What the reference takes; WebP has its mark in two places."""

Family: TypeAlias = Literal["pdf", "zip", "ole", "text"]
PDF_HEAD_BYTES = 1024
"""Readers of PDF accept as much before its mark (ISO 32000-1, annex H.3.4.1)."""
FILE_MARKS: tuple[tuple[bytes, Family], ...] = (
    *((b"PK\x03\x04", "zip"), (b"PK\x05\x06", "zip")),
    (b"\xd0\xcf\x11\xe0", "ole"),
)


class DataUrl(NamedTuple):
    """`media_type` is in lower case, without parameters; `base64` is not decoded yet."""

    media_type: str
    base64: str


def is_data_url(text: str) -> bool:
    return text[:5].lower() == "data:"


def data_url(text: str) -> DataUrl | None:
    """None for one that holds no base64."""
    head, comma, rest = text.partition(",")
    media_type, *parameters = (part.strip().lower() for part in head[5:].split(";"))
    return DataUrl(media_type, rest) if comma and parameters and parameters[-1] == "base64" else None


def decoded(text: str) -> bytes | None:
    """None for what is no base64."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return None


def as_data_url(media_type: str, body: bytes) -> str:
    return f"data:{media_type};base64,{b64encode(body).decode()}"


def family(data: bytes) -> Family:
    """Of kinds of documents, by its first bytes. What has no mark is taken for text, and may be something else."""
    if b"%PDF-" in data[:PDF_HEAD_BYTES]:
        return "pdf"
    return next((family for mark, family in FILE_MARKS if data.startswith(mark)), "text")


def image_type(head: bytes) -> str | None:
    """The media type of a picture that models take; None for anything else."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((f"image/{kind}" for mark, kind in IMAGE_MARKS if head.startswith(mark)), None)


def image_url(text: str, *, bytes_max: int, param: str) -> str:
    """A data URL of a picture, named for what it is. Raises InvalidRequest in the codes of the reference."""
    found = data_url(text)
    body = found and decoded(found.base64)
    if found is None or body is None:
        raise InvalidRequest(f"Invalid '{param}': this data URL holds no valid base64.", param=param,
                             code="invalid_base64_image")  # fmt: skip
    kind = require_image(body, bytes_max=bytes_max, param=param)
    return text if found.media_type == kind else f"data:{kind};base64,{found.base64}"


def require_image(body: bytes, *, bytes_max: int, param: str) -> str:
    """The media type of a picture. Raises InvalidRequest in the codes of the reference."""
    if not body:
        raise InvalidRequest(f"Invalid '{param}': the image is empty.", param=param, code="empty_image_file")
    if len(body) > bytes_max:
        raise InvalidRequest(f"Invalid '{param}': the image has more than {bytes_max} bytes (limits.image_bytes_max).",
                             param=param, code="image_file_too_large")  # fmt: skip
    kind = image_type(body)
    if kind is None:
        raise InvalidRequest(f"Invalid '{param}': this is no PNG, JPEG, GIF or WebP image.", param=param,
                             code="invalid_image_format")  # fmt: skip
    return kind


def fenced(name: str, text: str) -> str:
    """A file's text as a model reads it: behind its name, within a fence that the text itself does not hold."""
    fence = "`" * (1 + max(map(len, re.findall("`{3,}", text)), default=2))
    shown = " ".join(name.split()).replace("`", "'") or "file"
    return f"File: {shown}\n{fence}\n{text.removesuffix(chr(10))}\n{fence}"
