"""Commit, over both roads: writes of any types, each as if it was asked alone after those before it; all of them or none."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import psycopg
import pytest
from depot_ground import ROADS, Depot, Said, depot, packed, schema
from library_ground import ADA, asynchronous, database, engine
from people_ground import Client, Refused
from transom.data.v1 import commit_pb2, data_pb2_grpc

from deploy.native.stack import Stack
from server.engine import staging
from server.engine.units import Unit, Units
from server.errors import Invalid


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


@pytest.fixture(scope="module")
def home(here: Depot, ada: Client) -> str:
    """A store for tests that need no other."""
    return here.store(ada)


def create(type: str, parent: str = "", id: str = "", **fields: Any) -> Any:
    return {"create": {"parent": parent, "id": id, "resource": packed(type, **fields)}}


def update(type: str, mask: str = "", transforms: Any = (), **fields: Any) -> Any:
    how = {"update_mask": mask} if mask else {}
    more = {key: fields.pop(key) for key in ("allow_missing", "expected") if key in fields}
    how |= {"etag": more["expected"]} if "expected" in more else {}
    how |= {"allow_missing": True} if "allow_missing" in more else {}
    return {"update": {"resource": packed(type, **fields), **how, "transforms": list(transforms)}}


def transform(name: str, transforms: Any, **more: Any) -> Any:
    return update("Item", name=name, transforms=transforms, **more)


def part(refused: Any) -> str:
    assert isinstance(refused, Said), refused
    return dict(refused.metadata).get("part", "")


# ── Several types ───────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("road", ROADS)
def test_what_is_made_first_is_there_for_what_comes_next(here: Depot, ada: Client, road: str) -> None:
    """Also for rules: only the store's manager may make items in it."""
    id = f"s{secrets.token_hex(6)}"
    store, order = f"stores/{id}", f"o{secrets.token_hex(6)}"
    writes = [
        create("Store", id=id, title="new", manager=ada.id),
        create("Item", store, "a", title="first", total=5),
        update("Item", "stock,hidden", name=f"{store}/items/a", stock=3),
        create("Order", id=order, item=f"{store}/items/a"),
        {"delete": {"name": f"orders/{order}"}},
    ]
    refused = here.commit(ada, *writes[1:], road=road)
    assert (refused.code, part(refused)) == ("NOT_FOUND", "writes[0].create")
    denied = here.commit(ada, *writes, road=road)
    assert (denied.code, part(denied)) == ("PERMISSION_DENIED", "writes[2].update")  # a field that is hidden from her
    assert here.at.sql("select count(*) from depot_v1.stores where name = %s", store) == [(0,)]
    writes[2] = update("Item", "stock", name=f"{store}/items/a", stock=3)
    results = here.commit(ada, *writes, road=road)
    made = [result.get("resource", {}) for result in results]
    assert [one.get("@type", "").rpartition(".")[2] for one in made] == ["Store", "Item", "Item", "Order", ""]
    assert (made[1]["name"], made[1].get("total"), made[2]["stock"]) == (f"{store}/items/a", None, "3")
    assert [bool(result.get("etag")) for result in results] == [True, True, True, True, False]
    assert made[2]["etag"] == results[2]["etag"]
    assert here.ask(ada, road, "GetItem", name=made[2]["name"]).items() <= made[2].items()
    told = here.at.sql(
        "select verb from transom.events where name like %s or name like %s order by id", f"{store}%", f"%{order}"
    )
    assert [verb for (verb,) in told] == ["created", "created", "updated", "created", "deleted"]


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize(
    ("write", "reason", "fields", "where"),
    [
        (create("Item", "{store}", "x"), "INVALID_REQUEST", ("create.resource.title",), "create"),
        (create("Item", "{store}", "-x", title="t"), "INVALID_REQUEST", ("create.id",), "create"),
        (create("Item", "shelves/1", title="t"), "INVALID_REQUEST", ("create.parent",), "create"),
        (update("Item", "nonsense", name="{item}"), "INVALID_REQUEST", ("update.update_mask",), "update"),
        (update("Item", name="{item}", sku="other"), "INVALID_REQUEST", ("update.resource.sku",), "update"),
        (update("Item", name="stores/1"), "INVALID_REQUEST", ("update.resource.name",), "update"),
        (update("Item", name="{item}", expected="1", stock=1), "STALE_ETAG", (), "update"),
        (update("Item", name="{store}/items/none", stock=1), "NOT_FOUND", (), "update"),
        ({"delete": {"name": "{item}", "etag": "1"}}, "STALE_ETAG", (), "delete"),
        ({"delete": {"name": "{store}"}}, "HAS_CHILDREN", (), "delete"),
        ({"delete": {"name": "nonsense"}}, "INVALID_REQUEST", ("delete.name",), "delete"),
        ({"verify": {"name": "{item}", "exists": False}}, "EXISTS", (), "verify"),
        ({"verify": {"name": "{store}/items/none"}}, "NOT_FOUND", (), "verify"),
        ({"verify": {"name": "{item}", "etag": "1"}}, "STALE_ETAG", (), "verify"),
        ({"create": {"id": "x"}}, "INVALID_REQUEST", ("create.resource",), ""),
        ({}, "INVALID_REQUEST", ("",), ""),
        (
            {
                "create": {
                    "resource": {
                        "@type": "type.googleapis.com/google.protobuf.Timestamp",
                        "value": "2030-01-01T00:00:00Z",
                    }
                }
            },
            "INVALID_REQUEST",
            ("create.resource",),
            "",
        ),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_done(
    here: Depot, ada: Client, home: str, road: str, write: Any, reason: str, fields: tuple[str, ...], where: str
) -> None:
    item = here.item(ada, home, sku="s")["name"]

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: filled(v) for k, v in value.items()}
        return value.format(store=home, item=item) if isinstance(value, str) else value

    first = update("Item", name=item, title="never")
    refused = here.commit(ada, first, filled(write), road=road)
    assert refused.reason == reason
    assert refused.fields == tuple(f"writes[1].{f}".rstrip(".") for f in fields)
    if where:
        assert part(refused) == f"writes[1].{where}"
    assert here.events(item) == ["created"]


@pytest.mark.parametrize("road", ROADS)
def test_each_write_is_under_the_caller_s_own_rules(
    here: Depot, ada: Client, bob: Client, home: str, road: str
) -> None:
    shown, hidden = here.item(ada, home, public=True, cost=7)["name"], here.item(ada, home)["name"]
    for name, code in ((shown, "PERMISSION_DENIED"), (hidden, "NOT_FOUND"), (f"{home}/items/none", "NOT_FOUND")):
        for write in (update("Item", name=name, stock=1), {"delete": {"name": name}}):
            refused = here.commit(bob, create("Supplier"), write, road=road)
            assert (refused.code, part(refused).partition(".")[0]) == (code, "writes[1]")
    assert here.at.sql("select count(*) from depot_v1.suppliers where _owner = %s", bob.user) == [(0,)]
    nobody = Client(here.people.stack)
    assert here.commit(nobody, create("Supplier"), road=road).code == "UNAUTHENTICATED"
    # What is hidden is not there, for a verification either.
    for name in (hidden, f"{home}/items/none"):
        assert here.commit(bob, {"verify": {"name": name, "exists": False}}, road=road) == [{}]
        assert here.commit(bob, {"verify": {"name": name}}, road=road).code == "NOT_FOUND"


@pytest.mark.parametrize("road", ROADS)
def test_a_commit_does_nothing_that_no_method_does(here: Depot, ada: Client, home: str, road: str) -> None:
    """Stores cannot be updated, items not be deleted with what is below them; some orders are kept by their method's rule."""
    denied = Refused("PERMISSION_DENIED", "ACCESS_DENIED")
    assert here.commit(ada, update("Store", name=home, title="new"), road=road) == denied
    item, kept = here.item(ada, home)["name"], f"kept{secrets.token_hex(6)}"
    assert here.commit(ada, {"delete": {"name": item, "force": True}}, road=road) == denied
    assert isinstance(here.commit(ada, create("Order", id=kept), road=road), list)
    refused = here.commit(ada, {"delete": {"name": f"orders/{kept}"}}, road=road)
    assert (refused, part(refused)) == (denied, "writes[0].delete")
    assert here.ask(ada, road, "DeleteOrder", name=f"orders/{kept}").code == "PERMISSION_DENIED"
    assert (
        here.commit(ada, {"verify": {"name": "suppliers/any", "exists": False}}, road=road) == denied
    )  # nobody gets one
    assert [here.events(name) for name in (item, f"orders/{kept}")] == [["created"], ["created"]]


def test_a_message_nobody_knows_is_no_resource(here: Depot, ada: Client) -> None:
    odd = {"writes": [{"create": {"resource": {"@type": "type.googleapis.com/depot.v1.Nothing"}}}]}
    answer = httpx.post(
        f"{here.door.edge}/transom/v1/data:commit",
        json=odd,
        headers={"authorization": f"Bearer {ada.token}"},
        trust_env=False,
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["status"] == "INVALID_ARGUMENT"
    empty = here.ask(ada, "gRPC", "Commit")
    assert empty.fields == ("writes",)
    assert here.ask(ada, "gRPC", "Commit", writes=[create("Order")] * 501).fields == ("writes",)


@pytest.mark.parametrize("road", ROADS)
def test_what_holds_lets_the_rest_be_written(here: Depot, ada: Client, home: str, road: str) -> None:
    item = here.item(ada, home)
    results = here.commit(
        ada,
        {"verify": {"name": item["name"], "etag": item["etag"]}},
        {"verify": {"name": f"{home}/items/none", "exists": False}},
        update("Item", name=item["name"], stock=1, expected=item["etag"]),
        update("Item", name=f"{home}/items/i{secrets.token_hex(4)}", title="new", allow_missing=True),
        {"delete": {"name": f"{home}/items/none", "allowMissing": True}},
        road=road,
    )
    assert [sorted(result) for result in results] == [["etag"], [], ["etag", "resource"], ["etag", "resource"], []]
    assert results[0]["etag"] == item["etag"]


@pytest.mark.parametrize("road", ROADS)
def test_what_is_only_validated_is_not_done(here: Depot, ada: Client, home: str, road: str) -> None:
    id = f"i{secrets.token_hex(6)}"
    writes = [create("Item", home, id, title="t"), {"delete": {"name": f"{home}/items/{id}"}}]
    results = here.commit(ada, *writes, road=road, validateOnly=True)
    assert results[0]["resource"]["title"] == "t"
    assert here.events(f"{home}/items/{id}") == []
    assert part(here.commit(ada, *writes, writes[1], road=road, validateOnly=True)) == "writes[2].delete"


def test_a_commit_is_carried_out_once_for_each_request_id(here: Depot, ada: Client, home: str) -> None:
    item = here.item(ada, home)["name"]
    id, more = secrets.token_hex(8), transform(item, [{"field": "stock", "increment": 1}])
    first = here.commit(ada, more, requestId=id)
    assert here.commit(ada, more, requestId=id, road="REST") == first
    assert here.commit(ada, more, more, requestId=id).reason == "REQUEST_ID_REUSED"
    assert here.ask(ada, "gRPC", "GetItem", name=item)["stock"] == "1"


@pytest.mark.parametrize("road", ROADS)
def test_what_was_deleted_softly_is_undeleted_in_the_same_way(here: Depot, ada: Client, bob: Client, road: str) -> None:
    id = f"b{secrets.token_hex(6)}"
    name = f"brands/{id}"
    gone, back = {"delete": {"name": name}}, {"undelete": {"name": name}}
    results = here.commit(ada, create("Brand", id=id, title="t"), gone, back, gone, road=road)
    marked = [("deleteTime" in result["resource"]) for result in results]
    assert marked == [False, True, False, True]
    assert here.events(name) == ["created", "deleted", "undeleted", "deleted"]
    refused = here.commit(bob, back, road=road)
    assert (refused.code, part(refused)) == ("NOT_FOUND", "writes[0].undelete")
    assert "resource" in here.commit(ada, back, road=road)[0]
    assert here.commit(ada, back, road=road).reason == "NOT_DELETED"


# ── Transforms ──────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Case:
    """A field before, what is made of it, and the item's fields after."""

    before: Any
    transforms: Any
    after: Any


def one(field: str, **how: Any) -> list[Any]:
    return [{"field": field, **how}]


CASES = [
    Case({"stock": 5}, one("stock", increment=3), {"stock": "8"}),
    Case({}, one("stock", increment=-3), {"stock": "-3"}),
    Case({"stock": "9007199254740993"}, one("stock", increment="2"), {"stock": "9007199254740995"}),
    Case({}, one("rank", increment=0), {"rank": 0}),
    Case({"price": 1.5}, one("price", increment=0.25), {"price": 1.75}),
    Case({"weight": 1}, one("weight", increment=0.5), {"weight": 1.5}),
    Case({"counts": {"a.b": "1"}}, one("counts.`a.b`", increment=1), {"counts": {"a.b": "2"}}),
    Case({}, one("counts.new", increment=4), {"counts": {"new": "4"}}),
    Case({}, one("level.seen", increment=1), {"level": {"seen": "1"}}),
    Case({"wrapped": "4"}, one("wrapped", increment=1), {"wrapped": "5"}),
    Case({}, one("wrapped", increment=0), {"wrapped": "0"}),
    Case({"stock": 5}, one("stock", maximum=7), {"stock": "7"}),
    Case({"stock": 5}, one("stock", maximum=3), {"stock": "5"}),
    Case({"stock": 5}, one("stock", minimum=3), {"stock": "3"}),
    Case({}, one("rank", minimum=9), {"rank": 9}),
    Case({}, one("counts.low", minimum=9), {"counts": {"low": "9"}}),
    Case({}, one("soldTime".replace("T", "_t"), maximum="2030-01-01T00:00:00Z"), {"soldTime": "2030-01-01T00:00:00Z"}),
    Case(
        {"soldTime": "2030-01-01T00:00:00.5Z"},
        one("sold_time", minimum="2030-01-01T00:00:00Z"),
        {"soldTime": "2030-01-01T00:00:00Z"},
    ),
    Case({"tags": ["a", "b"]}, one("tags", appendMissingElements=["b", "c", "c"]), {"tags": ["a", "b", "c"]}),
    Case({"tags": ["a", "b", "a"]}, one("tags", removeAllFromArray=["a", "x"]), {"tags": ["b"]}),
    Case({"numbers": ["1"]}, one("numbers", appendMissingElements=[1, "2"]), {"numbers": ["1", "2"]}),
    Case({"colors": ["RED"]}, one("colors", appendMissingElements=["RED", "BLUE"]), {"colors": ["RED", "BLUE"]}),
    Case(
        {"parts": [{"label": "a", "count": 1}, {"label": "b"}]},
        [
            {"field": "parts", "removeAllFromArray": [{"label": "b"}]},
            {"field": "parts", "appendMissingElements": [{"label": "a", "count": 1}, {"label": "c"}]},
        ],
        {"parts": [{"label": "a", "count": 1}, {"label": "c"}]},
    ),
    Case(
        {"stock": 2},
        one("stock", increment=1) + one("stock", increment=1) + one("rank", maximum=1),
        {"stock": "4", "rank": 1},
    ),
]


@pytest.mark.parametrize("road", ROADS)
def test_transforms(here: Depot, ada: Client, home: str, road: str) -> None:
    names = [here.item(ada, home, **case.before)["name"] for case in CASES]
    writes = [transform(name, case.transforms) for name, case in zip(names, CASES, strict=True)]
    results = here.commit(ada, *writes, road=road)
    assert isinstance(results, list), results
    for name, case, result in zip(names, CASES, results, strict=True):
        assert case.after.items() <= result["resource"].items(), case
        assert here.ask(ada, "gRPC", "GetItem", name=name).items() <= result["resource"].items()


@pytest.mark.parametrize("road", ROADS)
def test_the_time_of_the_commit_is_that_of_the_resource(here: Depot, ada: Client, home: str, road: str) -> None:
    item = here.item(ada, home)["name"]
    transforms = [{"field": f, "setToServerValue": "COMMIT_TIME"} for f in ("sold_time", "level.checked_time")]
    [result] = here.commit(ada, transform(item, transforms), road=road)
    made = result["resource"]
    assert made["soldTime"] == made["level"]["checkedTime"] == made["updateTime"] > made["createTime"]


def test_fields_come_before_transforms_and_what_is_missing_begins_empty(here: Depot, ada: Client, home: str) -> None:
    item = here.item(ada, home, stock=100)["name"]
    both = transform(item, one("stock", increment=1), stock=5, mask="stock")
    [result] = here.commit(ada, both)
    assert result["resource"]["stock"] == "6"
    new = transform(f"{home}/items/i{secrets.token_hex(6)}", one("stock", increment=2), title="t", allow_missing=True)
    assert [here.commit(ada, new)[0]["resource"]["stock"] for _ in range(2)] == ["2", "4"]


@pytest.mark.parametrize(
    ("transforms", "field", "reason"),
    [
        (one("nothing", increment=1), "field", "INVALID_PATH"),
        (one("stock.x", increment=1), "field", "INVALID_PATH"),
        (one("title", increment=1), "field", "WRONG_TYPE"),
        (one("tags", increment=1), "field", "WRONG_TYPE"),
        (one("level", increment=1), "field", "WRONG_TYPE"),
        (one("stock", increment="much"), "increment", "INVALID_OPERAND"),
        (one("stock", increment=0.5), "increment", "INVALID_OPERAND"),
        (one("price", increment=None), "increment", "INVALID_OPERAND"),
        (one("stock", increment="9223372036854775807"), "field", "OUT_OF_RANGE"),
        (one("level.seen", increment=-1), "field", "OUT_OF_RANGE"),
        (one("level.low", maximum="2147483648"), "maximum", "OUT_OF_RANGE"),
        (one("weight", increment=1e39), "field", "OUT_OF_RANGE"),
        (one("sold_time", maximum="soon"), "maximum", "INVALID_OPERAND"),
        (one("stock", appendMissingElements=[1]), "field", "WRONG_TYPE"),
        (one("counts", appendMissingElements=[1]), "field", "WRONG_TYPE"),
        (one("numbers", appendMissingElements=["x"]), "append_missing", "INVALID_OPERAND"),
        (one("stock", setToServerValue="COMMIT_TIME"), "field", "WRONG_TYPE"),
        (one("total", increment=1), "field", "OUTPUT_ONLY"),
        (one("level.counted", increment=1), "field", "OUTPUT_ONLY"),
        (one("name", maximum=1), "field", "OUTPUT_ONLY"),
        (one("update_time", setToServerValue="COMMIT_TIME"), "field", "OUTPUT_ONLY"),
    ],
)
def test_transforms_that_cannot_be(
    here: Depot, ada: Client, home: str, transforms: Any, field: str, reason: str
) -> None:
    item = here.item(ada, home, stock=1)["name"]
    refused = here.commit(ada, transform(item, transforms))
    assert refused.code == "INVALID_ARGUMENT", refused
    assert refused.fields == (f"writes[0].update.transforms[0].{field}",)
    assert here.events(item) == ["created"]


def test_what_one_may_not_see_or_change_is_not_transformed(here: Depot, ada: Client, home: str) -> None:
    item = here.item(ada, home, sku="s")["name"]
    hidden = here.commit(ada, transform(item, one("hidden", maximum=1)))
    assert (hidden.code, dict(hidden.metadata)["field"]) == ("PERMISSION_DENIED", "hidden")
    many = here.commit(ada, transform(item, one("stock", increment=1) * 101))
    assert many.fields == ("writes",)
    assert here.events(item) == ["created"]


# ── Together with others ────────────────────────────────────────────────────────────────────────────────────────────
def test_no_increment_is_lost(here: Depot, ada: Client, home: str) -> None:
    item = here.item(ada, home)["name"]
    more = transform(item, [*one("stock", increment=1), *one("level.seen", increment=2)])
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: here.commit(ada, more), range(100)))
    assert [a for a in answers if isinstance(a, Refused)] == []
    assert sorted(int(a[0]["resource"]["stock"]) for a in answers) == list(range(1, 101))
    left = here.ask(ada, "gRPC", "GetItem", name=item)
    assert (left["stock"], left["level"]["seen"]) == ("100", "200")


