"""Aggregates: what is counted and summed of what a caller could list."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from server.engine.access import Access, Asked
from server.engine.lists import Lists, Wanted
from server.engine.method_rules import MethodRules
from server.errors import Invalid
from server.query import groups, pages
from server.query.groups import Grouping
from server.schema.model import Kind, Resource, Schema
from server.store.changes import PAGE_BYTES_MAX
from server.store.selections import Selection

ROWS, ROWS_MAX = 100, 1000
"""Groups of a page: where nothing is said, and at most."""
GROUPS_MAX = 10_000
"""Groups that pages lead to."""


class Queries(Protocol):
    """The store, as aggregates need it; see server/store/queries.py."""

    def groups(
        self, selection: Selection, grouping: Grouping, size: int, skip: int, reader: str
    ) -> Awaitable[list[tuple[list[str | None], int]]]: ...


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked."""

    type: str
    parent: str = ""
    filter: str = ""
    group_by: tuple[str, ...] = ()
    aggregations: tuple[groups.Asked, ...] = ()
    order_by: str = ""
    size: int = 0
    token: str = ""
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A page of groups: of each its values, as texts, in the order of the columns; None where there is none."""

    grouping: Grouping
    rows: list[list[str | None]]
    next_page_token: str


class Aggregates:
    """The aggregates of one schema."""

    def __init__(self, schema: Schema, lists: Lists, queries: Queries, access: Access, methods: MethodRules) -> None:
        self._schema = schema
        self._lists = lists
        self._queries = queries
        self._access = access
        self._methods = methods

    async def page(self, call: Asked, question: Question) -> Answer:
        """A page of the groups that are asked for.

        Raises Invalid, NotFound where there is no such parent or the caller may not get it, Denied, Unauthenticated,
        Precondition (QUERY_TOO_EXPENSIVE).
        """
        resource = typed(self._schema, question.type)
        below = self._lists.below(resource, question.parent)
        size = pages.size_of(question.size, ROWS, ROWS_MAX)
        filters = [self._lists.filter(resource, question.filter)] if question.filter else []
        grouping = groups.grouping(
            self._schema,
            self._lists.filters(resource),
            resource,
            question.group_by,
            question.aggregations,
            question.order_by,
        )
        bound = _bound(resource, question)
        skip = _skip(pages.opened(question.token, bound))
        # Nobody counts what nobody was meant to list.
        await self._methods.check(self._access, call, Kind.LIST, resource, parent=question.parent)
        asking = await self._access.listing(call, resource)
        wanted = Wanted(question.parent, deleted=question.deleted)
        selection = self._lists.selection(resource, below, asking, wanted, filters)
        found = await self._queries.groups(selection, grouping, size + 1, skip, call.caller.name)
        if below.parent is not None and not skip and not sum(count for _, count in found):
            await self._lists.check_parent(call, resource, below.parent)
        rows = _fitting([row for row, _ in found[:size]])
        more = len(found) > len(rows) and skip + len(rows) < GROUPS_MAX
        return Answer(grouping, rows, pages.sealed(bound, str(skip + len(rows))) if more else "")


def typed(schema: Schema, type: str) -> Resource:
    """The resource of a type, or of a message. Raises Invalid of the field `type`."""
    if not type:
        raise Invalid.field("type", "is required", "REQUIRED")
    found = [r for r in schema.resources.values() if type in (r.type, r.message)]
    if len(found) != 1:
        why = "is that of several messages; say the message's full name" if found else "is no type of this schema"
        raise Invalid.field("type", why, "UNKNOWN_TYPE")
    return found[0]


def _skip(token: str) -> int:
    if not token:
        return 0
    if not token.isascii() or not token.isdecimal() or len(token) > 5 or int(token) > GROUPS_MAX:
        raise Invalid.field("page_token", "is not a token that this method gave", "INVALID_PAGE_TOKEN")
    return int(token)


def _fitting(rows: Sequence[list[str | None]]) -> list[list[str | None]]:
    """As many of the first rows as a reply may hold, at least one if there is one."""
    total = 0
    for i, row in enumerate(rows):
        total += sum(len(value.encode()) for value in row if value is not None)
        if i and total > PAGE_BYTES_MAX:
            return list(rows[:i])
    return list(rows)


def _bound(resource: Resource, question: Question) -> str:
    asked = [f"{one.function}:{len(one.path)}:{one.path}:{one.alias}" for one in question.aggregations]
    parts = [resource.message, question.parent, question.filter, question.order_by, str(question.deleted)]
    parts += [str(len(question.group_by)), *question.group_by, *asked]
    return "\n".join(f"{len(part)}:{part}" for part in parts)
