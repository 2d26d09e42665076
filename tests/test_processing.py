"""What becomes of files' bytes: measured, shown smaller, stripped, refused; and hostile ones, which harm one process."""

from __future__ import annotations

import asyncio
import io
import os
import select
import struct
import subprocess
import sys
import tempfile
import wave
import zipfile
import zlib
from pathlib import Path
from typing import Any

import av
import pillow_heif
import pytest
from fpdf import FPDF
from PIL import Image, ImageCms, PngImagePlugin

from consumers.processing import folders, isolation
from consumers.processing.child import processed
from consumers.processing.contents import CONTENT, Job, Refused, Result
from consumers.processing.pictures import SIZES
from consumers.processing.stripping import stripped

GPS, MAKE, ORIENTATION = 0x8825, 0x010F, 0x0112
SECRET = b"Leica of Ann"


pillow_heif.register_heif_opener()


def picture(
    kind: str = "JPEG", size: tuple[int, int] = (60, 40), mode: str = "RGB", orientation: int = 1, **how: Any
) -> bytes:
    """A picture, red at the left and blue at the right, that says where it was taken and with what."""
    image = Image.new("RGB", size, "blue")
    image.paste("red", (0, 0, size[0] // 2, size[1]))
    exif = Image.Exif()
    exif[MAKE] = SECRET.decode()
    if orientation != 1:
        exif[ORIENTATION] = orientation
    exif.get_ifd(GPS)[1] = "N"
    out = io.BytesIO()
    if kind not in ("GIF", "BMP"):
        how = {"exif": exif.tobytes() if kind == "HEIF" else exif, **how}
    image.convert(mode).save(out, kind, **how)
    return out.getvalue()


def pdf(pages: int = 1, title: str = "Bridge") -> bytes:
    document = FPDF()
    document.set_title(title)
    for _ in range(pages):
        document.add_page()
    return bytes(document.output())


def locked_pdf() -> bytes:
    document = FPDF()
    document.add_page()
    document.set_encryption("owner", "user")
    return bytes(document.output())


def sound(seconds: float = 0.5) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as written:
        written.setnchannels(2)
        written.setsampwidth(2)
        written.setframerate(8000)
        written.writeframes(bytes(int(8000 * seconds) * 4))
    return out.getvalue()


def film() -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as written:
        written.metadata["title"] = "Crack\nopening"
        written.metadata["comment"] = SECRET.decode()
        stream = written.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(25):
            written.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 48), "red"))))
        written.mux(stream.encode())
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("run.js", "alert(1)")
    return out.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that claims to be so large."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")


def work(folder: Path, data: bytes, content_type: str, public: bool = False) -> Result:
    """What becomes of it, in this process."""
    (folder / CONTENT).write_bytes(data)
    return processed(folder, Job(content_type, public))


# --------------------------------------------------------------------------------------------------- what is found


@pytest.mark.parametrize(
    ("data", "content_type", "found"),
    [
        (picture(), "image/jpeg", {"width": 60, "height": 40, "detected_content_type": "image/jpeg"}),
        (picture(orientation=6), "image/jpeg", {"width": 40, "height": 60}),
        (picture("PNG"), "image/png", {"width": 60, "detected_content_type": "image/png"}),
        (picture("WEBP"), "image/webp", {"width": 60}),
        (picture("AVIF"), "image/avif", {"width": 60}),
        (picture("HEIF"), "image/heic", {"width": 60, "height": 40, "detected_content_type": "image/heic"}),
        (picture("HEIF", orientation=6), "image/heif", {"width": 40, "height": 60}),
        (picture("GIF", mode="P"), "image/gif", {"width": 60}),
        (picture("TIFF"), "image/tiff", {"width": 60}),
        (picture("BMP"), "image/bmp", {"width": 60}),
        (picture("PNG"), "application/octet-stream", {"width": 60, "detected_content_type": "image/png"}),
        (pdf(3, "A\tbridge " + "x" * 300), "application/pdf", {"pages": 3, "title": ("A bridge " + "x" * 300)[:255]}),
        (locked_pdf(), "application/pdf", {"pages": 0}),
        (sound(), "audio/wav", {"duration": 0.5, "sample_rate": 8000, "channels": 2, "codecs": ["pcm_s16le"]}),
        (
            film(),
            "video/mp4",
            {
                "duration": 1.0,
                "width": 64,
                "height": 48,
                "frame_rate": 25.0,
                "codecs": ["mpeg4"],
                "title": "Crack opening",
            },
        ),
        (b"just words", "text/plain", {"detected_content_type": ""}),
        (zipped(), "application/zip", {"detected_content_type": "application/zip"}),
    ],
)
def test_what_is_found_out(tmp_path: Path, data: bytes, content_type: str, found: dict[str, Any]) -> None:
    metadata = work(tmp_path, data, content_type).metadata
    assert {key: getattr(metadata, key) for key in found} == found


