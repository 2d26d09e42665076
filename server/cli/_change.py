"""A change of schema, as commands speak of it: whom it breaks, what is refused, what is done."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from server.schema.changes.steps import Refusal, Step
    from server.schema.compatibility import Break, Breaks
    from server.schema.model import Schema
    from server.store.schemas.applying import Prospect

REFUSED, WAITING = 3, 4
"""Exit codes: the schema is refused, nothing was done; servers of the version before still run, the rest comes later."""

accept_option = click.option(
    "--accept-breaking",
    type=click.Choice(["json", "wire"]),
    help="Go on although it breaks clients: those that speak JSON, or all (wire).",
)


def target(app: Path, descriptor: Path | None) -> Schema:
    """The schema of an app, or of a compiled one. Raises ClickException where it cannot be served."""
    from server.schema.compilation import SchemaError, compile_app
    from server.schema.reading import read

    try:
        return read(descriptor.read_bytes() if descriptor else compile_app(app))
    except FileNotFoundError as error:
        raise click.ClickException(f"{descriptor}: there is no compiled schema (transom build)") from error
    except SchemaError as error:
        raise click.ClickException(f"the app is refused:\n{error}") from error


def breaks_of(prospect: Prospect, schema: Schema) -> list[Break]:
    """What breaks clients of what is deployed."""
    from server.schema.compatibility import breaks

    if prospect.deployed is None or prospect.deployed.image == schema.image:
        return []
    return breaks(prospect.deployed.image, schema.image)


def refused(prospect: Prospect, breaks: list[Break], accepted: str | None) -> list[str]:
    """Why it is not applied, a paragraph each. What was begun was accepted then."""
    from server.schema.compatibility import Breaks, verdict

    said = [paragraph(r) for r in prospect.refusals]
    whom = verdict(breaks)
    if whom is not Breaks.NONE and accepted not in (whom, Breaks.WIRE) and not prospect.accepted:
        said.append(
            f"it breaks {clients(whom)}: keep what they know (reserve what goes, add beside what changes), or accept that with "
            f"transom apply --accept-breaking {whom}"
        )
    return said


def clients(whom: Breaks) -> str:
    """Whom a change breaks, in words."""
    return {"none": "nobody", "json": "clients that speak JSON", "wire": "every client, gRPC too"}[whom]


def paragraph(refusal: Refusal) -> str:
    """A refusal, for people."""
    return f"{refusal.where}: {refusal.reason}\n    {refusal.advice}"


def lines(steps: tuple[Step, ...]) -> Iterator[str]:
    """Steps, for people."""
    for i, step in enumerate(steps, 1):
        rows = f"; about {step.rows:,} rows" if step.scans else ""
        yield f"  {i:2} {step.kind.value} {'.'.join(step.table)}: {step.lock}{rows}"
        if step.fields:
            yield f"       {', '.join(step.fields)}: written anew from the stored messages"
        for statement in step.statements:
            where = f" where {step.where}" if step.where else ""
            yield f"       {statement}{where}"


def told(prospect: Prospect, schema: Schema, breaks: list[Break], refused: list[str]) -> dict[str, Any]:
    """All of it, for machines."""
    from server.schema.compatibility import verdict

    deployed = prospect.deployed
    return {
        "deployed": {"version": deployed.version, "by": deployed.who} if deployed else None,
        "state": prospect.state,
        "running": {str(version): count for version, count in prospect.others.items()},
        "breaks": verdict(breaks).value,
        "breaking": [{"breaks": b.breaks.value, "where": b.where, "rule": b.rule, "reason": b.reason} for b in breaks],
        "refused": [{"where": r.where, "reason": r.reason, "advice": r.advice} for r in prospect.refusals],
        "applies": not refused,
        "steps": [step.as_json() for step in prospect.plan.steps],
        "later": [step.as_json() for step in prospect.plan.later],
        "notes": list(prospect.plan.notes),
    }


def who() -> str:
    """Who applies, as it is written down."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # no name for this user
        return socket.gethostname()


def stop(refusals: list[str]) -> NoReturn:
    """Ends the command: the schema is refused."""
    click.secho("refused, nothing was done:", fg="red", err=True)
    for text in refusals:
        click.echo(f"  {text}", err=True)
    raise click.exceptions.Exit(REFUSED)
