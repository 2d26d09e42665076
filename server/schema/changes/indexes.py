"""The indexes that a resource's table has: those that every table needs, and those that the schema declares.

A List reads a page of one collection in some order, from where the last page ended: so an index begins with the parent,
where it is not declared for everywhere, and ends with the name, in the direction of the last key. Texts are ordered by their
bytes (`collate "C"`), as lists are; what is not set comes first. Words are found by their trigrams.

An index is known by its name, which changes with all that it is made of but the names of columns: a rename needs no new
index.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import FieldDescriptor
from psycopg import sql

from server.schema import expressions
from server.schema.columns import column_type, digest, identifier
from server.schema.model import Field, Index, Managed, Resource

SYSTEM = (("_parent", "name"), ("_owner",))
"""Columns of the indexes that every table has: of its collections, and of what belongs to an account."""

OURS = "tx_"
"""How the name of every index begins that a schema declares; one of that kind that is not declared any more is dropped."""

ENDS = "_ends"
"""How the name of the one ends that is over when rows go."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An index that a table shall have."""

    name: str
    fields: tuple[str, ...]
    """Of the resource: those it is over."""
    unique: bool
    method: str
    parts: tuple[sql.Composable, ...]
    """Its keys, made for the columns as they are called now."""
    condition: sql.Composable | None
    group: tuple[sql.Composable, ...] = ()
    """Of a unique one: what must differ."""

    def statement(self, table: tuple[str, str], *, beside: bool) -> str:
        """The SQL that makes it, `beside` what goes on or in a transaction."""
        return (
            sql.SQL("create {}index {}{} on {} using {} ({}){}")
            .format(
                sql.SQL("unique " if self.unique else ""),
                sql.SQL("concurrently " if beside else ""),
                sql.Identifier(self.name),
                sql.Identifier(*table),
                sql.SQL(self.method),
                sql.SQL(", ").join(self.parts),
                sql.SQL(" where {}").format(self.condition) if self.condition is not None else sql.SQL(""),
            )
            .as_string(None)
        )

    def duplicates(self, table: tuple[str, str], limit: int) -> str:
        """The SQL that answers how many values more than one row has, at most `limit`."""
        return (
            sql.SQL("select count(*) from (select 1 from {} {}group by {} having count(*) > 1 limit {}) as several")
            .format(
                sql.Identifier(*table),
                sql.SQL("where {} ").format(self.condition) if self.condition is not None else sql.SQL(""),
                sql.SQL(", ").join(self.group),
                sql.Literal(limit),
            )
            .as_string(None)
        )


def wanted(resource: Resource, columns: Mapping[str, str] | None = None) -> list[Wanted]:
    """The indexes that the schema declares, over `columns`: what the fields' columns are called now, where that is not as
    the resource has it."""
    fields = {f.name: f for f in resource.fields}
    named = {f.name: f.column for f in resource.fields} | dict(columns or {})
    declared = list(resource.indexes)
    # What is deleted is asked for all that refers to it.
    declared += [Index(((f.name, False),), everywhere=True) for f in resource.fields if f.reference or _filed(f)]
    out = {one.name: one for index in declared for one in [_wanted(resource, index, fields, named)]}
    out |= {one.name: one for one in (*_words(resource, named), *_files(resource, named))}
    return [*out.values(), *([ends(resource)] if resource.ends else [])]


def ends(resource: Resource) -> Wanted:
    """By when each goes by itself, of those that do. It has another name where that is reckoned otherwise, and is made when all
    rows say so (see endings)."""
    told = sorted(m.value for m in resource.managed & {Managed.PURGE_TIME, Managed.EXPIRE_TIME})
    name = f"{OURS}{digest(f'{resource.message} {resource.retention} {told} {resource.expires}')}{ENDS}"
    keys = sql.Identifier("_expire_time"), sql.Identifier("name")
    return Wanted(name, (), False, "btree", keys, sql.SQL("_expire_time is not null"))


def _words(resource: Resource, named: Mapping[str, str]) -> list[Wanted]:
    """The index of the words in the fields that are searched, if any are. It needs the extension pg_trgm."""
    fields = expressions.searched(resource)
    if not fields:
        return []
    text = expressions.search_text(resource, lambda field: sql.Identifier(named[field.name]).as_string(None))
    told = ",".join(f"{field.number}{'?' if field.default is None else ''}" for field in fields)
    name = f"{OURS}{digest(f'{resource.message} words {told}')}_words"
    return [Wanted(name, tuple(f.name for f in fields), False, "gin", (sql.SQL(f"{text} gin_trgm_ops"),), None)]


