"""References to files, close up: what a schema may say of them, and what comes of writing and deleting at the same time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from library_ground import ADA, Database, asynchronous, database, engine, made_of

from deploy.native.stack import Stack
from server.engine.filing import FileReferrers
from server.errors import Precondition, Refusal
from server.schema.compilation import SchemaError
from server.schema.model import FileReference, OnDelete
from server.store.file_references import FileReferences

ALBUM = """
syntax = "proto3";
package album.v1;
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
}
"""


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("= CLEAR", "= CASCADE", "takes nothing with it"),
        ('"image/*"', '"*/*"', "no media type"),
        ('"image/*"', '"Image/PNG"', "no media type"),
        ("size_bytes_max: 1000", "size_bytes_max: -1", "below 0"),
        ("string note = 4;", "string note = 4 [(transom.schema.v1.field).file = {}];", "needs a string"),
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
