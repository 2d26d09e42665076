"""What mails are for: passwords, addresses, codes to sign in with; and accounts without an address. Over gRPC, on a real
Postgres and Redis; at the end through the edge, with mails that were really sent."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import people
import pytest
from identity_ground import Caller, Place, Server, asynchronous, place, refused, server
from transom.accounts.v1 import accounts_pb2 as pb

from deploy.native.stack import Stack
from server.engine.sign_up_policy import Policy, SignUpPolicy
from server.engine.tokens import SESSION, digest, new_id, new_token
from server.errors import Unavailable

PASSWORD, OTHER = "correct horse battery", "quite another staple"
WORD = re.compile(r"#(tsw_[A-Za-z0-9_-]{43})")
CODE = re.compile(r"[0-9]{4} [0-9]{4}")
BAD_WORD = ("INVALID_ARGUMENT", "INVALID_REQUEST", ("word",))
WRONG_CODE = ("UNAUTHENTICATED", "WRONG_CODE", ())


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Place]:
    with place(components) as made:
        yield made


def address() -> str:
    return f"{secrets.token_hex(6)}@example.com"


def mails(at: Place, email: str) -> list[tuple[str, str]]:
    """Subject and text of what is queued for an address, oldest first."""
    return [
        (s, b) for s, b in at.sql("select subject, body from transom.mails where recipient = %s order by id", email)
    ]


def subjects(at: Place, email: str) -> list[str]:
    return [subject.removeprefix("Transom: ") for subject, _ in mails(at, email)]


def word(at: Place, email: str, pattern: re.Pattern[str] = WORD) -> str:
    """The word in the newest mail to an address that has one."""
    found = [match for _, text in mails(at, email) if (match := pattern.search(text))]
    return found[-1][found[-1].re.groups]


async def known(on: Server, *, verified: bool = True, password: str = PASSWORD) -> tuple[str, Caller, str]:
    """An address with an account, somebody who is signed in to it, and its name."""
    email = address()
    await on.sign_ups.enrol(email, password=password, verified=verified)
    made = await sign_in(on, email, password)
    return email, on.stubs(made.token), made.account.name


async def sign_in(on: Server, email: str, password: str = PASSWORD) -> Any:
    return await on.stubs().accounts("SignIn", pb.SignInRequest(email=email, password=password))


async def me(client: Caller) -> Any:
    return await client.accounts("GetMe", pb.GetMeRequest())


async def request_reset(on: Server, email: str) -> None:
    await on.stubs().accounts("RequestPasswordReset", pb.RequestPasswordResetRequest(email=email))


async def reset(on: Server, word: str, password: str = OTHER) -> Any:
    return await on.stubs().accounts("ResetPassword", pb.ResetPasswordRequest(word=word, password=password))


def noted(at: Place, name: str) -> list[str]:
    """What the audit log says was done to an account, sign-ins aside."""
    rows = at.sql("select action from transom.audit where target = %s order by id", name)
    return [action for [action] in rows if action not in ("sign_in", "sessions_ended")]


# ------------------------------------------------------------------------------------------------------------ resetting


@asynchronous
async def test_a_forgotten_password_is_replaced_and_everybody_else_signed_out(at: Place) -> None:
    async with server(at) as on, server(at) as other:
        email, ann, name = await known(on, verified=False)
        assert (await me(on.stubs((await sign_in(other, email)).token))).name == name
        await request_reset(on, email.upper())
        await request_reset(on, email)
        first = WORD.search(mails(at, email)[0][1])
        key = word(at, email)
        assert first and first[1] != key and "/account/reset#tsw_" in mails(at, email)[0][1]
        assert (await refused(reset(on, key, "password")))[2] == ("password",)  # and the word stays good
        assert (await refused(reset(on, key, email)))[2] == ("password",)
        made = await reset(on, key)
        assert made.account.verified and made.account.name == name  # who reads the mail owns the address
        assert (await refused(me(ann)))[1] == "TOKEN_INVALID"
        assert at.sql("select proof from transom.sessions where user_id = %s", name[6:]) == [("reset",)]
        assert (await refused(sign_in(on, email)))[1] == "WRONG_CREDENTIALS"
        assert (await sign_in(on, email, OTHER)).token
        for used in (key, first[1]):  # nor is the other one good any more
            assert await refused(reset(on, used, PASSWORD)) == BAD_WORD
        assert subjects(at, email)[-1] == "Your password was changed"
        assert noted(at, name) == ["sign_up", "password_reset"]


@asynchronous
async def test_of_those_who_reset_with_one_word_at_once_one_does(at: Place) -> None:
    async with server(at) as on, server(at) as other:
        email, _, name = await known(on)
        await request_reset(on, email)
        key = word(at, email)
        passwords = [f"{OTHER} {n}" for n in range(4)]
        calls = (reset(one, key, password) for one, password in zip((on, other) * 2, passwords, strict=True))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(outcome, pb.SignInResponse) for outcome in outcomes) == 1
        assert len(at.sql("select 1 from transom.sessions where user_id = %s", name[6:])) == 1
        assert noted(at, name).count("password_reset") == 1
        [made] = [outcome for outcome in outcomes if isinstance(outcome, pb.SignInResponse)]
        assert (await me(on.stubs(made.token))).name == name  # those who came too late have ended nothing


@asynchronous
async def test_a_reset_that_fails_at_the_end_has_done_nothing(at: Place) -> None:
    async with server(at) as on, server(at) as other:
        email, ann, name = await known(on)
        await request_reset(on, email)
        key = word(at, email)

        async def away(*given: Any, **more: Any) -> None:
            raise Unavailable("The database is away for now.", reason="DATABASE_AWAY")

        queue, on.people.new_passwords._post.queue = on.people.new_passwords._post.queue, away
        assert (await refused(reset(on, key)))[1] == "DATABASE_AWAY"
        for one in (on, other):
            assert (await me(one.stubs(ann._metadata[0][1].removeprefix("Bearer ")))).name == name
        assert (await sign_in(on, email)).token
        on.people.new_passwords._post.queue = queue
        assert (await reset(on, key)).token  # the word is as good as before


@asynchronous
async def test_who_proves_an_address_first_owns_the_account_alone(at: Place) -> None:
    """A stranger signs up with somebody's address, stays signed in, and sets up ways to come back."""
    async with server(at, policy=SignUpPolicy(verify=False)) as on:
        for way in ("reset", "code"):
            email = address()
            planted = await on.stubs().accounts("SignUp", pb.SignUpRequest(email=email, password=PASSWORD))
            user = planted.account.name[6:]
            at.sql("insert into transom.identities (issuer, subject, user_id) values ('https://i', %s, %s)", user, user)
            at.sql(
                "insert into transom.passkeys (credential_id, id, user_id, public_key, sign_count)"
                " values (%s, %s, %s, '', 0)", user.encode(), user, user,
            )  # fmt: skip
            at.sql("insert into transom.authenticators (user_id, secret, confirm_time) values (%s, '', now())", user)
            await on.authentication.caller(f"Bearer {planted.token}")
            if way == "reset":
                await request_reset(on, email)
                owner = await reset(on, word(at, email))
                assert owner.account.password_set
            else:
                owner = await code_sign_in(on, at, email)
                assert not owner.account.password_set
            assert owner.account.name == planted.account.name and owner.account.verified
            assert (await refused(me(on.stubs(planted.token))))[1] == "TOKEN_INVALID"
            assert (await refused(sign_in(on, email)))[1] == "WRONG_CREDENTIALS"
            for table in ("identities", "passkeys", "authenticators"):
                assert at.sql(f"select 1 from transom.{table} where user_id = %s", user) == [], (way, table)
            assert len(at.sql("select 1 from transom.sessions where user_id = %s", user)) == 1


