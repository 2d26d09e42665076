"""Why a rule holds or does not, in words: sources, values, errors, and the parts that decide."""

# ruff: noqa: E501 - tables of sentences
from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from rules_grammar import NOW, case, with_rules
from rules_ground import plain, schema_of
from test_rules_language import ACCEPTED, ADA, ROW, SHOP, _file, checked, world_of

from server.query.rules.checking import rules_of
from server.query.rules.explaining import PARTS_MOST, SOURCE_MOST, VALUE_MOST, Part, explained, source
from server.query.rules.scene import Asking, Scene
from server.schema.compilation import SchemaError


@pytest.fixture(scope="module")
def shop() -> FileDescriptorProto:
    return _file(SHOP, "shop.proto")


def explanation(rule: str, shop: FileDescriptorProto, rows: list[dict[str, Any]], *, there: bool = True) -> Part:
    """The explanation for the first row, with all that is looked up."""
    schema = schema_of(with_rules(shop, {("shop.v1.A", "", "list"): rule}))
    made = rules_of(schema).resources["shop.v1.A"].actions["list"]
    world = world_of(schema, rows)
    row, asking = world.rows[0], Asking(ADA, NOW)
    while True:
        scene = Scene(
            asking, row.name, read=(lambda: row.message) if there else None, owner=row.owner if there else None
        )
        part = explained(made, scene)
        if not scene.wanted:
            return part
        for resource, name in scene.wanted:
            asking.found[resource.message, name] = world.by_name.get((resource.message, name))


def lines(part: Part, depth: int = 0) -> list[str]:
    """An explanation as a table: `*` before what decides."""
    mine = f"{'  ' * depth}{'*' if part.decides else ' '} {part.source}  →  {part.value}"
    return [mine, *(line for below in part.parts for line in lines(below, depth + 1))]


