"""The engine on a real Postgres: what each standard method promises, and an app's unit of work."""

# ruff: noqa: E501 - tables of sentences
from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from library_ground import ADA, BOB, Database, Engine, asynchronous, database, engine, library, made_of, message

from deploy.native.stack import Stack
from server.apps.declarations import Implements
from server.apps.loading import load
from server.apps.work import CHANGES_MAX, Call, Contended, Work
from server.engine import resources as resources_module
from server.engine.lists import Wanted
from server.errors import AlreadyExists, Internal, Invalid, NotFound, Precondition, Refusal, Stale, Unauthenticated
from server.schema.compilation import SchemaError
from server.services.current import CURRENT, Current
from server.services.custom import CustomMethods, unimplemented
from server.services.standard import StandardMethods

NOBODYS: Any = None
"""Where an app's function needs neither files nor accounts."""


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Database]:
    with database(components, library()) as made:
        yield made


@pytest.fixture(autouse=True)
def _empty(at: Database) -> None:
    at.empty()


SHELF, BOOK, SETTING = (library().resources[f"library.v1.{n}"] for n in ("Shelf", "Book", "Setting"))


async def fails(call: Any, kind: type[Refusal]) -> Any:
    with pytest.raises(kind) as refusal:
        await call
    return refusal.value


# ------------------------------------------------------------------------------------------------- List


@asynchronous
async def test_pages_follow_each_other_without_gap_or_repetition(at: Database) -> None:
    async with engine(at) as on:
        await on.create("Shelf", "", "s", title="t")
        await on.create("Shelf", "", "s0", title="t")
        await asyncio.gather(*(on.create("Book", "shelves/s", f"b{i:03}", title="t") for i in range(25)))
        await on.create("Book", "shelves/s0", "other", title="t")
        seen, token, sizes = [], "", []
        while True:
            page = await on.resources.lists.page(ADA, BOOK, Wanted("shelves/s", 7, token))
            seen += [name for name, *_ in page.rows]
            sizes.append(len(page.rows))
            token = page.next_page_token
            if not token:
                break
            # What comes between is seen if it is ahead, and nothing is shown twice.
            await on.create("Book", "shelves/s", f"a-{len(seen)}", title="behind")
        assert seen == [f"shelves/s/books/b{i:03}" for i in range(25)] and sizes == [7, 7, 7, 4]
        exact = await on.resources.lists.page(ADA, BOOK, Wanted("shelves/s", 28))
        assert len(exact.rows) == 28 and exact.next_page_token == ""


@asynchronous
async def test_a_token_is_good_for_its_collection_and_method_only(at: Database) -> None:
    async with engine(at) as on:
        for shelf in ("a", "b"):
            await on.create("Shelf", "", shelf, title="t")
            for book in ("1", "2"):
                await on.create("Book", f"shelves/{shelf}", book, title="t")
        token = (await on.resources.lists.page(ADA, BOOK, Wanted("shelves/a", 1, "", "/m"))).next_page_token
        assert (await on.resources.lists.page(ADA, BOOK, Wanted("shelves/a", 5, token, "/m"))).rows[0][
            0
        ] == "shelves/a/books/2"
        for parent, query in (("shelves/b", "/m"), ("shelves/a", "/other")):
            await fails(on.resources.lists.page(ADA, BOOK, Wanted(parent, 1, token, query)), Invalid)


@asynchronous
async def test_lists_of_what_is_not_there(at: Database) -> None:
    async with engine(at) as on:
        assert await on.names("Shelf", "") == []
        refusal = await fails(on.names("Book", "shelves/none"), NotFound)
        assert refusal.resource == ("library.test/Shelf", "shelves/none")
        await on.create("Shelf", "", "s", title="t")
        assert await on.names("Book", "shelves/s") == []
        for parent in ("", "shelves/-/books/-", "shelves/s/books/b", "shelves/\0"):
            await fails(on.names("Book", parent), Invalid)


