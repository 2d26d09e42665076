"""What a write decides: field masks, field behaviours, ids, etags and the values of columns. Pure."""

# ruff: noqa: E501 - tables of sentences
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from google.protobuf import text_format
from library_ground import ADA, library, made_of, message

from server.engine import decisions, masks
from server.engine.behaviors import Behaviors
from server.engine.columns import Columns
from server.engine.decisions import Asked, Decisions
from server.engine.identity import etag_of, fresh_id, version_of
from server.errors import Invalid, Stale
from server.store.changes import Change, Row

NOW = 1_700_000_000_000_000
DECISIONS = Decisions(library(), lambda: NOW)
BOOK = library().resources["library.v1.Book"]
SHELF = library().resources["library.v1.Shelf"]


def book(text: str = "") -> Any:
    """A book, as protobuf's text format says it."""
    return text_format.Parse(text, message("Book"), descriptor_pool=library().pool)


def shown(book: Any) -> str:
    return text_format.MessageToString(book, as_one_line=True, descriptor_pool=library().pool)


def refused(call: Callable[[], Any]) -> list[tuple[str, str]]:
    """Field and reason of each violation of a refusal."""
    with pytest.raises(Invalid) as refusal:
        call()
    return [(v.field, v.reason) for v in refusal.value.violations]


# ------------------------------------------------------------------------------------------------- masks


@dataclass(frozen=True)
class Mask:
    sentence: str
    paths: list[str]
    stored: str
    given: str
    then: str
    skip: frozenset[str] = frozenset()


MASKS = [
    Mask("a field takes the value given", ["title"], "title: 'a' isbn: 'i'", "title: 'b' isbn: 'j'", "title: 'b' isbn: 'i'"),
    Mask("a field that is not given is cleared", ["title"], "title: 'a' isbn: 'i'", "", "isbn: 'i'"),
    Mask("an optional field may become zero", ["rating"], "rating: 5", "rating: 0", "rating: 0"),
    Mask("an optional field may become absent", ["rating"], "rating: 0", "", ""),
    Mask("a repeated field is replaced whole", ["tags"], "tags: 'a' tags: 'b'", "tags: 'c'", "tags: 'c'"),
    Mask("a map is replaced whole", ["labels"], "labels {key: 'a' value: '1'}", "labels {key: 'b' value: '2'}", "labels {key: 'b' value: '2'}"),
    Mask(
        "one key of a map is set",
        ["labels.b"], "labels {key: 'a' value: '1'}", "labels {key: 'b' value: '2'} labels {key: 'c' value: '3'}",
        "labels {key: 'a' value: '1'} labels {key: 'b' value: '2'}",
    ),
    Mask("one key of a map is taken away", ["labels.a"], "labels {key: 'a' value: '1'} labels {key: 'b'}", "", "labels {key: 'b'}"),
    Mask("a key with dots stands in backticks", ["labels.`a.b`"], "", "labels {key: 'a.b' value: '1'}", "labels {key: 'a.b' value: '1'}"),
    Mask("a key with backticks doubles them", ["labels.`a``b`"], "", "labels {key: 'a`b'}", "labels {key: 'a`b'}"),
    Mask("an empty key stands in backticks", ["labels.``"], "", "labels {key: '' value: '1'}", "labels {key: '' value: '1'}"),
    Mask(
        "a key of a map of messages is set",
        ["by_language.de"], "by_language {key: 'de' value {pages: 1 publisher: 'p'}}", "by_language {key: 'de' value {pages: 2}}",
        "by_language {key: 'de' value {pages: 2}}",
    ),
    Mask("a key of a Struct is set", ["meta.fields.a"], "", "meta {fields {key: 'a' value {bool_value: true}}}", "meta {fields {key: 'a' value {bool_value: true}}}"),
    Mask("a field of a message is set", ["edition.pages"], "edition {pages: 1 publisher: 'p'}", "edition {pages: 2}", "edition {pages: 2 publisher: 'p'}"),
    Mask("a field of a message is cleared", ["edition.pages"], "edition {pages: 1 publisher: 'p'}", "", "edition {publisher: 'p'}"),
    Mask("a message comes into being by a path into it", ["edition.pages"], "", "edition {pages: 2 code: 'c'}", "edition {pages: 2}"),
    Mask("a path into what neither has does nothing", ["edition.pages"], "", "", ""),
    Mask("a message is replaced whole, not merged", ["edition"], "edition {pages: 1 publisher: 'p'}", "edition {pages: 2}", "edition {pages: 2}"),
    Mask("a message may become empty", ["edition"], "edition {pages: 1}", "edition {}", "edition {}"),
    Mask("deep paths", ["chapter.next.next.title"], "chapter {next {title: 'n'}}", "chapter {next {next {title: 'x'}}}", "chapter {next {title: 'n' next {title: 'x'}}}"),
    Mask("one of a oneof puts the other out", ["loan"], "bought_from: 'b'", "loan {days: 1}", "loan {days: 1}"),
    Mask("both of a oneof, of which one is given", ["bought_from", "loan"], "bought_from: 'b'", "loan {days: 1}", "loan {days: 1}"),
    Mask("both of a oneof, the other way", ["loan", "bought_from"], "loan {days: 1}", "bought_from: 'b'", "bought_from: 'b'"),
    Mask("a path into the other of a oneof", ["loan.days"], "bought_from: 'b'", "loan {days: 1 lender: 'l'}", "loan {days: 1}"),
    Mask("a oneof is cleared", ["loan"], "loan {days: 1}", "", ""),
    Mask("a star replaces all", ["*"], "title: 'a' tags: 'x' rating: 1", "title: 'b' isbn: 'i'", "title: 'b' isbn: 'i'"),
    Mask("what is skipped stays, at any path", ["state", "edition.pages", "title"], "state: DRAFT edition {pages: 1}", "state: PRINTED edition {pages: 2} title: 't'",
         "state: DRAFT edition {pages: 1} title: 't'", frozenset({"state", "edition"})),
    Mask("a star skips it too", ["*"], "state: DRAFT title: 'a'", "state: PRINTED", "state: DRAFT", frozenset({"state"})),
    Mask("a path twice, and one within another", ["title", "title", "edition", "edition.pages"], "", "title: 't' edition {pages: 2}", "title: 't' edition {pages: 2}"),
    Mask("a path into a timestamp", ["printed_time.seconds"], "printed_time {seconds: 1 nanos: 5}", "printed_time {seconds: 9}", "printed_time {seconds: 9 nanos: 5}"),
    Mask("a key of a map of numbers is set", ["numbers.-7"], "numbers {key: 7 value: 's'}", "numbers {key: -7 value: 'm'}", "numbers {key: 7 value: 's'} numbers {key: -7 value: 'm'}"),
    Mask("a message that shall be there comes into being", ["loan."], "bought_from: 'b'", "loan {days: 1}", "loan {}"),
    Mask("a message that is there stays as it is", ["loan."], "loan {days: 1}", "", "loan {days: 1}"),
    Mask("no path does nothing", [], "title: 'a'", "title: 'b'", "title: 'a'"),
]  # fmt: skip


