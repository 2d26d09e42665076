"""Photos as a report can hold them: upright, small, and never a reason to fail."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps

EDGE_MAX = 1000
"""Longest edge in pixels: 88 mm of paper at 290 dots per inch."""

_PIXELS_MAX = 80_000_000
"""A picture that claims more is not opened: 100 kB can claim gigabytes, and decoding them would take them."""

_QUALITY = 82


@dataclass(frozen=True, slots=True)
class Photo:
    """A JPEG, upright, at most EDGE_MAX pixels on its longer edge."""

    jpeg: bytes
    width: int
    height: int


def reduced(picture: bytes) -> Photo | None:
    """The picture turned upright by its EXIF orientation and scaled down; None where it is not a readable picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(picture), formats=("JPEG", "PNG", "WEBP")) as opened:
                if opened.width * opened.height > _PIXELS_MAX:
                    return None
                opened.draft("RGB", (EDGE_MAX, EDGE_MAX))
                upright = ImageOps.exif_transpose(opened)
                upright.thumbnail((EDGE_MAX, EDGE_MAX), Image.Resampling.LANCZOS)
                flat = _on_white(upright)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        # Pillow has no error of its own for a broken file: these are what its decoders raise.
        return None
    out = io.BytesIO()
    flat.save(out, "JPEG", quality=_QUALITY, optimize=True)
    return Photo(out.getvalue(), *flat.size)


def _on_white(picture: Image.Image) -> Image.Image:
    """Without transparency: paper is white."""
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture.convert("RGB")
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")
