"""PDF: pages counted, the first one shown."""

from __future__ import annotations

from pathlib import Path

import pypdfium2
from PIL import Image

from consumers.processing.contents import Metadata, Refused, Variant, title
from consumers.processing.pictures import SIZES, shown

TYPES = frozenset({"application/pdf"})
PAGES_MAX = 20_000
"""Pages of a document."""

_PASSWORD = 4
"""FPDF_ERR_PASSWORD: it is sound, but nobody may look inside."""


def process(content: Path, folder: Path) -> tuple[Metadata, list[Variant]]:
    """What is known of a PDF, and its first page as variants in `folder`: none where it has a password. Raises Refused."""
    try:
        document = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as fault:
        if getattr(fault, "err_code", None) == _PASSWORD:
            return Metadata(), []
        raise _unreadable() from fault
    try:
        pages = len(document)
        if pages > PAGES_MAX:
            raise Refused("DOCUMENT_TOO_LARGE", f"The document has {pages} pages; at most {PAGES_MAX} are taken.")
        page = document[0]
        width, height = page.get_size()
        if not (width > 0 and height > 0):
            raise _unreadable()
        # So many dots, however large the page claims to be; a strip is at least one wide.
        bitmap = page.render(scale=SIZES[0][1] / max(width, height), may_draw_forms=False)
        picture: Image.Image = bitmap.to_pil().convert("RGB")
        return Metadata(pages=pages, title=title(document.get_metadata_dict().get("Title"))), shown(picture, folder)
    except (pypdfium2.PdfiumError, IndexError, ValueError) as fault:
        raise _unreadable() from fault


def _unreadable() -> Refused:
    return Refused("DOCUMENT_UNREADABLE", "The document is damaged, cut off, or has no page.")
