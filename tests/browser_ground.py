"""A real Chromium without a window, for tests of what happens in a browser.

Playwright's loop lives in the thread that opens it until it is closed: tests of the same module make their calls without
asyncio.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from deploy.native.browser import FLAGS, browser
from deploy.native.stack import HOME


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser with an empty profile, for as long as the block lasts."""
    found = browser(HOME, print)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=found.program, args=list(FLAGS), env={**os.environ, **found.env}
        )
        try:
            yield running
        finally:
            running.close()


def page_at(running: Browser, url: str, html: str = "<!doctype html><title>page</title>") -> Page:
    """A page of its own, with cookies of its own, that shows `html` at `url`: of that origin, whoever listens there. All
    its other requests go where they should."""
    page = running.new_context().new_page()
    page.route(url, lambda route: route.fulfill(body=html, content_type="text/html"))
    page.goto(url)
    return page


class Authenticator:
    """The authenticator built into the device that a page runs on. It agrees to whatever it is asked."""

    def __init__(self, page: Page, *, verifies: bool = True) -> None:
        """`verifies`: whether it can verify its user (fingerprint, PIN)."""
        self._cdp = page.context.new_cdp_session(page)
        self._cdp.send("WebAuthn.enable")
        options = {
            "protocol": "ctap2",
            "transport": "internal",
            "hasResidentKey": True,
            "hasUserVerification": verifies,
            "isUserVerified": verifies,
            "automaticPresenceSimulation": True,
        }
        self._id = self._cdp.send("WebAuthn.addVirtualAuthenticator", {"options": options})["authenticatorId"]

    @property
    def credentials(self) -> list[dict[str, Any]]:
        """What it keeps: the credentials with their private keys and counters."""
        kept = self._cdp.send("WebAuthn.getCredentials", {"authenticatorId": self._id})["credentials"]
        assert isinstance(kept, list)
        return kept

    def keep(self, credential: dict[str, Any]) -> None:
        """Puts a credential into it, as a copy from elsewhere."""
        self._cdp.send("WebAuthn.addCredential", {"authenticatorId": self._id, "credential": credential})

    def forget(self) -> None:
        """Empties it."""
        self._cdp.send("WebAuthn.clearCredentials", {"authenticatorId": self._id})

    def remove(self) -> None:
        """Takes it out of the device, with what it keeps."""
        self._cdp.send("WebAuthn.removeVirtualAuthenticator", {"authenticatorId": self._id})