def test_commits_in_opposite_order_both_come_through(here: Depot, ada: Client, home: str) -> None:
    """What one takes the other gets: the sum stays, whoever comes first, and nobody waits in a circle."""
    names = [here.item(ada, home, stock=100)["name"] for _ in range(4)]

    def move(turn: int) -> Any:
        a, b = names[turn % 4], names[(turn + 1 + turn // 4 % 3) % 4]
        return here.commit(ada, *(transform(n, one("stock", increment=i)) for n, i in ((a, -1), (b, 1))))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(move, range(60)))
    assert [a for a in answers if isinstance(a, Refused)] == []
    assert sum(int(here.ask(ada, "gRPC", "GetItem", name=n).get("stock", 0)) for n in names) == 400


def test_a_commit_that_is_cut_off_leaves_nothing(here: Depot, ada: Client, home: str) -> None:
    """Its connection to the database is lost when half of it is done."""
    first, last = (here.item(ada, home)["name"] for _ in range(2))
    with psycopg.connect(here.at.postgres) as other, ThreadPoolExecutor(1) as pool:
        other.execute("select 1 from depot_v1.items where name = %s for update", [last])
        commit = pool.submit(
            here.commit,
            ada,
            create("Supplier", id="half"),
            *(transform(n, one("stock", increment=1)) for n in (first, last)),
        )
        here.until_waiting()
        here.at.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where wait_event_type = 'Lock' and datname = current_database()"
        )
        refused = commit.result()
        other.rollback()
    assert (refused.code, refused.reason) in (("UNAVAILABLE", "OUTCOME_UNKNOWN"), ("UNAVAILABLE", "DATABASE_AWAY"))
    assert here.at.sql("select count(*) from depot_v1.suppliers where name = 'suppliers/half'") == [(0,)]
    assert here.events(first) == here.events(last) == ["created"]
    assert isinstance(here.commit(ada, create("Supplier", id="half")), list)  # and the server goes on


