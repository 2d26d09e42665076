"""Passkeys through the edge: in a real Chromium with a virtual authenticator, and with one that says what no browser would."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cbor2
import pytest
from browser_ground import Authenticator, chromium, page_at
from cryptography.hazmat.primitives.asymmetric import ec
from edge_ground import eventually
from google.protobuf.json_format import MessageToDict
from people_ground import Client, People, Refused
from playwright.sync_api import Browser
from software_authenticator import (
    BACKED_UP,
    ELIGIBLE,
    GOOD,
    PRESENT,
    SoftwareAuthenticator,
    text,
)
from transom.accounts.v1 import passkeys_pb2 as pb
from transom.accounts.v1.passkeys_pb2_grpc import PasskeysServiceStub

from deploy.native.stack import PROJECT, Stack
from server.engine.ceremonies import Answer, FlawedAnswer, RelyingParty, attested
from server.store.passkeys import PER_ACCOUNT

CREATE = (
    "options => navigator.credentials.create({publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(options)})"
)
GET = "options => navigator.credentials.get({publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(options)})"
AS_JSON = "async options => (await ({})(options)).toJSON()"


@pytest.fixture(scope="module")
def people(stack: Stack) -> People:
    return People(stack)


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def origin(stack: Stack) -> str:
    """Where the app's pages are, as the development stack says by itself."""
    return f"http://localhost:{stack.ports['edge']}"


@pytest.fixture
def device(origin: str) -> SoftwareAuthenticator:
    return SoftwareAuthenticator(origin)


def registered(who: Client, device: SoftwareAuthenticator, **bent: Any) -> Any:
    """Registers a passkey; the passkey, or how that was refused."""
    begun = who.post("passkeys:beginRegistration")
    done = who.post("passkeys:finishRegistration", credential=device.create(begun["options"], **bent))
    return done if isinstance(done, Refused) else done["passkey"]


def passkeys_of(who: Client) -> list[dict[str, Any]]:
    found = who.get("passkeys")
    assert set(found) == {"passkeys"}, found
    return list(found["passkeys"])


def signed_in(nobody: Client, device: SoftwareAuthenticator, **bent: Any) -> Any:
    """Signs in with a passkey; the answer, or how it was refused."""
    begun = nobody.post("passkeys:beginSignIn")
    return nobody.post("passkeys:finishSignIn", credential=device.get(begun["options"], **bent))


# -------------------------------------------------------------------------------------------------- in a real browser


def lines_of_the_docs() -> str:
    """The JavaScript that docs/identity.md tells web apps to use."""
    section = (PROJECT / "docs/identity.md").read_text().partition("\n## Passkeys\n")[2].partition("\n## ")[0]
    return "\n".join(re.findall(r"```js\n(.*?)```", section, re.DOTALL))


def test_the_lines_of_the_docs_register_a_passkey_and_sign_in(people: People, running: Browser, origin: str) -> None:
    page = page_at(running, f"{origin}/app", f"<!doctype html><script>{lines_of_the_docs()}</script>")
    device = Authenticator(page)
    ann = people.person()

    page.evaluate("token => { authorization = `Bearer ${token}`; }", ann.token)
    made = page.evaluate("registerPasskey('My laptop')")
    assert made["title"] == "My laptop" and made["name"].startswith("passkeys/")
    [kept] = device.credentials
    assert kept["isResidentCredential"] and kept["rpId"] == "localhost"
    assert passkeys_of(ann) == [made]
    assert "lastSignInTime" not in made and not made["backedUp"]

    # The browser knows that the account has this one.
    with pytest.raises(Exception, match="InvalidStateError"):
        page.evaluate("registerPasskey('Again')")

    page.evaluate("authorization = ''")
    answer = page.evaluate("signInWithPasskey('Chromium')")
    assert answer["account"]["name"] == ann.user and answer["session"]["device"] == "Chromium"
    assert ann.signed_in(answer["token"]).get("accounts/me")["email"] == ann.email
    assert "lastSignInTime" in passkeys_of(ann)[0]

    # The same with a cookie, which no script sees and the next call carries.
    answer = page.evaluate("signInWithPasskey('Chromium', true)")
    assert answer["account"]["name"] == ann.user and answer["token"] == ""
    assert page.evaluate("document.cookie") == ""
    assert page.evaluate("fetch('/transom/v1/accounts/me').then(reply => reply.json())")["email"] == ann.email
    assert page.evaluate("call('beginRegistration', {})")["options"]["user"]["name"] == ann.email
    assert people.noted(ann, "passkey_added") == [("ok", {"passkey": made["name"]})]
    assert ("ok", {"proof": "passkey"}) in people.noted(ann, "sign_in")


