"""Sends the mails that transactions have queued in transom.mails, to one recipient at a time.

A mail is accepted by the SMTP server before that can be written down: killed in between, it is sent again, to the one
recipient whose turn it was. Its Message-ID is made from the mail's id, so that servers and readers recognise the repeat.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import getaddresses, parseaddr
from typing import Any, LiteralString

import psycopg
import structlog
from prometheus_client import Counter
from psycopg.rows import class_row
from transom.events.v1.event_pb2 import Event

from consumers.handlers import Handler, Poison, Statement, Work
from consumers.mail_message import Mail, Messages
from consumers.smtp import AWAY, Answer, Line, Lines
from server.apps import Discard
from server.engine.bounces import BLAMELESS, DAYS, new_token, return_path, verdict
from server.engine.files import Files
from server.errors import Unavailable
from server.settings import Settings
from server.store.mail_recipients import MailRecipients, Recipient, State
from server.store.pooled import Pool
from server.store.suppressions import suppressing

log = structlog.get_logger("mail")

NAME, RESOURCE_TYPE, VERB = "transom.mail", "transom.mails.v1.Mail", "created"
ADDRESS = NAME, f"{RESOURCE_TYPE}.{VERB}"
"""The handler's name and routing key."""

RECIPIENTS = 50
"""Most recipients of one mail."""
RETRIES = 30
"""With the ladder's last rung of an hour, an SMTP server may be away for a day."""
HANGUPS_MAX = 3
"""How often the mail server may break the line over one mail; then it is away."""
HUNG_UP = 421
"""The code (RFC 5321) of a server that ends the line; it stands for one that does so without a word, too."""
ERROR = 500
"""Longest error kept with a mail, in characters."""

SENDINGS = Counter(
    "transom_mail_recipients",
    "Mails to one recipient by outcome: sent, refused, deferred (for now), suppressed.",
    ["outcome"],
)

_READ: LiteralString = """
select id, recipient, subject, body, html, reply_to, attachments, create_time, sent_time from transom.mails where id = %s
"""
_SENT: LiteralString = """
update transom.mails set sent_time = clock_timestamp(), attempts = attempts + 1, last_error = %s,
    body = case when fleeting then '' else body end, html = case when fleeting then '' else html end
where id = %s
"""
_FAILED: LiteralString = "update transom.mails set attempts = attempts + 1, last_error = %s where id = %s"


