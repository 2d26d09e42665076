"""Mails that come back: delivery status notifications (RFC 3464), and which addresses nothing is sent to any more for it.

Each recipient of a mail has a return path of their own, `bounces+<token>@…`, that only the mail servers on the way and the
recipient get to see. Whose a bounce is, the token says, and nothing else is believed: so nobody can have the mails of
somebody else stopped.
"""

from __future__ import annotations

import email
import email.policy
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message
from email.utils import getaddresses
from enum import StrEnum
from typing import Any

from server.store.mail_recipients import MailRecipients
from server.store.suppressions import Reason, suppressing

HARD = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1"})
"""Statuses (RFC 3463, RFC 7505) that say of the address itself that it takes no mail: no such mailbox, no such domain, not an
address, moved away, a domain without mail, a mailbox that is switched off. Others may have other reasons: a full mailbox, a
mail that is taken for spam, a relay that is set up wrongly."""
BLAMELESS = r"^5\.(1\.[78]|[567]\.)"
"""Statuses that say nothing against the address: the sender, the protocol, the mail itself or a policy was at fault."""
OFTEN, DAYS = 5, 30
"""Failures for other reasons within so many days after which nothing is sent to an address any more."""
BYTES = 1 << 20
"""Bytes of a bounce that are looked at. What it says comes first; the mail that came back may follow, whole."""
TOKEN_CHARS = 26

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_STATUS = re.compile(r"\b([245]\.[0-9]{1,3}\.[0-9]{1,3})\b")
_HEADERS = ("Delivered-To", "X-Original-To", "Envelope-To", "To")


class Fate(StrEnum):
    """What a message that came to the address of bounces turned out to be."""

    BOUNCED = "bounced"
    """A mail came back; that is written down."""
    REPEATED = "repeated"
    """The same, and it was written down before."""
    DELAYED = "delayed"
    """A mail is late, or arrived: nothing to do."""
    FOREIGN = "foreign"
    """Nobody's: no report, or to an address without a token that is known."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What was made of a message."""

    fate: Fate
    mail: str = ""
    address: str = ""
    status: str = ""
    said: str = ""
    suppressed: bool = False
    """Whether nothing is sent to the address any more."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a delivery status notification says of its one recipient."""

    action: str
    status: str
    said: str


class Bounces:
    """Takes what comes back. `mailbox` is the address that return paths are made of, empty where there is none."""

    def __init__(self, recipients: MailRecipients, mailbox: str) -> None:
        self._recipients = recipients
        self._local, _, self._domain = mailbox.lower().partition("@")

    async def take(self, raw: bytes, to: Sequence[str] = ()) -> Taken:
        """Writes down what the message `raw` tells; `to` is whom it was delivered to, where the mail server said so. The same
        message may be taken any number of times. Raises Unavailable."""
        message = email.message_from_bytes(raw[:BYTES], policy=email.policy.compat32)
        token = self._token([*to, *(str(value) for name in _HEADERS for value in message.get_all(name, []))])
        found = report(message)
        known = await self._recipients.known(token) if token else None
        if found is None or known is None:
            return Taken(Fate.FOREIGN)
        if found.action != "failed":
            return Taken(Fate.DELAYED, known.mail, known.address, found.status, found.said)
        why = verdict(found.status, await self._recipients.failures(known.address, DAYS, BLAMELESS))
        also = [suppressing(known.address, why, found.status, found.said)] if why else []
        done = await self._recipients.bounce(token, found.status, found.said, also)
        fate = Fate.BOUNCED if done else Fate.REPEATED
        return Taken(fate, known.mail, known.address, found.status, found.said, suppressed=bool(done and why))

    def _token(self, given: Sequence[str]) -> str:
        """The token of the first address that is a return path of ours; "" where none is."""
        if self._local:
            ours = re.compile(rf"{re.escape(self._local)}\+([{_ALPHABET}]{{{TOKEN_CHARS}}})@{re.escape(self._domain)}")
            for _, address in getaddresses([str(one) for one in given]):
                if found := ours.fullmatch(address.lower()):
                    return found[1]
        return ""


def new_token() -> str:
    """What stands in a return path: 130 random bits, in letters that survive a change of case."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(TOKEN_CHARS))


def return_path(mailbox: str, token: str) -> str:
    """`bounces@example.com` → `bounces+<token>@example.com`."""
    local, _, domain = mailbox.partition("@")
    return f"{local}+{token}@{domain}"


def verdict(status: str, failures: int) -> Reason | None:
    """Why nothing shall be sent to an address any more of which a mail failed for good with this status, and `failures` before
    it; None where it may get others."""
    if status in HARD:
        return Reason.BOUNCED
    return Reason.BOUNCED_OFTEN if failures + 1 >= OFTEN and not re.search(BLAMELESS, status) else None


def plain(said: str) -> str:
    """What a mail server said, in one line without what Postgres does not keep: bytes that are no UTF-8, NUL."""
    return " ".join("".join(c if c.isprintable() else " " for c in said).split())


def status_of(said: str) -> str:
    """The enhanced status (RFC 3463) in what a mail server said; "" where it told none."""
    found = _STATUS.search(said[:200])
    return found[1] if found else ""


def report(message: Message[Any, Any]) -> Report | None:
    """What a message says as a delivery status notification; None where it is none. Of several recipients the first that
    failed counts: our mails go to one at a time."""
    if message.get_content_type() != "multipart/report":
        return None
    told = [
        block
        for part in message.walk()
        if part.get_content_type() == "message/delivery-status" and part.is_multipart()
        for block in part.get_payload()
        if isinstance(block, Message) and block.get("Action")
    ]
    reports = [_report(block) for block in told]
    return next((one for one in reports if one.action == "failed"), reports[0] if reports else None)


def _report(block: Message[Any, Any]) -> Report:
    said = plain(str(block.get("Diagnostic-Code", "")))
    status = status_of(str(block.get("Status", ""))) or status_of(said)
    return Report(str(block["Action"]).strip().lower(), status, said.partition(";")[2].strip() or said)
