"""Does a file hold what it says it holds?

Told by the first bytes (`filetype`), as far as these tell. A recognised type
must agree with the declared one; bytes that nobody recognises pass for types
that have no mark of their own (text, JSON, CSV, an app's own formats), but
not for a type that would have been recognised.
"""

from __future__ import annotations

import codecs
import re

import filetype

SNIFFED = 8192
"""Bytes looked at, from the beginning."""

LONGEST = 127
"""Characters of a media type (RFC 6838 allows each half that many; nobody uses them)."""

ANYTHING = "application/octet-stream"
"""Declares nothing, and so agrees with everything."""

_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_MEDIA_TYPE = re.compile(rf"({_WORD}/{_WORD})(?:; ?{_WORD}=(?:{_WORD}|\"[A-Za-z0-9!#-\[\]-~ ]*\"))*")

# Types that are one to a reader of their first bytes: one container, or one type under several names.
_FAMILIES = (
    {"image/jpeg", "image/jpg", "image/pjpeg"},
    {"image/png", "image/apng"},
    {"image/jpx", "image/jp2"},
    {"image/bmp", "image/x-ms-bmp", "image/x-bmp"},
    {"image/x-icon", "image/vnd.microsoft.icon"},
    {"image/heic", "image/heif", "image/heic-sequence", "image/heif-sequence", "image/avif", "image/avif-sequence"},
    {"image/tiff", "image/x-canon-cr2", "image/x-adobe-dng", "image/x-nikon-nef", "image/x-sony-arw"},
    {"video/mp4", "video/x-m4v", "video/quicktime", "audio/mp4", "audio/m4a", "audio/x-m4a", "video/3gpp"},
    {"video/webm", "audio/webm", "video/x-matroska", "video/matroska", "audio/x-matroska", "audio/matroska"},
    {"audio/ogg", "video/ogg", "application/ogg", "audio/opus"},
    {"audio/mpeg", "audio/mp3"},
    {"audio/x-wav", "audio/wav", "audio/wave", "audio/vnd.wave"},
    {"audio/x-flac", "audio/flac"},
    {"audio/aac", "audio/aacp"},
    {"audio/midi", "audio/x-midi"},
    {"audio/x-aiff", "audio/aiff"},
    {"application/font-woff", "font/woff", "font/woff2"},
    {"application/font-sfnt", "font/ttf", "font/otf", "font/sfnt"},
    {"application/gzip", "application/x-gzip", "application/x-tgz"},
    {"application/x-rar-compressed", "application/vnd.rar"},
    {"application/rtf", "text/rtf"},
    {"application/x-sqlite3", "application/vnd.sqlite3"},
    {"application/msword", "application/vnd.ms-excel", "application/vnd.ms-powerpoint", "application/vnd.ms-outlook"},
    {"application/x-tar", "application/tar"},
)
_FAMILY = {name: index for index, family in enumerate(_FAMILIES) for name in family}

_RECOGNISABLE = frozenset(kind.mime for kind in filetype.TYPES) - {ANYTHING}
_ZIPPED = re.compile(
    r"application/(?:zip|x-zip-compressed|java-archive|vnd\.android\.package-archive"
    r"|vnd\.openxmlformats-officedocument\..+|vnd\.oasis\.opendocument\..+|vnd\.google-earth\.kmz|.+\+zip)"
)
_TEXTUAL = re.compile(r"text/.+|application/(?:json|xml|yaml|javascript|sql|.+\+json|.+\+xml)")


def media_type(declared: str) -> str | None:
    """`type/subtype` of a declared media type, in lower case, without parameters; None where it is none."""
    found = _MEDIA_TYPE.fullmatch(declared) if len(declared) <= LONGEST else None
    return found[1].lower() if found else None


def disagreement(declared: str, first: bytes) -> str | None:
    """What the first SNIFFED bytes of a file are, where that is not what was declared; None where they agree.

    `declared` is a media type without parameters; "unknown" stands for bytes
    that nobody recognises.
    """
    if declared == ANYTHING:
        return None
    if declared == "image/svg+xml":
        return None if b"<svg" in first else "unknown"
    if _TEXTUAL.fullmatch(declared) and _is_text(first):
        return None  # a table of BMWs begins like a bitmap: two letters prove nothing against text that reads as text
    seen = filetype.guess_mime(first)
    if seen is None or seen == ANYTHING:
        return "unknown" if _marked(declared) else None
    return None if _agree(declared, seen) else seen


def _agree(declared: str, seen: str) -> bool:
    if declared == seen or _FAMILY.get(declared, declared) == _FAMILY.get(seen, seen):
        return True
    return bool(_ZIPPED.fullmatch(declared) and _ZIPPED.fullmatch(seen))


def _marked(declared: str) -> bool:
    """Whether files of this type begin with bytes that would have been recognised."""
    kind = declared.partition("/")[0]
    # MPEG audio and MPEG streams may begin anywhere: no mark is promised.
    if declared in ("audio/mpeg", "audio/mp3", "video/mp2t", "audio/aac"):
        return False
    return (
        kind in ("image", "video")
        or declared in _RECOGNISABLE
        or bool(_ZIPPED.fullmatch(declared))
        or any(declared in family and family & _RECOGNISABLE for family in _FAMILIES)
    )


def _is_text(first: bytes) -> bool:
    """Whether the bytes read as UTF-8 text; the last character may be cut."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(first)
    except UnicodeDecodeError:
        return False
    return not any(character < " " and character not in "\t\n\r\f\x1b" for character in text)
