"""What a rule may say, what it is told where it may not, and that values at the edges are judged alike by Google's CEL, in
Python and in Postgres. What random rules once found is in `tests/rule_cases/`, and is judged here too."""

# ruff: noqa: E501 - tables of sentences
from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from library_ground import made_of
from rules_grammar import NOW, with_rules
from rules_ground import MARK, Google, Row, World, in_python, in_sql, schema_of, sorted_otherwise, tables_made

from deploy.native.stack import Stack
from server.caller import Caller, Kind
from server.engine.access import told
from server.query.rules import tree
from server.query.rules.checking import Rule, rules_of
from server.query.rules.scene import Asking
from server.schema.compilation import SchemaError
from server.schema.model import Schema
from server.store.page_statements import page_statements

SHOP = """
syntax = "proto3";
package shop.v1;
import "google/api/resource.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "transom/schema/v1/options.proto";

message A {
  option (google.api.resource) = {type: "shop/A" pattern: "as/{a}"};
  string name = 1;
  string text = 2;
  int32 small = 3;
  optional Color maybe = 4;
  repeated int64 longs = 5;
  map<string, double> doubles = 6;
  google.protobuf.Timestamp time = 7;
  google.protobuf.Duration span = 8;
  Part part = 9;
  map<int32, string> numbered = 10;
  google.protobuf.StringValue wrapped = 11;
  Color color = 12;
  uint64 large = 13;
  repeated google.protobuf.Timestamp times = 14;
  map<string, Part> parts_by = 15;
  bool flag = 16;
  double real = 17;
  repeated Part parts = 18;
  string ref = 19 [(google.api.resource_reference).type = "shop/B"];
  string any_ref = 20 [(google.api.resource_reference).type = "*"];
  repeated bool flags = 21;
  repeated double reals = 22;
  string foreign = 23 [(google.api.resource_reference).type = "elsewhere/Thing"];
  bytes data = 24;
  repeated Color colors = 25;
  oneof either {
    string left = 26;
    int64 right = 27;
  }
  optional string nick = 28;
  optional bool sure = 29;
  float single = 30;
  map<string, bytes> blobs = 31;
  string in_use = 32;
  string xmin = 33;
  string order = 34;
  int64 long = 35;
  repeated string texts = 36;
}

message Part {
  string text = 1;
  Part child = 2;
  google.protobuf.Timestamp when = 3;
  double real = 4;
  Color color = 5;
  map<string, Part> parts = 6;
  repeated int64 longs = 7;
  repeated int32 ints = 8;
  uint64 large = 9;
  bytes data = 10;
  bool flag = 11;
  optional string nick = 12;
  float single = 13;
  map<string, float> singles = 14;
}

enum Color {
  option allow_alias = true;
  GREY = 0;
  RED = 1;
  CRIMSON = 1;
  COLD = -5;
}

message B {
  option (google.api.resource) = {type: "shop/B" pattern: "as/{a}/bs/{b}" pattern: "cs/{c}/bs/{b}"};
  string name = 1;
  string text = 2;
}

message C {
  option (google.api.resource) = {type: "shop/C" pattern: "cs/{c}" name_field: "title"};
  string title = 1;
  string name = 2;
  string text = 3;
}

message Settings {
  option (google.api.resource) = {type: "shop/Settings" pattern: "as/{a}/settings"};
  string name = 1;
  string text = 2;
}

message Deep {
  option (google.api.resource) = {type: "shop/Deep" pattern: "files/{path=**}/deeps/{deep}"};
  string name = 1;
}
"""
OLD = """
syntax = "proto2";
package old.v1;
import "google/api/resource.proto";
import "transom/schema/v1/options.proto";

message O {
  option (google.api.resource) = {type: "old/O" pattern: "os/{o}"};
  optional string name = 1;
  optional string text = 2 [default = "it's"];
  optional int32 number = 3 [default = 7];
  optional bool flag = 4 [default = true];
  optional double real = 5 [default = -inf];
  optional bytes data = 6 [default = "ab"];
  optional Grade grade = 7 [default = HIGH];
  optional Inner inner = 8;
  optional double odd = 9 [default = nan];
}

message Inner {
  optional string text = 1 [default = "in\\"ner"];
  optional uint64 large = 2 [default = 18446744073709551615];
  optional Grade grade = 3 [default = HIGH];
  optional bytes data = 4 [default = "\\377"];
  optional bool flag = 5 [default = true];
}

enum Grade {
  LOW = 1;
  HIGH = 2;
}
"""


def _file(text: str, name: str) -> FileDescriptorProto:
    out = FileDescriptorProto()
    made_of({name: text}).pool.FindFileByName(name).CopyToProto(out)
    return out


