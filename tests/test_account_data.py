"""Accounts that go with all that is theirs, and copies of it: on the whole system, and with harm done in the middle."""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import re
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result
from consumers_ground import asynchronous
from diary_ground import Diary
from edge_ground import eventually
from people_ground import PASSWORD, Client, Refused
from transom.accounts.v1 import account_data_pb2 as pb
from transom.accounts.v1 import account_data_pb2_grpc

from consumers.workshop import open_workshop
from deploy.native.stack import Stack
from server.app import Parts
from server.caller import SYSTEM, Caller, Kind
from server.cli import user
from server.engine.resources import Call
from server.engine.tokens import digest
from server.errors import Refusal

STUB = account_data_pb2_grpc.AccountDataServiceStub


@pytest.fixture(scope="module")
def diary(components: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Diary]:
    with Diary.on(components, tmp_path_factory.mktemp("diary")) as ground, ground.served():
        yield ground


def mails_to(diary: Diary, address: str) -> list[str]:
    """Subjects and texts of the mails that came to an address, oldest first."""
    with urllib.request.urlopen(f"{diary.mailbox}/mails", timeout=5) as reply:
        found = [mail for mail in json.load(reply) if address in json.dumps(mail)]
    texts = []
    for mail in reversed(found):
        with urllib.request.urlopen(f"{diary.mailbox}/mails/{mail['id']}", timeout=5) as reply:
            message = email.message_from_bytes(reply.read(), policy=email.policy.default)
        body = message.get_body()
        texts.append(f"{message['Subject']}\n{body.get_content() if body else ''}")
    return texts


def account(diary: Diary, of: Client) -> tuple[Any, ...] | None:
    """When it was asked to go, until when it waits, and whether its data went once; None where it is gone."""
    rows = diary.rows("select delete_time, purge_time, purged from transom.users where id = %s", [of.id])
    return rows[0] if rows else None


def emptied(diary: Diary, of: Client) -> bool:
    """Whether its data went once."""
    found = account(diary, of)
    return found is not None and found[2]


async def later(diary: Diary, of: Client) -> None:
    """The time is over in which something may have been under way."""
    diary.execute("update transom.users set purge_time = clock_timestamp() where id = %s and purged", [of.id])
    async with open_workshop(diary.settings()) as shop:
        assert await shop.parts.deletions.begin() == 1


def gone(diary: Diary, of: Client) -> bool:
    """Whether the account is."""
    return account(diary, of) is None


# ------------------------------------------------------------------------------------------------------- who may


@dataclass(frozen=True)
class Attempt:
    sentence: str
    who: Callable[[Diary], Client]
    method: str
    request: Callable[[Client], Any]
    refused: Refused


def nobody(diary: Diary) -> Client:
    return diary.people.nobody


def person(diary: Diary) -> Client:
    return diary.people.person()


def long_ago(diary: Diary) -> Client:
    """Somebody who proved two hours ago who they are."""
    return diary.people.session(diary.people.person(), proved="2 hours")


def impersonated(diary: Diary) -> Client:
    admin, victim = diary.people.person(), diary.people.person()
    diary.execute("update transom.users set roles = '{admin}' where id = %s", [admin.id])
    diary.execute("update transom.sessions set impersonator = %s where user_id = %s", [admin.user, victim.id])
    return victim


def limited(diary: Diary) -> Client:
    """An admin who may do something else."""
    admin = diary.people.person()
    diary.execute(
        "update transom.users set roles = '{admin}', scopes = '{diary.v1.Page:get}' where id = %s", [admin.id]
    )
    return admin


