"""Files: announced, uploaded straight to S3, checked, then readable.

A file's row is there before its bytes and goes after them, so bytes without a row do not come about, wherever the
process is killed; the sweep finishes what was left unfinished. Each part of a file's life has a module of its own.
"""

from __future__ import annotations

from server.engine.files.direct import Direct
from server.engine.files.downloads import PUBLIC_CACHED, Disposition
from server.engine.files.keeping import Keeping
from server.engine.files.known import File, Variant
from server.engine.files.opening import EXPORT, FILE
from server.engine.files.orphans import Orphans
from server.engine.files.parts import PartedUpload, PartedUploads
from server.engine.files.removal import Removal
from server.engine.files.uploads import Form, Upload

__all__ = [
    "EXPORT",
    "FILE",
    "PUBLIC_CACHED",
    "Disposition",
    "File",
    "Files",
    "Form",
    "PartedUpload",
    "Upload",
    "Variant",
]


class Files(PartedUploads, Direct, Keeping, Removal, Orphans):
    """What callers, methods and tasks may do with files."""
