"""Mails, from a task's transaction to a real SMTP server's hands."""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from consumers_ground import Ground, asynchronous, eventually
from prometheus_client import CollectorRegistry
from transom.events.v1.event_pb2 import Event

from consumers import mail, tasks, topology
from consumers.inbox import Inbox
from consumers.relay import Relay, RelayMetrics
from consumers.runner import Runner, RunnerMetrics
from consumers.workshop import Workshop
from deploy.native.stack import Stack

SENT = "select count(*) from transom.mails where sent_time is not null"


@pytest.fixture
def ground(components: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    monkeypatch.setattr(topology, "SETTLE", 0)
    with Ground.on(components, tmp_path) as ground:
        ground.queues |= {topology.queue_of(name) for name in ("count", "report", "drop")}
        yield ground


class Catcher:
    """An SMTP server that answers as it is told and keeps what it takes."""

    def __init__(self, port: int, answer: str = "250 OK") -> None:
        self.answer = answer
        self.mails: list[EmailMessage] = []
        self._controller = Controller(self, hostname="127.0.0.1", port=port)

    def __enter__(self) -> Catcher:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if self.answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.answer

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"


@asynccontextmanager
async def sending(ground: Ground, **changed: Any) -> AsyncIterator[Workshop]:
    """Relay and worker with the app's tasks and the mail handler, in this process."""
    settings = ground.settings(**changed)
    async with ground.workshop() as shop:
        handlers = [
            mail.Mails(shop.parts.pool, shop.parts.files, settings).handler,
            *tasks.handlers(shop.parts.app.tasks, ground.schema),
        ]
        runner = Runner(ground.amqp, Inbox(shop.parts.pool), shop.work, handlers, RunnerMetrics(CollectorRegistry()))
        addresses = [(handler.name, handler.key) for handler in handlers]
        relay = Relay(ground.postgres, ground.amqp, addresses, RelayMetrics(CollectorRegistry()))
        running = [asyncio.create_task(relay.run()), asyncio.create_task(runner.run())]
        try:
            yield shop
        finally:
            relay.stop.set()
            runner.stop.set()
            await asyncio.wait_for(asyncio.gather(*running), 20)


async def queue(
    shop: Workshop,
    to: str = "ann@example.com",
    subject: str = "Hello",
    text: str = "Dear Ann",
    attachments: Sequence[str] = (),
) -> None:
    """Queues a mail, as a task would."""
    work = shop.work(Event())
    work.mail(to, subject, text, attachments)
    await work.commit()


@asynchronous
async def test_a_tasks_mail_arrives_once_with_its_attachment(ground: Ground) -> None:
    def arrived() -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{ground.mailbox}/mails", timeout=5) as reply:
            return [m for m in json.load(reply) if m["subject"] == "Ready"]

    async with sending(ground) as shop:
        await ground.thing(shop, "reported")
        await eventually(lambda: ground.value(SENT) == 1)
        await eventually(lambda: ground.value("select count(*) from transom.inbox") == 2)
    [told] = arrived()
    with urllib.request.urlopen(f"{ground.mailbox}/mails/{told['id']}", timeout=5) as reply:
        got = email.message_from_bytes(reply.read(), policy=email.policy.default)
    identity = ground.value("select id from transom.mails")
    assert got["Message-ID"] == f"<{identity}@localhost>"
    assert got["To"] == "manager@example.com"
    body = got.get_body()
    assert body is not None and body.get_content().strip() == "The report is ready."
    [attached] = got.iter_attachments()
    assert attached.get_filename() == "report.txt"
    assert attached.get_content_type() == "text/plain"
    assert attached.get_content().startswith("On things/")


@asynchronous
async def test_a_mail_waits_for_an_smtp_server_that_is_down(ground: Ground) -> None:
    [port] = ground.ports(1)
    async with sending(ground, smtp=f"127.0.0.1:{port}") as shop:
        await queue(shop)
        await eventually(lambda: ground.value("select attempts from transom.mails") >= 1)
        assert "did not take it" in ground.value("select last_error from transom.mails")
        with Catcher(port) as catcher:
            await eventually(lambda: ground.value(SENT) == 1)
            assert [m["Subject"] for m in catcher.mails] == ["Hello"]
            assert ground.value("select last_error from transom.mails") == ""


@asynchronous
async def test_a_mail_refused_for_now_is_tried_again(ground: Ground) -> None:
    [port] = ground.ports(1)
    with Catcher(port, "451 greylisted") as catcher:
        async with sending(ground, smtp=f"127.0.0.1:{port}") as shop:
            await queue(shop)
            await eventually(lambda: "451" in ground.value("select last_error from transom.mails"))
            catcher.answer = "250 OK"
            await eventually(lambda: len(catcher.mails) == 1)
            await eventually(lambda: ground.value(SENT) == 1)
    assert ground.parked() == []


@asynchronous
async def test_a_mail_refused_for_good_is_parked_with_the_servers_words(ground: Ground) -> None:
    [port] = ground.ports(1)
    with Catcher(port, "550 no such user"):
        async with sending(ground, smtp=f"127.0.0.1:{port}") as shop:
            await queue(shop)
            await eventually(lambda: ground.waiting(topology.DEAD) == 1)
    [(_, headers)] = ground.parked()
    assert headers["transom-handler"] == "transom.mail" and "550" in headers["transom-reason"]
    [(attempts, sent, said)] = ground.rows("select attempts, sent_time, last_error from transom.mails")
    assert (attempts, sent) == (1, None) and "550 no such user" in said


@asynchronous
async def test_a_mail_that_cannot_be_written_is_parked(ground: Ground) -> None:
    insert = "insert into transom.mails (id, recipient, subject, body, attachments) values (%s, %s, %s, 'x', %s::jsonb)"
    ground.execute(insert, ["many", ", ".join(f"u{n}@example.com" for n in range(51)), "x", "[]"])
    ground.execute(insert, ["broken", "ann@example.com", "two\nlines", "[]"])
    ground.execute(insert, ["gone", "ann@example.com", "x", '["files/none"]'])
    async with sending(ground):
        for name in ("many", "broken", "gone", "never"):
            ground.execute(
                "insert into transom.events (resource_type, verb, name, payload) values (%s, 'created', %s, '')",
                ["transom.mails.v1.Mail", f"mails/{name}"],
            )
        await eventually(lambda: ground.waiting(topology.DEAD) == 3)
        # One that was cleaned away with its account is nobody's trouble.
        await eventually(lambda: ground.value("select count(*) from transom.inbox") == 1)
    reasons = " | ".join(headers["transom-reason"] for _, headers in ground.parked())
    for words in ("1 to 50 recipients", "cannot be written", "files/none cannot be read"):
        assert words in reasons
    assert ground.value("select count(*) from transom.mails where last_error <> ''") == 3


@asynchronous
async def test_a_mail_waits_until_its_attachments_were_looked_at(ground: Ground) -> None:
    [port] = ground.ports(1)
    with Catcher(port) as catcher:
        async with sending(ground, smtp=f"127.0.0.1:{port}") as shop:
            file = await shop.parts.files.store("one", "a.bin", "image/png", b"words", "system")
            ground.execute("update transom.files set state = 'UPLOADED'")
            await queue(shop, attachments=[file.name])
            await eventually(lambda: ground.value("select attempts from transom.mails") >= 1)
            assert "is being processed" in ground.value("select last_error from transom.mails") and not catcher.mails
            ground.execute("update transom.files set state = 'READY'")
            await eventually(lambda: ground.value(SENT) == 1)
    [[attached]] = [list(mail.iter_attachments()) for mail in catcher.mails]
    assert attached.get_content_type() == "image/png" and attached.get_content() == b"words"


@asynchronous
async def test_an_attachment_that_claims_to_be_a_mail_is_only_bytes(ground: Ground) -> None:
    data = b"Subject: this is no mail\n\nof ours"
    kinds = ["message/delivery-status", "Message/RFC822", "message/partial", "multipart/mixed; boundary=x"]
    [port] = ground.ports(1)
    with Catcher(port) as catcher:
        async with sending(ground, smtp=f"127.0.0.1:{port}") as shop:
            files = [await shop.parts.files.store(kind, "a.eml", kind, data, "system") for kind in kinds]
            await queue(shop, attachments=[file.name for file in files])
            await eventually(lambda: ground.value(SENT) == 1)
    attached = list(catcher.mails[0].iter_attachments())
    assert [(one.get_content_type(), one.get_content()) for one in attached] == [("application/octet-stream", data)] * 4


@asynchronous
async def test_an_attachment_that_cannot_be_written_parks_its_mail(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("no such header")

    monkeypatch.setattr(EmailMessage, "add_attachment", broken)
    async with sending(ground) as shop:
        file = await shop.parts.files.store("one", "a.bin", "image/png", b"words", "system")
        await queue(shop, attachments=[file.name])
        await eventually(lambda: ground.waiting(topology.DEAD) == 1)
    [(_, headers)] = ground.parked()
    assert f"{file.name} cannot be written: no such header" in headers["transom-reason"]


@asynchronous
async def test_a_mail_that_was_sent_is_not_sent_again(ground: Ground) -> None:
    [port] = ground.ports(1)
    with Catcher(port) as catcher:
        async with sending(ground, smtp=f"127.0.0.1:{port}") as shop:
            await queue(shop)
            await eventually(lambda: ground.value("select count(*) from transom.inbox") == 1)
            ground.execute("delete from transom.inbox")
            ground.execute(
                "insert into transom.events (resource_type, verb, name, payload)"
                " select resource_type, verb, name, payload from transom.events"
            )
            await eventually(lambda: ground.value("select count(*) from transom.inbox") == 1)
    assert len(catcher.mails) == 1
