"""Batches, over both roads: each request as if it was asked alone, and all of them or none."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from depot_ground import ROADS, Depot, depot
from people_ground import Client, Refused

from deploy.native.stack import Stack


@pytest.fixture(scope="module")
def here(components: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Depot]:
    with depot(components, tmp_path_factory.mktemp("depot")) as made:
        yield made


@pytest.fixture(scope="module")
def ada(here: Depot) -> Client:
    return here.people.person()


@pytest.fixture(scope="module")
def bob(here: Depot) -> Client:
    return here.people.person()


@pytest.fixture
def store(here: Depot, ada: Client) -> str:
    return here.store(ada)


def titles(answer: Any) -> list[str]:
    assert isinstance(answer, dict), answer
    return [item["title"] for item in answer.get("items", [])]


def ids(store: str, *ids: str) -> list[str]:
    return [f"{store}/items/{id}" for id in ids]


# ── BatchGet ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("road", ROADS)
def test_items_come_in_the_order_of_their_names_as_often_as_they_are_named(
    here: Depot, ada: Client, store: str, road: str
) -> None:
    for id in "abc":
        here.item(ada, store, id, title=id, cost=7)
    answer = here.ask(ada, road, "BatchGetItems", parent=store, names=ids(store, "c", "a", "c", "b"))
    assert titles(answer) == ["c", "a", "c", "b"]
    assert {item["cost"] for item in answer["items"]} == {"7"}
    few = here.ask(ada, road, "BatchGetItems", parent=store, names=ids(store, "a"), readMask="title")
    assert few == {"items": [{"title": "a"}]}


@pytest.mark.parametrize("road", ROADS)
def test_what_is_hidden_is_answered_as_what_is_not_there(
    here: Depot, ada: Client, bob: Client, store: str, road: str
) -> None:
    here.item(ada, store, "open", public=True, cost=7)
    here.item(ada, store, "closed")
    [shown] = here.ask(bob, road, "BatchGetItems", parent=store, names=ids(store, "open"))["items"]
    assert "cost" not in shown  # a field with a rule of its own
    for other in ("closed", "none"):
        refused = here.ask(bob, road, "BatchGetItems", parent=store, names=ids(store, "open", other))
        assert refused == Refused("NOT_FOUND", "NOT_FOUND")
        assert dict(refused.metadata)["names"] == f"{store}/items/{other}"
    both = here.ask(bob, road, "BatchGetItems", parent=store, names=ids(store, "none", "open", "closed"))
    assert dict(both.metadata)["count"] == "2"
    assert both.message.startswith(f"{store}/items/none, {store}/items/closed ")


@pytest.mark.parametrize("road", ROADS)
def test_names_must_be_names_below_the_parent(here: Depot, ada: Client, store: str, road: str) -> None:
    other = here.store(ada)
    for place in (store, other):
        here.item(ada, place, "a", title=place)
    names = ids(store, "a") + ids(other, "a")
    assert titles(here.ask(ada, road, "BatchGetItems", parent="stores/-", names=names)) == [store, other]
    refused = here.ask(ada, road, "BatchGetItems", parent=store, names=names)
    assert refused == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("names[1]",))
    assert here.ask(ada, road, "BatchGetItems", parent=store, names=["stores/x"]).fields == ("names[0]",)
    assert here.ask(ada, road, "BatchGetItems", parent=store).fields == ("names",)


def test_a_thousand_are_read_at_once_and_no_more(here: Depot, ada: Client, store: str) -> None:
    requests = [{"itemId": f"i{i}", "item": {"title": str(i)}} for i in range(500)]
    made = here.ask(ada, "gRPC", "BatchCreateItems", parent=store, requests=requests)
    assert titles(made) == [str(i) for i in range(500)]
    names = ids(store, *(f"i{i}" for i in range(500)))
    found = here.ask(ada, "gRPC", "BatchGetItems", parent=store, names=[*names, *names[::-1]])
    assert titles(found) == [str(i) for i in [*range(500), *range(499, -1, -1)]]
    assert here.ask(ada, "gRPC", "BatchGetItems", names=names * 3).fields == ("names",)


def test_an_answer_has_its_bounds(here: Depot, ada: Client, store: str) -> None:
    large = "x" * 400_000
    for id in "abcdefgh":
        here.item(ada, store, id, sku=large)
    names = ids(store, *"abcdefgh")
    assert here.ask(ada, "gRPC", "BatchGetItems", names=names).reason == "ANSWER_TOO_LARGE"
    assert len(here.ask(ada, "gRPC", "BatchGetItems", names=names[:7])["items"]) == 7
    changes = [{"item": {"name": name, "stock": 1}} for name in names]
    assert here.ask(ada, "gRPC", "BatchUpdateItems", requests=changes).reason == "ANSWER_TOO_LARGE"
    assert {here.events(name)[-1] for name in names} == {"created"}  # nothing was done


# ── BatchCreate ─────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("road", ROADS)
def test_what_is_created_is_answered_in_order_and_told_in_order(
    here: Depot, ada: Client, store: str, road: str
) -> None:
    requests = [{"itemId": id, "item": {"title": id, "total": 9}} for id in "cab"] + [{"item": {"title": "fresh"}}]
    answer = here.ask(ada, road, "BatchCreateItems", parent=store, requests=requests)
    assert titles(answer) == ["c", "a", "b", "fresh"]
    assert [item["name"] for item in answer["items"]][:3] == ids(store, "c", "a", "b")
    assert not any("total" in item for item in answer["items"])  # OUTPUT_ONLY, as alone
    told = here.at.sql("select name from transom.events where name like %s order by id", f"{store}/items/%")
    assert [name for (name,) in told] == [item["name"] for item in answer["items"]]


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize(
    ("bad", "code", "field"),
    [
        ({"itemId": "b", "item": {}}, "INVALID_ARGUMENT", "requests[1].item.title"),
        ({"itemId": "-b", "item": {"title": "b"}}, "INVALID_ARGUMENT", "requests[1].item_id"),
        ({"itemId": "a", "item": {"title": "b"}}, "ALREADY_EXISTS", None),
        ({"itemId": "there", "item": {"title": "b"}}, "ALREADY_EXISTS", None),
        ({"parent": "stores/none", "itemId": "b", "item": {"title": "b"}}, "INVALID_ARGUMENT", "requests[1].parent"),
    ],
    ids=["what it lacks", "its id", "a name twice", "a name that is taken", "another parent"],
)
def test_one_that_is_wrong_is_named_and_none_is_made(
    here: Depot, ada: Client, store: str, road: str, bad: Any, code: str, field: str | None
) -> None:
    there = here.item(ada, store, "there")["name"]
    good = {"itemId": "a", "item": {"title": "a"}}
    refused = here.ask(ada, road, "BatchCreateItems", parent=store, requests=[good, bad])
    assert refused.code == code
    assert refused.fields == ((field,) if field else ())
    if field is None:
        assert dict(refused.metadata)["part"] == "requests[1]"
    assert here.ask(ada, road, "GetItem", name=f"{store}/items/a").code == "NOT_FOUND"
    assert (here.events(f"{store}/items/a"), here.events(there)) == ([], ["created"])


@pytest.mark.parametrize("road", ROADS)
def test_each_is_judged_by_the_rules(here: Depot, ada: Client, bob: Client, store: str, road: str) -> None:
    own = here.store(bob)
    mixed = [{"parent": parent, "item": {"title": "t"}} for parent in (own, store)]
    refused = here.ask(bob, road, "BatchCreateItems", parent="stores/-", requests=mixed)
    assert (refused.code, dict(refused.metadata)["part"]) == ("NOT_FOUND", "requests[1]")  # the store is hidden
    assert here.at.sql("select count(*) from depot_v1.items where _parent = %s", own) == [(0,)]
    alone = here.ask(bob, road, "CreateItem", parent=store, item={"title": "t"})
    assert (alone.code, alone.reason) == (refused.code, refused.reason)
    nobody = Client(here.people.stack)
    assert here.ask(nobody, road, "BatchCreateItems", parent=own, requests=[{"item": {"title": "t"}}]).code in (
        "UNAUTHENTICATED",
        "NOT_FOUND",
    )


@pytest.mark.parametrize("road", ROADS)
def test_what_is_only_validated_is_not_done(here: Depot, ada: Client, store: str, road: str) -> None:
    requests: list[dict[str, Any]] = [{"itemId": id, "item": {"title": id}} for id in "ab"]
    answer = here.ask(ada, road, "BatchCreateItems", parent=store, requests=requests, validateOnly=True)
    assert titles(answer) == ["a", "b"]
    each = [{**request, "validateOnly": True} for request in requests]
    assert titles(here.ask(ada, road, "BatchCreateItems", parent=store, requests=each)) == ["a", "b"]
    mixed = here.ask(ada, road, "BatchCreateItems", parent=store, requests=[each[0], requests[1]])
    assert mixed.fields == ("requests.validate_only",)
    assert here.at.sql("select count(*) from depot_v1.items where _parent = %s", store) == [(0,)]
    taken = here.ask(ada, road, "BatchCreateItems", parent=store, requests=requests * 2, validateOnly=True)
    assert (taken.code, dict(taken.metadata)["part"]) == ("ALREADY_EXISTS", "requests[2]")


def test_a_batch_is_carried_out_once_for_each_request_id(here: Depot, ada: Client, store: str) -> None:
    batch = {"parent": store, "requests": [{"item": {"title": t}} for t in "ab"], "requestId": secrets.token_hex(8)}
    first = here.ask(ada, "gRPC", "BatchCreateItems", **batch)
    assert here.ask(ada, "REST", "BatchCreateItems", **batch) == first
    assert here.at.sql("select count(*) from depot_v1.items where _parent = %s", store) == [(2,)]


def test_five_hundred_at_most(here: Depot, ada: Client, store: str) -> None:
    many = [{"item": {"title": "t"}}] * 501
    assert here.ask(ada, "gRPC", "BatchCreateItems", parent=store, requests=many).fields == ("requests",)
    assert here.ask(ada, "gRPC", "BatchCreateItems", parent=store).fields == ("requests",)


# ── BatchUpdate ─────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("road", ROADS)
def test_each_update_has_its_mask_or_that_of_the_batch(here: Depot, ada: Client, store: str, road: str) -> None:
    for id in "ab":
        here.item(ada, store, id, stock=1, tags=["x"])
    a, b = ids(store, "a", "b")
    requests = [{"item": {"name": a, "title": "new", "stock": 5}}, {"item": {"name": b, "title": "other"}}]
    answer = here.ask(ada, road, "BatchUpdateItems", parent=store, requests=requests, updateMask="title,tags")
    assert [(i["title"], i["stock"], i.get("tags")) for i in answer["items"]] == [
        ("new", "1", None),
        ("other", "1", None),
    ]
    own = [{"item": {"name": a, "stock": 7}, "updateMask": "stock"}, {"item": {"name": b, "rank": 0}}]
    answer = here.ask(ada, road, "BatchUpdateItems", parent=store, requests=own)
    assert [(i["title"], i["stock"], i.get("rank")) for i in answer["items"]] == [("new", "7", None), ("other", "1", 0)]
    differs = here.ask(ada, road, "BatchUpdateItems", parent=store, requests=own, updateMask="title")
    assert differs.fields == ("requests[0].update_mask",)


@pytest.mark.parametrize("road", ROADS)
def test_an_etag_of_the_past_stops_all(here: Depot, ada: Client, store: str, road: str) -> None:
    a, b = (here.item(ada, store, id) for id in "ab")
    here.ask(ada, road, "BatchUpdateItems", requests=[{"item": {"name": b["name"], "stock": 1}}], parent=store)
    requests = [{"item": {"name": one["name"], "etag": one["etag"], "stock": 2}} for one in (a, b)]
    refused = here.ask(ada, road, "BatchUpdateItems", parent=store, requests=requests)
    assert (refused.code, refused.reason, dict(refused.metadata)["part"]) == ("ABORTED", "STALE_ETAG", "requests[1]")
    assert here.ask(ada, road, "GetItem", name=a["name"]) == a


@pytest.mark.parametrize("road", ROADS)
def test_what_is_missing_is_made_where_that_is_asked(here: Depot, ada: Client, store: str, road: str) -> None:
    here.item(ada, store, "a")
    requests = [{"item": {"name": name, "title": "new"}} for name in ids(store, "a", "b")]
    refused = here.ask(ada, road, "BatchUpdateItems", parent=store, requests=requests)
    assert (refused.code, dict(refused.metadata)["part"]) == ("NOT_FOUND", "requests[1]")
    answer = here.ask(ada, road, "BatchUpdateItems", parent=store, requests=requests, allowMissing=True)
    assert titles(answer) == ["new", "new"]
    assert [here.events(name) for name in ids(store, "a", "b")] == [["created", "updated"], ["created"]]


def test_one_that_is_changed_twice_is_changed_twice(here: Depot, ada: Client, store: str) -> None:
    name = here.item(ada, store, "a")["name"]
    requests = [{"item": {"name": name, "stock": n}} for n in (1, 2)]
    answer = here.ask(ada, "gRPC", "BatchUpdateItems", requests=requests)
    assert [item["stock"] for item in answer["items"]] == ["1", "2"]
    assert here.events(name) == ["created", "updated", "updated"]


# ── BatchDelete ─────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("road", ROADS)
def test_all_are_deleted_or_none(here: Depot, ada: Client, store: str, road: str) -> None:
    a, b = (here.item(ada, store, id) for id in "ab")
    both = [{"name": a["name"]}, {"name": b["name"], "etag": "1"}]
    refused = here.ask(ada, road, "BatchDeleteItems", parent=store, requests=both)
    assert (refused.code, dict(refused.metadata)["part"]) == ("ABORTED", "requests[1]")
    assert here.ask(ada, road, "GetItem", name=a["name"]) == a
    both[1]["etag"] = b["etag"]
    assert here.ask(ada, road, "BatchDeleteItems", parent=store, requests=both) == {}
    assert [here.events(one["name"])[-1] for one in (a, b)] == ["deleted", "deleted"]


@pytest.mark.parametrize("road", ROADS)
def test_names_are_deleted(here: Depot, ada: Client, bob: Client, road: str) -> None:
    mine, theirs = [here.supplier(ada) for _ in range(2)], here.supplier(bob)
    refused = here.ask(ada, road, "BatchDeleteSuppliers", names=[*mine, theirs])
    assert (refused.code, dict(refused.metadata)["part"]) == ("NOT_FOUND", "names[2]")  # hidden
    assert here.ask(ada, road, "BatchDeleteSuppliers", names=[*mine, theirs], allowMissing=True) == {}
    assert [here.events(name)[-1] for name in (*mine, theirs)] == ["deleted", "deleted", "created"]


# ── Together with others ────────────────────────────────────────────────────────────────────────────────────────────
def test_batches_in_opposite_order_both_come_through(here: Depot, ada: Client, store: str) -> None:
    names = [here.item(ada, store, f"i{i}")["name"] for i in range(10)]

    def change(turn: int) -> Any:
        order = names if turn % 2 else names[::-1]
        return here.ask(
            ada, "gRPC", "BatchUpdateItems", requests=[{"item": {"name": n, "stock": turn + 1}} for n in order]
        )

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(change, range(24)))
    assert [a for a in answers if not isinstance(a, dict)] == []
    stocks = {i["stock"] for i in here.ask(ada, "gRPC", "BatchGetItems", names=names)["items"]}
    assert len(stocks) == 1, "a batch came between another's changes"
    assert {len(here.events(name)) for name in names} == {25}
