"""Checked references, over both roads: what is referred to exists, and what becomes of references to what is deleted."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from depot_ground import ROADS, Depot, depot, packed
from library_ground import ADA, asynchronous, database, engine, made_of
from people_ground import Client, Refused

from deploy.native.stack import Stack
from server.engine.seed_reading import Seed, SeedError, SeedResource
from server.engine.seeding import Seeding
from server.errors import Precondition
from server.schema.compilation import SchemaError
from server.store.changes import Outcome

ABSENT = Refused("FAILED_PRECONDITION", "REFERENCE_NOT_FOUND")


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


def order(here: Depot, who: Client, road: str = "gRPC", **fields: Any) -> Any:
    return here.ask(who, road, "CreateOrder", orderId=f"o{secrets.token_hex(6)}", order=fields)


# ── Referring ───────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("road", ROADS)
def test_only_what_exists_is_referred_to(here: Depot, ada: Client, store: str, road: str) -> None:
    supplier, a = here.supplier(ada), here.item(ada, store)
    item: dict[str, Any] = {"title": "t", "supplier": supplier, "related": [a["name"]]}
    made = here.ask(ada, road, "CreateItem", parent=store, item=item)
    assert (made["supplier"], made["related"]) == (supplier, [a["name"]])
    none = here.ask(ada, road, "CreateItem", parent=store, item=item | {"supplier": "suppliers/none"})
    assert none == ABSENT
    assert dict(none.metadata) == {"field": "item.supplier", "name": "suppliers/none"}
    second = here.ask(
        ada, road, "CreateItem", parent=store, item=item | {"related": [a["name"], f"{store}/items/none"]}
    )
    assert dict(second.metadata)["field"] == "item.related[1]"
    for wrong in (store, "nonsense", "suppliers/"):
        refused = here.ask(ada, road, "CreateItem", parent=store, item=item | {"supplier": wrong})
        assert refused == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("item.supplier",))
    empty = here.ask(ada, road, "CreateItem", parent=store, item=item | {"related": [""]})
    assert empty.fields == ("item.related[0]",)
    changed = here.ask(
        ada, road, "UpdateItem", item={"name": a["name"], "supplier": "suppliers/none"}, updateMask="supplier"
    )
    assert changed == ABSENT
    assert here.events(a["name"]) == ["created"]


@pytest.mark.parametrize("road", ROADS)
def test_what_is_hidden_cannot_be_told_by_referring_to_it(
    here: Depot, ada: Client, bob: Client, store: str, road: str
) -> None:
    hidden, shown = here.supplier(bob), here.supplier(bob, public=True)
    refusals = []
    for name in (hidden, "suppliers/none"):
        refused = here.ask(ada, road, "CreateItem", parent=store, item={"title": "t", "supplier": name})
        refusals.append((refused.code, refused.reason, refused.message.replace(name, "?"), len(refused.metadata)))
    assert refusals[0] == refusals[1]
    made = here.ask(ada, road, "CreateItem", parent=store, item={"title": "t", "supplier": shown})
    # What is referred to already may be hidden later: whoever changes something else is not asked again.
    assert here.ask(bob, road, "UpdateSupplier", supplier={"name": shown, "public": False}, updateMask="public")
    changed = here.ask(ada, road, "UpdateItem", item={"name": made["name"], "title": "new"}, updateMask="title")
    assert changed["supplier"] == shown


# ── Deleting ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("road", ROADS)
def test_what_must_stay_stays(here: Depot, ada: Client, store: str, road: str) -> None:
    supplier = here.supplier(ada)
    items = [here.item(ada, store, supplier=supplier)["name"] for _ in range(2)]
    refused = here.ask(ada, road, "DeleteSupplier", name=supplier)
    assert refused == Refused("FAILED_PRECONDITION", "REFERRED_TO")
    assert dict(refused.metadata) == {"name": supplier}, (
        "what refers to it may be hidden, how much it is and of which type"
    )
    assert not any(told in refused.message for told in (*items, "Item"))
    batch = here.ask(ada, road, "BatchDeleteSuppliers", names=[here.supplier(ada), supplier])
    assert (batch.reason, dict(batch.metadata)["part"]) == ("REFERRED_TO", "names[1]")
    here.ask(ada, road, "UpdateItem", item={"name": items[0]}, updateMask="supplier")
    assert here.ask(ada, road, "DeleteSupplier", name=supplier).reason == "REFERRED_TO"
    here.ask(ada, road, "DeleteItem", name=items[1])
    assert here.ask(ada, road, "DeleteSupplier", name=supplier) == {}


@pytest.mark.parametrize("road", ROADS)
def test_what_refers_is_cleared_or_goes_too(here: Depot, ada: Client, bob: Client, store: str, road: str) -> None:
    gone, other = (here.item(ada, store, public=True)["name"] for _ in range(2))
    near = here.item(ada, store, related=[other, gone])
    ordered, given = order(here, bob, item=gone), order(here, bob, item=other, gift=gone)
    assert here.ask(ada, road, "DeleteItem", name=gone) == {}
    here.at.wait_replica()  # others may be shown for a moment what was
    assert here.ask(bob, road, "GetOrder", name=ordered["name"]).code == "NOT_FOUND"
    left = here.ask(bob, road, "GetOrder", name=given["name"])
    assert (left["item"], left.get("gift")) == (other, None)
    assert left["etag"] != given["etag"]
    cleared = here.ask(ada, road, "GetItem", name=near["name"])
    assert cleared["related"] == [other]
    assert cleared["updateTime"] > near["updateTime"]
    told = here.at.sql("select name, verb, caller from transom.events where verb <> 'created' order by id desc limit 4")
    assert {(name, verb) for name, verb, _ in told} == {
        (near["name"], "updated"),
        (given["name"], "updated"),
        (ordered["name"], "deleted"),
        (gone, "deleted"),
    }
    assert told[0][0] == gone, "what refers is told of before"
    assert {caller for *_, caller in told} == {ada.user}
    [[column]] = here.at.sql("select related from depot_v1.items where name = %s", near["name"])
    assert column == [other]


@pytest.mark.parametrize("road", ROADS)
def test_chains_and_circles_fall_whole(here: Depot, ada: Client, store: str, road: str) -> None:
    first = here.supplier(ada)
    second = here.supplier(ada, main=first)
    third = here.supplier(ada, main=second)
    assert here.ask(ada, road, "UpdateSupplier", supplier={"name": first, "main": third}, updateMask="main")
    item = here.item(ada, store, supplier=third)["name"]
    assert here.ask(ada, road, "DeleteSupplier", name=second).reason == "REFERRED_TO"
    here.ask(ada, road, "DeleteItem", name=item)
    assert here.ask(ada, road, "DeleteSupplier", name=second) == {}
    left = here.at.sql("select count(*) from depot_v1.suppliers where name = any(%s)", [first, second, third])
    assert left == [(0,)]
    assert [here.events(name)[-1] for name in (first, second, third)] == ["deleted"] * 3


@pytest.mark.parametrize("road", ROADS)
def test_a_tree_falls_with_all_that_refers_into_it(
    here: Depot, ada: Client, bob: Client, store: str, road: str
) -> None:
    within = [here.item(ada, store, public=True)["name"] for _ in range(2)]
    here.ask(ada, road, "UpdateItem", item={"name": within[0], "related": within}, updateMask="related")
    outside = here.item(ada, here.store(ada), related=[within[1]])["name"]
    ordered = order(here, bob, item=within[0])["name"]
    assert here.ask(ada, road, "DeleteStore", name=store).reason == "HAS_CHILDREN"
    assert here.ask(bob, road, "GetOrder", name=ordered)["item"] == within[0], "nothing was done"
    assert here.ask(ada, road, "DeleteStore", name=store, force=True) == {}
    here.at.wait_replica()
    assert here.ask(bob, road, "GetOrder", name=ordered).code == "NOT_FOUND"
    assert "related" not in here.ask(ada, road, "GetItem", name=outside)
    assert [here.events(name) for name in within][1] == ["created", "deleted"]


@pytest.mark.parametrize("road", ROADS)
def test_what_can_be_undeleted_keeps_its_references(here: Depot, ada: Client, store: str, road: str) -> None:
    brand, free = (
        here.ask(ada, road, "CreateBrand", brandId=f"b{secrets.token_hex(6)}", brand={"title": road})["name"]
        for _ in "ab"
    )
    item, ordered = here.item(ada, store, brand=brand)["name"], order(here, ada, brand=free)["name"]
    assert here.ask(ada, road, "DeleteBrand", name=brand).reason == "REFERRED_TO"
    assert "deleteTime" in here.ask(ada, road, "DeleteBrand", name=free)
    assert here.ask(ada, road, "GetOrder", name=ordered)["brand"] == free
    assert here.ask(ada, road, "CreateItem", parent=store, item={"title": "t", "brand": free}) == ABSENT
    assert here.ask(ada, road, "UndeleteBrand", name=free)["name"] == free
    assert (
        here.ask(ada, road, "CreateItem", parent=store, itemId="again", item={"title": "t", "brand": free})["brand"]
        == free
    )
    # For good: what must keep it goes on keeping it, what goes with it goes.
    here.ask(ada, road, "DeleteItem", name=f"{store}/items/again")
    purged = here.ask(ada, road, "PurgeBrands", filter=f'title = "{road}"', force=True)
    assert purged == {"purgeCount": 1}
    assert here.ask(ada, road, "GetOrder", name=ordered).code == "NOT_FOUND"
    assert here.ask(ada, road, "GetItem", name=item)["brand"] == brand
    assert here.events(free)[-1] == "purged"


def test_more_than_can_fall_at_once_does_not(here: Depot, ada: Client, store: str) -> None:
    target = here.item(ada, store)["name"]
    here.at.sql(
        "insert into depot_v1.orders (name, _parent, _uid, _owner, _version, _create_time, _update_time, _payload, item) "
        "select 'orders/many' || i, '', gen_random_uuid(), %s, 1, now(), now(), '', %s from generate_series(1, 2001) i",
        ada.user,
        target,
    )
    try:
        refused = here.ask(ada, "gRPC", "DeleteItem", name=target)
        assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "TOO_MANY_REFERENCES")
        assert here.events(target) == ["created"]
    finally:
        here.at.sql("delete from depot_v1.orders where name like 'orders/many%'")


def test_what_refers_is_found_by_indexes(here: Depot) -> None:
    with psycopg.connect(here.at.postgres) as connection:
        connection.execute("set enable_seqscan = off")
        for condition in ("supplier collate \"C\" = any('{x}'::text[])", "related ?| '{x}'::text[]"):
            plan = connection.execute(f"explain select 1 from depot_v1.items where {condition} for update").fetchall()
            assert "Index" in str(plan) and "tx_" in str(plan), plan


# ── Together with others ────────────────────────────────────────────────────────────────────────────────────────────
def test_an_app_s_own_method_refers_and_deletes_by_the_same_rules(here: Depot, ada: Client, store: str) -> None:
    item = here.item(ada, store)["name"]
    made = here.ask(ada, "REST", "OrderItem", name=item)
    assert made["item"] == item
    # The last one goes, and with it the orders of before; the one that is made in the same breath, too.
    assert isinstance(here.ask(ada, "REST", "OrderItem", name=item, soldOut=True), dict)
    assert here.at.sql("select count(*) from depot_v1.orders where item = %s", item) == [(0,)]
    supplier = here.supplier(ada)
    here.item(ada, store, supplier=supplier)
    assert here.ask(ada, "REST", "DeleteSupplier", name=supplier).reason == "REFERRED_TO"


def test_what_is_made_in_a_commit_can_be_referred_to_in_it(here: Depot, ada: Client, store: str) -> None:
    supplier, id = f"suppliers/p{secrets.token_hex(6)}", f"i{secrets.token_hex(6)}"
    create = {"create": {"parent": store, "id": id, "resource": packed("Item", title="t", supplier=supplier)}}
    made = {"create": {"id": supplier.partition("/")[2], "resource": packed("Supplier")}}
    refused = here.commit(ada, create, made)
    assert (refused.reason, dict(refused.metadata)["part"]) == ("REFERENCE_NOT_FOUND", "writes[0].create")
    assert len(here.commit(ada, made, create)) == 2
    both = [{"delete": {"name": f"{store}/items/{id}"}}, {"delete": {"name": supplier}}]
    assert here.commit(ada, *both[::-1]).reason == "REFERRED_TO"
    assert here.commit(ada, *both) == [{}, {}]


def test_who_deletes_waits_for_who_refers(here: Depot, ada: Client, store: str) -> None:
    """The reference is not committed yet when the deletion is asked for; and the other way round."""
    supplier = here.supplier(ada)
    with psycopg.connect(here.at.postgres) as other, ThreadPoolExecutor(1) as pool:
        other.execute("select 1 from depot_v1.suppliers where name = %s for key share", [supplier])
        other.execute(
            "insert into depot_v1.items (name, _parent, _uid, _owner, _version, _create_time, _update_time, _payload, supplier) "
            "values (%s, %s, gen_random_uuid(), '', 1, now(), now(), '', %s)",
            [f"{store}/items/late", store, supplier],
        )
        deletion = pool.submit(here.ask, ada, "gRPC", "DeleteSupplier", name=supplier)
        here.until_waiting()
        assert not deletion.done()
        other.commit()
        assert deletion.result().reason == "REFERRED_TO"
    here.at.sql("delete from depot_v1.items where name = %s", f"{store}/items/late")
    with psycopg.connect(here.at.postgres) as other, ThreadPoolExecutor(1) as pool:
        other.execute("delete from depot_v1.suppliers where name = %s", [supplier])
        creation = pool.submit(here.item, ada, store, supplier=supplier)
        here.until_waiting()
        assert not creation.done()
        other.commit()
        assert creation.result() == ABSENT


def test_many_refer_while_many_delete(here: Depot, ada: Client, store: str) -> None:
    """Whoever comes first: no reference ever leads to nothing."""
    suppliers = [here.supplier(ada) for _ in range(6)]

    def act(turn: int) -> Any:
        supplier = suppliers[turn % len(suppliers)]
        if turn % 5 == 4:
            return here.ask(ada, "gRPC", "DeleteSupplier", name=supplier)
        if turn % 2:
            return here.item(ada, store, supplier=supplier)
        return here.commit(ada, {"create": {"parent": store, "resource": packed("Item", title="t", supplier=supplier)}})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(act, range(60)))
    refused = {a.reason for a in answers if isinstance(a, Refused)}
    assert refused <= {"REFERENCE_NOT_FOUND", "REFERRED_TO", "NOT_FOUND"}
    dangling = here.at.sql(
        "select i.name from depot_v1.items i where i.supplier <> '' "
        "and not exists (select 1 from depot_v1.suppliers s where s.name = i.supplier)"
    )
    assert dangling == []


# ── Where nobody is refused, and where more follows ─────────────────────────────────────────────────────────────────
PAGES = """
syntax = "proto3";
package pages.v1;
import "google/api/resource.proto";
import "google/protobuf/timestamp.proto";
import "transom/schema/v1/options.proto";

