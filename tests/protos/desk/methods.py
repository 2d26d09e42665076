"""The custom methods of the desk."""

from __future__ import annotations

from typing import Any

from server.apps import Call, method
from server.errors import Invalid


@method("desk.v1.DeskService.StampNote")
async def stamp(call: Call) -> Any:
    """One stamp more."""
    note = await call.get(call.request.name)
    return call.update(note, {"stamps": note.stamps + 1})


@method("desk.v1.DeskService.UpdateLamp")
async def update_lamp(call: Call) -> Any:
    """As the engine would, but for what it is called."""
    if not call.request.update_mask.paths:
        raise Invalid.field("update_mask", "is required", "REQUIRED")
    given = call.request.lamp
    lamp = await call.get(given.name)
    return call.update(lamp, {path: getattr(given, path) for path in call.request.update_mask.paths})