@asynchronous
async def test_a_page_holds_as_many_bytes_as_clients_take(at: Database) -> None:
    async with engine(at) as on:
        await on.create("Shelf", "", "s", title="t")
        for i in range(10):
            await on.create("Book", "shelves/s", f"b{i}", title="t" * 900_000)
        seen, token = [], ""
        for _ in range(10):
            page = await on.resources.lists.page(ADA, BOOK, Wanted("shelves/s", 1000, token))
            assert len(page.rows) >= 1 and sum(len(p) for _, p, *_ in page.rows) < 4 << 20
            seen += [name for name, *_ in page.rows]
            token = page.next_page_token
            if not token:
                break
        assert seen == [f"shelves/s/books/b{i}" for i in range(10)]


# ------------------------------------------------------------------------------------------------- Create


@asynchronous
async def test_ids_that_nobody_chose(at: Database) -> None:
    async with engine(at) as on:
        made = await asyncio.gather(*(on.create("Shelf", "", "", title=str(i)) for i in range(100)))
        assert len({s.name for s in made}) == 100
        assert sorted(await on.names("Shelf", "")) == sorted(s.name for s in made)


@asynchronous
async def test_a_name_that_a_message_brings_is_its_name_or_a_refusal(at: Database) -> None:
    """Never another one than it asked for."""
    async with engine(at) as on:
        card = on.schema.resources["library.v1.Card"]
        await on.resources.create(ADA, card, "", "", message("Card", path="cards/mine"))
        await fails(on.resources.create(ADA, card, "", "", message("Card", path="cards/mine")), AlreadyExists)
        assert at.sql("select name from library_v1.cards") == [("cards/mine",)]


@asynchronous
async def test_there_is_one_of_what_there_is_one_of(at: Database) -> None:
    async with engine(at) as on:
        await on.create("Shelf", "", "s", title="t")
        assert (await on.create("Setting", "shelves/s", "", open=True)).name == "shelves/s/setting"
        await fails(on.create("Setting", "shelves/s", ""), AlreadyExists)
        assert (await on.update("Setting", "shelves/s/setting", ["open"])).open is False
        await on.delete("Shelf", "shelves/s")  # it goes with what it is there for
        assert at.sql("select from library_v1.settings") == [] and at.events("shelves/s/setting")[-1] == "deleted"


@asynchronous
async def test_what_is_only_validated_leaves_nothing(at: Database) -> None:
    async with engine(at) as on:
        create = on.resources.create
        shelf = await create(ADA, SHELF, "", "s", message("Shelf", title="t"), validate_only=True)
        assert message("Shelf").FromString(shelf).name == "shelves/s"
        assert at.sql("select from library_v1.shelves") == [] and at.events("shelves/s") == []
        await on.create("Shelf", "", "s", title="t")
        await fails(create(ADA, SHELF, "", "s", message("Shelf", title="t"), validate_only=True), AlreadyExists)
        await fails(create(ADA, SHELF, "", "u", message("Shelf"), validate_only=True), Invalid)
        await fails(create(ADA, BOOK, "shelves/x", "b", message("Book", title="t"), validate_only=True), NotFound)
        changed = message("Shelf", name="shelves/s", theme="x")
        await on.resources.update(ADA, SHELF, changed, None, validate_only=True)
        assert (await on.get("Shelf", "shelves/s")).theme == ""
        await fails(on.resources.update(ADA, SHELF, changed, ["nothing"], validate_only=True), Invalid)
        missing = message("Shelf", name="shelves/new", title="t")
        await on.resources.update(ADA, SHELF, missing, None, allow_missing=True, validate_only=True)
        await fails(on.delete("Shelf", "shelves/s", etag="1", validate_only=True), Stale)
        await fails(on.delete("Shelf", "shelves/none", validate_only=True), NotFound)
        await on.delete("Shelf", "shelves/s", validate_only=True)
        assert at.events("shelves/s") == ["created"] and await on.names("Shelf", "") == ["shelves/s"]


# ------------------------------------------------------------------------------------------------- Update


