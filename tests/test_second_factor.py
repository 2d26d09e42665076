"""The second factor through the edge, over REST and gRPC; and at the edges of its clock and its seal."""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import pyotp
import pytest
from edge_ground import eventually
from identity_ground import Place, asynchronous, place
from people_ground import PASSWORD, Client, People, Refused
from psycopg_pool import AsyncConnectionPool
from software_authenticator import SoftwareAuthenticator
from transom.accounts.v1 import accounts_pb2
from transom.accounts.v1 import second_factors_pb2 as pb
from transom.accounts.v1.accounts_pb2_grpc import AccountsServiceStub
from transom.accounts.v1.second_factors_pb2_grpc import SecondFactorsServiceStub

from deploy.native.stack import Stack
from server.caller import Caller, Kind
from server.engine.audit import Audit
from server.engine.authenticators import fresh_recovery_codes, fresh_secret, recovery_hash
from server.engine.letters import Letters
from server.engine.notices import Notices
from server.engine.post import Post
from server.engine.sealing import Seal
from server.engine.second_factors import PURPOSE, Given, SecondFactors, methods_of
from server.engine.throttle import Throttle
from server.engine.tokens import new_id
from server.errors import Internal, Invalid, Precondition
from server.store.attempts import StoredAttempts
from server.store.audit import StoredAudit
from server.store.known_networks import KnownNetworks
from server.store.redis_wire import RedisWire
from server.store.second_factors import StoredSecondFactors

WRONG = Refused("UNAUTHENTICATED", "WRONG_CODE")
OVER = Refused("UNAUTHENTICATED", "CHALLENGE_INVALID")
WRONG_FIELD = Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("code",))
TOO_MANY = Refused("RESOURCE_EXHAUSTED", "TOO_MANY_ATTEMPTS")
AGAIN = Refused("FAILED_PRECONDITION", "SIGN_IN_AGAIN")


@pytest.fixture(scope="module")
def people(stack: Stack) -> People:
    return People(stack)


@dataclass
class App:
    """Somebody's authenticator app."""

    people: People
    owner: Client
    secret: str
    recovery_codes: list[str]

    def code(self, step: int = 0) -> str:
        """What it shows now, or so many steps later. Codes taken before do not count any more."""
        self.people.sql("update transom.authenticators set last_step = 0 where user_id = %s", self.owner.id)
        return pyotp.TOTP(self.secret).at(int(time.time()) + 30 * step)

    @property
    def wrong(self) -> str:
        """A code that it does not show these minutes."""
        near = {pyotp.TOTP(self.secret).at(int(time.time()) + 30 * step) for step in range(-4, 5)}
        return next(code for n in range(20) if (code := f"{n:06}") not in near)


def enrolled(people: People, **kind: Any) -> App:
    """A new account with a confirmed app."""
    ann = people.person(**kind)
    secret = ann.post("secondFactor:enrollAuthenticator")["secret"]
    done = ann.post("secondFactor:confirmAuthenticator", code=pyotp.TOTP(secret).now())
    return App(people, ann.signed_in(done["token"]), secret, done["recoveryCodes"])


def challenge(people: People, of: Client) -> str:
    """The token of the challenge that a sign-in with the password is answered with."""
    answer = people.nobody.post("accounts:signIn", email=of.email, password=PASSWORD, device="Pixel 9")
    assert "session" not in answer and "account" not in answer and not answer["token"], answer
    return str(answer["challenge"]["token"])


def answered(people: People, token: str, **given: str) -> Any:
    return people.nobody.post("accounts:signInWithSecondFactor", challengeToken=token, **given)


def state_of(who: Client) -> tuple[str, int]:
    """How far the account's second factor is, and how many recovery codes are left."""
    found = who.get("secondFactor")
    assert ("confirmTime" in found) == (found["state"] == "ACTIVE")
    return found["state"], found["recoveryCodesLeft"]


def mailed(people: People, to: Client) -> list[str]:
    """Texts of the mails that somebody has been sent, as the mail catcher took them."""
    mails = httpx.get(f"{people.stack.mailbox}/mails", trust_env=False).json()
    return [" ".join(mail["text"].split()) for mail in mails if mail["to"] == [to.email]]


