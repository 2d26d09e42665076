"""What keys and admins may be limited to: `<what>:<action>`, as written and as checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from server.errors import Invalid, Violation
from server.query.rules.checking import ACTIONS
from server.schema.model import Schema

MOST = 100
"""Scopes of one key or admin."""

ANY = "*"

OWN: Mapping[str, Sequence[str]] = {
    "transom.admin.v1.User": ("list", "get", "update", "grant", "revoke_sessions", "invite", "impersonate"),
    "transom.admin.v1.Key": ("create", "list", "revoke"),
    "transom.admin.v1.AuditEntry": ("list",),
    "transom.admin.v1.Rule": ("explain",),
    "transom.accounts.v1.Account": ("delete",),
    "transom.accounts.v1.Export": ("create", "get", "list"),
    "transom.schedules.v1.Schedule": ("list", "get", "pause", "resume", "run"),
    "transom.tasks.v1.Task": ("create", "get", "list", "cancel", "retry"),
    "transom.webhooks.v1.WebhookEndpoint": (
        "create",
        "get",
        "list",
        "update",
        "delete",
        "pause",
        "resume",
        "rotate",
        "ping",
        "replay",
    ),
    "transom.files.v1.File": ("get", "create", "delete"),
}
"""What Transom's own services ask of admins, and of keys where files are concerned."""


class Scopes:
    """The scopes that there are: of the app's resources their actions, of its services the methods that are no standard
    ones, and what Transom's own services ask of admins."""

    def __init__(self, schema: Schema) -> None:
        self._known: dict[str, frozenset[str]] = {message: frozenset(ACTIONS) for message in schema.resources}
        self._known |= {
            service.name: frozenset(method.name for method in service.methods)
            for service in schema.services
            if not service.own
        }
        self._known |= {message: frozenset(actions) for message, actions in OWN.items()}

    def checked(self, given: Sequence[str], field: str = "scopes") -> tuple[str, ...]:
        """The scopes, each once. Raises Invalid for what is none: a misspelled one would be missed where it is needed
        most."""
        if len(given) > MOST:
            raise Invalid.field(field, f"has more than {MOST} scopes", "TOO_MANY")
        wrong = [
            Violation(f"{field}[{i}]", why, "UNKNOWN_SCOPE")
            for i, scope in enumerate(given)
            if (why := self._why(scope))
        ]
        if wrong:
            raise Invalid.fields(wrong)
        return tuple(dict.fromkeys(given))

    def _why(self, scope: str) -> str:
        """What is wrong with it; "" where nothing is."""
        what, colon, action = scope.partition(":")
        if not colon or not what or not action:
            return f"{scope[:200]!r} is not <message>:<action>"
        if what != ANY and what not in self._known:
            near = ", ".join(sorted(name for name in self._known if name.rpartition(".")[2] == what.rpartition(".")[2]))
            return f"there is no {what[:200]!r}" + (f"; did you mean {near}?" if near else "")
        known = self._known[what] if what != ANY else frozenset().union(*self._known.values())
        if action != ANY and action not in known:
            return f"{what} has no action {action[:200]!r}; there are {', '.join(sorted(known))}"
        return ""


def written(text: str) -> list[str]:
    """`inspect.v1.Site:get,list` → `inspect.v1.Site:get`, `inspect.v1.Site:list`."""
    what, colon, actions = text.strip().partition(":")
    return [f"{what}{colon}{action.strip()}" for action in actions.split(",")] if colon else [what]