class Mails:
    """The handler of `transom.mails.v1.Mail.created`."""

    def __init__(self, pool: Pool, files: Files, settings: Settings) -> None:
        self._pool = pool
        self._recipients = MailRecipients(pool)
        self._messages = Messages(files, settings.mail_from)
        self._lines = Lines(settings)
        self._sender = parseaddr(settings.mail_from)[1]
        self._bounces = settings.mail_bounces

    @property
    def handler(self) -> Handler:
        """As the runner wants it."""
        return Handler(NAME, RESOURCE_TYPE, VERB, self.send, retries=RETRIES)

    async def send(self, event: Event, work: Work) -> Sequence[Statement]:
        """Sends the mail to whom it was not sent yet; what to commit then.

        Raises Poison where the mail can never be sent to anybody, Unavailable where it may be later to somebody; both are
        kept with the mail. Raises Discard where there is no such mail any more, or nobody it may go to.
        """
        mail = await self._read(event.name.removeprefix("mails/"))
        if mail is None:
            raise Discard(f"{event.name} is not there any more: it was cleaned away, as with its account")
        if mail.sent_time is not None:
            return ()
        try:
            states, said = await self._deliver(mail)
        except (Poison, Unavailable) as error:
            await self._write(_FAILED, [str(error)[:ERROR], mail.id])
            raise
        if State.SENT in states:
            return [(_SENT, ["; ".join(said)[:ERROR], mail.id])]
        why = "; ".join(said) or "nobody is left to send it to"
        await self._write(_FAILED, [why[:ERROR], mail.id])
        if State.REFUSED in states:
            raise Poison(f"the mail server refused it: {why}")
        raise Discard(why)

    async def _deliver(self, mail: Mail) -> tuple[set[State], list[str]]:
        """Hands the mail to the SMTP server, for each recipient; what became of it, and what was said of those who did not
        get it. Raises Unavailable where somebody may get it later, after all others were tried."""
        addresses = list(dict.fromkeys(address for _, address in getaddresses([mail.recipient]) if address))
        if not 1 <= len(addresses) <= RECIPIENTS:
            raise Poison(f"a mail goes to 1 to {RECIPIENTS} recipients, this one to {len(addresses)}")
        recipients = await self._recipients.of(mail.id, addresses, [new_token() for _ in addresses])
        states = {State(one.state) for one in recipients if one.state in (State.SENT, State.BOUNCED)}
        said, later = [], []
        waiting = []
        # What was refused is tried again: who has this event run again has mended something.
        for one in recipients:
            if one.state in (State.SENT, State.BOUNCED):
                continue
            if one.suppressed:
                said.append(f"{one.address}: nothing is sent to it, as its mails failed")
                states.add(await self._pass_by(mail.id, one))
            else:
                waiting.append(one)
        if waiting:
            message = await self._messages.of(mail)
            for one, answer in await self._hand_all(mail.id, message, waiting):
                if answer.taken:
                    states.add(State.SENT)
                elif answer.final:
                    states.add(State.REFUSED)
                    said.append(f"{one.address}: {answer.code} {answer.said}")
                else:
                    later.append(f"{one.address}: {answer.code} {answer.said}")
        if later:
            raise Unavailable(f"the mail server did not take it: {'; '.join(later)}", reason=AWAY)
        return states, said

    async def _hand_all(
        self, mail: str, message: EmailMessage, waiting: Sequence[Recipient]
    ) -> list[tuple[Recipient, Answer]]:
        """Sends it to each; where the line breaks at one, to the others over a new one. Raises Unavailable where there is none,
        or after HANGUPS_MAX that broke: it is not always the same ones that come last."""
        answers: list[tuple[Recipient, Answer]] = []
        left, broken, at = random.sample(waiting, len(waiting)), 0, None
        while left:
            try:
                async with self._lines.open() as line:
                    while left:
                        at = left.pop()
                        answer = await self._hand(line, mail, message, at)
                        if answer.code == HUNG_UP:
                            raise Unavailable(answer.said, reason=AWAY)
                        answers.append((at, answer))
                        at = None
            except Unavailable as gone:
                if at is None or gone.reason != AWAY or broken == HANGUPS_MAX:
                    raise
                answers.append((at, Answer(HUNG_UP, gone.message)))
                broken, at = broken + 1, None
        return answers

    async def _pass_by(self, mail: str, to: Recipient) -> State:
        """Sends nothing to a suppressed address. What this very mail was refused with stays written down."""
        if to.state == State.REFUSED:
            return State.REFUSED
        SENDINGS.labels(State.SUPPRESSED).inc()
        await self._recipients.settle(mail, to.address, State.SUPPRESSED, "", "", [])
        return State.SUPPRESSED

    async def _hand(self, line: Line, mail: str, message: EmailMessage, to: Recipient) -> Answer:
        """Sends it to one recipient and writes down what became of that."""
        sender = return_path(self._bounces, to.token) if self._bounces else self._sender
        answer = await line.hand(message, sender, to.address)
        if answer.taken:
            SENDINGS.labels(State.SENT).inc()
            await self._recipients.settle(mail, to.address, State.SENT, "", answer.said, [])
        elif answer.final:
            failures = await self._recipients.failures(to.address, DAYS, BLAMELESS)
            why = verdict(answer.status, failures)
            also = [suppressing(to.address, why, answer.status, answer.said)] if why else []
            SENDINGS.labels(State.REFUSED).inc()
            log.warning("a recipient was refused", mail=mail, code=answer.code, status=answer.status, suppressed=why)
            await self._recipients.settle(mail, to.address, State.REFUSED, answer.status, answer.said, also)
        else:
            SENDINGS.labels("deferred").inc()
        return answer

    async def _read(self, identity: str) -> Mail | None:
        try:
            async with self._pool.connection() as connection, connection.cursor(row_factory=class_row(Mail)) as cursor:
                return await (await cursor.execute(_READ, [identity])).fetchone()
        except psycopg.Error as error:
            raise Unavailable("The database is away.", reason="DATABASE_AWAY") from error

    async def _write(self, statement: LiteralString, parameters: Sequence[Any]) -> None:
        try:
            async with self._pool.connection() as connection:
                await connection.execute(statement, parameters)
        except psycopg.Error as error:
            log.warning("could not keep why a mail was not sent", error=type(error).__name__)
