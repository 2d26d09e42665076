"""The versions of the schema that were deployed, and which of them are being served.

Every process that reads or writes resources holds a shared advisory lock on the number of its version for as long as it
lives: nobody has to be told that it has gone, whatever it died of.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import psycopg
from psycopg.rows import class_row, tuple_row

from server.schema.changes import layout
from server.schema.model import Schema

GATE = 0x7472616E736F6E
"""Key of the advisory lock that a starting process holds, shared, while it looks whether it may start, and whoever changes
what that depends on, alone."""
SERVED = 0x74736372
"""First half of the keys of the locks that processes hold while they live; the other half is the version."""
HISTORY = 20
"""Versions that are kept, the newest."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of the schema."""

    version: int
    digest: str
    layout: str
    follows: int | None
    state: str
    who: str
    image: bytes

    @property
    def starts(self) -> bool:
        """Whether processes of it may start."""
        return self.state in ("expanded", "settling", "serving")


_VERSIONS = "select version, digest, layout, follows, state, who, image from transom.schemas"


def versions(connection: psycopg.Connection) -> list[Version]:
    """All that are known, the newest first."""
    return connection.cursor(row_factory=class_row(Version)).execute(f"{_VERSIONS} order by version desc").fetchall()


def served(connection: psycopg.Connection) -> dict[int, int]:
    """How many processes serve each version."""
    rows = connection.cursor(row_factory=tuple_row).execute(
        "select objid::bigint::int, count(*)::int from pg_locks where locktype = 'advisory' and objsubid = 2 and granted "
        "and classid::bigint = %s and database = (select oid from pg_database where datname = current_database()) group by 1",
        [SERVED],
    )
    return dict(rows.fetchall())


def begin(connection: psycopg.Connection, schema: Schema, follows: int | None, who: str) -> Version:
    """Writes down that the schema is what comes next; the oldest versions beyond HISTORY are forgotten."""
    with connection.transaction():
        found = connection.cursor(row_factory=class_row(Version)).execute(
            "insert into transom.schemas (digest, layout, image, follows, state, who) values (%s, %s, %s, %s, 'expanding', %s) "
            "returning version, digest, layout, follows, state, who, image",
            [digest(schema), layout.digest(schema), schema.image, follows, who],
        )
        version = found.fetchone()
        assert version is not None
        connection.execute(
            "delete from transom.schemas where state = 'past' and version <= %s", [version.version - HISTORY]
        )
    return version


def move(connection: psycopg.Connection, version: Version, state: str) -> Version:
    """Writes down the state of a version. What it takes the place of becomes past; where it is served, no fill is left, and
    the same one may come again with a later change."""
    with connection.transaction():
        if state in ("closed", "settling", "serving"):
            connection.execute(
                "update transom.schemas set state = 'past', change_time = clock_timestamp() "
                "where version <> %s and state <> 'past'",
                [version.version],
            )
        if state == "serving":
            connection.execute("delete from transom.schema_fills")
        connection.execute(
            "update transom.schemas set state = %s, change_time = clock_timestamp() where version = %s",
            [state, version.version],
        )
    return replace(version, state=state)


def again(connection: psycopg.Connection, version: Version, schema: Schema) -> Version:
    """Goes on with a version that another image began, or another Transom, for which its tables are others: then the tables
    are made fit anew."""
    wanted = layout.digest(schema)
    state = version.state if wanted == version.layout or version.state == "closed" else "expanding"
    connection.execute(
        "update transom.schemas set layout = %s, digest = %s, image = %s, state = %s, change_time = clock_timestamp() "
        "where version = %s",
        [wanted, digest(schema), schema.image, state, version.version],
    )
    return replace(version, layout=wanted, digest=digest(schema), image=schema.image, state=state)


def digest(schema: Schema) -> str:
    """What tells the schema's image from others."""
    return hashlib.sha256(schema.image).hexdigest()
