"""What becomes of an account whose address is proved by somebody who need not be the one who made it."""

from __future__ import annotations

from server.engine.networks import network
from server.engine.words import Purpose
from server.store.deeds import Deed

TO_AN_ADDRESS = (Purpose.VERIFY, Purpose.RESET, Purpose.CHANGE, Purpose.CODE)
"""Words that were sent to the address an account had: void once it has another."""


async def claim(deed: Deed, user: str, address: str = "") -> None:
    """For whoever proves the address of an account that nobody had proved it for: the account is theirs, and whatever
    signs in to it now is not; nor are the networks known from which that was done, but the one of `address`. Its
    sessions are for the caller to end."""
    await deed.verify(user)
    await deed.remove_ways(user)
    await deed.set_password(user, None)
    await deed.drop(user, [*TO_AN_ADDRESS, Purpose.SECOND_FACTOR])
    await deed.forget_networks(user, keep=network(address))