def test_a_page_of_another_origin_gets_nowhere(people: People, running: Browser, origin: str) -> None:
    elsewhere = page_at(running, "http://localhost:1/phish")
    phished = Authenticator(elsewhere)
    ann = people.person()
    options = ann.post("passkeys:beginRegistration")["options"]
    credential = elsewhere.evaluate(AS_JSON.format(CREATE), options)
    answer = ann.post("passkeys:finishRegistration", credential=credential)
    assert answer == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("credential",))
    assert passkeys_of(ann) == []

    # One that is registered is of no use there, either.
    page = page_at(running, f"{origin}/app")
    device = Authenticator(page)
    options = ann.post("passkeys:beginRegistration")["options"]
    assert "passkey" in ann.post(
        "passkeys:finishRegistration", credential=page.evaluate(AS_JSON.format(CREATE), options)
    )
    phished.forget()
    phished.keep(device.credentials[0])
    options = people.nobody.post("passkeys:beginSignIn")["options"]
    answer = people.nobody.post("passkeys:finishSignIn", credential=elsewhere.evaluate(AS_JSON.format(GET), options))
    assert answer == Refused("UNAUTHENTICATED", "PASSKEY_INVALID", (), (("flaw", "origin"),))
    outcome, details = people.refusal_noted(ann, "sign_in")
    assert outcome == "PASSKEY_INVALID" and details["flaw"] == "origin"


def test_a_copied_passkey_is_found_out_by_its_counter(people: People, running: Browser, origin: str) -> None:
    page = page_at(running, f"{origin}/app")
    device = Authenticator(page)
    ann = people.person()

    def answered() -> Any:
        options = people.nobody.post("passkeys:beginSignIn")["options"]
        credential = page.evaluate(AS_JSON.format(GET), options)
        return people.nobody.post("passkeys:finishSignIn", credential=credential)

    options = ann.post("passkeys:beginRegistration")["options"]
    ann.post("passkeys:finishRegistration", credential=page.evaluate(AS_JSON.format(CREATE), options))
    [copy] = device.credentials
    assert "token" in answered() and "token" in answered()
    device.forget()
    device.keep(copy)
    assert answered() == Refused("UNAUTHENTICATED", "PASSKEY_INVALID", (), (("flaw", "counter"),))
    outcome, details = people.refusal_noted(ann, "sign_in")
    assert outcome == "PASSKEY_INVALID" and details["flaw"] == "counter"


def test_a_user_who_was_not_verified_is_not_let_in(people: People, running: Browser, origin: str) -> None:
    page = page_at(running, f"{origin}/app")
    verifying = Authenticator(page)
    ann = people.person()
    options = ann.post("passkeys:beginRegistration")["options"]
    ann.post("passkeys:finishRegistration", credential=page.evaluate(AS_JSON.format(CREATE), options))
    [kept] = verifying.credentials
    verifying.remove()
    Authenticator(page, verifies=False).keep(kept)

    # The browser itself refuses what was asked; a page may ask for less.
    options = people.nobody.post("passkeys:beginSignIn")["options"]
    this = [{"type": "public-key", "id": passkeys_of(ann)[0]["credentialId"]}]
    with pytest.raises(Exception, match="NotAllowedError"):
        page.evaluate(AS_JSON.format(GET), options | {"timeout": 1000})
    credential = page.evaluate(
        AS_JSON.format(GET), options | {"userVerification": "discouraged", "allowCredentials": this}
    )
    answer = people.nobody.post("passkeys:finishSignIn", credential=credential)
    assert answer == Refused("UNAUTHENTICATED", "PASSKEY_INVALID", (), (("flaw", "not_verified"),))


# ------------------------------------------------------------------------------------------------- what is refused


