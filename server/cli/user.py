"""`transom user`: accounts, as an operator sees and changes them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ._chosen import port_option, settings_of

if TYPE_CHECKING:
    from server.app import Parts
    from server.engine.account import Session
    from server.engine.admins import Change, User

T = TypeVar("T")

MOST = 1000
"""Accounts, or sessions, shown at most."""


@click.group("user")
def command() -> None:
    """Look at accounts, give them roles, disable them, end their sessions, invite people, copy and delete what is theirs.

    A USER is an e-mail address or a name, users/...

    What is done is written to the audit log (transom audit) as done by `operator`. Works on the stack with edge port
    --port, or on what TRANSOM_POSTGRES and the other settings name.
    """


@command.command("list")
@click.argument("part", default="", metavar="[PART]")
@click.option("--role", default="", help="Only accounts with this role.")
@port_option
def list_(part: str, role: str, port: int | None) -> None:
    """Show accounts, newest first, at most 1000: those whose address contains PART, or all."""
    from server.caller import OPERATOR

    async def work(parts: Parts) -> tuple[list[User], str]:
        users, following = await parts.admins.list(OPERATOR, MOST, "", email=part, role=role)
        return list(users), following

    users, following = _run(port, work)
    if not users:
        click.echo("no accounts", err=True)
    for user in users:
        marks = [*user.roles, *(["disabled"] if user.disabled_time else []), *(["anonymous"] if user.anonymous else [])]
        click.echo(f"{user.name}  {user.create_time:%Y-%m-%d %H:%M}  {user.email or '-'}  {' '.join(marks)}".rstrip())
    if following:
        click.echo("and older ones: name a part of the address", err=True)


@command.command()
@click.argument("user")
@port_option
def show(user: str, port: int | None) -> None:
    """Show one account."""

    async def work(parts: Parts) -> User:
        return await _found(parts, user)

    _show(_run(port, work))


@command.command()
@click.argument("user")
@click.option("--add", multiple=True, metavar="ROLE", help="A role more; may be given often.")
@click.option("--remove", multiple=True, metavar="ROLE", help="A role less; may be given often.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    metavar="WHAT:ACTION[,ACTION]",
    help="What the account may do as an admin, and nothing else; may be given often.",
)
@click.option("--everything", is_flag=True, help="As an admin, the account may do everything.")
@port_option
def role(
    user: str,
    add: tuple[str, ...],
    remove: tuple[str, ...],
    scopes: tuple[str, ...],
    everything: bool,
    port: int | None,
) -> None:
    """Change the roles of an account, and what it may do as an admin.

    \b
    transom user role ann@example.com --add admin
    transom user role ben@example.com --add admin --scope transom.admin.v1.User:list,get,update

    Effective at once, in sessions that there are, too.
    """
    from server.engine.admins import Change
    from server.engine.scopes import written

    if everything and scopes:
        raise click.UsageError("either --scope or --everything")
    given = [one for scope in scopes for one in written(scope)]

    def change(before: User) -> Change:
        roles = (set(before.roles) | set(add)) - set(remove)
        paths = {"roles", *(["scopes"] if everything or given else [])}
        return Change(frozenset(paths), roles=tuple(roles), scopes=tuple(given) if given else None, etag=before.etag)

    _show(_changed(port, user, change))


@command.command()
@click.argument("user")
@port_option
def disable(user: str, port: int | None) -> None:
    """Let nobody sign in to an account, and end its sessions."""
    _disabled(port, user, True)


@command.command()
@click.argument("user")
@port_option
def enable(user: str, port: int | None) -> None:
    """Let an account sign in again."""
    _disabled(port, user, False)


@command.command()
@click.argument("user")
@click.option("--revoke", is_flag=True, help="End them all.")
@port_option
def sessions(user: str, revoke: bool, port: int | None) -> None:
    """Show where an account is signed in, newest first, at most 1000; with --revoke, end that."""
    from server.caller import OPERATOR, Caller, Kind

    async def work(parts: Parts) -> list[Session] | int:
        found = await _found(parts, user)
        if revoke:
            return await parts.admins.revoke_sessions(OPERATOR, found.name)
        shown, _ = await parts.sessions.list(Caller(kind=Kind.USER, name=found.name), MOST, "")
        return list(shown)

    done = _run(port, work)
    if isinstance(done, int):
        click.echo(f"{done} ended", err=True)
        return
    if not done:
        click.echo("no sessions", err=True)
    for one in done:
        click.echo(f"{one.name}  {one.create_time:%Y-%m-%d %H:%M} to {one.expire_time:%Y-%m-%d %H:%M}  {one.device}")


@command.command("second-factor")
@click.argument("user")
@click.option("--remove", is_flag=True, help="Remove it: to sign in, the first proof is enough again.")
@port_option
def second_factor(user: str, remove: bool, port: int | None) -> None:
    """Show whether an account has a second factor; with --remove, take it away from who has lost app and recovery codes.

    Make sure that it is the owner who asks. They are told by mail.
    """
    from server.caller import OPERATOR

    async def work(parts: Parts) -> bool:
        found = await _found(parts, user)
        if remove:
            await parts.admins.remove_second_factor(OPERATOR, found.name)
        return "totp" in found.ways

    has = _run(port, work)
    click.echo("removed" if remove else "an authenticator app" if has else "none", err=remove)


@command.command()
@click.argument("email")
@click.option("--role", "roles", multiple=True, help="A role that the account will have; may be given often.")
@port_option
def invite(email: str, roles: tuple[str, ...], port: int | None) -> None:
    """Mail an invitation to sign up."""
    from server.caller import OPERATOR

    async def work(parts: Parts) -> None:
        await parts.admins.invite(OPERATOR, email, roles)

    _run(port, work)
    click.echo("an invitation is on its way", err=True)


@command.command()
@click.argument("user")
@click.option("--yes", is_flag=True, help="Do not ask.")
@port_option
def delete(user: str, yes: bool, port: int | None) -> None:
    """Delete an account and all that belongs to it.

    Nobody can sign in to it from now on. Its data are removed in the background: at once, or after the time to think
    better of it, where the installation gives one (TRANSOM_ACCOUNT_DELETE_AFTER); until then `restore` keeps it.
    """
    from server.caller import OPERATOR

    async def work(parts: Parts) -> datetime:
        found = await _found(parts, user)
        if not yes:
            click.confirm(f"Delete {found.name} ({found.email or 'no address'}) and all it owns?", abort=True, err=True)
        return (await parts.account_data.delete(OPERATOR, found.name)).delete_time

    click.echo(f"its data are removed from {_run(port, work):%Y-%m-%d %H:%M} UTC on", err=True)


@command.command()
@click.argument("user")
@port_option
def restore(user: str, port: int | None) -> None:
    """Keep an account that waits to be deleted."""
    from server.caller import OPERATOR

    async def work(parts: Parts) -> str:
        found = await _found(parts, user)
        await parts.account_data.restore(OPERATOR, found.name)
        return found.name

    click.echo(f"{_run(port, work)} stays", err=True)


@command.command()
@click.argument("user")
@click.option(
    "--to", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Where to write the ZIP file."
)
@port_option
def export(user: str, to: Path | None, port: int | None) -> None:
    """Copy all that belongs to an account into one ZIP file.

    It is made in the background and will be a file of the account's, who is told by mail. With --to, wait for it and
    write it there.
    """
    from server.caller import OPERATOR

    async def work(parts: Parts) -> tuple[str, str]:
        found = await _found(parts, user)
        made = await parts.account_data.export(OPERATOR, found.name)
        while to is not None and made.state == "RUNNING":
            await asyncio.sleep(1)
            made = await parts.account_data.get_export(OPERATOR, made.name)
        if to is not None and made.state == "READY":
            with to.open("wb") as file:
                await parts.files.pour(made.file, file.write)
        return made.name, made.state

    name, state = _run(port, work)
    if state == "FAILED":
        raise click.ClickException(f"{name} could not be made; the audit log says more")
    click.echo(f"{name} is {state}" + (f"; written to {to}" if to else ""), err=True)


def _disabled(port: int | None, user: str, disabled: bool) -> None:
    from server.engine.admins import Change

    _show(_changed(port, user, lambda before: Change(frozenset(("disabled",)), disabled=disabled)))


def _changed(port: int | None, user: str, change: Callable[[User], Change]) -> User:
    from server.caller import OPERATOR

    async def work(parts: Parts) -> User:
        before = await _found(parts, user)
        return await parts.admins.update(OPERATOR, before.name, change(before))

    return _run(port, work)


async def _found(parts: Parts, user: str) -> User:
    """The account with this name or address."""
    from server.caller import OPERATOR
    from server.engine.text import email_key
    from server.errors import NotFound

    if user.startswith("users/"):
        return await parts.admins.get(OPERATOR, user)
    key = email_key(user)
    users, _ = await parts.admins.list(OPERATOR, MOST, "", email=key or user)
    for one in users:
        if key is not None and email_key(one.email) == key:
            return one
    raise NotFound("There is no account with this address.")


def _show(user: User) -> None:
    scopes = "everything" if user.scopes is None else " ".join(user.scopes) or "nothing"
    told = [
        ("name", user.name),
        ("email", f"{user.email}{'' if user.verified else ' (not verified)'}" if user.email else ""),
        ("called", user.display_name),
        ("roles", " ".join(user.roles)),
        ("admin for", scopes if "admin" in user.roles else ""),
        ("signs in by", " ".join(user.ways)),
        ("made", f"{user.create_time:%Y-%m-%d %H:%M}"),
        ("seen", f"{user.seen_time:%Y-%m-%d %H:%M}" if user.seen_time else ""),
        ("disabled", f"since {user.disabled_time:%Y-%m-%d %H:%M}" if user.disabled_time else ""),
        ("goes", f"asked for {user.delete_time:%Y-%m-%d %H:%M}" if user.delete_time else ""),
    ]
    for label, text in told:
        if text:
            click.echo(f"{label:12}{text}")


def _run(port: int | None, work: Callable[[Parts], Awaitable[T]]) -> T:
    from server.app import opened
    from server.caller import OPERATOR
    from server.errors import Refusal
    from server.schema.compilation import SchemaError
    from server.services.current import CURRENT, Current

    async def main() -> T:
        call = Current("transom user")
        call.caller = OPERATOR  # so says the audit log
        CURRENT.set(call)
        async with opened(settings_of(port), replica_reads=False) as parts:
            return await work(parts)

    try:
        return asyncio.run(main())
    except Refusal as refusal:
        raise click.ClickException(refusal.message) from refusal
    except (SchemaError, OSError) as fault:
        raise click.ClickException(str(fault)) from fault
