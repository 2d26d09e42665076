"""What a revision keeps from somebody, and that nobody writes history."""

from __future__ import annotations

from collections.abc import Awaitable

import library_ground as ground
import pytest
from library_ground import ADA, BOB, asynchronous, database, engine

from deploy.native.stack import Stack
from server.engine.commits import Commits, Update
from server.engine.lists import Wanted
from server.engine.revisions import revision_id
from server.engine.rollbacks import roll_back
from server.engine.transforms import Operation, Transform
from server.errors import Invalid, Precondition

SCHEMA = {
    "n/v1/n.proto": """
syntax = "proto3";
package n.v1;
import "google/api/field_behavior.proto";
import "google/api/resource.proto";
import "google/protobuf/field_mask.proto";
import "transom/schema/v1/options.proto";
service NService {
  rpc GetDoc(GetDocRequest) returns (Doc);
  rpc CreateDoc(CreateDocRequest) returns (Doc);
  rpc UpdateDoc(UpdateDocRequest) returns (Doc);
  rpc CreateFriend(CreateFriendRequest) returns (Friend);
  rpc GetFriend(GetFriendRequest) returns (Friend);
  rpc GetDocRevision(GetDocRevisionRequest) returns (DocRevision);
  rpc CreateDocRevision(CreateDocRevisionRequest) returns (DocRevision);
  rpc UpdateDocRevision(UpdateDocRevisionRequest) returns (DocRevision);
  rpc RollbackDoc(RollbackDocRequest) returns (Doc);
}
message Doc {
  option (google.api.resource) = {type: "n.test/Doc" pattern: "docs/{doc}" plural: "docs" singular: "doc"};
  option (transom.schema.v1.resource) = {read: "true" write: "true" revisions: 5};
  string name = 1 [(google.api.field_behavior) = IDENTIFIER];
  bool open = 2;
  string secret = 3 [(transom.schema.v1.field).read = "resource.open || owner == caller.name"];
  int32 number = 4;
  repeated string tags = 5;
  string friend = 6 [
    (google.api.resource_reference).type = "n.test/Friend",
    (transom.schema.v1.field).on_delete = RESTRICT
  ];
}
message Friend {
  option (google.api.resource) = {type: "n.test/Friend" pattern: "friends/{friend}" plural: "friends" singular: "friend"};
  option (transom.schema.v1.resource) = {read: "owner == caller.name" write: "owner == caller.name"};
  string name = 1 [(google.api.field_behavior) = IDENTIFIER];
}
message DocRevision {
  option (google.api.resource) = {
    type: "n.test/DocRevision" pattern: "docs/{doc}/revisions/{revision}" plural: "revisions" singular: "revision"
  };
  option (transom.schema.v1.resource) = {read: "true" write: "true"};
  string name = 1 [(google.api.field_behavior) = IDENTIFIER];
  Doc snapshot = 2;
  string label = 3;
}
message GetFriendRequest { string name = 1; }
message CreateFriendRequest { Friend friend = 1; string friend_id = 2; }
message GetDocRequest { string name = 1; }
message CreateDocRequest { Doc doc = 1; string doc_id = 2; }
message UpdateDocRequest { Doc doc = 1; google.protobuf.FieldMask update_mask = 2; }
message GetDocRevisionRequest { string name = 1; }
message CreateDocRevisionRequest { string parent = 1; DocRevision revision = 2; string revision_id = 3; }
message UpdateDocRevisionRequest { DocRevision doc_revision = 1; google.protobuf.FieldMask update_mask = 2; }
message RollbackDocRequest { string name = 1; string revision_id = 2; }
"""
}


async def refused(call: Awaitable[object]) -> str:
    """Why a call was invalid."""
    with pytest.raises(Invalid) as caught:
        await call
    [violation] = caught.value.violations
    return violation.reason


@asynchronous
async def test_a_revision_keeps_its_secrets_and_is_nobodys_to_write(components: Stack) -> None:
    schema = ground.made_of(SCHEMA)
    doc, revision = schema.resources["n.v1.Doc"], schema.resources["n.v1.DocRevision"]
    made, taken = schema.message_class("n.v1.Doc"), schema.message_class("n.v1.DocRevision")
    with database(components, schema) as at:
        async with engine(at, schema=schema, ruled=True) as on:
            await on.resources.create(ADA, doc, "", "d", made(secret="then"))
            await on.resources.update(ADA, doc, made(name="docs/d", secret="now", open=True), ["secret", "open"])
            page = await on.resources.lists.page(BOB, revision, Wanted("docs/d"))
            first = page.rows[-1].name
            assert not taken.FromString(page.rows[-1].payload).snapshot.secret, "Bob may not see what it was"

            shown, _ = await roll_back(on.resources, BOB, doc, "docs/d", first.rpartition("/")[2], validate_only=True)
            assert made.FromString(shown).secret == "now", "nor get it by rolling back"
            shown, _ = await roll_back(on.resources, ADA, doc, "docs/d", first.rpartition("/")[2], validate_only=True)
            assert made.FromString(shown).secret == "then"

            forged = (
                Transform("transforms[0]", "snapshot.number", Operation.INCREMENT, 666),
                Transform("transforms[0]", "snapshot.tags", Operation.APPEND_MISSING, ["forged"]),
            )
            for one in forged:
                write = Update(taken(name=first), ["label"], transforms=(one,))
                await refused(Commits(on.resources).commit(ADA, [write]))
            row = await on.records.latest(doc, "docs/d")
            assert row is not None
            id = revision_id(row.version + 1)
            assert await refused(on.resources.create(BOB, revision, "docs/d", id, taken(label="mine"))) == "INVALID_ID"
            await on.resources.create(BOB, revision, "docs/d", "mine", taken(label="mine"))
            await on.resources.update(ADA, doc, made(name="docs/d", number=1), ["number"])


@asynchronous
async def test_nobody_refers_by_rolling_back_to_what_they_may_not_get(components: Stack) -> None:
    schema = ground.made_of(SCHEMA)
    doc, friend, revision = (schema.resources[f"n.v1.{name}"] for name in ("Doc", "Friend", "DocRevision"))
    made = schema.message_class("n.v1.Doc")
    with database(components, schema) as at:
        async with engine(at, schema=schema, ruled=True) as on:
            await on.resources.create(ADA, friend, "", "f", schema.message_class("n.v1.Friend")())
            await on.resources.create(ADA, doc, "", "d", made(friend="friends/f"))
            await on.resources.update(ADA, doc, made(name="docs/d"), ["friend"])
            page = await on.resources.lists.page(BOB, revision, Wanted("docs/d"))
            first = page.rows[-1].name.rpartition("/")[2]
            for only in (True, False):
                with pytest.raises(Precondition) as refusal:
                    await roll_back(on.resources, BOB, doc, "docs/d", first, validate_only=only)
                assert refusal.value.reason == "REFERENCE_NOT_FOUND"
            row = await on.records.latest(doc, "docs/d")
            assert row is not None and not made.FromString(row.payload).friend
            shown, _ = await roll_back(on.resources, ADA, doc, "docs/d", first)
            assert made.FromString(shown).friend == "friends/f"
