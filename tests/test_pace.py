"""What may be done at once, and what waits: seconds at which it is done as soon as it may be."""

from __future__ import annotations

import pytest

from server.store.pace import Pace


@pytest.mark.parametrize(
    ("wanted", "done"),
    [
        ([100.0, 100.0, 100.0, 100.0, 100.0], [100.0, 100.0, 100.0, 101.0, 102.0]),  # three at once, then one a second
        ([100.0, 101.0, 102.0, 103.0], [100.0, 101.0, 102.0, 103.0]),  # what comes no oftener never waits
        ([100.0, 100.0, 100.0, 101.5, 101.5], [100.0, 100.0, 100.0, 101.5, 102.0]),  # part of it is saved
        (
            [100.0, 100.0, 100.0, 200.0, 200.0, 200.0, 200.0],
            [100.0, 100.0, 100.0, 200.0, 200.0, 200.0, 201.0],
        ),  # not more
    ],
)
def test_pace(wanted: list[float], done: list[float]) -> None:
    pace, now, found = Pace(1.0, 3), 0.0, []
    for at in wanted:
        now = max(now, at)
        now += pace.wait(now)
        pace.take(now)
        found.append(now)
    assert found == done