@pytest.fixture(scope="module")
def shop() -> FileDescriptorProto:
    return _file(SHOP, "shop.proto")


@pytest.fixture(scope="module")
def connection(components: Stack) -> Iterator[psycopg.Connection[Any]]:
    with sorted_otherwise(components.env["TRANSOM_POSTGRES"]) as connection:
        yield connection


def checked(file: FileDescriptorProto, rule: str, action: str = "list", on: str = "A", field: str = "") -> Rule:
    """The rule as it is understood. Raises SchemaError."""
    message = f"{file.package}.{on}"
    rules = rules_of(schema_of(with_rules(file, {(message, field, action): rule}))).resources[message]
    if field:
        return {f.name: r for f, r in (rules.reads if action == "read" else rules.writes)}[field]
    return rules.actions[action]


# ------------------------------------------------------------------------------------------------- accepted

ACCEPTED = [
    "true",
    "!" * 1001 + "false",
    "resource.text == 'a' && resource.small > 3 || !resource.flag",
    "resource.color == Color.RED || resource.color == shop.v1.Color.COLD || resource.color == -5",
    "resource.text in ['a', \"b\", '''c''', r'\\d'] && resource.small in [1, 2] && resource.real in []",
    "'a' in resource.texts && 3 in resource.longs && Color.RED in resource.colors && 'k' in resource.doubles",
    "'editor' in caller.roles && size(caller.roles) > 1 && caller.roles.exists(r, r.startsWith('e'))",
    "caller.kind == 'user' && caller.verified && caller.id != '' && caller.name == owner",
    "caller.session_age < duration('5m') && now - resource.time < duration('1h30m')",
    "now > timestamp('2020-01-01T00:00:00+02:00') - duration('-1.5s')",
    "has(resource.part) && has(resource.part.child.text) && has(resource.doubles.k) && has(resource.longs)",
    "resource.parts.exists(p, p.text == 'x' && p.parts['k'].longs.all(l, l > 0))",
    "resource.parts_by.k.child.child.text == ''",
    "resource.flags.exists(f, f) && resource.reals.all(r, r >= 0.5)",
    "(resource.flag ? resource.text : resource.nick) == 'a'",
    "size(resource.text) > 1 && resource.texts.size() == 0 && size(resource.doubles) == 1",
    "resource.text + '/' + resource.nick == 'a/b' && resource.data == b'\\xff' && resource.large > 9223372036854775808u",
    "resource.left == '' && resource.right == 0",
    "resource.in_use == resource.xmin && resource.`order` == ''",
    "path.a == resource.name && parent == ''",
    "exists('as/' + path.a + '/bs/' + caller.id) && exists  ('as/x') && exists(\n'cs/c')",
    "get('cs/' + resource.text).name == get(resource.ref).text",
    "get(get('as/x').ref).text == get('as/' + path.a + '/settings').text",
    "exists('as/' + get('as/' + get('as/x').text).text)",
    " || ".join(f"exists('as/{i}')" for i in range(8)),
    " || ".join("exists('as/same')" for _ in range(20)),
    "resource.text == 'é😀' // what is behind is not read: ' \" {} %s $1",
]  # fmt: skip


@pytest.mark.parametrize("rule", ACCEPTED, ids=lambda r: r[:60])
def test_a_rule_may_say(rule: str, shop: FileDescriptorProto) -> None:
    assert checked(shop, rule).text == rule


@pytest.mark.parametrize(
    ("rule", "action", "on", "field"),
    [
        ("request.text == resource.text", "update", "A", ""),
        ("request.text == ''", "create", "A", ""),
        ("request.text == '' || resource.text == ''", "write", "A", "text"),
        ("resource.flag", "read", "A", "text"),
        ("parent == 'as/a' && path.b == 'x'", "get", "B", ""),
        ("resource.title == 'cs/a' && resource.name == 'b' && path.c == 'a' && exists(resource.title)", "list", "C", ""),
        ("exists(parent) && exists(parent + '/bs/b') && path.a == 'x'", "delete", "Settings", ""),
        ("parent == 'files/a/b'", "watch", "Deep", ""),
    ],
)  # fmt: skip
def test_what_a_rule_may_speak_of_is_told_by_where_it_stands(
    rule: str, action: str, on: str, field: str, shop: FileDescriptorProto
) -> None:
    assert checked(shop, rule, action, on, field).action == action


# ------------------------------------------------------------------------------------------------- refused