@asynchronous
async def test_proved_accounts_keep_their_other_ways_and_their_second_factor(at: Place) -> None:
    async with server(at) as on:
        email, _, name = await known(on)
        at.sql("insert into transom.identities (issuer, subject, user_id) values ('https://i', %s, %s)", name, name[6:])
        await request_reset(on, email)
        assert (await reset(on, word(at, email))).token
        assert len(at.sql("select 1 from transom.identities where user_id = %s", name[6:])) == 1

        async def totp(user_id: str) -> tuple[str, ...]:
            return ("totp",)

        on.sign_ins._second_factors = totp
        at.sql("update transom.words set create_time = create_time - interval '1 hour'")
        await request_reset(on, email)
        asked = await reset(on, word(at, email), PASSWORD)
        assert not asked.token and list(asked.challenge.methods) == ["totp"]
        assert at.sql("select 1 from transom.sessions where user_id = %s", name[6:]) == []
        user, proof, _ = await on.sign_ins.resume(asked.challenge.token)
        assert (user, proof) == (name[6:], "reset")


@asynchronous
async def test_networks_of_who_was_thrown_out_are_strangers_again(at: Place) -> None:
    async with server(at) as on:
        for way in ("change", "reset", "claim by a code", "claim by the word of a mail"):
            email, ann, name = await known(on, verified=not way.startswith("claim"))
            at.sql(
                "insert into transom.known_networks select %s, kind, network from unnest(array['password', 'totp']) kind,"
                " unnest(array['127.0.0.1', '198.51.100.7']) network on conflict do nothing", name[6:],
            )  # fmt: skip
            if way == "change":
                await change_password(ann, PASSWORD)
            elif way == "reset":
                await request_reset(on, email)
                await reset(on, word(at, email))
            elif way == "claim by a code":
                await code_sign_in(on, at, email)
            else:
                await ann.accounts("RequestEmailVerification", pb.RequestEmailVerificationRequest())
                await verify(on, word(at, email))
            networks = {n for [n] in at.sql("select network from transom.known_networks where user_id = %s", name[6:])}
            assert networks == {"127.0.0.1"}, way  # from where it was done


