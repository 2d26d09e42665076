"""`transom check`: reads an app as the servers would, and says what they will make of it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._chosen import app_options, named

if TYPE_CHECKING:
    from server.apps.loading import App
    from server.apps.templates import Template
    from server.query.rules.checking import Rules
    from server.schema.model import Method, Schema

WIDE = 10_000
"""Columns of what is no terminal; tables are as wide as what they hold."""


@click.command()
@app_options
@click.option("--strict", is_flag=True, help="Fail where a declared method has no implementation, or on any warning.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Also warn of lists that were slow on the stack with this edge port, or on TRANSOM_POSTGRES where that is set.",
)
def command(app: Path | None, strict: bool, port: int | None) -> None:
    """Check an app's schema, code and seed, without starting anything.

    Prints what each resource and method is understood as: the resources' names and tables, the methods the engine
    serves, those that methods.py implements, and those that would answer UNIMPLEMENTED, with the reason. Warns of what
    can be served but is hardly meant. The seed is checked as `transom seed` would. With a database at hand, it also warns
    of lists that were slow there because no index served them, and says which index to declare.

    \b
    transom check                   the app in examples/inspect
    transom check ../my-app --strict
    transom check ../my-app --port 8080
    """
    from server.apps.loading import load
    from server.apps.templates import Templates
    from server.query.rules.checking import rules_of
    from server.schema.compilation import SchemaError, compile_app
    from server.schema.reading import read

    app = named(app)
    try:
        schema = read(compile_app(app))
        rules = rules_of(schema)
        loaded = load(app, schema)
        mails = Templates.of(app).sound().mails
    except SchemaError as error:
        raise click.ClickException(f"the app is refused:\n{error}") from error
    warnings = [*schema.warnings, *_slow(schema, port)]
    _print(schema, rules, loaded)
    _print_mails(mails)
    left = [m.full_name for s in schema.services if not s.own for m in s.methods if _served_by(m, loaded) == ""]
    for warning in warnings:
        click.secho(f"warning: {warning}", fg="yellow")
    for name in left:
        click.secho(f"not implemented: {name} (calls answer UNIMPLEMENTED)", fg="yellow")
    _check_seed(app / "seed", schema)
    if strict and (left or warnings):
        sys.exit(1)
    click.secho(f"{app}: good", fg="green")


def _slow(schema: Schema, port: int | None) -> list[str]:
    """Warnings of lists that were slow, where a database is named."""
    from server.settings import Settings

    if port is None and "postgres" not in Settings().model_fields_set:
        return []
    from server.engine.index_advice import advice
    from server.errors import Refusal
    from server.store.slow_lists import SlowLists

    from ._chosen import settings_of

    async def asked(dsn: str) -> list[str]:
        from psycopg_pool import AsyncConnectionPool

        async with AsyncConnectionPool(dsn, min_size=1, max_size=1, open=False, reconnect_timeout=3) as pool:
            slow = SlowLists(pool)
            return list(advice(schema, await slow.found(), await slow.rows(schema.resources.values())))

    try:
        return asyncio.run(asked(settings_of(port).postgres.get_secret_value()))
    except Refusal as refusal:
        click.secho(f"which lists were slow is not known: {refusal.message}", fg="yellow", err=True)
        return []


def _check_seed(folder: Path, schema: Schema) -> None:
    from server.engine.decisions import Decisions
    from server.engine.references import References
    from server.engine.seed_reading import SeedError

    from .seed import read

    try:
        read(folder, Decisions(schema, lambda: time.time_ns() // 1000), References(schema))
    except SeedError as error:
        raise click.ClickException(f"{folder}: the seed is refused:\n{error}") from error


def _served_by(method: Method, app: App) -> str:
    """What serves the method; empty where nothing does."""
    if method.client_streaming or (method.server_streaming and not method.kind.standard):
        return ""
    implemented = app.methods.get(method.full_name)
    if implemented:
        return f"methods.py: {implemented.function.__name__}"
    return f"engine: {method.kind.value}" if method.kind.standard else ""


def _callers(method: Method, app: App) -> str:
    """Who may call the method, by its own rule; those of the resource hold in any case where the engine serves it."""
    access = method.access
    if access is None:
        engine = method.kind.standard and method.full_name not in app.methods
        return "by the resource's rules" if engine else "admins and service keys only"
    if access.audience is not None:
        return access.audience.value.replace("_", " ")
    return f"role {access.role}" if access.role else access.rule


def _print(schema: Schema, rules: Rules, app: App) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    # What is no terminal has no width: nothing is folded or cut there.
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    names, ruled = Column("names", overflow="fold"), Column("rules for", overflow="fold")
    resources = Table("resource", names, "table", ruled, title="Resources", title_justify="left")
    for resource in schema.resources.values():
        actions = " ".join(rules.resources[resource.message].actions) or "none: admins and service keys only"
        resources.add_row(
            resource.message,
            "\n".join(p.text for p in resource.patterns),
            f"{resource.table_schema}.{resource.table_name}",
            actions,
        )
    console.print(resources)
    for service in schema.services:
        if service.own:
            continue
        methods = Table(
            "method",
            Column("REST", overflow="fold"),
            "served by",
            Column("who may call it", overflow="fold"),
            title=service.name,
            title_justify="left",
        )
        for method in service.methods:
            rest = "\n".join(f"{verb.upper()} {path}" for verb, path in method.http) or "-"
            why = f"nobody: {method.why_custom}" if method.why_custom else "nobody"
            methods.add_row(method.name, rest, _served_by(method, app) or why, _callers(method, app))
        console.print(methods)
    if app.tasks:
        tasks = Table("task", "on", "retries", title="Tasks", title_justify="left")
        for task in app.tasks:
            tasks.add_row(task.name, f"{task.resource_type} {task.verb}", str(task.retries))
        console.print(tasks)
    if app.schedules:
        schedules = Table("schedule", "due", "catch up", "retries", title="Schedules", title_justify="left")
        for schedule in app.schedules:
            cadence = schedule.spec.cadence
            due = f"every {cadence.interval}" if cadence.interval else f"{cadence.cron} ({cadence.time_zone})"
            schedules.add_row(schedule.name, due, schedule.spec.catch_up, str(schedule.retries))
        console.print(schedules)


def _print_mails(mails: Sequence[Template]) -> None:
    if not mails:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("mail", "language", "as", "needs", title="Mails", title_justify="left")
    for mail in mails:
        kinds = "text, HTML" if mail.html else "text"
        table.add_row(mail.name, mail.language or "any", kinds, " ".join(mail.needs) or "-")
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)