A_LIST = "shop.proto: shop.v1.A: (transom.schema.v1.resource).list: "
TELL = (
    "cannot tell which resource is looked up: write the name as text and ids, like "
    '"teams/" + path.team + "/members/" + caller.id, or use a field with google.api.resource_reference'
)
TIMES = "rules can use times only where they are fields of the resource itself"
REFUSED = [
    ("resource.nope", 9, "undefined field 'nope' not found in struct 'shop.v1.A'"),
    ("resource.text", 1, "is a string; a rule is true or false"),
    ("resource", 1, "is a message; a rule is true or false"),
    ("true && 'a'", 6, "found no matching overload for '_&&_' applied to '(bool, string)'"),
    ("resource.small == 1u", 16, "found no matching overload for '_==_' applied to '(int, uint)'"),
    ("resource.color == 'RED'", 16, "found no matching overload for '_==_' applied to '(int, string)'"),
    ("resource.color == RED", 19, "undeclared reference to 'RED'"),
    ("resource.part == null", 18, "compares with null; ask has(...) whether a field is set"),
    ("resource.part == resource.part", 15, "compares two messages; compare their fields or elements"),
    ("resource.texts == resource.texts", 16, "compares two lists; compare their fields or elements"),
    ("resource.texts == ['a']", 19, "a list may stand only on the right of `in`"),
    ("resource.doubles == {'a': 1.0}", 21, "builds a message or a map, which rules cannot"),
    ("A{text: 'a'}.text == ''", 1, "builds a message or a map, which rules cannot"),
    ("resource.small + 1 > 2", 16, "arithmetic is supported for texts (+), timestamps and durations only"),
    ("-resource.small > 2", 1, "the operator - is not supported in rules"),
    ("resource.small * 2 > 2", 16, "the operator * is not supported in rules"),
    ("resource.text.matches('a*')", 22, "the function matches() is not supported in rules"),
    ("resource.time.getFullYear() > 2000", 26, "the function getFullYear() is not supported in rules"),
    ("dyn(resource.text) == 1", 4, "the function dyn() is not supported in rules"),
    ("string(resource.small) == '1'", 7, "the function string() is not supported in rules"),
    ("resource.longs[0] == 1", 15, "[...] is supported for maps with text keys only"),
    ("resource.longs.filter(x, x > 1).size() > 0", 22, "of the macros, rules have exists and all"),
    ("resource.longs.map(x, x).exists(y, y > 1)", 19, "of the macros, rules have exists and all"),
    ("resource.longs.exists_one(x, x > 1)", 26, "of the macros, rules have exists and all"),
    ("resource.doubles.exists(k, k == 'a')", 24, "exists and all are supported for lists only"),
    ("resource.longs.exists(x, resource.longs.exists(x, x > 1))", 47, "the variable 'x' is taken"),
    ("resource.longs.all(caller, caller > 1)", 19, "the variable 'caller' is taken"),
    ("true in resource.flags", 6, "`in` works on lists of texts, integers and enums"),
    ("1.0 in resource.reals", 5, "`in` works on lists of texts, integers and enums"),
    ("resource.numbered[1] == 'a'", 9, "the field shop.v1.A.numbered is of a type that rules cannot use"),
    ("has(resource.wrapped)", 4, "the field shop.v1.A.wrapped is of a type that rules cannot use"),
    ("resource.part.when > now", 14, f"shop.v1.Part.when: {TIMES}"),
    ("size(resource.times) > 0", 14, f"shop.v1.A.times: {TIMES}"),
    ("resource.text == 'a\\u0000'", 18, "holds the character U+0000, which no stored text has"),
    ("resource.span > duration('1ns')", 25, "is no duration: write hours, minutes and seconds like 1h30m or 2.5s"),
    ("resource.span > duration('0.1us')", 25, "is finer than a microsecond"),
    ("resource.span > duration('90000000h')", 25, "is no duration: write hours, minutes and seconds like 1h30m or 2.5s"),
    ("resource.span > duration(resource.text)", 25, "duration() is supported for a text in quotes only"),
    ("resource.time > timestamp('2020')", 26, "is no timestamp as RFC 3339 writes it"),
    ("resource.time > timestamp('10000-01-01T00:00:00Z')", 26, "is no timestamp as RFC 3339 writes it"),
    ("path.nope == ''", 5, "undeclared reference to 'path.nope'"),
    ("caller.email == ''", 7, "undeclared reference to 'caller.email'"),
    ("request.text == ''", 8, "undeclared reference to 'request.text'"),
    ("caller == ''", 1, "undeclared reference to 'caller'"),
    ("get('nope/1').text == ''", 4, "no resource of this schema is named like nope/1"),
    ("exists('as/a/bs')", 7, "no resource of this schema is named like as/a/bs"),
    ("exists('a' + resource.text)", 7, "no resource of this schema is named like a*"),
    ("exists(caller.name)", 7, "no resource of this schema is named like keys/* or users/*"),
    ("get(resource.text).text == ''", 4, TELL),
    ("get(resource.any_ref).text == ''", 4, TELL),
    ("get(resource.foreign).text == ''", 4, TELL),
    ("get(resource.flag ? 'as/1' : 'as/2').text == ''", 4, TELL),
    ("resource.parts.exists(p, exists('as/' + p.text))", 32, TELL),
    ("exists('as/1', 'as/2')", 7, "undeclared reference to 'exists'"),
    ("resource.get('as/1')", 13, "undeclared reference to 'get'"),
    ("get__0('as/1').flag && exists('as/1')", 7, "undeclared reference to 'get__0'"),
    ("exists('as/' + get('as/' + get('as/' + get('as/x').text).text).text)", 1, "nests its look-ups 4 deep; 3 is the most"),
    (" || ".join(f"exists('as/{i}')" for i in range(9)), 1, "looks up 9 resources; 8 are the most"),
    (" && ".join(["resource.flag"] * 70), 1, "has 209 parts; 200 are the most"),
    ("(" * 200 + "true" + ")" * 200, 1, "is nested deeper than CEL reads"),
    ("resource.part" + ".child" * 60 + ".flag", 380, "Exceeded max recursion depth of 32 when parsing."),
    ("'é😀' == resource.text && resource.nope", 34, "undefined field 'nope' not found in struct 'shop.v1.A'"),
    ("exists('as/é') && get('as/2').flag\n  && resource.nope", 49, "undefined field 'nope' not found in struct 'shop.v1.A'"),
    ("exists('as/1') && exists('as/1/settings') && get('cs/1').nope", 57, "undefined field 'nope' not found in struct 'shop.v1.C'"),
    ("exists('as/1') && exists('as/1/settings') && get('cs/1').text + 'a'\n\n == -resource.text", 74, "found no matching overload for '-_' applied to '(string)'"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "column", "why"), REFUSED, ids=lambda v: v[:60] if isinstance(v, str) else "")
