"""What the engine lets callers do, by rules: over real Postgres servers, with a schema that has every kind of rule."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from deploy.native.stack import Stack
from server.apps.work import Work
from server.caller import NOBODY, Caller, Kind
from server.engine.lists import Wanted
from server.engine.resources import Call
from server.errors import Denied, Invalid, NotFound, Refusal, Stale, Unauthenticated
from server.query.rules.checking import rules_of
from server.schema.compilation import SchemaError
from server.services.veils import Veils
from server.store.changes import Row
from tests.library_ground import Database, Engine, asynchronous, database, engine, made_of

TEAMS = made_of(
    {
        "teams.proto": """
syntax = "proto3";
package teams.v1;
import "google/api/resource.proto";
import "google/protobuf/timestamp.proto";
import "transom/schema/v1/options.proto";

message Team {
  option (google.api.resource) = {type: "teams.test/Team" pattern: "teams/{team}"};
  option (transom.schema.v1.resource) = {
    read: "resource.public || exists('teams/' + path.team + '/members/' + caller.id)"
    create: "caller.verified && resource.founder == caller.name"
    update: "get('teams/' + path.team + '/members/' + caller.id).role == Member.Role.OWNER"
    delete: "owner == caller.name"
  };
  string name = 1;
  string title = 2;
  bool public = 3;
  string founder = 4;
  string secret = 5 [(transom.schema.v1.field) = {
    read: "get(resource.name + '/members/' + caller.id).role == Member.Role.OWNER"
  }];
  string plan = 6 [(transom.schema.v1.field) = {write: "'billing' in caller.roles"}];
  string etag = 7;
}

message Member {
  enum Role { ROLE_UNSPECIFIED = 0; VIEWER = 1; OWNER = 2; }
  option (google.api.resource) = {type: "teams.test/Member" pattern: "teams/{team}/members/{member}"};
  option (transom.schema.v1.resource) = {
    read: "exists(parent + '/members/' + caller.id)"
    write: "get(parent + '/members/' + caller.id).role == Member.Role.OWNER || "
           "(path.member == caller.id && get(parent).founder == caller.name)"
  };
  string name = 1;
  Role role = 2;
}

message Doc {
  option (google.api.resource) = {type: "teams.test/Doc" pattern: "teams/{team}/docs/{doc}"};
  option (transom.schema.v1.resource) = {
    read: "caller.name == owner || caller.name in resource.readers || "
          "(resource.shared && exists(parent + '/members/' + caller.id))"
    create: "exists(parent + '/members/' + caller.id)"
    write: "resource.author == caller.name"
  };
  string name = 1;
  string title = 2;
  bool shared = 3;
  repeated string readers = 4;
  string author = 5;
  string note = 6 [(transom.schema.v1.field) = {read: "owner == caller.name" write: "owner == caller.name"}];
}

message TouchRequest {
  string name = 1 [(google.api.resource_reference).type = "teams.test/Team"];
}
message TouchSilentRequest {
  string name = 1 [(google.api.resource_reference).type = "teams.test/Silent"];
}
message TouchReply {
  message Shelf { repeated Team teams = 1; map<string, Team> by_name = 2; Shelf below = 3; }
  Shelf shelf = 1;
  Doc doc = 2;
  string word = 3;
}
service TouchService {
  rpc Touch(TouchRequest) returns (TouchReply) { option (transom.schema.v1.method).rule = "resource.founder == caller.name"; }
  rpc TouchSilent(TouchSilentRequest) returns (TouchReply) { option (transom.schema.v1.method).rule = "owner != ''"; }
  rpc TouchStaff(TouchRequest) returns (TouchReply) { option (transom.schema.v1.method).role = "staff"; }
  rpc TouchAny(TouchRequest) returns (TouchReply) { option (transom.schema.v1.method).allow = PUBLIC; }
  rpc TouchKnown(TouchRequest) returns (TouchReply) { option (transom.schema.v1.method).allow = SIGNED_IN; }
  rpc TouchNone(TouchRequest) returns (TouchReply);
}

