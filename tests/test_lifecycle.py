"""A resource's life, through the real edge: soft deletion and what undoes it (AIP-164), purges (AIP-165), expiry (AIP-214),
singletons (AIP-156)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from club_ground import Club, club, schema
from edge_ground import eventually
from library_ground import engine, made_of
from people_ground import Client, Refused

from deploy.native.stack import Stack
from server.apps.work import Work
from server.caller import Caller, Kind
from server.engine.columns import ends
from server.engine.decisions import Decisions
from server.engine.resources import Call
from server.errors import NotFound
from server.store.changes import Origin, Row
from server.store.owned import Owned

GONE, DENIED = Refused("NOT_FOUND", "NOT_FOUND"), Refused("PERMISSION_DENIED", "ACCESS_DENIED")
DELETED = Refused("FAILED_PRECONDITION", "DELETED")
OCCUPIED = Refused("FAILED_PRECONDITION", "HAS_CHILDREN")


@pytest.fixture(scope="module")
def here(components: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Club]:
    with club(components, tmp_path_factory.mktemp("club")) as made:
        yield made


@pytest.fixture(scope="module")
def ada(here: Club) -> Client:
    return here.people.person()


@pytest.fixture(scope="module")
def bob(here: Club) -> Client:
    return here.people.person()


def player(here: Club, who: Client, team: str, id: str) -> str:
    return str(here.call(who, "CreatePlayer", parent=team, playerId=id, player={})["name"])


def time(text: str) -> datetime:
    return datetime.fromisoformat(text)


# ── Deleting and undeleting ─────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_deleted_softly_is_there_and_not_listed(here: Club, ada: Client) -> None:
    team = here.team(ada, "soft", title="t")
    before = here.call(ada, "GetTeam", name=team)
    gone = here.call(ada, "DeleteTeam", name=team)
    assert gone["uid"] == before["uid"] and gone["etag"] != before["etag"] and gone["title"] == "t"
    assert time(gone["purgeTime"]) - time(gone["deleteTime"]) == timedelta(hours=1)
    assert gone["updateTime"] == gone["deleteTime"]
    assert here.rest(ada, "GET", team) == gone  # AIP-164: a Get answers it
    assert team not in [t["name"] for t in here.rest(ada, "GET", "teams").get("teams", ())]
    assert gone in here.rest(ada, "GET", "teams?showDeleted=true")["teams"]
    row = here.at.sql("select _delete_time, _expire_time, delete_time from club_v1.teams where name = %s", team)[0]
    assert row == (time(gone["deleteTime"]), time(gone["purgeTime"]), time(gone["deleteTime"]))
    # It cannot be deleted again, nor changed, and its name is taken.
    assert here.rest(ada, "DELETE", team) == GONE
    assert here.rest(ada, "DELETE", f"{team}?allowMissing=true") == {}
    assert here.rest(ada, "PATCH", team, {"title": "u"}) == DELETED
    assert here.call(ada, "UpdateTeam", team={"name": team, "title": "u"}, allowMissing=True) == DELETED
    assert here.call(ada, "CreateTeam", teamId="soft", team={}) == Refused("ALREADY_EXISTS", "ALREADY_EXISTS")
    back = here.rest(ada, "POST", f"{team}:undelete", {})
    assert back["uid"] == before["uid"] and "deleteTime" not in back and "purgeTime" not in back
    assert back["title"] == "t" and back["etag"] not in (before["etag"], gone["etag"])
    assert here.call(ada, "GetTeam", name=team) == back
    assert here.call(ada, "UndeleteTeam", name=team) == Refused("ALREADY_EXISTS", "NOT_DELETED")
    assert here.events(team) == ["created", "deleted", "undeleted"]
    assert here.at.sql("select _delete_time, _expire_time from club_v1.teams where name = %s", team) == [(None, None)]


def test_etags_and_rehearsals(here: Club, ada: Client) -> None:
    team = here.team(ada, "etags")
    etag = here.call(ada, "GetTeam", name=team)["etag"]
    stale = Refused("ABORTED", "STALE_ETAG")
    assert "deleteTime" in here.call(ada, "DeleteTeam", name=team, validateOnly=True)
    assert here.call(ada, "DeleteTeam", name=team, etag="1") == stale
    gone = here.call(ada, "DeleteTeam", name=team, etag=etag)
    assert here.call(ada, "UndeleteTeam", name=team, etag=etag) == stale
    assert "deleteTime" not in here.call(ada, "UndeleteTeam", name=team, validateOnly=True)
    assert here.call(ada, "GetTeam", name=team) == gone
    once = {"etag": gone["etag"], "requestId": "0d9cb7b3-7d4f-4f3b-8a1d-3f8c1f2c9a11"}
    back = here.call(ada, "UndeleteTeam", name=team, **once)
    assert here.call(ada, "UndeleteTeam", name=team, **once) == back  # the same request, not another one
    assert here.events(team) == ["created", "deleted", "undeleted"]


def test_who_may_delete_may_undelete(here: Club, ada: Client, bob: Client) -> None:
    public, hidden = here.team(ada, "public", public=True, secret="s"), here.team(ada, "hidden")
    for team in (public, hidden):
        here.call(ada, "DeleteTeam", name=team)
    assert here.call(bob, "UndeleteTeam", name=public) == DENIED
    assert here.call(bob, "UndeleteTeam", name=hidden) == GONE == here.call(bob, "UndeleteTeam", name="teams/none")
    assert here.call(bob, "DeleteTeam", name=public) == DENIED
    seen = here.call(bob, "GetTeam", name=public)
    assert "deleteTime" in seen and "secret" not in seen
    shown = here.rest(bob, "GET", "teams?showDeleted=true")["teams"]
    assert public in [t["name"] for t in shown] and hidden not in [t["name"] for t in shown]
    assert here.call(here.people.nobody, "UndeleteTeam", name=hidden).code in ("UNAUTHENTICATED", "NOT_FOUND")
    assert here.events(public) == ["created", "deleted"]


def test_a_tree_is_deleted_and_undeleted_as_one(here: Club, ada: Client) -> None:
    team = here.team(ada, "tree")
    first, second = player(here, ada, team, "first"), player(here, ada, team, "second")
    badge = here.call(ada, "CreateBadge", parent=team, badgeId="b", badge={})["name"]
    here.call(ada, "DeletePlayer", name=first)  # before, and by itself
    assert here.call(ada, "DeleteTeam", name=team) == OCCUPIED
    gone = here.call(ada, "DeleteTeam", name=team, force=True)
    mate = here.call(ada, "GetPlayer", name=second)
    assert mate["deleteTime"] == gone["deleteTime"] and "expireTime" in mate
    assert here.call(ada, "ListPlayers", parent=team) == {}
    assert (
        here.call(ada, "GetBadge", name=badge)["name"] == badge
    )  # it cannot be marked, so it stays until the team goes
    # Nothing is put there, and nothing comes back there, while the team is deleted.
    assert here.call(ada, "CreatePlayer", parent=team, playerId="third", player={}) == GONE
    assert here.call(ada, "CreateBadge", parent=team, badgeId="c", badge={}) == GONE
    assert here.call(ada, "UndeletePlayer", name=second) == Refused("FAILED_PRECONDITION", "PARENT_DELETED")
    here.call(ada, "UndeleteTeam", name=team)
    assert [p["name"] for p in here.call(ada, "ListPlayers", parent=team)["players"]] == [second]
    assert "deleteTime" in here.call(ada, "GetPlayer", name=first)
    assert here.events(second) == ["created", "deleted", "undeleted"] and here.events(first) == ["created", "deleted"]
    assert here.call(ada, "UndeletePlayer", name=first)["name"] == first


def test_what_is_deleted_below_does_not_keep_a_team(here: Club, ada: Client) -> None:
    team = here.team(ada, "emptied")
    mate = player(here, ada, team, "p")
    here.call(ada, "DeletePlayer", name=mate)
    assert "deleteTime" in here.call(ada, "DeleteTeam", name=team)
    here.call(ada, "UndeleteTeam", name=team)
    assert "deleteTime" in here.call(ada, "GetPlayer", name=mate)


def test_a_deletion_may_answer_what_is_gone(here: Club, ada: Client) -> None:
    team = here.team(ada, "answers")
    badge = here.call(ada, "CreateBadge", parent=team, badgeId="b", badge={"title": "gold"})
    assert here.rest(ada, "DELETE", badge["name"]) == badge
    assert here.rest(ada, "GET", badge["name"]) == GONE


# ── Going for good ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_cannot_be_undeleted_any_more_goes_with_all_below(here: Club, ada: Client) -> None:
    team = here.team(ada, "swept")
    mate = player(here, ada, team, "p")
    badge = here.call(ada, "CreateBadge", parent=team, badgeId="b", badge={})["name"]
    here.call(ada, "UpdateSettings", settings={"name": f"{team}/settings", "size": 1})
    uid = here.call(ada, "DeleteTeam", name=team, force=True)["uid"]
    here.swept()
    assert here.names("teams", team) == [team]  # its time has not come
    here.aged("teams", team)
    assert here.swept(times=3) > 0
    assert here.names("teams", team) == here.names("players", team) == here.names("settings", team) == []
    assert here.events(team)[-1] == "purged"
    assert [here.events(n)[-1] for n in (mate, badge, f"{team}/settings")] == ["deleted"] * 3
    assert here.call(ada, "UndeleteTeam", name=team) == GONE
    assert here.call(ada, "GetTeam", name=here.team(ada, "swept"))["uid"] != uid


def test_many_that_sweep_at_once_sweep_all_of_it_once(here: Club, ada: Client) -> None:
    here.at.sql(
        "insert into club_v1.tickets (name, _parent, _uid, _owner, _version, _create_time, _update_time, _payload, _expire_time)"
        " select 'tickets/many' || i, '', gen_random_uuid(), 'users/x', 1, now(), now(), ''::bytea, now()"
        " from generate_series(1, 450) i"
    )
    assert here.swept(times=4) == 450
    assert here.names("tickets", "tickets/many") == []
    [[count]] = here.at.sql("select count(*) from transom.events where name like 'tickets/many%%' and verb = 'expired'")
    assert count == 450


@pytest.mark.parametrize("broken", ["before", "after"])
def test_a_sweep_that_dies_is_gone_on_with(here: Club, ada: Client, broken: str) -> None:
    """What a bite has not committed is not removed, and no event says so."""
    ticket = here.call(ada, "CreateTicket", ticketId=f"dies-{broken}", ticket={"ttl": "60s"})["name"]
    here.aged("tickets", ticket)
    when, what = (
        ("before", "delete on club_v1.tickets") if broken == "before" else ("after", "insert on transom.events")
    )
    here.at.sql(
        "create function public.die() returns trigger language plpgsql as $$ begin"
        " perform pg_terminate_backend(pg_backend_pid()); return null; end $$"
    )
    here.at.sql(f"create trigger die {when} {what} for each statement execute function public.die()")
    with pytest.raises(Exception, match=r"."):
        here.swept()
    assert here.names("tickets", ticket) == [ticket] and here.events(ticket) == ["created"]
    here.at.sql("drop function public.die cascade")
    assert here.swept() == 1 and here.events(ticket) == ["created", "expired"]


def test_a_hard_deletion_that_is_repeated_is_answered_again(here: Club, ada: Client, bob: Client) -> None:
    team = here.team(ada, "badges", public=True)
    badge = here.call(ada, "CreateBadge", parent=team, badgeId="b", badge={"title": "t"})["name"]
    first = here.call(ada, "DeleteBadge", name=badge, requestId="delete-badge")
    assert first["title"] == "t"
    assert here.call(ada, "DeleteBadge", name=badge, requestId="delete-badge") == first
    assert here.call(ada, "DeleteBadge", name=badge, requestId="another") == GONE
    assert here.call(bob, "DeleteBadge", name=badge, requestId="delete-badge") == GONE
    assert here.events(badge) == ["created", "deleted"]


# ── Purging ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_purge_says_first_what_it_would_do(here: Club, ada: Client, bob: Client) -> None:
    mine = [here.team(ada, f"purge{i}", title="purge", public=True) for i in range(3)]
    other = here.team(bob, "purge-other", title="purge", public=True)
    player(here, ada, mine[0], "p")
    here.call(ada, "DeleteTeam", name=mine[1])
    assert here.rest(ada, "POST", "teams:purge", {"force": True}) == Refused(
        "INVALID_ARGUMENT", "INVALID_REQUEST", ("filter",)
    )
    said = here.rest(ada, "POST", "teams:purge", {"filter": 'title = "purge"'})
    assert said["done"] and said["response"]["purgeCount"] == 3 and said["response"]["purgeSample"] == mine
    assert set(here.names("teams", "teams/purge")) == {other, *mine}
    done = here.rest(ada, "POST", "teams:purge", {"filter": 'title = "purge"', "force": True})
    assert done["response"]["purgeCount"] == 3 and "purgeSample" not in done["response"]
    assert here.names("teams", "teams/purge") == [other] and here.names("players", mine[0]) == []
    assert here.events(mine[1])[-1] == here.events(mine[0])[-1] == "purged"


def test_a_purge_finds_nothing_by_what_is_hidden(here: Club, ada: Client, bob: Client) -> None:
    here.team(ada, "quiet", public=True, secret="needle")
    found = here.rest(bob, "POST", "teams:purge", {"filter": 'secret = "needle"'})
    assert found["response"].get("purgeCount", 0) == 0
    found = here.rest(ada, "POST", "teams:purge", {"filter": 'secret = "needle"'})
    assert found["response"]["purgeCount"] == 1


def test_a_purge_of_many_below_any_parent(here: Club, ada: Client, bob: Client) -> None:
    team = here.team(ada, "many")
    here.at.sql(
        "insert into club_v1.players (name, _parent, _uid, _owner, _version, _create_time, _update_time, _payload)"
        " select n, %s, gen_random_uuid(), %s, 1, now(), now(),"
        " '\\x0a'::bytea || set_byte('\\x00'::bytea, 0, octet_length(n)) || n::bytea"
        " from (select %s || '/players/p' || i as n from generate_series(1, 450) i) as names",
        team,
        ada.user,
        team,
    )
    assert here.call(bob, "PurgePlayers", parent=team, filter="*", force=True) == {}  # they are not Bob's to delete
    said = here.call(ada, "PurgePlayers", parent=team, filter="*")
    assert said["purgeCount"] == 450 and len(said["purgeSample"]) == 100
    assert here.call(ada, "PurgePlayers", parent="teams/-", filter="*", force=True)["purgeCount"] >= 450
    assert here.names("players", team) == []


def test_a_purge_that_is_cut_off_has_purged_so_much(here: Club, ada: Client) -> None:
    """It answers an operation, and yet what it does is committed bite by bite."""
    here.at.sql(
        "insert into club_v1.teams (name, _parent, _uid, _owner, _version, _create_time, _update_time, _payload)"
        " select n, '', gen_random_uuid(), %s, 1, now(), now(),"
        " '\\x0a'::bytea || set_byte('\\x00'::bytea, 0, octet_length(n)) || n::bytea"
        " from (select 'teams/bite' || lpad(i::text, 3, '0') as n from generate_series(1, 250) i) as names",
        ada.user,
    )
    everything = {"filter": 'name = "teams/bite*"', "force": True}
    with psycopg.connect(here.at.postgres) as other, ThreadPoolExecutor(1) as calling:
        other.execute("select from club_v1.teams where name = 'teams/bite250' for update")
        purging = calling.submit(here.rest, ada, "POST", "teams:purge", everything)
        eventually(lambda: len(here.names("teams", "teams/bite")) == 50 or purging.done())
        assert not purging.done()
        assert here.at.sql("select count(*) from transom.operations where caller = %s and not done", ada.user) == [(0,)]
        other.rollback()
        assert purging.result()["response"]["purgeCount"] == 250
    assert here.names("teams", "teams/bite") == []


# ── Expiring ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_ticket_expires_when_it_was_said(here: Club, ada: Client) -> None:
    begun = datetime.now(UTC)
    ticket = here.rest(ada, "POST", "tickets?ticketId=ttl", {"title": "t", "ttl": "90s"})
    assert "ttl" not in ticket  # AIP-214: the time is always told, and never its length
    assert timedelta(seconds=89) < time(ticket["expireTime"]) - begun < timedelta(seconds=120)
    changed = here.rest(ada, "PATCH", ticket["name"], {"title": "u"})
    assert changed["expireTime"] == ticket["expireTime"]
    later = here.rest(ada, "PATCH", ticket["name"], {"ttl": "9000s"})
    assert time(later["expireTime"]) > time(ticket["expireTime"]) and later["title"] == "u"
    assert here.at.sql("select _expire_time from club_v1.tickets where name = %s", ticket["name"]) == [
        (time(later["expireTime"]),)
    ]
    assert here.swept() == 0
    here.aged("tickets", ticket["name"])
    assert here.rest(ada, "GET", ticket["name"]) == later  # until it is swept
    assert here.swept() == 1
    assert here.rest(ada, "GET", ticket["name"]) == GONE
    assert here.events(ticket["name"]) == ["created", "updated", "updated", "expired"]


PAST = {"expireTime": "2020-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("said", "field"),
    [(PAST, "expire_time"), ({"ttl": "0s"}, "ttl"), ({"ttl": "-5s"}, "ttl"), ({"ttl": "315576000000s"}, "ttl")],
)
def test_what_is_over_cannot_begin(here: Club, ada: Client, said: dict[str, Any], field: str) -> None:
    refused = Refused("INVALID_ARGUMENT", "INVALID_REQUEST", (f"ticket.{field}",))
    assert here.call(ada, "CreateTicket", ticketId="over", ticket=said) == refused
    ticket = here.call(ada, "CreateTicket", ticket={})["name"]
    assert here.call(ada, "UpdateTicket", ticket={"name": ticket} | said) == refused
    assert here.at.sql("select _expire_time from club_v1.tickets where name = %s", ticket) == [(None,)]


def test_a_time_can_be_taken_away_again(here: Club, ada: Client) -> None:
    ticket = here.call(ada, "CreateTicket", ticket={"expireTime": "2100-01-01T00:00:00Z"})
    assert ticket["expireTime"] == "2100-01-01T00:00:00Z"
    changed = here.call(ada, "UpdateTicket", ticket={"name": ticket["name"]}, updateMask="expireTime")
    assert "expireTime" not in changed
    assert here.at.sql("select _expire_time from club_v1.tickets where name = %s", ticket["name"]) == [(None,)]


# ── Singletons ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_singleton_is_there_because_its_parent_is(here: Club, ada: Client, bob: Client) -> None:
    team = here.team(ada, "one", public=True)
    name = f"{team}/settings"
    implied = here.rest(ada, "GET", name)
    assert implied == {"name": name, "color": "red", "etag": "0"}
    assert here.names("settings", team) == []
    assert here.rest(ada, "GET", "teams/none/settings") == GONE
    assert here.rest(bob, "GET", name) == implied
    assert here.rest(bob, "PATCH", name, {"size": 2}) == DENIED  # it belongs to who owns the team
    assert here.call(ada, "UpdateSettings", settings={"name": name, "size": 2, "etag": "7"}) == Refused(
        "ABORTED", "STALE_ETAG"
    )
    made = here.call(ada, "UpdateSettings", settings={"name": name, "size": 2, "key": "k", "etag": "0"})
    assert (made["size"], made["color"], made["key"]) == (2, "red", "k") and made["uid"] and made["etag"] != "0"
    assert here.rest(ada, "GET", name) == made
    assert "key" not in here.rest(bob, "GET", name)
    changed = here.rest(ada, "PATCH", name, {"color": "blue"})
    assert (changed["size"], changed["color"], changed["uid"]) == (2, "blue", made["uid"])
    assert here.events(name) == ["created", "updated"]
    assert here.at.sql("select _owner from club_v1.settings where name = %s", name) == [(ada.user,)]


def test_a_singleton_of_what_is_hidden_is_hidden(here: Club, ada: Client, bob: Client) -> None:
    team = here.team(ada, "alone")
    assert here.rest(bob, "GET", f"{team}/settings") == GONE
    assert here.rest(bob, "PATCH", f"{team}/settings", {"size": 1}) == GONE
    assert here.names("settings", team) == []


# ── Without a caller ────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_deleted_and_what_was_goes_with_the_account(here: Club, ada: Client) -> None:
    """By the statements that remove what an account owns."""
    gone = here.people.person()
    team = here.team(gone, "owned")
    here.call(gone, "UpdateSettings", settings={"name": f"{team}/settings", "size": 1})
    here.call(gone, "DeleteTeam", name=team)
    statute = here.call(gone, "CreateStatute", statuteId="owned", statute={"text": "t"})["name"]

    async def remove() -> None:
        async with engine(here.at, schema=schema()) as on:
            owned = Owned(on.schema, on.pool)
            for message in ("Team", "Statute"):
                resource = on.schema.resources[f"club.v1.{message}"]
                names = await owned.names(resource, gone.user)
                assert len(names) == 1 and await owned.remove(resource, names, Origin()) == []

    asyncio.run(asyncio.wait_for(remove(), 30))
    assert [here.names(t, team) for t in ("teams", "settings")] == [[], []]
    assert here.names("revisions", statute) == [] and here.events(f"{team}/settings")[-1] == "deleted"


def test_an_apps_own_code_deletes_as_callers_do(here: Club, ada: Client) -> None:
    team = here.team(ada, "worked")

    async def act(verb: str) -> Any:
        async with engine(here.at, schema=schema()) as on:
            work = Work(Call(Caller(Kind.USER, ada.user)), on.resources, None, None)  # type: ignore[arg-type]
            message = await work.get(team)
            made = getattr(work, verb)(message)
            await work.commit()
            return made

    asyncio.run(asyncio.wait_for(act("delete"), 30))
    assert "deleteTime" in here.call(ada, "GetTeam", name=team)
    with pytest.raises(NotFound):
        asyncio.run(asyncio.wait_for(act("delete"), 30))
    assert not asyncio.run(asyncio.wait_for(act("undelete"), 30)).HasField("delete_time")
    assert "deleteTime" not in here.call(ada, "GetTeam", name=team)
    assert here.events(team) == ["created", "deleted", "undeleted"]


def test_nothing_alive_is_left_below_what_is_deleted(here: Club, ada: Client) -> None:
    """Whoever makes something below a team while that is deleted comes before it, and goes with it, or after, and is refused."""
    team = here.team(ada, "race")

    def make(i: int) -> Any:
        if i == 6:
            return here.call(ada, "DeleteTeam", name=team, force=True)
        return here.call(ada, "CreatePlayer", parent=team, playerId=f"p{i}", player={})

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(make, range(12)))
    gone = answers.pop(6)
    assert gone["deleteTime"]
    assert all("name" in one if isinstance(one, dict) else one == GONE for one in answers)
    made = [here.call(ada, "GetPlayer", name=one["name"]) for one in answers if isinstance(one, dict)]
    assert {one["deleteTime"] for one in made} <= {gone["deleteTime"]}
    here.call(ada, "UndeleteTeam", name=team)
    alive = here.call(ada, "ListPlayers", parent=team).get("players", [])
    assert len(alive) == len(made) and not any("deleteTime" in one for one in alive)


def test_what_is_deleted_goes_when_it_would_have_expired() -> None:
    """Of a resource that is deleted softly and expires, whichever is first."""
    text = """syntax = "proto3"; package p;
    import "google/api/resource.proto"; import "google/protobuf/timestamp.proto"; import "transom/schema/v1/options.proto";
    service S { rpc UndeleteThing(UndeleteThingRequest) returns (Thing); }
    message UndeleteThingRequest { string name = 1; }
    message Thing {
      option (google.api.resource) = {type: "p.test/Thing" pattern: "things/{thing}"};
      option (transom.schema.v1.resource) = {retention: {seconds: 60} expires: true};
      string name = 1;
      google.protobuf.Timestamp delete_time = 2;
      google.protobuf.Timestamp purge_time = 3;
      google.protobuf.Timestamp expire_time = 4;
    }"""
    found = made_of({"p/p.proto": text})
    resource = found.resources["p.Thing"]
    assert (resource.retention, resource.expires) == (60, True)
    decisions = Decisions(found, lambda: 100_000_000)
    at = "1970-01-01T00:0{}Z".format

    def made(**times: int) -> Any:
        message = decisions.implied(resource, "things/t")
        for field, seconds in times.items():
            getattr(message, field).FromSeconds(seconds)
        return message

    def row(message: Any) -> Row:
        return Row("things/t", message.SerializeToString(), 7, "users/ada")

    assert ends(resource, made()) == (None, None)
    assert ends(resource, made(expire_time=130)) == (None, at("2:10"))
    for expires, goes in ((130, "2:10"), (300, "2:40")):
        marked = decisions.marked(resource, row(made(expire_time=expires)), 100_000_000, Origin())
        assert marked.values[-2:] == (at("1:40"), at(goes))
        back = decisions.unmarked(resource, Row("things/t", marked.payload, 8, ""), Origin())
        assert back.values[-2:] == (None, at(f"{expires // 60}:{expires % 60:02}"))
        with pytest.raises(NotFound):
            decisions.deleted(resource, Row("things/t", marked.payload, 8, ""), force=False, origin=Origin())