@asynchronous
async def test_who_is_disabled_gets_no_mail_and_does_not_get_in(at: Place) -> None:
    async with server(at) as on:
        email, _, name = await known(on)
        await request_reset(on, email)
        key, wanted = word(at, email), await request_code(on, email)
        code = word(at, email, CODE)
        at.sql("update transom.users set disabled_time = now() where id = %s", name[6:])
        assert await refused(reset(on, key)) == BAD_WORD
        assert await refused(with_code(on, wanted.token, code)) == ("UNAUTHENTICATED", "WRONG_CREDENTIALS", ())
        assert await refused(sign_in(on, email)) == ("UNAUTHENTICATED", "WRONG_CREDENTIALS", ())
        before = len(mails(at, email))
        await request_reset(on, email)
        assert (await request_code(on, email)).token
        assert len(mails(at, email)) == before


# ----------------------------------------------------------------------------------------------------- changing them


async def change_password(client: Caller, current: str, new: str = OTHER) -> Any:
    request = pb.ChangePasswordRequest(current_password=current, new_password=new)
    return await client.accounts("ChangePassword", request)


def aged(at: Place, token: str, minutes: int = 20) -> None:
    """The session proved itself that long ago."""
    at.sql(
        "update transom.sessions set proof_time = now() - %s where token_hash = %s",
        timedelta(minutes=minutes),
        digest(token),
    )


@asynchronous
async def test_a_password_is_changed_with_the_old_one_or_soon_after_signing_in(at: Place) -> None:
    async with server(at) as on:
        email, ann, name = await known(on)
        phone = await sign_in(on, email)
        aged(at, phone.token)
        old = on.stubs(phone.token)
        assert (await refused(change_password(old, "")))[:2] == ("FAILED_PRECONDITION", "SIGN_IN_AGAIN")
        assert (await refused(change_password(old, "not the password")))[:2] == ("PERMISSION_DENIED", "WRONG_PASSWORD")
        assert (await refused(change_password(old, PASSWORD, "password")))[2] == ("new_password",)
        renewed = (await change_password(old, PASSWORD)).token
        assert renewed.startswith("tss_")
        for ended in (ann, old):  # the other session, and the token that called
            assert (await refused(me(ended)))[1] == "TOKEN_INVALID"
        assert (await me(on.stubs(renewed))).name == name
        assert (await sign_in(on, email, OTHER)).token
        assert subjects(at, email) == ["Your password was changed"]
        # A moment after signing in, the session is proof enough; it has just proved itself by the change.
        assert (await change_password(on.stubs(renewed), "", PASSWORD)).token
        assert noted(at, name) == ["sign_up", "password_changed", "password_changed"]


@asynchronous
async def test_another_password_ends_what_an_admin_does_as_others(at: Place) -> None:
    async with server(at) as on:
        _, ann, name = await known(on)
        theirs, bob, _ = await known(on)
        acting = await sign_in(on, theirs)
        id = acting.session.name.removeprefix("sessions/")
        at.sql("update transom.users set roles = '{admin}' where id = %s", name.removeprefix("users/"))
        at.sql("update transom.sessions set impersonator = %s where id = %s", name, id)
        await change_password(ann, PASSWORD)
        assert at.sql("select 1 from transom.sessions where id = %s", id) == []
        assert (await me(bob)).email == theirs  # bob himself is still signed in