message Silent {
  option (google.api.resource) = {type: "teams.test/Silent" pattern: "silents/{silent}"};
  string name = 1;
}

message Staff {
  option (google.api.resource) = {type: "teams.test/Staff" pattern: "staff/{staff}"};
  option (transom.schema.v1.resource) = {read: "'staff' in caller.roles" write: "'staff' in caller.roles"};
  string name = 1;
}
"""
    }
)
TEAM, MEMBER, DOC, SILENT, STAFF = (
    TEAMS.resources[f"teams.v1.{n}"] for n in ("Team", "Member", "Doc", "Silent", "Staff")
)


def user(id: str, *roles: str, verified: bool = True) -> Call:
    return Call(Caller(Kind.USER, f"users/{id}", roles=frozenset(roles), session="s", verified=verified))


ANN, BEN, EVE, STRANGER = user("ann"), user("ben"), user("eve"), Call(NOBODY)
KEY = Call(Caller(Kind.KEY, "keys/k", roles=frozenset({"service"})))


def scoped(*scopes: str) -> Call:
    return Call(replace(KEY.caller, scopes=frozenset(scopes)))


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Database]:
    with database(components, TEAMS) as made:
        yield made


@pytest.fixture(autouse=True)
def _empty(at: Database) -> None:
    tables = ", ".join(f"{r.table_schema}.{r.table_name}" for r in TEAMS.resources.values())
    at.sql(f"truncate {tables}, transom.events")


class Ground:
    """The engine, spoken to by resource type."""

    def __init__(self, on: Engine) -> None:
        self.on = on

    def message(self, kind: str, **fields: Any) -> Any:
        return TEAMS.message_class(f"teams.v1.{kind}")(**fields)

    async def create(self, by: Call, kind: str, parent: str, id: str, **fields: Any) -> Any:
        resource = TEAMS.resources[f"teams.v1.{kind}"]
        made = await self.on.resources.create(by, resource, parent, id, self.message(kind, **fields))
        return self.on.decisions.parse(resource, made)

    async def get(self, by: Call, kind: str, name: str) -> Any:
        resource = TEAMS.resources[f"teams.v1.{kind}"]
        return self.on.decisions.parse(resource, await self.on.resources.get(by, resource, name))

    async def update(self, by: Call, kind: str, name: str, paths: list[str] | None = None, **fields: Any) -> Any:
        resource = TEAMS.resources[f"teams.v1.{kind}"]
        etag = fields.pop("version", "")
        made = await self.on.resources.update(by, resource, self.message(kind, name=name, **fields), paths, etag=etag)
        return self.on.decisions.parse(resource, made)

    async def delete(self, by: Call, kind: str, name: str, **how: Any) -> None:
        await self.on.resources.delete(by, TEAMS.resources[f"teams.v1.{kind}"], name, **how)

    async def stored(self, kind: str, name: str) -> Any:
        return await self.get(KEY, kind, name)

    async def team(self) -> None:
        """A private team of Ann's; Ben is a viewer."""
        await self.create(ANN, "Team", "", "t", title="T", founder="users/ann", secret="s")
        await self.create(ANN, "Member", "teams/t", "ann", role=2)
        await self.create(ANN, "Member", "teams/t", "ben", role=1)


async def refused(doing: Any, kind: type[Refusal], **metadata: str) -> Refusal:
    with pytest.raises(kind) as refusal:
        await doing
    for key, value in metadata.items():
        assert refusal.value.metadata[key] == value
    return refusal.value


