"""The line to the SMTP server: TLS, signing in, and one recipient at a time."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import EmailMessage

import aiosmtplib

from server.engine.bounces import plain, status_of
from server.errors import Unavailable
from server.settings import Settings

TIMEOUT = 60.0
"""Seconds one answer of the SMTP server may take."""
AWAY = "MAIL_SERVER_AWAY"
"""The reason of a mail server that is not there, or is not any more."""
OURS = frozenset({530, 534, 535, 538})
"""Codes (RFC 4954, RFC 3207) that want another way to sign in, or TLS: nothing is wrong with the mail."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the SMTP server made of a mail to one recipient."""

    code: int
    said: str
    """In one line of characters that can be kept: a server may send any bytes."""
    stage: str = "5.0.0"
    """The status that stands for where it was refused, if the server tells none."""

    @property
    def taken(self) -> bool:
        """It takes it from here."""
        return 200 <= self.code < 300

    @property
    def final(self) -> bool:
        """It never will (RFC 5321, 4.2.1: 5yz); else it may later."""
        return self.code >= 500

    @property
    def status(self) -> str:
        """Its enhanced status (RFC 3463)."""
        return status_of(self.said) or self.stage


class Line:
    """A connection that is signed in, if one has to."""

    def __init__(self, client: aiosmtplib.SMTP) -> None:
        self._client = client

    async def hand(self, message: EmailMessage, sender: str, recipient: str) -> Answer:
        """Hands over a mail to one recipient. Raises Unavailable where the connection does not last."""
        try:
            _, said = await self._client.send_message(message, sender=sender, recipients=[recipient])
            return Answer(250, plain(said))
        except aiosmtplib.SMTPRecipientsRefused as refused:
            [one] = refused.recipients
            return Answer(one.code, plain(one.message))
        except aiosmtplib.SMTPSenderRefused as refused:
            if refused.code in OURS:
                raise _away(refused) from refused
            return Answer(refused.code, plain(refused.message), "5.1.8")
        except aiosmtplib.SMTPDataError as refused:
            return Answer(refused.code, plain(refused.message), "5.6.0")
        except aiosmtplib.SMTPNotSupported as lacking:
            return Answer(
                550, plain(f"5.6.7 {lacking}")
            )  # RFC 6531: an address in letters that the server does not know
        except (aiosmtplib.SMTPException, OSError) as error:
            raise _away(error) from error


class Lines:
    """Connects as the settings say. Certificates are always checked."""

    def __init__(self, settings: Settings) -> None:
        self._host, _, port = settings.smtp.rpartition(":")
        self._port = int(port)
        self._user, self._tls = settings.smtp_user, settings.smtp_tls
        self._password = settings.smtp_password.get_secret_value() if settings.smtp_password else None
        self._ca = settings.smtp_ca

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Line]:
        """A line for as long as the block lasts.

        Raises Unavailable where there is none, or it is not safe, or one may not sign in: that is ours to mend, and a mail
        waits for it.
        """
        client = aiosmtplib.SMTP(
            hostname=self._host.strip("[]"),
            port=self._port,
            username=self._user,
            password=self._password,
            use_tls=self._tls == "tls",
            start_tls=self._tls == "starttls",
            tls_context=self._context(),
            timeout=TIMEOUT,
        )
        try:
            await client.connect()
        except (aiosmtplib.SMTPException, OSError) as error:
            client.close()
            raise _away(error) from error
        try:
            yield Line(client)
            try:
                await client.quit()
            except (aiosmtplib.SMTPException, OSError):
                pass  # all that was handed over is
        finally:
            client.close()

    def _context(self) -> ssl.SSLContext | None:
        if self._tls == "off":
            return None
        try:
            return ssl.create_default_context(cafile=str(self._ca) if self._ca else None)
        except OSError as error:
            raise _away(error) from error


def _away(error: Exception) -> Unavailable:
    said = plain(f"{type(error).__name__}: {error}")
    return Unavailable(f"the mail server did not take it: {said}", reason=AWAY)