@asynchronous
async def test_who_acts_for_somebody_changes_none_of_it(at: Place) -> None:
    async with server(at) as on:
        email, _, name = await known(on)
        _, _, boss = await known(on)
        at.sql("update transom.users set roles = '{admin}' where id = %s", boss[6:])
        token = new_token(SESSION)
        at.sql(
            "insert into transom.sessions (id, user_id, token_hash, device, expire_time, impersonator)"
            " values (%s, %s, %s, '', now() + interval '1 hour', %s)", new_id(), name[6:], digest(token), boss,
        )  # fmt: skip
        admin = on.stubs(token)
        assert (await me(admin)).email == email
        for method, request in [
            ("ChangePassword", pb.ChangePasswordRequest(current_password=PASSWORD, new_password=OTHER)),
            ("RequestEmailChange", pb.RequestEmailChangeRequest(email=address(), current_password=PASSWORD)),
            ("RequestEmailVerification", pb.RequestEmailVerificationRequest()),
            ("UpdateMe", pb.UpdateMeRequest(account=pb.Account(display_name="Eve"))),
            ("UpgradeAccount", pb.UpgradeAccountRequest(email=address(), password=OTHER)),
        ]:
            assert (await refused(admin.accounts(method, request)))[:2] == ("PERMISSION_DENIED", "IMPERSONATED"), method
        assert (await refused(on.stubs().accounts("ChangePassword", pb.ChangePasswordRequest())))[
            0
        ] == "UNAUTHENTICATED"


@asynchronous
async def test_a_name_is_changed_and_nothing_else(at: Place) -> None:
    async with server(at) as on:
        email, ann, _ = await known(on)
        request = pb.UpdateMeRequest(account=pb.Account(display_name="Ann", email="eve@example.com", roles=["admin"]))
        changed = await ann.accounts("UpdateMe", request)
        assert (changed.display_name, changed.email, list(changed.roles)) == ("Ann", email, [])
        request.update_mask.paths.append("roles")
        assert (await refused(ann.accounts("UpdateMe", request)))[2] == ("update_mask",)
        long = pb.UpdateMeRequest(account=pb.Account(display_name="a" * 101))
        assert (await refused(ann.accounts("UpdateMe", long)))[2] == ("account.display_name",)


@asynchronous
async def test_a_sign_in_under_way_does_not_outlive_the_password_it_was_made_with(at: Place) -> None:
    async with server(at) as on:
        email, ann, name = await known(on)
        checked, go = asyncio.Event(), asyncio.Event()
        finish = on.sign_ins.finish

        async def held(*given: Any, **more: Any) -> Any:
            if more.get("password_hash"):
                checked.set()
                await go.wait()
            return await finish(*given, **more)

        on.sign_ins.finish = held
        late = asyncio.create_task(refused(sign_in(on, email)))
        await checked.wait()
        token = (await change_password(ann, PASSWORD)).token
        go.set()
        assert (await late)[1] == "WRONG_CREDENTIALS"
        assert at.sql("select token_hash from transom.sessions where user_id = %s", name[6:]) == [(digest(token),)]


# ---------------------------------------------------------------------------------------------------- another address


async def request_change(client: Caller, email: str, password: str = PASSWORD) -> None:
    await client.accounts("RequestEmailChange", pb.RequestEmailChangeRequest(email=email, current_password=password))


async def verify(on: Server, word: str, sign_up_token: str = "", session: str = "") -> Any:
    request = pb.VerifyEmailRequest(word=word, sign_up_token=sign_up_token)
    return await on.stubs(session).accounts("VerifyEmail", request)


async def verify_as(client: Caller, word: str) -> Any:
    return await client.accounts("VerifyEmail", pb.VerifyEmailRequest(word=word))