message Author {
  option (google.api.resource) = {type: "pages.test/Author" pattern: "authors/{author}"};
  string name = 1;
}
message Page {
  option (google.api.resource) = {type: "pages.test/Page" pattern: "pages/{page}"};
  string name = 1;
  string author = 2 [
    (google.api.resource_reference).type = "pages.test/Author",
    (transom.schema.v1.field).on_delete = RESTRICT
  ];
  repeated string readers = 3 [
    (google.api.resource_reference).type = "pages.test/Author",
    (transom.schema.v1.field).on_delete = CLEAR
  ];
}
message PageRevision {
  option (google.api.resource) = {type: "pages.test/PageRevision" pattern: "pages/{page}/revisions/{revision}"};
  string name = 1;
  Page snapshot = 2;
  google.protobuf.Timestamp create_time = 3;
}
"""


@asynchronous
async def test_where_an_account_ends_references_are_cleared_and_what_is_cleared_has_its_revision(
    components: Stack,
) -> None:
    schema = made_of({"pages/v1/pages.proto": PAGES})
    author, page = (schema.resources[f"pages.v1.{message}"] for message in ("Author", "Page"))
    with database(components, schema) as at:
        async with engine(at, schema=schema) as on:
            for id in "ab":
                await on.resources.create(ADA, author, "", id, schema.message_class(author.message)())
            names = ["authors/a", "authors/b"]
            body = schema.message_class(page.message)(author=names[0], readers=names)
            await on.resources.create(ADA, page, "", "p", body)
            deletion = on.decisions.delete(author, names[0], etag="", force=False, origin=ADA.origin)
            kept = await on.records.write(deletion)
            assert isinstance(kept, Precondition)
            assert kept.reason == "REFERRED_TO"
            assert await on.records.write(replace(deletion, regardless=True)) is Outcome.DONE
            left = on.decisions.parse(page, await on.resources.get(ADA, page, "pages/p"))
            assert (left.author, list(left.readers)) == ("", names[1:])
            revisions = at.sql("select snapshot from pages_v1.revisions order by name")
            assert [snapshot.get("readers") for (snapshot,) in revisions] == [names[1:], names]


@asynchronous
async def test_a_seed_may_refer_to_what_comes_after_it(components: Stack) -> None:
    schema = made_of({"pages/v1/pages.proto": PAGES})
    author, page = (schema.resources[f"pages.v1.{message}"] for message in ("Author", "Page"))

    def seed(*pages: str) -> Seed:
        resources = [
            SeedResource(
                f"pages.yaml:{i}",
                page,
                page.patterns[0],
                f"pages/p{i}",
                schema.message_class(page.message)(author=name),
            )
            for i, name in enumerate(pages)
        ]
        one = SeedResource(
            "authors.yaml:1", author, author.patterns[0], "authors/a", schema.message_class(author.message)()
        )
        return Seed((), (), (*resources, one))

    with database(components, schema) as at:
        async with engine(at, schema=schema) as on:
            seeding = Seeding(None, None, None, on.resources)  # type: ignore[arg-type] - no accounts and no files in it
            assert (await seeding.load(seed("authors/a"), lambda _: b"")).resources == {"authors": 1, "pages": 1}
            with pytest.raises(SeedError, match=r"pages\.yaml:1: author: authors/none does not exist"):
                await seeding.load(seed("authors/a", "authors/none"), lambda _: b"")


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("RESTRICT\n  ];", "CLEAR,\n    (google.api.field_behavior) = REQUIRED\n  ];", "cannot be cleared"),
        (
            '"pages.test/Author",\n    (transom.schema.v1.field).on_delete = R',
            '"x/Y",\n    (transom.schema.v1.field).on_delete = R',
            "stored",
        ),
        ("string author", "bytes author", "no string"),
    ],
)
def test_what_cannot_be_checked_is_no_schema(before: str, after: str, why: str) -> None:
    text = PAGES.replace(before, after, 1).replace(
        'import "google/api/resource.proto";',
        'import "google/api/field_behavior.proto";\nimport "google/api/resource.proto";',
    )
    assert text.count(after) == 1
    with pytest.raises(SchemaError, match=rf"pages.v1.Page.author: \(transom.schema.v1.field\).on_delete: .*{why}"):
        made_of({"pages/v1/pages.proto": text})