SIGN_IN, ADMINS = Refused("UNAUTHENTICATED", "SIGN_IN_REQUIRED"), Refused("PERMISSION_DENIED", "ADMIN_REQUIRED")
ATTEMPTS = [
    Attempt("nobody deletes", nobody, "DeleteAccount", lambda _: pb.DeleteAccountRequest(), SIGN_IN),
    Attempt(
        "nobody deletes somebody", nobody, "DeleteAccount", lambda _: pb.DeleteAccountRequest(name="users/x"), SIGN_IN
    ),
    Attempt("nobody exports", nobody, "ExportAccount", lambda _: pb.ExportAccountRequest(), SIGN_IN),
    Attempt("nobody looks", nobody, "GetExport", lambda _: pb.GetExportRequest(name="exports/x"), SIGN_IN),
    Attempt("nobody lists", nobody, "ListExports", lambda _: pb.ListExportsRequest(), SIGN_IN),
    Attempt("nobody restores", nobody, "RestoreAccount", lambda _: pb.RestoreAccountRequest(name="users/x"), SIGN_IN),
    Attempt("one deletes another", person, "DeleteAccount", lambda _: pb.DeleteAccountRequest(name="users/x"), ADMINS),
    Attempt("one exports another", person, "ExportAccount", lambda _: pb.ExportAccountRequest(name="users/x"), ADMINS),
    Attempt("one lists another's", person, "ListExports", lambda _: pb.ListExportsRequest(user="users/x"), ADMINS),
    Attempt(
        "one restores oneself", person, "RestoreAccount", lambda me: pb.RestoreAccountRequest(name=me.user), ADMINS
    ),
    Attempt(
        "an admin of other scopes deletes",
        limited,
        "DeleteAccount",
        lambda _: pb.DeleteAccountRequest(name="users/x"),
        Refused("PERMISSION_DENIED", "SCOPE_REQUIRED", (), (("scope", "transom.accounts.v1.Account:delete"),)),
    ),
    Attempt(
        "an old session deletes",
        long_ago,
        "DeleteAccount",
        lambda _: pb.DeleteAccountRequest(),
        Refused("FAILED_PRECONDITION", "SIGN_IN_AGAIN"),
    ),
    Attempt(
        "a wrong password deletes",
        person,
        "DeleteAccount",
        lambda _: pb.DeleteAccountRequest(password="wrong horse"),
        Refused("PERMISSION_DENIED", "WRONG_PASSWORD"),
    ),
    Attempt(
        "who acts as somebody deletes them",
        impersonated,
        "DeleteAccount",
        lambda _: pb.DeleteAccountRequest(),
        Refused("PERMISSION_DENIED", "IMPERSONATED"),
    ),
    Attempt(
        "who acts as somebody takes their data along",
        impersonated,
        "ExportAccount",
        lambda _: pb.ExportAccountRequest(),
        Refused("PERMISSION_DENIED", "IMPERSONATED"),
    ),
    Attempt(
        "a name is none",
        person,
        "DeleteAccount",
        lambda _: pb.DeleteAccountRequest(name="people/x"),
        Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("name",)),
    ),
    Attempt(
        "an export is looked at that is not there",
        person,
        "GetExport",
        lambda _: pb.GetExportRequest(name="exports/x"),
        Refused("NOT_FOUND", "NOT_FOUND"),
    ),
    Attempt(
        "a word is none",
        nobody,
        "CancelAccountDeletion",
        lambda _: pb.CancelAccountDeletionRequest(word="tsw_no"),
        Refused("FAILED_PRECONDITION", "WORD_INVALID"),
    ),
]


@pytest.mark.parametrize("case", ATTEMPTS, ids=lambda case: case.sentence)
def test_what_is_refused(diary: Diary, case: Attempt) -> None:
    who = case.who(diary)
    assert who.grpc(STUB, case.method, case.request(who)) == case.refused
    if who.user:
        assert account(diary, who) == (None, None, False), "nothing was done"
    assert diary.value("select count(*) from transom.exports where user_id = %s", [who.id]) == 0


def test_refusals_are_the_same_over_rest(diary: Diary) -> None:
    old = long_ago(diary)
    assert diary.people.nobody.post("accounts:delete") == SIGN_IN
    assert old.post("accounts:delete") == Refused("FAILED_PRECONDITION", "SIGN_IN_AGAIN")
    assert old.post("accounts:export", name="users/x") == ADMINS
    assert old.get("exports/x") == Refused("NOT_FOUND", "NOT_FOUND")
    assert old.call("POST", f"{old.user}:restore", {}) == ADMINS


# ------------------------------------------------------------------------------------------------------- deletion


