"""The custom methods of the desk."""

from __future__ import annotations

from typing import Any

from server.apps import Call, method


@method("desk.v1.DeskService.StampNote")
async def stamp(call: Call) -> Any:
    """One stamp more."""
    note = await call.get(call.request.name)
    return call.update(note, {"stamps": note.stamps + 1})
