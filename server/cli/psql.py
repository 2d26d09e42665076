"""`transom psql`: a shell on a stack's database."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._chosen import chosen, port_option

if TYPE_CHECKING:
    from deploy.native.servers import Servers


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@port_option
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[PSQL'S ARGUMENTS]…")
def command(port: int | None, words: tuple[str, ...]) -> None:
    """Open psql on the stack's primary.

    As the owner of all tables; what comes after our own options goes to psql as it is.

    \b
    transom psql
    transom psql -c 'select name, create_time from inspect_v1.sites'
    transom psql --port 9000 -f report.sql
    """
    from psycopg.conninfo import conninfo_to_dict

    from deploy.native.stack import StackError

    stack = chosen(port)
    try:
        topology = stack.topology
        address = conninfo_to_dict(topology.env()["TRANSOM_POSTGRES"])
    except StackError as problem:
        raise click.ClickException(str(problem)) from problem
    program = _psql(topology.servers)
    env = {**os.environ}
    if topology.servers.libraries and program.parent == topology.servers.postgres:
        env["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, topology.servers.libraries))
    # By environment, where other users do not see it, as they see arguments.
    names = {"host": "HOST", "port": "PORT", "user": "USER", "password": "PASSWORD", "dbname": "DATABASE"}
    names["target_session_attrs"] = "TARGETSESSIONATTRS"
    env |= {f"PG{name}": str(address[key]) for key, name in names.items() if address.get(key)}
    os.execve(program, ["psql", *words], env)  # noqa: S606


def _psql(servers: Servers) -> Path:
    beside = servers.postgres / "psql"
    found = str(beside) if beside.exists() else shutil.which("psql")
    if not found:
        raise click.ClickException("this machine has no psql (Debian, Ubuntu: apt install postgresql-client)")
    return Path(found)