@asynchronous
async def test_an_account_goes_with_all_that_is_its_own_and_nothing_else_does(diary: Diary) -> None:
    ann, bob = diary.people.person(), diary.people.person()
    mine = diary.create(ann, "notebooks", {"title": "Ann's", "shared": True})
    bobs = diary.create(bob, "notebooks", {"title": "Bob's", "shared": True})
    anns_page, bobs_page = diary.create(ann, f"{mine}/pages", {}), diary.create(bob, f"{mine}/pages", {})
    diary.create(bob, f"{bobs_page}/remarks", {"text": "below what is below Ann's"})
    guest, kept = diary.create(ann, f"{bobs}/pages", {}), diary.create(bob, f"{bobs}/pages", {})
    diary.create(bob, f"{guest}/remarks", {})
    remark = diary.create(bob, f"{kept}/remarks", {})
    diary.create(ann, f"{kept}/remarks", {"text": "Ann's alone"})
    report = diary.create(ann, "reports", {})
    file, bobs_file = diary.upload(ann, "a.txt", b"Ann's"), diary.upload(bob, "b.txt", b"Bob's")
    diary.execute(
        "insert into transom.audit (actor, action, target, outcome, address, device, details)"
        " values (%(a)s, 'sign_in', %(a)s, 'ok', '203.0.113.7', 'phone', '{\"x\": \"y\"}'),"
        " ('', 'sign_in', %(a)s, 'WRONG', '203.0.113.8', 'tv', '{}'),"
        " ('users/admin', 'disabled', %(a)s, 'ok', '203.0.113.9', 'desk', '{\"why\": \"ann@\"}'),"
        " (%(b)s, 'sign_in', %(b)s, 'ok', '203.0.113.10', 'phone', '{}')",
        {"a": ann.user, "b": bob.user},  # type: ignore[arg-type]
    )
    diary.execute("insert into transom.identities (issuer, subject, user_id) values ('i', %s, %s)", [ann.id, ann.id])
    diary.execute(
        "insert into transom.words (token_hash, purpose, email, email_key, expire_time)"
        " values (%s, 'invite', %s, %s, now() + interval '1 day')",
        [ann.id.encode(), ann.email, ann.email],
    )
    diary.execute(
        "insert into transom.mails (id, recipient, subject, body) values (%s, %s, 'old', 'of the app')",
        [f"m{ann.id}", ann.email.upper()],
    )

    answer = ann.post("accounts:delete", password=PASSWORD)
    assert set(answer) == {"deleteTime", "word"} and answer["word"] == ""
    assert ann.get("accounts/me") == Refused("UNAUTHENTICATED", "TOKEN_INVALID"), "its sessions have ended"
    with redis.from_url(diary.env["TRANSOM_REDIS"]) as copies:
        assert copies.get(f"transom:token:{digest(ann.token).hex()}") == b"ended", "for servers that start now, too"
    wrong = Refused("UNAUTHENTICATED", "WRONG_CREDENTIALS")
    assert ann.post("accounts:signIn", email=ann.email, password=PASSWORD) == wrong
    eventually(lambda: emptied(diary, ann), within=20)

    assert diary.names("notebooks") & {mine, bobs} == {bobs}
    assert diary.names("pages") & {anns_page, bobs_page, guest, kept} == {kept}
    assert diary.names("reports") & {report} == set()
    assert {name for name in diary.names("remarks") if name.startswith((mine, bobs))} == {remark}
    deleted = diary.rows("select name from transom.events where verb = 'deleted' and name like 'notebooks/%%'")
    assert {mine, anns_page, bobs_page, guest} <= {name for (name,) in deleted}, "everybody can hear of it"
    assert len(deleted) == len(set(deleted)), "once"
    assert (diary.bytes_of(file), diary.bytes_of(bobs_file)) == ([], [b"Bob's"])
    assert bob.get(f"{bobs_file}:downloadUrl")["url"]
    assert mails_to(diary, ann.email) == []
    assert not gone(diary, ann), "what was under way may still come"

    await later(diary, ann)
    eventually(lambda: gone(diary, ann), within=20)
    for table, column in (("sessions", "user_id"), ("identities", "user_id"), ("files", "owner")):
        left = f"select count(*) from transom.{table} where {column} in (%s, %s)"
        rest = " and state <> 'DELETING'" if table == "files" else ""
        assert diary.value(left + rest, [ann.id, ann.user]) == 0, table
    assert diary.value("select count(*) from transom.words where email_key = %s", [ann.email]) == 0
    noted = "select actor, action, outcome, address, device, details from transom.audit where target = %s order by id"
    entries = diary.rows(noted, [ann.user])
    assert entries[:3] == [
        (ann.user, "sign_in", "ok", "", "", {}),
        ("", "sign_in", "WRONG", "", "", {}),
        ("users/admin", "disabled", "ok", "203.0.113.9", "desk", {}),
    ]
    assert [entry[1] for entry in entries if entry[2] == "ok"][2:][-1] == "account_deleted"
    assert all(entry[3:] == ("", "", {}) for entry in entries if entry[1].startswith("account_"))
    assert diary.rows(noted, [bob.user])[0][3:5] == ("203.0.113.10", "phone")
    eventually(lambda: len(mails_to(diary, ann.email)) == 1)
    assert "Your account is deleted" in mails_to(diary, ann.email)[0]
    eventually(
        lambda: (
            diary.rows("select subject, body from transom.mails where lower(recipient) = %s", [ann.email])
            == [("Transom: Your account is deleted", "")]
        )
    )
    told = diary.rows("select verb from transom.events where name = %s order by id", [ann.user])
    assert told == [("deletion_requested",), ("deletion_requested",), ("deleted",)]
    assert diary.parked() == []
    assert bob.get("accounts/me")["name"] == bob.user
    assert diary.create(bob, "notebooks", {}), "and others go on"


