"""Schemas that change at random, servers of several of them on one database, and what must be true of it all the while."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import psycopg
from library_ground import ADA, Database, Engine, engine, made_of

from server.engine.lists import Wanted
from server.engine.rewriting import encoder
from server.schema.changes import indexes
from server.schema.model import Schema
from server.schema.tables import SYSTEM
from server.store.migrations import changing
from server.store.schemas.applying import Applying
from server.store.schemas.presence import Presence

PACKAGE = "garden.v1"
SCALARS = ("int32", "int64", "uint32", "uint64", "string", "bool", "double", "bytes")
WIDER = {"int32": "int64", "uint32": "uint64"}
WORDS = ("soil", "depth", "light", "shade", "water", "frost", "color", "label", "owner", "order", "width", "Öl", "it's")

# ------------------------------------------------------------------------------------------------- schemas


@dataclass
class Field:
    """A field of a made-up message. `kind` is a scalar, Kind (the enum) or Part (the message)."""

    number: int
    name: str
    kind: str
    label: str = ""
    """optional, repeated or map."""
    index: str = ""
    """The field's options."""

    def proto(self) -> str:
        kind = f"map<string, {self.kind}>" if self.label == "map" else f"{self.label} {self.kind}".strip()
        options = f" [(transom.schema.v1.field).index = {self.index}]" if self.index else ""
        return f"  {kind} {self.name} = {self.number}{options};"


@dataclass
class Kept:
    """A made-up resource."""

    message: str
    plural: str
    collection: str
    fields: list[Field] = field(default_factory=list)


@dataclass
class Garden:
    """A made-up schema."""

    kept: list[Kept]
    part: list[Field]
    labels: dict[int, str]
    numbers: int = 20
    """The next number that was never used, for anything."""

    def proto(self) -> str:
        lines = [
            'syntax = "proto3";',
            f"package {PACKAGE};",
            'import "google/api/resource.proto";',
            'import "transom/schema/v1/options.proto";',
        ]
        for one in self.kept:
            lines += [
                f"message {one.message} {{",
                f'  option (google.api.resource) = {{type: "garden.test/{one.message}" '
                f'pattern: "{one.collection}/{{one}}" plural: "{one.plural}"}};',
                "  string name = 1;",
                *(f.proto() for f in one.fields),
                "}",
            ]
        lines += ["message Part {", *(f.proto() for f in self.part), "}", "enum Kind {"]
        lines += [f"  {label} = {number};" for number, label in self.labels.items()]
        return "\n".join([*lines, "}"])

    def schema(self) -> Schema:
        return made_of({"garden.proto": self.proto()})

    def fresh(self, dice: random.Random, taken: list[Field]) -> str:
        """A name that nobody has, nor had in the version before."""
        self.numbers += 1
        return f"{dice.choice(WORDS[:11])}_{self.numbers}"

    def changed(self, dice: random.Random) -> tuple[Garden, str]:
        """The schema after a change, and what that is."""
        for _ in range(100):
            after = deepcopy(self)
            if said := _CHANGES[dice.randrange(len(_CHANGES))](after, dice):
                return after, said
        raise AssertionError("nothing can be changed any more")


def _add(garden: Garden, dice: random.Random) -> str:
    kept = dice.choice(garden.kept)
    kind = dice.choice((*SCALARS, "Kind", "Part"))
    label = dice.choice(("", "", "optional", "repeated", "map"))
    name = garden.fresh(dice, kept.fields)
    kept.fields.append(Field(garden.numbers, name, kind, label))
    return f"add {kept.message}.{name}: {label} {kind}"


def _remove(garden: Garden, dice: random.Random) -> str:
    kept = dice.choice(garden.kept)
    if len(kept.fields) < 4:
        return ""
    gone = kept.fields.pop(dice.randrange(len(kept.fields)))
    return f"remove {kept.message}.{gone.name}"


def _rename(garden: Garden, dice: random.Random) -> str:
    kept = dice.choice(garden.kept)
    if not kept.fields:
        return ""
    one = dice.choice(kept.fields)
    was, one.name = one.name, garden.fresh(dice, kept.fields)
    return f"rename {kept.message}.{was} to {one.name}"


def _widen(garden: Garden, dice: random.Random) -> str:
    kept = dice.choice(garden.kept)
    found = [f for f in kept.fields if f.kind in WIDER]
    if not found:
        return ""
    one = dice.choice(found)
    one.kind = WIDER[one.kind]
    return f"widen {kept.message}.{one.name} to {one.kind}"


