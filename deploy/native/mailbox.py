"""A mail catcher: takes every mail it is given over SMTP, sends none, and shows them over HTTP. Loopback only.

    python -m deploy.native.mailbox FOLDER SMTP_PORT HTTP_PORT

`GET /` is a page to read, `GET /mails` the same as JSON (newest first), `GET /mails/<id>` the mail as it came,
`GET /mails/<id>.html` its HTML; `DELETE /mails` throws all away. server/apps/catcher.py reads it from an app's tests.
"""

from __future__ import annotations

import email
import email.policy
import html
import json
import re
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from email.message import EmailMessage, MIMEPart
from email.utils import getaddresses
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

KEPT = 500
"""So many mails are kept; older ones make room."""
SIZE_MAX = 32 << 20
"""Bytes of one mail; a larger one is refused."""


class Mailbox:
    """Mails as files `<id>.eml`; ids grow with time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, dict[str, Any]] = {}
        """What is told of each mail, by id: none ever changes, and reading one with its attachments takes milliseconds."""
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, sender: str, recipients: list[str], content: bytes) -> str:
        """Keeps a mail, with its envelope as headers, and returns its id."""
        name = f"{time.time_ns():020d}-{secrets.token_hex(3)}"
        new = self.folder / f".{name}"
        head = f"X-Envelope-From: {sender}\r\nX-Envelope-To: {', '.join(recipients)}\r\n"
        new.write_bytes(head.encode() + content)
        new.rename(self.folder / f"{name}.eml")
        for old in list(self._files())[KEPT:]:
            old.unlink(missing_ok=True)
            self._read.pop(old.stem, None)
        return name

    def raw(self, name: str) -> bytes | None:
        """The mail of that id as it came; None if there is none."""
        if not re.fullmatch(r"[0-9]+-[0-9a-f]+", name):
            return None
        try:
            return (self.folder / f"{name}.eml").read_bytes()
        except FileNotFoundError:
            return None

    def mails(self) -> Iterator[dict[str, Any]]:
        """All mails, newest first, as told by `/mails`."""
        for file in self._files():
            if file.stem not in self._read:
                content = self.raw(file.stem)
                if content is None:
                    continue  # it made room meanwhile
                self._read[file.stem] = _told(file.stem, email.message_from_bytes(content, policy=email.policy.default))
            yield self._read[file.stem]

    def html(self, name: str) -> str | None:
        """The HTML of the mail of that id; None if there is none."""
        content = self.raw(name)
        if content is None:
            return None
        body = email.message_from_bytes(content, policy=email.policy.default).get_body(("html",))
        return _text(body) if body else None

    def clear(self) -> None:
        """Throws all away."""
        for file in self._files():
            file.unlink(missing_ok=True)
        self._read.clear()

    def _files(self) -> Iterator[Path]:
        yield from sorted(self.folder.glob("*.eml"), reverse=True)


def _told(name: str, mail: EmailMessage) -> dict[str, Any]:
    body, page = mail.get_body(("plain", "html")), mail.get_body(("html",))
    attachments = []
    for part in mail.iter_attachments():
        content = part.get_payload(decode=True)
        size = len(content) if isinstance(content, bytes) else 0
        attachments.append({"filename": part.get_filename(), "content_type": part.get_content_type(), "size": size})
    seconds = int(name.partition("-")[0]) / 1e9
    return {
        "id": name,
        "to": [address for _, address in getaddresses(mail.get_all("X-Envelope-To", []))],
        "from": str(mail.get("From", "")),
        "subject": str(mail.get("Subject", "")),
        "text": _text(body) if body else "",
        "html": _text(page) if page else "",
        "sender": str(mail.get("X-Envelope-From", "")),
        "attachments": attachments,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)),
    }


def _text(body: MIMEPart) -> str:
    try:
        content = body.get_content()
    except (LookupError, UnicodeError):  # a character set that does not exist, or is not kept to
        content = repr(body.get_payload(decode=True))
    return str(content).replace("\r\n", "\n")


class Receiver:
    """Takes mails from aiosmtpd."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        name = self.mailbox.put(envelope.mail_from or "", [str(to) for to in envelope.rcpt_tos], content)
        print(f"mail {name}, {len(content)} bytes", flush=True)
        return f"250 OK: kept as {name}"


