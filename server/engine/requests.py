"""Writes that are safe to repeat (AIP-155): the same request id is carried out once, and answered as the first time.

What is answered is kept in the transaction of the write itself: either both are there or neither is, whoever dies when. That
transaction begins with the first write and claims the id: two servers may both work out what to do, but only one of them does
it, and no connection is held by who only thinks. A refusal is not kept: nothing was done, and the same id may be tried again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress

from server.engine.resources import Call, Resources
from server.errors import Invalid, Precondition, Refusal
from server.store.joined import Joined
from server.store.requests import Answered, StoredRequests
from server.store.transactions import Transaction

REPLY_BYTES_MAX = 4 << 20
"""Of an answer that is kept: clients of gRPC receive no more unless told otherwise."""

NOBODYS_REPLY_BYTES_MAX = 64 << 10
"""The same where nobody is signed in: whoever likes may ask for as many as the rate limits let through."""

_ID = re.compile(r"[\x21-\x7e]{1,128}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class Requests:
    """The requests of callers that brought an id."""

    def __init__(self, stored: StoredRequests) -> None:
        self._stored = stored

    async def answer(
        self,
        resources: Resources,
        call: Call,
        id: str,
        asked: bytes,
        do: Callable[[Resources], Awaitable[bytes]],
        shown: Callable[[bytes], Awaitable[bytes]],
    ) -> bytes:
        """What `do` answers, which writes by the resources it is given; done once for all calls with this `id` and what is
        `asked`, the bytes that make two requests the same. Later ones are answered what `shown` leaves of the first answer.

        Ids are the caller's own. Raises Invalid for what is no id, and for an id that came with another request before.
        """
        caller = call.caller.name
        if not (_ID if caller else _UUID).fullmatch(id):
            # Who calls without a name shares ids with all who do.
            what = (
                "1 to 128 printable characters of ASCII, without spaces"
                if caller
                else "a UUID where nobody is signed in"
            )
            raise Invalid.field("request_id", f"must be {what}", "INVALID_REQUEST_ID")
        digest = hashlib.sha256(asked).digest()
        async with self._stored.turn(caller, id):
            while (before := await self._before(resources, caller, id)) is None:
                try:
                    return await self._done(resources, caller, id, digest, do)
                except _Meanwhile:
                    continue
                except Refusal:
                    # What was in the way may be what another server has done for this id just now.
                    with suppress(Refusal):
                        before = await self._before(resources, caller, id)
                    if before is None:
                        raise
                    break
        if before.digest != digest:
            raise Invalid(
                "This request id came with another request before; take a new one.",
                reason="REQUEST_ID_REUSED",
                metadata={"request_id": id},
            )
        return await shown(before.reply)

    async def _before(self, resources: Resources, caller: str, id: str) -> Answered | None:
        """What was answered to this id, if anything was."""
        async with resources.records.transaction() as transaction:
            before = await self._stored.claim(transaction, caller, id)
            if before is not None:
                transaction.callers.add(caller)  # the first answer may have been lost before it was marked as theirs
        return before

    async def _done(
        self, resources: Resources, caller: str, id: str, digest: bytes, do: Callable[[Resources], Awaitable[bytes]]
    ) -> bytes:
        """What `do` answers, once it is committed. Raises _Meanwhile, and nothing is done, where another server was first."""

        async def claim(transaction: Transaction) -> None:
            if await self._stored.claim(transaction, caller, id) is not None:
                raise _Meanwhile

        async with Joined(resources.records, claim) as joined:
            reply = await do(resources.over(joined))
            if len(reply) > (REPLY_BYTES_MAX if caller else NOBODYS_REPLY_BYTES_MAX):
                raise Precondition(
                    "The answer is too large to be kept; ask for less at once, or without a request id.",
                    reason="ANSWER_TOO_LARGE",
                )
            await self._stored.keep(await joined.begun(), caller, id, Answered(digest, reply))
        return reply

    async def sweep(self) -> int:
        """Deletes the requests that are too old to count; how many it were."""
        return await self._stored.sweep()


class _Meanwhile(Exception):
    """Another server has done since what is to be done. It is no Refusal: nobody on the way may take it for one and try again."""
