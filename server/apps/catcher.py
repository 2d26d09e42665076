"""What the mail catcher of a development stack has caught, for an app's tests and for `transom mail list`.

from server.apps.catcher import Catcher

catcher = Catcher()                        # that of TRANSOM_MAILBOX: `transom env` prints it
catcher.clear()
...                                        # something that mails
mail = catcher.wait(to="ann@example.com", subject="Overdue")
assert "12 March" in mail.text and "<b>12 March</b>" in mail.html
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from server.settings import Settings

EVERY = 0.05
"""Seconds between two looks while waiting."""
PATIENCE = 10.0
"""Seconds the catcher may take to answer."""


@dataclass(frozen=True, slots=True)
class Caught:
    """One mail that was caught."""

    id: str
    to: tuple[str, ...]
    """Whom it was sent to, as the SMTP server was told."""
    sender: str
    """Its return path, as the SMTP server was told."""
    subject: str
    text: str
    html: str
    """Empty where it has none."""
    attachments: tuple[str, ...]
    """Names of the files."""
    time: datetime


class Catcher:
    """The catcher at `url`, by default that of the settings (TRANSOM_MAILBOX)."""

    def __init__(self, url: str = "") -> None:
        """Raises ValueError where nobody says where it is."""
        url = url or Settings().mailbox or ""
        if not url:
            raise ValueError("no mail catcher: TRANSOM_MAILBOX is not set; `transom env` prints it")
        self._url = url.rstrip("/")

    def mails(self, to: str = "", subject: str = "") -> list[Caught]:
        """What it has, newest first: to that address, and with that in the subject, where they are given. Raises OSError where
        it is away."""
        found = [_caught(told) for told in self._asked("GET", "/mails").json()]
        return [m for m in found if (not to or to.lower() in map(str.lower, m.to)) and subject in m.subject]

    def wait(self, to: str = "", subject: str = "", *, within: float = 10.0) -> Caught:
        """The newest such mail, as soon as there is one. Raises TimeoutError where none comes."""
        until = time.monotonic() + within
        while not (found := self.mails(to, subject)):
            if time.monotonic() > until:
                raise TimeoutError(f"no mail to {to or 'anybody'} with {subject!r} in its subject within {within:g} s")
            time.sleep(EVERY)
        return found[0]

    def raw(self, id: str) -> bytes:
        """The mail as it came. Raises KeyError where there is none."""
        answer = self._asked("GET", f"/mails/{id}", missing=True)
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise KeyError(id)
        return answer.content

    def clear(self) -> None:
        """Throws away what it has."""
        self._asked("DELETE", "/mails")

    def _asked(self, method: str, path: str, *, missing: bool = False) -> httpx.Response:
        try:
            answer = httpx.request(method, self._url + path, timeout=PATIENCE, trust_env=False)
            if not (missing and answer.status_code == httpx.codes.NOT_FOUND):
                answer.raise_for_status()
            return answer
        except httpx.HTTPError as error:
            raise OSError(f"the mail catcher at {self._url} cannot be asked: {type(error).__name__}") from error


def _caught(told: Mapping[str, Any]) -> Caught:
    files: Sequence[Mapping[str, Any]] = told["attachments"]
    return Caught(
        id=told["id"],
        to=tuple(told["to"]),
        sender=told["sender"],
        subject=told["subject"],
        text=told["text"],
        html=told["html"],
        attachments=tuple(str(file["filename"] or "") for file in files),
        time=datetime.fromisoformat(told["time"]),
    )
