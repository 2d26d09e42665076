"""What a schema is understood as: resources, names, columns, methods, and what is refused with its reason. Pure."""

# ruff: noqa: E501 - tables of sentences
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from library_ground import PROTOS, library, made_of, message

from server.errors import Invalid
from server.query import pages
from server.schema.compilation import SchemaError, compile_app
from server.schema.model import Kind, Managed
from server.schema.names import NAME_BYTES_MAX, Pattern, PatternError, id_fault, name_fault
from server.schema.reading import read

# ------------------------------------------------------------------------------------------------- methods


@dataclass(frozen=True)
class Rpc:
    name: str
    kind: Kind
    resource: str = ""
    why: str = ""
    safe: bool = False
    body: str = ""
    id: str = ""
    items: str = ""


RPCS = [
    Rpc("GetShelf", Kind.GET, "Shelf", safe=True),
    Rpc("ListShelves", Kind.LIST, "Shelf", safe=True, items="shelves"),
    Rpc("CreateShelf", Kind.CREATE, "Shelf", body="shelf", id="shelf_id"),
    Rpc("UpdateShelf", Kind.UPDATE, "Shelf", body="shelf"),
    Rpc("DeleteShelf", Kind.DELETE, "Shelf"),
    Rpc("GetBook", Kind.GET, "Book", safe=True),
    Rpc("ListBooks", Kind.LIST, "Book", safe=True, items="books"),
    Rpc("CreateBook", Kind.CREATE, "Book", body="book"),
    Rpc("UpdateBook", Kind.UPDATE, "Book", body="book"),
    Rpc("DeleteBook", Kind.DELETE, "Book"),
    Rpc("PrintBook", Kind.CUSTOM),
    Rpc("Getaway", Kind.CUSTOM),
    Rpc("CountBooks", Kind.CUSTOM, safe=True),
    Rpc("GetVisitor", Kind.CUSTOM, why="it answers library.v1.Visitor, which is not a stored resource"),
    Rpc("GetLatest", Kind.CUSTOM, why="it is not named for what it answers, Shelf (AIP-131)"),
    Rpc("GetMemo", Kind.CUSTOM, why="its request has no string field 'name' (AIP-131)"),
    Rpc("ListMemos", Kind.CUSTOM, why="its response has no next_page_token (AIP-158)"),
    Rpc("ListNotes", Kind.CUSTOM, why="its request has no string field 'parent' (AIP-132)"),
    Rpc(
        "ListFolders", Kind.CUSTOM, why="its response does not have exactly one repeated field of a resource (AIP-132)"
    ),
    Rpc("CreateMemo", Kind.CUSTOM, why="its request does not have exactly one field of Memo (AIP-133)"),
    Rpc("CreateNote", Kind.CUSTOM, why="its request does not have exactly one field of Note (AIP-133)"),
    Rpc("UpdateMemo", Kind.CUSTOM, why="its update_mask is not a google.protobuf.FieldMask (AIP-134)"),
    Rpc("DeleteMemo", Kind.DELETE, "Memo"),
    Rpc("DeleteEverything", Kind.CUSTOM, why="no resource of this schema is named by it (AIP-135)"),
    Rpc("GetFolder", Kind.CUSTOM, why="it streams"),
]


@pytest.mark.parametrize("rpc", RPCS, ids=lambda r: r.name)
def test_a_method_is_what_its_descriptor_says(rpc: Rpc) -> None:
    [method] = [m for m in library().methods() if m.full_name == f"library.v1.LibraryService.{rpc.name}"]
    found = Rpc(
        method.name,
        method.kind,
        method.resource.descriptor.name if method.resource else "",
        method.why_custom,
        method.safe,
        method.resource_field,
        method.id_field,
        method.items_field,
    )
    assert found == rpc


def test_every_method_of_the_schema_is_in_the_table() -> None:
    [service] = [s for s in library().services if s.name == "library.v1.LibraryService"]
    assert {m.name for m in service.methods} == {rpc.name for rpc in RPCS}


def test_transoms_own_methods_are_built_in() -> None:
    own = [m for s in library().services if s.own for m in s.methods]
    assert own and all(m.kind is Kind.BUILT_IN for m in own)
    assert all(m.path.startswith("/transom.") for m in own)