@pytest.mark.parametrize("case", MASKS, ids=lambda c: c.sentence)
def test_masks(case: Mask) -> None:
    target, given = book(case.stored), book(case.given)
    before = book(case.given)
    masks.apply(target, given, case.paths, case.skip)
    assert shown(target) == shown(book(case.then))
    assert given == before, "what is given stays as it is"


@pytest.mark.parametrize(
    "path",
    [
        "", ".", "nothing", "Title", "title.", ".title", "title.x", "tags.0", "tags.*", "editions.pages", "labels.a.b", "numbers.x", "numbers.2147483648", "numbers.", "labels.", "edition.pages.",
        "by_language.de.pages", "edition.*", "edition..pages", "edition.nothing", "loan.days.x", "origin", "labels.`a", "labels.a`", "`title`x",
        "a" * 10_000, ".".join(["chapter", *["next"] * 5000]), "title\0", " title", "shelf",
    ],
)  # fmt: skip
def test_paths_that_lead_nowhere(path: str) -> None:
    assert refused(lambda: masks.apply(book(), book(), [path], frozenset())) == [("update_mask", "INVALID_PATH")]
    assert refused(lambda: masks.apply(book(), book(), ["title", path], frozenset())) == [
        ("update_mask", "INVALID_PATH")
    ]


def test_a_star_stands_alone() -> None:
    assert refused(lambda: masks.apply(book(), book(), ["*", "title"], frozenset())) == [
        ("update_mask", "INVALID_PATH")
    ]


def test_a_mask_has_a_bound() -> None:
    paths = ["title"] * (masks.PATHS_MAX + 1)
    assert refused(lambda: masks.apply(book(), book(), paths, frozenset())) == [("update_mask", "TOO_MANY_PATHS")]


