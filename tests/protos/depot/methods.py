"""The custom method of the depot."""

from __future__ import annotations

from typing import Any

from server.apps import Call, method


@method("depot.v1.DepotService.OrderItem")
async def order_item(call: Call) -> Any:
    """Orders an item; the last one goes with its order."""
    item = await call.get(call.request.name)
    order = call.create("depot.v1.Order", "", "", {"item": item.name})
    if call.request.sold_out:
        call.delete(item)
    return order