@asynchronous
async def test_what_no_rule_speaks_of_is_denied(at: Database) -> None:
    async with engine(at, schema=TEAMS, ruled=True) as on:
        ground = Ground(on)
        await ground.create(KEY, "Silent", "", "a")
        for by, kind in ((STRANGER, Unauthenticated), (ANN, Denied)):
            await refused(ground.get(by, "Silent", "silents/a"), kind)
            await refused(ground.get(by, "Silent", "silents/none"), kind)
            await refused(on.resources.lists.page(by, SILENT, Wanted("", 10)), kind)
            await refused(ground.create(by, "Silent", "", "b"), kind)
            await refused(ground.delete(by, "Silent", "silents/a"), kind)
        assert (await ground.get(KEY, "Silent", "silents/a")).name == "silents/a"


@asynchronous
async def test_a_rule_that_depends_on_no_row_refuses_the_call(at: Database) -> None:
    async with engine(at, schema=TEAMS, ruled=True) as on:
        ground = Ground(on)
        staff = user("sue", "staff")
        await ground.create(staff, "Staff", "", "a")
        assert (await ground.get(staff, "Staff", "staff/a")).name == "staff/a"
        denied = await refused(ground.get(ANN, "Staff", "staff/a"), Denied, action="get", resource="teams.test/Staff")
        assert "staff' in" not in denied.message and denied.reason == "ACCESS_DENIED"
        await refused(ground.get(ANN, "Staff", "staff/none"), Denied)
        await refused(ground.get(STRANGER, "Staff", "staff/a"), Unauthenticated)
        await refused(on.resources.lists.page(ANN, STAFF, Wanted("", 10)), Denied, action="list")
        assert len((await on.resources.lists.page(staff, STAFF, Wanted("", 10))).rows) == 1


@asynchronous
async def test_hidden_is_answered_as_absent(at: Database) -> None:
    async with engine(at, schema=TEAMS, ruled=True) as on:
        ground = Ground(on)
        await ground.team()
        for by in (EVE, STRANGER):
            said = {
                str(await refused(ground.get(by, "Team", name), NotFound)).replace(name, "x")
                for name in ("teams/t", "teams/none")
            }
            assert said == {"x does not exist."}
        for doing in (
            ground.update(EVE, "Team", "teams/t", title="x"),
            ground.update(EVE, "Team", "teams/t", title="x", version='"1"'),
            ground.delete(EVE, "Team", "teams/t"),
            ground.delete(EVE, "Team", "teams/t", etag='"1"'),
            on.resources.lists.page(EVE, DOC, Wanted("teams/t", 10)),
            on.resources.lists.page(EVE, DOC, Wanted("teams/none", 10)),
            ground.create(EVE, "Doc", "teams/t", "d", author="users/eve"),
            ground.create(EVE, "Doc", "teams/none", "d", author="users/eve"),
        ):
            await refused(doing, NotFound)
        assert (await ground.stored("Team", "teams/t")).title == "T"
        await ground.update(ANN, "Team", "teams/t", public=True)
        assert (await ground.get(STRANGER, "Team", "teams/t")).title == "T"
        await refused(ground.update(EVE, "Team", "teams/t", title="x"), Denied, action="update")
        await refused(ground.update(STRANGER, "Team", "teams/t", title="x"), Unauthenticated)


@asynchronous
async def test_who_may_read_but_not_write_is_told_so(at: Database) -> None:
    async with engine(at, schema=TEAMS, ruled=True) as on:
        ground = Ground(on)
        await ground.team()
        assert (await ground.get(BEN, "Team", "teams/t")).title == "T"
        await refused(ground.update(BEN, "Team", "teams/t", title="x"), Denied, action="update")
        await refused(ground.delete(BEN, "Team", "teams/t"), Denied, action="delete")
        await refused(ground.create(BEN, "Member", "teams/t", "eve", role=2), Denied, action="create")
        await refused(ground.update(BEN, "Member", "teams/t/members/ben", role=2), Denied)
        assert (await ground.update(ANN, "Team", "teams/t", title="U")).title == "U"


