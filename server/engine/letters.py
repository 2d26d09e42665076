"""What the mails about accounts say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Letter:
    """A mail's subject and text."""

    subject: str
    text: str


class Letters:
    """Writes them. `app` is what the app is called, `url` where its pages are.

    A word stands behind the `#` of its link, so that browsers keep it from servers, their logs and other pages.
    """

    def __init__(self, app: str, url: str) -> None:
        self._app = " ".join(app.split())
        self._url = url.rstrip("/")

    def sign_up(self, email: str, word: str, lasts: timedelta) -> Letter:
        """To a new address: does it want this account?"""
        return self._letter(
            "Confirm your address",
            f"Somebody, most likely you, signs up for {self._app} with the address {email}.",
            f"To confirm that it is yours, open {self._link('verify', word)}",
            f"The link is good for {_span(lasts)}, once. If it was not you, do nothing: there will be no account.",
        )

    def already(self, email: str) -> Letter:
        """To an address that has an account, where somebody signs up with it."""
        return self._letter(
            "You have an account",
            f"Somebody, perhaps you, tried to make an account at {self._app} with the address {email}. There is one "
            "already; nothing was changed.",
            f"If it was you: sign in. If you have forgotten your password, ask for another one at {self._page('reset')}",
            "If it was not you, there is nothing to do.",
        )

    def verify(self, email: str, word: str, lasts: timedelta) -> Letter:
        """To the address of an account that is not verified yet."""
        return self._letter(
            "Confirm your address",
            f"There is an account at {self._app} with the address {email}.",
            f"To confirm that it is yours, open {self._link('verify', word)}",
            f"The link is good for {_span(lasts)}, once. If you have made no account, do not open it.",
        )

    def change(self, email: str, word: str, lasts: timedelta) -> Letter:
        """To the new address of an account."""
        return self._letter(
            "Confirm your new address",
            f"Somebody, most likely you, gives {email} as the new address of an account at {self._app}.",
            f"To confirm that it is yours, open {self._link('verify', word)}",
            f"The link is good for {_span(lasts)}, once. If it was not you, do nothing: nothing will change.",
        )

    def change_asked(self, old: str, new: str) -> Letter:
        """To the verified address of an account, where another is asked for: it is not too late yet."""
        return self._letter(
            "Your account shall get another address",
            f"Somebody, most likely you, asks for the address of your account {old} at {self._app} to become {new}. Until "
            "that is confirmed there, nothing changes.",
            f"If it was not you, choose another password at once, and it will not happen: {self._page('reset')}",
        )

    def wanted(self, email: str) -> Letter:
        """To an address that has an account, where another account wants the address."""
        return self._letter(
            "Your address was given for another account",
            f"Somebody, perhaps you, gave {email} as the new address of another account at {self._app}. There is an "
            "account with this address already; nothing was changed.",
            "If it was not you, there is nothing to do.",
        )

    def changed(self, old: str, new: str) -> Letter:
        """To the old address of an account."""
        return self._letter(
            "The address of your account was changed",
            f"The address of your account at {self._app} was {old}. It is now {new}.",
            "If you did not change it, tell those who run the app at once: somebody else may be using your account.",
        )

    def reset(self, email: str, word: str, lasts: timedelta) -> Letter:
        """To the address of an account whose password is forgotten."""
        return self._letter(
            "Choose a new password",
            f"Somebody, most likely you, asks for a new password for the account {email} at {self._app}.",
            f"To choose one, open {self._link('reset', word)}",
            f"The link is good for {_span(lasts)}, once. If it was not you, do nothing: your password stays as it is.",
        )

    def password_changed(self, email: str) -> Letter:
        """To the address of an account whose password is another one now."""
        return self._letter(
            "Your password was changed",
            f"The password of your account {email} at {self._app} was changed, and all other devices were signed out.",
            f"If you did not change it, choose another one at once: {self._page('reset')}",
        )

    def ways_changed(self, email: str, what: str) -> Letter:
        """To the address of an account, of what was done to how it is signed in to: a whole sentence, `A passkey was
        added.`"""
        return self._letter(
            "How you sign in has changed",
            f"Your account {email} at {self._app}: {what}",
            "If it was you, there is nothing to do. If it was not, sign in, undo it, and end all other sessions; and "
            f"choose another password: {self._page('reset')}",
        )

    def code(self, code: str, lasts: timedelta) -> Letter:
        """To an address that signs in."""
        return self._letter(
            f"{code} is your code",
            f"The code to sign in to {self._app} is {code}",
            f"It is good for {_span(lasts)}, once, and only where you asked for it. Give it to nobody: whoever asks you "
            "for it is not us. If you did not ask for it, do nothing.",
        )

    def invitation(self, email: str, word: str, lasts: timedelta) -> Letter:
        """To an address that may make an account."""
        return self._letter(
            f"You are invited to {self._app}",
            f"You may make an account at {self._app} with the address {email}.",
            f"To do so, open {self._link('join', word)}",
            f"The link is good for {_span(lasts)}, once.",
        )

    def condemned(self, email: str, word: str, when: datetime) -> Letter:
        """To the address of an account that will be deleted."""
        return self._letter(
            "Your account will be deleted",
            f"Somebody, most likely you, asks for the account {email} at {self._app} to be deleted. Nobody can sign in to "
            f"it any more. On {_moment(when)} all that belongs to it will be removed.",
            f"To keep the account, open {self._link('keep', word)} before that.",
            "If it was not you, do so at once, and choose another password then.",
        )

    def deleted(self, email: str) -> Letter:
        """To what was the address of an account."""
        return self._letter(
            "Your account is deleted",
            f"The account {email} at {self._app} and all that belonged to it are removed. This is the last mail about it.",
        )

    def exported(self, email: str, until: datetime) -> Letter:
        """To the address of an account that asked for a copy of its data. The mail itself gives nobody access."""
        return self._letter(
            "The copy of your data is ready",
            f"What belongs to your account {email} at {self._app} was copied into one file.",
            f"To get it, sign in and open {self._page('exports')}",
            f"It stays there until {_moment(until)}. If you have not asked for it, choose another password: "
            f"{self._page('reset')}",
        )

    def _letter(self, subject: str, *paragraphs: str) -> Letter:
        return Letter(f"{self._app}: {subject}", "\n\n".join(paragraphs) + "\n")

    def _page(self, page: str) -> str:
        return f"{self._url}/account/{page}"

    def _link(self, page: str, word: str) -> str:
        return f"{self._page(page)}#{word}"


def _moment(when: datetime) -> str:
    return f"{when.astimezone(UTC):%d %B %Y, %H:%M} UTC"


def _span(lasts: timedelta) -> str:
    minutes = int(lasts.total_seconds()) // 60
    for size, unit in ((24 * 60, "days"), (60, "hours")):
        if minutes >= 2 * size and minutes % size == 0:
            return f"{minutes // size} {unit}"
    return "an hour" if minutes == 60 else f"{minutes} minutes"
