"""PocketBase (https://pocketbase.io): the same data and the same operations on a Go binary with SQLite.

As it comes, without tuning. Where there is a choice it gets the cheaper one: pages without a count, an index that
fits the list, photos as plain names instead of files.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from deploy.native.ports import listening

from .cells import Access, Operation, Request, Wire, Wrong
from .children import free_ports, running, wait_until
from .findings import CHANGES, PAGE, PER_INSPECTION, finding
from .inspect_client import over_http

RULES = {Access.OWNER: "owner = @request.auth.id", Access.MEMBER: '@request.auth.id != ""'}
"""Of findings; inspections are for everybody who is signed in."""
SIGNED_IN = RULES[Access.MEMBER]
RECORDS = "/api/collections/findings/records"


class PocketBase:
    """The binary with its data, as a system under test."""

    name = "PocketBase"
    wires: Sequence[Wire] = (Wire.JSON,)

    def __init__(self, url: str, pid: int) -> None:
        self._url, self._pid = url, pid
        self._clients: list[_Client] = []

    def request(self, operation: Operation, wire: Wire, client: int) -> Request:
        who = self._clients[client]
        match operation:
            case Operation.GET:
                return self._asked(f"{RECORDS}/{who.first}", who.token)
            case Operation.LIST:
                wanted = quote(f"inspection='{who.read}'", safe="")
                query = f"perPage={PAGE}&sort=id&skipTotal=1&filter={wanted}"
                return self._asked(f"{RECORDS}?{query}", who.token)
            case Operation.CREATE:
                return self._asked(RECORDS, who.token, _record(client, who.written, who.user))
            case Operation.UPDATE:
                body, other = (json.dumps(change).encode() for change in CHANGES)
                headers = {"authorization": who.token, "content-type": "application/json"}
                return Request(f"{self._url}{RECORDS}/{who.last}", wire, headers, body, other, "PATCH")

    def probe(self, operation: Operation, wire: Wire) -> int:
        who = self._clients[0]
        body = over_http(self.request(operation, wire, 0))
        answer = json.loads(body)
        match operation:
            case Operation.GET:
                right = answer.get("id") == who.first and answer["title"]
            case Operation.LIST:
                right = len(answer["items"]) == PAGE and all(i["inspection"] == who.read for i in answer["items"])
            case Operation.CREATE:
                right = answer.get("inspection") == who.written and answer["title"]
            case Operation.UPDATE:
                right = answer.get("id") == who.last and answer["description"] == CHANGES[0]["description"]
        if not right:
            raise Wrong(f"PocketBase answers {operation} with something else")
        return len(body)

    def processes(self) -> Mapping[str, Sequence[int]]:
        return {"pocketbase": [self._pid]}

    def calls(self, operation: Operation) -> Mapping[str, int]:
        return {}

    def settle(self) -> None:
        return

    def write(self, superuser: str, clients: int, access: Access) -> None:
        """Makes the collections and fills them, through the API."""
        inspections = self._post("/api/collections", superuser, _INSPECTIONS)["id"]
        users = self._get("/api/collections/users", superuser)["id"]
        self._post("/api/collections", superuser, _findings(inspections, users, RULES[access]))
        for number in range(clients):
            email, password = f"client-{number}@example.com", secrets.token_urlsafe(16)
            account = {"email": email, "password": password, "passwordConfirm": password}
            user = self._post("/api/collections/users/records", "", account)["id"]
            token = self.signed_in("users", email, password)
            read, written = (
                self._post("/api/collections/inspections/records", superuser, {"title": "Quarterly walk"})["id"]
                for _ in range(2)
            )
            numbers = range(number * PER_INSPECTION, (number + 1) * PER_INSPECTION)
            made = [self._post(RECORDS, token, _record(n, read, user))["id"] for n in numbers]
            self._clients.append(_Client(token, user, read, written, made[0], made[-1]))
        try:
            over_http(Request(f"{self._url}{RECORDS}/{made[0]}", Wire.JSON, {}))
        except Wrong:
            return
        raise Wrong("PocketBase answers strangers: its rules are not on")

    def signed_in(self, collection: str, identity: str, password: str) -> str:
        """A token."""
        path = f"/api/collections/{collection}/auth-with-password"
        return str(self._post(path, "", {"identity": identity, "password": password})["token"])

    def _get(self, path: str, token: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(over_http(self._asked(path, token)))
        return found

    def _post(self, path: str, token: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(over_http(self._asked(path, token, fields)))
        return found

    def _asked(self, path: str, token: str, fields: Mapping[str, Any] | None = None) -> Request:
        headers = {"authorization": token} if token else {}
        if fields is None:
            return Request(self._url + path, Wire.JSON, headers)
        headers["content-type"] = "application/json"
        return Request(self._url + path, Wire.JSON, headers, json.dumps(fields).encode())


@dataclass(frozen=True, slots=True)
class _Client:
    """Who a client is, the inspections it reads and writes below, and the findings that it reads and changes."""

    token: str = field(repr=False)
    user: str
    read: str
    written: str
    first: str
    last: str


@contextmanager
def opened(folder: Path, clients: int, access: Access = Access.OWNER) -> Iterator[PocketBase]:
    """PocketBase with the data for that many clients, gone when the block ends."""
    program = Path(sys.executable).parent / "pocketbase"
    place = folder / "pocketbase"
    place.mkdir()
    common = [f"--dir={place / 'data'}", f"--migrationsDir={place / 'migrations'}", f"--hooksDir={place / 'hooks'}"]
    email, password = "bench@example.com", secrets.token_urlsafe(16)
    made = subprocess.run([program, "superuser", "upsert", email, password, *common], capture_output=True, check=False)
    if made.returncode:
        raise Wrong("PocketBase does not make its first account")
    [port] = free_ports(1)
    with running([str(program), "serve", f"--http=127.0.0.1:{port}", *common], folder / "pocketbase.log") as pid:
        wait_until(lambda: listening(port), "PocketBase listens")
        found = PocketBase(f"http://127.0.0.1:{port}", pid)
        found.write(found.signed_in("_superusers", email, password), clients, access)
        yield found


def _record(number: int, inspection: str, owner: str) -> dict[str, Any]:
    asked = finding(number)
    latitude, longitude = asked["location"]["latitude"], asked["location"]["longitude"]
    return {
        "inspection": inspection,
        "owner": owner,
        "title": asked["title"],
        "severity": asked["severity"],
        "description": asked["description"],
        "location": {"lat": latitude, "lon": longitude},
        "floor": asked["floor"],
        "measurement": asked["measurement"],
        "due_time": asked["dueTime"].replace("T", " ").replace("Z", ".000Z"),
        "expected_effort": int(asked["expectedEffort"].rstrip("s")),
        "resolved": asked["resolved"],
        "labels": asked["labels"],
    }


_AUTODATES = [
    {"name": "created", "type": "autodate", "onCreate": True},
    {"name": "updated", "type": "autodate", "onCreate": True, "onUpdate": True},
]
_INSPECTIONS = {
    "name": "inspections",
    "type": "base",
    "fields": [{"name": "title", "type": "text", "required": True, "max": 200}, *_AUTODATES],
    "listRule": SIGNED_IN,
    "viewRule": SIGNED_IN,
}


def _findings(inspections: str, users: str, rule: str) -> dict[str, Any]:
    """The collection: a field for each field of inspect.v1.Finding, with its bounds, and one for who made it."""
    return {
        "name": "findings",
        "type": "base",
        "fields": [
            {"name": "inspection", "type": "relation", "collectionId": inspections, "maxSelect": 1, "required": True},
            {"name": "owner", "type": "relation", "collectionId": users, "maxSelect": 1, "required": True},
            {"name": "title", "type": "text", "required": True, "min": 1, "max": 200},
            {"name": "severity", "type": "select", "required": True, "values": ["LOW", "MEDIUM", "HIGH", "CRITICAL"]},
            {"name": "description", "type": "text", "max": 4000},
            {"name": "photos", "type": "json"},
            {"name": "location", "type": "geoPoint"},
            {"name": "floor", "type": "number", "min": -20, "max": 200, "onlyInt": True},
            {"name": "measurement", "type": "json"},
            {"name": "statement", "type": "text", "max": 1000},
            {"name": "due_time", "type": "date"},
            {"name": "expected_effort", "type": "number", "min": 0, "max": 7776000},
            {"name": "resolved", "type": "bool"},
            {"name": "labels", "type": "json"},
            *_AUTODATES,
        ],
        "indexes": ["CREATE INDEX `findings_inspection` ON `findings` (`inspection`, `id`)"],
        "listRule": rule,
        "viewRule": rule,
        "createRule": rule,
        "updateRule": rule,
    }