def test_an_update_without_a_mask_is_one_of_what_is_populated() -> None:
    given = book("title: 't' rating: 0 copies: 0 edition {} tags: 'a' labels {key: 'k'}")
    assert set(masks.implied(given)) == {"title", "rating", "edition", "tags", "labels"}


# ------------------------------------------------------------------------------------------------- behaviours on create


def create(given: str, **more: Any) -> tuple[Any, Change]:
    made = book(given)
    return made, DECISIONS.create(BOOK, made, parent="shelves/s", id="b", owner="users/ada", origin=ADA.origin, **more)


@dataclass(frozen=True)
class Kept:
    sentence: str
    given: str
    kept: str


FRESH = "title: 't' copies: 1 state: DRAFT "
KEPT = [
    Kept("initial values are given where nothing is said", "title: 't'", FRESH),
    Kept("an initial value yields to what is said", "title: 't' copies: 7", "title: 't' copies: 7 state: DRAFT"),
    Kept("what is OUTPUT_ONLY cannot be said", "title: 't' state: PRINTED", FRESH),
    Kept("nor in a message", "title: 't' edition {publisher: 'p' checked_by: 'me'}", FRESH + "edition {publisher: 'p'}"),
    Kept("nor in a list", "title: 't' editions {publisher: 'p' checked_by: 'me'} editions {publisher: 'q'}",
         FRESH + "editions {publisher: 'p'} editions {publisher: 'q'}"),
    Kept("nor in a map", "title: 't' by_language {key: 'de' value {publisher: 'p' checked_by: 'me'}}",
         FRESH + "by_language {key: 'de' value {publisher: 'p'}}"),
    Kept("nor in a message within itself", "title: 't' chapter {title: 'c' digest: 'x' next {title: 'n' digest: 'y' chapters {title: 'm' digest: 'z'}}}",
         FRESH + "chapter {title: 'c' next {title: 'n' chapters {title: 'm'}}}"),
    Kept("nor in messages within each other", "title: 't' author {label: 'a' verified_by: 'me' opus {author {verified_by: 'me' opus {author {verified_by: 'me'}}}}}",
         FRESH + "author {label: 'a' opus {author {opus {author {}}}}}"),
    Kept("what is IMMUTABLE may be said once", "title: 't' isbn: 'i' edition {publisher: 'p' code: 'c'}", FRESH + "isbn: 'i' edition {publisher: 'p' code: 'c'}"),
    Kept("what is INPUT_ONLY never comes back", "title: 't' password: 'x' editions {publisher: 'p' key: 'k'}", FRESH + "editions {publisher: 'p'}"),
    Kept("an etag is not the client's", "title: 't' etag: 'mine'", FRESH),
]  # fmt: skip


@pytest.mark.parametrize("case", KEPT, ids=lambda c: c.sentence)
def test_what_is_kept_of_a_new_resource(case: Kept) -> None:
    made, change = create(case.given)
    assert made.name == change.name == "shelves/s/books/b"
    assert made.etag == etag_of(NOW) and change.version == NOW
    made.ClearField("name")
    made.ClearField("etag")
    assert shown(made) == shown(book(case.kept))
    assert BOOK and DECISIONS.parse(BOOK, change.payload).title == "t"


def test_the_apps_own_code_may_give_what_is_output_only() -> None:
    made, _ = create("title: 't' state: PRINTED edition {publisher: 'p' checked_by: 'me'}", trusted=True)
    assert made.state == made.PRINTED and made.edition.checked_by == "me"


REQUIRED: dict[str, list[str]] = {
    "": ["title"],
    "title: ''": ["title"],
    "title: 't' edition {}": ["edition.publisher"],
    "edition {}": ["title", "edition.publisher"],
    "title: 't' editions {publisher: 'p'} editions {} editions {}": ["editions[1].publisher", "editions[2].publisher"],
    "title: 't' by_language {key: 'de' value {}}": ["by_language[de].publisher"],
    "title: 't' chapter {title: 'a' next {chapters {}}}": ["chapter.next.title", "chapter.next.chapters[0].title"],
}


@pytest.mark.parametrize("given", REQUIRED)
def test_what_is_required_is_asked_for_at_every_depth(given: str) -> None:
    assert refused(lambda: create(given)) == [(f, "REQUIRED") for f in REQUIRED[given]]


