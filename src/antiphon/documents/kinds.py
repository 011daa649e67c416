"""What kind of document a name or a media type claims, and what is text. Reads no document."""

from pathlib import PurePosixPath

MEDIA_TYPES = {
    "application/pdf": "pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/json": "text",
    "application/xml": "text",
}
TEXT_SUFFIXES = frozenset({"txt", "md", "csv", "tsv", "json", "jsonl", "xml", "html", "htm", "yaml", "yml", "toml"})
SUFFIXES = {kind: kind for kind in ("pdf", "docx", "xlsx", "pptx")} | dict.fromkeys(TEXT_SUFFIXES, "text")
CONTROLS = bytes(sorted(set(range(32)) - set(b"\t\n\f\r\x1b")))
"""What no text in an old encoding holds."""


def claims(filename: str, media_type: str) -> dict[str, str]:
    """The kinds that a name and a media type claim, each with the words that claim it. What is unknown claims none."""
    suffix = PurePosixPath(filename).suffix[1:].lower()
    media_type = media_type.partition(";")[0].strip().lower()
    by_type = "text" if media_type.startswith("text/") else MEDIA_TYPES.get(media_type)
    found = [(SUFFIXES.get(suffix), f"it is named .{suffix}"), (by_type, f"its media type is {media_type}")]
    return {kind: words for kind, words in found if kind}


def decoded(data: bytes) -> str | None:
    """Text, which may be in UTF-8, UTF-16 with its mark, or Windows-1252; None for what is binary."""
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16")
        return data.decode("utf-8-sig") if b"\0" not in data else None
    except UnicodeDecodeError:
        if data.translate(None, CONTROLS) != data:
            return None
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return None
