"""People of the running system, who sign up as anybody does: with an address, and by reading their mail."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass
from typing import Any

import httpx

from deploy.native.stack import Stack

PASSWORD = "correct horse battery"


@dataclass(frozen=True)
class Person:
    """Somebody who is signed in."""

    email: str
    name: str
    """`users/{user}`."""
    token: str

    @property
    def id(self) -> str:
        """The last part of the name."""
        return self.name.removeprefix("users/")


def signed_in(stack: Stack, email: str, password: str = PASSWORD) -> Person:
    """Somebody who has an account, signed in."""
    made = _post(stack, "signIn", {"email": email, "password": password})
    return Person(email, made["account"]["name"], made["token"])


def signed_up(stack: Stack) -> Person:
    """Somebody new, whose address is proved to be theirs."""
    email = f"{secrets.token_hex(6)}@example.com"
    asked = _post(stack, "signUp", {"email": email, "password": PASSWORD})
    assert asked["verify"]
    word = mailed(stack, email, r"tsw_[A-Za-z0-9_-]{43}")
    _post(stack, "verifyEmail", {"word": word, "signUpToken": asked["signUpToken"]})
    return signed_in(stack, email)


def mailed(stack: Stack, email: str, pattern: str) -> str:
    """What fits the pattern in the newest mail to the address, which may still be under way."""
    deadline = time.monotonic() + 30
    while True:
        for mail in httpx.get(f"{stack.mailbox}/mails").json():
            if email in mail["to"] and (found := re.search(pattern, mail["text"])):
                return found[0]
        assert time.monotonic() < deadline, f"no mail to {email} within 30 s"
        time.sleep(0.05)


def _post(stack: Stack, verb: str, body: dict[str, Any]) -> Any:
    answer = httpx.post(f"{stack.edge}/transom/v1/accounts:{verb}", json=body, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()
