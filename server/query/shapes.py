"""The shape of a list: what it is found and ordered by, without the values; and the index that would serve it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from server.query.filters import Filter
from server.query.orders import Order
from server.schema.kinds import Kind, kind_of
from server.schema.model import Index, Resource

_SEVERAL, _BY = "in several parents", "by "


@dataclass(frozen=True, slots=True)
class Shape:
    """How a list was asked for."""

    conditions: tuple[tuple[str, str], ...]
    """Paths and how they were asked for, as in filters' Usage: those that all that is found must meet."""
    order: tuple[tuple[str, bool], ...]
    """Paths, and whether each descends."""
    several: bool
    """Whether it was not of one parent."""

    @property
    def text(self) -> str:
        """It as it is kept and shown: `state equal, by create_time desc`."""
        parts = [f"{path} {how}".strip() for path, how in self.conditions]
        parts += [_SEVERAL] * self.several
        if self.order:
            parts.append(_BY + ", ".join(f"{path} desc" if down else path for path, down in self.order))
        return ", ".join(parts)


def shape_of(filters: Iterable[Filter], order: Order | None, *, several: bool) -> Shape:
    """The shape of a list."""
    conditions = sorted({(".".join(usage.path), usage.how) for one in filters for usage in one.indexable})
    keys = tuple((key.path.text, key.descending) for key in order.keys) if order is not None else ()
    return Shape(tuple(conditions), keys, several)


def read(text: str) -> Shape:
    """The shape of a text."""
    begin, by, rest = f", {text}".partition(f", {_BY}")
    parts = [part for part in begin.split(", ") if part]
    conditions = tuple((part.rpartition(" ")[0], part.rpartition(" ")[2]) for part in parts if part != _SEVERAL)
    keys = [key.strip() for key in rest.split(",")] if by else []
    order = tuple((key.removesuffix(" desc"), key.endswith(" desc")) for key in keys)
    return Shape(conditions, order, _SEVERAL in parts)


def served(resource: Resource, shape: Shape) -> bool:
    """Whether an index that is declared serves it, or a part of it."""
    wanted = {path for path, how in shape.conditions if how in ("equal", "range", "holds")}
    wanted |= {path for path, _ in shape.order[:1] if not _is_enum(resource, path)}
    return any(index.paths[0][0] in wanted and (index.everywhere or not shape.several) for index in resource.indexes)


def advised(resource: Resource, shape: Shape) -> Index | None:
    """The index that would serve it; None where none could."""
    equal = [(path, False) for path, how in shape.conditions if how == "equal"]
    ranges = [(path, False) for path, how in shape.conditions if how == "range"]
    holds = [(path, False) for path, how in shape.conditions if how == "holds"]
    # Enums are kept by their names, and ordered by their numbers: no index has these.
    order = [] if any(_is_enum(resource, path) for path, _ in shape.order) else list(shape.order)
    named = dict(equal)
    paths = [*equal, *(key for key in order or ranges[:1] if key[0] not in named and key[0] != resource.name_field)]
    if not paths:
        paths = holds[:1]
    return Index(tuple(paths), everywhere=shape.several) if paths else None


def option(index: Index) -> str:
    """The index as a schema declares it."""
    fields = ", ".join(f"{path} desc" if down else path for path, down in index.paths)
    return f'index: {{fields: "{fields}"{", everywhere: true" if index.everywhere else ""}}}'


def _is_enum(resource: Resource, path: str) -> bool:
    message, kind = resource.descriptor, None
    for name in path.split("."):
        field = message.fields_by_name.get(name)
        if field is None:
            return False
        kind, message = kind_of(field), field.message_type or message
    return kind is Kind.ENUM
