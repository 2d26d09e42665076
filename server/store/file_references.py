"""Which resources refer to a file, and the rows of files while references come and go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncRawCursor, sql
from psycopg.rows import tuple_row

from server.schema import expressions
from server.schema.model import Field, FileReference, Resource
from server.store.changes import Row
from server.store.file_rows import TELL_DELETED
from server.store.pooled import Pool, transaction
from server.store.transactions import Transaction

_HOLD = "select id, owner, content_type, size_bytes, state, private, public from transom.files"
_HELD = sql.SQL(_HOLD + " where id = any($1::text[]) and state <> 'DELETING' order by id for key share")
_SEEN = _HOLD + " where id = any(%s) and state <> 'DELETING'"
_LOCK = sql.SQL("select 1 from transom.files where id = $1 and state <> 'DELETING' for update")
_DELETE = f"""
with gone as (
    update transom.files set state = 'DELETING', delete_time = clock_timestamp(), source = null where id = %s
    returning id, owner
) {TELL_DELETED.format(caller="%s")}
"""

# As the index of the field has it (server/schema/changes/indexes.py).
_ONE = '{} collate "C" = $1'
_ANY = "{} ? $1"
_OF = sql.SQL(
    "(select {number}::int, name, _payload, _version, _owner from {table} where {condition} order by name desc limit $2)"
)


_REFERRING = sql.SQL(
    "select name, _payload, _version, _owner from {table} where {condition} order by name limit $2 for update"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where resources of one kind refer to files: a field, or something in it."""

    resource: Resource
    field: Field
    reference: FileReference

    @property
    def condition(self) -> sql.SQL:
        """That a row refers there to the file whose name is $1."""
        if not self.reference.steps:
            return sql.SQL((_ANY if self.field.descriptor.is_repeated else _ONE).format(expressions.column(self.field)))
        return sql.SQL(_ANY.format(expressions.inside(expressions.column(self.field), self.reference.steps)))

    @property
    def table(self) -> sql.Identifier:
        """Where they are kept."""
        return sql.Identifier(self.resource.table_schema, self.resource.table_name)


@dataclass(frozen=True, slots=True)
class HeldFile:
    """What references ask of a file."""

    id: str
    owner: str
    content_type: str
    size_bytes: int
    state: str
    private: bool
    public: bool


class FileReferences:
    """References to files as they are committed."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def held(self, ids: Sequence[str]) -> dict[str, HeldFile]:
        """The files of these ids that there are."""
        async with transaction(self._pool, HeldFile) as cursor:
            await cursor.execute(_SEEN, [list(ids)])
            return {file.id: file for file in await cursor.fetchall()}

    async def of(self, places: Sequence[Place], name: str, limit: int) -> list[list[Row]]:
        """Of each place at most `limit` resources that refer there to the file of this name."""
        out: list[list[Row]] = [[] for _ in places]
        if not places:
            return out
        statement = sql.SQL(" union all ").join(
            _OF.format(number=sql.Literal(i), table=place.table, condition=place.condition)
            for i, place in enumerate(places)
        )
        async with transaction(self._pool, HeldFile) as cursor:
            raw: AsyncRawCursor[tuple[Any, ...]] = AsyncRawCursor(cursor.connection, row_factory=tuple_row)
            await raw.execute(statement, [name, limit])
            for number, *row in await raw.fetchall():
                out[number].append(Row(*row))
        return out


async def hold(transaction: Transaction, ids: Sequence[str]) -> dict[str, HeldFile]:
    """The files of these ids that there are; none of them is deleted before the transaction ends."""
    rows = await transaction.rows(sql.Composed([_HELD]), [list(ids)])
    return {row[0]: HeldFile(*row) for row in rows}


async def lock(transaction: Transaction, id: str) -> bool:
    """Locks a file that is to be deleted, so that nobody newly refers to it; False where there is none."""
    return bool(await transaction.rows(sql.Composed([_LOCK]), [id]))


async def referring(transaction: Transaction, place: Place, name: str, most: int) -> list[Row]:
    """At most so many resources that refer at this place to the file of this name; they are locked."""
    statement = _REFERRING.format(table=place.table, condition=place.condition)
    return [Row(*row) for row in await transaction.rows(statement, [name, most])]


async def delete(transaction: Transaction, id: str, caller: str) -> None:
    """Marks a locked file as deleted by `caller`, and tells so by an event."""
    await transaction.execute(_DELETE, [id, caller])
