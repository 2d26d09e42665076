"""What refers to resources that are to be deleted, and what lives below them."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from server.schema.model import Field, Resource
from server.store.changes import Row
from server.store.transactions import Transaction

# As the index of the field has it (server/schema/changes/indexes.py): texts by their bytes, lists by their items.
_ONE = sql.SQL('{column} collate "C" = any($1::text[])')
_ANY = sql.SQL("{column} ?| $1::text[]")
_REFERRING = sql.SQL(
    "select name, _payload, _version, _owner from {table} where {condition} order by name limit $2 for update"
)

# `0` is the character after `/`: in "C" order, all that is below a/b lies between a/b/ and a/b0.
_BELOW = sql.SQL("select name from {table} where name >= $1 and name < $2 {live} order by name limit $3")


async def referring(
    transaction: Transaction, resource: Resource, field: Field, names: Sequence[str], most: int
) -> list[Row]:
    """At most so many resources whose `field` has one of these names; they are locked."""
    condition = (_ANY if field.descriptor.is_repeated else _ONE).format(column=sql.Identifier(field.column))
    statement = _REFERRING.format(table=_table(resource), condition=condition)
    return [Row(*row) for row in await transaction.rows(statement, [list(names), most])]


async def below(transaction: Transaction, resource: Resource, name: str, most: int, *, live: bool) -> list[str]:
    """Names of at most so many resources of one kind somewhere below `name`; of those only that are not deleted softly, where
    `live` ones are asked for."""
    statement = _BELOW.format(table=_table(resource), live=sql.SQL("and _delete_time is null" if live else ""))
    return [name for (name,) in await transaction.rows(statement, [f"{name}/", f"{name}0", most])]


def _table(resource: Resource) -> sql.Identifier:
    return sql.Identifier(resource.table_schema, resource.table_name)