class Pages(BaseHTTPRequestHandler):
    """Shows the mailbox of its server."""

    server: Shown

    def do_GET(self) -> None:
        if not self._local():
            return
        mailbox = self.server.mailbox
        if self.path == "/":
            self._reply("text/html; charset=utf-8", _page(mailbox).encode())
        elif self.path == "/mails":
            self._reply("application/json", json.dumps(list(mailbox.mails())).encode())
        elif self.path.endswith(".html"):
            page = mailbox.html(self.path.removeprefix("/mails/").removesuffix(".html"))
            if page is None:
                self.send_error(404)
            else:
                self._reply("text/html; charset=utf-8", page.encode(errors="replace"))
        elif content := mailbox.raw(self.path.removeprefix("/mails/")):
            self._reply("message/rfc822", content)
        else:
            self.send_error(404)

    def do_DELETE(self) -> None:
        if not self._local():
            return
        if self.path == "/mails":
            self.server.mailbox.clear()
            self._reply("application/json", b"{}")
        else:
            self.send_error(404)

    def _local(self) -> bool:
        """Whether it is asked by its own name; else it is refused: a page elsewhere may point its name at this machine."""
        if self.headers.get("Host", "").rpartition(":")[0] in ("127.0.0.1", "localhost"):
            return True
        self.send_error(403)
        return False

    def _reply(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        # The HTML of a mail is somebody else's: it runs nothing here and asks for nothing.
        self.send_header(
            "Content-Security-Policy",
            "sandbox allow-popups; default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        )
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the mails themselves are the record."""


class Shown(ThreadingHTTPServer):
    """The HTTP side."""

    daemon_threads = True

    def __init__(self, port: int, mailbox: Mailbox) -> None:
        super().__init__(("127.0.0.1", port), Pages)
        self.mailbox = mailbox


STYLE = (
    "body{font:16px/1.5 system-ui;max-width:46rem;margin:2rem auto;padding:0 1rem}"
    "article{border-top:1px solid #8884;padding:1rem 0}h2{font-size:1rem;margin:0}"
    "p{margin:0;opacity:.7}pre{white-space:pre-wrap;font:inherit}"
)


def _page(mailbox: Mailbox) -> str:
    parts = []
    for mail in mailbox.mails():
        told = {key: html.escape(str(value)) for key, value in mail.items()}
        to = html.escape(", ".join(mail["to"]))
        files = "".join(
            f"<p>{html.escape(str(a['filename']))}, {html.escape(a['content_type'])}, {a['size']:,} bytes</p>"
            for a in mail["attachments"]
        )
        page = f", <a href='/mails/{told['id']}.html'>as HTML</a>" if mail["html"] else ""
        parts.append(
            f"<article><h2>{told['subject']}</h2><p>{told['time']}, from {told['from']} to {to}</p>"
            f"<pre>{told['text']}</pre>{files}<p><a href='/mails/{told['id']}'>as it came</a>"
            f"{page}</p></article>"
        )
    nothing = "<p>No mail has come yet.</p>"
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>Mails</title><style>{STYLE}</style><h1>Mails</h1>{''.join(parts) or nothing}</html>"
    )


def main(folder: Path, smtp_port: int, http_port: int) -> None:
    """Serves until SIGTERM."""
    mailbox = Mailbox(folder)
    controller = Controller(
        Receiver(mailbox), hostname="127.0.0.1", port=smtp_port, data_size_limit=SIZE_MAX, enable_SMTPUTF8=True
    )
    pages = Shown(http_port, mailbox)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    controller.start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    controller.stop()
    pages.shutdown()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # before any thread: they inherit it
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