def sessions(people: People, of: Client) -> int:
    [[count]] = people.sql("select count(*) from transom.sessions where user_id = %s", of.id)
    return int(count)


# ----------------------------------------------------------------------------------------------------------- flows


def test_from_the_first_code_to_the_last(people: People) -> None:
    ann = people.person()
    assert state_of(ann) == ("NONE", 0)
    enrolment = ann.post("secondFactor:enrollAuthenticator")
    uri = urlsplit(enrolment["uri"])
    assert (uri.scheme, uri.netloc, unquote(uri.path)) == ("otpauth", "totp", f"/Transom:{ann.email}")
    assert parse_qs(uri.query) == {"secret": [enrolment["secret"]], "issuer": ["Transom"]}
    assert state_of(ann) == ("PENDING", 0)
    assert "session" in people.nobody.post(
        "accounts:signIn", email=ann.email, password=PASSWORD
    )  # nothing is asked yet

    code = pyotp.TOTP(enrolment["secret"]).now()
    done = ann.post("secondFactor:confirmAuthenticator", code=f"{code[:3]} {code[3:]}")
    replaced = Refused("UNAUTHENTICATED", "TOKEN_INVALID")
    eventually(lambda: ann.get("accounts/me") == replaced)
    app = App(people, ann.signed_in(done["token"]), enrolment["secret"], done["recoveryCodes"])
    assert state_of(app.owner) == ("ACTIVE", 10)
    assert len(set(app.recovery_codes)) == 10

    asked = people.nobody.post("accounts:signIn", email=ann.email, password=PASSWORD)["challenge"]
    assert asked["methods"] == ["totp", "recovery_code"]
    assert people.nobody.signed_in(asked["token"]).get("accounts/me") == Refused("UNAUTHENTICATED", "TOKEN_INVALID")
    answer = answered(people, challenge(people, ann), code=app.code())
    assert answer["account"]["name"] == ann.user and answer["session"]["device"] == "Pixel 9"
    assert ann.signed_in(answer["token"]).get("accounts/me")["email"] == ann.email

    typed = app.recovery_codes[0].upper().replace("-", " ")
    assert "session" in answered(people, challenge(people, ann), recoveryCode=typed)
    assert state_of(app.owner) == ("ACTIVE", 9)
    assert len(people.noted(ann, "recovery_code_used")) == 1

    fresh = app.owner.post("secondFactor:regenerateRecoveryCodes")["recoveryCodes"]
    assert len(set(fresh) | set(app.recovery_codes)) == 20
    assert answered(people, challenge(people, ann), recoveryCode=app.recovery_codes[1]) == WRONG
    assert "session" in answered(people, challenge(people, ann), recoveryCode=fresh[1])

    assert app.owner.post("secondFactor:removeAuthenticator") == {}
    assert state_of(app.owner) == ("NONE", 0)
    assert "session" in people.nobody.post("accounts:signIn", email=ann.email, password=PASSWORD)
    assert people.sql("select 1 from transom.recovery_codes where user_id = %s", ann.id) == []
    deeds = ("second_factor_added", "recovery_codes_made", "second_factor_removed")
    assert [people.noted(ann, deed) for deed in deeds] == [[("ok", {})]] * 3


def test_it_is_the_same_over_grpc(people: People) -> None:
    ann, stub = people.person(), SecondFactorsServiceStub
    secret = ann.grpc(stub, "EnrollAuthenticator", pb.EnrollAuthenticatorRequest()).secret
    wrong = ann.grpc(stub, "ConfirmAuthenticator", pb.ConfirmAuthenticatorRequest(code="12345"))
    assert wrong == WRONG_FIELD
    request = pb.ConfirmAuthenticatorRequest(code=pyotp.TOTP(secret).now())
    done = ann.grpc(stub, "ConfirmAuthenticator", request)
    app = App(people, ann.signed_in(done.token), secret, list(done.recovery_codes))
    state = app.owner.grpc(stub, "GetSecondFactor", pb.GetSecondFactorRequest())
    assert (state.state, state.recovery_codes_left) == (pb.SecondFactor.ACTIVE, 10)
    asked = people.nobody.grpc(
        AccountsServiceStub, "SignIn", accounts_pb2.SignInRequest(email=ann.email, password=PASSWORD)
    )
    assert not asked.token and not asked.HasField("session") and not asked.HasField("account")
    request = pb.SignInWithSecondFactorRequest(challenge_token=asked.challenge.token, code=app.wrong)
    assert people.nobody.grpc(stub, "SignInWithSecondFactor", request) == WRONG
    request.code = app.code()
    assert people.nobody.grpc(stub, "SignInWithSecondFactor", request).account.name == ann.user
    assert people.nobody.grpc(stub, "SignInWithSecondFactor", request) == OVER
    request = pb.RemoveAuthenticatorRequest(recovery_code=app.recovery_codes[0])
    app.owner.grpc(stub, "RemoveAuthenticator", request)
    assert app.owner.grpc(stub, "GetSecondFactor", pb.GetSecondFactorRequest()).state == pb.SecondFactor.NONE


