"""Checks of what people write: addresses, names, one line of text."""

from __future__ import annotations

import re
import unicodedata

from server.errors import Invalid, Violation

EMAIL = 254
"""Characters of an address (RFC 5321: a path is at most 256 octets, its brackets included)."""

LABEL = 100
"""Characters of a display name, and of a device's."""

_LOCAL = re.compile(r"[^\s\"(),:;<>@\[\\\]\x00-\x20\x7f.]+(?:\.[^\s\"(),:;<>@\[\\\]\x00-\x20\x7f.]+)*")
_LABEL = re.compile(rb"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")

_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the order in which others are shown: `exe.gpj` passes for a picture with them."""


def line(field: str, text: str, most: int) -> Violation | None:
    """What is wrong with one line of text of at most `most` characters; None where nothing is."""
    if len(text) > most:
        return Violation(field, f"has {len(text)} characters, more than {most}", "TOO_LONG")
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") or c in _REORDERING for c in text):
        return Violation(field, "has control characters", "CONTROL_CHARACTER")
    return None


def email_key(address: str) -> str | None:
    """The one spelling of an e-mail address under which it is unique; None where it is no address.

    Letter case, Unicode's compatible forms and the domain's two spellings
    (`bücher.example`, `xn--bcher-kva.example`) do not make another address.
    What has letters that folding takes for others (`ß` for `ss`) is none: it may be another mailbox than its key's.
    Quoted local parts and address literals (RFC 5321) are not accepted.
    """
    if len(address) > EMAIL or line("email", address, EMAIL) is not None or _ambiguous(address):
        return None
    local, at, domain = unicodedata.normalize("NFKC", address).casefold().rpartition("@")
    if not at or not _LOCAL.fullmatch(local) or len(local.encode()) > 64:
        return None
    ascii_domain = domain_key(domain)
    return None if ascii_domain is None else f"{unicodedata.normalize('NFKC', local)}@{ascii_domain}"


def address(email: str, key: str | None, field: str = "email") -> Violation | None:
    """What is wrong with an address whose `email_key` is `key`; None where nothing is."""
    if not email.strip():
        return Violation(field, "is required", "REQUIRED")
    return None if key is not None else Violation(field, "is not an e-mail address", "EMAIL_INVALID")


def refuse(*violations: Violation | None) -> None:
    """Raises Invalid for what is wrong, if anything is."""
    found = [violation for violation in violations if violation is not None]
    if found:
        raise Invalid.fields(found)


def domain_key(domain: str) -> str | None:
    """The one spelling of a domain; None where it is none, or one that the standards of 2003 and 2008 take for different
    ones: `straße.example` was `strasse.example`, and belongs to somebody else today. Written as `xn--…` it is one."""
    if _ambiguous(domain) or any(unicodedata.category(c) == "Cf" for c in domain):
        return None
    try:
        ascii_domain = unicodedata.normalize("NFKC", domain).casefold().encode("idna").lower()
    except UnicodeError:
        return None
    if len(ascii_domain) > 253 or not all(_LABEL.fullmatch(label) for label in ascii_domain.split(b".")):
        return None
    return ascii_domain.decode()


def _ambiguous(text: str) -> bool:
    """Whether folding does more than take away letter case, so that two mailboxes may get one key."""
    return any(form.casefold() != form.lower() for form in (text, unicodedata.normalize("NFKC", text)))
