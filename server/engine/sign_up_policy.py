"""Who may make an account."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from server.engine.text import domain_key
from server.errors import Denied


class Policy(StrEnum):
    """Who may make an account without having been invited."""

    OPEN = "open"
    DOMAINS = "domains"
    """Whose address is of one of the domains that are listed."""
    INVITE = "invite"
    """Nobody."""
    CLOSED = "closed"
    """Nobody, and invitations that were sent are not taken either."""


class SignUpPolicy:
    """The policy of an installation.

    `verify`: an account is made once its address is proved; else at once. Raises ValueError for a domain that is none.
    """

    def __init__(self, policy: Policy = Policy.OPEN, domains: Iterable[str] = (), *, verify: bool = True) -> None:
        self.verify = verify
        self._policy = policy
        keys = {domain: domain_key(domain) for domain in domains}
        wrong = [domain for domain, key in keys.items() if key is None]
        if wrong:
            raise ValueError(f"these are not domains: {', '.join(wrong)}")
        self._domains = frozenset(key for key in keys.values() if key is not None)

    def admits(self, email_key: str, *, invited: bool = False) -> bool:
        """Whether an account may be made for the address with this canonical spelling."""
        return self._refusal(email_key, invited) is None

    def admit(self, email_key: str, *, invited: bool = False) -> None:
        """Raises Denied where no account may be made: SIGN_UP_CLOSED, INVITATION_REQUIRED, DOMAIN_NOT_ALLOWED. It says
        nothing of who has an account."""
        refusal = self._refusal(email_key, invited)
        if refusal is not None:
            raise refusal

    def _refusal(self, email_key: str, invited: bool) -> Denied | None:
        if self._policy is Policy.CLOSED:
            return Denied("Nobody can sign up.", reason="SIGN_UP_CLOSED")
        if invited or self._policy is Policy.OPEN:
            return None
        if self._policy is Policy.INVITE:
            return Denied("Signing up takes an invitation.", reason="INVITATION_REQUIRED")
        if email_key.rpartition("@")[2] in self._domains:
            return None
        return Denied("Addresses of this domain cannot sign up without an invitation.", reason="DOMAIN_NOT_ALLOWED")