@asynchronous
async def test_updates_of_what_is_not_there(at: Database) -> None:
    async with engine(at) as on:
        await fails(on.update("Shelf", "shelves/none", None, theme="x"), NotFound)
        for name in ("", "shelves", "shelves/-", "shelves/a\0", "books/b"):
            await fails(on.update("Shelf", name, None, theme="x"), Invalid)
        new = message("Shelf", name="shelves/new", title="t", theme="x")
        made = message("Shelf").FromString(await on.resources.update(ADA, SHELF, new, ["theme"], allow_missing=True))
        assert (made.title, made.theme) == ("t", "x"), "the mask is ignored where it is made (AIP-134)"
        await on.resources.update(ADA, SHELF, message("Shelf", name="shelves/new", theme="y"), None, allow_missing=True)
        assert at.events("shelves/new") == ["created", "updated"]
        orphan = message("Book", name="shelves/none/books/b", title="t")
        await fails(on.resources.update(ADA, BOOK, orphan, None, allow_missing=True), NotFound)
        odd = message("Shelf", name="shelves/a b", title="t")
        await fails(on.resources.update(ADA, SHELF, odd, None, allow_missing=True), Invalid)


@asynchronous
async def test_what_is_missing_is_not_made_with_a_value_that_is_another_ones(components: Stack) -> None:
    schema = made_of(
        {
            "zoo.proto": 'syntax = "proto3";\npackage zoo.v1;\nimport "google/api/resource.proto";\n'
            'import "transom/schema/v1/options.proto";\n'
            'message Ape { option (google.api.resource) = {type: "zoo.test/Ape" pattern: "apes/{ape}"}; '
            "string name = 1; string chip = 2 [(transom.schema.v1.field).unique = true]; }\n"
        }
    )
    ape, make = schema.resources["zoo.v1.Ape"], schema.message_class("zoo.v1.Ape")
    with database(components, schema) as place:
        async with engine(place, schema=schema) as on:
            await on.resources.create(ADA, ape, "", "a", make(chip="7"))
            for write in (
                on.resources.create(ADA, ape, "", "b", make(chip="7")),
                on.resources.update(ADA, ape, make(name="apes/b", chip="7"), None, allow_missing=True),
            ):
                assert (await fails(write, AlreadyExists)).reason == "VALUE_TAKEN"
            assert (
                await fails(on.resources.create(ADA, ape, "", "a", make()), AlreadyExists)
            ).reason == "ALREADY_EXISTS"


@asynchronous
async def test_many_who_make_what_is_missing_all_have_their_say(at: Database) -> None:
    async with engine(at) as on, engine(at) as other:
        await asyncio.gather(
            *(
                e.resources.update(
                    ADA,
                    SHELF,
                    message("Shelf", name="shelves/s", title="t", counts={f"k{i}": 1}),
                    None,
                    allow_missing=True,
                )
                for i in range(5)
                for e in (on, other)
            )
        )
        assert at.events("shelves/s")[0] == "created" and set(at.events("shelves/s")[1:]) <= {"updated"}


@asynchronous
async def test_an_update_that_changes_nothing_leaves_nothing(at: Database) -> None:
    async with engine(at) as on:
        shelf = await on.create("Shelf", "", "s", title="t")
        same = await on.update("Shelf", "shelves/s", None, title="t")
        assert same == shelf and at.events("shelves/s") == ["created"]


