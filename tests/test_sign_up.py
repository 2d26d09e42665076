"""Signing up, by each policy, and what it tells of addresses: over gRPC, on a real Postgres and Redis."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from identity_ground import Place, Server, asynchronous, place, refused, server
from transom.accounts.v1 import accounts_pb2 as pb

from deploy.native.stack import Stack
from server.engine.ceremonies import RelyingParty
from server.engine.passkeys import Passkeys
from server.engine.password_rules import PasswordRules
from server.engine.post import MAILS
from server.engine.sign_up_policy import Policy, SignUpPolicy
from server.errors import Denied
from server.store.passkeys import StoredPasskeys

PASSWORD = "correct horse battery"
WORD = re.compile(r"#(tsw_[A-Za-z0-9_-]{43})")


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Place]:
    with place(components) as made:
        yield made


def address(domain: str = "example.com") -> str:
    return f"{secrets.token_hex(6)}@{domain}"


def mails(at: Place, email: str) -> list[tuple[str, str]]:
    """Subject and text of what is queued for an address, oldest first."""
    return [
        (s, b) for s, b in at.sql("select subject, body from transom.mails where recipient = %s order by id", email)
    ]


def word(at: Place, email: str) -> str:
    """The word in the newest mail to an address."""
    found = WORD.search(mails(at, email)[-1][1])
    assert found
    return found[1]


async def sign_up(on: Server, email: str, **more: Any) -> Any:
    return await on.stubs().accounts("SignUp", pb.SignUpRequest(email=email, password=PASSWORD, **more))


async def sign_in(on: Server, email: str, password: str = PASSWORD) -> Any:
    return await on.stubs().accounts("SignIn", pb.SignInRequest(email=email, password=password))


async def verify(on: Server, word: str, sign_up_token: str = "", session: str = "") -> Any:
    request = pb.VerifyEmailRequest(word=word, sign_up_token=sign_up_token)
    return await on.stubs(session).accounts("VerifyEmail", request)


def promised(answer: Any) -> str:
    """The token of an answer that says nothing else than that the address must be proved."""
    assert answer == pb.SignUpResponse(verify=True, sign_up_token=answer.sign_up_token)
    assert re.fullmatch(r"tsw_[A-Za-z0-9_-]{43}", answer.sign_up_token)
    return str(answer.sign_up_token)


VERIFIED = SignUpPolicy(verify=True)


# --------------------------------------------------------------------------------------- where addresses are proved first


@asynchronous
async def test_an_account_is_made_once_its_address_is_proved(at: Place) -> None:
    async with server(at, policy=VERIFIED) as on:
        email = address()
        token = promised(await sign_up(on, email.upper(), display_name="Ann"))
        assert at.sql("select 1 from transom.users where email_key = %s", email) == []
        assert (await refused(sign_in(on, email)))[1] == "WRONG_CREDENTIALS"
        [(subject, text)] = mails(at, email.upper())
        assert subject == "Transom: Confirm your address"
        assert "https://app.example/account/verify#tsw_" in text
        key = word(at, email.upper())
        assert key not in str(at.sql("select * from transom.words")) and PASSWORD not in str(
            at.sql("select * from transom.words")
        )

        assert token not in str(at.sql("select * from transom.words")) and token != key
        assert (await refused(verify(on, token, key)))[2] == ("word",)  # neither is the other
        made = await verify(on, key, token)
        assert (made.email, made.display_name, made.verified, made.password_set) == (email.upper(), "Ann", True, True)
        assert (await sign_in(on, email)).account == made
        assert (await refused(verify(on, key)))[2] == ("word",)  # once
        assert at.sql("select action from transom.audit where target = %s and action = 'sign_up'", made.name) == [
            ("sign_up",)
        ]


@asynchronous
async def test_of_those_who_use_a_word_at_once_one_does(at: Place) -> None:
    async with server(at, policy=VERIFIED) as on, server(at, policy=VERIFIED) as other:
        email = address()
        await sign_up(on, email)
        key = word(at, email)
        outcomes = await asyncio.gather(
            *(verify(one, key) for one in (on, other, on, other, on)), return_exceptions=True
        )
        assert sum(isinstance(outcome, pb.Account) for outcome in outcomes) == 1
        assert len(at.sql("select 1 from transom.users where email_key = %s", email)) == 1


@asynchronous
async def test_nobody_keeps_an_address_from_its_owner_by_signing_up_first(at: Place) -> None:
    async with server(at, policy=VERIFIED) as on:
        email = address()
        request = pb.SignUpRequest(email=email, password="a password of a stranger")
        assert (await on.stubs().accounts("SignUp", request)).verify
        mine = promised(await sign_up(on, email))
        await verify(on, word(at, email), mine)  # the owner opens the mail that their own sign-up sent
        assert (await sign_in(on, email)).token
        assert (await refused(sign_in(on, email, "a password of a stranger")))[1] == "WRONG_CREDENTIALS"
        # The stranger's word is good for nothing any more.
        first = WORD.search(mails(at, email)[0][1])
        assert first and (await refused(verify(on, first[1])))[1] == "EMAIL_TAKEN"


@asynchronous
async def test_a_strangers_sign_up_brings_its_reader_no_password_of_the_stranger(at: Place) -> None:
    """The owner opens the stranger's mail, whichever token their own device has kept."""
    async with server(at, policy=VERIFIED) as on:
        for shown in ("nothing", "the token of their own sign-up", "the word", "nonsense"):
            email, theirs = address(), "a password of a stranger"
            request = pb.SignUpRequest(email=email, password=theirs, display_name="Click https://evil.example")
            strangers = promised(await on.stubs().accounts("SignUp", request))
            key = word(at, email)
            token = {"nothing": "", "the word": key, "nonsense": "é"}.get(shown, "")
            if shown == "the token of their own sign-up":
                token = promised(await sign_up(on, email, display_name="Ann"))
            assert token != strangers
            made = await verify(on, key, token)
            assert (made.verified, made.password_set, made.display_name) == (True, False, ""), shown
            for password in (PASSWORD, theirs):
                assert (await refused(sign_in(on, email, password)))[1] == "WRONG_CREDENTIALS", shown
            # The token that the stranger has kept brings nothing without the word, which is used up.
            assert (await refused(verify(on, key, strangers)))[2] == ("word",)
            assert at.sql("select 1 from transom.sessions where user_id = %s", made.name[6:]) == []


