"""Rules of methods hold for whatever else does the same: batches, Undelete, Purge, Rollback and Search."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import library_ground as ground
import pytest
from google.protobuf import json_format
from library_ground import asynchronous, database, engine

from deploy.native.stack import Stack
from server.caller import Caller
from server.engine import purges
from server.engine.commits import Commits, Update
from server.engine.lists import Wanted
from server.engine.method_rules import MethodRules
from server.engine.transforms import Operation, Transform
from server.errors import Denied
from server.services.current import CURRENT, Current
from server.services.standard import StandardMethods

SCHEMA = """
syntax = "proto3";
package n.v1;
import "google/api/field_behavior.proto";
import "google/api/resource.proto";
import "google/protobuf/empty.proto";
import "google/protobuf/field_mask.proto";
import "google/protobuf/timestamp.proto";
import "transom/schema/v1/options.proto";
service NoteService {
  rpc GetNote(GetNoteRequest) returns (Note) { option (transom.schema.v1.method).rule = "!request.name.endsWith('shut')"; }
  rpc ListNotes(ListNotesRequest) returns (ListNotesResponse) { option (transom.schema.v1.method).role = "staff"; }
  rpc CreateNote(CreateNoteRequest) returns (Note) { option (transom.schema.v1.method).rule = "request.note.text != 'no'"; }
  rpc UpdateNote(UpdateNoteRequest) returns (Note) {
    option (transom.schema.v1.method).rule = "request.note.text != 'no' && request.note.fixed != '1'";
  }
  rpc DeleteNote(DeleteNoteRequest) returns (Note) {
    option (transom.schema.v1.method).rule = "!request.name.endsWith('kept')";
  }
  rpc BatchGetNotes(BatchGetNotesRequest) returns (Notes);
  rpc BatchCreateNotes(BatchCreateNotesRequest) returns (Notes);
  rpc BatchUpdateNotes(BatchUpdateNotesRequest) returns (Notes);
  rpc BatchDeleteNotes(BatchDeleteNotesRequest) returns (google.protobuf.Empty);
  rpc UndeleteNote(UndeleteNoteRequest) returns (Note);
  rpc PurgeNotes(PurgeNotesRequest) returns (PurgeNotesResponse);
  rpc SearchNotes(SearchNotesRequest) returns (SearchNotesResponse);
  rpc RollbackNote(RollbackNoteRequest) returns (Note);
}
message Note {
  option (google.api.resource) = {type: "n.test/Note" pattern: "notes/{note}" plural: "notes" singular: "note"};
  option (transom.schema.v1.resource) = {read: "true" write: "true" revisions: 5};
  string name = 1 [(google.api.field_behavior) = IDENTIFIER];
  string text = 2;
  string fixed = 3;
  google.protobuf.Timestamp delete_time = 4 [(google.api.field_behavior) = OUTPUT_ONLY];
}
message NoteRevision {
  option (google.api.resource) = {
    type: "n.test/NoteRevision" pattern: "notes/{note}/revisions/{revision}" plural: "revisions" singular: "revision"
  };
  option (transom.schema.v1.resource) = {read: "true"};
  string name = 1 [(google.api.field_behavior) = IDENTIFIER];
  Note snapshot = 2;
}
message Notes { repeated Note notes = 1; }
message GetNoteRequest { string name = 1; }
message ListNotesRequest { int32 page_size = 1; string page_token = 2; }
message ListNotesResponse { repeated Note notes = 1; string next_page_token = 2; }
message CreateNoteRequest { Note note = 1; string note_id = 2; }
message UpdateNoteRequest { Note note = 1; google.protobuf.FieldMask update_mask = 2; }
message DeleteNoteRequest { string name = 1; }
message BatchGetNotesRequest { repeated string names = 1; }
message BatchCreateNotesRequest { repeated CreateNoteRequest requests = 1; }
message BatchUpdateNotesRequest { repeated UpdateNoteRequest requests = 1; }
message BatchDeleteNotesRequest { repeated string names = 1; }
message UndeleteNoteRequest { string name = 1; }
message PurgeNotesRequest { string filter = 1; bool force = 2; }
message PurgeNotesResponse { int32 purge_count = 1; }
message SearchNotesRequest { string query = 1; int32 page_size = 2; string page_token = 3; }
message SearchNotesResponse { repeated Note notes = 1; string next_page_token = 2; }
message RollbackNoteRequest { string name = 1; string revision_id = 2; }
"""


ADA, BOB = ground.ADA.caller, ground.BOB.caller


class Asking:
    """The standard methods, asked as services are."""

    def __init__(self, on: ground.Engine) -> None:
        self.on = on

    async def ask(self, by: Caller, method: str, **request: Any) -> Any:
        """The answer, as JSON has it."""
        schema = self.on.schema
        found = next(m for m in schema.methods() if m.name == method)
        said = json_format.ParseDict(request, schema.message_class(found.request)())
        call = Current("m", None, "request", "")
        call.caller = by
        CURRENT.set(call)
        data = await StandardMethods(self.on.resources).behavior(found)(said.SerializeToString(), None)
        return json_format.MessageToDict(schema.message_class(found.answer).FromString(data))

    async def denied(self, method: str, **request: Any) -> bool:
        """Whether Bob may not."""
        try:
            await self.ask(BOB, method, **request)
        except Denied:
            return True
        return False


@asynccontextmanager
async def asking(components: Stack, text: str, replaced: Collection[str] = ()) -> AsyncIterator[Asking]:
    schema = ground.made_of({"n/v1/n.proto": text})
    with database(components, schema) as at:
        async with engine(at, schema=schema, ruled=True) as on:
            on.resources.methods = MethodRules(schema, replaced)
            yield Asking(on)


@asynchronous
async def test_what_one_method_denies_no_other_does(components: Stack) -> None:
    async with asking(components, SCHEMA) as notes:
        for id in ("open", "shut", "kept"):
            await notes.ask(ADA, "CreateNote", noteId=id, note={"text": "t", "fixed": "f"})
        assert not await notes.denied("BatchGetNotes", names=["notes/open"])
        assert await notes.denied("BatchGetNotes", names=["notes/open", "notes/shut"])

        assert not await notes.denied("BatchCreateNotes", requests=[{"note": {"text": "yes"}}])
        assert await notes.denied("BatchCreateNotes", requests=[{"note": {"text": "yes"}}, {"note": {"text": "no"}}])

        def update(text: str, mask: str) -> list[dict[str, Any]]:
            return [{"note": {"name": "notes/open", "text": text}, "updateMask": mask}]

        assert not await notes.denied("BatchUpdateNotes", requests=update("yes", "text"))
        assert await notes.denied("BatchUpdateNotes", requests=update("no", "text"))
        assert await notes.denied("BatchUpdateNotes", requests=update("no", "fixed"))

        assert await notes.denied("BatchDeleteNotes", names=["notes/open", "notes/kept"])
        assert await notes.denied("UndeleteNote", name="notes/kept")
        assert await notes.denied("SearchNotes")
        staff = replace(BOB, roles=frozenset({"staff"}))
        assert len((await notes.ask(staff, "SearchNotes"))["notes"]) == 4
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(purges, "BITE", 1)
            patch.setattr(purges, "LOOKED_MAX", 2)
            assert (await notes.ask(BOB, "PurgeNotes", filter="*"))["purgeCount"] == 1, "two were looked at"
        assert (await notes.ask(BOB, "PurgeNotes", filter="*", force=True))["purgeCount"] == 3, "all but the kept one"
        assert await notes.on.records.latest(notes.on.schema.resources["n.v1.Note"], "notes/kept") is not None


@asynchronous
async def test_transforms_are_judged_by_what_they_make(components: Stack) -> None:
    counted = SCHEMA.replace(
        "string fixed = 3;",
        """string fixed = 3;
        int32 stock = 5;
        int32 held = 6;
        int32 price = 7 [(transom.schema.v1.field).write = "caller.name == 'users/ada'"];
        map<string, int32> counts = 8;""",
    ).replace(
        "request.note.text != 'no' && request.note.fixed != '1'",
        "request.note.stock >= 0 && request.note.held == 0",
    )
    async with asking(components, counted) as notes:
        await notes.ask(ADA, "CreateNote", noteId="a", note={"text": "t", "stock": 2, "price": 5})
        kind = notes.on.schema.message_class("n.v1.Note")

        async def refused(
            by: ground.Call, path: str, by_what: int, paths: list[str] | None = None, **fields: Any
        ) -> bool:
            transforms = (Transform("transforms[0]", path, Operation.INCREMENT, float(by_what)),)
            write = Update(kind(name="notes/a", **fields), paths, transforms=transforms)
            try:
                await Commits(notes.on.resources).commit(by, [write])
            except Denied:
                return True
            return False

        assert not await refused(ground.BOB, "stock", -2)
        assert await refused(ground.BOB, "stock", -1), "what the method would not take"
        assert not await refused(ground.BOB, "stock", 1), "nothing was written"
        for paths in (None, ["text"]):
            assert await refused(ground.BOB, "held", 1, paths, text="new")
            assert not await refused(ground.BOB, "counts.a", 1, paths, text="new")
        assert await refused(ground.BOB, "price", 1), "whose writing has a rule"
        assert not await refused(ground.ADA, "price", 1)
        stored = await notes.ask(ADA, "GetNote", name="notes/a")
        assert {key: stored[key] for key in ("text", "stock", "price", "counts")} == {
            "text": "new", "stock": 1, "price": 6, "counts": {"a": 2}
        }  # fmt: skip


@asynchronous
async def test_a_rollback_is_an_update(components: Stack) -> None:
    async with asking(components, SCHEMA) as notes:
        kind = notes.on.schema.resources["n.v1.NoteRevision"]
        await notes.ask(ADA, "CreateNote", noteId="a", note={"text": "1", "fixed": "1"})
        for change in ({"text": "2"}, {"text": "3", "fixed": "3"}):
            message = notes.on.schema.message_class("n.v1.Note")(name="notes/a", **change)
            await notes.on.resources.update(ground.ADA, notes.on.schema.resources["n.v1.Note"], message, list(change))
        third, second, first = [
            row.name.rpartition("/")[2]
            for row in (await notes.on.resources.lists.page(ground.ADA, kind, Wanted("notes/a"))).rows
        ]
        for past in (first, second):
            assert await notes.denied("RollbackNote", name="notes/a", revisionId=past)
        assert not await notes.denied("RollbackNote", name="notes/a", revisionId=third)


@asynchronous
async def test_no_batch_goes_past_a_function_of_the_app(components: Stack) -> None:
    async with asking(components, SCHEMA, {"n.v1.NoteService.CreateNote"}) as notes:
        assert await notes.denied("BatchCreateNotes", requests=[{"note": {"text": "yes"}}])
    alone = SCHEMA.replace(
        "(BatchCreateNotesRequest) returns (Notes);",
        "(BatchCreateNotesRequest) returns (Notes) { option (transom.schema.v1.method).allow = SIGNED_IN; }",
    )
    async with asking(components, alone, {"n.v1.NoteService.CreateNote"}) as notes:
        assert not await notes.denied("BatchCreateNotes", requests=[{"note": {"text": "no"}}]), "its own rule decides"
