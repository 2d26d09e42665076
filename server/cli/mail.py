"""`transom mail`: mails that were caught in development, mails that were sent, and those that came back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ._chosen import app_options, named, port_option, settings_of

if TYPE_CHECKING:
    from server.apps.catcher import Catcher
    from server.engine.bounces import Taken
    from server.settings import Settings
    from server.store.pooled import Pool

T = TypeVar("T")
MOST = 1000
"""Lines of one list."""
TEMPORARY = 75
"""EX_TEMPFAIL: what tells a mail server to pipe a bounce in again, later."""


@click.group("mail")
def command() -> None:
    """Look at mails, and take those that come back.

    \b
    transom mail list                         what the catcher of this machine's stack has caught
    transom mail render overdue --data '{"count": 2}'
    transom mail outbox                       what was queued, and what became of it
    transom mail bounce < message             for the mail server to pipe bounces into
    transom mail suppressed                   addresses that nothing is sent to any more
    transom mail lift ann@example.com

    Works on the stack with edge port --port, or on what TRANSOM_POSTGRES and the other settings name.
    """


@command.command("list")
@click.option("--to", default="", help="Those to this address.")
@click.option("--subject", default="", help="Those with this in the subject.")
@click.option("-n", "count", type=click.IntRange(1, MOST), default=20, show_default=True, help="The last so many.")
@port_option
def list_(to: str, subject: str, count: int, port: int | None) -> None:
    """Show the mails that were caught, newest first: id, time, recipients, subject."""
    found = _asked(port, lambda catcher: catcher.mails(to, subject))[:count]
    if not found:
        click.echo("no mails", err=True)
    for mail in found:
        files = f"  [{len(mail.attachments)} files]" if mail.attachments else ""
        click.echo(
            f"{mail.id}  {mail.time:%Y-%m-%d %H:%M:%S}  {_plain(', '.join(mail.to))}  {_plain(mail.subject)}{files}"
        )


@command.command()
@click.argument("id", required=False, default="")
@click.option("--html", is_flag=True, help="Its HTML.")
@click.option("--raw", is_flag=True, help="As it came, with all headers and parts.")
@port_option
def show(id: str, html: bool, raw: bool, port: int | None) -> None:
    """Show one mail that was caught: the one of this ID, else the newest."""
    if raw and id:
        try:
            sys.stdout.buffer.write(_asked(port, lambda catcher: catcher.raw(id)))
        except KeyError:
            raise click.ClickException(f"no mail {id}") from None
        return
    found = [mail for mail in _asked(port, lambda catcher: catcher.mails()) if id in ("", mail.id)]
    if not found:
        raise click.ClickException(f"no mail {id}".rstrip())
    mail = found[0]
    if raw:
        sys.stdout.buffer.write(_asked(port, lambda catcher: catcher.raw(mail.id)))
    elif html:
        click.echo(mail.html)
    else:
        for label, text in (
            ("id", mail.id),
            ("time", f"{mail.time:%Y-%m-%d %H:%M:%S}"),
            ("from", mail.sender),
            ("to", ", ".join(mail.to)),
            ("subject", mail.subject),
            *(("file", name) for name in mail.attachments),
        ):
            click.echo(f"{label:8}  {_plain(text)}")
        click.echo()
        click.echo("\n".join(_plain(line) for line in mail.text.splitlines()))


@command.command()
@click.argument("template")
@app_options
@click.option("--data", default="{}", help="What is filled in, as JSON.")
@click.option("--language", default="", help="de, de-CH, ...")
@click.option("--html", is_flag=True, help="Print the HTML in place of subject and text.")
def render(template: str, app: Path | None, data: str, language: str, html: bool) -> None:
    """Fill in a TEMPLATE of the app and print it; nothing is sent."""
    from server.apps.templates import TemplateFault, Templates
    from server.schema.compilation import SchemaError
    from server.settings import Settings

    settings = Settings()
    try:
        given = json.loads(data)
        if not isinstance(given, dict):
            raise click.BadParameter("must be an object", param_hint="--data")
        templates = Templates.of(named(app), app=settings.relying_party_name, url=settings.public_url).sound()
        written = templates.write(template, given, language)
    except json.JSONDecodeError as error:
        raise click.BadParameter(str(error), param_hint="--data") from error
    except (TemplateFault, SchemaError) as fault:
        raise click.ClickException(str(fault)) from fault
    click.echo(written.html if html else f"Subject: {written.subject}\n\n{written.text}", nl=False)


@command.command()
@click.option("--to", default="", help="Those to this address.")
@click.option("--failed", is_flag=True, help="Those that somebody did not get.")
@click.option("-n", "count", type=click.IntRange(1, MOST), default=50, show_default=True, help="The last so many.")
@port_option
def outbox(to: str, failed: bool, count: int, port: int | None) -> None:
    """Show the mails that were queued, newest first, and what became of them for each recipient.

    A state each: waiting, sent (the mail server took it), refused (it never will), bounced (it came back), suppressed
    (nothing is sent there). Kept for TRANSOM_MAIL_DAYS days.
    """
    from server.store.mails import sent

    found = _run(port, lambda pool, _: sent(pool, count, to=to, failed=failed))
    if not found:
        click.echo("no mails", err=True)
    for one in found:
        good = one.state in ("sent", "waiting")
        said = f"  {_plain(' '.join(filter(None, (one.status, one.said))))}" if not good else ""
        state = one.state if good else click.style(one.state, fg="red")
        click.echo(
            f"{one.mail}  {one.create_time:%Y-%m-%d %H:%M:%S}  {_plain(one.address)}  {state}  {_plain(one.subject)}{said}"
        )


@command.command()
@click.option("--recipient", "to", multiple=True, help="Whom it was delivered to, if the mail server says so.")
@click.option(
    "--maildir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="All new messages of this Maildir in place of standard input; they are marked as seen.",
)
@port_option
def bounce(to: tuple[str, ...], maildir: Path | None, port: int | None) -> None:
    """Take mails that came back: one from standard input, or those of a Maildir.

    For the mail server: what comes to the address of TRANSOM_MAIL_BOUNCES is piped in, one message at a time. With Postfix:

    \b
    /etc/aliases       bounces: "|/path/to/transom mail bounce"
    main.cf            recipient_delimiter = +

    The exit code is 75 where the database is away, so that the mail server tries again; else 0, also for what is no bounce
    of ours.
    """
    from server.errors import Refusal

    try:
        for raw, seen in _messages(maildir):
            taken = _run(port, partial(_taken, raw, to), refused=Refusal)
            told = [taken.fate, taken.address, taken.status, "suppressed" if taken.suppressed else ""]
            click.echo(_plain("  ".join(filter(None, told))))
            seen()
    except Refusal as refusal:
        click.echo(refusal.message, err=True)
        sys.exit(TEMPORARY)


async def _taken(raw: bytes, to: Sequence[str], pool: Pool, settings: Settings) -> Taken:
    from server.engine.bounces import Bounces
    from server.store.mail_recipients import MailRecipients

    return await Bounces(MailRecipients(pool), settings.mail_bounces).take(raw, to)


def _messages(maildir: Path | None) -> Iterator[tuple[bytes, Callable[[], object]]]:
    """The beginning of each message, and what marks it as seen once it is taken: killed before that, it is taken again, which
    changes nothing."""
    from server.engine.bounces import BYTES

    if maildir is None:
        raw = sys.stdin.buffer.read(BYTES)
        while sys.stdin.buffer.read(BYTES):  # the rest is read, so that the pipe does not break
            pass
        yield raw, lambda: None
        return
    for file in sorted((maildir / "new").glob("*")):
        try:
            with file.open("rb") as message:
                raw = message.read(BYTES)
        except FileNotFoundError:  # another call, at the same time, took it
            continue
        (maildir / "cur").mkdir(exist_ok=True)
        yield raw, partial(_moved, file, maildir / "cur" / f"{file.name}:2,S")


def _moved(file: Path, to: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # another call moved it
        file.rename(to)


@command.command()
@click.option("-n", "count", type=click.IntRange(1, MOST), default=50, show_default=True, help="The last so many.")
@port_option
def suppressed(count: int, port: int | None) -> None:
    """Show the addresses that nothing is sent to any more, and why."""
    from server.store.suppressions import Suppressions

    found = _run(port, lambda pool, _: Suppressions(pool).newest(count))
    if not found:
        click.echo("no addresses", err=True)
    for one in found:
        why = _plain(" ".join(filter(None, (one.status, one.said))))
        click.echo(f"{_plain(one.address)}  {one.create_time:%Y-%m-%d %H:%M}  {one.reason}  {why}".rstrip())


@command.command()
@click.argument("address")
@click.option("--because", default="", help="Why, for others who look.")
@port_option
def suppress(address: str, because: str, port: int | None) -> None:
    """Send nothing to ADDRESS any more."""
    from server.store.suppressions import Reason, Suppressions

    if "@" not in address:
        raise click.BadParameter("is no address", param_hint="ADDRESS")
    note = _note("mail_suppressed", address)
    done = _run(port, lambda pool, _: Suppressions(pool).suppress(address, Reason.OPERATOR, because, note))
    click.echo(f"{address}: {'nothing is sent there any more' if done else 'nothing was sent there before'}", err=True)


@command.command()
@click.argument("address")
@port_option
def lift(address: str, port: int | None) -> None:
    """Send to ADDRESS again. Mails of the time between stay unsent; what failed before does not count any more."""
    from server.store.suppressions import Suppressions

    note = _note("mail_lifted", address)
    if not _run(port, lambda pool, _: Suppressions(pool).lift(address, note)):
        raise click.ClickException(f"{address} is not suppressed")
    click.echo(f"{address} gets mails again", err=True)


def _note(action: str, address: str) -> tuple[str, Any]:
    from server.caller import OPERATOR
    from server.engine.audit import Audit, unsaid

    # Nothing is kept through it: the note goes with the statement.
    audit = Audit(None, unsaid)  # type: ignore[arg-type]
    return audit.statement(action, actor=OPERATOR.name, details={"email": address.lower()})


def _asked(port: int | None, ask: Callable[[Catcher], T]) -> T:
    from server.apps.catcher import Catcher

    settings = settings_of(port)
    if not settings.mailbox:
        raise click.ClickException("no mail catcher: TRANSOM_MAILBOX is not set")
    try:
        return ask(Catcher(settings.mailbox))
    except OSError as error:
        raise click.ClickException(str(error)) from error


def _run(
    port: int | None, work: Callable[[Pool, Settings], Awaitable[T]], *, refused: type[Exception] | None = None
) -> T:
    """Does something with the database. A refusal ends the command with its words, unless the caller wants to hear it."""
    from psycopg_pool import AsyncConnectionPool

    from server.errors import Refusal

    settings = settings_of(port)

    async def main() -> T:
        pool: Pool = AsyncConnectionPool(
            settings.postgres.get_secret_value(), min_size=1, max_size=1, open=False, timeout=5, reconnect_timeout=3
        )
        async with pool:
            return await work(pool, settings)

    try:
        return asyncio.run(main())
    except Refusal as refusal:
        if refused is not None:
            raise
        raise click.ClickException(refusal.message) from refusal


def _plain(text: str) -> str:
    # Texts of strangers are among them: nothing of it is for the terminal to obey.
    return "".join(c if c.isprintable() else " " for c in text)
