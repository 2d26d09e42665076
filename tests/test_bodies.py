"""JSON bodies over REST, through the real edge: what the translation to gRPC drops is not lost on the way.

The edge tells the server the names in a body (edge/rest.lua); the server takes them for the mask of an update without
one, and refuses names that it does not know (server/engine/bodies.py).
"""
# ruff: noqa: E501 - tables of sentences

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from desk_ground import Desk, desk, schema
from edge_ground import Edge, Protos, running
from hypothesis import given, settings
from hypothesis import strategies as st
from people_ground import Client, Refused

from deploy.native.stack import Stack
from server.engine.bodies import KEPT, KEPT_CHARACTERS, MANY, Body, Tree, _kept, _tree
from server.errors import Invalid


@pytest.fixture(scope="module")
def here(components: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk(components, tmp_path_factory.mktemp("desk")) as made:
        yield made


@pytest.fixture(scope="module")
def who(here: Desk) -> Client:
    return here.people.person()


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with running(Protos.compiled(), tmp_path_factory.mktemp("edge"), servers=1) as made:
        yield made


def note(here: Desk, who: Client, **fields: Any) -> str:
    """The name of a new note."""
    made = here.rest(who, "POST", f"notes?note_id=n{secrets.token_hex(6)}", {"title": "t"} | fields)
    return str(made["name"])


# ── Changing over REST ──────────────────────────────────────────────────────────────────────────────────────────────
FULL = {
    "longText": "long", "public": True, "count": 7, "rating": 0, "weight": 3, "tags": ["a", "b"], "secret": "s",
    "labels": {"a.b": "1", "Ein Wört": "2", "": "3"}, "rooms": {"7": {"city": "Ulm", "zipCode": "1"}, "-8": {"city": "Rom"}},
    "place": {"city": "Oslo", "zipCode": "0150", "point": {"x": 1, "y": 2}}, "places": [{"city": "A"}, {"city": "B", "zipCode": "b"}],
    "card": {"number": "4", "holder": "H"}, "meta": {"a": {"b": 1}, "c": None}, "dueTime": "2030-01-01T00:00:00Z",
    "anything": {"x": [1]}, "strange.name": "odd",
}  # fmt: skip


@dataclass(frozen=True)
class Patch:
    """A change of FULL: the body, and what differs afterwards (None: it is gone, or of default value)."""

    sentence: str
    body: Any
    then: dict[str, Any]
    query: str = ""


PATCHES = [
    Patch("what is not named stays", {}, {}),
    Patch("a field that is named is set", {"title": "new"}, {"title": "new"}),
    Patch("a value of default is a value", {"public": False, "count": 0, "longText": ""}, {"public": False, "count": 0, "longText": ""}),
    Patch("null clears", {"public": None, "longText": None, "rating": None, "weight": None, "dueTime": None, "secret": None},
          {"public": False, "longText": "", "rating": None, "weight": None, "dueTime": None, "secret": ""}),
    Patch("either name of a field will do", {"long_text": "b", "strange.name": "even"}, {"longText": "b", "strange.name": "even"}),
    Patch("the name in the proto, too, where the JSON has another", {"odd": "even"}, {"strange.name": "even"}),
    Patch("an escaped name is a name", b'{"t\\u0069tle": "new"}', {"title": "new"}),
    Patch("messages are merged", {"place": {"city": "Bergen"}}, {"place": {"city": "Bergen", "zipCode": "0150", "point": {"x": 1, "y": 2}}}),
    Patch("at any depth", {"place": {"point": {"y": None}}}, {"place": {"city": "Oslo", "zipCode": "0150", "point": {"x": 1, "y": 0}}}),
    Patch("null clears a whole message", {"place": None}, {"place": None}),
    Patch("an empty object changes nothing", {"place": {}, "labels": {}, "card": {}}, {}),
    Patch("arrays are replaced", {"tags": ["c"], "places": [{"city": "C"}]}, {"tags": ["c"], "places": [{"city": "C", "zipCode": ""}]}),
    Patch("by none, too", {"tags": [], "places": None}, {"tags": [], "places": []}),
    Patch("keys of maps are merged", {"labels": {"a.b": None, "`": "4", "Ein Wört": "5"}}, {"labels": {"": "3", "`": "4", "Ein Wört": "5"}}),
    Patch("whatever the keys are", {"rooms": {"-8": None, "9": {"city": "Bonn"}}},
          {"rooms": {"7": {"city": "Ulm", "zipCode": "1"}, "9": {"city": "Bonn", "zipCode": ""}}}),
    Patch("an entry of a map is replaced", {"rooms": {"7": {"zipCode": "2"}}},
          {"rooms": {"7": {"city": "", "zipCode": "2"}, "-8": {"city": "Rom", "zipCode": ""}}}),
    Patch("null clears a whole map", {"labels": None}, {"labels": {}}),
    Patch("one of a oneof puts the other out", {"cash": {}}, {"card": None, "cash": {}}),
    Patch("null clears one of a oneof", {"card": None}, {"card": None}),
    Patch("null of another of a oneof changes nothing", {"other": None}, {}),
    Patch("JSON within JSON is replaced", {"meta": {"z": {"y": None}}, "anything": "text"}, {"meta": {"z": {"y": None}}, "anything": "text"}),
    Patch("a mask goes before the body", {"title": "new", "longText": "new", "tags": None}, {"title": "new", "tags": []}, "updateMask=title,tags"),
    Patch("a mask clears what the body lacks", {}, {"longText": "", "place": {"city": "Oslo", "zipCode": "0150"}}, "updateMask=longText,place.point"),
    Patch("a mask of one key", {"labels": {"a.b": "9", "x": "y"}}, {"labels": {"a.b": "9", "": "3", "Ein Wört": "2"}}, "updateMask=labels.`a.b`"),
    Patch("a mask and null for a key", {"labels": {"a.b": None}}, {"labels": {"": "3", "Ein Wört": "2"}}, "updateMask=labels.`a.b`"),
    Patch("a mask of a key with dots", {}, {"labels": {"Ein Wört": "2", "": "3"}}, "updateMask=labels.`a.b`"),
    Patch("a star replaces all", {"title": "new"}, {**dict.fromkeys(FULL), "title": "new", "public": False, "longText": "", "count": 0,
          "tags": [], "labels": {}, "rooms": {}, "places": [], "strange.name": "", "secret": ""}, "updateMask=*"),
]  # fmt: skip


@pytest.mark.parametrize("whole", [False, True], ids=["its body is the resource", "its body is the request"])
@pytest.mark.parametrize("case", PATCHES, ids=lambda c: c.sentence)
def test_a_patch(case: Patch, whole: bool, here: Desk, who: Client) -> None:
    name = note(here, who, **FULL)
    before = here.rest(who, "GET", name)
    path = f"whole/{name}" if whole else name
    body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
    query = case.query
    if whole:
        mask = query.removeprefix("updateMask=")
        body = b'{"note": ' + body + (b', "updateMask": ' + json.dumps(mask).encode() if query else b"") + b"}"
        query = ""
    query = "=".join(quote(part) for part in query.split("=", 1))
    after = here.rest(who, "PATCH", f"{path}?{query}" if query else path, body)
    assert not isinstance(after, Refused), after
    expected = {**before, **case.then}
    for changed in (after, here.rest(who, "GET", name)):
        kept = {k: v for k, v in changed.items() if k not in ("etag", "name")}
        assert kept == {k: v for k, v in expected.items() if k not in ("etag", "name") and v is not None}


@dataclass(frozen=True)
class Bad:
    """A body that is refused, and nothing is changed."""

    sentence: str
    body: Any
    reason: str
    fields: tuple[str, ...] = ()
    method: str = "PATCH"


BAD = [
    Bad("a name that nobody knows", {"title": "x", "titel": "x"}, "INVALID_REQUEST", ("note.titel",)),
    Bad("two of them, at depth", {"place": {"city": "x", "town": 1}, "places": [{"point": {"z": 1}}]}, "INVALID_REQUEST", ("note.place.town", "note.places.point.z")),
    Bad("in the value of a map", {"rooms": {"1": {"town": ""}}}, "INVALID_REQUEST", ("note.rooms[1].town",)),
    Bad("a name in another case", {"Title": "x"}, "INVALID_REQUEST", ("note.Title",)),
    Bad("when something is made, too", {"title": "x", "titel": "x"}, "INVALID_REQUEST", ("note.titel",), "POST"),
    Bad("both names of one field", {"longText": "x", "long_text": "y"}, "INVALID_REQUEST", ("note.long_text",)),
    Bad("a name twice", b'{"title": "x", "title": null}', "MALFORMED_REQUEST"),
    Bad("a name twice, in an array", b'{"title": "x", "places": [{"city": "a", "city": "b"}]}', "MALFORMED_REQUEST"),
    Bad("a name twice, once escaped", b'{"title": "x", "\\u0074itle": null}', "MALFORMED_REQUEST"),
    Bad("half a surrogate", b'{"title": "x", "labels": {"\\ud800": "x"}}', "MALFORMED_REQUEST"),
    Bad("no JSON: other quotes", b"{'title': 'x'}", "MALFORMED_REQUEST"),
    Bad("no JSON: no quotes", b'{title: "x"}', "MALFORMED_REQUEST"),
    Bad("no JSON: a comma too many", b'{"title": "x",}', "MALFORMED_REQUEST"),
    Bad("no JSON: no end", b'{"title": "x"', "MALFORMED_REQUEST"),
    Bad("no JSON: more after the end", b'{"title": "x"} {}', "MALFORMED_REQUEST"),
    Bad("no object", b'["title"]', "MALFORMED_REQUEST"),
    Bad("no UTF-8", b'{"title": "x", "labels": {"\xff": "x"}}', "MALFORMED_REQUEST"),
    Bad("null for what is required", {"title": None}, "INVALID_REQUEST", ("note.title",)),
    Bad("so many names that they are not told", {"labels": {f"label-{i}": "x" for i in range(900)}}, "INVALID_REQUEST", ("update_mask",)),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=lambda c: c.sentence)
def test_a_body_that_is_refused(case: Bad, here: Desk, who: Client) -> None:
    name = note(here, who)
    before = here.rest(who, "GET", name)
    answer = here.rest(who, case.method, name if case.method == "PATCH" else "notes?note_id=never", case.body)
    assert answer == Refused("INVALID_ARGUMENT", case.reason, case.fields)
    assert here.rest(who, "GET", name) == before
    assert here.rest(who, "GET", "notes/never") == Refused("NOT_FOUND", "NOT_FOUND")


def test_a_body_of_many_names_makes_and_with_a_mask_changes(here: Desk, who: Client) -> None:
    labels = {f"label-{i}": "x" for i in range(900)}
    name = note(here, who, labels=labels)
    assert here.rest(who, "GET", name)["labels"] == labels
    assert (
        here.rest(who, "PATCH", f"{name}?updateMask=labels", {"labels": labels | {"more": "y"}})["labels"]["more"]
        == "y"
    )


def test_a_patch_of_a_field_that_one_may_not_see_is_refused(here: Desk, who: Client) -> None:
    name = note(here, who, public=True, secret="s")
    stranger = here.people.person()
    assert here.rest(stranger, "PATCH", name, {"secret": None}) == Refused("PERMISSION_DENIED", "ACCESS_DENIED")
    assert here.rest(who, "GET", name)["secret"] == "s"


def test_names_in_bodies_of_transoms_own_methods_are_looked_at_too(here: Desk) -> None:
    answer = here.people.nobody.post("accounts:signIn", email="a@example.com", pasword="x")
    assert answer == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("pasword",))


