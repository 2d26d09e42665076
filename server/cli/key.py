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
    from server.engine.scopes import Scopes
    from server.settings import Settings
    from server.store.keys import StoredKey

T = TypeVar("T")


@click.group("key")
def command() -> None:
    """Make, list and revoke service keys.

    A service key lets a program (an internal tool, a consumer, grpcurl) call the API without an account:

        buf curl --header "authorization: Bearer $KEY" ...

    It has a role: `service` may use the app's resources, `admin` the admin service, too. With scopes it may do of that
    what they say and nothing else: resource and action (get, list, create, update, delete, watch), or service and
    method; `*` stands for any.

    Works on the stack with edge port --port, or on what TRANSOM_POSTGRES and the other settings name.
    """


@command.command()
@click.option("--title", required=True, help="What the key is for, at most 100 characters.")
@click.option("--role", type=click.Choice(["service", "admin"]), default="service", show_default=True)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    metavar="WHAT:ACTION[,ACTION]",
    help="What it may do, and nothing else; may be given often. Without one: everything.",
)
@port_option
def create(title: str, role: str, scopes: tuple[str, ...], port: int | None) -> None:
    """Make a key and print its token.

    \b
    transom key create --title "nightly import" --scope inspect.v1.Site:get,list --scope inspect.v1.Inspection:*

    A scope that the schema does not know is refused.

    The token is shown this once: only its SHA-256 is kept. It goes to standard output alone, so that
    KEY=$(transom key create --title nightly) holds it.
    """
    from server.caller import OPERATOR
    from server.engine.scopes import written

    given = [one for scope in scopes for one in written(scope)] if scopes else None
    key, token = _run(port, lambda keys: keys.create(OPERATOR, title, role, given), limited=bool(scopes))
    limits = f", {' '.join(key.scopes)}" if key.scopes is not None else ""
    click.echo(f"keys/{key.id}, role {key.role}{limits}; the token is not shown again:", err=True)
    click.echo(token)


@command.command("list")
@port_option
def list_(port: int | None) -> None:
    """Show the keys there are, newest first, with their scopes: `everything` where they have none."""
    from server.caller import OPERATOR

    keys = _run(port, lambda keys: keys.list(OPERATOR))
    if not keys:
        click.echo("no keys", err=True)
    for key in keys:
        click.echo(f"keys/{key.id}  {key.role:7}  {key.create_time:%Y-%m-%d %H:%M}  {key.title}  {_limits(key)}")


@command.command()
@click.argument("name", metavar="keys/KEY")
@port_option
def revoke(name: str, port: int | None) -> None:
    """End a key: on every server within a second."""
    from server.caller import OPERATOR

    _run(port, lambda keys: keys.revoke(OPERATOR, name))
    click.echo(f"{name} is revoked", err=True)


def _limits(key: StoredKey) -> str:
    return "everything" if key.scopes is None else " ".join(key.scopes)


def _run(port: int | None, work: Callable[[Keys], Awaitable[T]], *, limited: bool = False) -> T:
    from server.errors import Refusal

    async def main() -> T:
        async with _keys(settings_of(port), limited) as keys:
            return await work(keys)

    try:
        return asyncio.run(main())
    except Refusal as refusal:
        raise click.ClickException(refusal.message) from refusal


@asynccontextmanager
async def _keys(settings: Settings, limited: bool) -> AsyncIterator[Keys]:
    from psycopg_pool import AsyncConnectionPool

    from server.engine.audit import Audit
    from server.engine.keys import Keys
    from server.store.audit import StoredAudit
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
            yield Keys(StoredKeys(pool), tokens, Audit(StoredAudit(pool)), _scopes(settings) if limited else None)
        finally:
            await tokens.aclose()
            await redis.aclose()


def _scopes(settings: Settings) -> Scopes:
    from server.engine.scopes import Scopes
    from server.schema.compilation import SchemaError
    from server.schema.reading import read

    try:
        return Scopes(read(settings.descriptor.read_bytes()))
    except (OSError, SchemaError) as fault:
        raise click.ClickException(f"scopes cannot be checked without the schema: {fault}; transom build") from fault