def test_a_passkey_is_both_factors(people: People) -> None:
    app = enrolled(people)
    device = SoftwareAuthenticator(f"http://localhost:{people.stack.ports['edge']}")
    begun = app.owner.post("passkeys:beginRegistration")["options"]
    app.owner.post("passkeys:finishRegistration", credential=device.create(begun))
    begun = people.nobody.post("passkeys:beginSignIn")["options"]
    answer = people.nobody.post("passkeys:finishSignIn", credential=device.get(begun))
    assert answer["account"]["name"] == app.owner.user and "challenge" not in answer


def test_owners_are_told_what_was_done(people: People) -> None:
    app, device = (
        enrolled(people, verified=True),
        SoftwareAuthenticator(f"http://localhost:{people.stack.ports['edge']}"),
    )
    answered(people, challenge(people, app.owner), recoveryCode=app.recovery_codes[0])
    app.owner.post("secondFactor:regenerateRecoveryCodes")
    app.owner.post("secondFactor:removeAuthenticator")
    begun = app.owner.post("passkeys:beginRegistration")["options"]
    made = app.owner.post("passkeys:finishRegistration", credential=device.create(begun))
    app.owner.call("DELETE", made["passkey"]["name"])
    done = [
        "app was added",
        "code was used",
        "codes were made",
        "app was removed",
        "passkey was added",
        "passkey was removed",
    ]
    eventually(lambda: len(mailed(people, app.owner)) == len(done), within=30)
    told = mailed(people, app.owner)
    assert sorted([what for what in done if what in text] for text in told) == sorted([what] for what in done)
    assert all(app.owner.email in text for text in told)


def test_an_admin_lets_in_who_has_lost_everything(people: People) -> None:
    app = enrolled(people, verified=True)
    ann, admin, other = app.owner, people.person(), enrolled(people)
    for who in (admin, other.owner):
        people.sql("update transom.users set roles = '{admin}' where id = %s", who.id)
    scoped = people.person()
    people.sql(
        "update transom.users set roles = '{admin}', scopes = '{transom.admin.v1.User:update}' where id = %s", scoped.id
    )
    admin, scoped, self = people.session(admin), people.session(scoped), people.session(other.owner)
    path = f"{ann.user}:removeSecondFactor"
    assert people.person().post(path) == Refused("PERMISSION_DENIED", "ADMIN_REQUIRED")
    assert admin.post("users/none:removeSecondFactor") == Refused("NOT_FOUND", "NOT_FOUND")
    assert scoped.post(f"{self.user}:removeSecondFactor") == Refused("PERMISSION_DENIED", "BEYOND_SCOPES")
    assert self.post(f"{self.user}:removeSecondFactor") == Refused("FAILED_PRECONDITION", "OWN_ACCOUNT")
    assert state_of(self) == ("ACTIVE", 10)
    assert scoped.post(path) == {}
    assert scoped.post(path) == Refused("FAILED_PRECONDITION", "NOT_ENROLLED")
    assert "session" in people.nobody.post("accounts:signIn", email=ann.email, password=PASSWORD)
    assert people.sql("select 1 from transom.recovery_codes where user_id = %s", ann.id) == []
    actor = people.sql(
        "select actor from transom.audit where target = %s and action = 'second_factor_removed'", ann.user
    )
    assert actor == [(scoped.user,)]
    eventually(lambda: any("app was removed" in text for text in mailed(people, ann)), within=30)


