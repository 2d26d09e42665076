"""Reading files: what is known of them, and signed URLs for their bytes."""

from __future__ import annotations

import mimetypes
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum, auto
from urllib.parse import quote

from server.caller import Caller
from server.engine import content_types, page_tokens
from server.engine.files.known import TYPE, File, check_readable, file_of, kept_key, missing, variant_key, variant_of
from server.engine.files.opening import Opening, require
from server.errors import Invalid, NotFound
from server.store.file_rows import StoredFile
from server.store.signed_links import Since

DOWNLOAD_LIFE = timedelta(minutes=15)
"""How long the URL of a download is good."""

PUBLIC_CACHED = timedelta(minutes=5)
"""How long a browser may remember where a public file lies: the URL that it is sent to is good for longer than that."""

PUBLIC_LIFE = timedelta(days=7)
"""How long the URL of a public file is good, from its beginning."""

PUBLIC_SAME = timedelta(days=3)
"""How long everybody is sent to the same URL, so that whoever has read its bytes need not read them again."""

_SKEW = timedelta(minutes=15)
"""How much earlier it begins: S3's clock may be behind."""

IMMUTABLE = f"private, max-age={int(DOWNLOAD_LIFE.total_seconds())}, immutable"
"""Cache-Control of bytes that are somebody's: what lies behind a URL never changes."""
_PUBLIC = "public, max-age=31536000, immutable"

# What a browser may show by itself; nothing that could run.
_SHOWN = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp", "image/avif", "application/pdf"})


class Disposition(StrEnum):
    """What a browser does with the bytes."""

    USUAL = auto()
    """Shows pictures and PDF, saves all else."""
    INLINE = auto()
    ATTACHMENT = auto()


class Downloads(Opening):
    """How files are read."""

    async def get(self, caller: Caller, name: str) -> File:
        """The file `name`, for whoever may read it. Raises NotFound for all others."""
        return file_of(await self._open(caller, name))

    async def exists(self, name: str) -> bool:
        """Whether there is such a file, whoever may read it: not for those to hear who never could."""
        try:
            await self._one(name)
        except NotFound:
            return False
        return True

    async def list(self, caller: Caller, page_size: int, page_token: str) -> tuple[Sequence[File], str]:
        """A page of the caller's own files, newest first, and the token of the next page; "" after the last."""
        require(caller, "get")
        scope = f"files of {caller.name}"
        size = page_tokens.size(page_size, self._page_size, self._page_size_max)
        found = await self._files.page(caller.name, page_tokens.opened(page_token, scope), size + 1)
        shown = found[:size]
        following = page_tokens.sealed((shown[-1].create_time, shown[-1].id), scope) if len(found) > size else ""
        return [file_of(stored) for stored in shown], following

    async def download_url(
        self, caller: Caller, name: str, variant: str = "", how: Disposition = Disposition.USUAL
    ) -> tuple[str, datetime]:
        """A URL that anybody may read the bytes from, and until when; for whom `get` is. Raises Precondition where they cannot be
        read, NotFound (VARIANT_MISSING), and Invalid where a browser must not show them."""
        stored = await self._open(caller, name)
        check_readable(stored, name, own=stored.owner == caller.name)
        url = self._signed(stored, variant, how, IMMUTABLE)
        return url, datetime.now(UTC) + DOWNLOAD_LIFE

    async def public_url(self, id: str, variant: str = "", method: str = "GET") -> str:
        """Where everybody reads a public file by this method, GET or HEAD: the same for PUBLIC_SAME, and good for longer. Raises
        NotFound where there is none, READY, of this id."""
        name = f"files/{id}"
        stored = await self._one(name)
        if not stored.public or stored.private or stored.state != "READY":
            raise missing(name)
        return self._signed(stored, variant, Disposition.USUAL, _PUBLIC, Since(_began(id, datetime.now(UTC)), method))

    def _signed(
        self, stored: StoredFile, variant: str, how: Disposition, caching: str, since: Since | None = None
    ) -> str:
        key, content_type, filename = kept_key(stored.id, stored.attempt), stored.content_type, stored.filename
        if variant:
            found = next((variant_of(one) for one in stored.variants if one["name"] == variant), None)
            if found is None:
                raise NotFound(
                    "The file has no such variant.",
                    reason="VARIANT_MISSING",
                    metadata={"variant": variant[:63]},
                    resource=(TYPE, f"files/{stored.id}"),
                )
            key, content_type = variant_key(stored.id, variant), found.content_type
            filename = variant_filename(filename, variant, content_type)
        told = disposition(filename, stored.id, content_type, how)
        life = DOWNLOAD_LIFE if since is None else PUBLIC_LIFE
        return self._objects.signed_get(key, content_type, told, life, caching=caching, since=since)


def _began(id: str, now: datetime) -> datetime:
    """Since when the URL of a public file is what it is; of each file at another time, so that not all are read anew at once."""
    offset = timedelta(seconds=zlib.crc32(id.encode()) % int(PUBLIC_SAME.total_seconds()))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return now - (now - epoch + offset) % PUBLIC_SAME - _SKEW


def disposition(filename: str, id: str, content_type: str, how: Disposition = Disposition.USUAL) -> str:
    """The Content-Disposition of a download: RFC 6266, with the name in ASCII for old clients and in full.

    Raises Invalid where it is to be shown and might run.
    """
    kind = content_types.media_type(content_type) or ""
    shown = kind in _SHOWN
    if how is Disposition.INLINE:
        if not (shown or kind == "text/plain" or kind.startswith(("audio/", "video/"))):
            raise Invalid.field("disposition", f"{kind or 'this type'} is not shown by browsers here", "NOT_SHOWN")
        shown = True
    elif how is Disposition.ATTACHMENT:
        shown = False
    name = filename or id + (mimetypes.guess_extension(kind) or "")
    plain = "".join(c if " " <= c <= "~" and c not in '"\\%' else "_" for c in name)
    return f"{'inline' if shown else 'attachment'}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def variant_filename(filename: str, variant: str, content_type: str) -> str:
    """The name of a variant for people: `beam.png`, thumbnail, as WebP, is `beam-thumbnail.webp`."""
    if not filename:
        return ""
    stem = filename.rpartition(".")[0] or filename
    return f"{stem}-{variant}{mimetypes.guess_extension(content_type) or ''}"
