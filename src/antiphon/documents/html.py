"""Text out of web pages: their content without what stands around it, as Markdown, by trafilatura."""

from typing import Any

from trafilatura import extract, html2txt
from trafilatura.utils import load_html

from antiphon.documents.reading import Reading, Refused

WARM = "<html><head><title>ä</title></head><body><article><p>words</p></article></body></html>"
LEAST_CHARS = 200
"""A page of which less is taken for content is told whole: it is a list of links, or its content was not found."""


def warm() -> None:
    """What the library loads when it is first used must be there before nothing can be opened any more."""
    data = WARM.encode("iso-8859-1")
    _content(load_html(data))
    html2txt(WARM)


def read(data: bytes, reading: Reading) -> None:
    tree = load_html(data)
    if tree is None:
        raise Refused("there is nothing in the page that could be read")
    reading.title = " ".join((tree.findtext(".//title") or "").split())
    text = _content(tree)
    if len(text) < LEAST_CHARS:
        text = max(text, html2txt(data), key=len)
    reading.add(text)


def _content(tree: Any) -> str:
    """`fast`: without a second opinion by other libraries, which cost more than they find."""
    return extract(tree, fast=True, output_format="markdown", include_comments=False, favor_recall=True) or ""