def test_violations_have_paths_from_the_request() -> None:
    request = message("CreateBookRequest", parent="shelves/s", book=book("editions {}"))
    call = lambda: DECISIONS.create(  # noqa: E731
        BOOK, request.book, parent="shelves/s", id="b", owner="", origin=ADA.origin, asked=Asked(request, "book")
    )
    assert refused(call) == [("book.title", "REQUIRED"), ("book.editions[0].publisher", "REQUIRED")]


@pytest.mark.parametrize(
    ("parent", "id", "field", "reason"),
    [
        ("", "b", "parent", "INVALID_PARENT"),
        ("shelves/", "b", "parent", "INVALID_PARENT"),
        ("shelves/-", "b", "parent", "INVALID_PARENT"),
        ("shelves/a/books/b", "b", "parent", "INVALID_PARENT"),
        ("shelves/a\0", "b", "parent", "INVALID_PARENT"),
        ("shelves/" + "x" * 1100, "b", "parent", "INVALID_PARENT"),
        ("shelves/a", "-", "book_id", "INVALID_ID"),
        ("shelves/a", "b/c", "book_id", "INVALID_ID"),
        ("shelves/a", "x" * 256, "book_id", "INVALID_ID"),
        ("shelves/" + "x" * 1000, "y" * 20, "book_id", "INVALID_NAME"),
    ],
)
def test_names_that_cannot_be(parent: str, id: str, field: str, reason: str) -> None:
    call = lambda: DECISIONS.create(  # noqa: E731
        BOOK, book("title: 't'"), parent=parent, id=id, owner="", origin=ADA.origin, id_field="book_id"
    )
    assert refused(call) == [(field, reason)]


def test_an_id_must_make_a_name_of_the_pattern() -> None:
    pair = library().resources["library.v1.Pair"]
    make = lambda id: DECISIONS.create(pair, message("Pair"), parent="shelves/s", id=id, owner="", origin=ADA.origin)  # noqa: E731
    assert make("a~b").name == "shelves/s/pairs/a~b"
    assert refused(lambda: make("ab")) == [("id", "INVALID_NAME")]
    assert refused(lambda: make("")) == [("id", "INVALID_NAME")], "no fresh id is one of two parts"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("shelves/s/books/mine", "shelves/s/books/mine"),
        ("shelves/other/books/mine", None),
        ("books/mine", None),
    ],
)
def test_a_message_may_bring_its_name_where_no_id_is_given(given: str, name: str | None) -> None:
    made = book(f"title: 't' name: '{given}'")
    change = DECISIONS.create(BOOK, made, parent="shelves/s", id="", owner="", origin=ADA.origin)
    if name is None:
        assert (
            BOOK.pattern_of(change.name)
            and change.name.startswith("shelves/s/books/")
            and not change.name.endswith("mine")
        )
    else:
        assert change.name == name


def test_a_name_that_a_message_brings_must_be_as_good_as_an_id() -> None:
    made = book("title: 't' name: 'shelves/s/books/a b?#%2F'")
    call = lambda: DECISIONS.create(BOOK, made, parent="shelves/s", id="", owner="", origin=ADA.origin)  # noqa: E731
    assert refused(call) == [("id", "INVALID_ID")]


def test_fresh_ids_sort_by_time_and_are_ids() -> None:
    ids = [fresh_id(NOW + i * 1000) for i in range(1000)]
    assert ids == sorted(ids) and len(set(ids)) == 1000
    assert all(len(i) == 20 and i[0].isalpha() and i.islower() for i in ids)


def test_what_the_schema_does_not_know_is_not_kept() -> None:
    """It might be given a meaning later, say that of an OUTPUT_ONLY field."""
    unknown = b"\xba\x3e\x02hi"  # field 999
    made = message("Book").FromString(book("title: 't' edition {publisher: 'p'}").SerializeToString() + unknown)
    made.edition.MergeFromString(unknown)
    change = DECISIONS.create(BOOK, made, parent="shelves/s", id="b", owner="", origin=ADA.origin)
    assert b"hi" not in change.payload
    given = message("Book").FromString(book("edition {publisher: 'q'}").SerializeToString() + unknown)
    given.edition.MergeFromString(unknown)
    # But what is stored by a newer server stays, whoever writes.
    row = Row("shelves/s/books/b", change.payload + b"\xba\x3e\x02ho", 1, "")
    _, change = DECISIONS.update(BOOK, row, given, ["edition"], etag="", origin=ADA.origin)
    assert change and b"hi" not in change.payload and b"ho" in change.payload