TABLE = [
    ("resource.flag || owner == caller.name", [
        '* resource.flag || owner == caller.name  →  true',
        '    resource.flag  →  false',
        '  * owner == caller.name  →  true',
        '      owner  →  "users/ada"',
        '      caller.name  →  "users/ada"',
    ]),
    ("!(resource.small < 0 && resource.text != '')", [
        '* !(resource.small < 0 && resource.text != "")  →  false',
        '  * resource.small < 0 && resource.text != ""  →  true',
        '    * resource.small < 0  →  true',
        '        resource.small  →  -2147483648',
        '    * resource.text != ""  →  true',
        '        resource.text  →  "it\'s \\"1\\" \\\\ %s {0} $1 é😀"',
    ]),
    ("get('as/' + path.a + '/settings').text == 'set' && exists('cs/nope')", [
        '* get("as/" + path.a + "/settings").text == "set" && exists("cs/nope")  →  false',
        '    get("as/" + path.a + "/settings").text == "set"  →  true',
        '      get("as/" + path.a + "/settings").text  →  "set"',
        '        get("as/" + path.a + "/settings")  →  {name: "as/a/settings" text: "set"}',
        '          "as/" + path.a + "/settings"  →  "as/a/settings"',
        '            path.a  →  "a"',
        '  * exists("cs/nope")  →  false',
    ]),
    ("get('cs/nope').text == 'x' || resource.doubles['gone'] > 1.0", [
        '* get("cs/nope").text == "x" || resource.doubles["gone"] > 1.0  →  error: \'cs/nope\' does not exist',
        '  * get("cs/nope").text == "x"  →  error: \'cs/nope\' does not exist',
        '      get("cs/nope").text  →  error: \'cs/nope\' does not exist',
        '        get("cs/nope")  →  error: \'cs/nope\' does not exist',
        '  * resource.doubles["gone"] > 1.0  →  error: there is no key "gone"',
        '      resource.doubles["gone"]  →  error: there is no key "gone"',
        '        resource.doubles  →  {"": 1.5, "inf": Infinity, "it\'s": 2.0, …}',
    ]),
    ("resource.longs.exists(l, l > 5 && l != 7)", [
        '* resource.longs.exists(l, l > 5 && l != 7)  →  true',
        '    resource.longs  →  [9223372036854775807, -9223372036854775808, 2]',
        '  * l = 9223372036854775807  →  true',
        '    * l > 5 && l != 7  →  true',
        '      * l > 5  →  true',
        '      * l != 7  →  true',
    ]),
    ("resource.texts.all(t, size(t) > 0) ? false : resource.color == Color.RED", [
        '* resource.texts.all(t, size(t) > 0) ? false : resource.color == Color.RED  →  false',
        '  * resource.texts.all(t, size(t) > 0)  →  false',
        '      resource.texts  →  ["", "a\'b", "😀"]',
        '    * t = ""  →  false',
        '      * size(t) > 0  →  false',
        '          size(t)  →  0',
        '  * resource.color == Color.RED  →  false',
        '      resource.color  →  77',
    ]),
    ("now - caller.session_age < timestamp('2020-01-01T00:00:00Z') || resource.time + duration('1s') > now", [
        '* now - caller.session_age < timestamp("2020-01-01T00:00:00Z") || resource.time + duration("1s") > now  →  error: it is out of range',
        '    now - caller.session_age < timestamp("2020-01-01T00:00:00Z")  →  false',
        '      now - caller.session_age  →  2026-09-21T14:12:20Z',
        '        now  →  2026-09-21T14:13:20Z',
        '        caller.session_age  →  60s',
        '  * resource.time + duration("1s") > now  →  error: it is out of range',
        '      resource.time + duration("1s")  →  error: it is out of range',
        '        resource.time  →  9999-12-31T23:59:59.999999Z',
        '      now  →  2026-09-21T14:13:20Z',
    ]),
    ("resource.part.color == Color.RED && resource.data == b'\\x00\\xff' && resource.real > 1.0", [
        '* resource.part.color == Color.RED && resource.data == b"\\x00\\xff" && resource.real > 1.0  →  false',
        '    resource.part.color == Color.RED && resource.data == b"\\x00\\xff"  →  true',
        '      resource.part.color == Color.RED  →  true',
        '        resource.part.color  →  RED',
        '          resource.part  →  {color: RED parts { key: "k" value { color: 77 longs: 9 ints: 9 large: 18446744073709551615 data: "\\377" } } single: 0.…',
        '      resource.data == b"\\x00\\xff"  →  true',
        '        resource.data  →  b"\\x00\\xff"',
        '  * resource.real > 1.0  →  false',
        '      resource.real  →  NaN',
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "table"), TABLE, ids=lambda v: v if isinstance(v, str) else "")
def test_a_rule_is_explained(rule: str, table: list[str], shop: FileDescriptorProto) -> None:
    assert lines(explanation(rule, shop, [ROW, {"name": "as/a/settings", "text": "set"}])) == table


def test_what_does_not_exist_is_explained_by_its_name(shop: FileDescriptorProto) -> None:
    found = lines(explanation("path.a == 'a' && (owner == '' || resource.flag)", shop, [ROW], there=False))
    assert found == [
        '* path.a == "a" && (owner == "" || resource.flag)  →  error: owner is not known',
        '    path.a == "a"  →  true',
        '      path.a  →  "a"',
        '  * owner == "" || resource.flag  →  error: owner is not known',
        '    * owner == ""  →  error: owner is not known',
        "        owner  →  error: owner is not known",
        "    * resource.flag  →  error: the resource does not exist",
    ]


def test_an_explanation_has_bounds(shop: FileDescriptorProto) -> None:
    row = {"name": "as/a", "text": "x" * 100_000, "texts": ["y" * 1000] * 1000}
    inner = "resource.texts.all(u, u != t && " + " && ".join(f"t != '{i}'" for i in range(20)) + ")"
    parts = [explanation(f"resource.texts.all(t, {inner} || true) && resource.text.contains('x')", shop, [row])]
    count = 0
    while parts:
        part = parts.pop()
        count += 1
        parts += part.parts
        assert len(part.source) <= SOURCE_MOST
        assert len(part.value) <= VALUE_MOST + len("error: ")
    assert count <= PARTS_MOST


@pytest.mark.parametrize("rule", ACCEPTED, ids=lambda r: r[:60])
def test_a_source_says_the_same_again(rule: str, shop: FileDescriptorProto) -> None:
    again = source(checked(shop, rule).node)
    assert source(checked(shop, again).node) == again


def test_sources_of_random_rules_say_the_same_again() -> None:
    for seed in range(15):
        made = case(seed, ruled=0.2)
        texts = {key: plain(part.text) for key, part in made.rules.items()}
        try:
            rules = rules_of(schema_of(with_rules(made.file, texts)))
        except SchemaError:
            continue  # one of them is beyond a bound
        for message, found in rules.resources.items():
            once = {(message, "", action): source(rule.node) for action, rule in found.actions.items()}
            again = rules_of(schema_of(with_rules(made.file, once))).resources[message]
            assert {k: source(again.actions[k[2]].node) for k in once} == once
            assert all(
                again.actions[k[2]].condition == found.actions[k[2]].condition
                for k in once
                if "&&" not in once[k] and "||" not in once[k]
            )