@asynchronous
async def test_a_taken_address_is_answered_alike_and_told_by_mail(at: Place) -> None:
    async with server(at, policy=VERIFIED) as on:
        email = address()
        await on.sign_ups.enrol(email, password=PASSWORD)
        before = at.sql("select id, password_hash from transom.users where email_key = %s", email)
        promised(await on.stubs().accounts("SignUp", pb.SignUpRequest(email=email, password="quite another one")))
        [(subject, text)] = mails(at, email)
        assert subject == "Transom: You have an account" and "tsw_" not in text
        assert at.sql("select id, password_hash from transom.users where email_key = %s", email) == before


@asynchronous
async def test_known_and_unknown_addresses_take_the_same_work(at: Place) -> None:
    """Counted in statements, not in seconds: each flow's transactions on Postgres, for either kind of address."""
    async with server(at, policy=VERIFIED) as on:
        known = address()
        await on.sign_ups.enrol(known, password=PASSWORD)
        asked = {
            "SignUp": lambda email: pb.SignUpRequest(email=email, password=PASSWORD),
            "RequestPasswordReset": lambda email: pb.RequestPasswordResetRequest(email=email),
            "RequestSignInCode": lambda email: pb.RequestSignInCodeRequest(email=email),
        }
        for method, request in asked.items():
            answers, rows = [], []
            for email in (known, address()):
                before = [
                    at.sql(f"select count(*) from transom.{table}")[0][0] for table in ("words", "mails", "events")
                ]
                answers.append(await on.stubs().accounts(method, request(email)))
                after = [
                    at.sql(f"select count(*) from transom.{table}")[0][0] for table in ("words", "mails", "events")
                ]
                rows.append([b - a for a, b in zip(before, after, strict=True)])
            assert rows == [[1, 1, 1], [1, 1, 1]], method
            assert {f.name for f, _ in answers[0].ListFields()} == {f.name for f, _ in answers[1].ListFields()}, method


@asynchronous
async def test_known_and_unknown_addresses_take_the_same_time(at: Place) -> None:
    async with server(at, policy=VERIFIED) as on:

        async def took(method: str, request: Any) -> float:
            start = time.perf_counter()
            await on.stubs().accounts(method, request)
            return time.perf_counter() - start

        known = [address() for _ in range(12)]
        for email in known:
            await on.sign_ups.enrol(email)
        for method, request in [
            ("RequestPasswordReset", pb.RequestPasswordResetRequest),
            ("RequestSignInCode", pb.RequestSignInCodeRequest),
        ]:
            pairs = [
                (await took(method, request(email=e)), await took(method, request(email=address()))) for e in known
            ]
            mine, theirs = (min(kind) for kind in zip(*pairs, strict=True))
            assert max(mine, theirs) < 2 * min(mine, theirs), (method, mine, theirs)