@asynchronous
async def test_a_create_is_judged_on_what_would_be_stored(at: Database) -> None:
    async with engine(at, schema=TEAMS, ruled=True) as on:
        ground = Ground(on)
        await refused(ground.create(ANN, "Team", "", "x", founder="users/ben"), Denied, action="create")
        await refused(ground.create(user("ann", verified=False), "Team", "", "x", founder="users/ann"), Denied)
        await refused(ground.create(STRANGER, "Team", "", "x", founder=""), Unauthenticated)
        await ground.team()
        # The founder may make themselves a member, nobody else by that way.
        await ground.delete(KEY, "Member", "teams/t/members/ann")
        await refused(
            ground.create(ANN, "Member", "teams/t", "eve", role=2), NotFound
        )  # the team is hidden from her now
        await ground.create(ANN, "Member", "teams/t", "ann", role=2)
        assert at.sql("select count(*) from teams_v1.teams") == [(1,)]


@asynchronous
async def test_an_update_is_judged_on_before_and_after(at: Database) -> None:
    async with engine(at, schema=TEAMS, ruled=True) as on:
        ground = Ground(on)
        await ground.team()
        await ground.create(BEN, "Doc", "teams/t", "d", author="users/ben", shared=True)
        await refused(ground.update(ANN, "Doc", "teams/t/docs/d", author="users/ann"), Denied)  # not hers before
        await refused(ground.update(BEN, "Doc", "teams/t/docs/d", author="users/ann"), Denied)  # not his after
        assert (await ground.update(BEN, "Doc", "teams/t/docs/d", title="x")).title == "x"
        assert (await ground.stored("Doc", "teams/t/docs/d")).author == "users/ben"


@asynchronous
async def test_pages_are_full_and_show_what_may_be_seen_only(at: Database) -> None:
    async with engine(at, schema=TEAMS, ruled=True) as on:
        ground = Ground(on)
        await ground.team()
        for i in range(60):
            await ground.create(ANN, "Doc", "teams/t", f"d{i:02}", author="users/ann", shared=i % 3 == 0)
        for size in (7, 40):
            seen, token, sizes = [], "", []
            while True:
                page = await on.resources.lists.page(BEN, DOC, Wanted("teams/t", size, token))
                seen += [row.name for row in page.rows]
                sizes.append(len(page.rows))
                token = page.next_page_token
                if not token:
                    break
            assert seen == [f"teams/t/docs/d{i:02}" for i in range(0, 60, 3)]
            assert all(n == size for n in sizes[:-1])
        assert len((await on.resources.lists.page(ANN, DOC, Wanted("teams/t", 100))).rows) == 60
        # Several who ask at once share a statement, and each sees their own.
        pages = await asyncio.gather(
            *(on.resources.lists.page(by, DOC, Wanted("teams/t", 100)) for by in (ANN, BEN, KEY, ANN, BEN)),
            on.resources.lists.page(EVE, DOC, Wanted("teams/t", 100)),
            return_exceptions=True,
        )
        assert [len(p.rows) if not isinstance(p, BaseException) else type(p) for p in pages] == [
            60, 20, 60, 60, 20, NotFound,
        ]  # fmt: skip


@asynchronous
async def test_sharing_with_one_person(at: Database) -> None:
    async with engine(at, schema=TEAMS, ruled=True) as on:
        ground = Ground(on)
        await ground.team()
        await ground.create(ANN, "Doc", "teams/t", "d", author="users/ann", readers=["users/eve"])
        assert (await ground.get(EVE, "Doc", "teams/t/docs/d")).author == "users/ann"
        assert [r.name for r in (await on.resources.lists.page(EVE, DOC, Wanted("teams/t", 9))).rows] == [
            "teams/t/docs/d"
        ]
        await refused(ground.get(BEN, "Doc", "teams/t/docs/d"), NotFound)
        await ground.update(ANN, "Doc", "teams/t/docs/d", ["readers"])
        await refused(ground.get(EVE, "Doc", "teams/t/docs/d"), NotFound)