def _presence(garden: Garden, dice: random.Random) -> str:
    kept = dice.choice(garden.kept)
    found = [f for f in kept.fields if f.label in ("", "optional") and f.kind != "Part"]
    if not found:
        return ""
    one = dice.choice(found)
    one.label = "" if one.label else "optional"
    return f"{kept.message}.{one.name} is {one.label or 'always there'}"


def _index(garden: Garden, dice: random.Random) -> str:
    kept = dice.choice(garden.kept)
    if not kept.fields:
        return ""
    one = dice.choice(kept.fields)
    one.index = "" if one.index else "true"
    return f"{'an index' if one.index else 'no index'} of {kept.message}.{one.name}"


def _resource(garden: Garden, dice: random.Random) -> str:
    if len(garden.kept) > 2:
        return ""
    garden.numbers += 1
    n = garden.numbers
    garden.kept.append(Kept(f"Made{n}", f"mades{n}", f"mades{n}", [Field(2, "first", "string")]))
    return f"add resource Made{n}"


def _plural(garden: Garden, dice: random.Random) -> str:
    kept = dice.choice(garden.kept)
    garden.numbers += 1
    was, kept.plural = kept.plural, f"{kept.collection}{garden.numbers}"
    return f"{was} are called {kept.plural}"


def _label(garden: Garden, dice: random.Random) -> str:
    number = max(garden.labels) + 1
    garden.labels[number] = f"KIND_{garden.numbers}_{number}"
    return f"add enum value {garden.labels[number]}"


def _relabel(garden: Garden, dice: random.Random) -> str:
    garden.numbers += 1
    number = dice.choice(list(garden.labels))
    was, garden.labels[number] = garden.labels[number], f"KIND_{garden.numbers}_{number}"
    return f"rename enum value {was} to {garden.labels[number]}"


def _add_nested(garden: Garden, dice: random.Random) -> str:
    name = garden.fresh(dice, garden.part)
    garden.part.append(Field(garden.numbers, name, dice.choice((*SCALARS[:6], "Kind"))))
    return f"add Part.{name}"


def _rename_nested(garden: Garden, dice: random.Random) -> str:
    one = dice.choice(garden.part)
    was, one.name = one.name, garden.fresh(dice, garden.part)
    return f"rename Part.{was} to {one.name}"


def _widen_nested(garden: Garden, dice: random.Random) -> str:
    found = [f for f in garden.part if f.kind in WIDER]
    if not found:
        return ""
    one = dice.choice(found)
    one.kind = WIDER[one.kind]
    return f"widen Part.{one.name}"


def _remove_nested(garden: Garden, dice: random.Random) -> str:
    if len(garden.part) < 3:
        return ""
    return f"remove Part.{garden.part.pop(dice.randrange(len(garden.part))).name}"


def _several(garden: Garden, dice: random.Random) -> str:
    said = [_CHANGES[dice.randrange(len(_CHANGES) - 1)](garden, dice) for _ in range(3)]
    return "; ".join(s for s in said if s)


_CHANGES = (
    _add, _add, _remove, _rename, _rename, _widen, _presence, _index, _index, _resource, _plural, _label, _relabel,
    _add_nested, _rename_nested, _widen_nested, _remove_nested, _several,
)  # fmt: skip


def first_garden() -> Garden:
    """Where it begins: a resource with a field of every kind."""
    fields = [Field(i, f"f{i}", kind) for i, kind in enumerate((*SCALARS, "Kind", "Part"), 2)]
    fields += [
        Field(12, "some", "int32", "optional"),
        Field(13, "parts", "Part", "repeated"),
        Field(14, "kinds", "Kind", "repeated"),
        Field(15, "texts", "string", "map"),
    ]
    part = [Field(1, "n", "int32"), Field(2, "t", "string"), Field(3, "k", "Kind")]
    return Garden([Kept("Bed", "beds", "beds", fields)], part, {0: "NONE", 1: "OPEN", 2: "SHUT"})


# ------------------------------------------------------------------------------------------------- values


def value_of(message: Any, fields: Any) -> Any:
    """What a message holds, by the fields' numbers; `fields` are those that count."""
    out = {}
    for one in fields:
        found = message.DESCRIPTOR.fields_by_number[one.number]
        held = getattr(message, found.name)
        if found.has_presence and not message.HasField(found.name):
            continue
        out[one.number] = _plain(found, held)
    return out