# ------------------------------------------------------------------------------------------------- behaviours on update


@dataclass(frozen=True)
class Update:
    sentence: str
    stored: str
    given: str
    paths: Sequence[str] | None
    then: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)


UPDATES = [
    Update("without a mask what is populated is taken over", "title: 'a' isbn: 'i' rating: 1", "title: 'b'", None, "title: 'b' isbn: 'i' rating: 1"),
    Update("what is OUTPUT_ONLY is ignored", "title: 'a' state: DRAFT", "title: 'b' state: PRINTED", None, "title: 'b' state: DRAFT"),
    Update("even if the mask names it", "title: 'a' state: DRAFT", "title: 'b' state: PRINTED", ["state", "title"], "title: 'b' state: DRAFT"),
    Update("and it stays under a star", "title: 'a' state: DRAFT rating: 1", "title: 'b'", ["*"], "title: 'b' state: DRAFT"),
    Update("in a message it stays", "title: 'a' edition {publisher: 'p' checked_by: 'us'}", "edition {publisher: 'q' checked_by: 'me'}", None,
           "title: 'a' edition {publisher: 'q' checked_by: 'us'}"),
    Update("by its own path too", "title: 'a' edition {publisher: 'p' checked_by: 'us'}", "edition {checked_by: 'me' pages: 1}", ["edition.checked_by", "edition.pages"],
           "title: 'a' edition {publisher: 'p' checked_by: 'us' pages: 1}"),
    Update("in a message that is new it is not taken", "title: 'a'", "edition {publisher: 'q' checked_by: 'me'}", None, "title: 'a' edition {publisher: 'q'}"),
    Update("in a list, an item that is as it was keeps it",
           "title: 'a' editions {publisher: 'p' checked_by: 'us'} editions {publisher: 'q' checked_by: 'them'}",
           "editions {publisher: 'q'} editions {publisher: 'new' checked_by: 'me'} editions {publisher: 'p' checked_by: 'me'}", None,
           "title: 'a' editions {publisher: 'q' checked_by: 'them'} editions {publisher: 'new'} editions {publisher: 'p' checked_by: 'us'}"),
    Update("of two items alike each keeps its own, and a third has none",
           "title: 'a' editions {publisher: 'p' checked_by: '1'} editions {publisher: 'p' checked_by: '2'}",
           "editions {publisher: 'p'} editions {publisher: 'p'} editions {publisher: 'p'}", None,
           "title: 'a' editions {publisher: 'p' checked_by: '1'} editions {publisher: 'p' checked_by: '2'} editions {publisher: 'p'}"),
    Update("in a map, the entry of the key keeps it",
           "title: 'a' by_language {key: 'de' value {publisher: 'p' checked_by: 'us'}}",
           "by_language {key: 'de' value {publisher: 'q' checked_by: 'me'}} by_language {key: 'fr' value {publisher: 'p' checked_by: 'me'}}", None,
           "title: 'a' by_language {key: 'de' value {publisher: 'q' checked_by: 'us'}} by_language {key: 'fr' value {publisher: 'p'}}"),
    Update("and by the path of the key", "title: 'a' by_language {key: 'de' value {publisher: 'p' checked_by: 'us'}}",
           "by_language {key: 'de' value {publisher: 'q' checked_by: 'me'}}", ["by_language.de"],
           "title: 'a' by_language {key: 'de' value {publisher: 'q' checked_by: 'us'}}"),
    Update("in a message within itself it stays", "title: 'a' chapter {title: 'c' digest: 'x' chapters {title: 'm' digest: 'z'}}",
           "chapter {title: 'd' digest: 'me' chapters {title: 'm' digest: 'me'}}", None,
           "title: 'a' chapter {title: 'd' digest: 'x' chapters {title: 'm' digest: 'z'}}"),
    Update("other lists stay as they are", "title: 'a' editions {publisher: 'p' checked_by: 'us'}", "title: 'b'", ["title"],
           "title: 'b' editions {publisher: 'p' checked_by: 'us'}"),
    Update("what is INPUT_ONLY is not kept", "title: 'a'", "title: 'b' password: 'x' edition {publisher: 'p' key: 'k'}", None, "title: 'b' edition {publisher: 'p'}"),
    Update("what is IMMUTABLE may be said again", "title: 'a' isbn: 'i'", "title: 'b' isbn: 'i'", None, "title: 'b' isbn: 'i'"),
    Update("but not otherwise", "title: 'a' isbn: 'i'", "isbn: 'j'", None, refused={"isbn": "IMMUTABLE"}),
    Update("nor be taken away", "title: 'a' isbn: 'i'", "", ["isbn"], refused={"isbn": "IMMUTABLE"}),
    Update("nor said later", "title: 'a'", "isbn: 'j'", None, refused={"isbn": "IMMUTABLE"}),
    Update("nor in a message", "title: 'a' edition {publisher: 'p' code: 'c'}", "edition {publisher: 'p' code: 'd'}", None, refused={"edition.code": "IMMUTABLE"}),
    Update("nor with the message around it", "title: 'a' edition {publisher: 'p' code: 'c'}", "", ["edition"], refused={"edition.code": "IMMUTABLE"}),
    Update("a new message may have one", "title: 'a'", "edition {publisher: 'p' code: 'd'}", None, "title: 'a' edition {publisher: 'p' code: 'd'}"),
    Update("what is REQUIRED cannot be cleared", "title: 'a'", "", ["title"], refused={"title": "REQUIRED"}),
    Update("nor in a message", "title: 'a' edition {publisher: 'p'}", "edition {pages: 1}", ["edition"], refused={"edition.publisher": "REQUIRED"}),
    Update("a path into a missing message makes one, that must be whole", "title: 'a'", "edition {pages: 1}", ["edition.pages"], refused={"edition.publisher": "REQUIRED"}),
    Update("a name cannot be changed, and saying it is no change", "title: 'a'", "name: 'shelves/s/books/b' title: 'b'", ["name", "title"], "title: 'b'"),
    Update("an initial value is not given again", "title: 'a' copies: 3", "", ["copies"], "title: 'a'"),
    Update("a path that leads nowhere", "title: 'a'", "", ["titel"], refused={"update_mask": "INVALID_PATH"}),
]  # fmt: skip