@asynchronous
async def test_a_hidden_field_is_empty_wherever_it_would_be(at: Database) -> None:
    async with engine(at, schema=TEAMS, ruled=True) as on:
        ground = Ground(on)
        await ground.team()
        made = await ground.create(BEN, "Doc", "teams/t", "d", author="users/ben", shared=True, note="n")
        assert made.note == "n"
        assert (await ground.get(BEN, "Doc", "teams/t/docs/d")).note == "n"
        assert (await ground.get(ANN, "Doc", "teams/t/docs/d")).note == ""
        for by, note in ((BEN, "n"), (ANN, ""), (KEY, "n")):
            [row] = (await on.resources.lists.page(by, DOC, Wanted("teams/t", 9))).rows
            assert on.decisions.parse(DOC, row.payload).note == note
        assert (await ground.get(BEN, "Team", "teams/t")).secret == ""
        assert (await ground.get(ANN, "Team", "teams/t")).secret == "s"
        # What events and exports are made of.
        row = await on.records.latest(DOC, "teams/t/docs/d")
        assert isinstance(row, Row)
        shown = await on.resources.access.seen(ANN.caller, DOC, row)
        assert shown is not None and on.decisions.parse(DOC, shown).note == ""
        assert await on.resources.access.seen(EVE.caller, DOC, row) is None


@asynchronous
async def test_a_hidden_field_is_not_overwritten(at: Database) -> None:
    async with engine(at, schema=TEAMS, ruled=True) as on:
        ground = Ground(on)
        await ground.team()
        # Who made it sees the note; who has become its author may change the rest, unseeing.
        await ground.create(BEN, "Doc", "teams/t", "d", author="users/ben", shared=True, note="n")
        await ground.update(KEY, "Doc", "teams/t/docs/d", author="users/ann")
        name = "teams/t/docs/d"
        denied = await refused(ground.update(ANN, "Doc", name, ["note"], note="mine"), Denied, field="note")
        assert "note" in denied.message
        await refused(ground.update(ANN, "Doc", name, None, note="mine"), Denied, field="note")
        await refused(ground.update(ANN, "Doc", name, ["*"], title="t", author="users/ann", note="x"), Denied)
        whole = await ground.update(ANN, "Doc", name, ["*"], title="t", author="users/ann", shared=True)
        assert whole.note == "" and whole.title == "t"
        assert (await ground.stored("Doc", name)).note == "n"


@asynchronous
async def test_a_field_that_one_may_not_write_may_be_sent_unchanged(at: Database) -> None:
    async with engine(at, schema=TEAMS, ruled=True) as on:
        ground = Ground(on)
        billing = user("ann", "billing")
        await refused(ground.create(ANN, "Team", "", "t", founder="users/ann", plan="gold"), Denied, field="plan")
        await ground.create(billing, "Team", "", "t", founder="users/ann", plan="gold")
        await ground.create(ANN, "Member", "teams/t", "ann", role=2)
        assert (await ground.update(ANN, "Team", "teams/t", title="x", plan="gold")).title == "x"
        await refused(ground.update(ANN, "Team", "teams/t", plan="iron"), Denied, field="plan", action="update")
        await refused(ground.update(ANN, "Team", "teams/t", ["plan"]), Denied, field="plan")
        assert (await ground.stored("Team", "teams/t")).plan == "gold"
        assert (await ground.update(billing, "Team", "teams/t", plan="iron")).plan == "iron"