# ------------------------------------------------------------------------------------------------------------ harm


def test_no_code_is_taken_twice(people: People) -> None:
    app = enrolled(people)
    now = pyotp.TOTP(app.secret).now()
    assert answered(people, challenge(people, app.owner), code=now) == WRONG  # it has confirmed the app
    code = app.code()
    assert "session" in answered(people, challenge(people, app.owner), code=code)
    assert answered(people, challenge(people, app.owner), code=code) == WRONG
    earlier = pyotp.TOTP(app.secret).at(int(time.time()) - 30)
    assert answered(people, challenge(people, app.owner), code=earlier) == WRONG  # one before it, neither
    assert app.owner.post("secondFactor:regenerateRecoveryCodes", code=code) == WRONG_FIELD


@pytest.mark.parametrize("kind", ["code", "recoveryCode"])
def test_of_many_who_bring_one_code_one_gets_in(kind: str, people: People) -> None:
    app = enrolled(people)
    tokens = [challenge(people, app.owner) for _ in range(5)]
    given = {kind: app.code() if kind == "code" else app.recovery_codes[0]}
    before = sessions(people, app.owner)
    answers = at_once(*(lambda token=token: answered(people, token, **given) for token in tokens))
    assert sorted(isinstance(answer, Refused) for answer in answers) == [False, True, True, True, True], answers
    assert [answer for answer in answers if isinstance(answer, Refused)] == [WRONG] * 4
    assert sessions(people, app.owner) == before + 1


def test_a_challenge_is_met_once(people: People) -> None:
    app = enrolled(people)
    token, before = challenge(people, app.owner), sessions(people, app.owner)
    codes = app.recovery_codes[:4]
    answers = at_once(*(lambda code=code: answered(people, token, recoveryCode=code) for code in codes))
    assert [answer for answer in answers if isinstance(answer, Refused)] == [OVER] * 3
    assert sessions(people, app.owner) == before + 1


def test_wrong_codes_close_the_challenge_and_then_the_app_but_not_the_way_of_the_owner(people: People) -> None:
    app = enrolled(people)
    token, before = challenge(people, app.owner), sessions(people, app.owner)
    for _ in range(5):
        assert answered(people, token, code=app.wrong) == WRONG
    assert answered(people, token, code=app.code()) == OVER
    assert answered(people, token, recoveryCode=app.recovery_codes[0]) == OVER
    wrong = [("WRONG_CODE", {"proof": "password", "second_factor": "totp"})] * 5
    eventually(lambda: [n for n in people.noted(app.owner, "sign_in") if n[0] != "ok"] == wrong)

    # Another challenge does not begin anew: the account's app is to be waited for. A recovery code gets in.
    for _ in range(4):
        token = challenge(people, app.owner)
        said = [answered(people, token, code=app.wrong) for _ in range(3)]
        if TOO_MANY in said:
            break
    assert said[-1] in (WRONG, TOO_MANY) and TOO_MANY in said
    assert sessions(people, app.owner) == before
    assert "session" in answered(people, token, recoveryCode=app.recovery_codes[0])


def test_a_disabled_account_is_not_let_in_half_way(people: People) -> None:
    app = enrolled(people)
    token = challenge(people, app.owner)
    people.sql("update transom.users set disabled_time = now() where id = %s", app.owner.id)
    answer = answered(people, token, code=app.code())
    assert answer == Refused("UNAUTHENTICATED", "WRONG_CREDENTIALS")


def test_a_new_password_is_never_too_late_for_a_sign_in_half_way(people: People) -> None:
    app = enrolled(people)
    token, before = challenge(people, app.owner), sessions(people, app.owner)
    # As a new password does: it holds the account, and takes challenges back.
    drop = "delete from transom.words where user_id = %s and purpose = 'second_factor'"
    answer = functools.partial(answered, people, token, recoveryCode=app.recovery_codes[0])
    assert people.meanwhile(app.owner, answer, drop, app.owner.id) == OVER
    sign_in = functools.partial(people.nobody.post, "accounts:signIn", email=app.owner.email, password=PASSWORD)
    change = "update transom.users set password_hash = 'another' where id = %s"
    refused = Refused("UNAUTHENTICATED", "WRONG_CREDENTIALS")
    assert people.meanwhile(app.owner, sign_in, change, app.owner.id) == refused
    assert sessions(people, app.owner) == before
    assert people.sql("select 1 from transom.words where user_id = %s", app.owner.id) == []


