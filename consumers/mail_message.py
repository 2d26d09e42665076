"""A queued mail → the message that is sent: headers, text, HTML, attachments."""

from __future__ import annotations

from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from typing import NamedTuple

from consumers.handlers import Poison
from server.caller import SYSTEM
from server.engine.content_types import ANYTHING, media_type
from server.engine.files import Files
from server.errors import Invalid, NotFound, Precondition, Unavailable

ATTACHMENTS = 20
"""Most files attached to one mail."""
BYTES = 20 << 20
"""Most bytes of a mail's text and attachments together, before encoding."""

_NESTED = ("message", "multipart")
"""What mails are made of: bytes that claim to be so would be taken for parts of this one."""


class Mail(NamedTuple):
    """A row of transom.mails."""

    id: str
    recipient: str
    subject: str
    body: str
    html: str
    reply_to: str
    attachments: list[str]
    create_time: datetime
    sent_time: datetime | None


class Messages:
    """Writes them, from one sender."""

    def __init__(self, files: Files, sender: str) -> None:
        self._files = files
        self._sender = sender

    async def of(self, mail: Mail) -> EmailMessage:
        """The message. Raises Poison where there can be none, Unavailable where an attachment is not READY yet."""
        message = EmailMessage()
        try:
            message["From"] = self._sender
            message["To"] = mail.recipient
            if mail.reply_to:
                message["Reply-To"] = mail.reply_to
            message["Subject"] = mail.subject
            message["Date"] = format_datetime(mail.create_time)
            message["Message-ID"] = f"<{mail.id}@{parseaddr(self._sender)[1].rpartition('@')[2]}>"
            message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office replies, please
            message.set_content(mail.body)
            if mail.html:
                message.add_alternative(mail.html, subtype="html")
        except (ValueError, UnicodeError) as error:  # a line break in a header, for one
            raise Poison(f"the mail cannot be written: {error}") from error
        if len(mail.attachments) > ATTACHMENTS:
            raise Poison(f"a mail has at most {ATTACHMENTS} attachments, this one {len(mail.attachments)}")
        size = len(mail.body) + len(mail.html)
        for name in mail.attachments:
            filename, content_type, data = await self._attached(name)
            size += len(data)
            if size > BYTES:
                raise Poison(f"a mail has at most {BYTES >> 20} MiB")
            kind, _, subtype = content_type.partition("/")
            try:
                message.add_attachment(data, maintype=kind, subtype=subtype, filename=filename)
            except (ValueError, TypeError, LookupError) as wrong:
                raise Poison(f"its attachment {name} cannot be written: {wrong}") from wrong
        return message

    async def _attached(self, name: str) -> tuple[str, str, bytes]:
        """Name for people, media type and bytes of a file that was looked at."""
        try:
            file = await self._files.get(SYSTEM, name)
            if file.state == "UPLOADED":  # nobody but its owner reads it yet, least of all by mail
                raise Unavailable(f"its attachment {name} is being processed", reason="FILE_PROCESSING")
            kind = media_type(file.content_type) or ANYTHING
            if kind.startswith(_NESTED):
                kind = ANYTHING
            return file.filename or name.rpartition("/")[2], kind, await self._files.read(name, BYTES)
        except (NotFound, Invalid, Precondition) as wrong:
            raise Poison(f"its attachment {name} cannot be read: {wrong.message}") from wrong