@dataclass(frozen=True)
class Bent:
    sentence: str
    bent: dict[str, Any]
    flaw: str = ""


STRANGER = ec.generate_private_key(ec.SECP256R1())

BENT_REGISTRATIONS = [
    Bent("it was made on another page", {"client": {"origin": "https://evil.example"}}),
    Bent("it was made on another port", {"client": {"origin": "http://localhost:1"}}),
    Bent("it was made in an embedded page", {"client": {"crossOrigin": True}}),
    Bent("it was made below another site", {"client": {"topOrigin": "https://evil.example"}}),
    Bent("it was made for another domain", {"rp_id": "evil.example"}),
    Bent("its user was not verified", {"flags": PRESENT}),
    Bent("its user was not there", {"flags": GOOD & ~PRESENT}),
    Bent("it is an answer to a sign-in", {"client": {"type": "webauthn.get"}}),
    Bent("it has no key", {"attested": b""}),
    Bent("its key is cut off", {"attested": bytes(16) + b"\0\x20" + bytes(32) + b"\xa5\x01\x02"}),
    Bent("its key is of a kind nobody asked for", {"attested": bytes(16) + b"\0\x01a" + cbor2.dumps({1: 2, 3: -999})}),
    Bent("its id is another's than it says", {"attested": bytes(16) + b"\0\x01a" + cbor2.dumps({1: 2})}),
    Bent("its attestation is of a vendor", {"attestation": {"fmt": "android-safetynet"}}),
    Bent("its attestation carries what none must not", {"attestation": {"attStmt": {"sig": b"x", "alg": -7}}}),
    Bent("its attestation is packed and unsigned", {"attestation": {"fmt": "packed"}}),
    Bent("its attestation is no map", {"encoded": cbor2.dumps([1, 2])}),
    Bent("its attestation is deep", {"encoded": b"\x81" * 9000}),
    Bent("its attestation is nothing", {"encoded": b"\xff"}),
    Bent("it may not be copied, yet was", {"flags": GOOD | BACKED_UP}),
]


@pytest.mark.parametrize("case", BENT_REGISTRATIONS, ids=lambda case: case.sentence)
def test_a_passkey_is_not_registered_where(case: Bent, people: People, device: SoftwareAuthenticator) -> None:
    ann = people.person()
    assert registered(ann, device, **case.bent) == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("credential",))
    assert passkeys_of(ann) == []
    assert "name" in registered(ann, device)  # the same, unbent


BENT_SIGN_INS = [
    Bent("it was used on another page", {"client": {"origin": "https://evil.example"}}, "origin"),
    Bent("it was used on a page whose origin only begins so", {"client": {"origin": "http://localhost"}}, "origin"),
    Bent("it was used in an embedded page", {"client": {"crossOrigin": True}}, "embedded"),
    Bent("it was used for another domain", {"rp_id": "evil.example"}, "domain"),
    Bent("its user was not verified", {"flags": PRESENT}, "not_verified"),
    Bent("its user was not there", {"flags": GOOD & ~PRESENT}, "signature"),
    Bent("it is the answer to a registration", {"client": {"type": "webauthn.create"}}, "signature"),
    Bent("another key has signed", {"key": STRANGER}, "signature"),
    Bent("it says no account", {"user_handle": ""}, "owner"),
    Bent("it says another account", {"user_handle": text(b"somebodyelse")}, "owner"),
    Bent("it can be copied all of a sudden", {"flags": GOOD | ELIGIBLE}, "backup"),
    Bent("its counter stands still", {"counter": 7}, "counter"),
    Bent("its counter goes back", {"counter": 3}, "counter"),
    Bent("its counter is gone", {"counter": 0}, "counter"),
]


@pytest.fixture(scope="module")
def used(people: People, stack: Stack) -> tuple[Client, SoftwareAuthenticator]:
    """Somebody whose passkey has counted to 7."""
    ann, device = people.person(), SoftwareAuthenticator(f"http://localhost:{stack.ports['edge']}")
    assert "name" in registered(ann, device)
    assert "token" in signed_in(people.nobody, device, counter=7)
    return ann, device