def test_variants_are_of_stated_sizes_and_never_larger_than_the_picture(tmp_path: Path) -> None:
    made = work(tmp_path, picture(size=(1500, 1000)), "image/jpeg").variants
    assert [(v.name, v.content_type, v.width, v.height) for v in made] == [
        ("large", "image/webp", 1500, 1000),
        ("medium", "image/webp", 1280, 853),
        ("medium_jpeg", "image/jpeg", 1280, 853),
        ("small", "image/webp", 640, 427),
        ("thumbnail", "image/webp", 256, 171),
    ]
    for variant in made:
        with Image.open(tmp_path / variant.name) as opened:
            assert opened.size == (variant.width, variant.height)
            assert opened.get_format_mimetype() == variant.content_type


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA", "LA", "I;16", "1"])
def test_pictures_of_every_mode_have_variants(tmp_path: Path, mode: str) -> None:
    kind = "TIFF" if mode in ("CMYK", "I;16") else "PNG"
    image = Image.new("I;16", (60, 40), 40_000) if mode == "I;16" else Image.new("RGB", (60, 40), "red").convert(mode)
    out = io.BytesIO()
    image.save(out, kind)
    assert len(work(tmp_path, out.getvalue(), f"image/{kind.lower()}").variants) == len(SIZES) + 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_variants_are_upright(tmp_path: Path, orientation: int) -> None:
    """The picture is red at the left; each orientation says where that is shown."""
    work(tmp_path, picture(orientation=orientation, quality=95), "image/jpeg")
    red = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}[orientation]
    with Image.open(tmp_path / "thumbnail") as shown:
        width, height = shown.size
        middle, centre = width // 2, height // 2
        places = {
            "left": (2, centre),
            "right": (width - 3, centre),
            "top": (middle, 2),
            "bottom": (middle, height - 3),
        }
        plain = shown.convert("RGB")
        opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[red]
        assert plain.getpixel(places[red])[0] > 200 > 50 > plain.getpixel(places[opposite])[0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_no_variant_says_where_a_picture_was_taken(tmp_path: Path, kind: str) -> None:
    for variant in work(tmp_path, picture(kind), f"image/{kind.lower()}").variants:
        written = (tmp_path / variant.name).read_bytes()
        assert SECRET not in written
        with Image.open(tmp_path / variant.name) as opened:
            assert not dict(opened.getexif())


def test_colours_of_a_profile_are_those_of_the_web(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()  # none of RGB: it is passed over
    assert work(tmp_path, picture(icc_profile=profile), "image/jpeg").variants


# ------------------------------------------------------------------------------------------- what everybody may read


def gif_with_comment() -> bytes:
    return picture("GIF", mode="P", comment=SECRET)


def png_with_words() -> bytes:
    words = PngImagePlugin.PngInfo()
    words.add_text("Author", SECRET.decode())
    words.add_itxt("Place", SECRET.decode(), zip=False)
    return picture("PNG", pnginfo=words)


def webp_with_note() -> bytes:
    data = (
        picture("WEBP", lossless=True)
        + b"NOTE"
        + len(SECRET).to_bytes(4, "little")
        + SECRET
        + b"\0" * (len(SECRET) % 2)
    )
    return data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:]


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (picture(orientation=6), "image/jpeg"),
        (picture(progressive=True, comment=SECRET), "image/jpeg"),
        (picture(orientation=6) + b"\0\0\0\x18ftypmp42" + SECRET, "image/jpeg"),
        (picture("PNG", orientation=8), "image/png"),
        (png_with_words() + SECRET, "image/png"),
        (picture("WEBP", orientation=3, xmp=SECRET), "image/webp"),
        (picture("WEBP", lossless=True), "image/webp"),
        (webp_with_note(), "image/webp"),
        (gif_with_comment() + SECRET, "image/gif"),
    ],
)
def test_public_pictures_keep_the_picture_and_how_it_is_turned(tmp_path: Path, data: bytes, content_type: str) -> None:
    assert SECRET in data
    result = work(tmp_path, data, content_type, public=True)
    bare = (tmp_path / CONTENT).read_bytes()
    assert result.rewritten and SECRET not in bare
    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(bare)) as after:
        turned = {ORIENTATION: before.getexif()[ORIENTATION]} if ORIENTATION in before.getexif() else {}
        assert dict(after.getexif()) == turned
        assert after.convert("RGB").tobytes() == before.convert("RGB").tobytes()
    again = work(tmp_path, bare, content_type, public=True)
    assert not again.rewritten and (tmp_path / CONTENT).read_bytes() == bare, "done twice is done once"


