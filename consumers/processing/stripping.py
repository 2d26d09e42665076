"""What not everybody shall read is left out of bytes that everybody may: where a picture was taken, with what, by whom.

Nothing is decoded and nothing encoded anew: whatever is neither picture nor colour is dropped, how it is to be turned is
kept, and what comes after a picture's end is no part of it. Doing it twice does no more than doing it once.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from consumers.processing.contents import Refused

STRIPPED = frozenset({"JPEG", "PNG", "WEBP", "GIF"})
"""Formats of pictures whose bytes can be left out of; others are not taken for everybody."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset(b"IHDR PLTE IDAT IEND tRNS cHRM gAMA iCCP sBIT sRGB cICP bKGD pHYs acTL fcTL fdAT".split())
_JFIF = b"\xff\xe0\0\x10"
"""Of a JFIF segment without its thumbnail, which may show what was cut off a picture."""
_WEBP_KEPT = frozenset({b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP"})
_GIF_KEPT = frozenset({b"NETSCAPE2.0", b"ANIMEXTS1.0"})
_BOXES = frozenset({b"udta", b"meta", b"uuid"})
"""Boxes of MP4 and QuickTime that say where and with what it was taken."""
_PARENTS = frozenset({b"moov", b"trak"})


def stripped(data: bytes, format: str, orientation: int) -> bytes:
    """A picture's bytes with nothing but the picture. Raises Refused where they are not whole."""
    try:
        return {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "GIF": _gif}[format](data, orientation)
    except (IndexError, struct.error, ValueError) as fault:
        raise Refused("IMAGE_UNREADABLE", "The picture is damaged or cut off.") from fault


def blank(film: Path) -> bool:
    """Makes what MP4 and QuickTime say of a film, beside the film, empty space in its place; whether there was any."""
    with film.open("r+b") as opened:
        found = list(_said(opened, 0, film.stat().st_size, True))
        for place, start, end in found:
            opened.seek(place + 4)
            opened.write(b"free")
            opened.seek(start)
            while start < end:
                start += opened.write(bytes(min(1 << 20, end - start)))
    return bool(found)


def _said(opened: BinaryIO, start: int, end: int, outermost: bool) -> Iterator[tuple[int, int, int]]:
    """Place, and first and last byte of the content, of each box that says too much."""
    while start + 8 <= end:
        opened.seek(start)
        size, kind = struct.unpack(">I4s", opened.read(8))
        lead = 8
        if size == 1:
            [size], lead = struct.unpack(">Q", opened.read(8)), 16
        size = size or end - start
        if size < lead or start + size > end:
            return  # what follows is no box: it is not looked at by players either
        if kind in _PARENTS:
            yield from _said(opened, start + lead, start + size, False)
        elif kind in _BOXES and not (outermost and kind == b"meta"):
            yield start, start + lead, start + size
        start += size


def _exif(orientation: int) -> bytes:
    """TIFF with one entry: how to turn it."""
    return b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + bytes(4)


def _jpeg(data: bytes, orientation: int) -> bytes:
    if data[:2] != b"\xff\xd8":
        raise ValueError("no JPEG")
    out = [b"\xff\xd8"]
    if orientation != 1:
        exif = b"Exif\0\0" + _exif(orientation)
        out.append(b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif)
    at = 2
    while True:
        if data[at] != 0xFF:
            raise ValueError("no marker")
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker == 0xD9:
            return b"".join([*out, b"\xff\xd9"])
        [length] = struct.unpack_from(">H", data, at + 2)
        end = at + 2 + length
        segment = data[at:end]
        if marker == 0xDA:
            end = _scanned(data, end)
            out.append(data[at:end])
        elif not (0xE0 <= marker <= 0xEF or marker == 0xFE) or _is_colour(marker, segment[4:]):
            out.append(_JFIF + segment[4:16] + b"\0\0" if marker == 0xE0 else segment)
        at = end


def _is_colour(marker: int, content: bytes) -> bool:
    """JFIF, an ICC profile, Adobe's word on how colours are stored."""
    return (marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 14) or (
        (marker == 0xE2 and content.startswith(b"ICC_PROFILE")) or (marker == 0xEE and content.startswith(b"Adobe"))
    )


def _scanned(data: bytes, at: int) -> int:
    """Where the coded picture that begins at `at` ends: at the next marker that is none of its own."""
    while True:
        at = data.index(b"\xff", at)
        if data[at + 1] == 0 or 0xD0 <= data[at + 1] <= 0xD7:
            at += 2
        elif data[at + 1] == 0xFF:
            at += 1
        else:
            return at


def _png(data: bytes, orientation: int) -> bytes:
    if not data.startswith(_PNG):
        raise ValueError("no PNG")
    out, at = [_PNG], len(_PNG)
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise ValueError("cut off")
        if kind in _PNG_KEPT:
            out.append(data[at : at + 12 + length])
        if kind == b"IHDR" and orientation != 1:
            exif = b"eXIf" + _exif(orientation)
            out.append(struct.pack(">I", len(exif) - 4) + exif + struct.pack(">I", zlib.crc32(exif)))
        if kind == b"IEND":
            return b"".join(out)
        at += 12 + length


def _webp(data: bytes, orientation: int) -> bytes:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise ValueError("no WebP")
    [size] = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        raise ValueError("cut off")
    out, at = [], 12
    while at + 8 <= size + 8:
        kind, length = struct.unpack_from("<4sI", data, at)
        end = at + 8 + length + length % 2
        chunk = data[at:end]
        if kind == b"VP8X":
            flags = chunk[8] & ~0x0C | (0x08 if orientation != 1 else 0)
            chunk = chunk[:8] + bytes([flags]) + chunk[9:]
        if kind in _WEBP_KEPT:
            out.append(chunk)
        at = end
    if orientation != 1:
        exif = _exif(orientation)
        out.append(struct.pack("<4sI", b"EXIF", len(exif)) + exif)
    body = b"WEBP" + b"".join(out)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _gif(data: bytes, _: int) -> bytes:
    if data[:6] not in (b"GIF87a", b"GIF89a"):
        raise ValueError("no GIF")
    at = 13 + _colours(data[10])
    out = [data[:at]]
    while (kind := data[at]) != 0x3B:
        if kind == 0x2C:
            end = _blocks(data, at + 10 + _colours(data[at + 9]) + 1)
            keep = True
        elif kind == 0x21:
            end = _blocks(data, at + 2)
            keep = data[at + 1] == 0xF9 or (data[at + 1] == 0xFF and data[at + 3 : at + 14] in _GIF_KEPT)
        else:
            raise ValueError("no block")
        if keep:
            out.append(data[at:end])
        at = end
    return b"".join([*out, b"\x3b"])


def _colours(flags: int) -> int:
    """Bytes of a table of colours."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _blocks(data: bytes, at: int) -> int:
    """Where a row of blocks ends."""
    while size := data[at]:
        at += 1 + size
    return at + 1
