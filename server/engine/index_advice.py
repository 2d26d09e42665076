"""Which indexes an app should declare, by what was slow. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from server.query import shapes
from server.schema.model import Schema
from server.store.slow_lists import Slow

LARGE = 10_000
"""Rows of a table that is too large to be read whole for a page."""


def advice(schema: Schema, slow: Iterable[Slow], rows: Mapping[str, int]) -> Iterator[str]:
    """A line for each shape of lists that was slow on a large table and that no declared index serves: what was asked for, how
    often, and what to declare. `rows` are those of the tables, by message."""
    for one in slow:
        resource, size = schema.resources.get(one.resource), rows.get(one.resource, 0)
        if resource is None or size < LARGE:
            continue
        shape = shapes.read(one.shape)
        if shapes.served(resource, shape):
            continue
        index = shapes.advised(resource, shape)
        what = (
            f"declare {shapes.option(index)}" if index else "no index could serve it: narrow it by a parent or a value"
        )
        yield (
            f"{resource.descriptor.file.name}: {resource.message}: lists of {size} rows ({one.shape or 'a count'}) took up to "
            f"{one.slowest:.1f} s, {one.count} times: {what}"
        )