def test_a_public_film_keeps_its_place_to_itself(tmp_path: Path) -> None:
    data = film()
    assert SECRET in data and work(tmp_path, data, "video/mp4", public=True).rewritten
    bare = (tmp_path / CONTENT).read_bytes()
    assert SECRET not in bare and len(bare) == len(data)
    assert work(tmp_path, bare, "video/mp4").metadata.duration == 1.0


def test_private_bytes_stay_as_they_were_sent(tmp_path: Path) -> None:
    data = picture(orientation=6)
    assert not work(tmp_path, data, "image/jpeg").rewritten and (tmp_path / CONTENT).read_bytes() == data


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("data", "content_type", "public", "reason"),
    [
        (bomb(50_000, 50_000), "image/png", False, "IMAGE_TOO_LARGE"),
        (bomb(40_000, 2), "image/png", False, "IMAGE_TOO_LARGE"),
        (bomb(8_000, 8_000), "image/png", False, "IMAGE_UNREADABLE"),
        (picture()[:-300], "image/jpeg", False, "IMAGE_UNREADABLE"),
        (picture("PNG")[:90], "image/png", False, "IMAGE_UNREADABLE"),
        (picture("WEBP")[:60], "image/webp", False, "IMAGE_UNREADABLE"),
        (picture("HEIF")[:-50], "image/heic", False, "IMAGE_UNREADABLE"),
        (picture("AVIF"), "image/heic", False, "IMAGE_UNREADABLE"),
        (b"\xff\xd8\xff\xe0" + bytes(500), "image/jpeg", False, "IMAGE_UNREADABLE"),
        (picture(), "image/png", False, "CONTENT_TYPE_MISMATCH"),
        (b"<html><script>alert(1)</script>", "image/gif", False, "CONTENT_TYPE_MISMATCH"),
        (picture() + zipped(), "image/jpeg", False, "POLYGLOT"),
        (picture("GIF", mode="P") + zipped(), "image/gif", False, "POLYGLOT"),
        (picture(comment=b"%PDF-1.7 1 0 obj"), "image/jpeg", False, "POLYGLOT"),
        (picture("TIFF"), "image/tiff", True, "PUBLIC_TYPE_UNSUPPORTED"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "image/heic", True, "PUBLIC_TYPE_UNSUPPORTED"),
        (b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n", "application/pdf", False, "DOCUMENT_UNREADABLE"),
        (pdf()[:200], "application/pdf", False, "DOCUMENT_UNREADABLE"),
        (film()[:400], "video/mp4", False, "MEDIA_UNREADABLE"),
        (b"\x1aE\xdf\xa3" + b"webm" * 200, "video/webm", False, "CONTENT_TYPE_MISMATCH"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, data: bytes, content_type: str, public: bool, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        work(tmp_path, data, content_type, public)
    assert refused.value.reason == reason and len(refused.value.message) <= 500


def test_a_public_jpeg_keeps_no_thumbnail_of_what_it_was() -> None:
    bare = picture()
    assert bare[2:4] == b"\xff\xe0" and bare[18:20] == b"\0\0"
    with_one = bare[:4] + struct.pack(">H", 16 + 12) + bare[6:18] + b"\x02\x02" + b"AB was here!" + bare[20:]
    assert stripped(with_one, "JPEG", 1) == stripped(bare, "JPEG", 1)


# ---------------------------------------------------------------------------------------- a process for each file


def isolated(folder: Path, data: bytes, content_type: str, child: tuple[str, ...] = isolation.CHILD) -> Result:
    (folder / CONTENT).write_bytes(data)
    return asyncio.run(isolation.processed(folder, Job(content_type, False), child))


def test_a_process_of_its_own_tells_what_it_found(tmp_path: Path) -> None:
    told = isolated(tmp_path, picture(), "image/jpeg")
    assert told.metadata.width == 60 and [v.name for v in told.variants][-1] == "thumbnail"
    assert (tmp_path / "thumbnail").stat().st_size > 0


def test_it_tells_why_it_refuses(tmp_path: Path) -> None:
    assert isolated(tmp_path, bomb(50_000, 50_000), "image/png").reason == "IMAGE_TOO_LARGE"


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        ("child.processed = lambda *_: bytearray(2 << 30)", "TOO_COSTLY"),
        ("child.CPU = 1; child.processed = lambda *_: [0 for _ in iter(int, 1)]", "TOO_COSTLY"),
        ("child.processed = lambda *_: os.kill(os.getpid(), signal.SIGSEGV)", "UNPROCESSABLE"),
        ("child.processed = lambda *_: 1 / 0", "UNPROCESSABLE"),
        ("child.processed = lambda folder, _: (folder / 'huge').write_bytes(bytes(65 << 20))", "TOO_COSTLY|UNPROCESSABLE"),
    ],
)  # fmt: skip
def test_what_harms_it_harms_nothing_else(tmp_path: Path, harm: str, reason: str) -> None:
    program = (
        f"import os, signal, sys, pathlib; from consumers.processing import child; {harm}; "
        "child.main(pathlib.Path(sys.argv[1]))"
    )
    assert isolated(tmp_path, picture(), "image/jpeg", (sys.executable, "-c", program)).reason in reason.split("|")


@pytest.mark.parametrize(
    "end", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit('no library')", "os.kill(os.getpid(), signal.SIGTERM)"]
)
def test_whoever_is_ended_from_outside_says_nothing_of_the_file(tmp_path: Path, end: str) -> None:
    with pytest.raises(isolation.Interrupted):
        isolated(tmp_path, picture(), "image/jpeg", (sys.executable, "-c", f"import os, signal, sys; {end}"))


def test_it_knows_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSOM_SECRET", "x" * 32)
    program = "import os, sys; sys.exit(' '.join(sorted(os.environ)))"
    with pytest.raises(isolation.Interrupted) as told:
        isolated(tmp_path, picture(), "image/jpeg", (sys.executable, "-I", "-c", program))
    assert "TRANSOM_SECRET" not in str(told.value)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux'")
def test_a_worker_that_is_closed_has_nothing_to_read_in_proc(tmp_path: Path) -> None:
    """For a user without rights over others: root may read all."""
    program = "from consumers.processing import isolation; assert isolation.closed(); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout and worker.stdout.readline() == b"1\n"
        assert Path(f"/proc/{worker.pid}/environ").stat().st_uid == 0
        worker.communicate(b"\n")
    assert worker.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a child that its parent is gone")
def test_a_child_ends_with_its_worker(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    inner = (
        "import sys, time, pathlib; from consumers.processing import child; "
        f"child.processed = lambda *_: (open({str(begun)!r}, 'w').close(), time.sleep(60)); "
        "child.main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))"
    )
    outer = (
        "import asyncio, pathlib, sys; from consumers.processing import isolation; "
        "from consumers.processing.contents import Job; "
        f"asyncio.run(isolation.processed(pathlib.Path({str(tmp_path)!r}), Job('a/b', False), "
        f"(sys.executable, '-c', {inner!r})))"
    )
    (tmp_path / CONTENT).write_bytes(b"x")
    with subprocess.Popen([sys.executable, "-c", outer]) as worker:
        begun.open().close()  # the child is at work
        [at_work] = [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/stat") if _parent(p) == worker.pid]
        handle = os.pidfd_open(at_work)
        worker.kill()
    try:
        assert select.select([handle], [], [], 10)[0], "it is over"
    finally:
        os.close(handle)


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_what_a_killed_worker_left_is_removed_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    for name in (f"transom-file-{ended.pid}-a", f"transom-file-{os.getppid()}-b", "transom-file-c", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / CONTENT).write_bytes(b"x")
    with folders.folder():
        assert folders.swept() == 2, "of a process that is over, and of an earlier one of this number"
    assert {path.name for path in tmp_path.iterdir()} == {f"transom-file-{os.getppid()}-b", "transom-file-c", "other"}