def test_what_was_verified_still_holds_when_the_rest_is_written(here: Depot, ada: Client, home: str) -> None:
    guard, item = here.item(ada, home), here.item(ada, home)["name"]
    verify = {"verify": {"name": guard["name"], "etag": guard["etag"]}}
    with psycopg.connect(here.at.postgres) as other, ThreadPoolExecutor(1) as pool:
        other.execute("update depot_v1.items set _version = _version + 1 where name = %s", [guard["name"]])
        commit = pool.submit(here.commit, ada, verify, transform(item, one("stock", increment=1)))
        here.until_waiting()  # the change is not committed: all that is decided so far is decided on what was before
        other.commit()
        assert commit.result().reason == "STALE_ETAG"
    assert here.events(item) == ["created"]


def test_transforms_and_the_lists_they_look_at_are_bounded(here: Depot, ada: Client, home: str) -> None:
    item = here.item(ada, home, stock=1, numbers=list(range(10_001)))["name"]
    refused = here.commit(ada, transform(item, one("numbers", appendMissingElements=[1])))
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "LIST_TOO_LONG")
    few = [transform(item, [{"field": "stock", "increment": 1}] * 34) for _ in range(3)]
    refused = here.commit(ada, *few)
    assert refused.code == "INVALID_ARGUMENT" and refused.fields == ("writes",)
    assert here.commit(ada, *few[:2])[1]["resource"]["stock"] == "69"


