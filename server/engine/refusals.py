"""How access is refused: what may not be got is not there, and a refusal says what was asked for, never why it was refused."""

from __future__ import annotations

from collections.abc import Mapping

from server.caller import Caller
from server.errors import Denied, NotFound, Refusal, Unauthenticated
from server.schema.model import Resource


def absent(resource: Resource, name: str) -> NotFound:
    """The refusal for a resource that is not there, or not for this caller."""
    return NotFound(f"{name} does not exist.", metadata={"name": name}, resource=(resource.type, name))


def sign_in() -> Unauthenticated:
    """The refusal for nobody."""
    return Unauthenticated("Sign in first, or send a service key: Authorization: Bearer <token>.")


def refused(caller: Caller, resource: Resource, action: str, field: str = "") -> Refusal:
    """The refusal of an action; it names the action, and never what the rule says."""
    if not caller.known:
        return sign_in()
    metadata: Mapping[str, str] = {"resource": resource.type, "action": action} | ({"field": field} if field else {})
    what = f"set the field {field} of" if field else action
    return Denied(f"You may not {what} this resource.", reason="ACCESS_DENIED", metadata=metadata)
