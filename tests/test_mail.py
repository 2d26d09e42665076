"""Mails between Transom and a mail server: TLS, recipients that are refused, mails that come back, the catcher."""

from __future__ import annotations

import asyncio
import email
import email.policy
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from aiosmtpd.controller import Controller
from click.testing import CliRunner, Result
from consumers_ground import Ground, asynchronous
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from pydantic import ValidationError
from transom.events.v1.event_pb2 import Event

from consumers.handlers import Poison
from consumers.mail import HANGUPS_MAX, Mails
from consumers.smtp import Line
from deploy.native.mailbox import Mailbox, Shown
from deploy.native.stack import Stack
from server.apps import Discard
from server.apps.catcher import Catcher
from server.cli import mail as cli_mail
from server.engine import bounces
from server.errors import Invalid, Unavailable
from server.settings import Settings
from server.store import mails

BOUNCES = "bounces@app.example"


@pytest.fixture(scope="module")
def ground(components: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with Ground.on(components, tmp_path_factory.mktemp("mail")) as ground:
        yield ground


@pytest.fixture(autouse=True)
def empty(ground: Ground) -> None:
    ground.execute("delete from transom.mails")
    ground.execute("delete from transom.mail_suppressions")


class Server:
    """A real SMTP server that answers each recipient as it is told, and keeps what it takes."""

    def __init__(self, answers: dict[str, str] | None = None, data: str = "250 OK", **kept: Any) -> None:
        self.answers = answers or {}
        self.data = data
        self.got: list[tuple[str, str, EmailMessage]] = []
        """Return path, recipient and message of each mail."""
        self.secure: list[bool] = []
        [port] = Ground.ports(1)
        self.address = f"localhost:{port}"
        self._controller = Controller(self, hostname="localhost", port=port, enable_SMTPUTF8=True, **kept)

    def __enter__(self) -> Server:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        answer = self.answers.get(address, "250 OK")
        if answer == "hangs up":
            server.transport.abort()
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.data.startswith("250"):
            message = email.message_from_bytes(envelope.content, policy=email.policy.default)
            self.got += [(envelope.mail_from, to, message) for to in envelope.rcpt_tos]
            self.secure.append(session.ssl is not None)
        return self.data

    @property
    def recipients(self) -> list[str]:
        return [to for _, to, _ in self.got]


@asynccontextmanager
async def mailing(ground: Ground, server: Server | str, **settings: Any) -> AsyncIterator[Mails]:
    """The handler of mails, as a worker has it, without the broker before it."""
    address = server if isinstance(server, str) else server.address
    told = ground.settings(smtp=address, mail_bounces=BOUNCES, mail_from="App <app@app.example>", **settings)
    async with AsyncConnectionPool(
        ground.postgres, min_size=1, max_size=2, kwargs={"row_factory": dict_row}, open=False
    ) as pool:
        yield Mails(pool, cast(Any, None), told)


def queue(ground: Ground, to: str = "ann@example.com", id: str = "m1", **more: Any) -> Event:
    """Queues a mail; the event that wakes the handler."""
    with psycopg.connect(ground.postgres) as connection:
        for statement, parameters in mails.queued(id, to, "Hello", "Dear Ann", **more):
            connection.execute(statement, parameters)
    return Event(name=f"mails/{id}")


async def sent(ground: Ground, handler: Mails, event: Event) -> None:
    """Sends a mail and commits what the handler wants committed."""
    for statement, parameters in await handler.send(event, cast(Any, None)):
        ground.execute(statement, parameters)


def states(ground: Ground) -> dict[str, str]:
    return dict(cast(list[tuple[str, str]], ground.rows("select address, state from transom.mail_recipients")))


def suppressed(ground: Ground) -> list[tuple[Any, ...]]:
    return ground.rows("select address, reason from transom.mail_suppressions where lifted_time is null order by 1")


@asynchronous
async def test_where_the_server_hangs_up_at_one_recipient_the_others_get_it(ground: Ground) -> None:
    bad = {f"b{n}@example.com": "hangs up" for n in range(HANGUPS_MAX + 2)}
    with Server(bad) as server:
        async with mailing(ground, server) as handler:
            event = queue(ground, "ann@example.com, b0@example.com, cem@example.com")
            for _ in range(2):
                with pytest.raises(Unavailable, match=r"b0@example\.com: 421"):
                    await sent(ground, handler, event)
                assert sorted(server.recipients) == ["ann@example.com", "cem@example.com"]
            # Where it does so again and again it is away for now; nobody comes last every time.
            event = queue(ground, ", ".join([*bad, "dan@example.com"]), id="m2")
            while "dan@example.com" not in server.recipients:
                with pytest.raises(Unavailable):
                    await sent(ground, handler, event)
            assert states(ground)["b0@example.com"] == "waiting"


# What arrives.


@asynchronous
async def test_a_mail_made_of_a_template_arrives_as_text_and_html(ground: Ground) -> None:
    with Server() as server:
        async with ground.workshop() as shop:
            work = shop.work(Event())
            things = [{"name": "things/1"}]
            data = {"count": 1, "who": "Ann", "since": datetime(2026, 1, 1, tzinfo=UTC), "things": things}
            work.mail("Ann <ann@example.com>", template="overdue", data=data, reply_to="desk@app.example")
            for wrong in (
                {"subject": "x", "template": "overdue"},
                {"subject": "x"},
                {"subject": "x", "text": "x", "html": "\0"},
            ):
                with pytest.raises(Invalid):
                    work.mail("ann@example.com", **cast(Any, wrong))
            await work.commit()
        async with mailing(ground, server) as handler:
            event = Event(name=f"mails/{ground.value('select id from transom.mails')}")
            await sent(ground, handler, event)
            await sent(ground, handler, event)
    [(_, to, message)] = server.got
    assert (to, message["To"], message["Reply-To"]) == ("ann@example.com", "Ann <ann@example.com>", "desk@app.example")
    assert message["Subject"] == "1 things of Ann are overdue"
    assert message.get_content_type() == "multipart/alternative"
    plain, html = message.get_body(("plain",)), message.get_body(("html",))
    assert plain is not None and "since 01 January 2026, 01:00" in plain.get_content()
    assert html is not None and "<h1>Transom</h1>" in html.get_content()


# TLS.


class Authority:
    """Who certifies `localhost`."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.file = folder / "ca.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        (folder / "key.pem").write_bytes(key.private_bytes(*plain))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.file, folder / "key.pem")


@asynchronous
async def test_tls_is_spoken_checked_and_never_gone_without(ground: Ground) -> None:
    folders = [ground.folder / name for name in ("ours", "another")]
    for folder in folders:
        folder.mkdir()
    ours, another = map(Authority, folders)
    queue(ground)
    event = Event(name="mails/m1")
    with Server(tls_context=ours.context, require_starttls=True) as server:
        for wrong in ({"smtp_tls": "starttls"}, {"smtp_tls": "starttls", "smtp_ca": another.file}, {"smtp_tls": "off"}):
            async with mailing(ground, server, **wrong) as handler:
                with pytest.raises(Unavailable):
                    await handler.send(event, cast(Any, None))
        async with mailing(ground, server, smtp_tls="starttls", smtp_ca=ours.file) as handler:
            await sent(ground, handler, event)
        assert server.secure == [True]
    with Server() as plain:
        async with mailing(ground, plain, smtp_tls="starttls", smtp_ca=ours.file) as handler:
            with pytest.raises(Unavailable):
                await handler.send(queue(ground, id="m2"), cast(Any, None))
        assert plain.got == []
    with Server(ssl_context=ours.context) as wrapped:
        async with mailing(ground, wrapped, smtp_tls="tls", smtp_ca=ours.file) as handler:
            await sent(ground, handler, Event(name="mails/m2"))
        assert wrapped.recipients == ["ann@example.com"]


def test_a_password_is_not_sent_in_the_clear() -> None:
    with pytest.raises(ValidationError, match="smtp_user needs smtp_tls"):
        Settings(smtp="mail.example:25", smtp_user="app", smtp_password="secret")  # type: ignore[arg-type]
    assert Settings(smtp="mail.example:25", smtp_user="app", smtp_tls="true").smtp_tls == "starttls"  # type: ignore[arg-type]


# Recipients, one by one.


@asynchronous
async def test_each_recipient_gets_a_mail_once_whatever_others_are_answered(ground: Ground) -> None:
    event = queue(ground, "ann@example.com, Ben <ben@example.com>, cem@example.com, Ann@example.com, ann@example.com")
    with Server({"ben@example.com": "451 4.7.1 greylisted", "cem@example.com": "550 5.1.1 no such user"}) as server:
        async with mailing(ground, server) as handler:
            with pytest.raises(Unavailable, match=r"ben@example.com: 451 4\.7\.1 greylisted"):
                await handler.send(event, cast(Any, None))
            assert states(ground)["ben@example.com"] == "waiting"
            server.answers["ben@example.com"] = "250 OK"
            await sent(ground, handler, event)
            await sent(ground, handler, event)
    assert sorted(server.recipients) == ["Ann@example.com", "ann@example.com", "ben@example.com"]
    assert states(ground)["cem@example.com"] == "refused"
    assert suppressed(ground) == [("cem@example.com", "BOUNCED")]
    assert ground.value("select sent_time is not null from transom.mails")
    assert "cem@example.com" in ground.value("select last_error from transom.mails")
    # Each has a return path of their own, which nobody could guess.
    paths = [path for path, _, _ in server.got]
    assert len(set(paths)) == 3 and all(path.startswith("bounces+") and path.endswith("@app.example") for path in paths)


@asynchronous
async def test_a_connection_that_breaks_between_two_recipients_repeats_nothing(ground: Ground) -> None:
    event = queue(ground, "ann@example.com, ben@example.com")
    with Server({"ben@example.com": "421 4.3.2 going down"}) as server:
        async with mailing(ground, server) as handler:
            with pytest.raises(Unavailable):
                await handler.send(event, cast(Any, None))
    with Server() as again:
        async with mailing(ground, again) as handler:
            await sent(ground, handler, event)
    assert (server.recipients, again.recipients) == (["ann@example.com"], ["ben@example.com"])


@asynchronous
async def test_whatever_bytes_a_server_says_the_mail_it_took_is_not_sent_again(ground: Ground) -> None:
    event = queue(ground, "ann@example.com, cem@example.com")
    with Server({"cem@example.com": "550 5.1.1 no\0body"}, data="250 2.0.0 taken\0") as server:
        async with mailing(ground, server) as handler:
            await sent(ground, handler, event)
    assert (server.recipients, states(ground)["cem@example.com"]) == (["ann@example.com"], "refused")
    assert bounces.plain("Bo\udceete\0pleine\r\n") == "Bo te pleine"  # Latin 1, as it is read from the line


STEPS = ("of", "open", "hand", "settle", "settled", "commit")
"""Where a worker may die, in order."""


@pytest.mark.parametrize("step", STEPS)
@asynchronous
async def test_a_worker_that_dies_at_any_step_loses_no_mail_and_repeats_at_most_the_one_in_hand(
    ground: Ground, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """As little is done after it as after kill -9: nobody catches it, nothing is written down."""

    def dying(whole: Any, *, after: bool = False) -> Any:
        async def call(*given: Any, **named: Any) -> Any:
            if after:
                await whole(*given, **named)
            raise Killed

        return call

    event = queue(ground, "ann@example.com, ben@example.com")
    with Server() as server:
        async with mailing(ground, server) as handler:
            with monkeypatch.context() as harm:
                match step:
                    case "of":
                        harm.setattr(handler._recipients, "of", dying(handler._recipients.of, after=True))
                    case "open":
                        harm.setattr(Line, "hand", dying(Line.hand))
                    case "hand":
                        harm.setattr(Line, "hand", dying(Line.hand, after=True))
                    case "settle" | "settled":
                        settle = handler._recipients.settle
                        harm.setattr(handler._recipients, "settle", dying(settle, after=step == "settled"))
                if step == "commit":
                    await handler.send(event, cast(Any, None))  # and what it wants committed is not
                else:
                    with pytest.raises(Killed):
                        await handler.send(event, cast(Any, None))
            await sent(ground, handler, event)
    times = Counter(server.recipients)
    assert set(times) == {"ann@example.com", "ben@example.com"}
    assert sorted(times.values()) == [1, 2 if step in ("hand", "settle") else 1]
    assert len({message["Message-ID"] for _, _, message in server.got}) == 1
    assert set(states(ground).values()) == {"sent"}


@asynchronous
async def test_nothing_is_sent_to_a_suppressed_address_until_it_is_lifted(ground: Ground) -> None:
    with Server({"ann@example.com": "550 5.1.1 no such user"}) as server:
        async with mailing(ground, server) as handler:
            with pytest.raises(Poison, match="no such user"):
                await handler.send(queue(ground), cast(Any, None))
            server.answers.clear()
            with pytest.raises(Discard, match="nothing is sent to it"):
                await handler.send(queue(ground, "ANN@example.com", "m2"), cast(Any, None))
            assert server.got == []
            assert (await asyncio.to_thread(invoke, ground, "lift", "Ann@Example.com")).exit_code == 0
            await sent(ground, handler, Event(name="mails/m2"))
    assert server.recipients == ["ANN@example.com"]
    told = ground.rows("select action, details->>'email' from transom.audit")
    assert told == [("mail_lifted", "ann@example.com")]


@asynchronous
async def test_refusals_that_are_not_the_addresss_fault_suppress_nothing(ground: Ground) -> None:
    answers = ["554 5.7.1 relaying denied", "550 5.7.1 spam", "550 5.5.1 what?", "550 5.6.3 no"]
    with Server() as server:
        async with mailing(ground, server) as handler:
            for n in range(2 * bounces.OFTEN):
                server.answers["ann@example.com"] = answers[n % len(answers)]
                with pytest.raises(Poison):
                    await handler.send(queue(ground, id=f"m{n}"), cast(Any, None))
            assert suppressed(ground) == []
            server.answers.clear()
            server.data = "552 too large"
            for n in range(bounces.OFTEN):
                with pytest.raises(Poison):
                    await handler.send(queue(ground, id=f"d{n}"), cast(Any, None))
            assert suppressed(ground) == []
            server.answers["ann@example.com"] = "552 5.2.2 mailbox full"
            for n in range(bounces.OFTEN):
                assert suppressed(ground) == []
                with pytest.raises(Poison):
                    await handler.send(queue(ground, id=f"f{n}"), cast(Any, None))
    assert suppressed(ground) == [("ann@example.com", "BOUNCED_OFTEN")]


# What comes back.


def report(to: str, status: str = "5.1.1", action: str = "failed", *, returned: str = "") -> bytes:
    """A delivery status notification as Postfix writes them."""
    return (
        f"From: MAILER-DAEMON@mx.example\r\nTo: {to}\r\nSubject: Undelivered Mail Returned to Sender\r\n"
        "MIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=B\r\n\r\n"
        "--B\r\nContent-Type: text/plain\r\n\r\nI'm sorry to have to inform you ...\r\n"
        "--B\r\nContent-Type: message/delivery-status\r\n\r\n"
        "Reporting-MTA: dns; mx.example\r\nArrival-Date: Sun, 22 Nov 2026 20:00:00 +0000\r\n\r\n"
        f"Final-Recipient: rfc822; somebody@example.com\r\nAction: {action}\r\nStatus: {status}\r\n"
        f"Diagnostic-Code: smtp; 550 {status} <ann@example.com>:\r\n Recipient address rejected\r\n\r\n"
        f"--B\r\nContent-Type: message/rfc822\r\n\r\nSubject: Hello\r\n\r\n{returned}\r\n--B--\r\n"
    ).encode()


def invoke(ground: Ground, *words: str, given: bytes = b"", **env: str) -> Result:
    from server.cli.mail import command

    return CliRunner().invoke(
        command, list(words), input=given, env={**ground.env, "TRANSOM_MAIL_BOUNCES": BOUNCES, **env}
    )


async def returned(ground: Ground, to: str = "ann@example.com", id: str = "m1") -> str:
    """The return path of a mail that was sent."""
    with Server() as server:
        async with mailing(ground, server) as handler:
            await sent(ground, handler, queue(ground, to, id))
    return server.got[0][0]


@asynchronous
async def test_a_mail_that_comes_back_is_written_down_and_stops_the_next(ground: Ground) -> None:
    path = await returned(ground, "Ann@example.com")

    def told(*words: str, given: bytes = b"", **env: str) -> tuple[int, str]:
        run = invoke(ground, *words, given=given, **env)
        return run.exit_code, run.output.strip()

    def all_of_it() -> None:
        # Nobody's: an unknown word, no word, another domain, no report at all.
        stranger = bounces.return_path(BOUNCES, bounces.new_token())
        elsewhere = path.replace("app.example", "evil.example")
        for foreign in (
            report(stranger),
            report(BOUNCES),
            report(elsewhere),
            b"Subject: out of office\r\n\r\nbye",
            b"",
        ):
            assert told("bounce", given=foreign) == (0, "foreign")
        assert told("bounce", given=f"To: {path}\r\n\r\nI am away until Monday.".encode()) == (0, "foreign")
        assert told("bounce", given=report(path, "4.4.1", "delayed")) == (0, "delayed  Ann@example.com  4.4.1")
        assert states(ground) == {"Ann@example.com": "sent"} and suppressed(ground) == []
        # The database is away: the mail server shall try again.
        code, said = told("bounce", given=report(path), TRANSOM_POSTGRES="postgresql://127.0.0.1:1/none")
        assert code == 75 and "away" in said
        # In other letters, named by the mail server alone, and with the whole mail behind it.
        late = report("bounces@app.example", returned="x" * (2 * bounces.BYTES))
        assert told("bounce", "--recipient", path.upper(), given=late) == (
            0,
            "bounced  Ann@example.com  5.1.1  suppressed",
        )
        new = ground.folder / "Maildir" / "new"
        new.mkdir(parents=True)
        for n, message in enumerate((report(stranger), report(path))):
            (new / f"{n}.mx").write_bytes(message)
        words = ("bounce", "--maildir", str(new.parent))
        assert told(*words) == (0, "foreign\nrepeated  Ann@example.com  5.1.1")
        assert told(*words) == (0, "") and len(list((new.parent / "cur").iterdir())) == 2
        # Another call takes one and moves the other in the middle of this one.
        for n in range(3):
            (new / f"{n}.mx").write_bytes(report(stranger))
        elsewhere = iter([("0.mx", "1.mx"), ("2.mx",)])
        for _, seen in cli_mail._messages(new.parent):
            for name in next(elsewhere):
                (new / name).unlink()
            seen()
        assert not list(new.iterdir())
        assert states(ground) == {"Ann@example.com": "bounced"}
        assert "Recipient address rejected" in told("outbox", "--failed")[1]
        assert told("suppressed")[1].startswith("ann@example.com")
        assert told("lift", "ann@example.com")[0] == 0
        assert told("lift", "ann@example.com") == (1, "Error: ann@example.com is not suppressed")
        assert told("suppressed") == (0, "no addresses")
        assert told("suppress", "spam@example.com", "--because", "asked us to stop")[0] == 0
        assert "OPERATOR" in told("suppressed")[1]

    await asyncio.to_thread(all_of_it)


@asynchronous
async def test_failures_that_may_pass_count_until_they_are_many_and_since_the_last_lift(ground: Ground) -> None:
    async def fail(ids: Sequence[str]) -> None:
        for id in ids:
            path = await returned(ground, id=id)
            await asyncio.to_thread(invoke, ground, "bounce", given=report(path, "4.4.7"))

    await fail([f"a{n}" for n in range(bounces.OFTEN - 1)])
    assert suppressed(ground) == []
    await fail(["b"])
    assert suppressed(ground) == [("ann@example.com", "BOUNCED_OFTEN")]
    await asyncio.to_thread(invoke, ground, "lift", "ann@example.com")
    await fail(["c"])
    assert suppressed(ground) == []


@asynchronous
async def test_mails_go_when_they_are_old_with_what_became_of_them(ground: Ground) -> None:
    await returned(ground)
    queue(ground, id="m2")
    ground.execute("update transom.mails set create_time = now() - interval '91 days' where id = 'm1'")
    async with AsyncConnectionPool(ground.postgres, min_size=1, open=False) as pool:
        assert await mails.sweep(pool, 90) == 1
    assert ground.rows("select id from transom.mails") == [("m2",)] and states(ground) == {}


# The catcher.


def test_the_catcher_is_read_from_tests_and_from_the_command(ground: Ground, tmp_path: Path) -> None:
    import threading

    box = Mailbox(tmp_path)
    pages = Shown(0, box)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{pages.server_address[1]}"
    try:
        message = EmailMessage()
        message["Subject"] = "Overdue\x1b[2J since March"
        message.set_content("Dear Ann")
        message.add_alternative("<b>Dear Ann</b>", subtype="html")
        message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="report.pdf")
        box.put("bounces+x@app.example", ["Ann@example.com"], message.as_bytes())
        catcher = Catcher(url)
        mail = catcher.wait(to="ann@example.com", subject="Overdue")
        assert (mail.text.strip(), mail.html.strip(), mail.attachments) == (
            "Dear Ann",
            "<b>Dear Ann</b>",
            ("report.pdf",),
        )
        assert mail.sender == "bounces+x@app.example" and b"Dear Ann" in catcher.raw(mail.id)
        assert catcher.mails(to="ben@example.com") == []
        with pytest.raises(TimeoutError, match=r"no mail to ben@example\.com"):
            catcher.wait(to="ben@example.com", within=0)
        listed = invoke(ground, "list", "--to", "ann@example.com", TRANSOM_MAILBOX=url).output
        assert mail.id in listed and "Ann@example.com" in listed and "\x1b" not in listed
        shown = invoke(ground, "show", mail.id, TRANSOM_MAILBOX=url).output
        assert "report.pdf" in shown and shown.endswith("Dear Ann\n")
        assert invoke(ground, "show", "--html", TRANSOM_MAILBOX=url).output.strip() == "<b>Dear Ann</b>"
        assert "Content-Type: application/pdf" in invoke(ground, "show", "--raw", TRANSOM_MAILBOX=url).output
        assert invoke(ground, "show", "none", TRANSOM_MAILBOX=url).exit_code == 1
        catcher.clear()
        assert catcher.mails() == []
    finally:
        pages.shutdown()
        pages.server_close()
    with pytest.raises(OSError, match="cannot be asked"):
        Catcher(url).mails()