@asynchronous
async def test_the_work_is_safe_to_do_again_and_by_two_at_once(diary: Diary) -> None:
    ann = diary.people.person()
    diary.plant(ann.user, "notebooks", [f"notebooks/again-{i:03}" for i in range(250)])
    diary.plant("users/other", "pages", [f"notebooks/again-000/pages/p{i:03}" for i in range(450)])
    # The table of a resource that the schema has no more, and one that somebody has dropped by hand.
    diary.execute("create table diary_v1.letters (like diary_v1.notebooks including all)")
    diary.execute(
        "insert into transom.tables values ('diary.v1.Letter', 'diary_v1', 'letters'), ('diary.v1.X', 'diary_v1', 'x')"
    )
    diary.plant(ann.user, "letters", [f"letters/{i:03}" for i in range(250)])
    diary.plant("users/other", "letters", ["letters/other"])
    answer = ann.grpc(STUB, "DeleteAccount", pb.DeleteAccountRequest())
    assert answer.delete_time.seconds and not answer.word
    async with open_workshop(diary.settings()) as shop:
        origin = Call(SYSTEM).origin
        done = await asyncio.gather(*(shop.parts.deletions.work(ann.user, origin) for _ in range(2)))
        assert all(len(statements) <= 1 for statements in done)
    eventually(lambda: emptied(diary, ann), within=20)
    assert not {name for name in diary.names("notebooks") | diary.names("pages") if "again-" in name}
    assert diary.names("letters") == {"letters/other"}
    diary.execute("delete from transom.tables where message = 'diary.v1.X'")
    told = diary.rows("select name from transom.events where verb = 'deleted' and name like 'notebooks/again-%%'")
    assert len(told) == len(set(told)) == 700
    await later(diary, ann)
    eventually(lambda: gone(diary, ann), within=20)
    async with open_workshop(diary.settings()) as shop:
        assert await shop.parts.deletions.work(ann.user, origin) == (), "nothing is left to do"
        assert await shop.parts.deletions.work("users/nobody", origin) == ()


@asynchronous
async def test_a_worker_that_is_killed_in_the_middle_is_gone_on_for(diary: Diary) -> None:
    ann = diary.people.person()
    names = [f"notebooks/kill-{i:04}" for i in range(1000)]
    diary.plant(ann.user, "notebooks", names)
    diary.plant("users/other", "remarks", [f"{names[7]}/pages/p/remarks/r{i:03}" for i in range(300)])
    diary.plant("users/other", "pages", [f"{names[7]}/pages/p"])

    def left() -> int:
        return len(diary.names("notebooks") & set(names))

    with diary.held("select from diary_v1.notebooks where name = %s for update", names[500]) as waited:
        assert ann.post("accounts:delete") != SIGN_IN
        waited()
        assert 1 <= left() < 1000, "some are gone, and one is waited for"
        diary.kill()
    diary.work()
    eventually(lambda: emptied(diary, ann), within=30)
    assert left() == 0 and not [name for name in diary.names("remarks") if name.startswith("notebooks/kill-")]
    await later(diary, ann)
    eventually(lambda: gone(diary, ann), within=30)
    eventually(lambda: len(mails_to(diary, ann.email)) == 1)
    told = diary.rows("select name from transom.events where verb = 'deleted' and name like 'notebooks/kill-%%'")
    assert len(told) == len(set(told)) == 1301


