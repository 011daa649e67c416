"""Text out of PDF, page by page, by PDFium."""

import pypdfium2
from pypdfium2.raw import FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY

from antiphon.documents.reading import Reading, Refused

ENCRYPTED = frozenset({FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY})


def read(data: bytes, reading: Reading) -> None:
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if error.err_code in ENCRYPTED:
            raise Refused("it is encrypted: send it without a password") from None
        raise Refused("it is damaged: its structure cannot be read") from None
    pages = len(document)
    reading.count_pages(pages)
    for number in range(pages):
        reading.page(f"Page {number + 1} of {pages}")
        reading.add(_text(document, number))


def _text(document: pypdfium2.PdfDocument, number: int) -> str:
    try:
        page = document[number]
    except pypdfium2.PdfiumError:
        raise Refused(f"it is damaged: page {number + 1} cannot be read") from None
    words = page.get_textpage()
    text: str = words.get_text_bounded()
    words.close()
    page.close()
    return text.replace("\r\n", "\n")