@asynchronous
async def test_an_address_gets_five_mails_of_a_kind_an_hour_and_the_answer_stays_the_same(at: Place) -> None:
    async with server(at, policy=VERIFIED) as on, server(at, policy=VERIFIED) as other:
        email = address()
        answers = await asyncio.gather(*(sign_up(one, email) for one in (on, other) * 4))
        assert len(set(map(promised, answers))) == 8
        assert len(mails(at, email)) == MAILS == 5  # also of many at once
        at.sql("update transom.words set create_time = create_time - interval '1 hour' where email_key = %s", email)
        await sign_up(on, email)
        assert len(mails(at, email)) == MAILS + 1


@asynchronous
async def test_words_that_are_over_are_nobodys_and_are_swept(at: Place) -> None:
    async with server(at, policy=VERIFIED) as on:
        email = address()
        await sign_up(on, email)
        key = word(at, email)
        at.sql("update transom.words set expire_time = now() where email_key = %s", email)
        assert (await refused(verify(on, key)))[2] == ("word",)
        for nonsense in ("", "x", key[:-1], key + "A", "tss_" + key[4:], key.swapcase(), "tsw_" + "é" * 43):
            assert (await refused(verify(on, nonsense)))[2] == ("word",)
        await on.words.sweep()  # of the last hour: still counted
        assert at.sql("select count(*) from transom.words where email_key = %s", email) == [(1,)]
        at.sql("update transom.words set create_time = now() - interval '2 hours' where email_key = %s", email)
        await on.words.sweep()
        assert at.sql("select count(*) from transom.words where email_key = %s", email) == [(0,)]
        at.sql("update transom.mails set create_time = now() - interval '9 days' where recipient = %s", email)
        assert await on.sign_ups.sweep() >= 1
        assert mails(at, email) == []


# ------------------------------------------------------------------------------------------- where they are made at once


@asynchronous
async def test_where_accounts_are_made_at_once_the_address_is_proved_later(at: Place) -> None:
    async with server(at, policy=SignUpPolicy(verify=False)) as on:
        email = address()
        made = await sign_up(on, email)
        assert made.token and not made.account.verified and not made.verify
        ann = on.stubs(made.token)
        assert not (await on.authentication.caller(f"Bearer {made.token}")).verified
        [(subject, _)] = mails(at, email)
        assert subject == "Transom: Confirm your address"
        assert (await verify(on, word(at, email), session=made.token)).verified
        assert (await ann.accounts("GetMe", pb.GetMeRequest())).verified
        assert (await on.authentication.caller(f"Bearer {made.token}")).verified  # without signing in again
        assert (await refused(sign_up(on, email.upper())))[1] == "EMAIL_TAKEN"

        # Asked for again, and not when there is nothing left to prove.
        bob = await sign_up(on, address())
        await on.stubs(bob.token).accounts("RequestEmailVerification", pb.RequestEmailVerificationRequest())
        assert len(mails(at, bob.account.email)) == 2
        await ann.accounts("RequestEmailVerification", pb.RequestEmailVerificationRequest())
        assert len(mails(at, email)) == 1
        again = pb.RequestEmailVerificationRequest()
        outcomes = [await _refusal(on.stubs(bob.token).accounts("RequestEmailVerification", again)) for _ in range(4)]
        assert outcomes == ["", "", "", "TOO_MANY_MAILS"]


@asynchronous
async def test_who_opens_the_mail_of_a_strangers_account_has_it_alone(at: Place) -> None:
    async with server(at, policy=SignUpPolicy(verify=False)) as on:
        other = await sign_up(on, address())
        for session in ("", other.token, "tss_" + "A" * 43, "nonsense"):
            email = address()
            planted = await sign_up(on, email)
            user = planted.account.name[6:]
            at.sql("insert into transom.identities (issuer, subject, user_id) values ('https://i', %s, %s)", user, user)
            await on.authentication.caller(f"Bearer {planted.token}")
            mine = await verify(on, word(at, email), session=session)
            assert (mine.name, mine.verified, mine.password_set) == (planted.account.name, True, False), session
            get = pb.GetMeRequest()
            assert (await refused(on.stubs(planted.token).accounts("GetMe", get)))[1] == "TOKEN_INVALID"
            assert (await refused(sign_in(on, email)))[1] == "WRONG_CREDENTIALS"
            assert at.sql("select 1 from transom.identities where user_id = %s", user) == []
            assert at.sql("select 1 from transom.audit where target = %s and action = 'claimed'", mine.name) == [(1,)]
        assert (await on.authentication.caller(f"Bearer {other.token}")).known


