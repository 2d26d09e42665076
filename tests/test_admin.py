"""What admins can do, over REST and gRPC, and what keeps them within their scopes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
from edge_ground import eventually
from google.protobuf.field_mask_pb2 import FieldMask
from people_ground import PASSWORD, Client, People, Refused
from transom.accounts.v1 import accounts_pb2
from transom.accounts.v1.accounts_pb2_grpc import AccountsServiceStub
from transom.admin.v1 import admin_pb2 as pb
from transom.admin.v1.admin_pb2_grpc import AdminServiceStub

from deploy.native.stack import Stack
from server.engine.granting import within
from server.engine.tokens import KEY, WORD, digest, new_id, new_token

BEYOND = Refused("PERMISSION_DENIED", "BEYOND_SCOPES")
NOT_ADMIN = Refused("PERMISSION_DENIED", "ADMIN_REQUIRED")
NOT_SIGNED_IN = Refused("UNAUTHENTICATED", "SIGN_IN_REQUIRED")
NO_USER = Refused("NOT_FOUND", "NOT_FOUND")


@pytest.fixture(scope="module")
def people(stack: Stack) -> People:
    return People(stack)


def admin(people: People, *scopes: str) -> Client:
    """An admin who may do only that; everything where nothing is said."""
    made = people.person()
    people.sql("update transom.users set roles = '{admin}', scopes = %s where id = %s", list(scopes) or None, made.id)
    return made


def key(people: People, role: str, scopes: list[str] | None = None) -> Client:
    id, token = new_id(), new_token(KEY)
    people.sql(
        "insert into transom.keys (id, token_hash, title, role, scopes) values (%s, %s, 'test', %s, %s)",
        *(id, digest(token), role, scopes),
    )
    return Client(people.stack, token, f"keys/{id}")


@dataclass(frozen=True)
class Road:
    """One method over REST and over gRPC."""

    method: str
    verb: str
    path: str
    request: Any
    body: Any = None

    def rest(self, who: Client) -> Any:
        return who.call(self.verb, self.path, self.body)

    def grpc(self, who: Client) -> Any:
        return who.grpc(AdminServiceStub, self.method, self.request)


def roads(user: str) -> list[Road]:
    """Every method there is."""
    return [
        Road("ListUsers", "GET", "users?pageSize=1", pb.ListUsersRequest(page_size=1)),
        Road("GetUser", "GET", user, pb.GetUserRequest(name=user)),
        Road("UpdateUser", "PATCH", user, pb.UpdateUserRequest(user=pb.User(name=user)), {}),
        Road(
            "RevokeUserSessions",
            "POST",
            f"{user}:revokeSessions",
            pb.RevokeUserSessionsRequest(name=user),
            {},
        ),
        Road(
            "RemoveUserSecondFactor",
            "POST",
            f"{user}:removeSecondFactor",
            pb.RemoveUserSecondFactorRequest(name=user),
            {},
        ),
        Road("InviteUser", "POST", "users:invite", pb.InviteUserRequest(), {}),
        Road("ImpersonateUser", "POST", f"{user}:impersonate", pb.ImpersonateUserRequest(name=user), {}),
        Road("ListAuditEntries", "GET", "auditEntries?pageSize=1", pb.ListAuditEntriesRequest(page_size=1)),
        Road("CreateKey", "POST", "keys", pb.CreateKeyRequest(), {}),
        Road("ListKeys", "GET", "keys", pb.ListKeysRequest()),
        Road("RevokeKey", "POST", "keys/none:revoke", pb.RevokeKeyRequest(name="keys/none"), {}),
        Road(
            "ExplainAccess",
            "POST",
            "access:explain",
            pb.ExplainAccessRequest(action="get", resource_name="sites/none"),
            {"action": "get", "resourceName": "sites/none"},
        ),
    ]


SCOPES = {
    "ListUsers": "transom.admin.v1.User:list",
    "GetUser": "transom.admin.v1.User:get",
    "UpdateUser": "transom.admin.v1.User:update",
    "RevokeUserSessions": "transom.admin.v1.User:revoke_sessions",
    "RemoveUserSecondFactor": "transom.admin.v1.User:update",
    "InviteUser": "transom.admin.v1.User:invite",
    "ImpersonateUser": "transom.admin.v1.User:impersonate",
    "ListAuditEntries": "transom.admin.v1.AuditEntry:list",
    "CreateKey": "transom.admin.v1.Key:create",
    "ListKeys": "transom.admin.v1.Key:list",
    "RevokeKey": "transom.admin.v1.Key:revoke",
    "ExplainAccess": "transom.admin.v1.Rule:explain",
}


def passed(answer: Any) -> bool:
    """Whether the caller was let in, whatever became of the call then."""
    return not isinstance(answer, Refused) or answer.code not in ("UNAUTHENTICATED", "PERMISSION_DENIED")


def test_every_method_has_a_row_here() -> None:
    methods = {method.name for method in pb.DESCRIPTOR.services_by_name["AdminService"].methods}
    assert methods == {road.method for road in roads("users/a")} == set(SCOPES)


def test_nobody_but_admins_gets_in(people: People) -> None:
    ann = people.person()
    acted = act_as(admin(people), ann)
    refused = [
        (people.nobody, NOT_SIGNED_IN, "nobody"),
        (ann, NOT_ADMIN, "an account"),
        (people.person(anonymous=True), NOT_ADMIN, "an anonymous account"),
        (key(people, "service"), NOT_ADMIN, "a service key"),
        (key(people, "service", ["*:*"]), NOT_ADMIN, "a service key with a scope for everything"),
        (acted, Refused("PERMISSION_DENIED", "IMPERSONATED"), "an admin who acts as somebody else"),
    ]
    for who, wanted, sentence in refused:
        for road in roads(ann.user):
            assert road.rest(who) == wanted, f"{sentence}: {road.method} over REST"
            assert road.grpc(who) == wanted, f"{sentence}: {road.method} over gRPC"
    for who in (admin(people), key(people, "admin"), admin(people, "*:*"), key(people, "admin", ["*:*"])):
        other = people.person()
        for road in roads(other.user):
            if road.method != "ImpersonateUser" or not who.user.startswith("keys/"):
                assert passed(road.rest(who)) and passed(road.grpc(who)), road.method


def test_each_method_needs_its_scope(people: People) -> None:
    ann = people.person()
    for road in roads(ann.user):
        scope = SCOPES[road.method]
        message, _, action = scope.partition(":")
        wanted = Refused("PERMISSION_DENIED", "SCOPE_REQUIRED", (), (("scope", scope),))
        lacking = admin(people, *(other for other in SCOPES.values() if other != scope))
        assert road.rest(lacking) == wanted and road.grpc(lacking) == wanted, road.method
        for enough in (scope, f"{message}:*", f"*:{action}"):
            assert passed(road.grpc(admin(people, enough))), f"{road.method} with {enough}"


# --------------------------------------------------------------------------------------------------- what admins see


def test_accounts_are_listed_found_and_shown(people: People) -> None:
    root, word = admin(people), secrets.token_hex(6)
    made = [people.person() for _ in range(5)]
    for number, one in enumerate(made):
        email = f"{word}-{number}@example.com"
        people.sql("update transom.users set email = %s, email_key = %s where id = %s", email, email, one.id)
    found, token, pages = [], "", 0
    while True:
        page = root.get(f"users?email={word.upper()}&pageSize=2&pageToken={token}")
        found += [user["name"] for user in page["users"]]
        token, pages = page["nextPageToken"], pages + 1
        if not token:
            break
    assert found == [one.user for one in reversed(made)] and pages == 3
    assert root.get(f"users?email={word}-3")["users"][0]["email"] == f"{word}-3@example.com"
    assert root.get(f"users?email={word}%25")["users"] == [], "nothing stands for anything"
    people.sql("update transom.users set roles = '{inspector}' where id = %s", made[1].id)
    assert [user["name"] for user in root.get(f"users?email={word}&role=inspector")["users"]] == [made[1].user]
    assert root.get("users?pageSize=-1") == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("page_size",))
    assert root.get(f"users?email={word}&pageToken=abc").fields == ("page_token",)

    user = root.get(made[1].user)
    assert user["roles"] == ["inspector"] and user["ways"] == ["password"] and user["seenTime"] and not user["disabled"]
    assert "scopes" not in user and "disableTime" not in user and user["etag"]
    assert PASSWORD not in str(user) and "argon2" not in str(user)
    assert root.get("users/nobody") == NO_USER
    same = root.grpc(AdminServiceStub, "GetUser", pb.GetUserRequest(name=made[1].user))
    assert (same.etag, same.email) == (user["etag"], user["email"]) and not same.HasField("scopes")


# -------------------------------------------------------------------------------------------------- what admins change


def test_an_account_is_changed_and_each_change_noted_with_it(people: People) -> None:
    root, ann = admin(people), people.person()
    before = root.get(ann.user)
    changed = root.call(
        "PATCH",
        f"{ann.user}?updateMask=displayName,roles",
        {"displayName": "Ann", "roles": ["manager", "inspector", "manager"], "etag": before["etag"]},
    )
    assert (changed["displayName"], changed["roles"]) == ("Ann", ["inspector", "manager"])
    assert changed["etag"] != before["etag"]
    stale = root.call("PATCH", f"{ann.user}?updateMask=displayName", {"displayName": "B", "etag": before["etag"]})
    assert stale == Refused("ABORTED", "STALE_ETAG")
    assert people.noted(ann, "roles_changed") == [("ok", {"from": "", "to": "inspector manager"})]
    assert people.noted(ann, "display_name_changed") == [("ok", {})]
    actors = people.sql(
        "select distinct actor, address, request_id <> '' from transom.audit where target = %s", ann.user
    )
    assert actors == [(root.user, "127.0.0.1", True)]

    again = root.call("PATCH", f"{ann.user}?updateMask=displayName", {"displayName": "Ann"})
    assert again["etag"] == changed["etag"]
    assert len(people.noted(ann, "display_name_changed")) == 1, "nothing was changed"
    wiped = root.grpc(
        AdminServiceStub,
        "UpdateUser",
        pb.UpdateUserRequest(user=pb.User(name=ann.user), update_mask=FieldMask(paths=["roles"])),
    )
    assert wiped.roles == [] and wiped.display_name == "Ann"


WRONG_CHANGES = [
    ("a role in capitals", "roles", {"roles": ["Admin"]}, "user.roles"),
    ("a role with a space", "roles", {"roles": ["a b"]}, "user.roles"),
    ("too many roles", "roles", {"roles": [f"r{n}" for n in range(21)]}, "user.roles"),
    ("a name with a line break", "displayName", {"displayName": "a\nb"}, "user.display_name"),
    ("a scope of nothing", "scopes", {"scopes": {"allowed": ["inspect.v1.Bridge:get"]}}, "user.scopes.allowed[0]"),
    ("a scope that is none", "scopes", {"scopes": {"allowed": ["everything"]}}, "user.scopes.allowed[0]"),
]


def test_what_is_wrong_is_named_and_changes_nothing(people: People) -> None:
    root, ann = admin(people), people.person()
    before = root.get(ann.user)
    for sentence, mask, body, field in WRONG_CHANGES:
        answer = root.call("PATCH", f"{ann.user}?updateMask={mask}", body)
        assert answer == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", (field,)), sentence
    nowhere = pb.UpdateUserRequest(user=pb.User(name=ann.user), update_mask=FieldMask(paths=["password"]))
    assert root.grpc(AdminServiceStub, "UpdateUser", nowhere).fields == ("update_mask",)
    for name in ("users/", "users/a/b", "people/a", ""):
        assert root.grpc(AdminServiceStub, "GetUser", pb.GetUserRequest(name=name)).fields == ("name",)
    anonymous = people.person(anonymous=True)
    answer = root.call("PATCH", f"{anonymous.user}?updateMask=roles", {"roles": ["manager"]})
    assert answer == Refused("FAILED_PRECONDITION", "ANONYMOUS")
    assert root.call("PATCH", "users/nobody?updateMask=roles", {"roles": []}) == NO_USER
    unchanged = root.get(ann.user)
    assert unchanged == before


def test_roles_count_at_once_in_sessions_that_there_are(people: People) -> None:
    root, ann = admin(people), people.person()
    assert ann.get("users?pageSize=1") == NOT_ADMIN
    root.call("PATCH", f"{ann.user}?updateMask=roles", {"roles": ["admin"]})
    eventually(lambda: "users" in ann.get("users?pageSize=1"), within=1.0)
    root.call("PATCH", f"{ann.user}?updateMask=roles", {"roles": []})
    eventually(lambda: ann.get("users?pageSize=1") == NOT_ADMIN, within=1.0)


def test_who_is_disabled_is_out_and_comes_back_by_signing_in(people: People) -> None:
    root, ann = admin(people), people.person()
    sign_in = {"email": ann.email, "password": PASSWORD}
    assert ann.get("accounts/me")["name"] == ann.user
    shown = root.call("PATCH", f"{ann.user}?updateMask=disabled", {"disabled": True})
    assert shown["disabled"] and shown["disableTime"]
    eventually(lambda: ann.get("accounts/me") == Refused("UNAUTHENTICATED", "TOKEN_INVALID"), within=1.0)
    assert people.nobody.post("accounts:signIn", **sign_in) == Refused("UNAUTHENTICATED", "WRONG_CREDENTIALS")
    shown = root.call("PATCH", f"{ann.user}?updateMask=disabled", {"disabled": False})
    assert not shown["disabled"] and "disableTime" not in shown
    assert ann.get("accounts/me") == Refused("UNAUTHENTICATED", "TOKEN_INVALID"), "old sessions are gone"
    assert people.nobody.post("accounts:signIn", **sign_in)["token"]
    assert [people.noted(ann, action) for action in ("disabled", "enabled")] == [[("ok", {})], [("ok", {})]]


def test_all_sessions_of_an_account_end(people: People) -> None:
    root, ann = admin(people), people.person()
    sessions = [ann, *(people.session(ann) for _ in range(3))]
    assert root.post(f"{ann.user}:revokeSessions") == {"sessions": 4}
    for one in sessions:
        eventually(lambda one=one: one.get("accounts/me") == Refused("UNAUTHENTICATED", "TOKEN_INVALID"), within=1.0)
    assert root.post("users/nobody:revokeSessions") == NO_USER


def test_the_sessions_of_who_is_disabled_end_in_the_same_moment(people: People) -> None:
    """Whatever dies in between: there is no account that is disabled and has sessions, which would be good again with it."""
    root, ann = admin(people), people.person()
    disabled = "select disabled_time is not null from transom.users where id = %s"
    with psycopg.connect(people.stack.env["TRANSOM_POSTGRES"]) as other, ThreadPoolExecutor(1) as calling:
        other.execute("select 1 from transom.sessions where user_id = %s for update", [ann.id])
        answer = calling.submit(root.call, "PATCH", f"{ann.user}?updateMask=disabled", {"disabled": True})
        waiting = "select count(*) from pg_stat_activity where %s = any(pg_blocking_pids(pid))"
        eventually(lambda: people.sql(waiting, other.info.backend_pid) == [(1,)])
        assert people.sql(disabled, ann.id) == [(False,)]
        other.commit()
        assert answer.result()["disabled"]
    assert people.sql(disabled, ann.id) == [(True,)]
    assert people.sql("select count(*) from transom.sessions where user_id = %s", ann.id) == [(0,)]
    assert people.noted(ann, "sessions_ended") == [("ok", {"why": "disabled", "sessions": "1"})]


def test_somebody_is_invited_with_a_role(people: People) -> None:
    root, email = admin(people), f"{secrets.token_hex(6)}@example.com"
    assert root.post("users:invite", email=email, roles=["inspector"]) == {}
    words = people.sql("select purpose, details from transom.words where email = %s", email)
    assert words == [("invite", {"roles": ["inspector"], "by": root.user})], "whose reader signs up with it (below)"
    noted = people.sql("select details from transom.audit where action = 'invite' and actor = %s", root.user)
    assert noted == [({"domain": "example.com", "roles": "inspector"},)], "without the address, which may be nobody's"
    assert root.post("users:invite", email="no address").fields == ("email",)
    taken = root.post("users:invite", email=people.person().email)
    assert taken == Refused("ALREADY_EXISTS", "EMAIL_TAKEN")
    limited = admin(people, "transom.admin.v1.User:invite")
    assert limited.post("users:invite", email=email, roles=["inspector"]).reason == "SCOPE_REQUIRED"
    granting = admin(people, "transom.admin.v1.User:invite", "transom.admin.v1.User:grant")
    assert granting.post("users:invite", email=email, roles=["admin"]) == BEYOND
    assert granting.post("users:invite", email=email, roles=["inspector"]) == {}


def invited(people: People, by: str) -> Client:
    """Who has signed up with an invitation to be an admin."""
    word, email = new_token(WORD), f"{secrets.token_hex(6)}@example.com"
    people.sql(
        "insert into transom.words (token_hash, purpose, email, email_key, details, expire_time)"
        " values (%s, 'invite', %s, %s, %s, now() + interval '1 day')",
        *(digest(word), email, email, json.dumps({"roles": ["admin"], "by": by})),
    )
    made = people.nobody.post("accounts:signUp", email=email, password=PASSWORD, invitation=word)
    assert made["account"]["verified"] is True
    return Client(people.stack, made["token"], made["account"]["name"], email)


def test_an_invitation_gives_only_what_its_sender_could_still_give(people: People) -> None:
    scoped = "update transom.users set scopes = '{transom.admin.v1.User:*}' where id = %s"
    cases = [
        ("admins who still are", admin(people), "", ""),
        ("keys that still are", key(people, "admin"), "", ""),
        ("who was demoted", admin(people), "update transom.users set roles = '{}' where id = %s", "ADMIN_REQUIRED"),
        (
            "who was disabled",
            admin(people),
            "update transom.users set disabled_time = now() where id = %s",
            "ADMIN_REQUIRED",
        ),
        (
            "who is to be deleted",
            admin(people),
            "update transom.users set delete_time = now() where id = %s",
            "ADMIN_REQUIRED",
        ),
        ("who is gone", admin(people), "delete from transom.users where id = %s", "ADMIN_REQUIRED"),
        ("whose rights were narrowed", admin(people), scoped, "BEYOND_SCOPES"),
        ("a key that was revoked", key(people, "admin"), "delete from transom.keys where id = %s", "ADMIN_REQUIRED"),
        ("a key that never could", key(people, "service"), "", "ADMIN_REQUIRED"),
        ("nobody who is known", people.nobody, "", "ADMIN_REQUIRED"),
    ]
    for sentence, by, meanwhile, refused in cases:
        if meanwhile:
            people.sql(meanwhile, by.id)
        made = invited(people, by.user)
        assert made.get("accounts/me").get("roles", []) == ([] if refused else ["admin"]), sentence
        told = [(refused, {"roles": "admin", "inviter": by.user})] if refused else []
        assert people.noted(made, "roles_withheld") == told, sentence
    assert invited(people, "operator").get("accounts/me")["roles"] == ["admin"]


# ------------------------------------------------------------------------------------------ no more than one has oneself

WITHIN = [
    ("everything is within everything", None, None, True),
    ("something is within everything", {"a.B:get"}, None, True),
    ("everything is not within something", None, {"*:*"}, False),
    ("nothing is within anything", set(), set(), True),
    ("the same", {"a.B:get"}, {"a.B:get"}, True),
    ("another action", {"a.B:list"}, {"a.B:get"}, False),
    ("any action of one message", {"a.B:*"}, {"a.B:get", "a.B:list"}, False),
    ("one action of a message that is whole", {"a.B:get"}, {"a.B:*"}, True),
    ("any message's action", {"*:get"}, {"a.B:get"}, False),
    ("a message whose action is everyone's", {"a.B:get"}, {"*:get"}, True),
    ("all of all", {"*:*"}, {"a.B:*", "*:get"}, False),
    ("a bit more", {"a.B:get", "a.C:get"}, {"a.B:get"}, False),
]


@pytest.mark.parametrize(("sentence", "given", "had", "wanted"), WITHIN, ids=[case[0] for case in WITHIN])
def test_scopes_are_within_others(sentence: str, given: set[str] | None, had: set[str] | None, wanted: bool) -> None:
    made = within(None if given is None else frozenset(given), None if had is None else frozenset(had))
    assert made is wanted


def test_an_admin_gives_nobody_more_than_the_admin_has(people: People) -> None:
    users = "transom.admin.v1.User"
    keys = "transom.admin.v1.Key:*"
    limited = admin(people, f"{users}:*", keys, "inspect.v1.Site:get")
    ann, root, equal = people.person(), admin(people), admin(people, f"{users}:get")

    def make(scopes: Any, who: Client = limited, name: str = ann.user) -> Any:
        body = {"roles": ["admin"], **({} if scopes is None else {"scopes": {"allowed": scopes}})}
        return who.call("PATCH", f"{name}?updateMask=roles,scopes", body)

    assert make(None) == BEYOND, "an admin who may do everything"
    assert make(["*:*"]) == BEYOND
    assert make([f"{users}:get", "inspect.v1.Site:list"]) == BEYOND
    assert make([f"{users}:get", "inspect.v1.Site:get"])["roles"] == ["admin"]
    assert limited.call("PATCH", f"{ann.user}?updateMask=scopes", {}) == BEYOND, "without scopes is everything"
    for field, body in (("roles", {"roles": []}), ("disabled", {"disabled": True}), ("displayName", {})):
        assert limited.call("PATCH", f"{root.user}?updateMask={field}", body) == BEYOND, f"{field} of a mightier admin"
    assert limited.post(f"{root.user}:revokeSessions") == BEYOND
    assert limited.post(f"{equal.user}:revokeSessions") == {"sessions": 1}
    assert limited.call("PATCH", f"{equal.user}?updateMask=disabled", {"disabled": True})["disabled"]
    assert root.get("accounts/me")["name"] == root.user

    for role in ("service", "admin"):
        assert limited.post("keys", title="k", role=role) == BEYOND
        assert limited.post("keys", title="k", role=role, scopes={"allowed": ["inspect.v1.Site:*"]}) == BEYOND
        made = limited.post("keys", title="k", role=role, scopes={"allowed": ["inspect.v1.Site:get"]})
        assert made["serviceKey"]["scopes"] == {"allowed": ["inspect.v1.Site:get"]}
        assert limited.post(f"{made['serviceKey']['name']}:revoke") == {}
    assert limited.post(f"{key(people, 'service').user}:revoke") == BEYOND


def test_admins_do_not_take_their_own_rights(people: People) -> None:
    root = admin(people)
    own = Refused("FAILED_PRECONDITION", "OWN_ACCOUNT")
    for mask, body in (
        ("roles", {"roles": []}),
        ("disabled", {"disabled": True}),
        ("scopes", {"scopes": {"allowed": []}}),
    ):
        assert root.call("PATCH", f"{root.user}?updateMask={mask}", body) == own, mask
    assert root.call("PATCH", f"{root.user}?updateMask=displayName", {"displayName": "Root"})["displayName"] == "Root"


# -------------------------------------------------------------------------------------------------- acting as somebody


def act_as(who: Client, whom: Client, reason: str = "ticket 17") -> Client:
    made = who.post(f"{whom.user}:impersonate", reason=reason)
    return replace(whom, token=made["token"])


def test_an_admin_acts_as_somebody_seen_by_them_and_noted(people: People) -> None:
    root, ann = admin(people), people.person()
    acted = act_as(root, ann, "ticket 17: no photos")
    assert acted.get("accounts/me")["name"] == ann.user
    sessions = ann.get("sessions")["sessions"]
    assert "ticket 17: no photos" in [session["device"] for session in sessions]
    [(outcome, details)] = people.noted(ann, "impersonated")
    assert outcome == "ok" and details["reason"] == "ticket 17: no photos" and details["session"]
    assert acted.post("passkeys:beginRegistration").reason in ("IMPERSONATED", "SIGN_IN_AGAIN")
    # Who is no admin any more acts as nobody.
    people.sql("update transom.users set roles = '{}' where id = %s", root.id)
    eventually(lambda: acted.get("accounts/me") == Refused("UNAUTHENTICATED", "TOKEN_INVALID"), within=1.0)


def test_nobody_acts_as_an_admin_nor_without_a_reason(people: People) -> None:
    root, other, ann = admin(people), admin(people, "inspect.v1.Site:get"), people.person()
    denied = Refused("PERMISSION_DENIED", "IMPERSONATION_NOT_ALLOWED")
    assert root.post(f"{other.user}:impersonate", reason="why not") == denied
    assert people.noted(other, "impersonated") == [] or people.noted(other, "impersonated")[0][0] == denied.reason
    assert people.refusal_noted(other, "impersonated") == (denied.reason, {"reason": "why not"})
    for reason in ("", "  ", "a\nb", "x" * 201):
        assert root.post(f"{ann.user}:impersonate", reason=reason).fields == ("reason",), reason
    assert root.post("users/nobody:impersonate", reason="r") == NO_USER
    people.sql("update transom.users set disabled_time = now() where id = %s", ann.id)
    assert root.post(f"{ann.user}:impersonate", reason="r") == Refused("FAILED_PRECONDITION", "ACCOUNT_DISABLED")


# ---------------------------------------------------------------------------------------------------------- keys, audit


def test_a_key_is_made_used_listed_and_ended(people: People) -> None:
    root = admin(people)
    made = root.post("keys", title="nightly", scopes={"allowed": ["inspect.v1.Site:list"]})
    name, token = made["serviceKey"]["name"], made["token"]
    assert made["serviceKey"]["role"] == "service"
    program = Client(people.stack, token, name)
    assert name in [one["name"] for one in root.get("keys")["keys"]] and token not in str(root.get("keys"))
    assert program.get("accounts/me").reason == "NOT_AN_ACCOUNT", "it is known"
    assert root.post(f"{name}:revoke") == {}
    eventually(lambda: program.get("accounts/me") == Refused("UNAUTHENTICATED", "TOKEN_INVALID"), within=1.0)
    assert root.post(f"{name}:revoke") == Refused("NOT_FOUND", "NOT_FOUND")
    notes = [(action, details["title"]) for action, details in entries(people, name)]
    assert notes == [("key_created", "nightly"), ("key_revoked", "nightly")]
    assert token not in str(people.sql("select * from transom.audit where target = %s", name))
    for sentence, body, field in (
        ("no title", {}, "title"),
        ("a title with a line break", {"title": "a\nb"}, "title"),
        ("another role", {"title": "a", "role": "root"}, "role"),
        ("a scope of nothing", {"title": "a", "scopes": {"allowed": ["x.Y:get"]}}, "scopes[0]"),
    ):
        assert root.post("keys", **body).fields == (field,), sentence


def entries(people: People, target: str) -> list[tuple[str, dict[str, str]]]:
    return people.sql("select action, details from transom.audit where target = %s order by id", target)


def test_the_audit_log_is_listed_by_who_what_whom_and_when(people: People) -> None:
    root, ann = admin(people), people.person()
    for number in range(5):
        root.call("PATCH", f"{ann.user}?updateMask=roles", {"roles": [f"role{number}"]})
    root.call("PATCH", f"{ann.user}?updateMask=disabled", {"disabled": True})
    reader = admin(people, "transom.admin.v1.AuditEntry:list")

    def listed(query: str) -> list[dict[str, Any]]:
        found, token = [], ""
        while True:
            page = reader.get(f"auditEntries?pageSize=2&pageToken={token}&{query}")
            found += page["auditEntries"]
            token = page["nextPageToken"]
            if not token:
                return found

    changes = listed(f"target={ann.user}&action=roles_changed")
    assert [entry["details"]["to"] for entry in changes] == [f"role{number}" for number in reversed(range(5))]
    assert {(entry["actor"], entry["outcome"], entry["address"]) for entry in changes} == {
        (root.user, "ok", "127.0.0.1")
    }
    by_root = listed(f"actor={root.user}")
    assert [entry["action"] for entry in by_root].count("roles_changed") == 5
    middle = changes[2]["time"]
    later = listed(f"target={ann.user}&action=roles_changed&startTime={middle}")
    earlier = listed(f"target={ann.user}&action=roles_changed&endTime={middle}")
    assert (len(later), len(earlier)) == (3, 2)
    assert listed(f"target={ann.user}&actor=users/nobody") == []
    assert reader.get("auditEntries?pageToken=nonsense").fields == ("page_token",)
    assert reader.get(f"auditEntries?target={'x' * 201}").fields == ("target",)
    over_grpc = reader.grpc(
        AdminServiceStub, "ListAuditEntries", pb.ListAuditEntriesRequest(target=ann.user, action="roles_changed")
    )
    assert [entry.details["to"] for entry in over_grpc.audit_entries] == [e["details"]["to"] for e in changes]


def test_what_an_admin_does_as_somebody_is_found_by_either_name(people: People) -> None:
    root, ann = admin(people), people.person()
    acted = act_as(root, ann)
    acted.grpc(AccountsServiceStub, "SignOut", accounts_pb2.SignOutRequest())
    found = root.get(f"auditEntries?actor={root.user}")["auditEntries"]
    assert ann.user in [entry["target"] for entry in found]


@pytest.fixture(scope="module", autouse=True)
def _quiet(stack: Stack) -> Iterator[None]:
    """No admin is left behind for other tests."""
    yield
    People(stack).sql("update transom.users set roles = '{}', scopes = null where 'admin' = any(roles)")
