"""How often somebody may call, and how often somebody may try to be somebody."""

from __future__ import annotations

from typing import Protocol


class Attempts(Protocol):
    """Sign-in throttling, as those who check a proof need it.

    `kind` is what is tried ("password", "code", "totp", ...), `key` whose it is (the canonical spelling of an e-mail
    address, known or not, or the id of an account), `address` where the call came from.
    """

    async def check(self, kind: str, key: str, address: str = "") -> None:
        """To be awaited before a proof is looked at: it counts as a try. Raises Exhausted (TOO_MANY_ATTEMPTS), with
        the time to wait, where there were too many; alike for keys that are nobody's."""

    async def failed(self, kind: str, key: str, address: str = "") -> None:
        """The proof was wrong."""

    async def succeeded(self, kind: str, key: str, address: str = "") -> None:
        """The proof was right: its try does not count, nor do the failures before it from this address, which is from
        now on one of the owner's."""

    async def released(self, kind: str, key: str, address: str = "") -> None:
        """The proof could not be looked at (something was away, or too much was asked at once): its try does not
        count."""