@asynchronous
async def test_what_was_under_way_when_it_was_asked_for_does_not_survive(diary: Diary) -> None:
    ann = diary.people.person()
    caller = Caller(Kind.USER, ann.user)
    async with open_workshop(diary.settings()) as shop:
        parts = shop.parts
        notebook = parts.schema.resources["diary.v1.Notebook"]
        make = parts.schema.message_class("diary.v1.Notebook")
        ann.post("accounts:delete")
        eventually(lambda: emptied(diary, ann), within=20)
        # It was let in before, and is so slow that it writes now.
        await parts.resources.create(Call(caller), notebook, "", "late", make(title="late"))
        upload = await parts.files.create_upload(caller, "late.txt", "text/plain", 4)
        # A task that goes on after its account went.
        report = await parts.files.store("late-report", "r.txt", "text/plain", b"late", ann.user)
        assert report.owner == "system", "what is made for somebody who goes is nobody's"
        assert await parts.files.promise(ann.id, "x.zip", "application/zip") is None
    assert "notebooks/late" in diary.names("notebooks")
    await later(diary, ann)
    eventually(lambda: gone(diary, ann), within=20)
    assert "notebooks/late" not in diary.names("notebooks")
    state = "select state from transom.files where id = %s"
    assert diary.value(state, [upload.file.name.removeprefix("files/")]) == "DELETING"


@asynchronous
async def test_an_account_that_waits_can_be_kept_by_its_word_and_goes_otherwise(diary: Diary) -> None:
    ann, bob = diary.people.person(), diary.people.person()
    notebook = diary.create(ann, "notebooks", {"title": "kept"})
    diary.create(bob, "notebooks", {})

    async def condemned(parts: Parts, who: Client) -> str:
        caller = Caller(Kind.USER, who.user)
        with suppress(Refusal):  # an old session, where no password is given
            await parts.account_data.delete(caller)
            pytest.fail("it proved nothing")
        return (await parts.account_data.delete(caller, password=PASSWORD)).word

    async with open_workshop(diary.settings(account_delete_after=3)) as shop:
        word = await condemned(shop.parts, ann)
        assert ann.get("accounts/me") == Refused("UNAUTHENTICATED", "TOKEN_INVALID")
        assert await shop.parts.deletions.begin() == 0, "not yet"
        again = await shop.parts.account_data.delete(Caller(Kind.USER, ann.user), password=PASSWORD)
        assert again.word == "" and again.delete_time == account(diary, ann)[1]  # type: ignore[index]
        eventually(lambda: len(mails_to(diary, ann.email)) == 1)
        [mailed] = re.findall(r"/account/keep#(\S+)", mails_to(diary, ann.email)[0])
        assert mailed == word
        cancel = diary.people.nobody.post("accounts:cancelDeletion", word=word)
        assert cancel == {}
        assert account(diary, ann) == (None, None, False)
        assert ann.get("accounts/me") == Refused("UNAUTHENTICATED", "TOKEN_INVALID"), "old tokens stay dead"
        signed_in = ann.post("accounts:signIn", email=ann.email, password=PASSWORD)
        assert ann.signed_in(signed_in["token"]).get("accounts/me")["name"] == ann.user
        invalid = Refused("FAILED_PRECONDITION", "WORD_INVALID")
        assert diary.people.nobody.post("accounts:cancelDeletion", word=word) == invalid, "a word is used once"
        assert notebook in diary.names("notebooks")

        word = await condemned(shop.parts, bob)
        admin = Caller(Kind.USER, "users/admin", roles=frozenset({"admin"}))
        await shop.parts.account_data.restore(admin, bob.user)
        with pytest.raises(Refusal, match="does not wait"):
            await shop.parts.account_data.restore(admin, bob.user)
        await shop.parts.account_data.delete(admin, bob.user)
        with pytest.raises(Refusal, match="is to be deleted"):
            await shop.parts.account_data.export(admin, bob.user)
        diary.execute("update transom.users set purge_time = clock_timestamp() where id = %s", [bob.id])
        assert await shop.parts.deletions.begin() == 1
        with pytest.raises(Refusal, match="does not wait"):
            await shop.parts.account_data.restore(admin, bob.user)
    assert diary.people.nobody.post("accounts:cancelDeletion", word=word) == invalid, "another request, another word"
    eventually(lambda: emptied(diary, bob), within=20)