def test_a_mailed_code_is_of_an_address_that_still_is_the_accounts(people: People) -> None:
    ann = people.person(verified=True)
    token = people.nobody.post("accounts:requestSignInCode", email=ann.email)["token"]
    eventually(lambda: bool(mailed(people, ann)), within=30)
    [code] = re.findall(r"\b\d{4} \d{4}\b", mailed(people, ann)[0])
    sign_in = functools.partial(people.nobody.post, "accounts:signInWithCode", token=token, code=code)
    change = "update transom.users set email_key = 'new-' || email_key where id = %s"
    assert people.meanwhile(ann, sign_in, change, ann.id) == Refused("UNAUTHENTICATED", "WRONG_CREDENTIALS")
    assert sessions(people, ann) == 1


def test_a_page_that_may_not_sign_in_uses_nothing_up(people: People) -> None:
    app, edge = enrolled(people), people.stack.edge
    page = {"origin": edge, "sec-fetch-site": "same-origin", "x-transom-csrf": "1"}

    def from_page(path: str, headers: dict[str, str], **body: Any) -> httpx.Response:
        return httpx.post(f"{edge}/transom/v1/accounts:{path}", json=body, headers=headers, trust_env=False)

    begun = from_page("signIn", page, email=app.owner.email, password=PASSWORD, web=True).json()
    before = sessions(people, app.owner)
    given = {"challengeToken": begun["challenge"]["token"], "recoveryCode": app.recovery_codes[0]}
    refused = from_page(
        "signInWithSecondFactor", page | {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, **given
    )
    assert (refused.status_code, refused.json()["error"]["details"][0]["reason"]) == (403, "CSRF_CHECK_FAILED")
    assert (sessions(people, app.owner), state_of(app.owner)) == (before, ("ACTIVE", 10))
    done = from_page("signInWithSecondFactor", page, **given)
    assert done.json()["token"] == "" and "HttpOnly" in done.headers["set-cookie"], done.text


def test_a_challenge_goes_with_its_time(people: People) -> None:
    app = enrolled(people)
    token = challenge(people, app.owner)
    people.sql("update transom.words set expire_time = now() where user_id = %s", app.owner.id)
    assert answered(people, token, code=app.code()) == OVER


def test_a_challenge_of_one_is_no_challenge_of_another(people: People) -> None:
    ann, bob = enrolled(people), enrolled(people)
    assert answered(people, challenge(people, ann.owner), code=bob.code()) == WRONG
    assert answered(people, challenge(people, ann.owner), recoveryCode=bob.recovery_codes[0]) == WRONG
    assert state_of(bob.owner) == ("ACTIVE", 10)


SHAPES: list[tuple[str, dict[str, str], tuple[str, ...]]] = [
    ("nothing is given", {}, ("challenge_token", "code")),
    ("no code is given", {"challengeToken": "tsw_x"}, ("code",)),
    ("both codes are given", {"challengeToken": "t", "code": "123456", "recoveryCode": "a"}, ("recovery_code",)),
    ("the code has 5 digits", {"challengeToken": "t", "code": "12345"}, ("code",)),
    ("the code has letters", {"challengeToken": "t", "code": "12345a"}, ("code",)),
    ("the code has other digits", {"challengeToken": "t", "code": "١٢٣٤٥٦"}, ("code",)),
    ("the code is long", {"challengeToken": "t", "code": "1" * 100_000}, ("code",)),
    ("the recovery code is long", {"challengeToken": "t", "recoveryCode": "a" * 101}, ("recovery_code",)),
]


@pytest.mark.parametrize(("given", "fields"), [shape[1:] for shape in SHAPES], ids=[shape[0] for shape in SHAPES])
def test_what_is_no_code_is_refused_where(given: dict[str, str], fields: tuple[str, ...], people: People) -> None:
    answer = people.nobody.post("accounts:signInWithSecondFactor", **given)
    assert answer == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", fields)


def test_a_challenge_that_was_never_given_is_over(people: People) -> None:
    for token in ("t", "tsw_" + "a" * 43, "\0"):
        assert answered(people, token, code="123456") == OVER


def test_an_app_is_confirmed_by_its_own_code_alone(people: People) -> None:
    ann = people.person()
    assert ann.post("secondFactor:confirmAuthenticator", code="123456") == Refused(
        "FAILED_PRECONDITION", "NOT_ENROLLING"
    )
    first = ann.post("secondFactor:enrollAuthenticator")["secret"]
    second = ann.post("secondFactor:enrollAuthenticator")["secret"]
    assert ann.post("secondFactor:confirmAuthenticator") == WRONG_FIELD
    assert ann.post("secondFactor:confirmAuthenticator", code=pyotp.TOTP(first).now()) == WRONG_FIELD
    assert state_of(ann) == ("PENDING", 0)
    done = ann.post("secondFactor:confirmAuthenticator", code=pyotp.TOTP(second).now())
    ann = ann.signed_in(done["token"])
    enrolled_already = Refused("FAILED_PRECONDITION", "ALREADY_ENROLLED")
    assert ann.post("secondFactor:enrollAuthenticator") == enrolled_already
    nothing = Refused("FAILED_PRECONDITION", "NOT_ENROLLING")
    assert ann.post("secondFactor:confirmAuthenticator", code=pyotp.TOTP(second).now()) == nothing


def test_who_may_change_a_second_factor(people: People) -> None:
    app = enrolled(people)
    nobody = Refused("UNAUTHENTICATED", "SIGN_IN_REQUIRED")
    for method in ("enrollAuthenticator", "confirmAuthenticator", "removeAuthenticator", "regenerateRecoveryCodes"):
        assert (
            people.nobody.post(f"secondFactor:{method}", code="123456") == nobody
            if method != "enrollAuthenticator"
            else True
        )
    assert people.nobody.get("secondFactor") == nobody
    somebody = people.person(anonymous=True)
    assert somebody.post("secondFactor:enrollAuthenticator") == Refused("FAILED_PRECONDITION", "ANONYMOUS_ACCOUNT")

    stale = people.session(app.owner, proved="20 minutes")
    assert people.session(people.person(), proved="20 minutes").post("secondFactor:enrollAuthenticator") == AGAIN
    assert stale.post("secondFactor:removeAuthenticator") == AGAIN
    assert stale.post("secondFactor:regenerateRecoveryCodes") == AGAIN
    assert stale.post("secondFactor:removeAuthenticator", code=app.wrong) == WRONG_FIELD
    wrong = Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("recovery_code",))
    assert stale.post("secondFactor:regenerateRecoveryCodes", recoveryCode="abcd-efgh") == wrong
    codes = stale.post("secondFactor:regenerateRecoveryCodes", recoveryCode=app.recovery_codes[0])["recoveryCodes"]
    assert stale.post("secondFactor:removeAuthenticator", recoveryCode=app.recovery_codes[1]) == wrong  # replaced
    assert stale.post("secondFactor:removeAuthenticator", code=app.code()) == {}
    assert stale.post("secondFactor:removeAuthenticator", recoveryCode=codes[0]) == wrong
    nothing = Refused("FAILED_PRECONDITION", "NOT_ENROLLED")
    assert app.owner.post("secondFactor:regenerateRecoveryCodes") == nothing
    assert app.owner.post("secondFactor:removeAuthenticator") == {}