def _filed(field: Field) -> bool:
    """Whether the field itself refers to files."""
    return any(not one.steps for one in field.files)


def _files(resource: Resource, named: Mapping[str, str]) -> list[Wanted]:
    """Those of references to files in the messages that fields hold."""
    out = []
    for field in resource.fields:
        for steps in (one.steps for one in field.files if one.steps):
            path = ".".join(step.name for step in steps)
            name = identifier(f"{OURS}{digest(f'{resource.message} files {field.number} {path}')}_{field.number}")
            text = expressions.inside(sql.Identifier(named[field.name]).as_string(None), steps)
            out.append(Wanted(name, (field.name,), False, "gin", (sql.SQL(f"({text})"),), None))
    return out


def _wanted(resource: Resource, index: Index, fields: Mapping[str, Field], named: Mapping[str, str]) -> Wanted:
    key = _distinct if index.unique else _key
    keys = [key(fields[path.partition(".")[0]], path, named) for path, _ in index.paths]
    document = len(keys) == 1 and keys[0][1] == "jsonb"
    told = ",".join(
        f"{fields[path.partition('.')[0]].number}{path.partition('.')[2]} {kind} {descending}"
        for (path, descending), (_, kind) in zip(index.paths, keys, strict=True)
    )
    about = f"{resource.message} {told} {document} {index.unique} {index.everywhere}"
    if index.unique:
        about += "".join(f" {fields[path.partition('.')[0]].default}" for path, _ in index.paths)
    numbers = "_".join(str(fields[path.partition(".")[0]].number) for path, _ in index.paths)
    name = identifier(f"{OURS}{digest(about)}_{numbers}")
    used = tuple(dict.fromkeys(path.partition(".")[0] for path, _ in index.paths))
    if document:
        return Wanted(name, used, False, "gin", (keys[0][0],), None)
    parent = [] if index.everywhere else [sql.Identifier("_parent")]
    if index.unique:
        group = (*parent, *(_collated(text, kind) for text, kind in keys))
        set_ = [
            condition for path, _ in index.paths if (condition := _is_set(fields[path.partition(".")[0]], path, named))
        ]
        return Wanted(name, used, True, "btree", group, sql.SQL(" and ").join(set_) if set_ else None, group)
    parts = [
        sql.SQL("{} {}").format(_collated(text, kind), sql.SQL("desc nulls last" if descending else "asc nulls first"))
        for (_, descending), (text, kind) in zip(index.paths, keys, strict=True)
    ]
    last = sql.SQL("name desc") if index.paths[-1][1] else sql.SQL("name")
    return Wanted(name, used, False, "btree", (*parent, *parts, last), None)


def _key(field: Field, path: str, named: Mapping[str, str]) -> tuple[sql.Composable, str]:
    """What is indexed of a path, and its type: the column, or what conditions and orders ask of its document."""
    column = sql.Identifier(named[field.name])
    names = path.split(".")[1:]
    if not names:
        return column, field.column_type
    steps = [_below(field.descriptor, names[: i + 1]) for i in range(len(names))]
    kind, _ = column_type(steps[-1])
    said = expressions.document if kind == "jsonb" else expressions.nested
    return sql.SQL("({})").format(sql.SQL(said(column.as_string(None), steps))), kind if kind == "jsonb" else ""


def _distinct(field: Field, path: str, named: Mapping[str, str]) -> tuple[sql.Composable, str]:
    """What must differ of a path: NULL where it is not set, or is the default."""
    column = sql.Identifier(named[field.name])
    names = path.split(".")[1:]
    if not names:
        return column, field.column_type
    return sql.SQL("({} #>> {})").format(column, sql.Literal("{" + ",".join(names) + "}")), "text"


def _below(field: FieldDescriptor, path: list[str]) -> FieldDescriptor:
    for name in path:
        field = field.message_type.fields_by_name[name]
    return field


def _collated(text: sql.Composable, kind: str) -> sql.Composable:
    return sql.SQL('{} collate "C"').format(text) if kind == "text" else text


def _is_set(field: Field, path: str, named: Mapping[str, str]) -> sql.Composable | None:
    """The condition under which a value counts: it is not the empty one."""
    if "." in path or field.default is None:
        return None  # NULLs are never equal
    return sql.SQL("{} <> {}").format(sql.Identifier(named[field.name]), sql.SQL(field.default))
