"""References to files, close up: what a schema may say of them, and what comes of writing and deleting at the same time."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from library_ground import ADA, Database, asynchronous, database, engine, made_of
from psycopg import sql

from deploy.native.stack import Stack
from server.engine.filing import FileReferrers
from server.errors import Precondition, Refusal
from server.schema.compilation import SchemaError
from server.schema.model import FileReference, OnDelete
from server.store.file_references import FileReferences

ALBUM = """
syntax = "proto3";
package album.v1;
import "google/api/field_behavior.proto";
import "google/api/resource.proto";
import "transom/schema/v1/options.proto";

message Album {
  option (google.api.resource) = {type: "album.test/Album" pattern: "albums/{album}"};
  string name = 1;
  repeated string photos = 2 [
    (google.api.resource_reference).type = "transom.dev/File",
    (transom.schema.v1.field).file = {content_types: "image/*" size_bytes_max: 1000}
  ];
  string cover = 3 [
    (google.api.resource_reference).type = "transom.dev/File",
    (transom.schema.v1.field).on_delete = CLEAR
  ];
  string note = 4;
  repeated Page pages = 5;
  Sheet back = 6;
}

message Page {
  string picture = 1 [
    (google.api.resource_reference).type = "transom.dev/File",
    (transom.schema.v1.field).file = {content_types: "image/*"}
  ];
  repeated Sheet sheets = 2;
}

