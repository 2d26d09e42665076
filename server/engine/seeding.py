"""Loading a seed: accounts, files, resources. What is there already stays as it is, so loading again changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from server.caller import SYSTEM
from server.engine.files import Files
from server.engine.references import References
from server.engine.resources import Call, Resources
from server.engine.seed_reading import Seed, SeedAccount, SeedError, SeedFile, SeedResource, placed
from server.engine.sign_ups import SignUps
from server.engine.text import email_key
from server.errors import AlreadyExists, Refusal
from server.store.accounts import StoredAccounts
from server.store.changes import Outcome


@dataclass(slots=True)
class Loaded:
    """How much of a seed was new, and how much was there."""

    accounts: int = 0
    files: int = 0
    resources: dict[str, int] = field(default_factory=dict)
    """New ones, by plural; 0 where all were there."""


class Seeding:
    """Loads seeds. Each account, file and resource by itself: after a kill in between, loading again goes on from there."""

    def __init__(self, sign_ups: SignUps, stored: StoredAccounts, files: Files, resources: Resources) -> None:
        self._sign_ups = sign_ups
        self._stored = stored
        self._files = files
        self._resources = resources
        self._references = References(resources.schema)

    async def load(self, seed: Seed, bytes_of: Callable[[str], bytes]) -> Loaded:
        """Loads a seed that was read with the same schema; `bytes_of` answers a file's bytes by its path in the seed.

        Raises SeedError for what only the system knows to be wrong, and Unavailable where a part of it is away.
        """
        loaded = Loaded()
        names: dict[str, str] = {}
        for account in seed.accounts:
            names[account.name], new = await self._account(account)
            loaded.accounts += new
        for file in seed.files:
            names[file.name] = await self._file(file, names[file.owner], bytes_of(file.path))
            loaded.files += 1
        names |= {one.name: placed(one.name, names) for one in seed.resources if "{" in one.name}
        left = list(seed.resources)
        while left:
            early: list[tuple[SeedResource, SeedError]] = []
            for one in left:
                made = await self._resource(one, names)
                if isinstance(made, SeedError):
                    early.append((one, made))
                else:
                    loaded.resources[one.resource.plural] = loaded.resources.get(one.resource.plural, 0) + made
            if len(early) == len(left):
                raise early[0][1]
            left = [one for one, _ in early]  # what these need may have come after them
        return loaded

    async def _account(self, account: SeedAccount) -> tuple[str, bool]:
        """The account's name, and whether it is new. One that is there keeps its password."""
        key = email_key(account.email.strip())
        stored = await self._stored.by_email(key) if key else None
        if stored is not None:
            return f"users/{stored.id}", False
        try:
            made = await self._sign_ups.enrol(
                account.email, password=account.password, display_name=account.display_name, verified=True
            )
        except AlreadyExists:
            return await self._account(account)  # another seed is loaded at the same time
        except Refusal as refusal:
            raise _refused(f"the account {account.name}", refusal) from refusal
        return made.name, True

    async def _file(self, file: SeedFile, owner: str, data: bytes) -> str:
        filename = file.path.rpartition("/")[2]
        try:
            stored = await self._files.store(f"seed/{file.name}", filename, file.content_type, data, owner)
        except Refusal as refusal:
            raise _refused(file.where, refusal) from refusal
        return stored.name

    async def _resource(self, one: SeedResource, names: dict[str, str]) -> bool | SeedError:
        """Whether it is new; what it needs, where that is not there yet."""
        name = names.get(one.name, one.name)
        if await self._resources.records.latest(one.resource, name) is not None:
            return False
        message = type(one.message)()
        message.CopyFrom(one.message)
        self._references.rename(message, names)
        try:
            change = self._resources.decisions.create(
                one.resource,
                message,
                parent=one.pattern.parent_of(name),
                id="" if one.pattern.singleton else name.rpartition("/")[2],
                owner=SYSTEM.name,
                origin=Call(SYSTEM).origin,
                id_field="name",
                trusted=True,
            )
        except Refusal as refusal:
            raise _refused(one.where, refusal) from refusal
        outcome = await self._resources.records.write(change)
        if outcome is Outcome.ORPHAN:
            return SeedError(f"{one.where}: name: its parent {change.parent} does not exist")
        if isinstance(outcome, Refusal):
            return _refused(one.where, outcome)
        return outcome is Outcome.DONE


def _refused(where: str, refusal: Refusal) -> SeedError:
    told = [f"{where}: {v.field}: {v.description}" for v in refusal.violations]
    return SeedError("\n".join(told) or f"{where}: {refusal.message}")
