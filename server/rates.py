"""So many calls in so much time, as it is written in settings: `600/60s`."""

from __future__ import annotations

import re
from dataclasses import dataclass

CALLS_MAX = 10_000_000
SECONDS_MAX = 86_400
FINEST = 10.0
"""Microseconds that a call of the fastest rate takes up at least."""

_RATE = re.compile(r"(\d{1,8})/(\d{1,5})(s|m|h)?")
_SECONDS = {"s": 1, "m": 60, "h": 3600, None: 1}


@dataclass(frozen=True, slots=True)
class Rate:
    """`calls` at once at most, and as many again in `seconds`, evenly: a bucket of tokens that fills up."""

    calls: int
    seconds: int

    @property
    def token(self) -> float:
        """Microseconds in which the bucket gets one token."""
        return self.seconds * 1e6 / self.calls

    @property
    def microseconds(self) -> float:
        """In which it fills up."""
        return self.seconds * 1e6

    def __str__(self) -> str:
        return f"{self.calls}/{self.seconds}s"


def rate(text: str) -> Rate | None:
    """`<calls>/<time>`, the time in seconds or with `s`, `m` or `h` behind it; None for nothing, which is no limit.

    Raises ValueError.
    """
    text = text.strip()
    if not text or text == "off":
        return None
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a rate: 600/60s, 10/1h, or empty for none")
    made = Rate(int(found[1]), int(found[2]) * _SECONDS[found[3]])
    if not (1 <= made.calls <= CALLS_MAX and 1 <= made.seconds <= SECONDS_MAX and made.token >= FINEST):
        raise ValueError(f"{text!r} is beyond 1 to {CALLS_MAX} calls in 1 s to 24 h, at most 100,000 a second")
    return made


def rates(text: str) -> dict[str, Rate]:
    """`<method>=<rate>`, several with commas between them. Raises ValueError."""
    made = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        method, equals, told = part.partition("=")
        found = rate(told) if equals else None
        if found is None or not re.fullmatch(r"[\w.]+/\w+", method.strip()):
            raise ValueError(f"{part!r} is not package.Service/Method=600/60s")
        made[method.strip()] = found
    return made