def test_rest_bindings_and_comments_are_read() -> None:
    methods = {m.name: m for m in library().methods()}
    assert methods["CreateShelf"].http == (("post", "/v1/shelves"), ("post", "/v1/shelves/{shelf_id}"))
    assert methods["PrintBook"].comment == "A verb of its own."
    assert library().resources["library.v1.Book"].comment == "A book on a shelf."


# ------------------------------------------------------------------------------------------------- resources


def test_resources_and_their_tables() -> None:
    found = {r.descriptor.name: (r.table_schema, r.table_name) for r in library().resources.values()}
    assert found == {
        "Everything": ("kinds_v1", "everythings"),
        "Shelf": ("library_v1", "shelves"),
        "Book": ("library_v1", "books"),
        "Note": ("library_v1", "notes"),
        "Setting": ("library_v1", "settings"),
        "Memo": ("library_v1", "memos"),
        "Folder": ("library_v1", "folders"),
        "Pair": ("library_v1", "pairs"),
        "Card": ("library_v1", "cards"),
    }


def test_a_resource_that_cannot_hold_a_name_is_told_and_not_stored() -> None:
    assert library().warnings == (
        "library/v1/library.proto: library.v1.Visitor: not stored: it has no string field 'name'",
    )


def test_what_the_engine_keeps_itself() -> None:
    resources = library().resources
    assert resources["library.v1.Shelf"].managed == {
        Managed.UID,
        Managed.ETAG,
        Managed.CREATE_TIME,
        Managed.UPDATE_TIME,
    }
    assert resources["library.v1.Book"].managed == {Managed.ETAG}


def test_no_two_columns_of_a_table_have_one_name_and_none_is_too_long() -> None:
    for resource in library().resources.values():
        names = [f.column for f in resource.fields]
        assert len(set(names)) == len(names)
        assert all(len(n.encode()) <= 63 for n in names)
        assert not {"xmin", "xmax", "ctid"} & set(names)


def test_families() -> None:
    schema = library()
    resource = schema.resources
    children = {r.descriptor.name: {c.descriptor.name for c in schema.children_of(r)} for r in resource.values()}
    assert children["Shelf"] == {"Book", "Setting", "Memo", "Pair"}
    assert children["Book"] == {"Note"}
    assert children["Folder"] == {"Folder"}
    assert children["Memo"] == set()
    assert schema.resource_of("shelves/a/books/b").message == "library.v1.Book"
    assert schema.resource_of("shelves/a/books/b/notes") is None


