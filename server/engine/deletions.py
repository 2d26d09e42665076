"""What becomes of an account that is to be deleted: done in the background, in bites, safe to die in at any of them.

Every bite commits by itself and makes less of what there is, so whoever begins again goes on. Two who do it at once do
no harm. When nothing is left, the account waits until whatever was under way when it was asked for is surely over
(`account_data.SETTLED`), is looked through once more, and goes.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from server.engine.audit import Audit
from server.engine.decisions import Decisions
from server.engine.files import Files
from server.engine.identity import fresh_id
from server.engine.letters import Letters
from server.engine.referring import Referring
from server.engine.revocations import Revocations
from server.errors import Refusal
from server.schema.model import Resource, Schema
from server.store import account_data as stored
from server.store import mails
from server.store.account_data import Condemned, StoredAccountData
from server.store.changes import Became, Change, Origin
from server.store.owned import Owned

SLICE = 120.0
"""Seconds of work after which an event is written that has it gone on with: no delivery takes long, however much an
account owns."""


class Records(Protocol):
    """The store of resources, as it is needed here."""

    def write(self, change: Change) -> Awaitable[Became]: ...


class Deletions:
    """Removes what belongs to accounts that are to be deleted, and then them."""

    def __init__(
        self,
        schema: Schema,
        decisions: Decisions,
        records: Records,
        owned: Owned,
        data: StoredAccountData,
        files: Files,
        revocations: Revocations,
        letters: Letters,
        audit: Audit,
        micros: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._schema = schema
        self._decisions = decisions
        self._referring = Referring(schema, decisions)
        self._records = records
        self._owned = owned
        self._data = data
        self._files = files
        self._revocations = revocations
        self._letters = letters
        self._audit = audit
        self._micros = micros
        self._clock = clock

    async def begin(self) -> int:
        """Has accounts worked on whose time has come; how many it were. To be called now and then, by anyone."""
        return await self._data.begin()

    async def work(self, name: str, origin: Origin) -> Sequence[tuple[str, Sequence[object]]]:
        """Removes what belongs to the account `name`, if it is to be deleted and its time has come; what to commit then.

        Nothing of that need be committed where this raises: it is begun again then.
        """
        user = name.removeprefix("users/")
        account = await self._data.state(user)
        if account is None or account.delete_time is None or account.purge_time is not None:
            return ()
        await self._revocations.end_sessions(user, why="account_deletion_requested")
        until = self._clock() + SLICE
        if not await self._removed(account, origin, until):
            return [stored.noted(stored.ACCOUNT, stored.REQUESTED, name, origin.caller, origin.request_id)]
        if not account.purged:
            return [stored.looked_for_later(user)]
        return self._farewell(account, origin)

    async def _removed(self, account: Condemned, origin: Origin, until: float) -> bool:
        """Whether all is removed; False where the time is over before."""
        await self._data.clean(account)
        for resource in self._schema.resources.values():
            if not resource.outlives_owner and not await self._emptied(resource, account.name, origin, until):
                return False
        return (
            await self._repeated(lambda: self._owned.forget(account.name), until)
            and await self._repeated(lambda: self._files.discard(account.name), until)
            and await self._repeated(lambda: self._data.forget_places(account.name), until)
        )

    async def _emptied(self, resource: Resource, owner: str, origin: Origin, until: float) -> bool:
        """Whether all resources of one kind that `owner` owns are removed, and what lives below them."""
        while names := await self._owned.names(resource, owner):
            for name in await self._left(resource, names, origin):
                if not await self._felled(resource, name, origin, until):
                    return False
            if self._clock() > until:
                return False
        return True

    async def _felled(self, resource: Resource, name: str, origin: Origin, until: float) -> bool:
        """Whether a resource is removed with all that lives below it, whoever owns that: what lives below something
        cannot do so without it. First what lives lowest, so that nothing of it takes long."""
        for lower in reversed(self._lower(resource)):
            while names := await self._owned.below(lower, name):
                for occupied in await self._left(lower, names, origin):
                    await self._with_children(lower, occupied, origin)
                if self._clock() > until:
                    return False
        await self._with_children(resource, name, origin)
        return True

    async def _with_children(self, resource: Resource, name: str, origin: Origin) -> None:
        """Removes a resource and what others have put below it meanwhile, while nobody can put more there."""
        change = self._decisions.delete(resource, name, etag="", force=True, origin=origin, regardless=True)
        outcome = await self._records.write(change)
        if isinstance(outcome, Refusal):
            raise outcome

    async def _left(self, resource: Resource, names: Sequence[str], origin: Origin) -> Sequence[str]:
        """Those of the resources that cannot be removed by themselves: they have something below them, or may be referred to."""
        return names if self._referring.into(resource) else await self._owned.remove(resource, names, origin)

    async def _repeated(self, bite: Callable[[], Awaitable[int]], until: float) -> bool:
        """Whether `bite`, done again and again, found nothing more to do in time."""
        while await bite():
            if self._clock() > until:
                return False
        return True

    def _lower(self, resource: Resource) -> list[Resource]:
        """The kinds of resources that may live somewhere below one, about in order of how far."""
        found: dict[str, Resource] = {}
        level = [resource]
        while level:
            level = [
                child for above in level for child in self._schema.children_of(above) if child.message not in found
            ]
            found |= {child.message: child for child in level}
        return list(found.values())

    def _farewell(self, account: Condemned, origin: Origin) -> list[tuple[str, Sequence[object]]]:
        """The end: the account, an event and an entry of it, and the mail that says so."""
        last: list[tuple[str, Sequence[object]]] = [
            *stored.gone(account),
            stored.noted(stored.ACCOUNT, stored.DELETED, account.name, origin.caller, origin.request_id),
            self._audit.statement("account_deleted", actor=origin.caller, target=account.name),
        ]
        if account.email:
            letter = self._letters.deleted(account.email)
            last += mails.queued(
                fresh_id(self._micros()),
                account.email,
                letter.subject,
                letter.text,
                caller=origin.caller,
                request_id=origin.request_id,
                fleeting=True,
            )
        return last
