"""What checked references keep when something ends, and what goes with something else and is referred to."""

from __future__ import annotations

import pytest
from library_ground import ADA, asynchronous, database, engine, made_of

from deploy.native.stack import Stack
from server.engine import referring
from server.engine.endings import Endings
from server.errors import Precondition
from server.store.changes import Became, Change, Outcome

ROOMS = """
syntax = "proto3";
package r.v1;
import "google/api/resource.proto";
import "google/protobuf/timestamp.proto";
import "transom/schema/v1/options.proto";

message Room {
  option (google.api.resource) = {type: "r.test/Room" pattern: "rooms/{room}"};
  option (transom.schema.v1.resource) = {expires: true};
  string name = 1;
  google.protobuf.Timestamp expire_time = 2;
}
message Desk {
  option (google.api.resource) = {type: "r.test/Desk" pattern: "rooms/{room}/desks/{desk}"};
  string name = 1;
}
message Door {
  option (google.api.resource) = {type: "r.test/Door" pattern: "doors/{door}"};
  string name = 1;
}
message Lock {
  option (google.api.resource) = {type: "r.test/Lock" pattern: "doors/{door}/lock"};
  string name = 1;
  string spare = 2 [
    (google.api.resource_reference).type = "r.test/Desk",
    (transom.schema.v1.field).on_delete = CLEAR
  ];
}
message Sign {
  option (google.api.resource) = {type: "r.test/Sign" pattern: "signs/{sign}"};
  string name = 1;
  string room = 2 [
    (google.api.resource_reference).type = "r.test/Room",
    (transom.schema.v1.field).on_delete = CLEAR
  ];
}
message Note {
  option (google.api.resource) = {type: "r.test/Note" pattern: "notes/{note}"};
  string name = 1;
  string room = 2 [
    (google.api.resource_reference).type = "r.test/Room",
    (transom.schema.v1.field).on_delete = RESTRICT
  ];
  string desk = 4 [
    (google.api.resource_reference).type = "r.test/Desk",
    (transom.schema.v1.field).on_delete = RESTRICT
  ];
  string lock = 3 [
    (google.api.resource_reference).type = "r.test/Lock",
    (transom.schema.v1.field).on_delete = RESTRICT
  ];
}
"""


@asynchronous
async def test_what_a_reference_keeps_it_keeps_whole(components: Stack) -> None:
    schema = made_of({"r/v1/r.proto": ROOMS})
    room, desk, door, lock, note = (schema.resources[f"r.v1.{m}"] for m in ("Room", "Desk", "Door", "Lock", "Note"))
    kind = schema.message_class
    with database(components, schema) as at:
        async with engine(at, schema=schema) as on:
            resources = on.resources
            # A room whose time has come, with something below it.
            for id in ("a", "b", "c"):
                await resources.create(ADA, room, "", id, kind(room.message)())
                await resources.create(ADA, desk, f"rooms/{id}", "d", kind(desk.message)())
            await resources.create(ADA, note, "", "n", kind(note.message)(room="rooms/a"))
            await resources.create(ADA, desk, "rooms/c", "e", kind(desk.message)())
            await resources.create(ADA, note, "", "o", kind(note.message)(desk="rooms/c/desks/d"))
            at.sql("update r_v1.rooms set _expire_time = now() - interval '1 second'")
            await Endings(schema, on.decisions, on.records).sweep()
            assert at.sql("select name from r_v1.rooms order by 1") == [("rooms/a",), ("rooms/c",)]
            assert at.sql("select name from r_v1.desks order by 1") == [
                ("rooms/a/desks/d",),
                ("rooms/c/desks/d",),
                ("rooms/c/desks/e",),
            ]

            # A singleton goes with its parent, though nobody says so.
            await resources.create(ADA, door, "", "d", kind(door.message)())
            held = kind(lock.message)(name="doors/d/lock", spare="rooms/a/desks/d")
            await resources.update(ADA, lock, held, ["spare"])
            await resources.create(ADA, note, "", "m", kind(note.message)(lock="doors/d/lock"))
            removal = on.decisions.delete(door, "doors/d", etag="", force=False, origin=ADA.origin)
            kept = await on.records.write(removal)
            assert isinstance(kept, Precondition), kept
            assert kept.reason == "REFERRED_TO"
            assert kept.metadata == {"name": "doors/d"}
            await resources.delete(ADA, note, "notes/m")
            assert await on.records.write(removal) is Outcome.DONE
            assert at.sql("select count(*) from r_v1.lock") == [(0,)]


@asynchronous
async def test_so_it_does_where_more_refers_to_it_than_anybody_might_delete(
    components: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(referring, "AFFECTED_MAX", 2)
    schema = made_of({"r/v1/r.proto": ROOMS})
    room, desk, note, sign = (schema.resources[f"r.v1.{m}"] for m in ("Room", "Desk", "Note", "Sign"))
    kind = schema.message_class
    with database(components, schema) as at:
        async with engine(at, schema=schema) as on:
            for id in ("kept", "loose"):
                await on.resources.create(ADA, room, "", id, kind(room.message)())
                for n in range(3):
                    await on.resources.create(ADA, desk, f"rooms/{id}", f"d{n}", kind(desk.message)())
                    named = {"desk" if id == "kept" else "room": f"rooms/{id}{f'/desks/d{n}' if id == 'kept' else ''}"}
                    of = note if id == "kept" else sign
                    await on.resources.create(ADA, of, "", f"{id}{n}", kind(of.message)(**named))
            with pytest.raises(Precondition) as caught:
                await on.resources.delete(ADA, room, "rooms/loose", force=True)
            assert caught.value.reason == "TOO_MANY_REFERENCES"
            at.sql("update r_v1.rooms set _expire_time = now() - interval '1 second'")
            await Endings(schema, on.decisions, on.records).sweep()
            assert at.sql("select name from r_v1.rooms") == [("rooms/kept",)]
            assert at.sql("select count(*) from r_v1.desks") == [(3,)]
            assert at.sql("select distinct room from r_v1.signs") == [("",)]


@asynchronous
async def test_a_singleton_holds_what_it_refers_to_from_the_first(
    components: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = made_of({"r/v1/r.proto": ROOMS})
    room, desk, door, lock = (schema.resources[f"r.v1.{m}"] for m in ("Room", "Desk", "Door", "Lock"))
    kind = schema.message_class
    with database(components, schema) as at:
        async with engine(at, schema=schema) as on:
            await on.resources.create(ADA, room, "", "a", kind(room.message)())
            await on.resources.create(ADA, desk, "rooms/a", "d", kind(desk.message)())
            await on.resources.create(ADA, door, "", "d", kind(door.message)())
            write = on.records.write

            async def late(change: Change) -> Became:
                # The desk goes after it was looked at, and before the lock is written.
                await write(on.decisions.delete(desk, "rooms/a/desks/d", etag="", force=False, origin=ADA.origin))
                return await write(change)

            monkeypatch.setattr(on.records, "write", late)
            held = kind(lock.message)(name="doors/d/lock", spare="rooms/a/desks/d")
            with pytest.raises(Precondition) as caught:
                await on.resources.update(ADA, lock, held, ["spare"])
            assert caught.value.reason == "REFERENCE_NOT_FOUND"
            assert at.sql("select count(*) from r_v1.lock") == [(0,)]
