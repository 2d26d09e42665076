"""The audit log: what was done to accounts and by admins, and what was refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import orjson

from server.engine import page_tokens
from server.store.audit import INSERT, Entry, StoredAudit, StoredEntry, Wanted

OK = "ok"
"""The outcome of what was done."""

TEXT = 300
"""Characters of each text of an entry; what is longer is cut."""
DETAILS = 16
"""Details of an entry; what is more is left out."""


@dataclass(frozen=True, slots=True)
class Said:
    """What is known of the call that is being served, without being told."""

    actor: str = ""
    impersonator: str = ""
    address: str = ""
    request_id: str = ""


def unsaid() -> Said:
    """Outside of calls."""
    return Said()


class Audit:
    """Writes the log and reads it.

    Who notes something gives no secrets: no passwords, tokens, codes, and no address that was typed and belongs to
    nobody. What the call itself says (who calls, from where, its id) need not be given.
    """

    def __init__(
        self,
        stored: StoredAudit,
        said: Callable[[], Said] = unsaid,
        *,
        days: int = 365,
        page_size: int = 50,
        page_size_max: int = 1000,
    ) -> None:
        self._stored = stored
        self._said = said
        self._days = days
        self._page_size = page_size
        self._page_size_max = page_size_max

    async def note(
        self,
        action: str,
        *,
        actor: str = "",
        target: str = "",
        outcome: str = OK,
        details: Mapping[str, str] = {},
        address: str = "",
        device: str = "",
        impersonator: str = "",
        request_id: str = "",
    ) -> None:
        """Notes that `actor` did `action` to `target` (resource names), or was refused: then `outcome` is the reason.

        What was done is written when this returns, unless Postgres does not take it within two seconds. Then it is
        kept back and written later, as refusals always are, a fifth of a second later: at most 10,000 entries wait,
        and what waits is lost where the process is killed. Never raises for a database that is away.
        """
        entry = self._entry(action, actor, target, outcome, details, address, device, impersonator, request_id)
        if outcome == OK:
            await self._stored.add(entry)
        else:
            self._stored.keep(entry)

    def statement(
        self,
        action: str,
        *,
        actor: str = "",
        target: str = "",
        outcome: str = OK,
        details: Mapping[str, str] = {},
        address: str = "",
        device: str = "",
        impersonator: str = "",
        request_id: str = "",
    ) -> tuple[str, Sequence[object]]:
        """As `note`, as a statement and its parameters for the transaction that does it: there is no entry without
        the deed and no deed without the entry."""
        entry = self._entry(action, actor, target, outcome, details, address, device, impersonator, request_id)
        return INSERT, entry.values

    async def list(self, wanted: Wanted, page_size: int, page_token: str) -> tuple[Sequence[StoredEntry], str]:
        """A page of the entries, the last written first, and the token of the next page; "" after the last."""
        scope = f"audit {wanted.actor} {wanted.target} {wanted.action} {wanted.since} {wanted.until}"
        size = page_tokens.size(page_size, self._page_size, self._page_size_max)
        place = page_tokens.opened(page_token, scope)
        found = await self._stored.page(wanted, int(place[1]) if place else None, size + 1)
        shown = found[:size]
        following = page_tokens.sealed((shown[-1].time, str(shown[-1].id)), scope) if len(found) > size else ""
        return shown, following

    async def sweep(self) -> int:
        """Deletes some of the entries that are older than they are to be kept; how many it were. To be called now and
        then, by anyone."""
        return await self._stored.sweep(timedelta(days=self._days)) if self._days else 0

    def _entry(
        self,
        action: str,
        actor: str,
        target: str,
        outcome: str,
        details: Mapping[str, str],
        address: str,
        device: str,
        impersonator: str,
        request_id: str,
    ) -> Entry:
        said = self._said()
        kept = {_text(key): _text(value) for key, value in list(details.items())[:DETAILS]}
        return Entry(
            time=datetime.now(UTC),
            actor=_text(actor or said.actor),
            impersonator=_text(impersonator or said.impersonator),
            action=_text(action),
            target=_text(target),
            outcome=_text(outcome),
            address=_text(address or said.address),
            device=_text(device),
            request_id=_text(request_id or said.request_id),
            details=orjson.dumps(kept).decode(),
        )


def _text(given: str) -> str:
    """As much of a text as is kept: Postgres stores no NUL, and orjson no lone surrogate."""
    return given[:TEXT].replace("\0", "").encode(errors="replace").decode()
