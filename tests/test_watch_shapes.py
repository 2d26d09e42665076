"""Which methods watch, and what those lack that nearly do."""

from __future__ import annotations

import functools

import pytest
from library_ground import made_of

from server.schema.model import Kind, Method

HEAD = """
syntax = "proto3";
package shapes.v1;
import "google/api/resource.proto";
import "transom/events/v1/change.proto";

message Book {
  option (google.api.resource) = {type: "example.com/Book" pattern: "shelves/{shelf}/books/{book}"};
  string name = 1;
}
enum BookChange {
  BOOK_CHANGE_UNSPECIFIED = 0;
  BOOK_CHANGE_CURRENT = 11;
  BOOK_CHANGE_CREATED = 12;
  BOOK_CHANGE_UPDATED = 13;
  BOOK_CHANGE_DELETED = 14;
  BOOK_CHANGE_REMOVED = 15;
  BOOK_CHANGE_RESET = 16;
}
enum Half {
  NOTHING = 0;
  CURRENT = 1;
  CREATED = 2;
}
"""

PARENT, NAME, TOKEN = "string parent = 1;", "string name = 1;", "string resume_token = 2;"
ANSWER = "string name = 1; Book book = 2; string resume_token = 3;"
CHANGE = "transom.events.v1.Change change = 4;"

SHAPES = [
    ("WatchBooks", PARENT + TOKEN, ANSWER + CHANGE, ""),
    ("WatchBook", NAME + TOKEN, ANSWER + CHANGE, ""),
    ("WatchBooks", NAME + TOKEN + "string parent = 3; string filter = 4;", ANSWER + CHANGE, ""),
    ("WatchBooks", PARENT + TOKEN, ANSWER + "BookChange change = 4;", ""),
    ("WatchBooks", PARENT + TOKEN, ANSWER + "string change = 4; bool synced = 5;", ""),
    ("WatchBooks", PARENT + TOKEN, ANSWER + "Half change = 4;", "no field 'change'"),
    ("WatchBooks", PARENT + TOKEN, ANSWER, "no field 'change'"),
    ("WatchBooks", PARENT + TOKEN, "string name = 1; Book book = 2;" + CHANGE, "no string field 'resume_token'"),
    ("WatchBooks", PARENT + TOKEN, "Book book = 2; string resume_token = 3;" + CHANGE, "no string field 'name'"),
    (
        "WatchBooks",
        PARENT + TOKEN,
        "string name = 1; string resume_token = 3;" + CHANGE,
        "exactly one field of a resource",
    ),
    ("WatchBooks", PARENT, ANSWER + CHANGE, "no string field 'resume_token'"),
    ("WatchBooks", TOKEN, ANSWER + CHANGE, "no string field 'parent'"),
    ("WatchShelves", PARENT + TOKEN, ANSWER + CHANGE, "not named for what it tells of"),
    ("ListBooks", PARENT + TOKEN, ANSWER + CHANGE, "it streams"),
]
"""Name, request and answer of a method; what it lacks."""


@functools.cache
def methods() -> list[Method]:
    text = HEAD
    for i, (name, request, answer, _) in enumerate(SHAPES):
        text += f"message Request{i} {{ {request} }}\nmessage Answer{i} {{ {answer} }}\n"
        text += f"service Service{i} {{ rpc {name}(Request{i}) returns (stream Answer{i}); }}\n"
    text += (
        "service Unary { rpc WatchBooks(Request0) returns (Answer0); rpc Watch(Request0) returns (stream Answer0); }\n"
    )
    return [m for s in made_of({"shapes/v1/shapes.proto": text}).services if not s.own for m in s.methods]


@pytest.mark.parametrize("at", range(len(SHAPES)))
def test_shapes(at: int) -> None:
    name, _, _, lacks = SHAPES[at]
    method = methods()[at]
    assert method.name == name
    if lacks:
        assert (method.kind, lacks in method.why_custom) == (Kind.CUSTOM, True), method.why_custom
    else:
        assert (method.kind, method.items_field, method.safe) == (Kind.WATCH, "book", True), method.why_custom


def test_what_answers_once_or_names_nothing_watches_nothing() -> None:
    once, nameless = methods()[-2:]
    assert (once.kind, once.why_custom) == (Kind.CUSTOM, "it does not answer a stream")
    assert (nameless.kind, nameless.why_custom) == (Kind.CUSTOM, "")