def test_an_anonymous_account_and_one_without_a_password_go_too(diary: Diary) -> None:
    anonymous, passwordless = diary.people.person(anonymous=True), diary.people.person(password=False)
    old = diary.people.session(anonymous, proved="20 days")
    assert "deleteTime" in old.post("accounts:delete")
    assert "deleteTime" in passwordless.post("accounts:delete")
    for who in (anonymous, passwordless):
        eventually(lambda who=who: emptied(diary, who), within=20)  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------------- export


def ready(diary: Diary, who: Client, export: str, within: float = 30) -> Any:
    """An export, once it is."""
    found: list[Any] = []

    def there() -> bool:
        found.append(who.get(export))
        return bool(found[-1]["state"] != "RUNNING")

    eventually(there, within=within)
    return found[-1]


def lines(archive: Any, message: str) -> list[dict[str, Any]]:
    """The resources of one kind in an export."""
    return [json.loads(line) for line in archive.read(f"resources/{message}.jsonl").splitlines()]


def test_an_export_holds_what_was_created_as_the_account_may_see_it_and_nothing_of_others(diary: Diary) -> None:
    ann, bob = diary.people.person(), diary.people.person()
    shared = diary.create(bob, "notebooks", {"title": "Bob's", "shared": True})
    names = sorted(diary.create(ann, "notebooks", {"title": f"№ {i}", "grade": "A+"}) for i in range(5))
    page = diary.create(ann, f"{names[0]}/pages", {"text": "two\nlines"})
    guest = diary.create(ann, f"{shared}/pages", {"text": "at Bob's"})
    diary.create(bob, f"{shared}/pages", {"text": "not Ann's"})
    diary.create(ann, "reports", {"text": "teachers alone read this"})
    file = diary.upload(ann, 'what? "this".txt', b"hello")
    unnamed, bobs = diary.upload(ann, "", b"unnamed"), diary.upload(bob, "b.txt", b"Bob's")
    diary.execute("insert into transom.identities (issuer, subject, user_id) values ('i', %s, %s)", [ann.id, ann.id])

    begun = ann.post("accounts:export")
    assert (begun["state"], begun["file"], begun["user"]) == ("RUNNING", "", ann.user)
    made = ready(diary, ann, begun["name"])
    assert made["state"] == "READY" and made["completeTime"] and made["expireTime"]
    assert ann.grpc(STUB, "GetExport", pb.GetExportRequest(name=begun["name"])).file == made["file"]
    assert bob.get(begun["name"]) == Refused("NOT_FOUND", "NOT_FOUND")
    assert [e["name"] for e in ann.get("exports")["exports"]] == [begun["name"]]
    assert bob.get("exports") == {"exports": []}
    eventually(lambda: len(mails_to(diary, ann.email)) == 1)
    assert "The copy of your data is ready" in mails_to(diary, ann.email)[0]

    assert bob.get(made["file"]) == bob.get(f"{made['file']}:downloadUrl") == Refused("NOT_FOUND", "NOT_FOUND")
    admin, as_ann = diary.people.person(), diary.people.session(ann)
    diary.execute("update transom.users set roles = '{admin}' where id = %s", [admin.id])
    acts = "update transom.sessions set impersonator = %s where token_hash = %s"
    diary.execute(acts, [admin.user, digest(as_ann.token)])
    assert as_ann.get("accounts/me")["name"] == ann.user
    assert as_ann.get(f"{made['file']}:downloadUrl") == Refused("NOT_FOUND", "NOT_FOUND"), (
        "who acts as her takes nothing"
    )
    archive = diary.download(ann, made["file"])
    assert archive.testzip() is None
    told = json.loads(archive.read("account.json"))
    assert (told["name"], told["email"], told["password_set"]) == (ann.user, ann.email, True)
    assert "password_hash" not in archive.read("account.json").decode()
    assert [s["device"] for s in json.loads(archive.read("sessions.json"))] == ["test"]
    assert [i["subject"] for i in json.loads(archive.read("identities.json"))] == [ann.id]
    assert json.loads(archive.read("passkeys.json")) == []
    assert "export_requested" in [entry["action"] for entry in json.loads(archive.read("audit.json"))]
    notebooks = lines(archive, "diary.v1.Notebook")
    assert [n["name"] for n in notebooks] == names, "in the order of their names"
    assert sorted(n["title"] for n in notebooks) == [f"№ {i}" for i in range(5)]
    assert all("createTime" in n and "grade" not in n for n in notebooks), "what is hidden is hidden here"
    assert [p["name"] for p in lines(archive, "diary.v1.Page")] == sorted([page, guest])
    assert lines(archive, "diary.v1.Report") == [], "it may not read its own"
    listed = {f["name"]: f for f in json.loads(archive.read("files.json"))}
    assert set(listed) == {file, unnamed}, "neither Bob's nor the export itself"
    assert archive.read(listed[file]["entry"]) == b"hello" and archive.read(listed[unnamed]["entry"]) == b"unnamed"
    assert '"' not in listed[file]["entry"] and listed[file]["filename"] == 'what? "this".txt'
    assert bobs not in archive.read("files.json").decode()
    assert ann.user in archive.read("README.txt").decode()