@asynchronous
async def test_an_address_is_changed_where_the_new_one_is_proved(at: Place) -> None:
    async with server(at) as on:
        email, ann, name = await known(on)
        new = address()
        assert (await refused(request_change(ann, new, "not the password")))[1] == "WRONG_PASSWORD"
        assert (await refused(request_change(ann, email)))[2] == ("email",)
        await request_change(ann, new.upper())
        assert (await me(ann)).email == email and subjects(at, email) == ["Your account shall get another address"]
        assert new.upper() in mails(at, email)[0][1] and "tsw_" not in mails(at, email)[0][1]
        await request_reset(on, email)  # a word that lies in the old mailbox
        lost = word(at, email)
        _, stranger, _ = await known(on)
        for other in (on.stubs(), stranger):  # who reads the mail need not be who asked
            assert (await refused(verify_as(other, word(at, new.upper()))))[:2] == (
                "FAILED_PRECONDITION",
                "SIGN_IN_TO_CHANGE",
            )
        assert (await verify_as(ann, word(at, new.upper()))).email == new.upper()
        assert (await me(ann)).email == new.upper()  # still signed in
        assert subjects(at, email)[-1] == "The address of your account was changed"
        assert await refused(reset(on, lost)) == BAD_WORD
        assert (await refused(sign_in(on, email)))[1] == "WRONG_CREDENTIALS"
        assert (await sign_in(on, new)).account.name == name
        assert noted(at, name) == ["sign_up", "email_change_requested", "email_changed"]


@asynchronous
async def test_an_address_is_not_flooded_by_who_asks_for_others(at: Place) -> None:
    async with server(at) as on:
        for verified, told in ((True, 5), (False, 0)):  # one that nobody proved is nobody's to be told
            email, ann, name = await known(on, verified=verified)
            for _ in range(5):
                await request_change(ann, address())
            assert (await refused(request_change(ann, address())))[:2] == ("RESOURCE_EXHAUSTED", "TOO_MANY_MAILS")
            assert len(mails(at, email)) == told
            assert noted(at, name).count("email_change_requested") == 5


@asynchronous
async def test_who_is_thrown_out_does_not_change_the_address_afterwards(at: Place) -> None:
    async with server(at) as on:
        for thrown_out in ("another password", "revoked"):
            email, ann, _ = await known(on)
            thief = await sign_in(on, email)
            theirs = address()
            await request_change(on.stubs(thief.token), theirs)
            if thrown_out == "revoked":
                await ann.accounts("RevokeSession", pb.RevokeSessionRequest(name=thief.session.name))
            else:
                await change_password(ann, PASSWORD)
            for client in (on.stubs(), ann):
                assert await refused(verify_as(client, word(at, theirs))) == BAD_WORD
            assert at.sql("select 1 from transom.users where email_key = %s", theirs) == []


@asynchronous
async def test_an_address_of_somebody_else_is_answered_alike_and_not_taken(at: Place) -> None:
    async with server(at) as on:
        _, ann, _ = await known(on)
        bobs, bob, _ = await known(on)
        await request_change(ann, bobs)
        assert subjects(at, bobs) == ["Your address was given for another account"]
        assert "tsw_" not in mails(at, bobs)[0][1]
        free = address()
        for client in (ann, bob):  # both want it; who proves it first has it
            await request_change(client, free)
        keys = [found[1] for _, text in mails(at, free) if (found := WORD.search(text))]
        asked = list(zip((ann, bob), keys, strict=True))
        outcomes = await asyncio.gather(*(verify_as(client, key) for client, key in asked), return_exceptions=True)
        assert sum(isinstance(outcome, pb.Account) for outcome in outcomes) == 1
        late = asked[[isinstance(outcome, pb.Account) for outcome in outcomes].index(False)]
        assert (await refused(verify_as(*late)))[1] == "EMAIL_TAKEN"


# ------------------------------------------------------------------------------------------------------------- codes


async def request_code(on: Server, email: str) -> Any:
    return await on.stubs().accounts("RequestSignInCode", pb.RequestSignInCodeRequest(email=email))


