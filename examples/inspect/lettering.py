"""The report's typefaces: what people type in the field is set, whatever the script.

Source Sans Pro sets Latin, Greek and Cyrillic; the Noto faces set Arabic, Hebrew, the
scripts of India and South-East Asia, symbols and emoji. Chinese, Japanese and Korean are
not carried (their faces weigh 20 MB): such characters show as a box, and nothing fails.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from pathlib import Path

import font_source_sans_pro
import manimgx_fonts
from fontTools.ttLib import TTFont
from fpdf import FPDF

FACE = "Report"
_SOURCE_SANS = {
    "": font_source_sans_pro.font_files_ttf["SourceSansPro"],
    "B": font_source_sans_pro.font_files_ttf["SourceSansProSemibold"],
    "I": font_source_sans_pro.font_files_ttf["SourceSansProIt"],
}
_NOTO = Path(manimgx_fonts.__file__).parent
_BOX = "\N{WHITE SQUARE}"


def add_faces(pdf: FPDF, text: str) -> None:
    """Makes FACE (regular, bold, italic) known to `pdf`, and of the faces that stand in those that `text` needs."""
    for style, file in _SOURCE_SANS.items():
        pdf.add_font(FACE, style, file)
    lacking = set(text) - _characters(Path(_SOURCE_SANS[""])) | {_BOX}
    standing_in = []
    for other, characters in _others().items():
        if lacking & characters:
            lacking -= characters
            pdf.add_font(other.stem, "", other)
            standing_in.append(other.stem)
    pdf.set_fallback_fonts(standing_in, exact_match=False)
    pdf.set_text_shaping(True)


def settable(text: str) -> str:
    """`text` with what no face can draw made harmless: a box for a character, nothing for a control."""
    return "".join(c for character in text if (c := _settable(character)))


def _settable(character: str) -> str:
    if character == "\n" or character in _drawn():
        return character
    if character in "\t\v\f\u2028\u2029":
        return " "
    # Cc and Cf: controls and joiners; Mn: among them the selectors that choose between text and emoji.
    return "" if unicodedata.category(character) in ("Cc", "Cf", "Mn") else _BOX


@cache
def _drawn() -> frozenset[str]:
    """Every character that some face has."""
    return frozenset().union(_characters(Path(_SOURCE_SANS[""])), *_others().values())


@cache
def _others() -> dict[Path, frozenset[str]]:
    """The Noto faces in order of preference, without Noto Sans itself: Source Sans Pro stands in its place."""
    files = sorted(_NOTO.glob("Noto*.ttf"), key=lambda f: ("Emoji" in f.name, "Symbols" in f.name, f.name))
    return {f: _characters(f) for f in files if not f.name.startswith(("NotoSans[", "NotoSans-"))}


@cache
def _characters(file: Path) -> frozenset[str]:
    with TTFont(file, lazy=True) as face:
        return frozenset(map(chr, face.getBestCmap()))
