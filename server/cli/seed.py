"""`transom seed`: loads the app's seed/."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from server.cli._chosen import chosen, port_option

if TYPE_CHECKING:
    from server.engine.seeding import Loaded
    from server.settings import Settings

TEXT_BYTES_MAX = 64 << 20
"""Largest .jsonl file of a seed."""


@click.command()
@port_option
def command(port: int | None) -> None:
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

    settings = _settings(port)
    folder = settings.app / "seed"
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
    from server.engine.seed_reading import SeedError, read_seed
    from server.engine.seeding import Seeding
    from server.store.accounts import StoredAccounts

    def bytes_of(path: str) -> bytes:
        return (folder / path).read_bytes()

    async with opened(settings) as parts:
        seed = read_seed(_texts(folder), parts.resources.decisions, References(parts.schema))
        missing = [
            f"{f.where}: path: {folder / f.path} is not a file" for f in seed.files if not _is_file(folder, f.path)
        ]
        if missing:
            raise SeedError("\n".join(missing))
        seeding = Seeding(parts.accounts, StoredAccounts(parts.pool), parts.files, parts.resources)
        return await seeding.load(seed, bytes_of)


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


def _settings(port: int | None) -> Settings:
    """Those of the stack that was named; else the environment's, where it names a database; else of the stack there is."""
    from server.settings import Settings

    settings = Settings()
    if port is None and "postgres" in settings.model_fields_set:
        return settings
    env = chosen(port).env
    given = {name.removeprefix("TRANSOM_").lower(): value for name, value in env.items() if name.startswith("TRANSOM_")}
    return Settings.model_validate(given)