def test_a_rule_is_refused_with_its_place_and_why(rule: str, column: int, why: str, shop: FileDescriptorProto) -> None:
    with pytest.raises(SchemaError) as refused:
        checked(shop, rule)
    assert str(refused.value) == f"{A_LIST}column {column}: {why}: {rule}"


@pytest.mark.parametrize(
    ("rule", "action", "on", "field", "told"),
    [
        ("path.a == ''", "get", "B", "", "shop.v1.B: (transom.schema.v1.resource).get: column 5: undeclared reference to 'path.a'"),
        ("path.deep == ''", "get", "Deep", "", "shop.v1.Deep: (transom.schema.v1.resource).get: column 5: undeclared reference to 'path.deep'"),
        ("request.text == ''", "delete", "A", "", "shop.v1.A: (transom.schema.v1.resource).delete: column 8: undeclared reference to 'request.text'"),
        ("request.text == ''", "read", "A", "text", "shop.v1.A.text: (transom.schema.v1.field).read: column 8: undeclared reference to 'request.text'"),
        ("true", "read", "C", "title", "shop.v1.C.title: (transom.schema.v1.field).read: column 1: the name is never hidden, nor written by clients"),
        ("true || " * 300 + "true", "get", "A", "", "shop.v1.A: (transom.schema.v1.resource).get: column 1: is longer than 2000 characters"),
    ],
)  # fmt: skip
def test_what_does_not_stand_there_is_refused(
    rule: str, action: str, on: str, field: str, told: str, shop: FileDescriptorProto
) -> None:
    with pytest.raises(SchemaError) as refused:
        checked(shop, rule, action, on, field)
    shown = rule if len(rule) <= 2000 else f"{rule[:60]}…"
    assert str(refused.value) == f"shop.proto: {told}: {shown}"


def test_all_that_is_wrong_is_said_at_once(shop: FileDescriptorProto) -> None:
    wrong = {("shop.v1.A", "", "get"): "nope", ("shop.v1.A", "text", "write"): "1", ("shop.v1.B", "", "list"): "'a'"}
    with pytest.raises(SchemaError) as refused:
        rules_of(schema_of(with_rules(shop, wrong)))
    assert len(str(refused.value).split("\n")) == 3


HOSTILE = [
    "(" * 1000, "!" * 2000, "[" * 2000, "a." * 999 + "a", "{" * 2000, "'" * 2000, "\\" * 2000, "'\\x", "\x00" * 10, "\ud7ff\U0010ffff",
    "true ? " * 280, "get(" * 500, "get(" * 20 + "'as/1'" + ").ref" * 20 + " == ''", "exists(" * 300 + ")" * 300, "1e999 > 1.0", "1" * 1000 + " > 1",
    "'" + "a" * 1990 + "' == ''", "resource.text == '" + "\\U0010ffff" * 190 + "'", "%s %d {0} $1 ; drop table a; --", "\n" * 1999 + "1", "/" * 2000,
    "resource.longs.all(a," * 90, "resource.parts.all(a, a.parts.b.longs.all(b, resource.parts.all(c, c.ints.all(d, resource.longs.all(e, e == d)))))",
    "(" * 24 + "resource.flag" + " ? true : false)" * 24, "(" * 12 + "resource.real" + " in [1.0, resource.doubles['a']] ? 1.0 : 2.0)" * 12 + " == 1.0",
    "resource.parts_by['a']" + ".parts['a']" * 14 + ".flag", "resource.doubles[" * 14 + "'a'" + "]" * 14,
]  # fmt: skip