message Sheet {
  repeated string scans = 1 [
    (google.api.resource_reference).type = "transom.dev/File",
    (transom.schema.v1.field).on_delete = CLEAR
  ];
  string title = 2;
}
"""


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("CLEAR\n  ];\n  string note", "CASCADE];\n  string note", "takes nothing with it"),
        ('"image/*" size', '"*/*" size', "no media type"),
        ('"image/*" size', '"Image/PNG" size', "no media type"),
        ("size_bytes_max: 1000", "size_bytes_max: -1", "below 0"),
        ("string note = 4;", "string note = 4 [(transom.schema.v1.field).file = {}];", "needs a string"),
        ("repeated Page pages = 5;", "map<string, Page> pages = 5;", "what a map holds"),
        ("string title = 2;", "repeated Sheet below = 2;", "a message that holds itself"),
        ("string title = 2;", "Album of = 2;", "a message that holds itself"),
        ("string title = 2;", "string title = 2 [(transom.schema.v1.field).file = {}];", "Sheet.title.*needs a string"),
        (
            "string title = 2;",
            'bytes b = 2 [(google.api.resource_reference).type = "transom.dev/File"];',
            "is a string",
        ),
        ("  repeated Page pages = 5;\n  Sheet back = 6;\n", "", "is asked of the fields of a resource"),
        (
            "CLEAR\n  ];\n  string title",
            "CLEAR, (google.api.field_behavior) = REQUIRED];\n  string title",
            "cannot be cleared",
        ),
    ],
)
def test_what_a_field_cannot_take_is_no_schema(before: str, after: str, why: str) -> None:
    assert ALBUM.count(before) == 1
    with pytest.raises(SchemaError, match=why):
        made_of({"album/v1/album.proto": ALBUM.replace(before, after)})


@pytest.mark.parametrize(
    ("types", "content_type", "taken"),
    [
        ((), "text/plain", True),
        (("image/*",), "image/png", True),
        (("image/*",), "text/plain", False),
        (("image/*",), "imagery/png", False),
        (("image/png", "application/pdf"), "application/pdf", True),
        (("image/png",), "image/jpeg", False),
    ],
)
def test_what_a_field_takes(types: tuple[str, ...], content_type: str, taken: bool) -> None:
    assert FileReference(OnDelete.RESTRICT, types).takes(content_type) is taken


async def nested(on: Any, at: Database, album: Any, referrers: FileReferrers, body: Any) -> None:
    """What messages in a resource refer to, at any depth, one or several, is as what the resource refers to itself."""
    resources = on.resources
    for sentence, pages, reason, path in [
        ("it is not there", [{}, {"picture": "files/none"}], "REFERENCE_NOT_FOUND", "pages[1].picture"),
        ("it is no name", [{"sheets": [{}, {"scans": ["x"]}]}], "INVALID_REQUEST", "pages[0].sheets[1].scans[0]"),
        (
            "it is not taken",
            [{"picture": filed(at, "na", content_type="a/b")}],
            "FILE_TYPE_NOT_TAKEN",
            "pages[0].picture",
        ),
    ]:
        with pytest.raises(Refusal) as refused:
            await resources.create(ADA, album, "", "x", body(pages=pages))
        assert refused.value.reason == reason and path in str(refused.value), sentence
    picture, scan, back = filed(at, "np"), filed(at, "ns"), filed(at, "nb", content_type="text/plain")
    pages = [{}, {"picture": picture, "sheets": [{"title": "t"}, {"scans": [scan, back]}]}]
    await resources.create(ADA, album, "", "deep", body(pages=pages, back={"scans": [back]}))
    for name, kept in [(picture, True), (scan, False), (back, False)]:
        assert await referrers.refers(name) and await referrers.shows(ADA.caller, name)
        if kept:
            with pytest.raises(Precondition) as refused:
                await referrers.delete(ADA.caller, name[6:])
            assert refused.value.reason == "REFERRED_TO"
        else:
            assert await referrers.delete(ADA.caller, name[6:]) and not await referrers.refers(name)
    left = on.decisions.parse(album, await resources.get(ADA, album, "albums/deep"))
    assert left == body(name="albums/deep", pages=[{}, {"picture": picture, "sheets": [{"title": "t"}, {}]}], back={})
    # What is there stays; what comes beside it is looked at.
    at.sql("update transom.files set state = 'REJECTED' where id = 'np'")
    left.pages.add(picture=picture)
    await resources.update(ADA, album, left, ["pages"])
    left.pages.add(picture="files/none")
    with pytest.raises(Refusal):
        await resources.update(ADA, album, left, ["pages"])
    # As it is asked for, there is an index.
    place = next(one for one in referrers._places if len(one.reference.steps) == 2)
    with psycopg.connect(at.postgres, options="-c enable_seqscan=off") as connection:
        cursor = psycopg.RawCursor(connection)
        plan = cursor.execute(sql.SQL("explain select 1 from {} where {}").format(place.table, place.condition), ["x"])
        assert "Index Cond" in str(plan.fetchall())


def filed(at: Database, id: str, state: str = "READY", content_type: str = "image/png", size: int = 10) -> str:
    at.sql(
        f"insert into transom.files (id, owner, filename, content_type, size_bytes, state)"
        f" values ('{id}', '{ADA.caller.name}', '', '{content_type}', {size}, '{state}')"
    )
    return f"files/{id}"


@asynchronous
async def test_what_refers_to_files_and_the_files_agree_whoever_comes_first(components: Stack) -> None:
    schema = made_of({"album/v1/album.proto": ALBUM})
    album = schema.resources["album.v1.Album"]

    def body(**fields: Any) -> Any:
        return schema.message_class(album.message)(**fields)

    with database(components, schema) as at:
        async with engine(at, schema=schema) as on:
            resources = on.resources
            referrers = FileReferrers(
                schema, on.decisions, resources.access, on.records, FileReferences(on.records._pool)
            )
            for sentence, name, reason in [
                ("its upload is not complete", filed(at, "a", "PENDING"), "FILE_NOT_UPLOADED"),
                ("it was rejected", filed(at, "b", "REJECTED"), "FILE_REJECTED"),
                ("it is going", filed(at, "c", "DELETING"), "REFERENCE_NOT_FOUND"),
                ("it is of another type", filed(at, "d", content_type="text/plain"), "FILE_TYPE_NOT_TAKEN"),
                ("it is too large", filed(at, "e", size=1001), "FILE_TOO_LARGE"),
                ("it is no name of a file", "files/a/b", "INVALID_REQUEST"),
            ]:
                with pytest.raises(Refusal) as refused:
                    await resources.create(ADA, album, "", "x", body(photos=[name]))
                assert refused.value.reason == reason, sentence

            photo, cover = filed(at, "p"), filed(at, "q", "UPLOADED", "text/plain", 5000)
            await resources.create(ADA, album, "", "one", body(photos=[photo], cover=cover))
            await resources.create(ADA, album, "", "two", body(cover=cover, note="n"))
            with pytest.raises(Precondition) as kept:
                await referrers.delete(ADA.caller, "p")
            assert kept.value.reason == "REFERRED_TO"
            assert await referrers.delete(ADA.caller, "q") and not await referrers.delete(ADA.caller, "q")
            for id, note in [("one", ""), ("two", "n")]:
                left = on.decisions.parse(album, await resources.get(ADA, album, f"albums/{id}"))
                assert (left.cover, left.note) == ("", note)
            # What is kept may stay as it is, whatever became of it, and be changed beside it.
            at.sql("update transom.files set state = 'REJECTED' where id = 'p'")
            await resources.update(ADA, album, body(name="albums/one", note="new"), ["note"])

            await nested(on, at, album, referrers, body)

            # Many write and many delete: no album is left with a photo that is gone.
            names = [filed(at, f"r{n}") for n in range(12)]

            async def write(n: int) -> bool:
                try:
                    await resources.create(ADA, album, "", f"race{n}", body(photos=[names[n]]))
                except Refusal:
                    return False
                return True

            async def delete(n: int) -> bool:
                try:
                    return await referrers.delete(ADA.caller, f"r{n}")
                except Refusal:
                    return False

            answers = await asyncio.gather(*(act(n) for n in range(12) for act in (write, delete)))
            for n in range(12):
                wrote, deleted = answers[2 * n : 2 * n + 2]
                assert wrote is not deleted, f"file {n}: just one of the two happens"