@asynchronous
async def test_strangers_who_ask_for_codes_do_not_keep_the_owners_away(at: Place) -> None:
    async with server(at) as on:
        codes, passwords = on.people.mail_codes, on.people.new_passwords

        async def sent(email: str, ask: Any, network: str) -> bool:
            before = len(mails(at, email))
            await ask(email, network)
            return len(mails(at, email)) > before

        for ask in (codes.request, passwords.request_reset):
            email, _, _ = await known(on)
            assert [await sent(email, ask, "192.0.2.1") for _ in range(6)] == [True] * 5 + [False]
            assert await sent(email, ask, "192.0.2.2")  # the owner, from wherever
            for n in range(14):  # who has many networks uses up what strangers have together
                assert await sent(email, ask, f"198.51.100.{n}")
            assert not await sent(email, ask, "192.0.2.2")
            # From where the account once proved itself there is still room, which strangers do not use up.
            at.sql(
                "insert into transom.known_networks select id, 'password', n from transom.users,"
                " unnest(array['203.0.113.7', '2001:db8::/64']) n where email_key = %s", email,
            )  # fmt: skip
            assert [await sent(email, ask, "2001:db8::7") for _ in range(6)] == [True] * 5 + [False]
            assert await sent(email, ask, "203.0.113.7")
            at.sql("update transom.known_networks set seen_time = now() - interval '91 days'")
            assert not await sent(email, ask, "203.0.113.7")


async def with_code(on: Server, token: str, code: str, **more: Any) -> Any:
    return await on.stubs().accounts("SignInWithCode", pb.SignInWithCodeRequest(token=token, code=code, **more))


async def code_sign_in(on: Server, at: Place, email: str, **more: Any) -> Any:
    requested = await request_code(on, email)
    return await with_code(on, requested.token, word(at, email, CODE), **more)


@asynchronous
async def test_a_code_signs_in_once_together_with_what_asked_for_it(at: Place) -> None:
    async with server(at) as on:
        email, _, name = await known(on)
        requested = await request_code(on, email)
        code = word(at, email, CODE)
        assert mails(at, email)[0][0] == f"Transom: {code} is your code"
        kept = str(at.sql("select * from transom.words where email_key = %s", email))
        assert code.replace(" ", "") not in kept and requested.token not in kept
        elsewhere = await request_code(on, email)
        assert await refused(with_code(on, elsewhere.token, code)) == WRONG_CODE
        made = await with_code(on, requested.token, code.replace(" ", "-"), device="Pixel 9")
        assert made.account.name == name and made.session.device == "Pixel 9" and made.account.password_set
        assert at.sql("select proof from transom.sessions where id = %s", made.session.name[9:]) == [("code",)]
        assert await refused(with_code(on, requested.token, code)) == WRONG_CODE
        for nonsense in ("", "tsw_", made.token):
            assert await refused(with_code(on, nonsense, code)) == WRONG_CODE


@asynchronous
async def test_a_code_bears_five_tries(at: Place) -> None:
    async with server(at) as on, server(at) as other:
        email, _, _ = await known(on)
        requested = await request_code(on, email)
        code = word(at, email, CODE)
        wrong = "0000 0000" if code != "0000 0000" else "0000 0001"
        tries = [refused(with_code(one, requested.token, wrong)) for one in (on, other, on, other, on)]
        assert set(await asyncio.gather(*tries)) <= {WRONG_CODE, ("RESOURCE_EXHAUSTED", "TOO_MANY_ATTEMPTS", ())}
        at.sql("update transom.words set attempts = 5 where email_key = %s", email)
        answer = await refused(with_code(on, requested.token, code))
        assert answer in (WRONG_CODE, ("RESOURCE_EXHAUSTED", "TOO_MANY_ATTEMPTS", ()))


@asynchronous
async def test_a_code_makes_an_account_where_the_policy_admits_it(at: Place) -> None:
    async with server(at, policy=SignUpPolicy(Policy.DOMAINS, ["example.com"])) as on:
        email = address()
        made = await code_sign_in(on, at, email, display_name="Ann")
        assert made.account.verified and not made.account.password_set and made.account.display_name == "Ann"
        requested = await request_code(on, email.upper())  # the mail goes to the address as the account spells it
        again = await with_code(on, requested.token, word(at, email, CODE))
        assert again.account.name == made.account.name
        stranger = f"{secrets.token_hex(6)}@elsewhere.example"
        requested = await request_code(on, stranger)  # alike, and nothing is sent
        assert requested.token.startswith("tsw_") and mails(at, stranger) == []
        [[subject, body, sent]] = at.sql("select subject, trim(body), sent_time is not null from transom.mails"
                                         " where recipient = '' order by id desc limit 1")  # fmt: skip
        assert (subject, body, sent) == ("", "", True)

        # Without a password it proves itself by signing in a moment ago.
        assert (await change_password(on.stubs(again.token), "")).token
        assert (await sign_in(on, email, OTHER)).account.name == made.account.name


# --------------------------------------------------------------------------------------------------------- anonymous


