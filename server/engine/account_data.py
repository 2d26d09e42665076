"""What belongs to an account as a whole: its deletion and its export, asked for here and done in the background."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from server.caller import ADMIN, Caller, Kind
from server.engine.audit import Audit, Said, unsaid
from server.engine.callers import require_own
from server.engine.granting import require_scope
from server.engine.letters import Letters
from server.engine.post import Post
from server.engine.proving import Proving
from server.engine.revocations import Revocations
from server.engine.tokens import WORD, digest, looks_like_word, new_id, new_token
from server.engine.words import Purpose
from server.errors import Denied, Exhausted, Invalid, NotFound, Precondition
from server.store import account_data as stored
from server.store.account_data import StoredAccountData, StoredExport
from server.store.accounts import StoredAccount
from server.store.deeds import Deed, Deeds
from server.store.words import NewWord

ACCOUNT, EXPORT = stored.ACCOUNT, stored.EXPORT
"""What scopes of admins name: with `delete`, and with `create`, `get`, `list`."""

EXPORTS = 5
"""Exports of one account that are kept, those under way and those that failed included."""

_USER = re.compile(r"users/([^/\x00]{1,64})")
_EXPORT = re.compile(r"exports/([^/\x00]{1,64})")


@dataclass(frozen=True, slots=True)
class Export:
    """A copy of all that belongs to an account; `name` is `exports/{export}`."""

    name: str
    user: str
    state: str
    """RUNNING, READY, FAILED."""
    file: str
    """`files/{file}`; empty before it is READY."""
    create_time: datetime
    complete_time: datetime | None
    expire_time: datetime | None


@dataclass(frozen=True, slots=True)
class Farewell:
    """When an account's data begin to be removed, and the word that keeps it until then, where one was made now."""

    delete_time: datetime
    word: str = ""


