"""How often somebody may try to be somebody.

Three counts slow a guesser down, and none of them is a lock:

- From one network at one account: five tries are free, then each waits twice as long as the one before, up to a quarter
  of an hour.
- From one network at any accounts: a bucket of tries, for those who try one password at many accounts.
- At one account from any networks: a bucket of tries, for those who have many addresses.

The last two are for strangers. A network from which the account proved itself within 90 days is not one: only its own
tries count there. So whoever fails on purpose, from however many addresses, does not keep the owner out of the places
where they usually are. From a new place the owner competes with the attacker for the strangers' tries; passkeys and
accounts elsewhere, which cannot be guessed, are not counted at all.

A try counts before the proof is looked at, and is given back where it was right: of many at once no more pass than one
after another. All of it is alike for keys that are nobody's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import structlog

from server.engine.audit import Audit
from server.engine.networks import network
from server.errors import Exhausted, Refusal
from server.rates import Rate
from server.store.attempts import Refused, Slowed, StoredAttempts, Try
from server.store.known_networks import KnownNetworks

HARDER = frozenset({"totp", "code", "recovery_code"})
"""Kinds of proof that are short: strangers have a third of the tries."""
NOTED_SECONDS = 60.0
"""Of the tries refused to one network, one is noted in so much time."""
STRANGER_SECONDS = 10.0
"""How long a network is taken for a stranger's without asking again."""
REMEMBERED = 10_000
"""Networks remembered for either; above that the oldest is forgotten."""

K = TypeVar("K")

log = structlog.get_logger("throttle")


class Attempts(Protocol):
    """Sign-in throttling, as those who check a proof need it.

    `kind` is what is tried ("password", "code", "totp", ...), `key` whose it is (the canonical spelling of an e-mail
    address, known or not, or the id of an account), `address` where the call came from.
    """

    async def check(self, kind: str, key: str, address: str = "") -> None:
        """To be awaited before a proof is looked at: it counts as a try. Raises Exhausted (TOO_MANY_ATTEMPTS), with
        the time to wait, where there were too many; alike for keys that are nobody's."""

    async def failed(self, kind: str, key: str, address: str = "") -> None:
        """The proof was wrong: the try stays counted."""

    async def succeeded(self, kind: str, key: str, address: str = "") -> None:
        """The proof was right: its try does not count, nor do the failures before it from this network, which is from
        now on one of the owner's."""

    async def released(self, kind: str, key: str, address: str = "") -> None:
        """The proof could not be looked at (something was away, or too much was asked at once): its try does not
        count."""


class Throttle:
    """Attempts, counted for all servers. `network_rate` and `account_rate` are what strangers may try, None without
    end."""

    def __init__(
        self,
        attempts: StoredAttempts,
        networks: KnownNetworks,
        audit: Audit,
        network_rate: Rate | None,
        account_rate: Rate | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._attempts = attempts
        self._networks = networks
        self._audit = audit
        self._network_rate = network_rate
        self._account_rate = account_rate
        self._clock = clock
        self._strangers: dict[tuple[str, str, str], float] = {}
        self._noted: dict[tuple[str, str], float] = {}

    async def check(self, kind: str, key: str, address: str = "") -> None:
        """As Attempts says."""
        one = self._try(kind, key, address)
        refused = await self._attempts.take(one, known=False)
        if refused is not None and refused.by is not Slowed.PAIR and await self._known(one):
            refused = await self._attempts.take(one, known=True)
        if refused is not None:
            await self._note(one, address)
            raise _exhausted(refused)

    async def failed(self, kind: str, key: str, address: str = "") -> None:
        """As Attempts says: it was counted when it was checked."""

    async def succeeded(self, kind: str, key: str, address: str = "") -> None:
        """As Attempts says."""
        one = self._try(kind, key, address)
        await self._attempts.give_back(one, anew=True)
        if one.network:
            self._strangers.pop((kind, key, one.network), None)
            try:
                await self._networks.seen(kind, key, one.network)
            except Refusal as refusal:  # the next time it is
                log.warning("a network is not kept", reason=refusal.reason)

    async def released(self, kind: str, key: str, address: str = "") -> None:
        """As Attempts says."""
        await self._attempts.give_back(self._try(kind, key, address), anew=False)

    def _try(self, kind: str, key: str, address: str) -> Try:
        account = self._account_rate
        if account is not None and kind in HARDER:
            account = Rate(max(1, account.calls // 3), account.seconds)
        return Try(kind, key, network(address), self._network_rate, account)

    async def _known(self, one: Try) -> bool:
        """Whether the account proved itself from that network. Who is throttled asks often: a no is remembered."""
        if not one.network:
            return False
        now, who = self._clock(), (one.kind, one.key, one.network)
        if self._strangers.get(who, 0.0) > now:
            return False
        if await self._networks.known(one.kind, one.key, one.network):
            return True
        _remember(self._strangers, who, now + STRANGER_SECONDS)
        return False

    async def _note(self, one: Try, address: str) -> None:
        now, who = self._clock(), (one.kind, one.network)
        if self._noted.get(who, 0.0) <= now:
            _remember(self._noted, who, now + NOTED_SECONDS)
            # Not whose account: what was typed may be nobody's address.
            await self._audit.note("sign_in", outcome="TOO_MANY_ATTEMPTS", details={"proof": one.kind}, address=address)


def _exhausted(refused: Refused) -> Exhausted:
    seconds = max(1, math.ceil(refused.seconds))
    return Exhausted(
        f"There were too many attempts; try again in {seconds} s.",
        reason="TOO_MANY_ATTEMPTS",
        retry_after=float(seconds),
    )


def _remember(table: dict[K, float], key: K, until: float) -> None:
    table.pop(key, None)
    if len(table) >= REMEMBERED:
        del table[next(iter(table))]
    table[key] = until
