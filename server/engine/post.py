"""Mails about accounts: queued in the transaction of what they tell, so many an hour to one address and no more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from server.engine.audit import Said, unsaid
from server.engine.identity import fresh_id
from server.engine.letters import Letter
from server.store import mails
from server.store.deeds import Deed
from server.store.pooled import Statement

MAILS = 5
"""Mails of one purpose to one address within WITHIN whose words are not used. Nobody's mailbox is flooded."""
WITHIN = timedelta(hours=1)


class Post:
    """Queues mails. `clock` answers microseconds since 1970."""

    def __init__(self, clock: Callable[[], int], said: Callable[[], Said] = unsaid) -> None:
        self._clock = clock
        self._said = said

    async def room(self, deed: Deed, email_key: str, purpose: str) -> bool:
        """Whether one more mail of this purpose may go to the address, which the deed holds from now on."""
        await deed.hold(email_key)
        return await deed.recent(email_key, purpose, WITHIN) < MAILS

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
