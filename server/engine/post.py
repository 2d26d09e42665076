"""Mails about accounts: queued in the transaction of what they tell, so many an hour to one address and no more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from server.engine.audit import Said, unsaid
from server.engine.identity import fresh_id
from server.engine.letters import Letter
from server.engine.networks import network
from server.store import mails
from server.store.deeds import Deed
from server.store.pooled import Statement

MAILS = 5
"""Mails of one purpose to one address within WITHIN whose words are not used, for what one network asked."""
STRANGERS = 20
"""The same, for what all networks asked together from which the account of the address did not prove itself lately. So
nobody's mailbox is flooded, and nobody keeps the owner's own mails away from where they usually are."""
WITHIN = timedelta(hours=1)


class Post:
    """Queues mails. `clock` answers microseconds since 1970."""

    def __init__(self, clock: Callable[[], int], said: Callable[[], Said] = unsaid) -> None:
        self._clock = clock
        self._said = said

    async def room(self, deed: Deed, email_key: str, purpose: str, address: str = "") -> bool:
        """Whether one more mail of this purpose may go to the address, which the deed holds from now on. `address` is
        where the call came from; what is asked from there counts there, if the word is kept with `network(address)`."""
        await deed.hold(email_key)
        recent = await deed.recent(email_key, purpose, WITHIN, network(address))
        return recent.here < MAILS and (recent.known or recent.strangers < STRANGERS)

    async def queue(self, deed: Deed, to: str, letter: Letter, *, withheld: bool = False) -> None:
        """Queues a mail for when the deed is done. A `withheld` one is never sent, but takes as long."""
        await deed.also(self.statements(to, letter, withheld=withheld))

    def statements(self, to: str, letter: Letter, *, withheld: bool = False) -> list[Statement]:
        """As `queue`, as statements for a transaction of somebody else's."""
        said = self._said()
        return [
            *mails.queued(
                fresh_id(self._clock()),
                to,
                letter.subject,
                letter.text,
                caller=said.actor,
                request_id=said.request_id,
                fleeting=True,
                withheld=withheld,
            )
        ]