def test_names_that_no_message_has_are_told_in_what_may_be_of_any_type(here: Desk) -> None:
    def committed(**more: Any) -> Any:
        note = {"@type": "type.googleapis.com/desk.v1.Note", "title": "t", "longText": "l", **more}
        return here.people.nobody.post("data:commit", writes=[{"create": {"resource": note}}])

    answer = committed(titel="x", place={"city": "Ulm"})
    assert answer == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("writes[0].create.resource.titel",))
    assert committed(place={"city": "Ulm"}).code == "UNAUTHENTICATED"


def test_a_mask_keeps_the_letters_of_keys(here: Desk, who: Client) -> None:
    name = note(here, who, labels={"Ein Wört": "1", "a,B": "2", "_ein": "3", "eins": "4"}, longText="t")
    mask = quote("labels.`Ein Wört`,labels.`a,B`,longText,labels.eins")
    after = here.rest(who, "PATCH", f"{name}?update_mask={mask}", {"labels": {"a,B": "9"}})
    assert (after["labels"], after["longText"]) == ({"a,B": "9", "_ein": "3"}, "")
    body = {"note": {"labels": {}}, "updateMask": "labels.`Ein`"}
    assert here.rest(who, "PATCH", f"whole/{name}", body) == Refused(
        "INVALID_ARGUMENT", "INVALID_REQUEST", ("update_mask",)
    )


