"""Stored messages → the values of columns that have to be written anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from server.engine.columns import Columns, ends
from server.schema.model import Schema
from server.schema.tables import ENDS
from server.store.changes import Value


def encoder(schema: Schema) -> Callable[[str, Sequence[str]], Callable[[bytes], Sequence[Value]]]:
    """What makes, of a resource's message and some of its fields, what makes of a stored message the values of these fields'
    columns, in that order."""

    def of(message: str, fields: Sequence[str]) -> Callable[[bytes], Sequence[Value]]:
        resource = schema.resources[message]
        kind = schema.message_class(message)
        if tuple(fields) == ENDS:
            return lambda payload: ends(resource, kind.FromString(payload))
        known = {f.name: f for f in resource.fields}
        columns = Columns(replace(resource, fields=tuple(known[name] for name in fields), retention=0, expires=False))
        return lambda payload: columns.values(kind.FromString(payload))

    return of