class AccountData:
    """Asks for deletions and exports. `delay` is how long an account waits before its data are removed."""

    def __init__(
        self,
        data: StoredAccountData,
        deeds: Deeds,
        post: Post,
        letters: Letters,
        proving: Proving,
        revocations: Revocations,
        audit: Audit,
        said: Callable[[], Said] = unsaid,
        *,
        delay: timedelta = timedelta(0),
    ) -> None:
        self._data = data
        self._deeds = deeds
        self._post = post
        self._letters = letters
        self._proving = proving
        self._revocations = revocations
        self._audit = audit
        self._said = said
        self._delay = delay

    async def delete(self, caller: Caller, name: str = "", password: str = "", address: str = "") -> Farewell:
        """Has an account deleted: the caller's own, or the one that an admin names. When this returns nobody can sign in
        to it, and its sessions have ended on this server; elsewhere as Revocations says.

        Raises Precondition (SIGN_IN_AGAIN) and Denied (WRONG_PASSWORD) where the caller does not prove who it is,
        Denied, Unauthenticated, NotFound, Invalid.
        """
        own = _own(caller, name)
        user = _user(caller, name, ACCOUNT, "delete")
        # An anonymous account has nothing to prove itself by, and nothing that a stranger could not make anew.
        if own and (caller.kind is Kind.USER or password):
            await self._proving.require(caller, password, address)
        farewell, ended = await self._condemn(caller, user, own)
        await self._revocations.ended(ended)
        await self._revocations.end_sessions(user, why="account_deletion_requested")
        await self._revocations.refresh(user)
        return farewell

    async def spare(self, word: str) -> None:
        """Keeps the account that waits to be deleted and that the word was made for.

        Raises Precondition (WORD_INVALID, NOT_WAITING).
        """
        async with self._deeds.begin() as deed:
            used = await deed.use(digest(word), Purpose.SPARE) if looks_like_word(word) else None
            if used is None or used.user_id is None:
                raise Precondition("The word is not, or no longer, good.", reason="WORD_INVALID")
            user = used.user_id
            ended = await self._spared(deed, None, user)
        await self._alive(user, ended)

    async def restore(self, caller: Caller, name: str) -> None:
        """Keeps the account `name`, which waits to be deleted; for admins.

        Raises Precondition (NOT_WAITING), Denied, Unauthenticated, NotFound, Invalid.
        """
        user = _others(caller, name, ACCOUNT, "delete")
        async with self._deeds.begin() as deed:
            ended = await self._spared(deed, caller, user)
        await self._alive(user, ended)

    async def export(self, caller: Caller, name: str = "") -> Export:
        """Begins an export of the caller's own account, or of the one that an admin names; the one that is under way
        where there is one.

        Raises Exhausted (TOO_MANY_EXPORTS), Precondition (ACCOUNT_LEAVING), Denied, Unauthenticated, NotFound, Invalid.
        """
        user = _user(caller, name, EXPORT, "create")
        id = new_id()
        async with self._deeds.begin() as deed:
            account = await self._held(deed, caller, user)  # and nobody else begins one meanwhile
            if account.delete_time is not None:
                raise Precondition("The account is to be deleted.", reason="ACCOUNT_LEAVING")
            kept = await self._data.exports(user)
            running = next((one for one in kept if one.state == "RUNNING"), None)
            if running is not None:
                return _export(running)
            if len(kept) >= EXPORTS:
                first = min((one.expire_time for one in kept if one.expire_time), default=datetime.now(UTC))
                raise Exhausted(
                    f"{EXPORTS} exports of this account are kept; the first of them goes at {first.isoformat()}.",
                    reason="TOO_MANY_EXPORTS",
                    retry_after=max(60.0, (first - datetime.now(UTC)).total_seconds()),
                )
            said = self._said()
            await deed.also(
                [
                    stored.export_begun(id, user),
                    stored.noted(EXPORT, stored.CREATED, f"exports/{id}", said.actor, said.request_id),
                    self._audit.statement("export_requested", target=f"users/{user}", details={"export": id}),
                ]
            )
        made = await self._data.export(id)
        if made is None:  # the account went in this very moment
            raise _no_account(f"users/{user}")
        return _export(made)

    async def get_export(self, caller: Caller, name: str) -> Export:
        """An export of the caller's, or of anybody's for an admin. Raises NotFound, Denied, Unauthenticated, Invalid."""
        match = _EXPORT.fullmatch(name)
        if match is None:
            raise Invalid.field("name", "is not exports/{export}", "NAME_INVALID")
        admin = _admin(caller, EXPORT, "get")
        user = "" if admin else require_own(caller)
        found = await self._data.export(match[1])
        if found is None or not (admin or found.user_id == user):
            raise NotFound("You have no such export.", resource=("transom.dev/Export", name))
        return _export(found)

    async def list_exports(self, caller: Caller, name: str = "") -> Sequence[Export]:
        """All exports of the caller's account, or of the one that an admin names, newest first."""
        user = _user(caller, name, EXPORT, "list")
        return [_export(one) for one in await self._data.exports(user)]

    async def _condemn(self, caller: Caller, user: str, own: bool) -> tuple[Farewell, Sequence[bytes]]:
        """What becomes of the account, and the hashes of the tokens of its sessions, which have ended."""
        now = datetime.now(UTC)
        purge_time = now + self._delay if self._delay else None
        name, said, word = f"users/{user}", self._said(), ""
        async with self._deeds.begin() as deed:
            account = await self._held(deed, caller, user)
            if account.delete_time is not None:  # asked for before: nothing is to do
                found = await self._data.state(user)
                return Farewell(found.purge_time or account.delete_time if found else now), ()
            await deed.also([stored.condemned(user, purge_time)])
            ended = await deed.end_sessions(user)
            if purge_time is None:
                await deed.also([stored.noted(ACCOUNT, stored.REQUESTED, name, said.actor, said.request_id)])
            else:
                made = new_token(WORD)
                word = made if own else ""
                await deed.keep(NewWord(digest(made), Purpose.SPARE, self._delay, user, account.email or ""))
                if account.email:
                    await self._post.queue(
                        deed, account.email, self._letters.condemned(account.email, made, purge_time)
                    )
            await deed.also([self._audit.statement("account_deletion_requested", target=name)])
        return Farewell(purge_time or now, word), ended

    async def _spared(self, deed: Deed, caller: Caller | None, user: str) -> Sequence[bytes]:
        """Keeps an account; the hashes of tokens that would come back to life, and must not."""
        await self._held(deed, caller, user)
        found = await self._data.state(user)
        if found is None or found.purge_time is None or found.purged:
            raise Precondition(
                "The account does not wait to be deleted.",
                reason="NOT_WAITING",
                resource=("transom.dev/User", f"users/{user}"),
            )
        ended = await deed.end_sessions(user)
        await deed.drop(user, [Purpose.SPARE])
        await deed.also(
            [stored.spared(user), self._audit.statement("account_deletion_cancelled", target=f"users/{user}")]
        )
        return ended

    async def _alive(self, user: str, ended: Sequence[bytes]) -> None:
        await self._revocations.ended(ended)
        await self._revocations.refresh(user)

    @staticmethod
    async def _held(deed: Deed, caller: Caller | None, user: str) -> StoredAccount:
        """The account; nobody else changes it until the deed is done. Raises NotFound, and Denied where it is an admin's
        and the caller is another one, of limited scopes: nobody gets rid of those who limit them."""
        account = await deed.by_id(user)
        if account is None:
            raise _no_account(f"users/{user}")
        if caller and caller.id != user and ADMIN in account.roles and caller.scopes is not None:
            raise Denied("This account may do more than you.", reason="SCOPE_MISSING")
        return account


def _own(caller: Caller, name: str) -> bool:
    return caller.account and name in ("", caller.name)


def _admin(caller: Caller, resource: str, action: str) -> bool:
    """Whether the caller may do this with any account."""
    return ADMIN in caller.roles and not caller.impersonator and caller.in_scope(resource, action)


def _user(caller: Caller, name: str, resource: str, action: str) -> str:
    """The id of the account that is meant: the caller's own, or the one that an admin names."""
    if not name or _own(caller, name):
        return require_own(caller)
    return _others(caller, name, resource, action)


def _others(caller: Caller, name: str, resource: str, action: str) -> str:
    """The id of the account that an admin names. Raises as `require_scope`."""
    match = _USER.fullmatch(name)
    if match is None:
        raise Invalid.field("name", "is not users/{user}", "NAME_INVALID")
    require_scope(caller, resource, action)
    return match[1]


def _export(found: StoredExport) -> Export:
    return Export(
        f"exports/{found.id}",
        f"users/{found.user_id}",
        found.state,
        found.file if found.state == "READY" else "",
        found.create_time,
        found.complete_time,
        found.expire_time,
    )


def _no_account(name: str) -> NotFound:
    return NotFound("There is no such account.", resource=("transom.dev/User", name))
