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
_BOX = "\N{BALLOT BOX}"
"""Stands for what no face can draw; Source Sans Pro has it."""

_STRONG, _MARK, _RUN = frozenset({"L", "R", "AL"}), "\N{LEFT-TO-RIGHT MARK}", 150
"""fpdf2 finds the direction of a character that has none by recursion along its neighbours: a line of a thousand dots
would exhaust the stack. A mark, which is not seen, after so many of them bounds that."""


def add_faces(pdf: FPDF, text: str) -> None:
    """Makes FACE (regular, bold, italic) known to `pdf`, and of the faces that stand in those that `text` needs."""
    for style, file in _SOURCE_SANS.items():
        pdf.add_font(FACE, style, file)
    lacking = set(settable(text)) - _characters(Path(_SOURCE_SANS[""]))
    standing_in = []
    for other, characters in _others().items():
        if lacking & characters:
            lacking -= characters
            pdf.add_font(other.stem, "", other)
            standing_in.append(other.stem)
    # The regular face stands in for the italic one, which has fewer characters.
    pdf.set_fallback_fonts([*standing_in, FACE], exact_match=False)


def needs_shaping(text: str) -> bool:
    """Whether letters must be joined or put in another order. Text that needs none of it is set in a tenth of the time."""
    return not _characters(Path(_SOURCE_SANS[""])).issuperset(text.replace("\n", ""))


def settable(text: str) -> str:
    """`text` with what cannot be set made harmless: a box for a character that no face draws, nothing for a control."""
    out, run = [], 0
    for character in unicodedata.normalize("NFC", text):  # a face has é rather than what puts it together
        out.append(_settable(character))
        run = 0 if unicodedata.bidirectional(character) in _STRONG else run + 1
        if run == _RUN:
            out.append(_MARK)
            run = 0
    return "".join(out)


def _settable(character: str) -> str:
    if character == "\n":
        return character
    if character.isspace():
        return " "
    kind = unicodedata.category(character)
    if kind != "Cc" and character in _drawn():
        return character
    # Cf: joiners and such; Mn: among them the selectors that choose between text and emoji.
    return "" if kind in ("Cc", "Cf", "Mn") else _BOX


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
