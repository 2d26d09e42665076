"""`transom seed`: loads the app's seed/."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._chosen import app_options, port_option, settings_of

if TYPE_CHECKING:
    from server.engine.decisions import Decisions
    from server.engine.references import References
    from server.engine.seed_reading import Seed
    from server.engine.seeding import Loaded
    from server.settings import Settings

TEXT_BYTES_MAX = 64 << 20
"""Largest .jsonl file of a seed."""


@click.command()
@app_options
@port_option
def command(app: Path | None, port: int | None) -> None:
    """Load the app's sample data: accounts, files and resources from its folder seed/.

    \b
    seed/accounts.jsonl   who can sign in
    seed/files.jsonl      files, whose bytes are beside it
    seed/*.jsonl          resources as ProtoJSON, one to a line, each with its name

    All of it is checked before anything is written. What is there already stays as it is, so that loading again
    changes nothing. docs/schema.md tells the format in full.

    Works on the stack with edge port --port, or on what TRANSOM_POSTGRES and the other settings name.
    """
    from server.engine.seed_reading import SeedError
    from server.errors import Refusal
    from server.schema.compilation import SchemaError

    settings = settings_of(port)
    folder = (app or settings.app) / "seed"
    if not any(folder.glob("*.jsonl")):
        raise click.ClickException(
            f"{folder}: there is no seed: no .jsonl file (docs/schema.md tells how to write one)"
        )
    try:
        loaded = asyncio.run(_load(settings, folder))
    except SeedError as error:
        raise click.ClickException(f"{folder}: the seed is refused:\n{error}") from error
    except SchemaError as error:
        raise click.ClickException(f"the schema is refused:\n{error}") from error
    except Refusal as refusal:
        raise click.ClickException(refusal.message) from refusal
    new = {"accounts": loaded.accounts, **loaded.resources}
    click.echo("new: " + ", ".join(f"{count} {what}" for what, count in new.items()))
    click.echo(f"in place: {loaded.files} files")


async def _load(settings: Settings, folder: Path) -> Loaded:
    from server.app import opened
    from server.engine.references import References
    from server.engine.seeding import Seeding
    from server.store.accounts import StoredAccounts

    def bytes_of(path: str) -> bytes:
        return (folder / path).read_bytes()

    async with opened(settings) as parts:
        seed = read(folder, parts.resources.decisions, References(parts.schema))
        seeding = Seeding(parts.people.sign_ups, StoredAccounts(parts.pool), parts.files, parts.resources)
        return await seeding.load(seed, bytes_of)


def read(folder: Path, decisions: Decisions, references: References) -> Seed:
    """The seed in `folder`, checked in full. Raises SeedError, a line for each fault."""
    from server.engine.seed_reading import SeedError, read_seed

    seed = read_seed(_texts(folder), decisions, references)
    missing = [f"{f.where}: path: {folder / f.path} is not a file" for f in seed.files if not _is_file(folder, f.path)]
    if missing:
        raise SeedError("\n".join(missing))
    return seed


def _texts(folder: Path) -> dict[str, str]:
    from server.engine.seed_reading import SeedError

    texts = {}
    for file in sorted(folder.glob("*.jsonl")):
        if file.stat().st_size > TEXT_BYTES_MAX:
            raise SeedError(f"{file.name}: is larger than {TEXT_BYTES_MAX >> 20} MiB")
        try:
            texts[file.name] = file.read_text("utf-8")
        except UnicodeDecodeError as fault:
            raise SeedError(f"{file.name}: is not UTF-8: {fault.reason} at byte {fault.start}") from fault
    return texts


def _is_file(folder: Path, path: str) -> bool:
    return (folder / path).is_file()