COLUMNS = {
    "a_double": ("double precision", "0"),
    "a_float": ("real", "0"),
    "a_int32": ("integer", "0"),
    "a_uint32": ("bigint", "0"),
    "a_uint64": ("numeric(20)", "0"),
    "a_fixed64": ("numeric(20)", "0"),
    "a_bool": ("boolean", "false"),
    "a_string": ("text", "''"),
    "a_bytes": ("bytea", "''"),
    "a_colour": ("text", "'COLOUR_UNSPECIFIED'"),
    "maybe_uint64": ("numeric(20)", None),
    "maybe_colour": ("text", None),
    "maybe_bytes": ("bytea", None),
    "many_int32": ("jsonb", "'[]'"),
    "by_bool": ("jsonb", "'{}'"),
    "inner": ("jsonb", None),
    "inners": ("jsonb", "'[]'"),
    "well_timestamp": ("timestamptz", None),
    "well_duration": ("interval", None),
    "well_uint64_value": ("numeric(20)", None),
    "well_bytes_value": ("bytea", None),
    "well_struct": ("jsonb", None),
    "one_number": ("numeric(20)", None),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_field_has_its_natural_column(name: str) -> None:
    [field] = [f for f in library().resources["kinds.v1.Everything"].fields if f.name == name]
    assert (field.column_type, field.default) == COLUMNS[name]


# ------------------------------------------------------------------------------------------------- refusals

REFUSED = [
    "refused/behaviors.proto: refused.behaviors.Contrary.colour: (transom.schema.v1.field).initial: 'GREEN' is no value of the field",
    "refused/behaviors.proto: refused.behaviors.Contrary.flag: (transom.schema.v1.field).initial: 'yes' is no value of the field",
    "refused/behaviors.proto: refused.behaviors.Contrary.count: (transom.schema.v1.field).initial: 'many' is no value of the field",
    "refused/behaviors.proto: refused.behaviors.Contrary.large: (transom.schema.v1.field).initial: '4294967296' "
    "is no value of the field",
    "refused/behaviors.proto: refused.behaviors.Contrary.words: (transom.schema.v1.field).initial: 'a' is no value of the field",
    "refused/behaviors.proto: refused.behaviors.Contrary.road: (transom.schema.v1.field).initial: it is one of 'way', "
    "of which a client may choose another",
    "refused/patterns.proto: refused.patterns.Empty: google.api.resource: pattern 'empties//{empty}' has an empty segment",
    "refused/patterns.proto: refused.patterns.Spaced: google.api.resource: pattern 'spaces/{a space}' has a variable "
    "that is not a name in braces",
    "refused/patterns.proto: refused.patterns.None: google.api.resource: has no pattern",
    "refused/shared.proto: refused.shared.Gander: google.api.resource: pattern 'geese/{goose}' is that of "
    "refused.shared.Goose too",
    "refused/rules.proto: refused.rules.Address: (transom.schema.v1.resource).read: is asked of resources, and this is none",
    "refused/rules.proto: refused.rules.Address.street: (transom.schema.v1.field).read: is asked of the fields of a resource: "
    "write it at the one that holds this message",
]


def test_all_faults_of_a_schema_are_told_at_once_with_file_message_field_and_reason() -> None:
    with pytest.raises(SchemaError) as refused:
        read(compile_app(PROTOS / "refused"))
    assert str(refused.value).splitlines() == REFUSED


def test_protos_that_do_not_compile_are_refused_with_the_place(tmp_path: Any) -> None:
    (tmp_path / "proto").mkdir()
    (tmp_path / "proto" / "bad.proto").write_text(
        'syntax = "proto3";\npackage bad.v1;\nmessage A {\n  Missing b = 1;\n}\n'
    )
    with pytest.raises(SchemaError) as refused:
        compile_app(tmp_path)
    assert str(refused.value).startswith("bad.proto:4:3:") and "Missing" in str(refused.value)


def test_an_app_without_protos_is_refused(tmp_path: Any) -> None:
    (tmp_path / "proto").mkdir()
    with pytest.raises(SchemaError, match=r"no \.proto files"):
        compile_app(tmp_path)


def test_a_schema_without_any_option_is_read_too() -> None:
    schema = made_of(
        {"plain.proto": 'syntax = "proto3";\nmessage A { string b = 1; }\nservice S { rpc Do(A) returns (A); }\n'}
    )
    assert not schema.resources
    [method] = [m for m in schema.methods() if m.path == "/S/Do"]
    assert method.kind is Kind.CUSTOM


# ------------------------------------------------------------------------------------------------- names


@dataclass(frozen=True)
class Name:
    pattern: str
    name: str
    fits: bool
    parent: str = ""


NAMES = [
    Name("shelves/{shelf}", "shelves/a", True, ""),
    Name("shelves/{shelf}", "shelves/a/books/b", False),
    Name("shelves/{shelf}", "shelves/", False),
    Name("shelves/{shelf}", "shelves/-", False),
    Name("shelves/{shelf}", "shelves/-a", True, ""),
    Name("shelves/{shelf}", "Shelves/a", False),
    Name("shelves/{shelf}", "/shelves/a", False),
    Name("shelves/{shelf}", "shelves/a\n", True, ""),  # name_fault refuses it
    Name("shelves/{shelf}/books/{book}", "shelves/a/books/b", True, "shelves/a"),
    Name("shelves/{shelf}/books/{book}", "shelves/-/books/b", False),
    Name("shelves/{shelf}/books/{book}", "shelves/a/books/b/c", False),
    Name("shelves/{shelf}/setting", "shelves/a/setting", True, "shelves/a"),
    Name("shelves/{shelf}/setting", "shelves/a/settings", False),
    Name("shelves/{shelf}/pairs/{left}~{right}", "shelves/a/pairs/b~c", True, "shelves/a"),
    Name("shelves/{shelf}/pairs/{left}~{right}", "shelves/a/pairs/bc", False),
    Name("v1.2/{a}", "v1x2/a", False),
    Name("v1.2/{a}", "v1.2/a", True, ""),
]


@pytest.mark.parametrize("case", NAMES, ids=lambda c: f"{c.name!r} as {c.pattern}")
def test_names_and_patterns(case: Name) -> None:
    pattern = Pattern(case.pattern)
    assert pattern.matches(case.name) is case.fits
    if case.fits:
        assert pattern.parent_of(case.name) == case.parent
        assert pattern.matches_parent(case.parent)
        if not pattern.singleton:
            assert pattern.child(case.parent, case.name.rpartition("/")[2]) == case.name


@pytest.mark.parametrize("text", ["", "/a", "a/", "a//b", "a/{", "a/}", "a/{}", "a/{b", "a/{b c}", "a/{1}"])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(PatternError):
        Pattern(text)


@pytest.mark.parametrize("id", ["a", "A1", "0", "a.b~c_d-e", "x" * 255])
def test_ids(id: str) -> None:
    assert id_fault(id) is None


@pytest.mark.parametrize(
    "id", ["", "-", "-a", ".", "..", "_a", "a/b", "a b", "a%2Fb", "ä", "a\n", "a\0", "x" * 256, "a:b"]
)
def test_what_is_no_id(id: str) -> None:
    assert id_fault(id) is not None


@pytest.mark.parametrize(
    "name", ["a\0b", "a\nb", "a\x7fb", "\ud800", "x" * (NAME_BYTES_MAX + 1), "ä" * (NAME_BYTES_MAX // 2 + 1)]
)
def test_names_that_nothing_may_have(name: str) -> None:
    assert name_fault(name) is not None


# ------------------------------------------------------------------------------------------------- page tokens

QUERY = "library.v1.Book\nshelves/a\n"


@given(st.text(max_size=300).filter(lambda t: "\0" not in t), st.text())
def test_a_token_opens_for_its_query_only(after: str, other: str) -> None:
    token = pages.sealed(QUERY, after)
    assert pages.opened(token, QUERY) == after
    assert len(token) <= pages.TOKEN_BYTES_MAX
    if other != QUERY:
        with pytest.raises(Invalid):
            pages.opened(token, other)


@given(st.text(max_size=100))
def test_what_is_no_token_is_refused(text: str) -> None:
    if text and text.rstrip("=") != pages.sealed(QUERY, ""):
        with pytest.raises(Invalid) as refused:
            pages.opened(text, QUERY)
        assert [(v.field, v.reason) for v in refused.value.violations] == [("page_token", "INVALID_PAGE_TOKEN")]


@given(st.text(max_size=50).filter(lambda t: "\0" not in t), st.data())
def test_a_token_that_was_changed_is_refused_or_leads_elsewhere_in_the_same_query(after: str, data: Any) -> None:
    token = pages.sealed(QUERY, after)
    at = data.draw(st.integers(0, len(token) - 1))
    changed = token[:at] + data.draw(st.sampled_from("abcXYZ019-_=é\0 ")) + token[at + 1 :]
    try:
        assert "\0" not in pages.opened(changed, QUERY)
    except Invalid:
        pass


@pytest.mark.parametrize(
    "token",
    [
        "A" * (pages.TOKEN_BYTES_MAX + 1),
        pages.sealed(QUERY, "a\0b"),
        "\0",
        "é",
        "=",
        "====",
        " ",
        "2" + pages.sealed(QUERY, "a")[1:],
    ],
)
def test_tokens_of_attackers(token: str) -> None:
    with pytest.raises(Invalid):
        pages.opened(token, QUERY)


def test_a_token_of_the_longest_name_fits() -> None:
    assert pages.opened(pages.sealed(QUERY, "x" * NAME_BYTES_MAX), QUERY) == "x" * NAME_BYTES_MAX


@pytest.mark.parametrize(("asked", "answered"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)])
def test_page_sizes(asked: int, answered: int) -> None:
    assert pages.size_of(asked, 50, 1000) == answered


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(Invalid):
        pages.size_of(-1, 50, 1000)


@given(st.lists(st.text(max_size=400), max_size=5))
def test_frames_are_what_protobuf_makes(titles: list[str]) -> None:
    shelves = [message("Shelf", title=t) for t in titles]
    wire = b"".join(pages.frame(1, s.SerializeToString()) for s in shelves) + pages.frame(2, b"next")
    reply = message("ListShelvesResponse").FromString(wire)
    assert [s.title for s in reply.shelves] == titles and reply.next_page_token == "next"


# ------------------------------------------------------------------------------------------------- inferred resources

UNANNOTATED = """
syntax = "proto3";
package old.v1;
import "google/api/annotations.proto";
service Rooms {
  rpc GetRoom(GetRoomRequest) returns (Room) { option (google.api.http) = {get: "/v1/{name=sites/*/rooms/*}"}; }
  rpc DeleteRoom(GetRoomRequest) returns (Empty) { option (google.api.http) = {delete: "/v1/{name=sites/*/rooms/*}"}; }
  rpc GetPlan(GetRoomRequest) returns (Plan) { option (google.api.http) = {get: "/v1/{name=sites/*/rooms/*}:plan"}; }
  rpc GetTree(GetRoomRequest) returns (Tree) { option (google.api.http) = {get: "/v1/{name=trees/**}"}; }
  rpc GetPair(GetRoomRequest) returns (Pair) { option (google.api.http) = {get: "/v1/{name=*/*/pairs/*}"}; }
}
message GetRoomRequest { string name = 1; }
message Room { string name = 1; }
message Plan { string name = 1; }
message Tree { string name = 1; }
message Pair { string name = 1; }
message Empty {}
"""


def test_a_resource_without_annotation_is_told_by_its_get(tmp_path: Path) -> None:
    """Not by a verb's path, by ids of several segments, or by collections without names."""
    (tmp_path / "proto" / "old" / "v1").mkdir(parents=True)
    (tmp_path / "proto" / "old" / "v1" / "rooms.proto").write_text(UNANNOTATED)
    schema = read(compile_app(tmp_path))
    [room] = schema.resources.values()
    assert (room.message, room.type) == ("old.v1.Room", "old.v1/Room")
    assert [p.text for p in room.patterns] == ["sites/{site}/rooms/{room}"]
    assert {m.name: m.kind for m in schema.methods() if m.path.startswith("/old.")}["GetRoom"] is Kind.GET
    assert schema.warnings == (
        "old/v1/rooms.proto: old.v1.Room: has no google.api.resource: taken for sites/{site}/rooms/{room}",
    )


# ------------------------------------------------------------------------------------------------- contradictions

CONTRADICTING = """
syntax = "proto3";
package c.v1;
import "google/api/field_behavior.proto";
import "google/api/resource.proto";
import "google/protobuf/timestamp.proto";
import "transom/schema/v1/options.proto";
message Thing {
  option (google.api.resource) = {type: "c.test/Thing" pattern: "things/{thing}"};
  option (transom.schema.v1.resource) = {
    retention: {seconds: 60} revisions: 5 expires: true index: {fields: "word"}
  };
  string name = 1;
  string word = 2 [(google.api.field_behavior) = INPUT_ONLY, (transom.schema.v1.field).search = true];
  string code = 3 [(transom.schema.v1.field).unique = true, (transom.schema.v1.field).read = "false"];
  string other = 4 [
    (google.api.resource_reference).type = "c.test/Thing",
    (google.api.field_behavior) = REQUIRED,
    (transom.schema.v1.field).on_delete = CLEAR
  ];
  google.protobuf.Timestamp expire_time = 5 [(google.api.field_behavior) = OUTPUT_ONLY];
}
message Short {
  option (google.api.resource) = {type: "c.test/Short" pattern: "shorts/{short}"};
  option (transom.schema.v1.resource) = {retention: {seconds: 315576000000}};
  string name = 1;
}
message Licence {
  option (google.api.resource) = {type: "c.test/Licence" pattern: "licences/{licence}"};
  string name = 1;
  google.protobuf.Timestamp expire_time = 2;
}
"""


def test_options_that_contradict_their_schema_are_refused(tmp_path: Path) -> None:
    (tmp_path / "proto" / "c" / "v1").mkdir(parents=True)
    file = tmp_path / "proto" / "c" / "v1" / "c.proto"
    file.write_text(CONTRADICTING)
    with pytest.raises(SchemaError) as refused:
        read(compile_app(tmp_path))
    options = [line.partition("(transom.schema.v1.")[2].partition(":")[0] for line in str(refused.value).splitlines()]
    resource = ("retention", "revisions", "expires", "index", "unique", "search", "retention")
    assert options == ["resource).retention", "field).on_delete", *(f"resource).{name}" for name in resource)]
    # A time alone is no order to remove what it is of.
    licence = CONTRADICTING[CONTRADICTING.index("message Licence") :]
    file.write_text(CONTRADICTING[: CONTRADICTING.index("message Thing")] + licence)
    assert not read(compile_app(tmp_path)).resources["c.v1.Licence"].expires
