"""What the standard methods cannot do: the moves of an inspection, whose state changes nowhere else, and how a site begins.

Who may call them is said beside them in the schema, and was looked at before they run.
"""

from __future__ import annotations

from typing import Any

from server.apps import Call, method
from server.errors import Precondition


@method("inspect.v1.InspectionService.CreateSite")
async def create_site(call: Call) -> Any:
    """Adds a site together with its first manager: the rules ask for a member's role, and who else should give it one?"""
    site = call.create("inspect.v1.Site", "", call.request.site_id, call.request.site)
    if call.caller.kind == "user":
        call.create("inspect.v1.Member", site.name, call.caller.id, {"user": call.caller.name, "role": "MANAGER"})
    return site


@method("inspect.v1.InspectionService.SubmitInspection")
async def submit(call: Call) -> Any:
    """Hands an inspection in; the task that listens for `submitted` writes its report."""
    inspection = await call.get(call.request.name)
    _require(inspection, "submitted", "DRAFT", "REJECTED")
    if not inspection.summary and not await call.list("inspect.v1.Finding", inspection.name):
        raise Precondition(
            "The inspection has neither a finding nor a summary: say in a sentence that nothing was found.",
            reason="NO_SUMMARY",
            metadata={"name": inspection.name},
        )
    changes = {
        "state": "SUBMITTED",
        "submit_time": call.now,
        # Of the round before, where it was rejected.
        "report": None,
        "reviewer": None,
        "review_time": None,
        "reject_reason": None,
    }
    return call.update(inspection, changes, event="submitted", etag=call.request.etag)


@method("inspect.v1.InspectionService.ApproveInspection")
async def approve(call: Call) -> Any:
    """Agrees with an inspection, unless people are still in danger."""
    inspection = await call.get(call.request.name)
    _require(inspection, "approved", "SUBMITTED")
    findings = await call.list("inspect.v1.Finding", inspection.name)
    dangers = sum(1 for f in findings if f.severity == f.CRITICAL and not f.resolved)
    if dangers:
        raise Precondition(
            "A critical finding is not resolved: mend it, or reject the inspection.",
            reason="CRITICAL_OPEN",
            metadata={"name": inspection.name, "findings": str(dangers)},
        )
    return call.update(inspection, _reviewed(call, "APPROVED"), event="approved", etag=call.request.etag)


@method("inspect.v1.InspectionService.RejectInspection")
async def reject(call: Call) -> Any:
    """Sends an inspection back, with the reason."""
    inspection = await call.get(call.request.name)
    _require(inspection, "rejected", "SUBMITTED")
    changes = _reviewed(call, "REJECTED") | {"reject_reason": call.request.reason}
    return call.update(inspection, changes, event="rejected", etag=call.request.etag)


def _require(inspection: Any, move: str, *states: str) -> None:
    """Raises Precondition unless the inspection is in one of `states`."""
    state = inspection.State.Name(inspection.state)
    if state not in states:
        raise Precondition(
            f"The inspection is {state} and cannot be {move}.",
            reason="WRONG_STATE",
            metadata={"name": inspection.name, "state": state},
        )


def _reviewed(call: Call, state: str) -> dict[str, Any]:
    user = call.caller.name if call.caller.name.startswith("users/") else None  # else a key or the system
    return {"state": state, "reviewer": user, "review_time": call.now}