@pytest.mark.parametrize("case", BENT_SIGN_INS, ids=lambda case: case.sentence)
def test_nobody_signs_in_where(case: Bent, people: People, used: tuple[Client, SoftwareAuthenticator]) -> None:
    ann, device = used
    [before] = people.sql("select sign_count, seen_time from transom.passkeys where user_id = %s", ann.id)
    answer = signed_in(people.nobody, device, **({"counter": before[0] + 1} | case.bent))
    assert answer == Refused("UNAUTHENTICATED", "PASSKEY_INVALID", (), (("flaw", case.flaw),))
    assert people.sql("select sign_count, seen_time from transom.passkeys where user_id = %s", ann.id) == [before]


MISSHAPEN: list[tuple[str, Any]] = [
    ("there is none", {}),
    ("it is of another type", {"type": "password"}),
    ("it has no response", {"type": "public-key", "id": "YQ", "rawId": "YQ"}),
    ("its response is a list", {"type": "public-key", "id": "YQ", "rawId": "YQ", "response": [1]}),
    ("its client data is a number", {"clientDataJSON": 7}),
    ("its client data is not base64url", {"clientDataJSON": "!!!"}),
    ("its client data is not JSON", {"clientDataJSON": text(b"{")}),
    ("its client data is deep", {"clientDataJSON": text(b"[" * 9000)}),
    ("its client data is a list", {"clientDataJSON": text(b"[]")}),
    ("its client data has no challenge", {"clientDataJSON": text(b'{"origin":"a"}')}),
    ("its challenge is no text", {"clientDataJSON": text(b'{"origin":"a","challenge":7}')}),
    ("it is larger than 16 KiB", {"padding": "x" * (16 << 10)}),
]


@pytest.mark.parametrize("credential", [case[1] for case in MISSHAPEN], ids=[case[0] for case in MISSHAPEN])
def test_what_is_no_credential_is_said_to_be_none_where(
    credential: Any, people: People, device: SoftwareAuthenticator
) -> None:
    if "clientDataJSON" in credential or "padding" in credential:
        whole = device.get({"challenge": "YQ"})
        whole["response"] |= credential
        credential = whole
    answer = people.nobody.post("passkeys:finishSignIn", credential=credential)
    assert answer == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("credential",))


# ---------------------------------------------------------------------------------------------------- challenges


def test_a_challenge_is_good_once(people: People, device: SoftwareAuthenticator) -> None:
    ann, nobody = people.person(), people.nobody
    begun = ann.post("passkeys:beginRegistration")["options"]
    assert "passkey" in ann.post("passkeys:finishRegistration", credential=device.create(begun))
    other = SoftwareAuthenticator(device.origin)
    over = Refused("FAILED_PRECONDITION", "CHALLENGE_INVALID")
    assert ann.post("passkeys:finishRegistration", credential=other.create(begun)) == over

    begun = nobody.post("passkeys:beginSignIn")["options"]
    credential = device.get(begun)
    assert "token" in nobody.post("passkeys:finishSignIn", credential=credential)
    over = Refused("UNAUTHENTICATED", "CHALLENGE_INVALID")
    assert nobody.post("passkeys:finishSignIn", credential=credential) == over
    assert nobody.post("passkeys:finishSignIn", credential=device.get(begun)) == over
    assert people.sql("select count(*) from transom.sessions where user_id = %s", ann.id) == [(2,)]


def test_of_many_who_bring_one_answer_one_gets_in(people: People, device: SoftwareAuthenticator) -> None:
    ann, nobody = people.person(), people.nobody
    registered(ann, device)
    credential = device.get(nobody.post("passkeys:beginSignIn")["options"])
    answers = at_once(6, lambda: nobody.post("passkeys:finishSignIn", credential=credential))
    assert sum(not isinstance(answer, Refused) for answer in answers) == 1
    assert people.sql("select count(*) from transom.sessions where user_id = %s", ann.id) == [(2,)]