def test_a_patch_makes_what_is_missing_where_that_is_allowed(here: Desk, who: Client) -> None:
    made = here.rest(who, "PATCH", "notes/made-by-patch?allowMissing=true", {"title": "t", "count": None})
    assert made["name"] == "notes/made-by-patch"


def test_an_apps_own_update_finds_the_mask_in_its_request(here: Desk, who: Client) -> None:
    name = here.rest(who, "POST", "lamps", {"color": "red", "watts": 5})["name"]
    after = here.rest(who, "PATCH", name, {"color": None})
    assert (after["color"], after["watts"]) == ("", 5)
    assert here.rest(who, "PATCH", f"{name}?updateMask=watts", {"color": "blue"})["watts"] == 0
    assert here.rest(who, "PATCH", name, {}) == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("update_mask",))


def test_grpc_has_no_such_names(here: Desk, who: Client) -> None:
    """Without a mask every field that is populated is taken over (AIP-134), whatever somebody says in a header."""
    name = note(here, who, longText="long")
    forged = here.grpc(who, "UpdateNote", {"note": {"name": name, "title": "new"}}, x_transom_body="long_text,nothing")
    assert (forged.title, forged.long_text) == ("new", "long")


FIELDS = {
    "longText": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4),
    "count": st.integers(-5, 5),
    "labels": st.dictionaries(
        st.sampled_from(["a", "b.c", "`", "Ä"]), st.sampled_from(["", "1"]) | st.none(), max_size=3
    ),
    "tags": st.lists(st.sampled_from(["x", "null", ""]), max_size=2),
    "place": st.fixed_dictionaries(
        {},
        optional={
            "city": st.sampled_from(["Oslo", ""]) | st.none(),
            "zipCode": st.sampled_from(["0150", ""]) | st.none(),
            "point": st.fixed_dictionaries({}, optional={"x": st.integers(0, 2) | st.none()}) | st.none(),
        },
    ),
}
CHANGES = st.fixed_dictionaries({}, optional={name: one | st.none() for name, one in FIELDS.items()})
EMPTY = {"longText": "", "count": 0, "labels": {}, "tags": []}