@pytest.mark.parametrize("rule", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_is_written_is_understood_or_refused_soon(rule: str, shop: FileDescriptorProto) -> None:
    began, told, condition = time.monotonic(), f"{A_LIST}column ", ""
    try:
        condition = checked(shop, rule).condition
    except SchemaError as refused:
        told = str(refused)
    assert told.startswith(f"{A_LIST}column ")
    assert len(told) < 4000
    assert len(condition) <= 100_000
    assert time.monotonic() - began < 5


# ------------------------------------------------------------------------------------------------- values

ADA = Caller(
    Kind.USER, "users/ada", frozenset({"editor"}), "users/ada/sessions/1", verified=True, session_time=NOW / 1e6 - 60.0
)
ROW: dict[str, Any] = {
    "name": "as/a",
    "text": "it's \"1\" \\ %s {0} $1 é😀",
    "small": -(2**31),
    "longs": [str(2**63 - 1), str(-(2**63)), "2"],
    "doubles": {"nan": "NaN", "inf": "Infinity", "minus": -0.0, "": 1.5, "it's": 2},
    "time": "9999-12-31T23:59:59.999999Z",
    "span": "-0.000001s",
    "part": {"single": 0.1, "singles": {"k": 0.1}, "text": "", "parts": {"k": {"longs": ["9"], "ints": [9], "large": str(2**64 - 1), "data": "/w==", "color": 77}}, "color": "CRIMSON"},
    "color": 77,
    "large": str(2**64 - 1),
    "parts": [{}, {"text": "x", "nick": ""}],
    "real": "NaN",
    "single": 0.1,
    "reals": ["-Infinity", -0.0, 5e-324],
    "data": "AP8=",
    "colors": ["RED", 77, "COLD"],
    "right": "0",
    "nick": "",
    "sure": False,
    "blobs": {"k": "AA=="},
    "ref": "as/a/bs/nobody",
    "texts": ["", "a'b", "😀"],
    "in_use": "1", "xmin": "2", "order": "3",
}  # fmt: skip
BARE = {"name": "as/bare"}
HOLDS: list[tuple[str, Any, Any]] = [
    # rule, of ROW, of BARE
    ("resource.text == 'it\\'s \"1\" \\\\ %s {0} $1 é😀'", True, False),
    ("size(resource.text) == 23 && resource.text.endsWith('é😀') && resource.text.contains('\\\\ %s')", True, False),
    ("resource.text.startsWith('') && resource.text.endsWith('') && resource.text.contains('')", True, True),
    ("resource.small == -2147483648 && -9223372036854775808 in resource.longs && 9223372036854775807 in resource.longs", True, False),
    ("resource.large == 18446744073709551615u && resource.large > 9223372036854775807u", True, False),
    ("resource.part.parts['k'].large == 18446744073709551615u", True, "error"),
    ("9 in resource.part.parts['k'].longs && 9 in resource.part.parts['k'].ints && !(8 in resource.part.parts.k.ints)", True, "error"),
    ("resource.part.parts['k'].data == b'\\xff'", True, "error"),
    ("resource.part.parts['k'].color == 77 && resource.color == 77 && 77 in resource.colors", True, False),
    ("resource.color == Color.RED || Color.CRIMSON in resource.colors", True, False),
    ("resource.part.color == Color.RED && resource.part.color == Color.CRIMSON", True, False),
    ("resource.color > 76", True, False),
    ("resource.maybe == Color.GREY && !has(resource.maybe)", True, True),
    ("resource.real == resource.real", False, True),
    ("resource.real != resource.real", True, False),
    ("resource.real < 1.0 || resource.real >= 1.0", False, True),
    ("resource.real in [resource.real]", False, True),
    ("resource.doubles['nan'] == resource.doubles['nan']", False, "error"),
    ("resource.doubles['nope'] != resource.real", "error", "error"),
    ("!(resource.doubles['nope'] < resource.real)", "error", "error"),
    ("resource.doubles['inf'] > 1e308 && resource.doubles['minus'] == 0.0 && resource.doubles[\"it's\"] == 2.0 && resource.doubles[''] == 1.5", True, "error"),
    ("resource.reals.exists(r, r < -1e308) && resource.reals.exists(r, r > 0.0 && r < 1e-300)", True, False),
    ("resource.part.single == resource.single && resource.part.single > 0.1 && resource.part.singles['k'] == resource.single", True, False),
    ("resource.single > 0.1 && resource.single < 0.10000001", True, False),
    ("resource.time > timestamp('9999-12-31T23:59:59.999998Z') && resource.time - duration('1us') < resource.time", True, False),
    ("resource.time + duration('1us') > now", "error", False),
    ("resource.time == timestamp('1970-01-01T00:00:00Z') && resource.span == duration('0s')", False, True),
    ("resource.time - timestamp('0001-01-01T00:00:00Z') > duration('1h')", "error", "error"),
    ("resource.span < duration('0s') && resource.span + duration('1us') == duration('0s')", True, False),
    ("caller.session_age >= duration('1m') && caller.session_age < duration('61s')", True, True),
    ("has(resource.nick) && resource.nick == '' && has(resource.sure) && !resource.sure", True, False),
    ("has(resource.right) && !has(resource.left)", True, False),
    ("has(resource.small)", True, False),
    ("has(resource.part) && !has(resource.part.text) && resource.part.child.child.text == ''", True, False),
    ("resource.parts.exists(p, has(p.nick)) && resource.parts.exists(p, !has(p.nick))", True, False),
    ("resource.parts.all(p, p.parts['k'].flag)", "error", True),
    ("resource.parts.exists(p, p.text == 'x' || p.parts['k'].flag)", True, False),
    ("resource.data == b'\\x00\\xff' && size(resource.data) == 2 && resource.blobs['k'] < b'\\x01'", True, False),
    ("resource.texts.all(t, t in resource.texts) && \"a'b\" in resource.texts && '' in resource.texts", True, False),
    ("get(resource.ref).text == '' || true", True, True),
    ("get(resource.ref).text == ''", "error", "error"),
    ("exists(resource.ref)", False, False),
    ("get('as/bare').text == '' && get('as/' + path.a).text == resource.text", True, True),
    ("exists('as/a/settings') && get('as/a/settings').text == 'set'", True, True),
    ("get('cs/c').name == 'called' && get('cs/c').title == 'cs/c' && exists('cs/c/bs/b')", True, True),
    ("resource.in_use == '1' && resource.xmin == '2' && resource.`order` == '3'", True, False),
    ("'a' < 'b' && 'B' < 'a' && 'é' > 'z' && '😀' > '\\uffff'", True, True),
    ("(resource.doubles['nope'] == 1.0 ? true : true)", "error", "error"),
    ("resource.flag && resource.doubles['nope'] == 1.0", False, False),
    ("resource.doubles['nope'] == 1.0 && resource.flag", False, False),
    ("resource.single in [resource.doubles['nope'], resource.single]", "error", "error"),
    ("owner == caller.name && caller.kind == 'user' && 'editor' in caller.roles && caller.verified && path.a == 'a'", True, False),
]  # fmt: skip


def world_of(schema: Schema, rows: list[dict[str, Any]], caller: Caller = ADA, owner: str = "users/ada") -> World:
    made = []
    for row in rows:
        found = [
            (r, row[r.name_field])
            for r in schema.resources.values()
            if r.name_field in row and r.pattern_of(row[r.name_field])
        ]
        resource, name = found[0]
        message = json_format.ParseDict(row, schema.message_class(resource.message)(), descriptor_pool=schema.pool)
        made.append(Row(resource, name, message, owner))
    return World(schema, made, [caller], NOW)


def all_say(
    connection: psycopg.Connection[Any],
    file: FileDescriptorProto,
    on: str,
    rule: str,
    rows: list[dict[str, Any]],
    caller: Caller = ADA,
) -> dict[str, Any]:
    """What the three say of each row of `on`; fails where they differ."""
    message = f"{file.package}.{on}"
    schema = schema_of(with_rules(file, {(message, "", "list"): rule}))
    made = rules_of(schema).resources[message].actions["list"]
    world, resource = world_of(schema, rows, caller), schema.resources[message]
    google = Google(world, resource, request=False)
    expression = google.compiled(marked(rule, schema))
    with connection.transaction(force_rollback=True):
        tables_made(connection, world)
        in_rows = in_sql(connection, world, resource, [made.condition])
    out = {}
    for row in world.of(resource):
        said = {
            "CEL": google.says(expression, row, caller),
            "Python": in_python(made, row, caller, world),
            "SQL": in_rows[0, 0, row.name],
        }
        assert len(set(said.values())) == 1, (row.name, said)
        out[row.name] = said["CEL"]
    return out


def marked(rule: str, schema: Schema) -> str:
    """The rule with its look-ups marked by the resource that the checker says they find: in order of their places."""
    found = []
    for resource in schema.resources.values():
        for one in rules_of(schema).resources[resource.message].actions.values():
            found = (
                sorted(
                    {
                        (n.at, type(n).__name__, n.resource.message)
                        for n in tree.walk(one.node)
                        if isinstance(n, tree.Found | tree.Exists)
                    }
                )
                or found
            )
    index = {m: i for i, m in enumerate(schema.resources)}
    out, end = "", 0
    for i, (place, _, message) in enumerate(found):
        at = place - len("__0") * (i + 1)  # the checker numbers them too
        out += rule[end:at].rstrip() + f"{MARK}{index[message]}"
        end = at
    return out + rule[end:]


@pytest.mark.parametrize(("rule", "of_row", "of_bare"), HOLDS, ids=lambda v: v[:60] if isinstance(v, str) else "")
def test_values_are_judged_alike(
    rule: str, of_row: Any, of_bare: Any, shop: FileDescriptorProto, connection: psycopg.Connection[Any]
) -> None:
    others = [{"name": "as/a/settings", "text": "set"}, {"title": "cs/c", "name": "called"}, {"name": "cs/c/bs/b"}]
    assert all_say(connection, shop, "A", rule, [ROW, BARE, *others]) == {"as/a": of_row, "as/bare": of_bare}


@pytest.mark.parametrize(
    ("rule", "of_set", "of_bare"),
    [
        ("resource.text == \"it's\" && resource.number == 7 && resource.flag", False, True),
        ("resource.real < -1e308 && resource.data == b'ab'", False, True),
        ("resource.grade == Grade.HIGH", False, True),
        ("resource.grade == Grade.LOW", True, False),
        ("resource.inner.text == 'in\"ner' && resource.inner.large == 18446744073709551615u", False, True),
        ("resource.inner.grade == Grade.HIGH && resource.inner.data == b'\\xff' && resource.inner.flag", False, True),
        ("has(resource.text) && has(resource.inner) && has(resource.inner.flag)", True, False),
        ("resource.odd != resource.odd", False, True),
    ],
)  # fmt: skip
def test_defaults_of_proto2_are_what_is_not_set(
    rule: str, of_set: bool, of_bare: bool, connection: psycopg.Connection[Any]
) -> None:
    inner = {"text": "", "large": "0", "grade": "LOW", "data": "", "flag": False}
    row = {
        "name": "os/set",
        "text": "",
        "number": 0,
        "flag": False,
        "real": 0,
        "data": "",
        "grade": "LOW",
        "inner": inner,
        "odd": 0,
    }
    said = all_say(connection, _file(OLD, "old.proto"), "O", rule, [row, {"name": "os/bare"}])
    assert said == {"os/set": of_set, "os/bare": of_bare}


@pytest.mark.parametrize(
    ("on", "rule", "rows", "holds"),
    [
        ("B", "parent == 'as/x' && path.b == 'b'", [{"name": "as/x/bs/b"}, {"name": "cs/x/bs/b"}], [True, False]),
        ("Settings", "parent == 'as/x' && exists(parent)", [{"name": "as/x/settings"}, {"name": "as/x"}], [True]),
        ("Settings", "get(parent).text == 'p' && path.a == 'x'", [{"name": "as/x/settings"}, {"name": "as/x", "text": "p"}], [True]),
        ("C", "resource.title == 'cs/c' && path.c == 'c' && get(resource.title).name == resource.name", [{"title": "cs/c", "name": "n"}], [True]),
    ],
)  # fmt: skip
def test_names_of_every_shape(
    on: str,
    rule: str,
    rows: list[dict[str, Any]],
    holds: list[bool],
    shop: FileDescriptorProto,
    connection: psycopg.Connection[Any],
) -> None:
    assert list(all_say(connection, shop, on, rule, rows).values()) == holds


NOBODY = (
    "caller.kind == 'nobody' && caller.name == '' && caller.id == '' && !caller.verified && size(caller.roles) == 0",
    True,
)


@pytest.mark.parametrize(
    ("rule", "holds"), [NOBODY, ("caller.session_age >= duration('0s')", "error"), ("owner == caller.name", False)]
)
def test_nobody_is_a_caller(
    rule: str, holds: bool, shop: FileDescriptorProto, connection: psycopg.Connection[Any]
) -> None:
    assert all_say(connection, shop, "A", rule, [BARE], Caller()) == {"as/bare": holds}


# ------------------------------------------------------------------------------------------------- pages

HOSTILE_TEXTS = [
    "'",
    '"',
    "\\",
    "\\'; drop table a; --",
    "{0} {} {x}",
    "%s %(a)s %",
    "$1 $2",
    "é😀",
    "\n",
    "E'\\\\'",
    "\ud7ff\U0010ffff",
]


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
def test_the_statement_of_a_page_takes_every_text(
    text: str, shop: FileDescriptorProto, connection: psycopg.Connection[Any]
) -> None:
    written = "".join(f"\\U{ord(c):08x}" for c in text)
    rule = f"resource.text == '{written}' && resource.texts.all(t, t in ['{written}'])"
    schema = schema_of(
        with_rules(
            shop, {("shop.v1.A", "", "list"): rule, ("shop.v1.A", "nick", "read"): f"resource.text + '{written}' == ''"}
        )
    )
    resource, rules = schema.resources["shop.v1.A"], rules_of(schema)
    statements = page_statements(resource, rules.resources[resource.message])
    rows = [
        {"name": "as/a", "text": text, "texts": [text]},
        {"name": "as/b", "text": text + "x"},
        {"name": "as/c", "text": text},
    ]
    asking = told(Asking(ADA, NOW)).decode()
    with connection.transaction(force_rollback=True):
        tables_made(connection, world_of(schema, rows))
        for large in (False, True):
            cursor = psycopg.RawCursor(connection)
            cursor.execute(statements[True, large, False], [[""], [""], [10], [asking]])
            assert [(name, seen) for _, name, _, _, seen in cursor.fetchall()] == [("as/a", "0"), ("as/c", "0")]


# ------------------------------------------------------------------------------------------------- methods

METHODS = """
message GetARequest {
  string name = 1 [(google.api.resource_reference).type = "shop/A"];
  Part part = 2;
}
message PutRequest {
  string parent = 1 [(google.api.resource_reference).type = "shop/A"];
  string name = 2;
}
message Empty {}
service ShopService {
  rpc Take(GetARequest) returns (Empty) {
    option (transom.schema.v1.method).rule = "TAKE";
  }
  rpc Put(PutRequest) returns (Empty) {
    option (transom.schema.v1.method).rule = "PUT";
  }
  rpc Look(Empty) returns (Empty) {
    option (transom.schema.v1.method).rule = "LOOK";
  }
}
"""


def methods(**rules: str) -> Any:
    text = SHOP + METHODS
    for name in ("TAKE", "PUT", "LOOK"):
        text = text.replace(f'"{name}"', json.dumps(rules.get(name.lower(), "true")))
    return rules_of(made_of({"shop.proto": text})).methods


def test_a_method_is_judged_on_its_request_and_on_what_that_names() -> None:
    found = methods(
        take="resource.text == request.part.text && owner == caller.name && path.a != ''",
        put="resource.flag && request.name == parent",
        look="caller.verified",
    )
    take, put, look = (found[f"/shop.v1.ShopService/{name}"] for name in ("Take", "Put", "Look"))
    assert (take.subject.message, take.subject_field, take.rule.of_row) == ("shop.v1.A", "name", True)
    assert (put.subject.message, put.subject_field) == ("shop.v1.A", "parent")
    assert (look.subject, look.rule.of_row, look.rule.condition) == (None, False, "")


@pytest.mark.parametrize(
    ("method", "rule", "why"),
    [
        ("look", "resource.flag", "ShopService.Look: (transom.schema.v1.method).rule: column 9: undeclared reference to 'resource.flag'"),
        ("look", "owner == ''", "ShopService.Look: (transom.schema.v1.method).rule: column 1: undeclared reference to 'owner'"),
        ("take", "request.nope == ''", "ShopService.Take: (transom.schema.v1.method).rule: column 8: undefined field 'nope' not found in struct 'shop.v1.GetARequest'"),
        ("put", "path.b == ''", "ShopService.Put: (transom.schema.v1.method).rule: column 5: undeclared reference to 'path.b'"),
        ("put", "request.name", "ShopService.Put: (transom.schema.v1.method).rule: column 1: is a string; a rule is true or false"),
    ],
)  # fmt: skip
def test_a_method_that_says_what_it_cannot_is_refused(method: str, rule: str, why: str) -> None:
    with pytest.raises(SchemaError) as refused:
        methods(**{method: rule})
    assert str(refused.value) == f"shop.proto: shop.v1.{why}: {rule}"


# ------------------------------------------------------------------------------------------------- what once failed

CASES = sorted((Path(__file__).parent / "rule_cases").glob("*.json"))


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_what_once_failed(path: Path, shop: FileDescriptorProto, connection: psycopg.Connection[Any]) -> None:
    """A case: `why` it is kept, the `rule` of `A`, its `rows` and what `holds` of each row by name."""
    case = json.loads(path.read_text())
    assert all_say(connection, shop, "A", case["rule"], case["rows"]) == case["holds"], case["why"]
