"""Revisions (AIP-162), through the real edge: one for each change, bounded, rolled back to, and never telling what is hidden."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from club_ground import Club, club
from people_ground import Client, Refused

from deploy.native.stack import Stack

GONE, DENIED = Refused("NOT_FOUND", "NOT_FOUND"), Refused("PERMISSION_DENIED", "ACCESS_DENIED")


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


def statute(here: Club, who: Client, *texts: str, **fields: Any) -> str:
    """The name of a new statute that had these texts, one after another."""
    made = here.call(who, "CreateStatute", statuteId=f"s{secrets.token_hex(5)}", statute={"text": texts[0]} | fields)
    for text in texts[1:]:
        here.call(who, "UpdateStatute", statute={"name": made["name"], "text": text}, updateMask="text")
    return str(made["name"])


def revisions(here: Club, who: Client, name: str, **asked: Any) -> list[dict[str, Any]]:
    answer = here.call(who, "ListStatuteRevisions", parent=name, **asked)
    return list(answer.get("revisions", ()))


def texts(found: list[dict[str, Any]]) -> list[str]:
    return [one["snapshot"]["text"] for one in found]


def test_each_change_leaves_a_revision_and_the_last_are_kept(here: Club, ada: Client) -> None:
    name = statute(here, ada, "one", "two")
    found = revisions(here, ada, name)
    assert texts(found) == ["two", "one"]  # the newest first
    assert found[0]["snapshot"] == here.call(ada, "GetStatute", name=name)
    assert all(one["name"].startswith(f"{name}/revisions/r") and one["createTime"] for one in found)
    assert here.rest(ada, "GET", found[1]["name"])["snapshot"]["text"] == "one"
    assert here.call(ada, "UpdateStatute", statute={"name": name, "text": "two"})["text"] == "two"
    assert len(revisions(here, ada, name)) == 2  # nothing was changed
    for text in ("three", "four", "five"):
        here.call(ada, "UpdateStatute", statute={"name": name, "text": text})
    assert texts(revisions(here, ada, name)) == ["five", "four", "three"]
    assert here.events(found[1]["name"]) == ["created", "deleted"]
    assert texts(revisions(here, ada, name, pageSize=2)) == ["five", "four"]


def test_a_refused_change_leaves_none(here: Club, ada: Client, bob: Client) -> None:
    name = statute(here, ada, "one", author="ada")
    assert here.call(bob, "UpdateStatute", statute={"name": name, "text": "two"}) == DENIED
    assert here.call(ada, "UpdateStatute", statute={"name": name, "text": "two", "etag": "1"}).reason == "STALE_ETAG"
    id = name.rpartition("/")[2]
    assert here.call(ada, "CreateStatute", statuteId=id, statute={"text": "again"}).reason == "ALREADY_EXISTS"
    assert texts(revisions(here, ada, name)) == ["one"]


def test_changes_at_once_leave_one_each(here: Club, ada: Client) -> None:
    name = statute(here, ada, "begin")

    def change(i: int) -> Any:
        return here.call(ada, "UpdateStatute", statute={"name": name, "text": f"t{i}"}, updateMask="text")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(change, range(8)))
    assert all(not isinstance(one, Refused) for one in answers)
    versions = sorted((int(one["etag"], 16) for one in answers), reverse=True)
    found = revisions(here, ada, name)
    assert [int(one["snapshot"]["etag"], 16) for one in found] == versions[:3]
    [[count]] = here.at.sql("select count(*) from transom.events where name like %s and verb = 'created'", f"{name}/%")
    assert count == 9


def test_rolling_back_is_one_more_change(here: Club, ada: Client, bob: Client) -> None:
    name = statute(here, ada, "one", "two", draft="d", author="ada")
    first = revisions(here, ada, name)[1]["name"]
    etag = here.call(ada, "GetStatute", name=name)["etag"]
    assert here.call(bob, "/club.v1.ClubService/RollbackStatute", name=first) == DENIED
    assert here.rest(ada, "POST", f"{first}:rollback", {"etag": "1"}).reason == "STALE_ETAG"
    made = here.rest(ada, "POST", f"{first}:rollback", {"etag": etag})
    now = here.call(ada, "GetStatute", name=name)
    assert made["snapshot"] == now and now["text"] == "one" and now["etag"] != etag and now["draft"] == "d"
    assert revisions(here, ada, name)[0]["name"] == made["name"] != first
    assert here.events(name) == ["created", "updated", "updated"]
    # As it was said before revisions were resources: the statute is answered.
    classic = "/club.v1.ClassicService/RollbackStatute"
    second = texts(revisions(here, ada, name)).index("two")
    id = revisions(here, ada, name)[second]["name"].rpartition("/")[2]
    assert here.call(ada, classic, name=name, revisionId=id)["text"] == "two"
    assert here.call(ada, classic, name=name, revisionId="none") == GONE
    assert here.call(ada, classic, name=name, revisionId="a/b") == Refused(
        "INVALID_ARGUMENT", "INVALID_REQUEST", ("revision_id",)
    )
    assert here.call(ada, classic, name=name).fields == ("revision_id",)


def test_a_snapshot_hides_what_its_resource_hides(here: Club, ada: Client, bob: Client) -> None:
    name = statute(here, ada, "one", draft="secret draft")
    [mine] = revisions(here, ada, name)
    assert mine["snapshot"]["draft"] == "secret draft"
    [theirs] = revisions(here, bob, name)
    assert theirs["snapshot"] == {k: v for k, v in mine["snapshot"].items() if k != "draft"}
    assert "draft" not in here.rest(bob, "GET", mine["name"])["snapshot"]
    # Nor is it found, or told by an order and the token of a page.
    assert revisions(here, ada, name, filter='snapshot.draft = "nothing"') == []
    assert revisions(here, bob, name, filter='snapshot.draft = "secret draft"') == []
    assert revisions(here, bob, name, filter='snapshot.draft:"*"') == []
    here.call(ada, "UpdateStatute", statute={"name": name, "draft": "other draft"})
    page = here.call(bob, "ListStatuteRevisions", parent=name, orderBy="snapshot.draft", pageSize=1)
    rest = here.call(
        bob, "ListStatuteRevisions", parent=name, orderBy="snapshot.draft", pageSize=1, pageToken=page["nextPageToken"]
    )
    assert len({page["revisions"][0]["name"], rest["revisions"][0]["name"]}) == 2
    # Nor where a revision is changed, or made.
    changed = here.call(bob, "UpdateStatuteRevision", statuteRevision={"name": mine["name"], "label": "good"})
    assert changed["label"] == "good" and "draft" not in changed["snapshot"]
    made = here.call(bob, "CreateStatuteRevision", parent=name, statuteRevision={"label": "mine"})
    assert made["snapshot"]["text"] == "one" and "draft" not in made["snapshot"]
    assert here.call(ada, "GetStatuteRevision", name=made["name"])["snapshot"]["draft"] == "other draft"


def test_nobody_says_what_a_snapshot_was(here: Club, ada: Client) -> None:
    name = statute(here, ada, "one")
    forged = {"snapshot": {"text": "forged"}, "label": "x"}
    made = here.call(ada, "CreateStatuteRevision", parent=name, revisionId="v1.0", statuteRevision=forged)
    assert made["name"] == f"{name}/revisions/v1.0" and made["snapshot"]["text"] == "one"
    changed = here.call(ada, "UpdateStatuteRevision", statuteRevision={"name": made["name"]} | forged, updateMask="*")
    assert changed["snapshot"]["text"] == "one"
    for text in ("two", "three", "four", "five"):
        here.call(ada, "UpdateStatute", statute={"name": name, "text": text})
    assert texts(revisions(here, ada, name)) == ["five", "four", "three", "one"]  # those with an id of their own stay
    assert here.rest(ada, "POST", f"{made['name']}:rollback", {})["snapshot"]["text"] == "one"
    assert here.call(ada, "CreateStatuteRevision", parent="statutes/none", statuteRevision={}) == GONE


def test_revisions_go_with_their_resource(here: Club, ada: Client) -> None:
    name = statute(here, ada, "one", "two")
    [second, first] = [one["name"] for one in revisions(here, ada, name)]
    assert here.rest(ada, "DELETE", name) == {}
    assert here.names("revisions", name) == []
    assert here.events(first) == here.events(second) == ["created", "deleted"]
    assert here.rest(ada, "GET", first) == GONE