@asynchronous
async def test_the_trusted_are_bound_by_their_scopes(at: Database) -> None:
    async with engine(at, schema=TEAMS, ruled=True) as on:
        ground = Ground(on)
        await ground.team()
        reader = scoped("teams.v1.Team:get", "*:list")
        assert (await ground.get(reader, "Team", "teams/t")).secret == "s"
        assert len((await on.resources.lists.page(reader, MEMBER, Wanted("teams/t", 10))).rows) == 2
        await refused(ground.get(reader, "Member", "teams/t/members/ann"), Denied, action="get")
        await refused(ground.update(reader, "Team", "teams/t", title="x"), Denied, action="update")
        await refused(ground.create(reader, "Team", "", "u"), Denied, action="create")
        await refused(ground.delete(reader, "Team", "teams/t", force=True), Denied, action="delete")
        admin = user("root", "admin")
        assert (await ground.update(admin, "Team", "teams/t", title="x")).title == "x"
        bound = Call(replace(admin.caller, scopes=frozenset({"teams.v1.Team:*"})))
        assert (await ground.get(bound, "Team", "teams/t")).title == "x"
        await refused(on.resources.lists.page(bound, MEMBER, Wanted("teams/t", 10)), Denied)


@asynchronous
async def test_rights_that_end_end_at_once_for_writes(at: Database) -> None:
    """Even where the replica has not heard of it: writes are judged at the primary."""
    async with engine(at, schema=TEAMS, ruled=True, replica=at.replica, lag_max=1000) as on:
        ground = Ground(on)
        await ground.team()
        await ground.create(ANN, "Doc", "teams/t", "d", author="users/ben", shared=True)
        await ground.delete(ANN, "Member", "teams/t/members/ben")
        await refused(ground.update(BEN, "Doc", "teams/t/docs/d", title="2"), NotFound)
        await refused(ground.create(BEN, "Doc", "teams/t", "e", author="users/ben"), NotFound)


@asynchronous
async def test_what_is_judged_is_what_is_written(at: Database) -> None:
    """A document that changes hands between the judgement and the write is not written by who had it."""
    async with engine(at, schema=TEAMS, ruled=True) as on, engine(at, schema=TEAMS, ruled=True) as another:
        ground, elsewhere = Ground(on), Ground(another)
        await ground.team()
        await ground.create(ANN, "Doc", "teams/t", "d", author="users/ann", shared=True)
        write, taken = on.records.write, []

        async def slowly(change: Any) -> Any:
            if change.origin.caller == "users/ann" and not taken:
                taken.append(1)
                await elsewhere.update(KEY, "Doc", "teams/t/docs/d", author="users/ben")
            return await write(change)

        on.records.write = slowly  # type: ignore[method-assign]
        await refused(ground.update(ANN, "Doc", "teams/t/docs/d", title="mine"), Denied)
        assert (await ground.stored("Doc", "teams/t/docs/d")).title == ""
        taken.clear()
        await ground.update(KEY, "Doc", "teams/t/docs/d", author="users/ann")
        await refused(ground.delete(ANN, "Doc", "teams/t/docs/d"), Denied)
        assert (await ground.stored("Doc", "teams/t/docs/d")).author == "users/ben"


@asynchronous
async def test_an_apps_method_reads_all_and_tells_what_its_caller_may_see(at: Database) -> None:
    async with engine(at, schema=TEAMS, ruled=True) as on:
        ground = Ground(on)
        await ground.team()
        for i in range(4):
            await ground.create(ANN, "Doc", "teams/t", f"d{i}", author="users/ann", shared=i % 2 == 0)
        for by, seen in ((ANN, [0, 1, 2, 3]), (BEN, [0, 2]), (EVE, []), (KEY, [0, 1, 2, 3]), (STRANGER, [])):
            work = Work(by, on.resources, None, None)  # type: ignore[arg-type]
            docs = await work.list("teams.v1.Doc", "teams/t")
            assert len(docs) == 4
            assert [doc.name[-1] for doc in await work.visible(docs)] == [str(i) for i in seen]


@asynchronous
async def test_a_stale_etag_is_told_to_readers_only(at: Database) -> None:
    async with engine(at, schema=TEAMS, ruled=True) as on:
        ground = Ground(on)
        await ground.team()
        await refused(ground.update(ANN, "Team", "teams/t", title="x", version='"1"'), Stale)
        await refused(ground.update(BEN, "Team", "teams/t", title="x", version='"1"'), Stale)
        await refused(ground.update(EVE, "Team", "teams/t", title="x", version='"1"'), NotFound)
        await refused(ground.delete(ANN, "Team", "teams/t", etag='"1"'), Stale)


