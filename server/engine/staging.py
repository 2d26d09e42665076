"""Records of what is not written yet: changes are gathered, and read as if they were made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from server.engine.resources import Records
from server.errors import Invalid
from server.schema.model import Resource
from server.store.changes import Act, Became, Change, Outcome, Page, Row, Shown
from server.store.transactions import Transaction

Key = tuple[str, str]
"""Message and name."""

BYTES_MAX = 96 << 20
"""What is held of one unit, about: what is stored, and what it becomes."""

BYTES_LEAST = 128 << 10
"""What a name counts at least, whether something is stored there or not: only of what is larger could be told that it is."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A change that is gathered, and the part of the request that asks for it."""

    change: Change
    part: str


class Staging:
    """What the engine takes for the store while several writes are decided, each after those before it.

    What is read comes from the primary, once. What a change needs beyond that (a parent, a name that is free, nothing below)
    is found when it is carried out.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._rows: dict[Key, Row | None] = {}
        self._felled: list[str] = []
        self.staged: list[Staged] = []
        self.extra: list[tuple[str, Sequence[Any]]] = []
        self._size = 0
        self.part = ""
        """The part of the request that is being decided."""

    def know(self, rows: Mapping[Key, Row | None]) -> None:
        """What is stored, as it was read or is locked. Raises Invalid where that is too much."""
        self._rows |= rows
        for row in rows.values():
            self._hold(max(BYTES_LEAST, len(row.payload) if row else 0))

    def row(self, resource: Resource, name: str) -> Row | None:
        """What is known of a resource that was read or changed here."""
        return self._rows.get((resource.message, name))

    async def find(self, wanted: Sequence[tuple[Resource, str]], reader: str | None) -> list[Row | None]:
        """The rows of these names, as they will be."""
        unknown = [w for w in wanted if (w[0].message, w[1]) not in self._rows and not self._fell(w[1])]
        if unknown:
            found = await self._records.find(unknown, None)
            self._rows |= {(resource.message, name): row for (resource, name), row in zip(unknown, found, strict=True)}
        return [self._rows.get((resource.message, name)) for resource, name in wanted]

    async def latest(self, resource: Resource, name: str) -> Row | None:
        """As find, of one."""
        return (await self.find([(resource, name)], None))[0]

    async def get(self, resource: Resource, name: str, reader: str) -> Row | None:
        """As latest."""
        return await self.latest(resource, name)

    def page(self, resource: Resource, page: Page, reader: str | None) -> Awaitable[list[Shown]]:
        """What is stored: nothing that is decided here lists."""
        return self._records.page(resource, page, None)

    def turn(self, resource: Resource, name: str) -> AbstractAsyncContextManager[object]:
        """At once: whoever carries out what is gathered has waited."""
        return nullcontext()

    async def write(self, change: Change) -> Became:
        """Gathers a change. DONE as far as is known here."""
        key = (change.resource.message, change.name)
        row = self._rows.get(key)
        if change.act is Act.INSERT:
            if row is not None:
                return Outcome.TAKEN
            if change.kept_parent is not None and self._gone(change.kept_parent, change.parent):
                return Outcome.ORPHAN
            self._rows[key] = Row(change.name, change.payload, change.version, change.owner)
        elif row is None:
            return Outcome.ABSENT
        elif change.expected is not None and change.expected != row.version:
            return Outcome.CHANGED
        elif change.act in (Act.REMOVE, Act.REMOVE_TREE):
            self._rows[key] = None
            if change.act is Act.REMOVE_TREE:
                self._felled.append(f"{change.name}/")
                self._rows |= dict.fromkeys([k for k in self._rows if k[1].startswith(f"{change.name}/")])
        else:
            self._rows[key] = replace(row, payload=change.payload, version=change.version)
        self._hold(len(change.payload))
        self.staged.append(Staged(change, self.part))
        return Outcome.DONE

    async def revise(
        self, resource: Resource, name: str, decide: Callable[[Row], Awaitable[Change | None]]
    ) -> Change | Row | None:
        """Gathers the change that `decide` makes of the row."""
        row = await self.latest(resource, name)
        if row is None:
            return None
        change = await decide(row)
        if change is None:
            return row
        await self.write(change)
        return change

    async def commit(
        self, changes: Sequence[Change], extra: Sequence[tuple[str, Sequence[Any]]] = (), *, rehearsal: bool = False
    ) -> list[Became]:
        """Gathers the changes and the extra statements."""
        outcomes: list[Became] = []
        for change in changes:
            outcomes.append(await self.write(change))
            if outcomes[-1] is not Outcome.DONE:
                return outcomes
        self.extra += extra
        return outcomes

    def transaction(self, *, rehearsal: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """There is none yet. Raises RuntimeError."""
        raise RuntimeError("what is gathered has no transaction yet")

    def _hold(self, size: int) -> None:
        self._size += size
        if self._size > BYTES_MAX:
            raise Invalid("All of it together is too large; ask for less at once.", reason="UNIT_TOO_LARGE")

    def _fell(self, name: str) -> bool:
        return any(name.startswith(prefix) for prefix in self._felled)

    def _gone(self, resource: Resource, name: str) -> bool:
        key = (resource.message, name)
        return self._rows[key] is None if key in self._rows else self._fell(name)