def test_a_session_that_has_ended_leaves_no_second_factor_behind(people: People) -> None:
    over = Refused("UNAUTHENTICATED", "TOKEN_INVALID")
    thief = people.person()
    secret = thief.post("secondFactor:enrollAuthenticator")["secret"]
    end = "delete from transom.sessions where user_id = %s"
    code = pyotp.TOTP(secret).now()
    assert (
        people.meanwhile(thief, lambda: thief.post("secondFactor:confirmAuthenticator", code=code), end, thief.id)
        == over
    )
    assert people.sql("select confirm_time from transom.authenticators where user_id = %s", thief.id) == [(None,)]
    app = enrolled(people)
    assert state_of(app.owner) == ("ACTIVE", 10)
    regenerate = functools.partial(app.owner.post, "secondFactor:regenerateRecoveryCodes")
    assert people.meanwhile(app.owner, regenerate, end, app.owner.id) == over
    assert "session" in answered(people, challenge(people, app.owner), recoveryCode=app.recovery_codes[0])


def test_nothing_that_is_kept_shows_a_secret(people: People) -> None:
    app = enrolled(people)
    [[kept]] = people.sql("select secret from transom.authenticators where user_id = %s", app.owner.id)
    raw = pyotp.TOTP(app.secret).byte_secret()
    assert app.secret.encode() not in kept and raw not in kept
    hashes = people.sql("select code_hash from transom.recovery_codes where user_id = %s", app.owner.id)
    assert {bytes(row[0]) for row in hashes} == {recovery_hash(app.owner.id, code) for code in app.recovery_codes}
    code = app.wrong
    answered(people, challenge(people, app.owner), code=code)
    said = "".join(path.read_text(errors="replace") for path in people.stack.place.logs.glob("api-*.log"))
    assert app.secret not in said and not any(code in said for code in app.recovery_codes)
    [[noted]] = people.sql(
        "select count(*) from transom.audit where target = %s and details::text like %s", app.owner.user, f"%{code}%"
    )
    assert noted == 0