@asynchronous
async def test_allow_missing_does_not_tell_what_is_there(at: Database) -> None:
    async with engine(at, schema=TEAMS, ruled=True) as on:
        ground = Ground(on)
        await ground.team()
        for name in ("teams/t", "teams/none"):
            message = ground.message("Team", name=name, title="x", founder="users/nobody")
            await refused(on.resources.update(EVE, TEAM, message, None, allow_missing=True), NotFound)
        message = ground.message("Team", name="teams/hers", title="x", founder="users/eve")
        await on.resources.update(EVE, TEAM, message, None, allow_missing=True)
        assert (await ground.stored("Team", "teams/hers")).founder == "users/eve"


@asynchronous
async def test_absent_and_hidden_are_alike_where_nothing_could_be_got(at: Database) -> None:
    """Before anything is looked for: by no rule, by one that looks at no row, by a scope."""
    async with engine(at, schema=TEAMS, ruled=True) as on:
        ground = Ground(on)
        await ground.create(KEY, "Silent", "", "a")
        await ground.create(KEY, "Staff", "", "a")
        for kind, first in (("Silent", "silents"), ("Staff", "staff")):
            for by in (ANN, STRANGER, scoped("teams.v1.Team:*")):
                for id in ("a", "none"):
                    refusal = Unauthenticated if by is STRANGER else Denied
                    name = f"{first}/{id}"
                    await refused(ground.get(by, kind, name), refusal)
                    await refused(ground.update(by, kind, name, ["*"]), refusal)
                    await refused(ground.delete(by, kind, name), refusal)
                    await refused(ground.delete(by, kind, name, allow_missing=True), refusal)


@asynchronous
async def test_deleting_what_may_be_missing_does_not_tell_hidden_from_absent(at: Database) -> None:
    async with engine(at, schema=TEAMS, ruled=True) as on:
        ground = Ground(on)
        await ground.team()
        for name in ("teams/t", "teams/none"):
            await ground.delete(EVE, "Team", name, allow_missing=True)
        assert (await ground.stored("Team", "teams/t")).title == "T"
        for by in (EVE, STRANGER):
            for name in ("teams/t/docs/d", "teams/none/docs/d"):
                message = ground.message("Doc", name=name, author="users/eve")
                await refused(on.resources.update(by, DOC, message, None, allow_missing=True), NotFound)


@asynchronous
async def test_a_methods_rule_decides_who_calls_it(at: Database) -> None:
    async with engine(at, schema=TEAMS, ruled=True) as on:
        await Ground(on).team()
        await Ground(on).create(KEY, "Silent", "", "a")
        methods = {m.name: m for m in TEAMS.methods()}
        staff = user("sue", "staff")
        bound = scoped("teams.v1.TouchService:Touch")

        async def call(method: str, by: Call, name: str = "teams/t") -> str:
            request = TEAMS.message_class(methods[method].request)(name=name)
            try:
                await on.resources.access.call(by, methods[method], request)
            except Refusal as refusal:
                return refusal.code.name
            return "OK"

        told = {
            (method, who): await call(method, by)
            for method in ("Touch", "TouchStaff", "TouchAny", "TouchKnown", "TouchNone")
            for who, by in {
                "ann": ANN,
                "ben": BEN,
                "eve": EVE,
                "nobody": STRANGER,
                "staff": staff,
                "key": KEY,
                "bound": bound,
            }.items()
        }
        no, hidden, who = "PERMISSION_DENIED", "NOT_FOUND", "UNAUTHENTICATED"
        people = ("ann", "ben", "eve", "nobody", "staff", "key", "bound")
        wanted = {
            "Touch": ("OK", no, hidden, hidden, hidden, "OK", "OK"),
            "TouchStaff": (no, no, no, who, "OK", "OK", no),
            "TouchAny": ("OK", "OK", "OK", "OK", "OK", "OK", no),
            "TouchKnown": ("OK", "OK", "OK", who, "OK", "OK", no),
            "TouchNone": (no, no, no, who, no, "OK", no),
        }
        assert told == {(m, p): code for m, codes in wanted.items() for p, code in zip(people, codes, strict=True)}
        assert await call("Touch", EVE, "teams/none") == await call("Touch", EVE, "silents/a") == hidden
        assert {await call("TouchSilent", ANN, f"silents/{id}") for id in ("a", "none")} == {no}
        assert {await call("TouchSilent", STRANGER, f"silents/{id}") for id in ("a", "none")} == {who}


