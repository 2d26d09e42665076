"""Python's collector of cycles while a process starts: still from the import of this module until `go_on`.

What is imported stays, and walking it again and again as it grows is a seventh of a start.
"""

from __future__ import annotations

import gc

gc.disable()


def go_on() -> None:
    """It collects from now on, what is made from now on."""
    gc.freeze()
    gc.enable()