@asynchronous
async def test_exports_are_bounded_and_go_by_themselves(diary: Diary) -> None:
    ann = diary.people.person()
    large, small = diary.upload(ann, "large.txt", b"x" * 100), diary.upload(ann, "small.txt", b"y")
    with diary.held("lock table transom.mails in exclusive mode") as waited:
        first = ann.post("accounts:export")
        waited()
        assert ann.post("accounts:export")["name"] == first["name"], "one at a time"
        assert ann.post("accounts:delete", password="wrong horse") == Refused("PERMISSION_DENIED", "WRONG_PASSWORD")
    file = ready(diary, ann, first["name"])["file"]
    async with open_workshop(diary.settings(export_files_bytes_max=50)) as shop:
        exports = [first["name"]]
        for _ in range(4):
            made = await shop.parts.account_data.export(Caller(Kind.USER, ann.user))
            exports.append(made.name)
            assert ready(diary, ann, made.name)["state"] == "READY"
        assert ann.post("accounts:export") == Refused("RESOURCE_EXHAUSTED", "TOO_MANY_EXPORTS")

        # With less room, there is what is known of a file, and how to get it.
        diary.execute("update transom.exports set state = 'RUNNING', file = '' where id = %s", [exports[1][8:]])
        for sql, values in await shop.parts.exports.work(exports[1], Call(SYSTEM).origin):
            diary.execute(sql, values)
        archive = diary.download(ann, ann.get(exports[1])["file"])
        listed = {f["name"]: f for f in json.loads(archive.read("files.json"))}
        assert (listed[large]["entry"], bool(listed[small]["entry"])) == ("", True)
        assert listed[large]["link"].endswith(f"/transom/v1/{large}:downloadUrl")

        # Their time is over: the exports go, and their files.
        diary.execute("update transom.exports set expire_time = now() where user_id = %s", [ann.id])
        assert await shop.parts.exports.sweep() == 5
    assert ann.get("exports") == {"exports": []}
    assert ann.get(file) == Refused("NOT_FOUND", "NOT_FOUND") and diary.bytes_of(file) == []
    assert ann.get(large)["state"] == "READY"


@asynchronous
async def test_an_export_is_of_one_moment_while_writes_go_on(diary: Diary) -> None:
    ann = diary.people.person()
    diary.plant(ann.user, "notebooks", [f"notebooks/m-{i:05}" for i in range(2000)])
    stop, written = threading.Event(), 0

    def write() -> None:
        nonlocal written
        while not stop.is_set():
            # The later name first: without one moment, the export meets the second of some and misses the first.
            for name in (f"notebooks/z-{written:05}", f"notebooks/a-{written:05}"):
                diary.create(ann, f"notebooks?notebookId={name.rpartition('/')[2]}", {"title": "while it is copied"})
            written += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        eventually(lambda: written > 3)
        archive = diary.download(ann, ready(diary, ann, ann.post("accounts:export")["name"])["file"])
        at_the_end = written
    finally:
        stop.set()
        writer.join(20)
    names = [n["name"] for n in lines(archive, "diary.v1.Notebook")]
    assert names == sorted(names) and len([n for n in names if n.startswith("notebooks/m-")]) == 2000
    firsts = {n[-5:] for n in names if n.startswith("notebooks/z-")}
    seconds = {n[-5:] for n in names if n.startswith("notebooks/a-")}
    assert seconds <= firsts and len(firsts - seconds) <= 1 and 3 < len(firsts) <= at_the_end + 1


