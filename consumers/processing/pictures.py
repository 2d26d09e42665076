"""Pictures: measured by their header, then shown smaller, upright, in sRGB, and without anything that is not picture."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

from PIL import Image, ImageCms

from consumers.processing.contents import Metadata, Refused, Variant

PIXELS_MAX = 80_000_000
"""Pixels of a picture: what its header claims is believed before anything is decoded, and 100 kB can claim gigabytes."""
EDGE_MAX = 30_000
"""Pixels of one of its edges."""

SIZES = (("large", 2048), ("medium", 1280), ("small", 640), ("thumbnail", 256))
"""Variants and their longer edge in pixels at most, each WebP; a picture is never made larger than it is."""
JPEG_OF = "medium"
"""The variant that there is as JPEG, too, called `medium_jpeg`: for mails, and for paper."""
QUALITY = 82

FORMATS = {
    "image/jpeg": "JPEG",
    "image/jpg": "JPEG",
    "image/pjpeg": "JPEG",
    "image/png": "PNG",
    "image/apng": "PNG",
    "image/gif": "GIF",
    "image/webp": "WEBP",
    "image/avif": "AVIF",
    "image/heic": "HEIF",
    "image/heif": "HEIF",
    "image/bmp": "BMP",
    "image/x-ms-bmp": "BMP",
    "image/tiff": "TIFF",
}
"""What is read, by media type. Whatever else the bytes look like is not tried."""

_TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_270,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_90,),
}
_ORIENTATION = 0x0112
_FAULTS = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    ZeroDivisionError,
)
# Pillow has no error of its own for a broken file: these are what its decoders raise.


def process(content: Path, content_type: str, folder: Path) -> tuple[Metadata, list[Variant], int]:
    """What is known of a picture, its variants, written into `folder`, and its EXIF orientation. Raises Refused."""
    Image.MAX_IMAGE_PIXELS = None  # the bound is ours, and is looked at before decoding
    if FORMATS[content_type] == "HEIF":
        _take_heif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(content, formats=(FORMATS[content_type],)) as opened:
                width, height = opened.size
                if width * height > PIXELS_MAX or max(width, height) > EDGE_MAX:
                    raise Refused(
                        "IMAGE_TOO_LARGE",
                        f"The picture has {width} × {height} pixels; at most {PIXELS_MAX // 1_000_000} million are taken, "
                        f"and {EDGE_MAX} on an edge.",
                    )
                orientation = _orientation(opened)
                picture = _reduced(opened, SIZES[0][1])
    except _FAULTS as fault:
        raise Refused("IMAGE_UNREADABLE", "The picture is damaged, cut off, or is none of its type.") from fault
    for turn in _TURNS.get(orientation, ()):
        picture = picture.transpose(turn)
    if orientation >= 5:
        width, height = height, width
    return Metadata(width=width, height=height), shown(picture, folder), orientation


def shown(picture: Image.Image, folder: Path) -> list[Variant]:
    """The variants of a picture in RGB or RGBA, written into `folder`."""
    variants = []
    for name, edge in SIZES:
        picture = picture.copy()
        picture.thumbnail((edge, edge), Image.Resampling.LANCZOS)
        picture.info.clear()  # no EXIF, no comments, no profile: all are sRGB
        picture.save(folder / name, "WEBP", quality=QUALITY, method=2)
        variants.append(Variant(name, "image/webp", *picture.size))
        if name == JPEG_OF:
            _on_white(picture).save(folder / f"{name}_jpeg", "JPEG", quality=QUALITY, optimize=True)
            variants.append(Variant(f"{name}_jpeg", "image/jpeg", *picture.size))
    return variants


def _take_heif() -> None:
    """Has Pillow read HEIC, as iPhones take it, by libheif: upright already, and in one thread, since each takes memory."""
    import pillow_heif

    pillow_heif.options.DECODE_THREADS = 1
    pillow_heif.register_heif_opener(thumbnails=False)


def _orientation(picture: Image.Image) -> int:
    try:
        said = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF says nothing of the picture
        return 1
    return said if isinstance(said, int) and said in _TURNS else 1


def _reduced(opened: Image.Image, edge: int) -> Image.Image:
    """Its first frame, decoded, not much larger than `edge`, in sRGB."""
    opened.draft("RGB", (edge, edge))  # JPEG is decoded at a half, a quarter, an eighth
    profile = opened.info.get("icc_profile")
    opened.load()
    if opened.mode.startswith("I"):  # 16 bits: the upper eight are shown
        picture = opened.point(lambda level: level * (1 / 256)).convert("L").convert("RGB")
        profile = None
    elif "A" in opened.getbands() or "transparency" in opened.info:
        picture = opened.convert("RGBA")
    elif opened.mode == "CMYK" and profile:
        picture = opened.copy()
    else:
        picture = opened.convert("RGB")
    picture.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    return _srgb(picture, profile)


def _srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    if profile and picture.mode in ("RGB", "RGBA", "CMYK"):
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            alpha = picture.getchannel("A") if picture.mode == "RGBA" else None
            colours = picture.convert("RGB") if alpha else picture
            made = ImageCms.profileToProfile(
                colours, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if made is not None:
                if alpha:
                    made.putalpha(alpha)
                return made
    return picture if picture.mode in ("RGB", "RGBA") else picture.convert("RGB")


def _on_white(picture: Image.Image) -> Image.Image:
    """Without transparency, which JPEG has not."""
    if picture.mode != "RGBA":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