def update(
    stored: str, given: str, paths: Sequence[str] | None, etag: str = "", **more: Any
) -> tuple[Any, Change | None]:
    before = book(stored)
    before.name, before.etag = "shelves/s/books/b", etag_of(7)
    row = Row(before.name, before.SerializeToString(), 7, "users/ada")
    return DECISIONS.update(BOOK, row, book(given), paths, etag=etag, origin=ADA.origin, **more)


@pytest.mark.parametrize("case", UPDATES, ids=lambda c: f"{c.sentence} ({c.paths})")
def test_updates(case: Update) -> None:
    if case.refused:
        assert dict(refused(lambda: update(case.stored, case.given, case.paths))) == case.refused
        return
    result, change = update(case.stored, case.given, case.paths)
    assert change is not None
    assert (change.expected, change.version, result.etag, result.name) == (7, 8, etag_of(8), "shelves/s/books/b")
    assert DECISIONS.parse(BOOK, change.payload) == result
    result.ClearField("name")
    result.ClearField("etag")
    assert shown(result) == shown(book(case.then))


@pytest.mark.parametrize(
    ("given", "paths"),
    [("title: 'a'", None), ("", None), ("state: PRINTED", ["state"]), ("title: 'a' etag: 'x' name: 'y'", ["*"])],
)
def test_an_update_that_changes_nothing_is_no_change(given: str, paths: Sequence[str] | None) -> None:
    result, change = update("title: 'a'", given, paths)
    assert change is None and result.etag == etag_of(7)


def test_the_apps_own_code_may_change_what_is_output_only_or_immutable() -> None:
    result, change = update(
        "title: 'a' isbn: 'i' state: DRAFT", "isbn: 'j' state: PRINTED", ["isbn", "state"], trusted=True
    )
    assert change and result.isbn == "j" and result.state == result.PRINTED


@pytest.mark.parametrize("etag", [etag_of(7), f'"{etag_of(7)}"'])
def test_an_etag_that_is_the_resources(etag: str) -> None:
    assert update("title: 'a'", "title: 'b'", None, etag)[1] is not None


@pytest.mark.parametrize(
    "etag", [etag_of(8), "0", "-1", "x", "*", '"', "7 ", "0x7", "+7", "0_7", "٧", "f" * 16, "f" * 400]
)
def test_an_etag_that_is_not(etag: str) -> None:
    with pytest.raises(Stale):
        update("title: 'a'", "title: 'b'", None, etag)
    assert version_of(etag) < 2**63, "it fits a bigint"


