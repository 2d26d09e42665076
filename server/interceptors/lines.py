"""One log line per call, made and written together with its neighbours: one at a time would cost more than all else that is
noted of a call."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from typing import Any, BinaryIO

import orjson

FLUSH_SECONDS = 0.2
"""A line is written at most this much later; what a crash can lose."""
LINES_MAX = 512
"""Lines held back at most."""


class Lines:
    """The buffer. One per process and event loop."""

    def __init__(self, instance: str, enabled: bool = True, out: BinaryIO | None = None) -> None:
        self._instance = instance
        self._enabled = enabled
        self._out = out or sys.stdout.buffer
        self._held: list[tuple[float, dict[str, Any]]] = []
        self._timer: asyncio.TimerHandle | None = None

    def write(self, fields: dict[str, Any]) -> None:
        """Adds a line with these fields."""
        if not self._enabled:
            return
        self._held.append((time.time(), fields))
        if len(self._held) >= LINES_MAX:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Writes what is held."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._held:
            held, self._held = self._held, []
            self._out.write(b"".join(self._line(when, fields) for when, fields in held))
            self._out.flush()

    def _line(self, when: float, fields: dict[str, Any]) -> bytes:
        line = {"ts": datetime.fromtimestamp(when, UTC).isoformat(), "level": "info", "instance": self._instance}
        line |= fields
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
