"""What the call that is being served says of itself, for the audit log."""

from __future__ import annotations

from server.engine.audit import Said
from server.services.current import current


def said() -> Said:
    """Who makes the call, from where, under which id; nothing of it outside of one."""
    call = current()
    return Said(call.caller.name, call.caller.impersonator, call.address, call.request_id)