# -------------------------------------------------------------------------------------------- the clock and the seal

STEP = 1_900_000_020 // 30
BEGIN = STEP * 30.0
OLD, NEW = "old " * 10, "new " * 10

MOMENTS: list[tuple[str, float, bool]] = [
    ("the moment it begins", BEGIN, True),
    ("the moment it ends", BEGIN + 29.999, True),
    ("the first of the step after", BEGIN + 30, True),
    ("the last of the step after", BEGIN + 59.999, True),
    ("the first two steps after", BEGIN + 60, False),
    ("the first of the step before", BEGIN - 30, True),
    ("just before that", BEGIN - 30.001, False),
    ("a day later", BEGIN + 86_400, False),
    ("the beginning of time", 0.0, False),
]


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Place]:
    with place(components) as made:
        yield made


@dataclass
class Ground:
    """Second factors on a clock that stands still."""

    factors: SecondFactors
    caller: Caller
    secret: str
    pool: Any


@asynccontextmanager
async def ground(
    at: Place, now: float, *, sealed: str = OLD, opened: tuple[str, ...] = (OLD,)
) -> AsyncIterator[Ground]:
    """An account with an app whose secret was sealed with `sealed`, where the secrets `opened` are given."""
    pool = AsyncConnectionPool(at.postgres, min_size=1, max_size=4, open=False)
    await pool.open()
    wire = RedisWire(at.redis)
    audit = Audit(StoredAudit(pool))
    throttle = Throttle(StoredAttempts(wire), KnownNetworks(pool), audit, None, None)
    notices = Notices(Post(lambda: time.time_ns() // 1000), Letters("Test", "http://localhost"))
    stored, user, secret = StoredSecondFactors(pool), new_id(), fresh_secret()
    at.sql("insert into transom.users (id, display_name) values (%s, 'Ann')", user)
    kept = Seal([sealed], PURPOSE).seal(secret.encode(), user)
    note = audit.statement("second_factor_added", target=f"users/{user}")
    assert await stored.enroll(user, kept)
    at.sql(
        "insert into transom.sessions (id, user_id, token_hash, device, expire_time)"
        " values (%s, %s, %s, 'test', now() + interval '1 hour')",
        *(user, user, user.encode()),
    )
    assert await stored.confirm(user, user, kept, 0, [recovery_hash(user, "abcd efgh")], [note]) is None
    caller = Caller(
        Kind.USER, f"users/{user}", session=f"sessions/{user}"
    )  # it has proved itself long ago: the code counts
    nothing: Any = None  # nobody signs in here, and no session is replaced
    factors = SecondFactors(
        stored, nothing, nothing, throttle, audit, notices, Seal(opened, PURPOSE), issuer="Test", clock=lambda: now
    )
    try:
        yield Ground(factors, caller, secret, pool)
    finally:
        await wire.aclose()
        await pool.close()


@pytest.mark.parametrize(("now", "taken"), [moment[1:] for moment in MOMENTS], ids=[moment[0] for moment in MOMENTS])
def test_when_a_code_counts(now: float, taken: bool, at: Place) -> None:
    @asynchronous
    async def tried() -> None:
        async with ground(at, now) as on:
            code = pyotp.HOTP(on.secret).at(STEP)
            assert code == pyotp.TOTP(on.secret).at(int(BEGIN))
            if taken:
                assert len(await on.factors.regenerate(on.caller, Given(code))) == 10
            else:
                with pytest.raises(Invalid):
                    await on.factors.regenerate(on.caller, Given(code))

    tried()


@asynchronous
async def test_another_secret_of_the_installation_takes_over_as_codes_are_used(at: Place) -> None:
    async with ground(at, BEGIN, opened=(NEW, OLD)) as on:
        await on.factors.regenerate(on.caller, Given(pyotp.HOTP(on.secret).at(STEP)))
        [[kept]] = at.sql("select secret from transom.authenticators where user_id = %s", on.caller.id)
        assert Seal([NEW], PURPOSE).open(kept, on.caller.id) == on.secret.encode()
        with pytest.raises(Invalid):  # nor does that make a code good again
            await on.factors.regenerate(on.caller, Given(pyotp.HOTP(on.secret).at(STEP)))


@asynchronous
async def test_who_lost_the_installations_secret_lets_people_in_by_recovery_codes(at: Place) -> None:
    async with ground(at, BEGIN, opened=(NEW,)) as on:
        with pytest.raises(Internal) as refusal:
            await on.factors.regenerate(on.caller, Given(pyotp.HOTP(on.secret).at(STEP)))
        assert "TRANSOM_SECRET" in str(refusal.value.__cause__) and "SECRET" not in refusal.value.message  # for the log
        await on.factors.remove(on.caller, Given(recovery_code="ABCD-EFGH"))
        assert await methods_of(StoredSecondFactors(on.pool))(on.caller.id) == ()


@asynchronous
async def test_without_a_secret_nobody_adds_an_app(at: Place) -> None:
    async with ground(at, BEGIN, opened=()) as on:
        fresh = replace(on.caller, session_time=time.time())
        await on.factors.remove(fresh, Given())
        with pytest.raises(Precondition) as refusal:
            await on.factors.enroll(fresh)
        assert refusal.value.reason == "SECRET_NOT_SET"


def test_a_seal_opens_for_what_it_was_made_and_nothing_else() -> None:
    seal = Seal([OLD], PURPOSE)
    sealed = seal.seal(b"secret", "ann")
    assert seal.open(sealed, "ann") == Seal([NEW, OLD], PURPOSE).open(sealed, "ann") == b"secret"
    assert sealed != seal.seal(b"secret", "ann") and b"secret" not in sealed
    assert not seal.outdated(sealed) and Seal([NEW, OLD], PURPOSE).outdated(sealed)
    for other, text, of in [
        (seal, sealed, "bob"),
        (Seal([OLD], "something else"), sealed, "ann"),
        (Seal([NEW], PURPOSE), sealed, "ann"),
        (Seal([], PURPOSE), sealed, "ann"),
        *((seal, sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :], "ann") for i in range(len(sealed))),
        *((seal, sealed[:i], "ann") for i in range(len(sealed))),
    ]:
        with pytest.raises(Internal):
            other.open(text, of)


def test_recovery_codes_are_one_however_they_are_typed() -> None:
    codes = fresh_recovery_codes()
    assert len(set(codes)) == 10
    assert all(re.fullmatch(r"[a-z2-7]{4}(-[a-z2-7]{4}){3}", code) for code in codes)
    assert recovery_hash("ann", "Abol-xyz2") == recovery_hash("ann", "ab01 XYZ2") == recovery_hash("ann", "a8olxyz2")
    assert recovery_hash("ann", codes[0]) != recovery_hash("bob", codes[0])


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """The answers to calls that are made at the same time."""
    answers: list[Any] = []
    gate = threading.Barrier(len(calls))

    def make(call: Callable[[], Any]) -> None:
        gate.wait(10)
        answers.append(call())

    threads = [threading.Thread(target=make, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return answers