def test_a_worker_that_dies_over_an_export_is_gone_on_for(diary: Diary) -> None:
    ann = diary.people.person()
    diary.create(ann, "notebooks", {"title": "mine"})
    diary.kill()
    export = ann.post("accounts:export")["name"]
    id = export.removeprefix("exports/")

    def killed(holds: str, *values: str) -> str:
        """The file that a worker writes to when it is killed where it meets what `holds` locks."""
        with diary.held(holds, *values) as waited:
            diary.work()
            waited()
            diary.kill()
            return str(diary.value("select file from transom.exports where id = %s", [id]))

    assert killed("select from transom.exports where id = %s for update", id) == "", "before its file is known"
    file = killed("lock table transom.mails in exclusive mode")
    assert file, "once its file is whole, before it could say so"
    diary.work()
    made = ready(diary, ann, export)
    assert (made["state"], made["file"]) == ("READY", file)
    assert len(lines(diary.download(ann, made["file"]), "diary.v1.Notebook")) == 1
    eventually(lambda: len(mails_to(diary, ann.email)) == 1)
    whole = "select count(*) from transom.files where owner = %s and state = 'READY'"
    assert diary.value(whole, [ann.user]) == 1


@asynchronous
async def test_an_export_of_an_account_that_goes_ends_and_leaves_nothing(diary: Diary) -> None:
    ann = diary.people.person()
    diary.execute("insert into transom.exports (id, user_id) values (%s, %s)", [f"going-{ann.id}", ann.id])
    ann.post("accounts:delete")
    async with open_workshop(diary.settings()) as shop:
        for sql, values in await shop.parts.exports.work(f"exports/going-{ann.id}", Call(SYSTEM).origin):
            diary.execute(sql, values)
    assert diary.value("select state from transom.exports where user_id = %s", [ann.id]) == "FAILED"
    assert diary.value("select count(*) from transom.files where owner = %s", [ann.user]) == 0
    assert mails_to(diary, ann.email) == []


@asynchronous
async def test_an_admin_deletes_and_exports_but_not_those_who_limit_them(diary: Diary) -> None:
    ann, root = diary.people.person(), diary.people.person()
    diary.execute("update transom.users set roles = '{admin}' where id = %s", [root.id])
    scopes = frozenset({"transom.accounts.v1.Account:delete", "transom.accounts.v1.Export:*"})
    admin = Caller(Kind.USER, "users/admin", roles=frozenset({"admin"}), scopes=scopes)
    async with open_workshop(diary.settings()) as shop:
        data = shop.parts.account_data
        export = await data.export(admin, ann.user)
        assert (await data.get_export(admin, export.name)).user == ann.user
        assert [e.name for e in await data.list_exports(admin, ann.user)] == [export.name]
        ready(diary, ann, export.name)
        await data.delete(admin, ann.user)
        for refused in (data.delete(admin, root.user), data.export(admin, root.user)):
            with pytest.raises(Refusal, match="more than you"):
                await refused
        for refused in (data.delete(admin, "users/none"), data.export(admin, "users/none")):
            with pytest.raises(Refusal, match="no such account"):
                await refused
        with pytest.raises(Refusal, match="needs the scope"):
            await data.delete(replace(admin, scopes=frozenset()), ann.user)
        with pytest.raises(Refusal, match="for admins"):
            await data.delete(Caller(Kind.KEY, "keys/k", roles=frozenset({"service"})), ann.user)
    eventually(lambda: emptied(diary, ann), within=20)
    noted = diary.rows("select actor, action from transom.audit where target = %s order by id", [ann.user])
    assert "account_deletion_requested" in [action for _, action in noted]


def test_operators_export_and_delete_on_the_command_line(diary: Diary, tmp_path: Path) -> None:
    def transom(*words: str) -> Result:
        return CliRunner().invoke(user.command, words, env=diary.env)

    ann = diary.people.person()
    notebook = diary.create(ann, "notebooks", {"title": "mine"})
    told = transom("export", ann.email, "--to", str(tmp_path / "ann.zip"))
    assert told.exit_code == 0 and "is READY; written to" in told.stderr, told.stderr
    assert [n["name"] for n in lines(zipfile.ZipFile(tmp_path / "ann.zip"), "diary.v1.Notebook")] == [notebook]
    told = transom("delete", ann.user, "--yes")
    assert told.exit_code == 0 and "its data are removed from 20" in told.stderr, told.stderr
    told = transom("restore", ann.user)
    assert told.exit_code == 1 and "does not wait to be deleted" in told.stderr, told.stderr
    eventually(lambda: emptied(diary, ann), within=20)
    noted = "select count(*) from transom.audit where target = %s and actor = 'operator'"
    assert diary.value(noted, [ann.user]) >= 2
