"""Structured logs: one JSON object a line on standard output, for every process alike.

Always there: `ts` (UTC, RFC 3339), `level`, `event`, `instance`; and whatever the moment has bound, such as
`request_id`. What libraries say through `logging` comes out in the same shape, from WARNING up.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import orjson
import structlog

from server.settings import Settings

LONGEST = 16_384
"""Characters of one value; of a longer one the beginning and the end are kept."""

_SECRET = re.compile(r"password|secret|token|authorization|cookie|api_key", re.IGNORECASE)
_PASSWORD_IN_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s@/]+@")


def configure(settings: Settings) -> None:
    """Sets up logging for this process; call it once, first thing."""
    level = logging.getLevelNamesMapping().get(settings.log_level.upper(), logging.INFO)
    instance = settings.instance

    def named(_: Any, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        fields["instance"] = instance
        return fields

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        named,
        structlog.processors.format_exc_info,
        _fit_to_be_kept,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(serializer=_line)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(sys.stdout.buffer),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(serializer=lambda *a, **k: _line(*a, **k).decode()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))


def _fit_to_be_kept(_: Any, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # Nobody logs secrets on purpose; this is for the day somebody does, and for URLs inside other people's errors.
    for key, value in fields.items():
        if key != "event" and _SECRET.search(key):
            fields[key] = "[secret]"
        elif isinstance(value, str):
            if len(value) > LONGEST:
                value = f"{value[: LONGEST // 2]} [...] {value[-LONGEST // 2 :]}"
            fields[key] = _PASSWORD_IN_URL.sub(r"\1:[secret]@", value) if "://" in value else value
    return fields


def _line(fields: Any, **_: Any) -> bytes:
    return orjson.dumps(fields, default=str, option=orjson.OPT_NON_STR_KEYS)