def test_a_challenge_is_good_for_what_and_whom_it_was_made(people: People, device: SoftwareAuthenticator) -> None:
    ann, bob, nobody = people.person(), people.person(), people.nobody
    refused = Refused("FAILED_PRECONDITION", "CHALLENGE_INVALID")
    anns = ann.post("passkeys:beginRegistration")["options"]
    assert bob.post("passkeys:finishRegistration", credential=device.create(anns)) == refused
    to_sign_in = anns | {"challenge": nobody.post("passkeys:beginSignIn")["options"]["challenge"]}
    assert ann.post("passkeys:finishRegistration", credential=device.create(to_sign_in)) == refused
    invented = anns | {"challenge": text(secrets.token_bytes(47))}
    assert ann.post("passkeys:finishRegistration", credential=device.create(invented)) == refused
    assert passkeys_of(ann) == passkeys_of(bob) == []

    registered(ann, device)
    to_register = ann.post("passkeys:beginRegistration")["options"]
    answer = nobody.post("passkeys:finishSignIn", credential=device.get(to_register))
    assert answer == Refused("UNAUTHENTICATED", "CHALLENGE_INVALID")


def test_a_challenge_is_over_after_its_time(people: People, device: SoftwareAuthenticator) -> None:
    ann, nobody = people.person(), people.nobody
    registered(ann, device)
    begun = nobody.post("passkeys:beginSignIn")
    [[left]] = people.sql("select %s::timestamptz - now()", begun["expireTime"])
    assert 290 < left.total_seconds() <= 300
    assert begun["options"]["timeout"] == 300_000
    people.sql("update transom.words set expire_time = now() where purpose = 'passkey_sign_in'")
    answer = nobody.post("passkeys:finishSignIn", credential=device.get(begun["options"]))
    assert answer == Refused("UNAUTHENTICATED", "CHALLENGE_INVALID")


# --------------------------------------------------------------------------------------------------------- whose


def test_a_passkey_belongs_to_one_account(people: People, device: SoftwareAuthenticator) -> None:
    ann, bob = people.person(), people.person()
    name = registered(ann, device)["name"]
    assert registered(bob, device) == Refused("ALREADY_EXISTS", "PASSKEY_TAKEN")
    assert registered(ann, device) == Refused("ALREADY_EXISTS", "PASSKEY_TAKEN")
    assert passkeys_of(bob) == []

    absent = Refused("NOT_FOUND", "NOT_FOUND")
    assert bob.call("DELETE", name) == absent
    assert bob.call("PATCH", name, {"title": "mine"}) == absent
    assert bob.call("DELETE", "passkeys/absent") == absent
    [kept] = passkeys_of(ann)
    assert kept["name"] == name and kept["title"] == ""


def test_a_passkey_gets_another_title(people: People, device: SoftwareAuthenticator) -> None:
    ann = people.person()
    name = registered(ann, device)["name"]
    assert ann.call("PATCH", name, {"title": "Küche"})["title"] == "Küche"
    assert ann.call("PATCH", f"{name}?updateMask=title", {"title": "Bad"})["title"] == "Bad"
    immutable = ann.call("PATCH", f"{name}?updateMask=backedUp", {"backedUp": True})
    assert immutable == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("update_mask",))
    long = Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("passkey.title",))
    assert ann.call("PATCH", name, {"title": "x" * 101}) == long
    assert ann.call("PATCH", name, {"title": "a\nb"}) == long
    assert passkeys_of(ann)[0]["title"] == "Bad"


def test_a_deleted_passkey_signs_nobody_in(people: People, device: SoftwareAuthenticator) -> None:
    ann = people.person()
    name = registered(ann, device)["name"]
    assert ann.call("DELETE", name) == {}
    assert signed_in(people.nobody, device) == Refused("UNAUTHENTICATED", "PASSKEY_UNKNOWN")
    assert people.noted(ann, "passkey_removed") == [("ok", {"passkey": name})]
    assert "name" in registered(ann, device)  # it is nobody's now


def test_a_passkey_that_is_deleted_at_this_moment_signs_nobody_in(
    people: People, device: SoftwareAuthenticator
) -> None:
    ann = people.person()
    name = registered(ann, device)["name"].partition("/")[2]
    answer = people.meanwhile(
        ann, lambda: signed_in(people.nobody, device), "delete from transom.passkeys where id = %s", name
    )
    assert answer == Refused("UNAUTHENTICATED", "WRONG_CREDENTIALS")
    assert people.sql("select count(*) from transom.sessions where user_id = %s", ann.id) == [(1,)]