@pytest.mark.parametrize("field", ["Note copy = 2;", "map<string, Note> copies = 2;", "Part part = 2;"])
def test_a_copy_of_what_has_hidden_fields_is_refused(field: str) -> None:
    head = 'syntax = "proto3"; package c.v1; import "google/api/resource.proto"; import "transom/schema/v1/options.proto"; '
    note = """message Note { option (google.api.resource) = {type: "c.test/Note" pattern: "notes/{note}"};
      string name = 1; string secret = 2 [(transom.schema.v1.field).read = "owner == caller.name"]; }
      message Part { repeated Note notes = 1; }"""
    page = f"""message Page {{ option (google.api.resource) = {{type: "c.test/Page" pattern: "pages/{{page}}"}};
      string name = 1; {field} }}"""
    with pytest.raises(SchemaError, match="whose fields have rules"):
        rules_of(made_of({"c.proto": head + note + page}))
    rules_of(made_of({"c.proto": head + note}))


@asynchronous
async def test_a_name_that_nothing_has_fails_nobody_else(at: Database) -> None:
    """U+0000, by a stranger, in a read that others' reads go along with."""
    async with engine(at, schema=TEAMS, ruled=True) as on:
        await Ground(on).team()
        method = next(m for m in TEAMS.methods() if m.name == "Touch")
        request = TEAMS.message_class(method.request)(name="teams/a\0b")
        results = await asyncio.gather(
            *(on.resources.access.call(by, method, request) for by in (EVE, STRANGER)),
            *(Ground(on).get(ANN, "Team", "teams/t") for _ in range(10)),
            *(on.records.latest(TEAM, "teams/t") for _ in range(10)),
            return_exceptions=True,
        )
        assert [type(r) for r in results[:2]] == [NotFound, NotFound]
        assert not [r for r in results[2:] if isinstance(r, BaseException) or r is None]


def test_resources_are_found_however_deep_in_a_reply() -> None:
    reply = TEAMS.message_class("teams.v1.TouchReply")()
    reply.shelf.teams.add(name="a")
    reply.shelf.by_name["x"].name = "b"
    reply.shelf.below.below.teams.add(name="c")
    reply.doc.name = "d"
    veils = Veils(reply.DESCRIPTOR, {"teams.v1.Team", "teams.v1.Doc"})
    assert [m.name for m in veils.within(reply)] == ["a", "b", "c", "d"]
    assert [m.name for m in Veils(reply.DESCRIPTOR, {"teams.v1.Doc"}).within(reply)] == ["d"]
    assert list(Veils(reply.DESCRIPTOR, set()).within(reply)) == []
    assert [m.name for m in Veils(reply.doc.DESCRIPTOR, {"teams.v1.Doc"}).within(reply.doc)] == ["d"]


@asynchronous
async def test_nothing_is_judged_away_for_wrong_requests(at: Database) -> None:
    async with engine(at, schema=TEAMS, ruled=True) as on:
        await refused(on.resources.get(EVE, TEAM, "nonsense"), Invalid)
        await refused(on.resources.lists.page(EVE, DOC, Wanted("nonsense", 1)), Invalid)