async def anonymous(on: Server, **more: Any) -> Any:
    return await on.stubs().accounts("SignInAnonymously", pb.SignInAnonymouslyRequest(**more))


async def upgrade(client: Caller, email: str, **more: Any) -> Any:
    return await client.accounts("UpgradeAccount", pb.UpgradeAccountRequest(email=email, password=PASSWORD, **more))


@asynchronous
async def test_an_anonymous_account_is_upgraded_and_stays_the_same(at: Place) -> None:
    async with server(at, anonymous=True, policy=SignUpPolicy(verify=True)) as on:
        made = await anonymous(on, device="Pixel 9")
        guest = on.stubs(made.token)
        account = await me(guest)
        assert (account.email, account.anonymous, account.password_set) == ("", True, False)
        assert (await on.authentication.caller(f"Bearer {made.token}")).kind == "anonymous"
        for call in (request_change(guest, address(), ""), change_password(guest, "")):
            assert (await refused(call))[1] == "ANONYMOUS_ACCOUNT"  # no way around the sign-up policy
        email, taken = address(), (await known(on))[0]
        assert (await refused(upgrade(guest, "nobody")))[2] == ("email",)
        answers = [await upgrade(guest, address_, display_name="Ann") for address_ in (email, taken)]
        for answer in answers:
            assert answer.sign_up_token and answer == pb.SignUpResponse(verify=True, sign_up_token=answer.sign_up_token)
        assert subjects(at, taken) == ["You have an account"]
        assert (await me(guest)).anonymous
        known_now = await verify(on, word(at, email), answers[0].sign_up_token)
        assert known_now.name == account.name and known_now.verified and known_now.display_name == "Ann"
        assert (await refused(me(guest)))[1] == "TOKEN_INVALID"  # whoever else has the token is left behind
        signed = await sign_in(on, email)
        assert signed.account.name == account.name and not signed.account.anonymous
        assert (await on.authentication.caller(f"Bearer {signed.token}")).kind == "user"
        assert (await refused(upgrade(on.stubs(signed.token), address())))[1] == "NOT_ANONYMOUS"
        assert noted(at, account.name) == ["sign_up", "upgraded"]


@asynchronous
async def test_a_strangers_upgrade_brings_its_reader_no_password_of_the_stranger(at: Place) -> None:
    async with server(at, anonymous=True, policy=SignUpPolicy(verify=True)) as on:
        made, email = await anonymous(on), address()
        await upgrade(on.stubs(made.token), email, display_name="Click https://evil.example")
        mine = await verify(on, word(at, email), session=made.token)  # also where the stranger's own session asks
        assert (mine.name, mine.verified, mine.password_set) == (made.account.name, True, False)
        assert mine.display_name == "" and not mine.anonymous
        assert (await refused(me(on.stubs(made.token))))[1] == "TOKEN_INVALID"
        assert (await refused(sign_in(on, email)))[1] == "WRONG_CREDENTIALS"


@asynchronous
async def test_an_upgrade_at_once_ends_the_session_that_asked(at: Place) -> None:
    async with server(at, anonymous=True, policy=SignUpPolicy(verify=False)) as on:
        made = await anonymous(on)
        email = address()
        upgraded = await upgrade(on.stubs(made.token), email, display_name="Ann")
        assert upgraded.account.name == made.account.name and upgraded.token and not upgraded.account.verified
        assert (await refused(me(on.stubs(made.token))))[1] == "TOKEN_INVALID"
        assert (await refused(upgrade(on.stubs((await anonymous(on)).token), email)))[1] == "EMAIL_TAKEN"
        await verify(on, word(at, email), session=upgraded.token)
        assert (await me(on.stubs(upgraded.token))).verified

    async with server(at, anonymous=True, policy=SignUpPolicy(Policy.INVITE)) as on:
        guest, email = on.stubs((await anonymous(on)).token), address()
        assert (await refused(upgrade(guest, email)))[1] == "INVITATION_REQUIRED"
        await on.sign_ups.invite(email, roles=["editor"])
        upgraded = await upgrade(guest, email, invitation=word(at, email))
        assert upgraded.account.verified and list(upgraded.account.roles) == ["editor"]