def _plain(found: Any, held: Any) -> Any:
    if found.message_type is not None and found.message_type.GetOptions().map_entry:
        inner = found.message_type.fields_by_name["value"]
        return {k: _plain_one(inner, held[k]) for k in held}
    if found.is_repeated:
        return [_plain_one(found, one) for one in held]
    return _plain_one(found, held)


def _plain_one(found: Any, held: Any) -> Any:
    if found.message_type is None:
        return held
    # Zeros that are set and zeros that are not are the same in what has no presence.
    return {f.number: getattr(held, f.name) for f in found.message_type.fields if getattr(held, f.name)}


def random_value(dice: random.Random, found: Any) -> Any:
    """A value of a field, as a message takes it."""
    if found.message_type is not None and found.message_type.GetOptions().map_entry:
        inner = found.message_type.fields_by_name["value"]
        return {dice.choice(WORDS): random_one(dice, inner) for _ in range(dice.randrange(3))}
    if found.is_repeated:
        return [random_one(dice, found) for _ in range(dice.randrange(3))]
    return random_one(dice, found)


def random_one(dice: random.Random, found: Any) -> Any:
    kinds = {
        found.TYPE_STRING: lambda: dice.choice(("", *WORDS)),
        found.TYPE_BYTES: lambda: dice.randbytes(3),
        found.TYPE_BOOL: lambda: dice.random() < 0.5,
        found.TYPE_DOUBLE: lambda: dice.choice((0.0, -1.5, 1e100)),
        found.TYPE_INT32: lambda: dice.choice((0, -1, 7, 2**31 - 1)),
        found.TYPE_INT64: lambda: dice.choice((0, -(2**40), 2**63 - 1)),
        found.TYPE_UINT32: lambda: dice.choice((0, 9, 2**32 - 1)),
        found.TYPE_UINT64: lambda: dice.choice((0, 2**40, 2**64 - 1)),
        found.TYPE_ENUM: lambda: dice.choice([v.number for v in found.enum_type.values]),
        found.TYPE_MESSAGE: lambda: {
            f.name: random_one(dice, f) for f in found.message_type.fields if dice.random() < 0.8
        },
    }
    return kinds[found.type]()


# ------------------------------------------------------------------------------------------------- servers


@dataclass
class Server:
    """A server of one schema: engine and store of an API server, known to serve."""

    garden: Garden
    schema: Schema
    on: Engine

    def kept(self) -> list[Kept]:
        return self.garden.kept

    async def create(self, dice: random.Random, kept: Kept, id: str) -> tuple[str, dict[int, Any]]:
        """A new resource with random values; its name, and what it holds."""
        resource = self.schema.resources[f"{PACKAGE}.{kept.message}"]
        body = self._body(dice, resource, [f.name for f in resource.fields if f.name != "name"])
        held = value_of(body, [f for f in resource.fields if f.name != "name"])
        made = await self.on.resources.create(ADA, resource, "", id, body)
        return self._parsed(resource, made).name, held

    async def update(self, dice: random.Random, kept: Kept, name: str) -> dict[int, Any]:
        """Changes one or two fields; what they hold now, by number (None: nothing)."""
        resource = self.schema.resources[f"{PACKAGE}.{kept.message}"]
        known = [f for f in resource.fields if f.name != "name"]
        chosen = dice.sample(known, min(len(known), dice.choice((1, 2))))
        body = self._body(dice, resource, [f.name for f in chosen])
        held = value_of(body, chosen)
        body.name = name
        await self.on.resources.update(ADA, resource, body, [f.name for f in chosen])
        return {f.number: held.get(f.number) for f in chosen}

    async def read(self, kept: Kept, name: str) -> dict[int, Any]:
        """What a resource holds, as a Get has it."""
        resource = self.schema.resources[f"{PACKAGE}.{kept.message}"]
        message = self._parsed(resource, await self.on.resources.get(ADA, resource, name))
        return value_of(message, [f for f in resource.fields if f.name != "name"])

    async def listed(self, kept: Kept) -> list[str]:
        """Names of the first resources of a kind."""
        resource = self.schema.resources[f"{PACKAGE}.{kept.message}"]
        listing = await self.on.resources.lists.page(ADA, resource, Wanted("", 1000))
        return [row[0] for row in listing.rows]

    def _body(self, dice: random.Random, resource: Any, names: list[str]) -> Any:
        body = self.schema.message_class(resource.message)()
        for name in names:
            found = resource.descriptor.fields_by_name[name]
            if found.has_presence and dice.random() < 0.3:
                continue
            _set(body, found, random_value(dice, found))
        return body

    def _parsed(self, resource: Any, payload: bytes) -> Any:
        return self.schema.message_class(resource.message).FromString(payload)


