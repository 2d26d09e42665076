"""Sends the mails that transactions have queued in transom.mails.

A mail is accepted by the SMTP server before that can be written down: killed in between, it is sent again. Its
Message-ID is made from the mail's id, so that servers and readers recognise the repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime, getaddresses, parseaddr
from typing import Any, LiteralString, NamedTuple

import aiosmtplib
import psycopg
import structlog
from psycopg.rows import class_row
from transom.events.v1.event_pb2 import Event

from consumers.handlers import Handler, Poison, Statement, Work
from server.apps import Discard
from server.caller import SYSTEM
from server.engine.files import Files
from server.errors import Invalid, NotFound, Precondition, Unavailable
from server.settings import Settings
from server.store.pooled import Pool

log = structlog.get_logger("mail")

NAME, RESOURCE_TYPE, VERB = "transom.mail", "transom.mails.v1.Mail", "created"
ADDRESS = NAME, f"{RESOURCE_TYPE}.{VERB}"
"""The handler's name and routing key."""

RECIPIENTS = 50
"""Most recipients of one mail."""
ATTACHMENTS = 20
"""Most files attached to one mail."""
BYTES = 20 << 20
"""Most bytes of a mail's text and attachments together, before encoding."""
RETRIES = 30
"""With the ladder's last rung of an hour, an SMTP server may be away for a day."""
TIMEOUT = 60.0
"""Seconds one answer of the SMTP server may take."""
ERROR = 500
"""Longest error kept with a mail, in characters."""

_READ: LiteralString = (
    "select id, recipient, subject, body, attachments, create_time, sent_time from transom.mails where id = %s"
)
_SENT: LiteralString = """
update transom.mails set sent_time = clock_timestamp(), attempts = attempts + 1, last_error = %s,
    body = case when fleeting then '' else body end
where id = %s
"""
_FAILED: LiteralString = "update transom.mails set attempts = attempts + 1, last_error = %s where id = %s"


class Mail(NamedTuple):
    """A row of transom.mails."""

    id: str
    recipient: str
    subject: str
    body: str
    attachments: list[str]
    create_time: datetime
    sent_time: datetime | None


class Mails:
    """The handler of `transom.mails.v1.Mail.created`."""

    def __init__(self, pool: Pool, files: Files, settings: Settings) -> None:
        self._pool = pool
        self._files = files
        self._settings = settings
        host, _, port = settings.smtp.rpartition(":")
        self._host, self._port = host, int(port)

    @property
    def handler(self) -> Handler:
        """As the runner wants it."""
        return Handler(NAME, RESOURCE_TYPE, VERB, self.send, retries=RETRIES)

    async def send(self, event: Event, work: Work) -> Sequence[Statement]:
        """Sends the mail; what to commit then.

        Raises Poison where the mail can never be sent, Unavailable where it may be later; both are kept with the mail.
        Raises Discard where there is no such mail any more.
        """
        mail = await self._read(event.name.removeprefix("mails/"))
        if mail is None:
            raise Discard(f"{event.name} is not there any more: it was cleaned away, as with its account")
        if mail.sent_time is not None:
            return ()
        try:
            refused = await self._deliver(mail)
        except (Poison, Unavailable) as error:
            await self._write(_FAILED, [str(error)[:ERROR], mail.id])
            raise
        if refused:
            log.warning("some recipients were refused", mail=mail.id, refused=len(refused))
        return [(_SENT, ["; ".join(refused)[:ERROR], mail.id])]

    async def _deliver(self, mail: Mail) -> list[str]:
        """Hands the mail to the SMTP server; what it said about recipients it refused."""
        recipients = [address for _, address in getaddresses([mail.recipient]) if address]
        if not 1 <= len(recipients) <= RECIPIENTS:
            raise Poison(f"a mail goes to 1 to {RECIPIENTS} recipients, this one to {len(recipients)}")
        message = await self._message(mail)
        settings = self._settings
        password = settings.smtp_password.get_secret_value() if settings.smtp_password else None
        try:
            refused, _ = await aiosmtplib.send(
                message,
                sender=parseaddr(settings.mail_from)[1],
                recipients=recipients,
                hostname=self._host,
                port=self._port,
                username=settings.smtp_user,
                password=password,
                start_tls=settings.smtp_tls,
                timeout=TIMEOUT,
            )
        except (aiosmtplib.SMTPException, OSError) as error:
            raise _translated(error) from error
        return [f"{address}: {answer.code} {answer.message}" for address, answer in refused.items()]

    async def _message(self, mail: Mail) -> EmailMessage:
        message = EmailMessage()
        try:
            message["From"] = self._settings.mail_from
            message["To"] = mail.recipient
            message["Subject"] = mail.subject
            message["Date"] = format_datetime(mail.create_time)
            message["Message-ID"] = f"<{mail.id}@{parseaddr(self._settings.mail_from)[1].rpartition('@')[2]}>"
            message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office replies, please
            message.set_content(mail.body)
        except (ValueError, UnicodeError) as error:  # a line break in a header, for one
            raise Poison(f"the mail cannot be written: {error}") from error
        if len(mail.attachments) > ATTACHMENTS:
            raise Poison(f"a mail has at most {ATTACHMENTS} attachments, this one {len(mail.attachments)}")
        size = len(mail.body)
        for name in mail.attachments:
            filename, content_type, data = await self._attached(name)
            size += len(data)
            if size > BYTES:
                raise Poison(f"a mail has at most {BYTES >> 20} MiB")
            kind, _, subtype = content_type.partition(";")[0].strip().partition("/")
            message.add_attachment(data, maintype=kind, subtype=subtype, filename=filename)
        return message

    async def _attached(self, name: str) -> tuple[str, str, bytes]:
        """Name for people, content type and bytes of a file."""
        try:
            file = await self._files.get(SYSTEM, name)
            return file.filename or name.rpartition("/")[2], file.content_type, await self._files.read(name, BYTES)
        except (NotFound, Invalid, Precondition) as wrong:
            raise Poison(f"its attachment {name} cannot be read: {wrong.message}") from wrong

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


def _translated(error: Exception) -> Poison | Unavailable:
    """Whether a failure is for good (RFC 5321, 4.2.1: 5yz) or for now. A login that fails is ours to mend: for now."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        codes = [refused.code for refused in error.recipients]
        text = "; ".join(f"{refused.recipient}: {refused.code} {refused.message}" for refused in error.recipients)
    elif isinstance(error, aiosmtplib.SMTPDataError | aiosmtplib.SMTPSenderRefused | aiosmtplib.SMTPRecipientRefused):
        codes, text = [error.code], f"{error.code} {error.message}"
    else:
        codes, text = [], f"{type(error).__name__}: {error}"
    if codes and all(code >= 500 for code in codes):
        return Poison(f"the mail server refused it: {text}")
    return Unavailable(f"the mail server did not take it: {text}", reason="MAIL_SERVER_AWAY")