def test_a_shelf_has_all_that_the_engine_keeps() -> None:
    shelf = message("Shelf", title="t", uid="mine", etag="mine")
    shelf.create_time.FromSeconds(1)
    change = DECISIONS.create(SHELF, shelf, parent="", id="s", owner="", origin=ADA.origin)
    assert shelf.uid == change.uid != "mine" and len(shelf.uid) == 36
    assert shelf.create_time.ToMicroseconds() == shelf.update_time.ToMicroseconds() == NOW
    later = Decisions(library(), lambda: NOW + 5_000_000)
    row = Row(change.name, change.payload, change.version, "")
    result, again = later.update(SHELF, row, message("Shelf", theme="x", uid="other"), None, etag="", origin=ADA.origin)
    assert again and result.uid == shelf.uid and result.create_time == shelf.create_time
    assert result.update_time.ToMicroseconds() == NOW + 5_000_000 and result.etag != shelf.etag


def test_behaviours_below_a_message_without_any_are_found_in_any_order() -> None:
    """Opus has none of its own; asking for it first must not hide what its author has."""
    for first in ("Opus", "Author", "Book", "Chapter"):
        behaviors = Behaviors(library())
        behaviors.clear(message(first))
        opus = message("Opus")
        opus.author.verified_by = opus.author.opus.author.verified_by = "me"
        behaviors.clear(opus)
        assert not opus.author.verified_by and not opus.author.opus.author.verified_by


# ------------------------------------------------------------------------------------------------- columns

EVERYTHING = library().resources["kinds.v1.Everything"]
COLUMNS = Columns(EVERYTHING)


def column(text: str) -> Any:
    """The one value that differs from that of an empty message."""
    empty = message("kinds.v1.Everything")
    full = text_format.Parse(text, message("kinds.v1.Everything"), descriptor_pool=library().pool)
    [differs] = [b for a, b in zip(COLUMNS.values(empty), COLUMNS.values(full), strict=True) if a != b]
    return differs


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("a_uint64: 18446744073709551615", "18446744073709551615"),
        ("a_double: inf", "inf"),
        ("a_double: nan", "nan"),
        ("a_bool: true", "true"),
        ("a_bytes: '\\000\\377'", b"\0\xff"),
        ("a_colour: BLUE", "BLUE"),
        ("a_colour: 99", "99"),
        ("maybe_colour: COLOUR_UNSPECIFIED", "COLOUR_UNSPECIFIED"),
        ("maybe_string: ''", ""),
        ("maybe_bool: false", "false"),
        ("many_double: nan many_double: -inf many_double: 1", '["NaN","-Infinity",1.0]'),
        ("many_uint64: 18446744073709551615", "[18446744073709551615]"),
        ("many_colour: RED many_colour: 77", '["RED","77"]'),
        ("many_bytes: '\\377'", '["/w=="]'),
        ("by_bool {key: true value: 'y'}", '{"true":"y"}'),
        ("by_uint64 {key: 18446744073709551615}", '{"18446744073709551615":""}'),
        ("a_string: '\\\\u0000'", "\\u0000"),
        ("many_string: '\\\\u0000'", '["\\\\u0000"]'),
        ("well_timestamp {seconds: -62135596800}", "0001-01-01T00:00:00Z"),
        ("well_timestamp {seconds: 253402300799 nanos: 999999999}", "9999-12-31T23:59:59.999999Z"),
        ("well_duration {seconds: -1 nanos: -500000000}", "-1500000 microseconds"),
        ("well_duration {seconds: 315576000000}", "315576000000000000 microseconds"),
        ("well_struct {fields {key: 'a' value {number_value: 1}}}", '{"a":1.0}'),
        ("well_value {null_value: NULL_VALUE}", "null"),
        ("well_field_mask {paths: 'a_b'}", '"aB"'),
        ("well_empty {}", "{}"),
        ("well_any {type_url: 'type.googleapis.com/nobody.Knows' value: 'x'}",
         '{"@type":"type.googleapis.com/nobody.Knows","value":"CiB0eXBlLmdvb2dsZWFwaXMuY29tL25vYm9keS5Lbm93cxIBeA=="}'),
        ("well_any {type_url: 'type.googleapis.com/kinds.v1.Inner' value: '\\n\\002hi'}",
         '{"@type":"type.googleapis.com/kinds.v1.Inner","text":"hi"}'),
        ("inner {text: 'a' big: 9007199254740993 colours {key: 'k' value: RED}}", '{"text":"a","big":"9007199254740993","colours":{"k":"RED"}}'),
        ("one_inner {}", "{}"),
    ],
)  # fmt: skip
def test_values_of_columns(given: str, value: Any) -> None:
    assert column(given) == value


