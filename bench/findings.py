"""The data: the same findings for every system, as the JSON mapping of inspect.v1.Finding has them.

Findings, because the app has no task for them: what a write costs is then the write and its event, not what an app
makes of it.
"""

from __future__ import annotations

import random
from typing import Any

PER_INSPECTION = 40
"""Findings of each inspection that is read, two pages. Each client has an inspection of its own."""
PAGE = 20

_TITLES = ("Door does not close by itself", "Cable tray open", "Label cannot be read", "Guard loose", "Seal missing")
_SEVERITIES = ("LOW", "MEDIUM", "HIGH", "CRITICAL")
_SENTENCES = (
    "Seen from the gangway on the way to the pump room.",
    "It was reported at the last visit, too, and nothing has happened since.",
    "The warden was told and has put a barrier around it.",
    "Spare parts are in the store behind the boiler room.",
    "Two more of the same kind stand beside it and are as they should be.",
    "Whoever mends it needs the key of the lower cabinet.",
)
_TRADES = ("electrical", "mechanical", "building", "fire")


CHANGES = (
    {"description": "Mended, and looked at again on the same day.", "resolved": True},
    {"description": "Loose again after a week; it needs a new seal.", "resolved": False},
)
"""What an update sets, in turns: so that each changes something."""


def finding(number: int) -> dict[str, Any]:
    """A finding, as a client sends it: about 700 bytes of JSON. The same for the same number."""
    chosen = random.Random(number)
    return {
        "title": f"{chosen.choice(_TITLES)} ({number})",
        "severity": chosen.choice(_SEVERITIES),
        "description": " ".join(chosen.sample(_SENTENCES, 4)),
        "location": {"latitude": chosen.randrange(-900, 900) / 10, "longitude": chosen.randrange(-1800, 1800) / 10},
        "floor": chosen.randrange(-2, 12),
        "measurement": {"value": chosen.randrange(1, 400) / 10, "unit": "mm", "limit": 12.5},
        "dueTime": f"2026-{number % 12 + 1:02}-{number % 28 + 1:02}T08:30:00Z",
        "expectedEffort": f"{chosen.randrange(1, 40) * 900}s",
        "resolved": chosen.random() < 0.5,
        "labels": {"trade": chosen.choice(_TRADES), "area": f"hall-{number % 7}"},
    }
