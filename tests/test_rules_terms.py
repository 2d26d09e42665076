"""Terms: words for expressions that rules use again and again."""

from __future__ import annotations

import pytest

from server.query.rules.checking import rules_of
from server.schema.compilation import SchemaError
from tests.library_ground import made_of

MEMBER = "exists('teams/' + path.team + '/members/' + caller.id)"


def conditions(rule: str, *terms: tuple[str, str]) -> str:
    """The condition of a document's `list`, with these terms."""
    options = "\n".join(f'option (transom.schema.v1.terms) = {{name: "{n}" means: "{m}"}};' for n, m in terms)
    text = f"""
syntax = "proto3";
package terms.v1;
import "google/api/resource.proto";
import "transom/schema/v1/options.proto";
{options}
message Member {{
  option (google.api.resource) = {{type: "terms.test/Member" pattern: "teams/{{team}}/members/{{member}}"}};
  string name = 1;
}}
message Doc {{
  option (google.api.resource) = {{type: "terms.test/Doc" pattern: "teams/{{team}}/docs/{{doc}}"}};
  option (transom.schema.v1.resource).read = "{rule}";
  string name = 1;
  string title = 2;
  repeated string readers = 3;
}}
"""
    return rules_of(made_of({"terms.proto": text})).resources["terms.v1.Doc"].actions["list"].condition


ACCEPTED = [
    ("a word", "member", MEMBER, [("member", MEMBER)]),
    ("among others", "member || owner == caller.name", f"{MEMBER} || owner == caller.name", [("member", MEMBER)]),
    ("binding as one", "!either", "!(owner == caller.name || caller.verified)",
     [("either", "owner == caller.name || caller.verified")]),
    ("of another", "b", "caller.verified && owner == 'x'", [("a", "caller.verified"), ("b", "a && owner == 'x'")]),
    ("ending in a comment", "a && owner == 'x'", "caller.verified && owner == 'x'", [("a", "caller.verified // who is")]),
    ("hidden by a macro's variable", "resource.readers.exists(a, a == caller.name)",
     "resource.readers.exists(x, x == caller.name)",
     [("a", "true")]),
    ("not in a text, not a field", "resource.title == 'title'", "resource.title == 'title'", [("title", "'no'")]),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "means", "terms"), [r[1:] for r in ACCEPTED], ids=[r[0] for r in ACCEPTED])
def test_a_term_is_what_it_means(rule: str, means: str, terms: list[tuple[str, str]]) -> None:
    assert conditions(rule, *terms) == conditions(means)


REFUSED = [
    ("a place after a term", "member && resource.titel == 'x'", [("member", MEMBER)], "column 19: undefined field 'titel'"),
    ("a fault in a term", "true && bad", [("bad", "path.nope == 'x'")], "column 9: in the term 'bad': undeclared reference"),
    ("a term of later ones", "a", [("a", "b"), ("b", "true")], "in the term 'a': undeclared reference to 'b'"),
    ("a word that is taken", "true", [("caller", "true")], "'caller' is no word for a term"),
    ("a word twice", "a", [("a", "true"), ("a", "false")], "the term 'a' is there twice"),
    ("a term that is not whole", "a", [("a", "true) || (true")], "the term 'a': Syntax error"),
    ("no truth", "a", [("a", "resource.title")], "column 1: is a string; a rule is true or false"),
    ("one that grows without end", "t19",
     [("t0", "caller.verified"), *((f"t{i}", f"t{i - 1} && t{i - 1}") for i in range(1, 20))],
     "longer than 8000 characters"),
    ("too many", "true", [(f"t{i}", "true") for i in range(51)], "there are 51 terms; 50 are the most"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "terms", "why"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_a_wrong_term_is_refused_with_its_place(rule: str, terms: list[tuple[str, str]], why: str) -> None:
    with pytest.raises(SchemaError) as refused:
        conditions(rule, *terms)
    assert why in str(refused.value)