def test_a_request_that_is_packed_anew_is_the_same(here: Depot, ada: Client, home: str) -> None:
    """In what order a map is packed is up to the client's library, and changes from one process to the next."""
    plain = schema().message_class("depot.v1.Item")(title="t").SerializeToString()
    entries = [schema().message_class("depot.v1.Item")(counts={key: 1}).SerializeToString() for key in "ab"]
    request = f"r{secrets.token_hex(6)}"

    def committed(*parts: bytes) -> commit_pb2.CommitResponse:
        asked = commit_pb2.CommitRequest(request_id=request)
        create = asked.writes.add().create
        create.parent = home
        create.resource.type_url, create.resource.value = "type.googleapis.com/depot.v1.Item", b"".join(parts)
        with grpc.insecure_channel(here.door.edge.removeprefix("http://")) as channel:
            call = data_pb2_grpc.DataServiceStub(channel).Commit
            return call(asked, metadata=[("authorization", f"Bearer {ada.token}")], timeout=20)

    first = committed(plain, *entries)
    assert committed(plain, *reversed(entries)) == first
    with pytest.raises(grpc.RpcError) as refused:
        committed(plain, entries[0])
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_what_a_commit_made_and_deleted_is_told_again(here: Depot, ada: Client, home: str) -> None:
    name, request = f"{home}/items/made-and-gone", f"r{secrets.token_hex(6)}"
    writes = [create("Item", home, "made-and-gone", title="t"), {"delete": {"name": name}}]
    first = here.commit(ada, *writes, requestId=request)
    assert not isinstance(first, Said), first
    assert here.commit(ada, *writes, requestId=request) == first
    assert here.at.events(name) == ["created", "deleted"]


@asynchronous
async def test_what_is_held_of_a_unit_is_bounded(monkeypatch: pytest.MonkeyPatch, components: Stack) -> None:
    """A name counts whether something is there or not, and what is there by its size, before any of it is judged."""
    monkeypatch.setattr(staging, "BYTES_MAX", 3 * staging.BYTES_LEAST)
    with database(components, schema()) as at:
        async with engine(at, schema=schema()) as on:
            supplier = on.schema.resources["depot.v1.Supplier"]
            kind = on.schema.message_class(supplier.message)
            for id in ("a", "b"):
                await on.resources.create(ADA, supplier, "", id, kind(title="x" * 2 * staging.BYTES_LEAST))

            async def act(unit: Unit) -> int:
                return sum(unit.row(supplier, f"suppliers/{id}") is not None for id in ("a", "b"))

            async def held(*ids: str) -> int:
                return await Units(on.resources).run([(supplier, f"suppliers/{id}") for id in ids], act)

            assert await held("a") == 1
            assert await held("none", "neither", "nor") == 0
            for ids in (("a", "b"), ("none", "neither", "nor", "nothing")):
                with pytest.raises(Invalid) as caught:
                    await held(*ids)
                assert caught.value.reason == "UNIT_TOO_LARGE"