@asynchronous
async def test_anonymous_accounts_are_made_where_they_are_allowed_and_swept_where_nobody_needs_them(at: Place) -> None:
    async with server(at) as on:
        assert await refused(anonymous(on)) == ("PERMISSION_DENIED", "ANONYMOUS_NOT_ALLOWED", ())
    at.sql("create table if not exists public.things (name text, _owner text)")
    at.sql("insert into transom.tables values ('test.Thing', 'public', 'things')")
    async with server(at, anonymous=True) as on:
        made = [(await anonymous(on)).account.name for _ in range(5)]
        live, with_thing, with_file, young, lost = made
        ids = [name[6:] for name in made]
        at.sql("update transom.users set create_time = now() - interval '31 days' where id = any(%s)", ids)
        at.sql("update transom.users set create_time = now() where id = %s", young[6:])
        at.sql("delete from transom.sessions where user_id = any(%s) and user_id <> %s", ids, live[6:])
        at.sql("insert into public.things values ('things/1', %s)", with_thing)
        at.sql(
            "insert into transom.files (id, owner, filename, content_type, size_bytes, state)"
            " values (%s, %s, 'a', 'text/plain', 1, 'READY')", new_id(), with_file,
        )  # fmt: skip
        assert await on.people.anonymous.sweep() == 1
        left = {f"users/{id}" for [id] in at.sql("select id from transom.users where id = any(%s)", ids)}
        assert left == {live, with_thing, with_file, young} and lost not in left


# ------------------------------------------------------------------------------------------------- through the edge


def test_a_password_is_forgotten_and_an_address_changed_over_rest(stack: Stack) -> None:
    """The whole way: REST through the edge, mails by way of the relay, the broker, the worker and SMTP."""

    def post(path: str, body: dict[str, Any], token: str = "", status: int = 200) -> Any:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        answer = httpx.post(f"{stack.edge}/transom/v1/accounts{path}", json=body, headers=headers, timeout=20)
        assert answer.status_code == status, answer.text
        return answer.json()

    ann = people.signed_up(stack)
    post(":requestPasswordReset", {"email": ann.email})
    key = people.mailed(stack, ann.email, r"(?<=account/reset#)tsw_[A-Za-z0-9_-]{43}")
    made = post(":resetPassword", {"word": key, "password": OTHER, "device": "browser"})
    assert made["account"]["name"] == ann.name
    refusal = post(":resetPassword", {"word": key, "password": OTHER}, status=400)
    assert refusal["error"]["details"][1]["fieldViolations"][0]["field"] == "word"
    people.mailed(stack, ann.email, "password of your account .* was changed")

    new = address()
    post("/me:requestEmailChange", {"email": new, "currentPassword": OTHER}, made["token"])
    key = people.mailed(stack, new, r"(?<=account/verify#)tsw_[A-Za-z0-9_-]{43}")
    post(":verifyEmail", {"word": key}, status=400)
    assert post(":verifyEmail", {"word": key}, made["token"])["email"] == new
    people.mailed(stack, ann.email, f"It is now {new}")

    requested = post(":requestSignInCode", {"email": new})
    code = people.mailed(stack, new, r"[0-9]{4} [0-9]{4}")
    signed = post(":signInWithCode", {"token": requested["token"], "code": code})
    assert signed["account"]["email"] == new
    headers = {"authorization": f"Bearer {signed['token']}"}
    patched = httpx.patch(f"{stack.edge}/transom/v1/accounts/me", json={"displayName": "Ann"}, headers=headers)
    assert patched.json()["displayName"] == "Ann", patched.text

    ines = post(":signIn", {"email": "ines@example.com", "password": "inspect-ines"})
    assert ines["account"]["verified"]  # whom the seed brings need not prove an address

    guest, mine = post(":signInAnonymously", {}), address()
    asked = post("/me:upgrade", {"email": mine, "password": PASSWORD}, guest["token"])
    key = people.mailed(stack, mine, r"(?<=account/verify#)tsw_[A-Za-z0-9_-]{43}")
    upgraded = post(":verifyEmail", {"word": key, "signUpToken": asked["signUpToken"]})
    assert upgraded["name"] == guest["account"]["name"] and upgraded["passwordSet"]

    # Sent, the mails have forgotten their words.
    from psycopg import connect

    with connect(stack.env["TRANSOM_POSTGRES"], autocommit=True) as database:
        rows = database.execute(
            "select body from transom.mails where recipient in (%s, %s)", [ann.email, new]
        ).fetchall()
    assert len(rows) >= 5 and not any("tsw_" in body for [body] in rows)