def _set(body: Any, found: Any, value: Any) -> None:
    if found.message_type is not None and found.message_type.GetOptions().map_entry:
        held = getattr(body, found.name)
        for key, one in value.items():
            if isinstance(one, dict):
                held[key].SetInParent()
                for name, inner in one.items():
                    setattr(held[key], name, inner)
            else:
                held[key] = one
    elif found.is_repeated and found.message_type is not None:
        for one in value:
            getattr(body, found.name).add(**one)
    elif found.is_repeated:
        getattr(body, found.name).extend(value)
    elif found.message_type is not None:
        getattr(body, found.name).SetInParent()
        for name, inner in value.items():
            setattr(getattr(body, found.name), name, inner)
    else:
        setattr(body, found.name, value)


@asynccontextmanager
async def served(at: Database, garden: Garden, schema: Schema) -> AsyncIterator[Server]:
    """A server of that schema, for as long as the block lasts."""
    async with AsyncExitStack() as stack:
        presence = Presence(at.postgres, "test", schema)
        stack.push_async_callback(presence.aclose)
        await presence.open()
        yield Server(garden, schema, await stack.enter_async_context(engine(at, schema=schema)))


# ------------------------------------------------------------------------------------------------- traffic


class Traffic:
    """Calls to servers of any schema, all the while, and what every resource must hold after them."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.servers: list[Server] = []
        self.held: dict[str, tuple[str, dict[int, Any]]] = {}
        """Name → message, and what it holds, by number."""
        self.calls = 0
        self._stopping = False
        self._ids = 0
        self._busy: dict[int, int] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def stop(self) -> None:
        self._stopping = True

    async def run(self) -> None:
        """Calls, until it is stopped; raises for the first call that fails or answers what is not so."""
        while not self._stopping:
            await self.call()
            await asyncio.sleep(0.01)  # what is tried is the change, not how much one processor can do beside it

    async def without(self, server: Server) -> None:
        """Returns when that server has no calls any more, and gets none: it may stop."""
        self.servers.remove(server)
        while self._busy.get(id(server)):
            await asyncio.sleep(0.001)

    async def call(self) -> None:
        server = self.dice.choice(self.servers)
        self._busy[id(server)] = self._busy.get(id(server), 0) + 1
        try:
            await self._call(server)
            self.calls += 1
        finally:
            self._busy[id(server)] -= 1

    async def _call(self, server: Server) -> None:
        dice = self.dice
        kept = dice.choice(server.kept())
        mine = [n for n, (message, _) in self.held.items() if message == kept.message]
        if not mine or (len(mine) < 25 and dice.random() < 0.2):
            self._ids += 1
            id = f"r{self._ids}"
            name, held = await server.create(dice, kept, id)
            self.held[name] = kept.message, held
            return
        name = dice.choice(mine)
        what = dice.random()
        if what < 0.05:
            missing = set(mine) - set(await server.listed(kept))
            assert not missing, f"not listed: {missing}"
            return
        async with self._locks.setdefault(name, asyncio.Lock()):
            if what < 0.5:
                changed = await server.update(dice, kept, name)
                held = {k: v for k, v in (self.held[name][1] | changed).items() if v is not None}
                self.held[name] = kept.message, held
            else:
                await self.check(server, kept, name)

    async def check(self, server: Server, kept: Kept, name: str) -> None:
        """A Get answers what must be there."""
        found = await server.read(kept, name)
        held = self.held[name][1]
        resource = server.schema.resources[f"{PACKAGE}.{kept.message}"]
        for one in resource.fields:
            if one.name != "name":
                assert same(found.get(one.number), held.get(one.number), one.descriptor), (
                    f"{name}.{one.name}: {found.get(one.number)!r} for {held.get(one.number)!r}"
                )


def same(found: Any, held: Any, descriptor: Any) -> bool:
    """Whether a value is what must be there: where nothing is, zero is; of a message, what the schema knows."""
    if descriptor.message_type is not None and not descriptor.message_type.GetOptions().map_entry:
        known = {f.number for f in descriptor.message_type.fields}
        if descriptor.is_repeated:
            return [_known(v, known) for v in found or []] == [_known(v, known) for v in held or []]
        # A message that is there and empty is another thing than none.
        return (found is None) == (held is None) and _known(found, known) == _known(held, known)
    if descriptor.message_type is not None:
        inner = descriptor.message_type.fields_by_name["value"]
        if inner.message_type is None:
            return (found or {}) == (held or {})
        known = {f.number for f in inner.message_type.fields}
        return {k: _known(v, known) for k, v in (found or {}).items()} == {
            k: _known(v, known) for k, v in (held or {}).items()
        }
    return (found or None) == (held or None)


def _known(value: Any, numbers: set[int]) -> Any:
    return {n: v for n, v in (value or {}).items() if n in numbers}


# ------------------------------------------------------------------------------------------------- the database


def applied(at: Database, schema: Schema, wait: float = 0.0) -> bool:
    """Applies the schema; whether it is all done."""
    with changing(at.postgres) as (connection, _):
        return Applying(connection, schema, who="test", encode=encoder(schema)).apply(wait)[1]


def check_catalogue(at: Database, schema: Schema, gone: dict[str, set[int]]) -> None:
    """Tables, columns, views, triggers and indexes are those of the schema, and of the fields that it had once."""
    with psycopg.connect(at.postgres, autocommit=True) as connection:
        for resource in schema.resources.values():
            _check_table(connection, resource, gone.get(resource.message, set()))
        for left in (
            "select relname from pg_class where relkind = 'v' and relnamespace = 'garden_v1'::regnamespace",
            "select tgname from pg_trigger where not tgisinternal and tgname like '!_next%' escape '!'",
            "select proname from pg_proc where pronamespace = 'garden_v1'::regnamespace",
            "select indexrelid::regclass::text from pg_index where not indisvalid",
            "select conname from pg_constraint where contype = 'c' and connamespace = 'garden_v1'::regnamespace",
            "select key from transom.schema_fills where not done",
            "select relname from pg_class where relname like '!_base!_%' escape '!' and relkind = 'r'",
        ):
            assert connection.execute(left).fetchall() == [], left


def _check_table(connection: psycopg.Connection, resource: Any, gone: set[int]) -> None:
    where = f"{resource.table_schema}.{resource.table_name}"
    found = {
        name: (kind.replace("(20,0)", "(20)"), not_null, default)
        for name, kind, not_null, default in connection.execute(
            "select attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid) "
            "from pg_attribute a left join pg_attrdef d on adrelid = attrelid and adnum = attnum "
            "where attrelid = %s::regclass and attnum > 0 and not attisdropped",
            [where],
        )
    }
    for name, _ in SYSTEM:
        del found[name]
    defaults = []
    for one in resource.fields:
        if one.name != "name":
            kind, not_null, default = found.pop(one.column)
            assert kind == one.column_type, (where, one.column)
            assert not_null == (one.default is not None), (where, one.column)
            assert (default is None) == (one.default is None), (where, one.column)
            if default is not None:
                defaults.append(f"({default}) = ({one.default}::{one.column_type})")
    if defaults:
        assert all(connection.execute(f"select {', '.join(defaults)}").fetchone()), (where, defaults)
    known = dict(
        connection.execute(
            "select column_name, number from transom.catalogue where message = %s", [resource.message]
        ).fetchall()
    )
    assert {known[name] for name in found} <= gone, (where, found)
    named = connection.execute(
        "select relname from pg_index join pg_class c on c.oid = indexrelid "
        "where indrelid = %s::regclass and relname like 'tx!_%%' escape '!'",
        [where],
    )
    assert {name for (name,) in named} == {w.name for w in indexes.wanted(resource)}, where


def check_rows(at: Database, schema: Schema) -> int:
    """Every column holds what the stored message says; how many rows there are."""
    count = 0
    encode = encoder(schema)
    with psycopg.connect(at.postgres, autocommit=True) as connection:
        connection.execute("set timezone to 'UTC'")
        for resource in schema.resources.values():
            fields = [f for f in resource.fields if f.column != "name"]
            values_of = encode(resource.message, [f.name for f in fields])
            listed = ", ".join(f'"{f.column}"' for f in fields)
            rows = connection.execute(
                f"select name, _payload{', ' if listed else ''}{listed} from {resource.table_schema}.{resource.table_name}"
            ).fetchall()
            for name, payload, *held in rows:
                count += 1
                for one, wanted, has in zip(fields, values_of(payload), held, strict=True):
                    if isinstance(wanted, bytes):
                        [[wanted]] = [[bytes(wanted)]]
                    else:
                        row = connection.execute(f"select %s::{one.column_type}", [wanted]).fetchone()
                        assert row
                        [wanted] = row
                    assert has == wanted, (name, one.name, has, wanted)
    return count
