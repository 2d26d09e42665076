"""Transom: the whole stack as `make up` starts it, in a folder and on ports of its own."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psycopg

from deploy.native.stack import PROJECT, Stack
from server.schema.reading import read

from .cells import Access, Operation, Request, Wire, Wrong
from .findings import PER_INSPECTION, finding
from .inspect_client import CALL_SECONDS, METHODS, SERVICE, SITE, Account, InspectClients, over_http

WINDOW = 32
"""Calls under way at once while the data is written."""
SETTLE_SECONDS = 120
"""How long the events of a measurement may take to reach the broker."""

_CALLS = re.compile(r'^transom_calls_total\{code="(\w+)",method="([^"]+)"\} (\S+)$', re.MULTILINE)
_OWED = """
    select numbered - published + (select count(*) from transom.events where position is null) from transom.relay"""
"""Events that the broker has not confirmed."""


class Transom:
    """The stack with its data, as a system under test."""

    name = "Transom"
    wires: Sequence[Wire] = (Wire.JSON, Wire.GRPC)

    def __init__(self, stack: Stack, clients: InspectClients) -> None:
        self.stack, self.clients = stack, clients
        self.settle()

    def request(self, operation: Operation, wire: Wire, client: int) -> Request:
        return self.clients.request(operation, wire, client)

    def probe(self, operation: Operation, wire: Wire) -> int:
        return len(self.clients.ask(operation, wire))

    def processes(self) -> Mapping[str, Sequence[int]]:
        roles: dict[str, list[int]] = defaultdict(list)
        for told in self.stack.status()["processes"]:
            if told["pid"] and not told["step"]:
                name = told["name"]
                role = "API servers" if name.startswith("api-") else "rabbitmq" if name == "epmd" else name
                roles[role].append(told["pid"])
        return roles

    def calls(self, operation: Operation) -> Mapping[str, int]:
        found: dict[str, int] = defaultdict(int)
        for name in self.stack.api_servers:
            for code, method, count in _CALLS.findall(self._metrics(f"{name}-metrics")):
                if method == f"/{SERVICE}/{METHODS[operation]}":
                    found[code] += int(float(count))
        return found

    def settle(self) -> None:
        """Returns once every event was confirmed by the broker."""
        deadline = time.monotonic() + SETTLE_SECONDS
        with psycopg.connect(self.stack.env["TRANSOM_POSTGRES"], autocommit=True) as database:
            while owed := database.execute(_OWED).fetchone():
                if not owed[0]:
                    return
                if time.monotonic() > deadline:
                    raise Wrong(f"{owed[0]} events have not reached the broker after {SETTLE_SECONDS} s")
                time.sleep(0.05)

    def _metrics(self, port: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.stack.ports[port]}/metrics", timeout=10) as reply:
            return str(reply.read().decode())


@contextmanager
def opened(folder: Path, clients: int, access: Access = Access.OWNER) -> Iterator[Transom]:
    """The stack, with the data for that many clients; gone when the block ends."""
    app = PROJECT / "examples" / "inspect"
    if access is Access.OWNER:
        app = shutil.copytree(app, folder / "app", ignore=shutil.ignore_patterns("seed", "__pycache__"))
        _owned(app / "proto/inspect/v1/finding.proto")
    with Stack(folder / "transom", app=app).running() as stack:
        accounts = [_signed_up(stack, number) for number in range(clients)]
        found = InspectClients(stack.edge, read(stack.place.descriptor.read_bytes()), accounts)
        _write(found, accounts, _signed_up(stack, clients))
        yield Transom(stack, found)


def _owned(file: Path) -> None:
    """Puts the one rule of ownership in the place of the finding's own rules."""
    rules = "option (transom.schema.v1.resource) = {%s};"
    text, count = re.subn(
        (re.escape(rules) % "[^}]*"),
        rules % 'read: "owner == caller.name" write: "owner == caller.name" outlives_owner: true',
        file.read_text(),
    )
    if count != 1:
        raise Wrong(f"{file} has not one option of its resource but {count}")
    file.write_text(text)


def _signed_up(stack: Stack, number: int) -> Account:
    """As anybody signs up: with an address, and by reading its mail."""
    who = {"email": f"client-{number}@example.com", "password": secrets.token_urlsafe(16)}
    token = _asked(stack.edge, "signUp", who)["signUpToken"]
    _asked(stack.edge, "verifyEmail", {"word": _mailed(stack.mailbox, who["email"]), "signUpToken": token})
    answer = _asked(stack.edge, "signIn", who)
    return Account(answer["account"]["name"], answer["token"])


def _asked(edge: str, verb: str, body: Mapping[str, str]) -> Any:
    headers = {"content-type": "application/json"}
    url = f"{edge}/transom/v1/accounts:{verb}"
    return json.loads(over_http(Request(url, Wire.JSON, headers, json.dumps(body).encode())))


def _mailed(mailbox: str, email: str) -> str:
    """The word in the newest mail to the address, which may still be under way."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"{mailbox}/mails", timeout=10) as reply:
            for mail in json.load(reply):
                if email in mail["to"] and (found := re.search(r"tsw_[A-Za-z0-9_-]{43}", mail["text"])):
                    return found[0]
        time.sleep(0.05)
    raise TimeoutError(f"no mail to {email} within 30 s")


def _write(clients: InspectClients, accounts: Sequence[Account], manager: Account) -> None:
    """Writes a site with the clients as its inspectors, inspections and findings through the API, parents first."""
    members, inspections, findings = [], [], []
    sites = [(manager, "CreateSite", {"siteId": SITE.removeprefix("sites/"), "site": {"displayName": "Harbour"}})]
    for number, account in enumerate(accounts):
        member = {"user": account.user, "role": "INSPECTOR"}
        id = account.user.removeprefix("users/")
        members.append((manager, "CreateMember", {"parent": SITE, "memberId": id, "member": member}))
        for name in (clients.read(number), clients.written(number)):
            fields = {"title": "Quarterly walk", "inspector": account.user}
            made = {"parent": SITE, "inspectionId": name.rpartition("/")[2], "inspection": fields}
            inspections.append((account, "CreateInspection", made))
        for index in range(PER_INSPECTION):
            fields = finding(number * PER_INSPECTION + index)
            made = {"parent": clients.read(number), "findingId": f"finding-{index}", "finding": fields}
            findings.append((account, "CreateFinding", made))
    with grpc.insecure_channel(clients.url.removeprefix("http://")) as channel:
        for calls in (sites, members, inspections, findings):
            for start in range(0, len(calls), WINDOW):
                futures = [
                    channel.unary_unary(f"/{SERVICE}/{method}").future(
                        clients.serialized(f"{method}Request", fields),
                        metadata=(("authorization", f"Bearer {account.token}"),),
                        timeout=CALL_SECONDS,
                    )
                    for account, method, fields in calls[start : start + WINDOW]
                ]
                for future in futures:
                    future.result()
