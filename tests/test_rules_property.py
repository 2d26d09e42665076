"""Random rules over random schemas, judged three times: by Google's CEL, by the predicate in Python, by Postgres.

All three must say the same of every row and every caller. A case is a number, so what fails can be had again. In `make test`
there are always the same; for others, and for longer:

    RULES_CASES=5000 RULES_FROM=1000 .venv/bin/pytest tests/test_rules_property.py -k random

What once failed is kept as a file of `tests/rule_cases/`, made small by hand, and is judged by
`tests/test_rules_language.py` every time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rules_grammar import Case, Part, case, with_rules
from rules_ground import Google, in_python, in_sql, plain, schema_of, sorted_otherwise, tables_made, unread

from deploy.native.stack import Stack
from server.query.rules import predicate, sql, tree
from server.query.rules.checking import Rule, rules_of
from server.query.rules.scene import Fault
from server.schema.compilation import SchemaError

CASES = int(os.environ.get("RULES_CASES", "30"))
FROM = int(os.environ.get("RULES_FROM", "0"))
BOUNDS = (
    "resources; 8 are the most",
    "is longer than 2000",
    "parts; 200 are the most",
    "3 is the most",
    "characters of SQL",
)
"""What a rule may be refused for that is made of what rules can say."""


@pytest.fixture(scope="module")
def connection(components: Stack) -> Iterator[psycopg.Connection[Any]]:
    with sorted_otherwise(components.env["TRANSOM_POSTGRES"]) as connection:
        yield connection


class Seen:
    """What the cases have reached."""

    def __init__(self) -> None:
        self.nodes: Counter[str] = Counter()
        self.said: Counter[Any] = Counter()
        self.refused = 0
        self.rules = 0
        self.judged = 0


def judge(case: Case, connection: psycopg.Connection[Any], seen: Seen) -> list[str]:
    """How the three differ on a case, a line each; empty where they do not."""
    rules = accepted(case, seen)
    world = case.world
    differing: list[str] = []
    with connection.transaction(force_rollback=True):
        tables_made(connection, world)
        for resource in world.schema.resources.values():
            googles = {request: Google(world, resource, request=request) for request in (False, True)}
            mine = [(key, rule) for key, rule in rules.items() if key[0] == resource.message]
            asked = [(key, rule) for key, rule in mine if rule.condition]
            conditions = [rule.condition for _, rule in asked] + [rule.selection for _, rule in asked]
            said = in_sql(connection, world, resource, conditions)
            in_rows = {key: n for n, (key, _) in enumerate(asked)}
            for key, rule in mine:
                part = case.rules[key]
                expression = googles[key[2] in ("create", "update", "write")].compiled(part.text)
                seen.rules += 1
                seen.nodes.update(type(n).__name__ for n in tree.walk(rule.node))
                answers = set()
                for i, caller in enumerate(world.callers):
                    for row in world.of(resource):
                        wanted = googles[False].says(expression, row, caller)
                        seen.said[wanted] += 1
                        seen.judged += 1
                        answers.add((i, wanted))
                        found = {"Python": in_python(rule, row, caller, world)}
                        blind = unread(rule, row, caller, world)
                        if blind in (True, False):
                            found["Python, unread"] = blind
                        if key in in_rows:
                            found["SQL"] = said[in_rows[key], i, row.name]
                            if (said[len(asked) + in_rows[key], i, row.name] is True) is not (wanted is True):
                                found["SQL, selecting"] = not wanted
                        for who, what in found.items():
                            if what != wanted:
                                differing.append(
                                    f"{key} {row.name} {caller.name or 'nobody'}: CEL {wanted}, {who} {what}: {part.text}"
                                )
                del expression
                if not rule.of_row and len(answers) > len(world.callers):
                    differing.append(f"{key}: does not depend on the row, and does: {part.text}")
            for google in googles.values():
                google.close()
    return differing


def accepted(case: Case, seen: Seen) -> dict[tuple[str, str, str], Rule]:
    """The rules of a case by where they stand; those beyond the bounds are taken away."""
    texts = {key: plain(part.text) for key, part in case.rules.items()}
    while True:
        case.world.schema = schema_of(with_rules(case.file, texts))
        try:
            rules = rules_of(case.world.schema)
            break
        except SchemaError as fault:
            for line in str(fault).split("\n"):
                assert any(bound in line for bound in BOUNDS), line
                gone = {
                    key: text for key, text in texts.items() if line.endswith(f": {text}") or f": {text[:60]}…" in line
                }
                assert gone, line
                seen.refused += len(gone)
                texts = {key: text for key, text in texts.items() if key not in gone}
    out: dict[tuple[str, str, str], Rule] = {}
    for message, found in rules.resources.items():
        out |= {(message, "", action): rule for action, rule in found.actions.items()}
        out |= {(message, f.name, "read"): rule for f, rule in found.reads}
        out |= {(message, f.name, "write"): rule for f, rule in found.writes}
    assert set(out) == set(texts)
    return out


def smallest(case: Case, key: tuple[str, str, str], connection: psycopg.Connection[Any]) -> tuple[Part, list[str]]:
    """The smallest part of a rule of which the three differ, and how."""
    part = case.rules[key]
    why = judge(Case(case.file, {key: part}, case.world), connection, Seen())
    while True:
        for below in sorted(set(part.walk()) - {part}, key=lambda p: len(p.text)):
            if below.kind == "bool" and not below.free:
                found = judge(Case(case.file, {key: below}, case.world), connection, Seen())
                if found:
                    part, why = below, found
                    break
        else:
            return part, why
        if not any(p.kind == "bool" for p in part.walk() if p is not part):
            return part, why


def differences(seed: int, connection: psycopg.Connection[Any], seen: Seen) -> str:
    """How the three differ on the case of a number: the smallest part of the first rule; empty where they do not."""
    made = case(seed)
    differing = judge(made, connection, seen)
    if not differing:
        return ""
    key = next(k for k in made.rules if differing[0].startswith(str(k)))
    part, why = smallest(case(seed), key, connection)
    return "\n".join([f"case {seed}, {key}: {plain(part.text)}", *why[:5], "found in", *differing[:3]])


def test_all_three_say_the_same_of_random_rules(connection: psycopg.Connection[Any]) -> None:
    seen = Seen()

    @settings(
        max_examples=CASES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(FROM, FROM + 2**32))
    def judged(seed: int) -> None:
        found = differences(seed, connection, seen)
        assert not found, found

    judged()
    # It says something only if it gets everywhere.
    kinds = {n.__name__ for n in tree.Node.__subclasses__()} - {"Node"}
    assert not {k for k in kinds if seen.nodes[k] < CASES}, seen.nodes
    assert all(seen.said[one] > seen.judged / 20 for one in (True, False, "error")), seen.said
    assert seen.refused < seen.rules / 50, seen.refused


def _swapped(table: str, key: str, value: Any) -> Callable[[pytest.MonkeyPatch, Any], None]:
    return lambda patch, module: patch.setitem(getattr(module, table), key, value)


def _method(cls: str, name: str, wrong: Callable[[Any], Any]) -> Callable[[pytest.MonkeyPatch, Any], None]:
    return lambda patch, module: patch.setattr(getattr(module, cls), name, wrong(getattr(getattr(module, cls), name)))


BROKEN = {
    "SQL: < is <=": (sql, _swapped("_OPERATORS", "<", "<=")),
    "SQL: not of an error is true": (
        sql,
        _method("Conditions", "_not", lambda f: lambda s, n: f"coalesce({f(s, n)}, true)"),
    ),
    "SQL: texts in the order of people": (
        sql,
        lambda patch, module: patch.setattr(module, "_comparison", _collated(module._comparison)),
    ),
    "SQL: or is and": (sql, _method("Conditions", "_or", lambda f: lambda s, n: f(s, n).replace(" or ", " and "))),
    "SQL: all is exists": (
        sql,
        _method("Conditions", "_quantified", lambda f: lambda s, n: f(s, replace(n, every=False))),
    ),
    "Python: != is ==": (predicate, _swapped("_COMPARE", "!=", predicate._COMPARE["=="])),
    "Python: caller.id is the name": (predicate, _swapped("_GIVEN", "caller.id", predicate._GIVEN["caller.name"])),
    "Python: an error is false": (predicate, _method("Predicates", "_not", lambda f: lambda s, n: _forgiving(f(s, n)))),
}


def _collated(comparison: Callable[..., str]) -> Callable[..., str]:
    return lambda *a: comparison(*a).replace(' collate "C"', ' collate "und-x-icu"')


def _forgiving(value: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def judged(scene: Any) -> Any:
        try:
            return value(scene)
        except Fault:
            return False

    return judged


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_compiler_is_found_out(
    how: str, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, breaks = BROKEN[how]
    breaks(monkeypatch, module)
    assert any(judge(case(seed), connection, Seen()) for seed in range(60)), how
