"""What filters mean, sentence by sentence, to Postgres and to Python alike; what they are refused for, and where."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filters_ground import NOW, TABLE, Shelf, books, catalogue
from google.protobuf.json_format import ParseDict
from rules_ground import Row, World, sorted_otherwise, tables_made

from deploy.native.stack import PROJECT, Stack
from server.errors import Invalid
from server.query import orders
from server.query.filters import Filters, Usage
from server.query.filters.filters import KNOWN_LENGTH, KNOWN_MOST
from server.query.filters.syntax import DEPTH_MOST, LENGTH_MOST, SEGMENTS_MOST, STARS_MOST, TERMS_MOST
from server.schema.compilation import compile_app
from server.schema.expressions import search_expression
from server.schema.reading import read

HUGO = {
    "title": "Victor Hugo in New York", "summary": "A Life", "tags": ["red", "dark red"], "state": "OPEN", "priority": 5,
    "rank": 0,
    "copies": "9007199254740993", "views": "18446744073709551615", "weight": 0.1, "price": 2.997e9, "lent": True,
    "cover": "/+8=", "createTime": "2026-01-02T03:04:05.678901234Z", "loan": "20s", "subtitle": "main.java",
    "labels": {"env": "prod", "a.b": "c", "empty": ""}, "counts": {"3": "4"}, "years": [1999, 42], "numbers": ["42"],
    "scores": [0.5, "NaN"], "grades": [0.1], "states": ["LENT"], "loans": ["2026-01-01T00:00:00Z"], "delays": ["1.500s"],
    "author": {
        "givenName": "Ada", "age": 36, "followers": "5000000000", "income": 1.5, "height": 0.1, "alive": True, "state": "LENT",
        "key": "/+8=", "birthTime": "1815-12-10T00:00:00Z", "career": "-1.5s", "prizes": ["Nobel"], "links": {"web": "x.org"},
        "mentor": {"givenName": "Mary"}, "middleName": "",
    },
    "editors": [{"givenName": "Ed", "age": 3, "sales": ["7"], "links": {"k": "v"}}, {"givenName": "Flo", "mentor": {"age": 9}}],
    "roles": {"lead": {"givenName": "Lee"}}, "note": "", "stock": "7", "checked": False,
    "cost": {"units": "3", "currencyCode": "EUR"},
    "extra": {"color": "red", "size": 42, "on": True, "none": None, "in": {"deep": "yes"}, "list": ["a", 1]}, "megabytes": 0,
    "isbnCode": "i1",
}  # fmt: skip
EMILY = {
    "title": "émilie 100% A_B", "state": "LENT", "priority": -3, "rank": 7, "price": "NaN", "tags": ["blue"],
    "createTime": "2025-12-31T23:59:59Z", "author": {}, "labels": {"env": "test"}, "note": "N*te",
}  # fmt: skip
EMPTY: dict[str, Any] = {}

H, E, N = "hugo", "emily", "empty"
MEANINGS = [
    ("", H, E, N),
    ("   ", H, E, N),
    # Logic: the examples of AIP-160, and OR before AND.
    ("priority > 0 AND lent = true", H),
    ("priority > 0 OR rank = 7", H, E),
    ("priority = 5 OR priority = -3 AND rank = 7", E),
    ("rank = 7 AND priority = 5 OR priority = -3", E),
    ("(rank = 7 AND priority = 5) OR priority = 5", H),
    ("NOT lent = true", E, N),
    ("-lent = true", E, N),
    ("NOT (priority = 5 OR rank = 7)", N),
    ("NOT priority = 5 OR rank = 7", E, N),
    ("priority = 5 rank = 0", H),
    ("\tpriority=5\n  rank=0 ", H),
    ("priority = 5 rank = 7 OR rank = 0", H),
    # Words: in any searchable field, whatever their capitals.
    ("Hugo", H),
    ("hugo LIFE", H),
    ("Hugo emilie", ),
    ("Hugo OR Émilie", H, E),
    ("-Hugo", E, N),
    ('"new york"', H),
    ('"new  york"', ),
    ("dark", H),
    ("H*York", H),
    ("100%", E),
    ("a_b", E),
    ("axb", ),
    # Texts.
    ('title = "Victor Hugo in New York"', H),
    ('title = "victor hugo in new york"', ),
    ('title != "Victor Hugo in New York"', E, N),
    ('subtitle = "*.java"', H),
    ("subtitle = *.java", H),
    ('subtitle = "main.*"', H),
    ('subtitle = "m*.*va"', H),
    ('subtitle = "*.jav"', ),
    ('subtitle != "*.java"', E, N),
    ('note = "N\\*te"', E),
    ('title > "a"', E),
    ('title <= "Victor Hugo in New York"', H, N),
    ('title:"HUGO"', H),
    ("-title:hugo", E, N),
    ('-subtitle:".java"', E, N),
    ("title = ''", N),
    ('title:("hugo" OR "émilie")', H, E),
    ("startsWith(title, 'Victor')", H),
    ("endsWith(title, 'York') AND contains(title, 'Hugo')", H),
    ("contains(title, 'hugo')", ),
    ('name = "shelves/a/books/e*"', E, N),
    ('name = "shelves/a/books/hugo"', H),
    # Numbers, exact to the last.
    ("copies = 9007199254740993", H),
    ("copies = 9007199254740992", ),
    ("copies >= 9007199254740992", H),
    ("views = 18446744073709551615", H),
    ("views < 18446744073709551615", E, N),
    ("price = 2.997e9", H),
    ("price = 2997000000", H),
    ("price > 0.5", H, E),
    ("price = NaN", E),
    ("weight = 0.1", H),
    ("priority = -3", E),
    ("priority = 5.0", H),
    ("priority = (5 OR -3)", H, E),
    ("priority > (-5 AND 0)", H),
    ("priority != (5 OR -3)", N),
    # What is not set.
    ("rank = 0", H),
    ("rank != 0", E, N),
    ("rank < 100", H, E),
    ("rank:*", H, E),
    ("rank = null", N),
    ("rank != null", H, E),
    ("priority:*", H, E),
    ("megabytes = 0", H),
    ("paper = ''", ),
    ("note = ''", H),
    ("stock > 6", H),
    ("checked = false", H),
    # Enums and booleans.
    ("state = OPEN", H),
    ('state = "AVAILABLE"', H),
    ("state != OPEN", E, N),
    ("state = (OPEN OR LENT)", H, E),
    ("state = STATE_UNSPECIFIED", N),
    ("state:*", H, E),
    ("state = 2", E),
    ("last_state = STATE_UNSPECIFIED", ),
    ("lent = false", E, N),
    ("lent:true", H),
    # Times.
    ('create_time > "2026-01-01T00:00:00Z"', H),
    ("create_time > 2026-01-01T00:00:00Z", H),
    ("create_time >= 2026-01-01T00:30:00+01:00 ", H, E),
    ("create_time > 2026-01-01", H),
    ("create_time = 2026-01-02T03:04:05.678901Z", H),
    ("create_time = 2026-01-01T22:04:05.678901999-05:00", H),
    ("create_time < now()", H, E),
    ("create_time > ago(31556952s)", H, E),
    ("create_time > ago(22700000s)", H),
    ("loan = 20s", H),
    ("loan < 20.5s AND loan > 1.2s", H),
    ("loan = 20.0s", H),
    # Fields of messages.
    ("author.given_name = Ada", H),
    ("author.givenName = Ada", H),
    ("author.mentor.given_name = 'M*'", H),
    ("author.mentor.given_name:Mary", H),
    ("author.mentor.given_name:mary", ),
    ("author.age > 20", H),
    ("author.age < 20", E),
    ("author.followers = 5000000000", H),
    ("author.income >= 1.5", H),
    ("author.height = 0.1", H),
    ("author.alive = true", H),
    ("author.alive = false", E),
    ("author.state = LENT", H),
    ("author.key = '_-8'", H),
    ("author.birth_time < 1900-01-01", H),
    ("author.career = -1.5s", H),
    ("author.career < 0s", H),
    ("author:*", H, E),
    ("author = null", N),
    ("author:given_name", H),
    ("author.given_name:*", H),
    ("author.middle_name:*", H),
    ("author.given_name = ''", E),
    ("author.given_name != Ada", E, N),
    ("cost.units = 3 AND cost.currency_code = EUR", H),
    # Lists.
    ("tags:red", H),
    ("tags:RED", ),
    ("tags:(red OR blue)", H, E),
    ("tags:'*red'", H),
    ("tags:'d* red'", H),
    ("tags:*", H, E),
    ("-tags:*", N),
    ("tags = null", N),
    ("years:42", H),
    ("numbers:42", H),
    ("scores:0.5", H),
    ("scores:NaN", H),
    ("grades:0.1", H),
    ("states:LENT", H),
    ("loans:2026-01-01", H),
    ("delays:1.5s", H),
    ("editors.given_name:Flo", H),
    ("editors.given_name:'*o'", H),
    ("editors.age:0", H),
    ("editors.age:3 editors.given_name:Flo", H),
    ("editors.mentor.age:9", H),
    ("editors.sales:7", H),
    ("editors.links.k:v", H),
    ("editors:mentor", H),
    ("editors.mentor:*", H),
    ("author.prizes:Nobel", H),
    # Maps.
    ("labels:env", H, E),
    ("labels.env:*", H, E),
    ("labels.env = prod", H),
    ("labels.env:prod", H),
    ("labels.env != prod", E, N),
    ("labels.env = 't*'", E),
    ('labels."a.b" = c', H),
    ("labels:'a.b'", H),
    ("labels.empty = ''", H),
    ("labels.empty:*", H),
    ("labels.missing = ''", ),
    ("labels:*", H, E),
    ("labels = null", N),
    ("counts.3 = 4", H),
    ("counts.3 < 5", H),
    ("counts:3", H),
    ("roles.lead.given_name = Lee", H),
    ("author.links.web = 'x.*'", H),
    # JSON.
    ("extra.color = red", H),
    ("extra.color = 'r*'", H),
    ("extra.size = 42", H),
    ("extra.size = '42'", ),
    ("extra.size > 41.5", H),
    ("extra.color > 'rec'", H),
    ("extra.on = true", H),
    ("extra.in.deep = yes", H),
    ("extra:color", H),
    ("extra.none:*", H),
    ("extra.list:a", H),
    ("extra.list:1", H),
    ("extra.list:2", ),
    ("extra.color.deeper = red", ),
    # Bytes, and names as JSON writes them.
    ("cover = '/+8='", H),
    ("cover = _-8", H),
    ("isbnCode = i1", H),
    ("createTime < 2026-01-01", E),
]  # fmt: skip


@pytest.fixture(scope="module")
def shelf(components: Stack) -> Iterator[Shelf]:
    kind = catalogue().message_class("catalogue.v1.Book")
    rows = []
    for name, said in ((H, HUGO), (E, EMILY), (N, EMPTY)):
        full = f"shelves/a/books/{name}"
        rows.append(Row(books(), full, ParseDict(said | {"name": full}, kind(), descriptor_pool=catalogue().pool)))
    with sorted_otherwise(components.env["TRANSOM_POSTGRES"]) as connection:
        tables_made(connection, World(catalogue(), rows, [], NOW))
        yield Shelf(connection, rows)


@pytest.fixture(scope="module")
def filters() -> Filters:
    return Filters(catalogue(), books())


def test_every_sentence_means_what_it_says_to_postgres_and_to_python(shelf: Shelf, filters: Filters) -> None:
    parsed = [filters.parse(text) for text, *_ in MEANINGS]
    in_sql = shelf.meeting(parsed, {})
    for i, (text, *wanted) in enumerate(MEANINGS):
        found = [ending(row) for row in shelf.rows if in_sql[row.name][i]]
        assert found == wanted, f"Postgres: {text}"
        found = [ending(row) for row in shelf.rows if parsed[i].matches(row.name, row.message, now=NOW)]
        assert found == wanted, f"Python: {text}"


def ending(row: Row) -> str:
    return row.name.rpartition("/")[2]


REFUSALS = [
    ("titel = 'x'", 1, "'titel' is no field of catalogue.v1.Book"),
    ("title = 'x' AND author.nam = 'y'", 24, "'nam' is no field of catalogue.v1.Author"),
    ("title.length = 3", 7, "'title' has no fields"),
    ("secret = 'x'", 1, "'secret' is no field of catalogue.v1.Book"),
    ("author.pin:*", 8, "'pin' is no field of catalogue.v1.Author"),
    ("author:pin", 8, "'pin' is no field of catalogue.v1.Author"),
    ("editors.0.age = 3", 9, "'editors' is repeated: no single item of it can be asked for"),
    ("editors.age = 3", 9, "'editors' is repeated: of what is in it only `:` can be asked"),
    ("tags = red", 8, "'tags' is repeated: ask with `:`"),
    ("labels = red", 10, "'labels' is a map: ask with `:`, and the value of a key as labels.key"),
    ("author = Ada", 10, "'author' is a message: name a field of it, as in author.given_name"),
    ("mask = a", 8, "'mask' has no value that could be compared; it is there or not: mask:*"),
    ("counts.x = 3", 8, "'x' is no key: the keys are whole numbers"),
    ("counts:x", 8, "'x' is no key: the keys are whole numbers"),
    ("odds.yes = 3", 6, "'yes' is no key: the keys are true and false"),
    ("priority = many", 12, "'many' is no number, as 'priority' is"),
    ("priority = 1.5", 12, "'1.5' is no whole number, as 'priority' is"),
    ("priority = 2147483648", 12, "'2147483648' is out of range: -2147483648 to 2147483647"),
    ("views = -1", 9, "'-1' is out of range: 0 to 18446744073709551615"),
    ("price = 1e999", 9, "'1e999' is out of the range of 'price'"),
    ("weight = 1e39", 10, "'1e39' is out of the range of 'weight'"),
    ("lent = yes", 8, "'yes' is neither true nor false, as 'lent' is"),
    ("lent > false", 8, "'lent' can be compared with = and != only, and not with >"),
    ("state = open", 9, "'open' is no value of catalogue.v1.State, which has STATE_UNSPECIFIED, OPEN, AVAILABLE, LENT, LOST"),
    ("state >= OPEN", 10, "'state' can be compared with = and != only, and not with >="),
    ("rank > null", 8, "null can be compared with = and != only, and not with >"),
    ("extra.on > true", 12, "true can be compared with = and != only, and not with >"),
    ("create_time > yesterday", 15, "'yesterday' is no time, as 2026-04-21T11:30:00-04:00 and 2026-04-21 are"),
    ("create_time > 2026-02-30", 15, "'2026-02-30' is no time, as 2026-04-21T11:30:00-04:00 and 2026-04-21 are"),
    ("loan > 20", 8, "'20' is no duration, as 20s and 1.5s are"),
    ("cover = '$'", 9, "'$' is not base64, by which bytes are written"),
    ("create_time > then()", 15, "there is no function 'then' that gives a value; there are now() and ago(20s)"),
    ("title > now()", 9, "now(...) is a time, and 'title' is none"),
    ("create_time > ago()", 15, "ago takes 1 argument, and has 0"),
    ("create_time > now(3s)", 15, "now takes no arguments, and has 1"),
    ("regex(title, 'x')", 1, "there is no function 'regex'; there are startsWith, endsWith, contains; now() and ago(20s) as"),
    ("startsWith(priority, '1')", 12, "'priority' is no text, of which startsWith could ask"),
    ("startsWith('title', 'x')", 12, "startsWith asks of a field, which stands without quotes"),
    ("startsWith(title, 'x*')", 19, "startsWith knows no wildcards; a star is written \\*"),
    ("startsWith(titel, 'x')", 12, "'titel' is no field of catalogue.v1.Book"),
    ("startsWith(title, 'x') = true", 24, "'=' is unexpected after a call, which is true or false by itself"),
    ("startsWith(title, 'x'", 1, "the parenthesis of 'startsWith' is not closed"),
    ("startsWith(title, f(x))", 19, "a call cannot be an argument"),
    ("title =", 8, "the filter ends where a value is expected"),
    ("title = 'x", 9, "this quote is not closed"),
    ("(title = 'x'", 1, "this parenthesis is not closed"),
    ("title = 'x')", 12, "')' is unexpected here"),
    ("title == 'x'", 7, "'==' is no comparison; there are = != < <= > >= :"),
    ("title = a = b", 11, "'=' is unexpected after a value; write a value that holds it in quotes"),
    ("title = http://x", 13, "':' is unexpected after a value; write a value that holds it in quotes"),
    ("'title' = x", 1, "a field stands left of a comparison, without quotes"),
    ("= x", 1, "'=' stands where a field or a word is expected"),
    ("title = 'x' AND", 16, "the filter ends where a field or a word is expected"),
    ("OR title = 'x'", 1, "OR is missing something to its left or right"),
    ("title = 'x' OR OR rank = 3", 16, "OR is missing something to its left or right"),
    ("title = AND", 9, "AND stands where a value is expected; write it in quotes if it is one"),
    ("rank = 1 && rank = 2", 10, "'&&' is no operator; it is AND, or the word in quotes"),
    ("title. = x", 7, "' ' stands where a field or a word is expected"),
    ("()", 2, "')' stands where a field or a word is expected"),
    ("a\0b", 2, "holds the character U+0000, which no stored text has"),
    # The bounds.
    ("x" * 10_001, 10_001, "the filter has 10001 characters; 10000 are the most"),
    ("(" * 21 + "a" + ")" * 21, 21, "parentheses are nested deeper than 20"),
    ("a " * 201, 401, "the filter has more than 200 terms"),
    ("rank = (" + " ".join("1" * 201) + ")", 409, "the filter has more than 200 terms"),
    ("title = '" + "a*" * 6 + "'", 9, "the text has 6 wildcards; 5 are the most"),
    ("labels" + ".a" * 12, 30, "the path has more than 12 names"),
    ("startsWith(" + "a," * 8 + "a)", 28, "'startsWith' has more than 8 arguments"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "column", "why"), REFUSALS, ids=[text[:40] for text, *_ in REFUSALS])
def test_what_is_wrong_is_said_with_its_place(text: str, column: int, why: str, filters: Filters) -> None:
    with pytest.raises(Invalid) as refused:
        filters.parse(text)
    [violation] = refused.value.violations
    assert (violation.field, violation.reason) == ("filter", "INVALID_FILTER")
    assert violation.description.startswith(f"column {column}: {why}")


def test_what_is_just_within_the_bounds_is_a_filter(shelf: Shelf, filters: Filters) -> None:
    texts = ["(" * 20 + "hugo" + ")" * 20, " ".join(["hugo"] * 200), f"title = '{'*o' * 5}'", "-" + "x" * 9999]
    met = shelf.meeting([filters.parse(text) for text in texts], {})
    assert met["shelves/a/books/hugo"] == [True, True, False, True]


def test_words_need_a_field_that_is_searched() -> None:
    shelves = catalogue().resources["catalogue.v1.Shelf"]
    assert search_expression(shelves) == ""
    with pytest.raises(
        Invalid, match=r"column 8: 'poetry' stands alone, and catalogue\.v1\.Shelf has no field whose words"
    ):
        Filters(catalogue(), shelves).parse("rank=3 poetry")


SHAPES = [
    (
        "state = LENT AND priority > 3 AND create_time > 2026-01-01",
        '"t"."state" collate "C" = $1::text and "t"."priority" > $2::bigint and "t"."create_time" > $3::timestamptz',
        ["LENT", "3", "2026-01-01T00:00:00.000000Z"],
    ),
    ("labels:env", '"t"."labels" ? $1::text', ["env"]),
    ("labels.env = prod", '"t"."labels" @> $1::jsonb', ['{"env":"prod"}']),
    ("tags:red", '"t"."tags" @> $1::jsonb', ['["red"]']),
    ("editors.given_name:Ed", '"t"."editors" @> $1::jsonb', ['[{"given_name":"Ed"}]']),
    ("author.prizes:Nobel", """("t"."author" -> 'prizes') @> $1::jsonb""", ['["Nobel"]']),
    ("subtitle = 'a*%'", '"t"."subtitle" collate "default" like $1::text', ["a%\\%"]),
    ("paper:Ab_", '"t"."paper" collate "default" ilike $1::text', ["%Ab\\_%"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "wanted", "values"), SHAPES, ids=[text for text, *_ in SHAPES])
def test_conditions_have_the_shape_that_indexes_serve(
    text: str, wanted: str, values: list[str], filters: Filters
) -> None:
    found: list[Any] = []
    condition = filters.parse(text).condition(found)
    assert (condition.strip("()"), found) == (wanted.strip("()"), values)


SERVED = [
    ("title = 'title 77'", "title"),
    ("priority = 77", "priority"),
    ("priority > 4990", "priority"),
    ("author.age = 77", "age"),
    ("author.given_name = 'name 77'", "given_name"),
    ("labels.key = 'value 77'", "labels"),
    ("labels:key77", "labels"),
    ("tags:tag77", "tags"),
    ("author.prizes:prize77", "prizes"),
    ("title:'itle 4777'", "gin_trgm_ops"),
    ("'itle 4777'", "gin_trgm_ops"),
    ("title = '*4777*'", "gin_trgm_ops"),
]  # fmt: skip


SORTED = [
    ("priority desc", "priority"),
    ("priority", "priority"),
    ("title", "title"),
    ("title desc", "title"),
    ("author.age", "age"),
    ("author.given_name desc", "given_name"),
    ("name desc", "name"),
]


def test_indexes_serve_filters_and_orders(components: Stack, filters: Filters) -> None:
    """The indexes that a schema declares, as a change of schema makes them, on a table of some size."""
    with (
        sorted_otherwise(components.env["TRANSOM_POSTGRES"]) as connection,
        connection.transaction(force_rollback=True),
    ):
        tables_made(connection, World(catalogue(), [], [], NOW))
        connection.execute(
            f"""insert into {TABLE} (name, _parent, _uid, _owner, _version, _create_time, _update_time, _payload, title, priority,
                  author, labels, tags)
                select 'shelves/a/books/' || i, 'shelves/a', gen_random_uuid(), '', 1, now(), now(), '', 'title ' || i, i,
                  jsonb_build_object('age', i, 'given_name', 'name ' || i, 'prizes', jsonb_build_array('prize' || i)),
                  jsonb_build_object('key', 'value ' || i, 'key' || i, ''), jsonb_build_array('tag' || i)
                from generate_series(1, 5000) i"""
        )
        connection.execute(f"reindex table {TABLE}")  # what is still to be put into the GIN indexes is there now
        connection.execute(f"analyze {TABLE}")
        here = Shelf(connection, [])
        made = dict(connection.execute("select indexname, indexdef from pg_indexes").fetchall())

        def made_as(plan: str) -> str:
            """How the index was made that a line of a plan names."""
            [name] = {name for name in made if re.search(rf"Index Scan.* {re.escape(name)}\b", plan)}
            return made[name]

        for text, index in SERVED:
            values: list[Any] = []
            condition = filters.parse(text).condition(values)
            plan = here.asked(f"explain select * from {TABLE} t where t._parent = 'shelves/a' and {condition}", values)
            used = [line for (line,) in plan if "Index Scan" in line]
            assert used, f"{text}\n{plan}"
            assert all(index in made_as(line) for line in used), f"{text}\n{plan}"
        for text, index in SORTED:
            order = orders.parse(text, catalogue(), books())
            parameters: list[Any] = []
            place = order.place("shelves/a/books/7", catalogue().message_class("catalogue.v1.Book")(title="title 7"))
            for condition in ("true", order.after(place, parameters)):
                statement = (
                    f"select * from {TABLE} t where t._parent = 'shelves/a' and {condition} order by {order.sql()}"
                )
                plan = here.asked(f"explain {statement} limit 5", parameters if condition != "true" else [])
                said = "\n".join(line for (line,) in plan)
                assert "Index Scan" in said, f"{text}\n{said}"
                assert index in made_as(said), f"{text}\n{said}"
                assert "Sort" not in said, f"{text}\n{said}"


def test_filters_that_are_asked_for_again_are_read_once_and_few_are_kept() -> None:
    filters = Filters(catalogue(), books())
    first = filters.parse("rank = 0")
    assert filters.parse("rank = 0") is first
    assert filters.parse("title = '" + "x" * KNOWN_LENGTH + "'") is not filters.parse(
        "title = '" + "x" * KNOWN_LENGTH + "'"
    )
    for i in range(1, KNOWN_MOST + 1):
        filters.parse(f"rank = {i}")
    assert filters.parse("rank = 0") is not first
    assert filters.parse("rank = 0") == first


def test_a_check_can_tell_what_an_index_could_serve(filters: Filters) -> None:
    def told(text: str) -> list[tuple[str, str]]:
        return [(".".join(use.path), use.how) for use in filters.parse(text).indexable]

    assert told("state = OPEN priority > 3 title = 'a*' Hugo") == [
        ("state", "equal"), ("priority", "range"), ("title", "pattern"), ("", "words"),
    ]  # fmt: skip
    assert told("labels.env = prod labels:env tags:red author.prizes:x author.age < 3") == [
        ("labels", "holds"), ("labels", "holds"), ("tags", "holds"), ("author.prizes", "holds"), ("author.age", "range"),
    ]  # fmt: skip
    assert told("state = (OPEN OR LENT)") == [("state", "equal")]
    assert told("state = OPEN OR rank = 3") == told("NOT state = OPEN") == told("rank:*") == told("") == []
    assert filters.parse("state = OPEN OR author.age > 3 hugo").fields == {
        "state",
        "author",
        "title",
        "summary",
        "tags",
    }
    assert filters.parse("rank = 3").indexable == (Usage(("rank",), "equal"),)


HIDDEN = [
    "title = 'Victor Hugo in New York'", "title != 'x'", "NOT title = 'x'", "title:hugo", "-title:hugo", "hugo", "-hugo",
    "title = null",
    "title:*", "title < 'z'", "startsWith(title, '')", "author.age = 36", "author.age != 36", "author:*", "author = null",
    "labels:env", "-labels:env", "labels.env = prod", "tags:red", "-tags:red", "tags:*", "priority = 0", "priority < 100",
    "rank = null",
    "state = OPEN", "state = STATE_UNSPECIFIED", "editors.age:0", "extra.color = red", "extra.missing = null", "stock > 0",
]  # fmt: skip


def test_what_a_row_does_not_show_is_as_if_it_were_not_set(shelf: Shelf, filters: Filters) -> None:
    """Two rows that differ only in what they hide cannot be told apart by any filter."""
    secret = ["title", "summary", "tags", "author", "labels", "priority", "rank", "state", "editors", "extra", "stock"]
    parsed = [filters.parse(text) for text in HIDDEN]
    for guard in ("false", "null::boolean", "t.name = 'shelves/a/books/other'"):
        met = shelf.meeting(parsed, dict.fromkeys(secret, guard))
        assert met["shelves/a/books/hugo"] == met["shelves/a/books/empty"]
    [hugo] = [row for row in shelf.rows if ending(row) == H]
    assert [one.matches(hugo.name, hugo.message, secret) for one in parsed] == met["shelves/a/books/hugo"]
    assert hugo.message.title  # it is asked as it is seen, and stays as it is


ODD = [
    "{}", "[]", "null", "3", '"x"', '[{"age": []}, 3, null, "x"]',
    '{"age": "x", "birth_time": "y", "career": 3, "income": "1e999999"}',
    '{"age": {"a": 1}, "prizes": {"a": 1}, "mentor": [1], "alive": "maybe", "key": 3, "state": 9, "links": 4}',
    '{"birth_time": "2026-99-99T99:99:99Z", "career": "99999999999999s", "age": 1e300}',
]  # fmt: skip


def test_no_row_makes_a_condition_fail(shelf: Shelf, filters: Filters) -> None:
    """Documents that were written under another schema: any JSON may stand anywhere."""
    columns = ("author", "editors", "labels", "extra", "roles", "tags")
    values = {"age": 3, "followers": 3, "income": 1.5, "height": 0.1, "birth_time": "2026-01-01", "career": "1s"}
    texts = [text for text, *_ in MEANINGS if any(column in text for column in columns)]
    texts += [f"author.{field} {op} {value}" for op in "<>=" for field, value in values.items()]
    parsed = [filters.parse(text) for text in texts]
    with shelf.connection.transaction(force_rollback=True):
        for document in ODD:
            for column in columns:
                shelf.connection.execute(f"update {TABLE} set {column} = %s::jsonb", [document])
            assert all(len(one) == len(texts) for one in shelf.meeting(parsed, {}).values())


def test_the_page_about_filters_and_orders_says_what_is_read(tmp_path: Path) -> None:
    page = (PROJECT / "docs" / "data.md").read_text()
    [about_filters] = re.findall(r"^## Filters$(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    [about_orders] = re.findall(r"^## Ordering$(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    [message] = re.findall(r"```proto\n(.*?)```", about_filters, re.DOTALL)
    imports = [
        "google/api/resource",
        *(f"google/protobuf/{n}" for n in ("timestamp", "duration", "struct")),
        "transom/schema/v1/options",
    ]
    file = tmp_path / "proto" / "library" / "v1" / "library.proto"
    file.parent.mkdir(parents=True)
    head = 'syntax = "proto3";\npackage library.v1;\n' + "".join(f'import "{name}.proto";\n' for name in imports)
    file.write_text(head + message)
    schema = read(compile_app(tmp_path))
    book = schema.resources["library.v1.Book"]
    texts = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", about_filters, flags=re.DOTALL))
    examples = [text for text in texts if re.search(r"[=<>:*(]", text) and text not in NO_FILTERS and "…" not in text]
    assert len(examples) > 35, examples
    for text in examples:
        assert Filters(schema, book).parse(text).node is not None
    keys = re.findall(r"^\| `([^`]+)` \|", about_orders, re.MULTILINE)
    assert len(keys) == 4
    for text in keys:
        assert orders.parse(text, schema, book).text == text
    for number in (LENGTH_MOST, TERMS_MOST, DEPTH_MOST, SEGMENTS_MOST, STARS_MOST):
        assert re.search(rf"\b{number:,}\b", about_filters)
    for number in (orders.KEYS_MOST, orders.LENGTH_MOST, orders.TEXT_MOST):
        assert re.search(rf"\b{number:,}\b", about_orders)


NO_FILTERS = {"=", "!=", "<", "<=", ">", ">=", "*", "\\*", "= null", "field:value", "field = value", "now()"} | {
    "owner == caller.name",
    "resource.author == caller.name",
}
"""Code on the page that is none."""