def merged(value: Any, patch: Any) -> Any:
    """MergePatch of RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    out = dict(value) if isinstance(value, dict) else {}
    for name, below in patch.items():
        if below is None:
            out.pop(name, None)
        else:
            out[name] = merged(out.get(name), below)
    return out


def written(note: dict[str, Any]) -> dict[str, Any]:
    """The fields as answers have them: those of messages that are there, of default value, too."""
    out = EMPTY | {name: note[name] for name in FIELDS if note.get(name) is not None}
    if isinstance(out.get("place"), dict):
        out["place"] = {"city": "", "zipCode": ""} | out["place"]
        if isinstance(out["place"].get("point"), dict):
            out["place"]["point"] = {"x": 0, "y": 0} | out["place"]["point"]
    return out


@settings(max_examples=40, deadline=None)
@given(changes=st.lists(CHANGES, min_size=1, max_size=4))
def test_a_patch_is_a_merge_patch_of_rfc_7396(changes: list[dict[str, Any]], here: Desk, who: Client) -> None:
    name, expected = note(here, who), dict(EMPTY)
    for change in changes:
        expected = merged(expected, change)
        assert written(here.rest(who, "PATCH", name, change)) == written(expected)


def batched(here: Desk, who: Client, changes: list[dict[str, Any]], **more: Any) -> Any:
    """The notes after a BatchUpdate of these changes, or its refusal."""
    answer = here.rest(who, "POST", "notes:batchUpdate", {"requests": [{"note": one} for one in changes], **more})
    return answer if isinstance(answer, Refused) else answer["notes"]


def committed(here: Desk, who: Client, changes: list[dict[str, Any]], **more: Any) -> Any:
    """The same of a Commit."""
    writes = [{"update": {"resource": {"@type": "type.googleapis.com/desk.v1.Note"} | one}} for one in changes]
    answer = who.post("data:commit", writes=writes, **more)
    return answer if isinstance(answer, Refused) else [result["resource"] for result in answer["results"]]


PARTS = {"a batch": batched, "a commit": committed}
WHERE = {"a batch": "requests[{}].note.", "a commit": "writes[{}].update.resource."}
MASK = {"a batch": "requests[{}].update_mask", "a commit": "writes[{}].update.update_mask"}


@settings(max_examples=15, deadline=None)
@given(changes=st.lists(CHANGES, min_size=1, max_size=6), of=st.sampled_from(sorted(PARTS)))
def test_so_is_each_part_of_a_batch_and_of_a_commit(
    changes: list[dict[str, Any]], of: str, here: Desk, who: Client
) -> None:
    names, expected = [note(here, who), note(here, who)], [dict(EMPTY), dict(EMPTY)]
    asked = []
    for i, change in enumerate(changes):
        asked.append({"name": names[i % 2]} | change)
        expected[i % 2] = merged(expected[i % 2], change)
    after = PARTS[of](here, who, asked)
    for found, wanted in list(
        zip(reversed(after), [expected[(len(asked) - 1 - n) % 2] for n in range(2)], strict=False)
    ):
        assert written(found) == written(wanted)


@pytest.mark.parametrize("of", PARTS)
def test_a_part_is_told_by_its_place(of: str, here: Desk, who: Client) -> None:
    names = [note(here, who, longText="l", labels={"a": "1", "b": "2"}) for _ in range(5)]
    changes: list[dict[str, Any]] = [{"name": name, "count": 1} for name in names]
    changes[3] |= {"longText": None, "labels": {"a": None}}
    after = PARTS[of](here, who, changes)
    assert [one["longText"] for one in after] == ["l", "l", "l", "", "l"]
    assert [sorted(one["labels"]) for one in after] == [["a", "b"]] * 3 + [["b"]] + [["a", "b"]]
    wrong = PARTS[of](here, who, [*changes[:2], changes[2] | {"titel": "x"}])
    assert wrong == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", (WHERE[of].format(2) + "titel",))


@pytest.mark.parametrize("of", PARTS)
def test_of_parts_that_name_too_much_each_needs_its_mask(of: str, here: Desk, who: Client) -> None:
    name = note(here, who, longText="l")
    many = [{"name": name, "labels": {f"{i}{'x' * 30}": "1"}} for i in range(70)]
    assert PARTS[of](here, who, many) == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", (MASK[of].format(0),))
    alike = [{"name": name, "longText": f"{i}"} for i in range(200)]
    assert PARTS[of](here, who, alike)[-1]["longText"] == "199"


@pytest.mark.parametrize("of", PARTS)
def test_parts_that_differ_by_null_alone_are_not_the_same_request(of: str, here: Desk, who: Client) -> None:
    change, id = {"name": note(here, who, longText="l"), "count": 1}, secrets.token_hex(8)
    first = PARTS[of](here, who, [change], requestId=id)
    assert PARTS[of](here, who, [change], requestId=id) == first
    assert PARTS[of](here, who, [change | {"longText": None}], requestId=id) == Refused(
        "INVALID_ARGUMENT", "REQUEST_ID_REUSED"
    )


# ── What the edge tells ─────────────────────────────────────────────────────────────────────────────────────────────
def told(edge: Edge, body: bytes, **headers: str) -> str | None:
    """The names that a server is told of a body; None for none."""
    sent = {"content-type": "application/json"} | headers
    answer = edge.rest("PATCH", "/v1/things/a", body, **sent)
    assert answer.status == 200, answer.body
    found: str | None = answer.json["metadata"].get("x-transom-body")
    return found


def names(value: Any) -> Tree | bool:
    """The names in a JSON value, as they should be told."""
    if isinstance(value, dict):
        return {key: names(below) for key, below in value.items()}
    out: Tree | bool = value is not None
    for item in value if isinstance(value, list) else ():
        if isinstance(item, dict | list):
            out = _together(out, names(item))
    return out


def _together(one: Tree | bool, other: Tree | bool) -> Tree | bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return {k: _together(one[k], other[k]) if k in one and k in other else {**one, **other}[k] for k in one | other}
    return other if isinstance(other, dict) or not isinstance(one, dict) else one


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["text", "a", "1", 'a"b', "\\", "(),%", "é"]
)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=20
)


@settings(max_examples=100, deadline=None)
@given(inner=st.dictionaries(KEYS, JSON, max_size=4), plain=st.booleans(), indent=st.sampled_from([None, 1]))
def test_the_names_of_any_body_are_told(inner: dict[str, Any], plain: bool, indent: int | None, edge: Edge) -> None:
    # `kind` and the like are fields of the thing: what is in them must be of their type.
    body = {"nothing": inner}
    said = told(edge, json.dumps(body, ensure_ascii=plain, indent=indent).encode())
    assert said is not None
    assert said == MANY or _tree(said) == names(body), said


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", {}),
        (b'{"a": null, "b": [null], "c": {"": {"n": null}}}', {"a": False, "b": True, "c": {"": {"n": False}}}),
        (b'{"text": "{\\"a\\": 1}", "b": "\\\\"}', {"text": True, "b": True}),
        (b' { "a" : [ [ { "b" : 1 } , 2 ] , "}" , { "c" : { } } ] } ', {"a": {"b": True, "c": {}}}),
        (json.dumps({"a": "x" * 1_000_000}).encode(), {"a": True}),
        (b'{"a": [' + b"1," * 400_000 + b"1]}", {"a": True}),
        (b'{"a": [' + b'{"b": 0},' * 9_998 + b"0]}", {"a": {"b": True}}),
        (b'{"a":' * 60 + b"1" + b"}" * 60, names(json.loads(b'{"a":' * 60 + b"1" + b"}" * 60))),
        (
            b'{"requests": [{"b": null, "a": 1}, {"a": 2, "b": null} , {}, {"b": [{"c": 1}, {"d": 1}]}]}',
            {"requests": {"0": {"a": True, "b": False}, "2": {}, "3": {"b": {"c": True, "d": True}}}},
        ),
        (
            b'{"writes": [{"a": 1}, null, {"b": 1}], "requests": [], "x": {"requests": [{"y": 1}]}}',
            {"writes": {"a": True, "b": True}, "requests": True, "x": {"requests": {"y": True}}},
        ),
        (
            json.dumps({"requests": [{f"n{i}{'x' * 40}": 1} for i in range(60)]}).encode(),
            {"requests": {f"n{i}{'x' * 40}": True for i in range(60)}},
        ),
    ],
    ids=[
        "nothing",
        "null",
        "names in strings",
        "spaces",
        "long",
        "many numbers",
        "many names",
        "deep",
        "parts",
        "no parts",
        "too many parts",
    ],
)
def test_the_names_of_a_body_are_told(body: bytes, expected: Tree, edge: Edge) -> None:
    assert _tree(told(edge, body) or "") == expected


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({f"key-{i}": 1 for i in range(1000)}).encode(),
        b'{"a": [' + b'{"b": 0},' * 10_001 + b"0]}",
        b'{"nothing":' * 65 + b"1" + b"}" * 65,
    ],
    ids=["bytes", "names", "levels"],
)
def test_beyond_a_bound_it_is_told_that_there_are_more(body: bytes, edge: Edge) -> None:
    assert told(edge, body) == MANY


def test_a_body_may_come_in_any_way_that_http_knows(edge: Edge) -> None:
    assert told(edge, b'{"text": "x"}', **{"content-type": "Application/JSON; charset=utf-8"}) == "text"
    assert told(edge, b'{"text": "x"}', **{"content-type": "application/merge-patch+json"}) == "text"
    assert told(edge, b'{"text": "x"}', expect="100-continue") == "text"
    assert told(edge, b'{"text": "x"}', **{"x-transom-body": "forged"}) == "text"
    assert (
        edge.rest("GET", "/v1/things/a", **{"x-transom-body": "forged"}).json["metadata"].get("x-transom-body") is None
    )
    connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=15)
    parts = iter([b'{"te', b'xt": "in ', b'parts"}'])
    headers = {"content-type": "application/json", "transfer-encoding": "chunked"}
    connection.request("PATCH", "/v1/things/a", parts, headers, encode_chunked=True)
    thing = json.loads(connection.getresponse().read())
    assert (thing["text"], thing["metadata"]["x-transom-body"]) == ("in parts", "text")


def test_grpc_and_grpc_web_carry_no_names(edge: Edge) -> None:
    request = edge.protos.message("UpdateThingRequest", thing={"name": "things/a", "text": '{"text": 1}'})
    assert "x-transom-body" not in edge.grpc("UpdateThing", request, **{"x-transom-body": "forged"}).metadata
    _, [answer] = edge.web("UpdateThing", request)
    assert "x-transom-body" not in type(edge.protos.message("Thing")).FromString(answer).metadata


@pytest.mark.parametrize(
    "written", ["a)", "a(", "(", ",)", "a b", "%GG)", "%FF", "%5C", "%22", "a(b))", "a,a", "place(" * 200 + ")" * 200]
)
def test_what_no_edge_writes_is_refused(written: str) -> None:
    update = next(m for m in schema().methods() if m.name == "UpdateNote")
    with pytest.raises(Invalid):
        Body(schema(), update).check(written)


def test_what_is_remembered_of_a_body_is_its_methods_own_and_bounded() -> None:
    methods = {m.name: m for m in schema().methods()}
    update, create = (Body(schema(), methods[name]) for name in ("UpdateNote", "CreateNote"))
    for _ in range(2):  # looked at, then remembered
        for body, told, fine in ((update, "labels(a!,b)", True), (update, "nope", False), (create, "labels(a!)", True)):
            with nullcontext() if fine else pytest.raises(Invalid):
                body.check(told)
        message = schema().message_class(methods["UpdateNote"].request)()
        message.note.labels.update(a="", b="x")
        assert update.mask(message, "labels(a!,b)", "") == ["labels.`a`", "labels.`b`"]
        assert dict(message.note.labels) == {"b": "x"}, "what null says is taken out each time"
    for i in range(KEPT + 10):
        update.check(f"labels(a{i})")
    update.check(f"labels({'a' * KEPT_CHARACTERS})")
    assert _kept.cache_info().currsize <= KEPT


def test_headers_that_the_edge_takes_are_taken_by_servers_too(here: Desk, who: Client) -> None:
    name = note(here, who)
    for _ in range(8):
        assert (
            here.rest(who, "PATCH", name, {"labels": {f"label-{i}": "x" for i in range(300)}}, x_more="x" * 14_000)[
                "name"
            ]
            == name
        )