@asynchronous
async def test_where_others_keep_coming_first_the_resource_is_locked(
    at: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine(at) as on, engine(at) as other:
        shelf = await on.create("Shelf", "", "s", title="t")
        monkeypatch.setattr(resources_module, "ATTEMPTS", 0)
        await asyncio.gather(
            *(
                e.update("Shelf", "shelves/s", [f"counts.k{i}"], counts={f"k{i}": 1})
                for i, e in enumerate([on, other] * 10)
            )
        )
        assert dict((await on.get("Shelf", "shelves/s")).counts) == {f"k{i}": 1 for i in range(20)}
        assert len(at.events("shelves/s")) == 21
        await fails(on.update("Shelf", "shelves/none", None, theme="x"), NotFound)
        await fails(on.update("Shelf", "shelves/s", ["title"]), Invalid)
        await fails(on.update("Shelf", "shelves/s", None, etag=shelf.etag, theme="x"), Stale)
        before = await on.get("Shelf", "shelves/s")
        assert await on.update("Shelf", "shelves/s", None, title="t") == before
        assert len(at.events("shelves/s")) == 21


# ------------------------------------------------------------------------------------------------- Delete


@asynchronous
async def test_deletes(at: Database) -> None:
    async with engine(at) as on:
        await fails(on.delete("Shelf", "shelves/none"), NotFound)
        await fails(on.delete("Shelf", "shelves/none", force=True), NotFound)
        await on.delete("Shelf", "shelves/none", allow_missing=True)
        await fails(on.delete("Shelf", "shelves/-"), Invalid)
        shelf = await on.create("Shelf", "", "s", title="t")
        await on.create("Book", "shelves/s", "b", title="t")
        refusal = await fails(on.delete("Shelf", "shelves/s"), Precondition)
        assert refusal.reason == "HAS_CHILDREN" and at.events("shelves/s") == ["created"]
        await fails(on.delete("Shelf", "shelves/s", etag="1", force=True), Stale)
        await on.delete("Shelf", "shelves/s", etag=f'"{shelf.etag}"', force=True)
        await fails(on.get("Shelf", "shelves/s"), NotFound)
        assert at.events("shelves/s") == ["created", "deleted"]
        [(payload,)] = at.sql("select payload from transom.events where name = 'shelves/s' and verb = 'deleted'")
        assert message("Shelf").FromString(payload) == shelf, "the event has what was there"


# ------------------------------------------------------------------------------------------------- requests as bytes


class Calling:
    """Standard and custom methods as the server calls them: bytes in, bytes out, for a user."""

    def __init__(self, on: Engine) -> None:
        self.standard = StandardMethods(on.resources)
        self.custom = CustomMethods(on.resources, NOBODYS, NOBODYS)
        self.methods = {m.name: m for m in on.schema.methods()}

    async def __call__(self, name: str, data: bytes = b"", /, **fields: Any) -> Any:
        method = self.methods[name]
        self._says(ADA.caller)
        request = data or library().message_class(method.request)(**fields).SerializeToString()
        return library().message_class(method.response).FromString(await self.standard.behavior(method)(request, None))

    async def run(self, function: Any, /, **fields: Any) -> Any:
        method = self.methods["PrintBook"]
        self._says(ADA.caller)
        behavior = self.custom.behavior(method, Implements(method.full_name, function))
        request = library().message_class(method.request)(**fields).SerializeToString()
        return library().message_class(method.response).FromString(await behavior(request, None))

    @staticmethod
    def _says(caller: Any) -> None:
        call = Current("m", None, "request-ada", "")
        call.caller = caller
        CURRENT.set(call)


@asynchronous
async def test_the_standard_methods_on_the_wire(at: Database) -> None:
    async with engine(at) as on:
        call = Calling(on)
        shelf = await call("CreateShelf", shelf=message("Shelf", title="t"), shelf_id="s")
        assert await call("GetShelf", name="shelves/s") == shelf
        for i in range(3):
            await call("CreateBook", parent="shelves/s", book=message("Book", title=f"{i}"))
        page = await call("ListBooks", parent="shelves/s", page_size=2)
        rest = await call("ListBooks", parent="shelves/s", page_token=page.next_page_token)
        assert [b.title for b in (*page.books, *rest.books)] == ["0", "1", "2"] and not rest.next_page_token
        book = page.books[0]
        book.rating = 5
        assert (await call("UpdateBook", book=book)).rating == 5
        stale = await fails(call("UpdateBook", book=book), Stale)  # its etag is in it
        assert stale.reason == "STALE_ETAG"
        book.ClearField("etag")
        mask = library().message_class("google.protobuf.FieldMask")(paths=["rating"])
        book.ClearField("rating")
        assert not (await call("UpdateBook", book=book, update_mask=mask)).HasField("rating")
        await call("DeleteBook", name=book.name)
        await call("DeleteShelf", name="shelves/s", force=True)
        assert (await call("ListShelves")).shelves == []


@asynchronous
async def test_what_a_request_may_not_say(at: Database) -> None:
    async with engine(at) as on:
        call = Calling(on)
        await fails(call("GetBook", name="shelves/s/books/b"), NotFound)
        refusal = await fails(call("GetBook", b"\xff\xff"), Invalid)
        assert refusal.reason == "MALFORMED_REQUEST"
        refusal = await fails(call("CreateBook", parent="shelves/s"), Invalid)
        assert [(v.field, v.reason) for v in refusal.violations] == [("book.title", "REQUIRED")]
        refusal = await fails(call("CreateShelf", shelf=message("Shelf", title="t"), shelf_id="a b"), Invalid)
        assert [(v.field, v.reason) for v in refusal.violations] == [("shelf_id", "INVALID_ID")]
        refusal = await fails(call("UpdateShelf"), Invalid)
        assert [(v.field, v.reason) for v in refusal.violations] == [("shelf.name", "REQUIRED")]


@asynchronous
async def test_strangers_get_nothing(at: Database) -> None:
    async with engine(at) as on:
        await on.create("Shelf", "", "s", title="t")
    async with engine(at, ruled=True) as on:
        call = Calling(on)
        CURRENT.set(Current("m"))
        shelf = {"name": "shelves/s", "title": "u"}
        for name, fields in (
            ("GetShelf", {"name": "shelves/s"}),
            ("ListShelves", {}),
            ("CreateShelf", {"shelf": {"title": "u"}}),
            ("UpdateShelf", {"shelf": shelf}),
            ("DeleteShelf", {"name": "shelves/s"}),
        ):
            request = library().message_class(call.methods[name].request)(**fields).SerializeToString()
            await fails(call.standard.behavior(call.methods[name])(request, None), Unauthenticated)
        row = await on.records.latest(on.schema.resources["library.v1.Shelf"], "shelves/s")
        assert row is not None and on.schema.message_class("library.v1.Shelf").FromString(row.payload).title == "t"


# ------------------------------------------------------------------------------------------------- an app's functions


def work(on: Engine, by: Any = ADA) -> Work:
    return Work(by, on.resources, NOBODYS, NOBODYS)


INBOX = ("insert into transom.inbox (handler, event_id) values (%s, %s)", ["h", "1"])


@asynchronous
async def test_a_unit_of_work_is_done_whole(at: Database) -> None:
    async with engine(at) as on:
        await on.create("Shelf", "", "s", title="t")
        unit = work(on)
        shelf = await unit.get("shelves/s")
        shelf = unit.update(shelf, {"theme": "dark", "counts": {"a": 1}}, event="darkened")
        book = unit.create("library.v1.Book", "shelves/s", "b", {"title": "x", "state": "PRINTED"}, event="printed")
        unit.create("library.v1.Note", book.name, "n", {"text": "below what is not there yet"})
        book = unit.update(
            book, {"isbn": "i", "printedTime": datetime(2026, 1, 2, tzinfo=UTC), "edition": {"publisher": "p"}}
        )
        assert (await unit.get(book.name)).isbn == "i" and (await unit.get("shelves/s")).theme == "dark"
        unit.mail("a@b.c", "subject", "text")
        await fails(on.get("Book", book.name), NotFound)
        await unit.commit([INBOX])
        stored = await on.get("Book", "shelves/s/books/b")
        assert (
            stored == book
            and stored.state == stored.PRINTED
            and stored.printed_time.ToDatetime() == datetime(2026, 1, 2)
        )
        assert await on.get("Shelf", "shelves/s") == shelf
        assert at.events("shelves/s") == ["created", "darkened"] and at.events(book.name) == ["printed", "updated"]
        assert at.sql("select recipient, subject from transom.mails") == [("a@b.c", "subject")]
        assert at.sql("select count(*) from transom.events where resource_type = 'transom.mails.v1.Mail'") == [(1,)]
        assert at.sql("select handler from transom.inbox") == [("h",)]
        assert at.sql("select isbn, edition->>'publisher' from library_v1.books") == [("i", "p")]


@asynchronous
async def test_a_unit_of_work_of_which_a_part_is_refused_does_nothing(at: Database) -> None:
    async with engine(at) as on:
        await on.create("Shelf", "", "s", title="t")
        await on.create("Book", "shelves/s", "b", title="t")
        before = len(at.sql("select from transom.events"))

        async def gathered() -> Work:
            unit = work(on)
            unit.update(await unit.get("shelves/s"), {"theme": "x"})
            unit.mail("a@b.c", "s", "t")
            return unit

        taken = await gathered()
        taken.create("library.v1.Book", "shelves/s", "b", {"title": "t"})
        await fails(taken.commit([INBOX]), AlreadyExists)
        orphan = await gathered()
        orphan.create("library.v1.Book", "shelves/none", "b", {"title": "t"})
        await fails(orphan.commit([INBOX]), NotFound)
        occupied = await gathered()
        occupied.delete(await occupied.get("shelves/s"))
        await fails(occupied.commit([INBOX]), Precondition)
        broken = await gathered()
        await fails(broken.commit([INBOX, ("insert into transom.inbox (handler) values (%s)", ["x"])]), Internal)
        assert (await on.get("Shelf", "shelves/s")).theme == ""
        assert len(at.sql("select from transom.events")) == before
        assert at.sql("select from transom.mails union all select from transom.inbox") == []


@asynchronous
async def test_a_unit_of_work_that_came_too_late_is_contended(at: Database) -> None:
    async with engine(at) as on:
        await on.create("Shelf", "", "s", title="t")
        for harm in (
            lambda: on.update("Shelf", "shelves/s", None, theme="other"),
            lambda: on.delete("Shelf", "shelves/s"),
        ):
            unit = work(on)
            shelf = await unit.get("shelves/s")
            await harm()
            # Read again it is as it was: one unit of work sees one state, and fails if that is gone.
            if await on.names("Shelf", ""):
                assert await unit.get("shelves/s") == shelf
            unit.update(shelf, {"theme": "mine"})
            unit.mail("a@b.c", "s", "t")
            await fails(unit.commit(), Contended)
        assert at.sql("select from transom.mails") == []
        await on.create("Shelf", "", "s", title="t")
        unit = work(on)
        shelf = await unit.get("shelves/s")
        await on.update("Shelf", "shelves/s", None, theme="other")
        unit.delete(shelf)
        await fails(unit.commit(), Contended)
        assert (await on.get("Shelf", "shelves/s")).theme == "other"


@asynchronous
async def test_what_is_deleted_in_a_unit_of_work_is_gone_in_it(at: Database) -> None:
    async with engine(at) as on:
        await on.create("Shelf", "", "s", title="t")
        for book in ("a", "b"):
            await on.create("Book", "shelves/s", book, title="t")
        unit = work(on)
        first, second = await unit.list("library.v1.Book", "shelves/s")
        unit.update(second, {"rating": 3})
        unit.delete(first)
        await fails(unit.get(first.name), NotFound)
        assert [(b.name, b.rating) for b in await unit.list("library.v1.Book", "shelves/s")] == [
            ("shelves/s/books/b", 3)
        ]
        with pytest.raises(ValueError, match="not read"):
            unit.update(first, {"rating": 1})
        again = unit.create("library.v1.Book", "shelves/s", "a", {"title": "new"})
        assert (await unit.get("shelves/s/books/a")).title == "new" and again.etag != first.etag
        await unit.commit()
        assert at.events("shelves/s/books/a") == ["created", "deleted", "created"]
        unit = work(on)
        shelf = await unit.get("shelves/s")
        await unit.list("library.v1.Book", "shelves/s")
        unit.delete(shelf, force=True)
        await fails(unit.get("shelves/s/books/b"), NotFound)
        await unit.commit()
        assert at.sql("select from library_v1.books") == []


@asynchronous
async def test_what_a_function_says_wrong_is_refused_before_anything_happens(at: Database) -> None:
    async with engine(at) as on:
        await on.create("Shelf", "", "s", title="t")
        unit = work(on)
        shelf = await unit.get("shelves/s")
        for fields in ({"nothing": 1}, {"title": 5}, {"counts": "x"}, {"title": None}, {"title": "a\0"}):
            with pytest.raises(Invalid):
                unit.update(shelf, fields)
        for name in ("", "shelves", "nobody/knows", "shelves/a\0b", "shelves/\ud800"):
            await fails(unit.get(name), Invalid)
        for call in (
            lambda: unit.create("library.v1.Nothing", "", "", {}),
            lambda: unit.create("library.v1.Book", "shelves/s", "a b", {"title": "t"}),
            lambda: unit.create("library.v1.Book", "", "b", {"title": "t"}),
            lambda: unit.mail("a@b.c\nBcc: x", "s", "t"),
            lambda: unit.mail("a@b.c", "", "t"),
        ):
            with pytest.raises(Invalid):
                call()
        with pytest.raises(Stale):
            unit.update(shelf, {"theme": "x"}, etag="1")
        with pytest.raises(ValueError, match="not read"):
            unit.update(message("Shelf", name="shelves/other"), {"theme": "x"})
        for i in range(CHANGES_MAX):
            unit.create("library.v1.Shelf", "", f"s{i}", {"title": "t"})
        with pytest.raises(Invalid, match="at most"):
            unit.create("library.v1.Shelf", "", "one-more", {"title": "t"})
        assert at.events("shelves/s") == ["created"]


@asynchronous
async def test_a_custom_method_runs_again_where_others_came_first(at: Database) -> None:
    async with engine(at) as on, engine(at) as other:
        await on.create("Shelf", "", "s", title="t")
        await on.create("Book", "shelves/s", "b", title="t", copies=100)

        async def print_one(call: Call) -> Any:
            book = await call.get(call.request.name)
            return call.update(book, {"copies": book.copies + 1, "state": "PRINTED"}, event="printed")

        done = await asyncio.gather(
            *(Calling(e).run(print_one, name="shelves/s/books/b") for e in (on, other, on)), return_exceptions=True
        )
        won = [d for d in done if not isinstance(d, BaseException)]
        assert all(isinstance(d, Stale) for d in done if d not in won) and len(won) >= 2
        assert (await on.get("Book", "shelves/s/books/b")).copies == 100 + len(won)
        assert at.events("shelves/s/books/b") == ["created", *["printed"] * len(won)]

        runs = 0

        async def never(call: Call) -> Any:
            nonlocal runs
            runs += 1
            book = await call.get(call.request.name)
            await other.update("Book", book.name, None, rating=runs)
            return call.update(book, {"copies": 0})

        await fails(Calling(on).run(never, name="shelves/s/books/b"), Contended)
        assert runs == 5


@asynchronous
async def test_two_units_of_work_that_wait_for_each_other_are_told_apart(at: Database) -> None:
    """A deadlock is no failure: one of them is done, the other runs again."""
    async with engine(at) as on:
        for shelf in "ab":
            await on.create("Shelf", "", shelf, title="t")
            await on.create("Book", f"shelves/{shelf}", "b", title="t", copies=0)

        def counting(first: str, second: str) -> Any:
            async def count(call: Call) -> Any:
                for shelf in (first, second):
                    book = await call.get(f"shelves/{shelf}/books/b")
                    call.update(book, {"copies": book.copies + 1})
                return None

            return count

        for _ in range(5):
            done = await asyncio.gather(
                *(Calling(on).run(counting(*order), name="x") for order in ("ab", "ba") * 2), return_exceptions=True
            )
            assert all(not isinstance(d, BaseException) or isinstance(d, Stale) for d in done), done
        copies = [(await on.get("Book", f"shelves/{s}/books/b")).copies for s in "ab"]
        assert copies[0] == copies[1] >= 10


@asynchronous
async def test_a_custom_method_that_goes_wrong_does_nothing(at: Database) -> None:
    async with engine(at) as on:
        await on.create("Shelf", "", "s", title="t")
        call = Calling(on)

        async def raises(call: Call) -> Any:
            call.update(await call.get("shelves/s"), {"theme": "x"})
            raise Precondition("not now", reason="NOT_NOW")

        async def wrong(call: Call) -> Any:
            call.update(await call.get("shelves/s"), {"theme": "x"})
            return "no message"

        async def other(call: Call) -> Any:
            return await call.get("shelves/s")

        await fails(call.run(raises, name="x"), Precondition)
        for function in (wrong, other):
            refusal = await fails(call.run(function, name="x"), Internal)
            assert refusal.message == "Internal error."
        assert (await on.get("Shelf", "shelves/s")).theme == ""
        method = call.methods["DeleteEverything"]
        refusal = await fails(unimplemented(method)(b"", None), Refusal)
        assert refusal.code is grpc.StatusCode.UNIMPLEMENTED and "AIP-135" in refusal.message


@asynchronous
async def test_a_function_sees_the_truth_whatever_the_replica_has(at: Database, components: Stack) -> None:
    """An event may reach a task sooner than the replica: what it lists must be there."""
    async with engine(at, replica=at.replica, lag_max=1000) as on:
        await asyncio.to_thread(at.wait_replica)
        on.freshness.positions._caught_up_at = asyncio.get_running_loop().time()
        for i in range(20):
            await on.create("Shelf", "", f"s{i:02}", title="t")
            unit = work(on, by=replace(BOB, caller=replace(BOB.caller, name=f"users/x{i}")))
            assert len(await unit.list("library.v1.Shelf")) == i + 1


# ------------------------------------------------------------------------------------------------- an app's folder

HEAD = "from server.apps import method, on\n"
WRONG = {
    "a method that is none": ("methods", '@method("library.v1.LibraryService.Nothing")\nasync def f(call): ...', "is not a method of the app's services"),
    "a method of Transom's own": ("methods", '@method("transom.files.v1.FilesService.GetFile")\nasync def f(call): ...', "is not a method of the app's services"),
    "one method twice": ("methods", '@method("library.v1.LibraryService.PrintBook")\nasync def f(call): ...\n@method("library.v1.LibraryService.PrintBook")\nasync def g(call): ...', "is implemented twice"),
    "a resource that is none": ("tasks", '@on("library.v1.Nothing", "created")\nasync def f(event, work): ...', "is not a resource of the schema"),
    "a verb that files do not have": ("tasks", '@on("transom.files.v1.File", "created")\nasync def f(event, work): ...', "is none of the verbs of files"),
    "a function for two events": ("tasks", '@on("library.v1.Book", "created")\n@on("library.v1.Book", "updated")\nasync def f(event, work): ...', "is declared for two things"),
    "a function that does not wait": ("methods", '@method("library.v1.LibraryService.PrintBook")\ndef f(call): ...', "must be an `async def`"),
    "retries without end": ("tasks", '@on("library.v1.Book", "created", retries=1000)\nasync def f(event, work): ...', "retries go from 0 to"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_functions_that_are_declared_wrong_are_refused_at_start(case: str, tmp_path: Path) -> None:
    file, text, told = WRONG[case]
    (tmp_path / f"{file}.py").write_text(HEAD + text)
    with pytest.raises((SchemaError, TypeError, ValueError), match=re.escape(told)):
        load(tmp_path, library())


def test_functions_are_found_and_may_share_code(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text("WORD = 'x'\n")
    (tmp_path / "methods.py").write_text(
        HEAD
        + "from .shared import WORD\n"
        + '@method("library.v1.LibraryService.PrintBook")\nasync def f(call): return WORD\n'
    )
    (tmp_path / "tasks.py").write_text(
        HEAD
        + "from .methods import f\n"
        + '@on("library.v1.Book", "created", retries=3)\nasync def g(event, work): ...\n'
    )
    app = load(tmp_path, library())
    assert list(app.methods) == ["library.v1.LibraryService.PrintBook"]
    assert [(t.name, t.resource_type, t.verb, t.retries) for t in app.tasks] == [("g", "library.v1.Book", "created", 3)]
    assert load(tmp_path, library(), ["tasks"]).methods == {}
