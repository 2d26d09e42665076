"""Sessions of web pages: their token is kept in a cookie that no script can read."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from server.errors import Denied
from server.services.current import current


def check_page() -> None:
    """For calls that set the cookie, and those that change something with it. Raises Denied (CSRF_CHECK_FAILED) where
    the call does not come from a page that may."""
    call = current()
    if not call.cookies.admits(call.origin, call.site, call.csrf):
        raise Denied(
            "This page may not call with a cookie, or has not sent x-transom-csrf.", reason="CSRF_CHECK_FAILED"
        )


async def set_cookie(context: Any, token: str, expire_time: datetime) -> None:
    """Gives the page that calls the session with this token. To be awaited before the answer, once."""
    check_page()
    await _send(context, token, max(0, int(expire_time.timestamp() - time.time())))


async def renewed(context: Any, token: str) -> str:
    """The new token of the session that calls, as the answer shows it: empty where the session lives in a cookie, for
    then the new one is in that."""
    call = current()
    if not call.web or not token:
        return token
    await _send(context, token, call.cookies.longest)
    return ""


async def clear_cookie(context: Any) -> None:
    """Makes the page that calls forget its session, where that lives in a cookie."""
    if current().web:
        await _send(context, "", 0)


async def _send(context: Any, token: str, seconds: int) -> None:
    await context.send_initial_metadata((("set-cookie", current().cookies.cookie(token, seconds)),))