@asynchronous
async def test_who_acts_for_a_strangers_account_does_not_verify_it(at: Place) -> None:
    async with server(at, policy=SignUpPolicy(verify=False)) as on:
        email = address()
        planted = await sign_up(on, email)
        admin = await sign_up(on, address())
        at.sql("update transom.users set roles = '{admin}' where id = %s", admin.account.name[6:])
        at.sql(
            "update transom.sessions set impersonator = %s where user_id = %s",
            admin.account.name,
            planted.account.name[6:],
        )
        assert not (await verify(on, word(at, email), session=planted.token)).password_set


async def _refusal(call: Any) -> str:
    """The reason of the refusal; "" where there is none."""
    try:
        return (await refused(call))[1]
    except AssertionError:
        return ""


# ------------------------------------------------------------------------------------------------------------ policies


@dataclass(frozen=True)
class Case:
    policy: SignUpPolicy
    email: str
    invited: bool
    reason: str


DOMAINS = SignUpPolicy(Policy.DOMAINS, ["Example.ORG", "bücher.example"])
CASES = [
    Case(SignUpPolicy(Policy.OPEN), "a@anywhere.example", False, ""),
    Case(DOMAINS, "a@example.org", False, ""),
    Case(DOMAINS, "a@xn--bcher-kva.example", False, ""),
    Case(DOMAINS, "a@sub.example.org", False, "DOMAIN_NOT_ALLOWED"),
    Case(DOMAINS, "a@example.org.evil.example", False, "DOMAIN_NOT_ALLOWED"),
    Case(DOMAINS, "a@elsewhere.example", True, ""),
    Case(SignUpPolicy(Policy.INVITE), "a@example.org", False, "INVITATION_REQUIRED"),
    Case(SignUpPolicy(Policy.INVITE), "a@example.org", True, ""),
    Case(SignUpPolicy(Policy.CLOSED), "a@example.org", False, "SIGN_UP_CLOSED"),
    Case(SignUpPolicy(Policy.CLOSED), "a@example.org", True, "SIGN_UP_CLOSED"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.policy._policy}-{c.email}-{c.invited}")
def test_who_may_sign_up(case: Case) -> None:
    assert case.policy.admits(case.email, invited=case.invited) is (case.reason == "")
    if case.reason:
        with pytest.raises(Denied) as refusal:
            case.policy.admit(case.email, invited=case.invited)
        assert refusal.value.reason == case.reason


def test_a_domain_that_is_none_is_refused_at_start() -> None:
    with pytest.raises(ValueError, match=r"these are not domains: \*\.example"):
        SignUpPolicy(Policy.DOMAINS, ["*.example.com"])


@asynchronous
async def test_policies_hold_for_every_way_to_get_an_account(at: Place) -> None:
    for policy, reason in [(Policy.CLOSED, "SIGN_UP_CLOSED"), (Policy.INVITE, "INVITATION_REQUIRED")]:
        async with server(at, policy=SignUpPolicy(policy)) as on:
            known, stranger = address(), address()
            await on.sign_ups.enrol(known, password=PASSWORD)
            for email in (known, stranger):  # it says nothing of who has an account
                assert await refused(sign_up(on, email)) == ("PERMISSION_DENIED", reason, ())
                assert mails(at, email) == []
                code = await on.stubs().accounts("RequestSignInCode", pb.RequestSignInCodeRequest(email=email))
                assert code.token.startswith("tsw_")
            assert len(mails(at, known)) == 1 and mails(at, stranger) == []
            assert (await sign_in(on, known)).token
            assert at.sql("select 1 from transom.users where email_key = %s", stranger) == []


@pytest.mark.parametrize("policy", [Policy.CLOSED, Policy.INVITE, Policy.DOMAINS])
@asynchronous
async def test_a_passkey_makes_no_account_that_the_policy_does_not_admit(at: Place, policy: Policy) -> None:
    async with server(at, anonymous=True, policy=SignUpPolicy(policy)) as on:
        guest = await on.authentication.caller(f"Bearer {(await on.people.anonymous.sign_in()).token}")
        accounts = on.accounts._accounts
        party = RelyingParty("localhost", "Transom", ["http://localhost:8080"])
        passkeys = Passkeys(
            StoredPasskeys(accounts._pool),
            accounts,
            on.words,
            on.sign_ins,
            on.revocations,
            on.sessions.rotate,
            on.accounts._audit,
            None,
            party,
            SignUpPolicy(policy),
        )
        for call in (passkeys.begin_registration(guest), passkeys.finish_registration(guest, {}, "phone")):
            with pytest.raises(Denied):
                await call


@asynchronous
async def test_an_invitation_is_good_once_for_its_address_and_brings_roles(at: Place) -> None:
    async with server(at, policy=SignUpPolicy(Policy.INVITE)) as on:
        email, other = address(), address()
        await on.sign_ups.invite(email, roles=["editor"])
        [(subject, text)] = mails(at, email)
        assert subject == "Transom: You are invited to Transom" and "/account/join#tsw_" in text
        key = word(at, email)
        for wrong in (key[:-1] + ("A" if key[-1] != "A" else "B"), "x"):
            answer = await refused(sign_up(on, email, invitation=wrong))
            assert answer == ("INVALID_ARGUMENT", "INVALID_REQUEST", ("invitation",))
        assert (await refused(sign_up(on, other, invitation=key)))[2] == ("invitation",)
        weak = pb.SignUpRequest(email=email, password="password", invitation=key)
        assert (await refused(on.stubs().accounts("SignUp", weak)))[2] == ("password",)  # and the invitation stays good
        made = await sign_up(on, email, invitation=key)
        assert made.token and made.account.verified and list(made.account.roles) == ["editor"]
        assert (await on.authentication.caller(f"Bearer {made.token}")).roles == {"editor"}
        assert (await refused(sign_up(on, email, invitation=key)))[2] == ("invitation",)
        with pytest.raises(Exception, match="There is an account"):
            await on.sign_ups.invite(email)


# ----------------------------------------------------------------------------------------------------------- passwords

RULES = PasswordRules(["Transom", "Inspect"])
PASSWORDS = [
    ("seven characters", "1234567", "TOO_SHORT"),
    ("eight that leaked", "password", "TOO_COMMON"),
    ("in capitals", "PassWord1", "TOO_COMMON"),
    ("in full-width letters", "ｐａｓｓｗｏｒｄ", "TOO_COMMON"),
    ("one character", "ääääääääää", "TOO_COMMON"),
    ("the address", "ann.bell@example.com", "TOO_OBVIOUS"),
    ("its local part and a year", "Ann.Bell1999!", "TOO_OBVIOUS"),
    ("its domain", "example.com", "TOO_OBVIOUS"),
    ("the app's name and more digits", "transom123456", "TOO_OBVIOUS"),
    ("257 characters", "ab" * 128 + "c", "TOO_LONG"),
    ("20 that are 360 in NFKC", "\ufdfa" * 20, "TOO_LONG"),
    ("a NUL", "correct\0horse", "CONTROL_CHARACTER"),
    ("nothing", "", "REQUIRED"),
    ("a sentence", "correct horse battery", ""),
    ("256 characters", "ab" * 128, ""),
    ("letters only, no rule asks for more", "qzvjxkwp", ""),
    ("spaces and other scripts", "пароль для входа", ""),
    ("the address inside more", "ann.bell@example.com is me", ""),
]


@pytest.mark.parametrize(("sentence", "password", "reason"), PASSWORDS, ids=[case[0] for case in PASSWORDS])
def test_which_passwords_may_be_chosen(sentence: str, password: str, reason: str) -> None:
    wrong = RULES.violation(password, "ann.bell@example.com")
    assert (wrong.reason if wrong else "") == reason


@asynchronous
async def test_a_hash_of_other_cost_is_made_anew_at_sign_in_and_a_change_in_between_wins(at: Place) -> None:
    from argon2 import PasswordHasher

    async with server(at) as on:
        email = address()
        await on.sign_ups.enrol(email, password=PASSWORD)
        old = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
        at.sql("update transom.users set password_hash = %s where email_key = %s", old, email)
        together = await asyncio.gather(
            *(sign_in(on, email) for _ in range(4))
        )  # each finds the old hash, or the new one
        assert all(made.token for made in together)
        [[hashed]] = at.sql("select password_hash from transom.users where email_key = %s", email)
        assert "m=19456,t=2,p=1" in hashed
        assert (await sign_in(on, email)).token

        stored = await on.accounts._accounts.by_email(email)
        assert stored
        at.sql("update transom.users set password_hash = 'changed meanwhile' where email_key = %s", email)
        await on.accounts._accounts.rehash(stored, "late")
        assert at.sql("select password_hash from transom.users where email_key = %s", email) == [("changed meanwhile",)]
