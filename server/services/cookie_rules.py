"""Which cookie a web page's session lives in, and which pages may call with it."""

from __future__ import annotations

from dataclasses import dataclass

CSRF_HEADER = "x-transom-csrf"
"""What a page sends with all that changes something; its value does not matter. No form and no link can send it, and a
browser asks the edge before a script of another origin may (CORS), which allows it to configured origins alone."""

_LONGEST = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class CookieRules:
    """How sessions of web pages are kept."""

    secure: bool = True
    """Only ever over TLS. Without it the cookie has another name, for development without TLS."""
    origins: frozenset[str] = frozenset()
    """Web origins whose pages may call, beside the one that the API itself is served from."""
    longest: int = _LONGEST
    """Seconds a session may last at most."""

    @property
    def name(self) -> str:
        """Of the cookie. With `__Host-` browsers take it from this very host alone, and only over TLS: no other host of
        the domain can put one in its place."""
        return "__Host-transom_session" if self.secure else "transom_session"

    def token(self, cookies: str) -> str | None:
        """The token that a `cookie` header carries; None where it has none."""
        name = f"{self.name}="
        for one in cookies.split(";"):
            one = one.strip()
            if one.startswith(name):
                return one[len(name) :]
        return None

    def cookie(self, token: str, seconds: int) -> str:
        """The `set-cookie` header that keeps `token` for so long; with "" and 0 it forgets it."""
        flags = "; Secure" if self.secure else ""
        return f"{self.name}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{flags}"

    def admits(self, origin: str, site: str, csrf: str) -> bool:
        """Whether a call with these headers (Origin, Sec-Fetch-Site, CSRF_HEADER) comes from a page that may call.

        Two things must hold: the browser says where the page is from, and that is here or one of `origins`; and the
        page could send a header that none of another origin can. A browser that says neither is too old to be trusted.
        """
        return bool(csrf) and (site == "same-origin" or (bool(origin) and origin in self.origins))


DEFAULT = CookieRules()
