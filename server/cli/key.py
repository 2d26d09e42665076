"""`transom key`: service keys, straight in the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import click

from ._chosen import port_option, settings_of

if TYPE_CHECKING:
    from server.engine.keys import Keys
    from server.settings import Settings

T = TypeVar("T")


@click.group("key")
def command() -> None:
    """Make, list and revoke service keys.

    A service key lets a program (an internal tool, a consumer, grpcurl) call the API without an account:

        buf curl --header "authorization: Bearer $KEY" ...

    It has a role: `service` may use the app's resources, `admin` everything.

    Works on the stack with edge port --port, or on what TRANSOM_POSTGRES and the other settings name.
    """


@command.command()
@click.option("--title", required=True, help="What the key is for, at most 100 characters.")
@click.option("--role", type=click.Choice(["service", "admin"]), default="service", show_default=True)
@port_option
def create(title: str, role: str, port: int | None) -> None:
    """Make a key and print its token.

    The token is shown this once: only its SHA-256 is kept. It goes to standard output alone, so that
    KEY=$(transom key create --title nightly) holds it.
    """
    key, token = _run(port, lambda keys: keys.create(title, role))
    click.echo(f"keys/{key.id}, role {key.role}; the token is not shown again:", err=True)
    click.echo(token)


@command.command("list")
@port_option
def list_(port: int | None) -> None:
    """Show the keys there are, newest first."""
    keys = _run(port, lambda keys: keys.list())
    if not keys:
        click.echo("no keys", err=True)
    for key in keys:
        click.echo(f"keys/{key.id}  {key.role:7}  {key.create_time:%Y-%m-%d %H:%M}  {key.title}")


@command.command()
@click.argument("name", metavar="keys/KEY")
@port_option
def revoke(name: str, port: int | None) -> None:
    """End a key: on every server within 5 seconds."""
    _run(port, lambda keys: keys.revoke(name))
    click.echo(f"{name} is revoked", err=True)


def _run(port: int | None, work: Callable[[Keys], Awaitable[T]]) -> T:
    from server.errors import Refusal

    async def main() -> T:
        async with _keys(settings_of(port)) as keys:
            return await work(keys)

    try:
        return asyncio.run(main())
    except Refusal as refusal:
        raise click.ClickException(refusal.message) from refusal


@asynccontextmanager
async def _keys(settings: Settings) -> AsyncIterator[Keys]:
    from psycopg_pool import AsyncConnectionPool

    from server.engine.keys import Keys
    from server.store.keys import StoredKeys
    from server.store.redis import Redis
    from server.store.tokens import Tokens

    redis = Redis(settings.redis.get_secret_value())
    pool = AsyncConnectionPool(
        settings.postgres.get_secret_value(), min_size=1, max_size=1, open=False, reconnect_timeout=3
    )
    async with pool:
        tokens = Tokens(pool, redis)
        try:
            yield Keys(StoredKeys(pool), tokens)
        finally:
            await tokens.aclose()
            await redis.aclose()
