"""What is looked for when resources are deleted softly, undeleted, kept in revisions, or have come to their end."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import Counter, Gauge
from psycopg import sql

from server.schema.model import Resource
from server.store.changes import Row
from server.store.transactions import Transaction

# `0` is the character after `/`: in "C" order, all that is below a/b lies between a/b/ and a/b0.
_LIVE_BELOW = sql.SQL("""
select name, _payload, _version, _owner from {table}
where name >= $1 and name < $2 and _delete_time is null order by name limit $3 for update
""")
_MARKED_BELOW = sql.SQL("""
select name, _payload, _version, _owner from {table}
where name >= $1 and name < $2 and _delete_time = (timestamptz 'epoch' + $4::bigint * interval '1 microsecond')
order by name limit $3 for no key update
""")
_BELOW = sql.SQL("select name, _version from {table} where name >= $1 and name < $2 order by name desc limit $3")
_BEYOND = sql.SQL("select name from {table} where _parent = $1 and name ~ $2 order by name offset $3 limit $4")
# What another sweep has at the moment is left to it.
_ENDED = sql.SQL("""
select name, _version, _delete_time is not null, _expire_time::text, extract(epoch from now() - _expire_time)::float8
from {table} where _expire_time <= now() and (_expire_time, name) > ($1::timestamptz, $2)
order by _expire_time, name limit $3 for update skip locked
""")


BEGINNING = ("-infinity", "")
"""Before all that has ended."""

ENDED = Counter(
    "transom_ended_total", "Resources that went by themselves when their time had come.", ["resource", "verb"]
)
LATE = Gauge("transom_ended_late_seconds", "For how long the oldest was over that a sweep found.", ["resource"])


@dataclass(frozen=True, slots=True)
class Ended:
    """A row whose time has come."""

    name: str
    version: int
    marked: bool
    """Whether it was deleted softly before."""
    at: str
    """When it ended, as Postgres writes it."""
    late: float
    """How many seconds ago that was."""


def _of(text: sql.SQL, resource: Resource) -> sql.Composed:
    return text.format(table=sql.Identifier(resource.table_schema, resource.table_name))


async def live_below(transaction: Transaction, resource: Resource, name: str, most: int) -> list[Row]:
    """At most so many rows of one kind somewhere below `name` that are not deleted softly; they are locked."""
    return [Row(*r) for r in await transaction.rows(_of(_LIVE_BELOW, resource), [f"{name}/", f"{name}0", most])]


async def marked_below(transaction: Transaction, resource: Resource, name: str, when: int, most: int) -> list[Row]:
    """At most so many rows of one kind somewhere below `name` that were deleted softly at `when` (microseconds since 1970);
    they are locked."""
    parameters = [f"{name}/", f"{name}0", most, when]
    return [Row(*r) for r in await transaction.rows(_of(_MARKED_BELOW, resource), parameters)]


async def below(transaction: Transaction, resource: Resource, name: str, most: int) -> list[tuple[str, int]]:
    """Names and versions of at most so many rows of one kind somewhere below `name`, the last in order first: what lies below
    another comes before it."""
    found = await transaction.rows(_of(_BELOW, resource), [f"{name}/", f"{name}0", most])
    return [(name, version) for name, version in found]


async def beyond(
    transaction: Transaction, resource: Resource, parent: str, like: str, kept: int, most: int
) -> list[str]:
    """Names of at most so many rows below `parent` whose names are like that (a regular expression), beyond the first `kept`
    in their order."""
    return [name for (name,) in await transaction.rows(_of(_BEYOND, resource), [parent, like, kept, most])]


async def ended(transaction: Transaction, resource: Resource, after: tuple[str, str], most: int) -> list[Ended]:
    """At most so many rows whose time has come, after a time and a name; they are locked, and what others have locked is not
    among them."""
    found = [Ended(*row) for row in await transaction.rows(_of(_ENDED, resource), [*after, most])]
    if after == BEGINNING:
        LATE.labels(resource.message).set(found[0].late if found else 0)
    return found