def test_the_last_way_to_sign_in_stays(people: People, device: SoftwareAuthenticator) -> None:
    ann = people.person(password=False)
    other = SoftwareAuthenticator(device.origin)
    names = [registered(ann, each)["name"] for each in (device, other)]
    # Of two that go at once, one stays.
    answers = at_once(2, *(lambda name=name: ann.call("DELETE", name) for name in names))
    last = Refused("FAILED_PRECONDITION", "LAST_WAY_TO_SIGN_IN")
    assert sorted(answers, key=str) == sorted([{}, last], key=str)
    [kept] = passkeys_of(ann)
    assert ann.call("DELETE", kept["name"]) == last
    people.sql("update transom.users set verified = true where id = %s", ann.id)  # a code can be sent now
    assert ann.call("DELETE", kept["name"]) == {}


def test_there_are_so_many_and_no_more(people: People, device: SoftwareAuthenticator) -> None:
    ann = people.person()
    people.sql(
        "insert into transom.passkeys (credential_id, id, user_id, public_key, sign_count)"
        " select convert_to(%(user)s || n, 'UTF8'), %(user)s || n, %(user)s, 'x', 0 from generate_series(2, %(most)s) n",
        user=ann.id,
        most=PER_ACCOUNT,
    )
    begun = [ann.post("passkeys:beginRegistration")["options"] for _ in range(3)]
    assert len(begun[0]["excludeCredentials"]) == PER_ACCOUNT - 1
    credentials = [SoftwareAuthenticator(device.origin).create(options) for options in begun]
    answers = at_once(
        3, *(lambda c=credential: ann.post("passkeys:finishRegistration", credential=c) for credential in credentials)
    )
    full = Refused("FAILED_PRECONDITION", "TOO_MANY_PASSKEYS")
    assert [answer for answer in answers if isinstance(answer, Refused)] == [full, full]
    assert len(passkeys_of(ann)) == PER_ACCOUNT
    assert ann.post("passkeys:beginRegistration") == full


def test_who_may_add_a_passkey(people: People, device: SoftwareAuthenticator) -> None:
    ann = people.person()
    assert people.nobody.post("passkeys:beginRegistration") == Refused("UNAUTHENTICATED", "SIGN_IN_REQUIRED")
    assert people.nobody.get("passkeys") == Refused("UNAUTHENTICATED", "SIGN_IN_REQUIRED")
    begun = ann.post("passkeys:beginRegistration")["options"]
    stale = people.session(ann, proved="20 minutes")
    again = Refused("FAILED_PRECONDITION", "SIGN_IN_AGAIN")
    assert stale.post("passkeys:beginRegistration") == again
    assert stale.post("passkeys:finishRegistration", credential=device.create(begun)) == again
    name = ann.post("passkeys:finishRegistration", credential=device.create(begun))["passkey"]["name"]
    assert stale.call("DELETE", name) == again
    assert passkeys_of(stale)[0]["name"] == name
    acted = people.session(ann)
    people.sql(
        "update transom.sessions set impersonator = %s where id = (select id from transom.sessions where user_id = %s"
        " order by create_time desc limit 1)",
        admin(people).user,
        ann.id,
    )
    impersonated = Refused("PERMISSION_DENIED", "IMPERSONATED")
    assert acted.post("passkeys:beginRegistration") == impersonated
    assert acted.call("DELETE", name) == impersonated


def test_a_session_that_has_ended_leaves_no_passkey_behind(people: People, device: SoftwareAuthenticator) -> None:
    thief = people.person()
    begun = thief.post("passkeys:beginRegistration")["options"]
    credential = device.create(begun)
    answer = people.meanwhile(
        thief,
        lambda: thief.post("passkeys:finishRegistration", credential=credential),
        *("delete from transom.sessions where user_id = %s", thief.id),
    )
    assert answer == Refused("UNAUTHENTICATED", "TOKEN_INVALID")
    assert people.sql("select 1 from transom.passkeys where user_id = %s", thief.id) == []


