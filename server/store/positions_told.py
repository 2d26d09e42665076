"""Hears that the relay has given positions to events, so that who follows the log need not look all the time."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from server.store.translation import refusal_of

CHANNEL = "transom_positions"
"""On which the relay tells it (consumers/relay.py)."""


async def hear(dsn: str, name: str, told: Callable[[], None]) -> None:
    """Calls `told` once it listens, and whenever positions were given, on a connection of its own, until it is cancelled.
    Raises Unavailable where the connection is lost."""
    try:
        async with await psycopg.AsyncConnection.connect(
            dsn, autocommit=True, connect_timeout=5, application_name=name, tcp_user_timeout=10_000
        ) as connection:
            await connection.execute(f"listen {CHANNEL}")
            told()
            async for _ in connection.notifies():
                told()
    except psycopg.Error as error:
        raise refusal_of(error) from error
