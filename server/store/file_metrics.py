"""What is counted of files, by the process that does it."""

from __future__ import annotations

from prometheus_client import Counter

CHANGES = Counter(
    "transom_files_total",
    "Files by what became of them: announced, uploaded, ready, rejected, deleted, abandoned.",
    ["change"],
)
BYTES = Counter("transom_file_bytes_total", "Bytes of files whose upload was completed.")