@pytest.mark.parametrize(
    ("given", "field", "reason"),
    [
        ("a_string: 'a\\000'", "a_string", "CHARACTER_NOT_STORABLE"),
        ("maybe_string: '\\000'", "maybe_string", "CHARACTER_NOT_STORABLE"),
        ("well_string_value {value: '\\000'}", "well_string_value", "CHARACTER_NOT_STORABLE"),
        ("many_string: '\\\\\\000'", "many_string", "CHARACTER_NOT_STORABLE"),
        ("by_string {key: '\\000'}", "by_string", "CHARACTER_NOT_STORABLE"),
        ("to_string {key: 'a' value: '\\000'}", "to_string", "CHARACTER_NOT_STORABLE"),
        ("inner {more {more {text: '\\000'}}}", "inner", "CHARACTER_NOT_STORABLE"),
        ("well_struct {fields {key: '\\000'}}", "well_struct", "CHARACTER_NOT_STORABLE"),
        ("well_timestamp {seconds: 253402300800}", "well_timestamp", "OUT_OF_RANGE"),
        ("well_timestamp {seconds: -62135596801}", "well_timestamp", "OUT_OF_RANGE"),
        ("well_timestamp {nanos: -1}", "well_timestamp", "OUT_OF_RANGE"),
        ("well_duration {seconds: 315576000001}", "well_duration", "OUT_OF_RANGE"),
        ("well_duration {seconds: 1 nanos: -1}", "well_duration", "OUT_OF_RANGE"),
        ("inner {time {seconds: 999999999999999}}", "inner", "OUT_OF_RANGE"),
        ("many_timestamp {nanos: 1000000000}", "many_timestamp", "OUT_OF_RANGE"),
        ("well_value {number_value: nan}", "well_value", "OUT_OF_RANGE"),
        ("well_field_mask {paths: 'aB'}", "well_field_mask", "OUT_OF_RANGE"),
    ],
)
def test_what_a_column_cannot_hold_is_refused_with_the_field(given: str, field: str, reason: str) -> None:
    assert refused(lambda: column(given)) == [(field, reason)]


def test_an_any_that_is_not_what_it_says_is_kept_as_it_came() -> None:
    assert "kinds.v1.Inner" in column("well_any {type_url: 'type.googleapis.com/kinds.v1.Inner' value: '\\377\\377'}")


def test_a_text_of_proto2_that_is_no_utf8_is_refused() -> None:
    schema = made_of(
        {
            "old.proto": 'syntax = "proto2";\npackage old.v1;\nimport "google/api/resource.proto";\n'
            'message Old { option (google.api.resource) = {type: "old.test/Old" pattern: "olds/{old}"};\n'
            "optional string name = 1; optional string text = 2; }\n"
        }
    )
    resource = schema.resources["old.v1.Old"]
    made = schema.message_class("old.v1.Old").FromString(b"\x12\x02\xff\xfe")
    call = lambda: Decisions(schema, lambda: NOW).create(resource, made, parent="", id="a", owner="", origin=ADA.origin)  # noqa: E731
    assert refused(call) == [("text", "OUT_OF_RANGE")]


# ------------------------------------------------------------------------------------------------- sizes


def shelf(**fields: Any) -> Any:
    """A shelf with these fields."""
    return type(message("Shelf"))(**fields)


def test_a_resource_that_is_too_large_may_only_become_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small requests add up: entries of a map, items that are appended."""
    monkeypatch.setattr(decisions, "RESOURCE_BYTES_MAX", 1000)
    with pytest.raises(Invalid) as refusal:
        DECISIONS.create(SHELF, shelf(title="t", theme="x" * 1000), parent="", id="s", owner="", origin=ADA.origin)
    assert refusal.value.reason == "RESOURCE_TOO_LARGE"
    large = shelf(name="shelves/s", title="t", theme="x" * 2000)
    row = Row("shelves/s", large.SerializeToString(), 1, "users/ada")

    def become(length: int) -> Change | None:
        wanted = shelf(name="shelves/s", theme="y" * length)
        return DECISIONS.update(SHELF, row, wanted, ["theme"], etag="", origin=ADA.origin)[1]

    for length in (1500, 100):
        assert become(length) is not None
    with pytest.raises(Invalid):
        become(2500)