def test_a_disabled_account_is_not_signed_in_to(people: People, device: SoftwareAuthenticator) -> None:
    ann = people.person()
    registered(ann, device)
    people.sql("update transom.users set disabled_time = now() where id = %s", ann.id)
    assert signed_in(people.nobody, device) == Refused("UNAUTHENTICATED", "WRONG_CREDENTIALS")


def test_a_passkey_makes_an_anonymous_account_one_that_can_sign_in(
    people: People, device: SoftwareAuthenticator
) -> None:
    somebody = people.person(anonymous=True)
    begun = somebody.post("passkeys:beginRegistration")["options"]
    done = somebody.post("passkeys:finishRegistration", credential=device.create(begun))
    replaced = Refused("UNAUTHENTICATED", "TOKEN_INVALID")
    eventually(lambda: somebody.get("accounts/me") == replaced)
    assert not somebody.signed_in(done["token"]).get("accounts/me")["anonymous"]
    assert signed_in(people.nobody, device)["account"]["name"] == somebody.user


def test_passkeys_of_all_sorts_are_kept_as_they_are(people: People, device: SoftwareAuthenticator) -> None:
    ann = people.person()
    shared = registered(ann, device, flags=GOOD | ELIGIBLE | BACKED_UP)
    assert shared["backedUp"]
    assert "token" in signed_in(people.nobody, device, flags=GOOD | ELIGIBLE, counter=0)  # counts nothing, as many do
    assert "token" in signed_in(people.nobody, device, flags=GOOD | ELIGIBLE, counter=0)
    [[transports, backed_up]] = people.sql(
        "select transports, backed_up from transom.passkeys where user_id = %s", ann.id
    )
    assert (transports, backed_up) == (["internal"], False)


def test_it_is_the_same_over_grpc(people: People, device: SoftwareAuthenticator) -> None:
    ann = people.person()
    begun = ann.grpc(PasskeysServiceStub, "BeginRegistration", pb.BeginRegistrationRequest())
    request = pb.FinishRegistrationRequest(title="Pixel 9")
    request.credential.update(device.create(MessageToDict(begun.options)))
    made = ann.grpc(PasskeysServiceStub, "FinishRegistration", request).passkey
    assert made.title == "Pixel 9"
    assert list(ann.grpc(PasskeysServiceStub, "ListPasskeys", pb.ListPasskeysRequest()).passkeys) == [made]

    begun = people.nobody.grpc(PasskeysServiceStub, "BeginSignIn", pb.BeginSignInRequest())
    request = pb.FinishSignInRequest(device="Pixel 9", remember=True)
    request.credential.update(device.get(MessageToDict(begun.options)))
    assert people.nobody.grpc(PasskeysServiceStub, "FinishSignIn", request).account.name == ann.user
    again = people.nobody.grpc(PasskeysServiceStub, "FinishSignIn", request)
    assert again == Refused("UNAUTHENTICATED", "CHALLENGE_INVALID")

    request.credential.fields["id"].number_value = float("nan")
    answer = people.nobody.grpc(PasskeysServiceStub, "FinishSignIn", request)
    assert answer == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("credential",))


def test_a_packed_attestation_that_the_passkey_signed_itself_is_taken() -> None:
    device, party = (
        SoftwareAuthenticator("https://app.example", "app.example"),
        RelyingParty("app.example", "App", ("https://app.example",)),
    )
    options = {"challenge": text(b"c"), "user": {"id": text(b"u")}}
    for key, taken in ((device.key, True), (STRANGER, False)):
        answer = Answer.to_registration(device.create(options, signed_by=key))
        if taken:
            assert attested(party, answer, b"c").credential_id == device.credential_id
        else:
            with pytest.raises(FlawedAnswer):
                attested(party, answer, b"c")


def admin(people: People) -> Client:
    made = people.person()
    people.sql("update transom.users set roles = '{admin}' where id = %s", made.id)
    return made


def at_once(many: int, *calls: Callable[[], Any]) -> list[Any]:
    """The answers to calls that are made at the same time, one of them `many` times where there is but one."""
    answers: list[Any] = []
    gate = threading.Barrier(many)

    def make(call: Callable[[], Any]) -> None:
        gate.wait(10)
        answers.append(call())

    threads = [threading.Thread(target=make, args=(call,)) for call in (calls if len(calls) > 1 else calls * many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return answers
