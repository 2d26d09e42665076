"""Who may do what in the inspect app: every method, asked by everybody, over REST and over gRPC.

The tables below are to be read beside examples/inspect/proto. What happens to a caller is one word:

    ok      it is done, and all of the resource is answered
    less    it is done, but what the caller may not see is left out of the answer
    none    a page of nothing
    -       NOT_FOUND: for this caller there is no such thing
    no      PERMISSION_DENIED, reason ACCESS_DENIED: it is there, and not for this caller to do
    who     UNAUTHENTICATED: they might, if they said who they are
    scope   PERMISSION_DENIED, reason SCOPE_MISSING: a key that was not given this
    wrong   INVALID_ARGUMENT
    taken   ALREADY_EXISTS

A method without a row fails the test, and so does a row without a method. What is refused must have changed nothing.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from people import signed_in, signed_up
from psycopg import sql
from psycopg_pool import ConnectionPool
from roads import Answer, Roads

from deploy.native.stack import Stack
from server.schema.model import Schema
from server.schema.reading import read

# The people. `yard` is a private site, `park` a public one; both were made by the creator, who made Max a manager, Inés an
# inspector and Věra a viewer. The others have no part in them: a stranger, and a manager of another site. An anonymous
# caller has an account that nobody can sign in to; the scoped key may get sites and do anything with findings.
CALLERS = [
    "nobody",
    "anonymous",
    "stranger",
    "elsewhere",
    "viewer",
    "inspector",
    "manager",
    "creator",
    "key",
    "scoped",
    "admin",
]
SCOPES = ["inspect.v1.Site:get", "inspect.v1.Finding:*"]

TABLE = """
#                                           nobody anonym strang elsewh viewer inspec manage creato key   scoped admin
GetSite           | yard                  | -      -      -      -      ok     ok     ok     ok     ok    ok     ok
GetSite           | park                  | less   less   less   less   ok     ok     ok     ok     ok    ok     ok
GetSite           | none                  | -      -      -      -      -      -      -      -      -     -      -
ListSites         | those of the table    | less   less   less   less   ok     ok     ok     ok     ok    scope  ok
CreateSite        | a new one             | who    no     ok     ok     ok     ok     ok     ok     ok    scope  ok
CreateSite        | only validated        | who    no     ok     ok     ok     ok     ok     ok     ok    scope  ok
UpdateSite        | private               | -      -      -      -      no     no     ok     ok     ok    scope  ok
UpdateSite        | public                | who    no     no     no     no     no     ok     ok     ok    scope  ok
UpdateSite        | public, its contact   | who    no     no     no     no     no     ok     ok     ok    scope  ok
DeleteSite        | private               | -      -      -      -      no     no     ok     ok     ok    scope  ok
DeleteSite        | public                | who    no     no     no     no     no     ok     ok     ok    scope  ok

GetMember         | yard                  | -      -      -      -      ok     ok     ok     ok     ok    scope  ok
GetMember         | park                  | -      -      -      -      ok     ok     ok     ok     ok    scope  ok
ListMembers       | yard                  | -      -      -      -      ok     ok     ok     ok     ok    scope  ok
ListMembers       | park                  | none   none   none   none   ok     ok     ok     ok     ok    scope  ok
CreateMember      | yard                  | -      -      -      -      no     no     ok     ok     ok    scope  ok
CreateMember      | park                  | who    no     no     no     no     no     ok     ok     ok    scope  ok
CreateMember      | themselves, a manager | -      -      -      -      no     no     taken  taken  ok    scope  ok
CreateMember      | under another id      | wrong  wrong  wrong  wrong  wrong  wrong  wrong  wrong  wrong wrong  wrong
UpdateMember      | somebody, a manager   | -      -      -      -      no     no     ok     ok     ok    scope  ok
UpdateMember      | themselves, a manager | -      -      -      -      no     no     ok     ok     ok    scope  ok
UpdateMember      | themselves, a viewer  | -      -      -      -      no     no     no     no     ok    scope  ok
DeleteMember      | somebody              | -      -      -      -      no     no     ok     ok     ok    scope  ok
DeleteMember      | themselves            | -      -      -      -      ok     ok     no     no     ok    scope  ok

GetInspection     | yard                  | -      -      -      -      less   less   ok     ok     ok    scope  ok
GetInspection     | park                  | -      -      -      -      less   less   ok     ok     ok    scope  ok
ListInspections   | yard                  | -      -      -      -      less   less   ok     ok     ok    scope  ok
ListInspections   | park                  | none   none   none   none   less   less   ok     ok     ok    scope  ok
CreateInspection  | their own             | -      -      -      -      no     ok     ok     ok     ok    scope  ok
CreateInspection  | somebody's            | -      -      -      -      no     no     ok     ok     ok    scope  ok
CreateInspection  | their own, with note  | -      -      -      -      no     no     ok     ok     ok    scope  ok
CreateInspection  | their own, in park    | who    no     no     no     no     ok     ok     ok     ok    scope  ok
UpdateInspection  | their own             | -      -      -      -      no     less   ok     ok     ok    scope  ok
UpdateInspection  | their own, whole      | -      -      -      -      no     less   ok     ok     ok    scope  ok
UpdateInspection  | their own, its note   | -      -      -      -      no     no     ok     ok     ok    scope  ok
UpdateInspection  | theirs to somebody    | -      -      -      -      no     no     ok     ok     ok    scope  ok
UpdateInspection  | somebody's            | -      -      -      -      no     no     ok     ok     ok    scope  ok
UpdateInspection  | somebody's to theirs  | -      -      -      -      no     no     ok     ok     ok    scope  ok
DeleteInspection  | their own draft       | -      -      -      -      no     ok     ok     ok     ok    scope  ok
DeleteInspection  | their own, submitted  | -      -      -      -      no     no     ok     ok     ok    scope  ok
DeleteInspection  | somebody's draft      | -      -      -      -      no     no     ok     ok     ok    scope  ok
SubmitInspection  | their own             | -      -      -      -      no     less   ok     ok     ok    scope  ok
SubmitInspection  | somebody's            | -      -      -      -      no     no     ok     ok     ok    scope  ok
ApproveInspection | their own             | -      -      -      -      no     no     ok     ok     ok    scope  ok
ApproveInspection | somebody's            | -      -      -      -      no     no     ok     ok     ok    scope  ok
ApproveInspection | in park               | -      -      -      -      no     no     ok     ok     ok    scope  ok
RejectInspection  | somebody's            | -      -      -      -      no     no     ok     ok     ok    scope  ok

GetFinding        | yard                  | -      -      -      -      ok     ok     ok     ok     ok    ok     ok
GetFinding        | park                  | -      -      -      -      ok     ok     ok     ok     ok    ok     ok
ListFindings      | yard                  | -      -      -      -      ok     ok     ok     ok     ok    ok     ok
ListFindings      | park                  | -      -      -      -      ok     ok     ok     ok     ok    ok     ok
CreateFinding     | yard                  | -      -      -      -      no     ok     ok     ok     ok    ok     ok
CreateFinding     | park                  | -      -      -      -      no     ok     ok     ok     ok    ok     ok
UpdateFinding     | somebody's            | -      -      -      -      no     ok     ok     ok     ok    ok     ok
UpdateFinding     | missing, recorded     | -      -      -      -      -      ok     ok     ok     ok    ok     ok
DeleteFinding     | their own             | -      -      -      -      no     ok     ok     ok     ok    ok     ok
DeleteFinding     | somebody's            | -      -      -      -      no     no     ok     ok     ok    ok     ok
"""

WORDS = {
    "-": ("NOT_FOUND", "NOT_FOUND"),
    "no": ("PERMISSION_DENIED", "ACCESS_DENIED"),
    "who": ("UNAUTHENTICATED", "SIGN_IN_REQUIRED"),
    "scope": ("PERMISSION_DENIED", "SCOPE_MISSING"),
    "wrong": ("INVALID_ARGUMENT", "INVALID_REQUEST"),
    "taken": ("ALREADY_EXISTS", "ALREADY_EXISTS"),
}
CONTACT = {"displayName": "Gatehouse", "phoneNumber": "+4315550142"}
NOTE = "The port pays."


@dataclass(frozen=True)
class Asker:
    """One column."""

    kind: str
    token: str = ""
    id: str = ""
    """Of their account, or one that nobody has."""

    @property
    def user(self) -> str:
        return f"users/{self.id}"


@dataclass(frozen=True)
class Asked:
    """What one cell asks: the request, and the name of what it would make or change, if it does."""

    request: dict[str, Any]
    target: str = ""


@dataclass
class Ground:
    """The app, with sites that the table speaks of, and what a row needs made anew for each of its cells."""

    stack: Stack
    roads: Roads
    schema: Schema
    database: ConnectionPool
    key: str
    askers: dict[str, Asker]

    def trusted(self, method: str, request: dict[str, Any]) -> Any:
        """The answer, asked with a key that may do everything."""
        answer = self.roads.over_grpc(method, request, self.key)
        assert answer.code == "OK", (method, request, answer)
        return answer.message

    def stored(self, name: str) -> bytes | None:
        """What is stored under the name; None for nothing."""
        kind = {2: "Site", 4: "Member" if "/members/" in name else "Inspection", 6: "Finding"}[name.count("/") + 1]
        resource = self.schema.resources[f"inspect.v1.{kind}"]
        table = sql.Identifier(resource.table_schema, resource.table_name)
        with self.database.connection() as connection:
            query = sql.SQL("select _payload from {} where name = %s").format(table)
            row = connection.execute(query, [name]).fetchone()
        return bytes(row[0]) if row else None

    def site(self, public: bool) -> str:
        """A new site with the members of the table."""
        id = f"t{secrets.token_hex(6)}"
        site = {"displayName": "Of the table", "public": public, "contact": CONTACT}
        self.trusted("CreateSite", {"siteId": id, "site": site})
        for kind, role in (
            ("viewer", "VIEWER"),
            ("inspector", "INSPECTOR"),
            ("manager", "MANAGER"),
            ("creator", "MANAGER"),
        ):
            self.member(f"sites/{id}", self.askers[kind].id, role)
        return f"sites/{id}"

    def member(self, site: str, id: str = "", role: str = "VIEWER") -> str:
        """A member; somebody new where `id` is empty."""
        id = id or fresh()
        member = {"user": f"users/{id}", "role": role}
        self.trusted("CreateMember", {"parent": site, "memberId": id, "member": member})
        return f"{site}/members/{id}"

    def own_member(self, site: str, asker: Asker) -> str:
        """The asker's own part in the site; where they have none, the part that one of their id would have."""
        name = f"{site}/members/{asker.id}"
        if self.stored(name) is None and asker.kind not in OUTSIDE:
            self.member(site, asker.id, {"viewer": "VIEWER", "inspector": "INSPECTOR"}.get(asker.kind, "MANAGER"))
        return name

    def inspection(self, site: str, inspector: str, submitted: bool = False) -> str:
        """A new inspection with a note."""
        inspection = {"title": "Walk", "inspector": inspector, "summary": "Nothing.", "internalNote": NOTE}
        name = self.trusted("CreateInspection", {"parent": site, "inspection": inspection}).name
        if submitted:
            self.trusted("SubmitInspection", {"name": name})
        return str(name)

    def finding(self, inspection: str, token: str = "") -> str:
        """A new finding; by who has the token, if they may."""
        request = {"parent": inspection, "finding": {"title": "Crack", "severity": "LOW"}}
        if token and (made := self.roads.over_grpc("CreateFinding", request, token)).code == "OK":
            return str(made.message.name)
        return str(self.trusted("CreateFinding", request).name)


OUTSIDE = ("nobody", "anonymous", "stranger", "elsewhere")
SOMEBODY = "users/somebody-else"


def fresh() -> str:
    """An id that nothing has."""
    return f"x{secrets.token_hex(8)}"


@dataclass(frozen=True)
class Sites:
    """The two sites that reads and most writes go to, with something in each."""

    yard: str
    park: str
    yard_inspection: str
    park_inspection: str
    yard_finding: str
    park_finding: str


class Requests:
    """For each row, what its cells ask: `<method>: <row>`."""

    def __init__(self, ground: Ground, sites: Sites) -> None:
        g, s = ground, sites
        self.of: dict[str, Callable[[Asker], Asked]] = {
            "GetSite: yard": lambda a: Asked({"name": s.yard}),
            "GetSite: park": lambda a: Asked({"name": s.park}),
            "GetSite: none": lambda a: Asked({"name": f"sites/{fresh()}"}),
            "ListSites: those of the table": lambda a: Asked({"pageSize": 1000}),
            "CreateSite: a new one": lambda a: self._new_site(),
            "CreateSite: only validated": lambda a: self._new_site(validateOnly=True),
            "UpdateSite: private": lambda a: self._site(g.site(False), displayName=fresh()),
            "UpdateSite: public": lambda a: self._site(g.site(True), displayName=fresh()),
            "UpdateSite: public, its contact": lambda a: self._site(
                g.site(True), contact={**CONTACT, "displayName": fresh()}
            ),
            "DeleteSite: private": lambda a: self._named(g.site(False), force=True),
            "DeleteSite: public": lambda a: self._named(g.site(True), force=True),
            "GetMember: yard": lambda a: Asked({"name": f"{s.yard}/members/{g.askers['viewer'].id}"}),
            "GetMember: park": lambda a: Asked({"name": f"{s.park}/members/{g.askers['viewer'].id}"}),
            "ListMembers: yard": lambda a: Asked({"parent": s.yard, "pageSize": 1000}),
            "ListMembers: park": lambda a: Asked({"parent": s.park, "pageSize": 1000}),
            "CreateMember: yard": lambda a: self._new_member(s.yard, fresh(), "VIEWER"),
            "CreateMember: park": lambda a: self._new_member(s.park, fresh(), "VIEWER"),
            "CreateMember: themselves, a manager": lambda a: self._new_member(
                s.yard, fresh() if a.kind in ("key", "admin") else a.id, "MANAGER"
            ),
            "CreateMember: under another id": lambda a: self._misnamed_member(s.yard, a),
            "UpdateMember: somebody, a manager": lambda a: self._member(g.member(s.yard), "MANAGER"),
            "UpdateMember: themselves, a manager": lambda a: self._member(g.own_member(g.site(False), a), "MANAGER"),
            "UpdateMember: themselves, a viewer": lambda a: self._member(g.own_member(g.site(False), a), "VIEWER"),
            "DeleteMember: somebody": lambda a: self._named(g.member(s.yard)),
            "DeleteMember: themselves": lambda a: self._named(g.own_member(g.site(False), a)),
            "GetInspection: yard": lambda a: Asked({"name": s.yard_inspection}),
            "GetInspection: park": lambda a: Asked({"name": s.park_inspection}),
            "ListInspections: yard": lambda a: Asked({"parent": s.yard, "pageSize": 1000}),
            "ListInspections: park": lambda a: Asked({"parent": s.park, "pageSize": 1000}),
            "CreateInspection: their own": lambda a: self._new_inspection(g.site(False), a.user),
            "CreateInspection: somebody's": lambda a: self._new_inspection(g.site(False), SOMEBODY),
            "CreateInspection: their own, with note": lambda a: self._new_inspection(
                g.site(False), a.user, internalNote=NOTE
            ),
            "CreateInspection: their own, in park": lambda a: self._new_inspection(g.site(True), a.user),
            "UpdateInspection: their own": lambda a: self._inspection(a.user, "title", title=fresh()),
            "UpdateInspection: their own, whole": lambda a: self._inspection(
                a.user,
                "*",
                title=fresh(),
                inspector=a.user,
                **({} if a.kind == "inspector" else {"internalNote": NOTE}),
            ),
            "UpdateInspection: their own, its note": lambda a: self._inspection(
                a.user, "internalNote", internalNote=fresh()
            ),
            "UpdateInspection: theirs to somebody": lambda a: self._inspection(a.user, "inspector", inspector=SOMEBODY),
            "UpdateInspection: somebody's": lambda a: self._inspection(SOMEBODY, "title", title=fresh()),
            "UpdateInspection: somebody's to theirs": lambda a: self._inspection(
                SOMEBODY, "inspector", inspector=a.user
            ),
            "DeleteInspection: their own draft": lambda a: self._named(g.inspection(s.yard, a.user)),
            "DeleteInspection: their own, submitted": lambda a: self._named(
                g.inspection(s.yard, a.user, submitted=True)
            ),
            "DeleteInspection: somebody's draft": lambda a: self._named(g.inspection(s.yard, SOMEBODY)),
            "SubmitInspection: their own": lambda a: self._named(g.inspection(s.yard, a.user)),
            "SubmitInspection: somebody's": lambda a: self._named(g.inspection(s.yard, SOMEBODY)),
            "ApproveInspection: their own": lambda a: self._named(g.inspection(s.yard, a.user, submitted=True)),
            "ApproveInspection: somebody's": lambda a: self._named(g.inspection(s.yard, SOMEBODY, submitted=True)),
            "ApproveInspection: in park": lambda a: self._named(g.inspection(s.park, SOMEBODY, submitted=True)),
            "RejectInspection: somebody's": lambda a: self._named(
                g.inspection(s.yard, SOMEBODY, submitted=True), reason="No."
            ),
            "GetFinding: yard": lambda a: Asked({"name": s.yard_finding}),
            "GetFinding: park": lambda a: Asked({"name": s.park_finding}),
            "ListFindings: yard": lambda a: Asked({"parent": s.yard_inspection}),
            "ListFindings: park": lambda a: Asked({"parent": s.park_inspection}),
            "CreateFinding: yard": lambda a: self._new_finding(g.inspection(s.yard, SOMEBODY)),
            "CreateFinding: park": lambda a: self._new_finding(g.inspection(s.park, SOMEBODY)),
            "UpdateFinding: somebody's": lambda a: self._finding(g.finding(g.inspection(s.yard, SOMEBODY))),
            "UpdateFinding: missing, recorded": lambda a: self._finding(
                f"{g.inspection(s.yard, SOMEBODY)}/findings/{fresh()}", allowMissing=True
            ),
            "DeleteFinding: their own": lambda a: self._named(g.finding(g.inspection(s.yard, SOMEBODY), a.token)),
            "DeleteFinding: somebody's": lambda a: self._named(g.finding(g.inspection(s.yard, SOMEBODY))),
        }
        self._ground, self._sites = g, s

    @staticmethod
    def _named(name: str, **more: Any) -> Asked:
        return Asked({"name": name, **more}, name)

    @staticmethod
    def _new_site(**more: Any) -> Asked:
        id = fresh()
        return Asked({"siteId": id, "site": {"displayName": "New", "contact": CONTACT}, **more}, f"sites/{id}")

    @staticmethod
    def _site(name: str, **fields: Any) -> Asked:
        [mask] = fields
        return Asked({"site": {"name": name, **fields}, "updateMask": mask}, name)

    @staticmethod
    def _new_member(site: str, id: str, role: str) -> Asked:
        member = {"user": f"users/{id}", "role": role}
        return Asked({"parent": site, "memberId": id, "member": member}, f"{site}/members/{id}")

    @staticmethod
    def _misnamed_member(site: str, asker: Asker) -> Asked:
        id = fresh()
        member = {"user": asker.user, "role": "MANAGER"}
        return Asked({"parent": site, "memberId": id, "member": member}, f"{site}/members/{id}")

    @staticmethod
    def _member(name: str, role: str) -> Asked:
        return Asked({"member": {"name": name, "role": role}, "updateMask": "role"}, name)

    @staticmethod
    def _new_inspection(site: str, inspector: str, **more: Any) -> Asked:
        id = fresh()
        inspection = {"title": "Walk", "inspector": inspector, **more}
        return Asked({"parent": site, "inspectionId": id, "inspection": inspection}, f"{site}/inspections/{id}")

    def _inspection(self, of: str, mask: str, **fields: Any) -> Asked:
        name = self._ground.inspection(self._sites.yard, of)
        return Asked({"inspection": {"name": name, **fields}, "updateMask": mask}, name)

    @staticmethod
    def _new_finding(inspection: str) -> Asked:
        id = fresh()
        finding = {"title": "Crack", "severity": "LOW"}
        return Asked({"parent": inspection, "findingId": id, "finding": finding}, f"{inspection}/findings/{id}")

    @staticmethod
    def _finding(name: str, **more: Any) -> Asked:
        return Asked({"finding": {"name": name, "title": fresh(), "severity": "HIGH"}, **more}, name)


def rows(table: str = TABLE) -> list[tuple[str, str, dict[str, str]]]:
    """Method, what it is asked for, and what comes of it by caller."""
    found = []
    for line in table.splitlines():
        if line and not line.startswith("#"):
            method, what, told = (part.strip() for part in line.split("|"))
            words = told.split()
            assert len(words) == len(CALLERS), line
            found.append((method, what, dict(zip(CALLERS, words, strict=True))))
    return found


@pytest.fixture(scope="module")
def schema(stack: Stack) -> Schema:
    """The schema that is served."""
    return read(Path(stack.env["TRANSOM_DESCRIPTOR"]).read_bytes())


@pytest.fixture(scope="module")
def roads(stack: Stack, schema: Schema) -> Iterator[Roads]:
    roads = Roads(stack.edge, schema)
    yield roads
    roads.close()


@pytest.fixture(scope="module")
def ground(stack: Stack, schema: Schema, roads: Roads) -> Iterator[Ground]:
    def seeded(name: str) -> Asker:
        person = signed_in(stack, f"{name}@example.com", f"inspect-{name}")
        return Asker(name, person.token, person.id)

    def new() -> Asker:
        person = signed_up(stack)
        return Asker("new", person.token, person.id)

    with ThreadPoolExecutor(6) as pool:
        people = {
            "stranger": pool.submit(seeded, "tomasz"),
            "elsewhere": pool.submit(seeded, "grace"),
            "viewer": pool.submit(seeded, "vera"),
            "inspector": pool.submit(seeded, "ines"),
            "manager": pool.submit(seeded, "max"),
            "creator": pool.submit(new),
            "admin": pool.submit(admin, stack),
            "anonymous": pool.submit(anonymous, stack),
            "key": pool.submit(key, stack),
            "scoped": pool.submit(key, stack, *SCOPES),
        }
        found = {kind: future.result() for kind, future in people.items()}
    askers = {kind: Asker(kind, one.token, one.id or fresh()) for kind, one in found.items()}
    askers["nobody"] = Asker("nobody", id=fresh())
    with ConnectionPool(stack.env["TRANSOM_POSTGRES"], min_size=1, max_size=8, open=True) as database:
        yield Ground(stack, roads, schema, database, found["key"].token, askers)


def admin(stack: Stack) -> Asker:
    """Somebody with the role of an admin, as staff is given it."""
    person = signed_up(stack)
    transom(stack, "user", "role", person.email, "--add", "admin")
    return Asker("admin", person.token, person.id)


def anonymous(stack: Stack) -> Asker:
    answer = httpx.post(f"{stack.edge}/transom/v1/accounts:signInAnonymously", json={}, timeout=20)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    return Asker("anonymous", made["token"], made["account"]["name"].removeprefix("users/"))


def key(stack: Stack, *scopes: str) -> Asker:
    """A service key."""
    given = [part for scope in scopes for part in ("--scope", scope)]
    return Asker("key", transom(stack, "key", "create", "--title", "of the table", *given))


def transom(stack: Stack, *words: str) -> str:
    """What a command says."""
    command = [sys.executable, "-m", "server.cli", *words]
    done = subprocess.run(command, env={**os.environ, **stack.env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def sites(stack: Stack, ground: Ground) -> Sites:
    """Made by the creator, who is their first manager, and gives the others their parts."""
    creator = ground.askers["creator"]

    def asked(method: str, request: dict[str, Any]) -> Any:
        answer = ground.roads.over_rest(method, request, creator.token)
        assert answer.code == "OK", (method, answer)
        return answer.message

    made = []
    for public in (False, True):
        site = asked("CreateSite", {"site": {"displayName": "Site", "public": public, "contact": CONTACT}}).name
        for kind in ("viewer", "inspector", "manager"):
            id = ground.askers[kind].id
            member = {"user": f"users/{id}", "role": kind.upper()}
            asked("CreateMember", {"parent": site, "memberId": id, "member": member})
        inspection = ground.inspection(site, SOMEBODY)
        made.append((site, inspection, ground.finding(inspection)))
    replayed(stack)
    (yard, yard_inspection, yard_finding), (park, park_inspection, park_finding) = made
    return Sites(yard, park, yard_inspection, park_inspection, yard_finding, park_finding)


def replayed(stack: Stack) -> None:
    """Returns once the replica has what was written so far: others than the writer may read there."""
    with (
        psycopg.connect(stack.env["TRANSOM_POSTGRES"]) as primary,
        psycopg.connect(stack.env["TRANSOM_REPLICA"], autocommit=True) as replica,
    ):
        position = primary.execute("select pg_current_wal_lsn()::text").fetchone()
        deadline = time.monotonic() + 20
        while replica.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", position).fetchone() != (True,):
            assert time.monotonic() < deadline, "the replica does not catch up"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def requests(ground: Ground, sites: Sites) -> Requests:
    return Requests(ground, sites)


def test_every_method_has_a_row_and_every_row_a_method(roads: Roads) -> None:
    assert {method for method, _, _ in rows()} == set(roads.methods)


@pytest.mark.parametrize(("method", "what", "expected"), rows(), ids=[f"{m}: {w}" for m, w, _ in rows()])
def test_a_row(
    ground: Ground, sites: Sites, requests: Requests, method: str, what: str, expected: dict[str, str]
) -> None:
    asks = requests.of[f"{method}: {what}"]

    def cell(kind: str, road: str) -> str:
        asker = ground.askers[kind]
        asked = asks(asker)
        before = ground.stored(asked.target) if asked.target else None
        answer = getattr(ground.roads, road)(method, asked.request, asker.token)
        after = ground.stored(asked.target) if asked.target else None
        word = seen(method, answer.message, sites) if answer.code == "OK" else refusal(answer)
        if asked.target and (answer.code != "OK" or asked.request.get("validateOnly")):
            assert before == after, f"{kind} over {road}: refused with {word}, and changed it"
        elif asked.target:
            assert (after is None) == method.startswith("Delete"), f"{kind} over {road}: not done"
        return word

    cells = [(kind, road) for kind in CALLERS for road in ("over_rest", "over_grpc")]
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(cells, pool.map(lambda c: cell(*c), cells), strict=True))
    assert {kind: found[kind, "over_rest"] for kind in CALLERS} == expected, "over REST"
    assert {kind: found[kind, "over_grpc"] for kind in CALLERS} == expected, "over gRPC"


def seen(method: str, message: Any, sites: Sites) -> str:
    """`ok`, `less` or `none`, by what is in an answer."""
    if method == "ListSites":
        shown = {s.name: s.HasField("contact") for s in message.sites if s.name in (sites.yard, sites.park)}
        if shown == {sites.park: False}:
            return "less"
        return "ok" if shown == {sites.park: True, sites.yard: True} else f"unexpected: {shown}"
    if method.startswith("List"):
        items = getattr(message, method.removeprefix("List").lower())
        words = {seen("Get", item, sites) for item in items}
        return words.pop() if len(words) == 1 else "none" if not words else f"unexpected: {words}"
    if message.DESCRIPTOR.name == "Site":
        return "ok" if message.HasField("contact") else "less"
    if message.DESCRIPTOR.name == "Inspection" and method != "CreateInspection":
        return "ok" if message.internal_note else "less"
    return "ok"


def refusal(answer: Answer) -> str:
    """The word for a refusal; it tells what was asked, and nothing of the rule."""
    if answer.reason == "ACCESS_DENIED":
        assert set(answer.metadata) in ({"action", "resource"}, {"action", "resource", "field"}, {"method"}), answer
    words = {told: word for word, told in WORDS.items()}
    return words.get((answer.code, answer.reason), f"unexpected: {answer.code} {answer.reason}")


# ── Transom's own services ──────────────────────────────────────────────────────────────────────────────────────

# Who gets in: `everybody`; `accounts`, anonymous ones too; `people`, accounts that somebody can sign in to; `known`, accounts
# and service keys; `admins`. What they find inside is theirs, and is for the tests of each service.
OWN = """
AccountsService       | everybody | SignUp SignIn RequestSignInCode SignInWithCode SignInAnonymously VerifyEmail
AccountsService       | everybody | RequestPasswordReset ResetPassword
AccountsService       | accounts  | UpgradeAccount SignOut GetMe UpdateMe RequestEmailVerification RequestEmailChange
AccountsService       | accounts  | ListSessions RevokeSession RevokeAllSessions
AccountsService       | people    | ChangePassword
AccountDataService    | everybody | CancelAccountDeletion
AccountDataService    | accounts  | DeleteAccount ExportAccount GetExport ListExports
AccountDataService    | admins    | RestoreAccount
IdentitiesService     | everybody | SignInWithIdToken StartAuthorization CompleteAuthorization
IdentitiesService     | accounts  | ListIdentities LinkIdentity UnlinkIdentity
PasskeysService       | everybody | BeginSignIn FinishSignIn
PasskeysService       | accounts  | BeginRegistration FinishRegistration ListPasskeys UpdatePasskey DeletePasskey
SecondFactorsService  | everybody | SignInWithSecondFactor
SecondFactorsService  | accounts  | GetSecondFactor
SecondFactorsService  | people    | EnrollAuthenticator ConfirmAuthenticator RemoveAuthenticator
SecondFactorsService  | people    | RegenerateRecoveryCodes
AdminService          | admins    | ListUsers GetUser UpdateUser RevokeUserSessions InviteUser ImpersonateUser
AdminService          | admins    | RemoveUserSecondFactor
AdminService          | admins    | ListAuditEntries CreateKey ListKeys RevokeKey ExplainAccess
DataService           | everybody | Aggregate Commit Watch
SchedulesService      | admins    | ListSchedules GetSchedule PauseSchedule ResumeSchedule RunSchedule
WebhooksService       | admins    | CreateWebhookEndpoint GetWebhookEndpoint ListWebhookEndpoints UpdateWebhookEndpoint
WebhooksService       | admins    | DeleteWebhookEndpoint PauseWebhookEndpoint ResumeWebhookEndpoint PingWebhookEndpoint
WebhooksService       | admins    | RotateWebhookEndpointSecret GetWebhookDelivery ListWebhookDeliveries
WebhooksService       | admins    | ReplayWebhookDelivery ReplayWebhookEvents
TasksService          | known     | EnqueueTask GetTask ListTasks CancelTask RetryTask WaitTask WatchTask
FilesService          | known     | CreateUpload CompleteUpload GetFile ListFiles DeleteFile GetDownloadUrl
FilesService          | known     | CreateUploadForm CreateMultipartUpload SignUploadParts ListUploadParts WatchFile
FilesService          | everybody | GetPublicFile
DirectFilesService    | known     | UploadFile DownloadFile
"""
WHO = {
    #             nobody anonymous account   key        admin
    "everybody": ("in", "in", "in", "in", "in"),
    "accounts": ("who", "in", "in", "account", "in"),
    "people": ("who", "account", "in", "account", "in"),
    "known": ("who", "in", "in", "in", "in"),
    "admins": ("who", "no", "no", "no", "in"),
}
ENDS = ("SignOut", "RevokeAllSessions", "DeleteAccount")
"""After these, the session that called is over."""
NEEDED: dict[str, dict[str, Any]] = {
    "RevokeSession": {"name": "sessions/none"},
    "RestoreAccount": {"name": "users/none"},
    "GetExport": {"name": "exports/none"},
    "LinkIdentity": {"idToken": {"provider": "none", "idToken": "none"}},
    "UnlinkIdentity": {"name": "identities/none"},
    "FinishRegistration": {"credential": {"id": "none"}},
    "UpdatePasskey": {"passkey": {"name": "passkeys/none"}},
    "DeletePasskey": {"name": "passkeys/none"},
    "GetUser": {"name": "users/none"},
    "UpdateUser": {"user": {"name": "users/none"}},
    "RevokeUserSessions": {"name": "users/none"},
    "RemoveUserSecondFactor": {"name": "users/none"},
    "ImpersonateUser": {"name": "users/none"},
    "RevokeKey": {"name": "keys/none"},
    "CompleteUpload": {"name": "files/none"},
    "GetFile": {"name": "files/none"},
    "WatchFile": {"name": "files/none"},
    "DeleteFile": {"name": "files/none"},
    "SignUploadParts": {"name": "files/none"},
    "ListUploadParts": {"name": "files/none"},
    "GetPublicFile": {"file": "none", "filename": "none"},
    "GetDownloadUrl": {"name": "files/none"},
    "DownloadFile": {"name": "files/none"},
    "EnqueueTask": {"handler": "none"},
    **{f"{verb}Task": {"name": "tasks/none"} for verb in ("Get", "Cancel", "Retry", "Wait", "Watch")},
    "UpdateWebhookEndpoint": {"webhook_endpoint": {"name": "webhookEndpoints/none"}},
    "RotateWebhookEndpointSecret": {"name": "webhookEndpoints/none"},
    "ReplayWebhookEvents": {"name": "webhookEndpoints/none"},
    "ListWebhookDeliveries": {"parent": "webhookEndpoints/none"},
    **{
        f"{verb}WebhookEndpoint": {"name": "webhookEndpoints/none"}
        for verb in ("Get", "Delete", "Pause", "Resume", "Ping")
    },
    **{f"{verb}WebhookDelivery": {"name": "webhookEndpoints/none/deliveries/none"} for verb in ("Get", "Replay")},
    "GetSchedule": {"name": "schedules/none"},
    "PauseSchedule": {"name": "schedules/none"},
    "ResumeSchedule": {"name": "schedules/none"},
    "RunSchedule": {"name": "schedules/none"},
}
"""Of requests that cannot be empty, what gets them to where who calls is looked at."""


def own_rows() -> dict[str, str]:
    """Who gets in, by service and method."""
    found: dict[str, str] = {}
    for line in filter(None, OWN.splitlines()):
        service, who, methods = (part.strip() for part in line.split("|"))
        for method in methods.split():
            assert f"{service}/{method}" not in found, line
            found[f"{service}/{method}"] = who
    return found


def test_every_method_of_transom_itself_has_a_row_and_lets_in_whom_it_says(stack: Stack, ground: Ground) -> None:
    paths = {p.rpartition(".")[2]: p for p in ground.roads.by_path if p.startswith("/transom.")}
    assert set(own_rows()) == set(paths)
    kinds = {"nobody": "nobody", "anonymous": "anonymous", "account": "creator", "key": "key", "admin": "admin"}
    kept = {kind: ground.askers[asker].token for kind, asker in kinds.items()}

    def entered(method: str, kind: str, road: str, token: str) -> str:
        answer = getattr(ground.roads, road)(paths[method], NEEDED.get(method.partition("/")[2], {}), token)
        if (answer.code, answer.reason) == WORDS["who"]:
            return "who"
        if answer.reason in ("NOT_AN_ACCOUNT", "ANONYMOUS_ACCOUNT"):
            return "account"
        return "no" if answer.code == "PERMISSION_DENIED" else "in"

    def ended(road: str) -> dict[tuple[str, str, str], str]:
        """The cells after which a session is over, one after the other; an admin is like any account there."""
        email = signed_up(stack).email
        found = {}
        for method in filter(lambda m: m.partition("/")[2] in ENDS, sorted(paths, reverse=True)):
            tokens = kept | {"account": signed_in(stack, email).token, "anonymous": anonymous(stack).token}
            found |= {
                (method, kind, road): entered(method, kind, road, tokens[kind]) for kind in kinds if kind != "admin"
            }
        return found

    roads = ("over_rest", "over_grpc")
    cells = [(m, kind, road) for m in paths if m.partition("/")[2] not in ENDS for kind in kinds for road in roads]
    with ThreadPoolExecutor(8) as pool:
        ends = [pool.submit(ended, road) for road in roads]
        found = dict(zip(cells, pool.map(lambda c: entered(*c, kept[c[1]]), cells), strict=True))
        for one in ends:
            found |= one.result()
    for road in roads:
        wrong = {
            f"{method}, {kind}": found[method, kind, road]
            for method, who in own_rows().items()
            for kind, word in zip(kinds, WHO[who], strict=True)
            if found.get((method, kind, road), word) != word
        }
        assert wrong == {}, road


# ── What no table says ──────────────────────────────────────────────────────────────────────────────────────────


def test_who_was_put_out_is_out(ground: Ground) -> None:
    """Of a read the bound is the replica's; of a write there is none."""
    site = ground.site(public=False)
    inspection = ground.inspection(site, SOMEBODY)
    inspector, manager = ground.askers["inspector"], ground.askers["manager"]
    finding = {"parent": inspection, "finding": {"title": "Crack", "severity": "LOW"}}
    assert ground.roads.over_grpc("CreateFinding", finding, inspector.token).code == "OK"
    out = ground.roads.over_grpc("DeleteMember", {"name": f"{site}/members/{inspector.id}"}, manager.token)
    assert out.code == "OK"
    assert refusal(ground.roads.over_grpc("CreateFinding", finding, inspector.token)) == "-"
    replayed(ground.stack)
    for method, request in (
        ("GetSite", {"name": site}),
        ("GetInspection", {"name": inspection}),
        ("ListFindings", {"parent": inspection}),
        ("ListMembers", {"parent": site}),
    ):
        assert refusal(ground.roads.over_rest(method, request, inspector.token)) == "-", method


def test_what_one_may_not_see_one_does_not_erase(ground: Ground) -> None:
    inspector = ground.askers["inspector"]
    name = ground.inspection(ground.site(public=False), inspector.user)
    whole = {"inspection": {"name": name, "title": "All of it", "inspector": inspector.user}, "updateMask": "*"}
    for road in (ground.roads.over_rest, ground.roads.over_grpc):
        answer = road("UpdateInspection", whole, inspector.token)
        assert (answer.code, answer.message.internal_note) == ("OK", "")
        assert ground.trusted("GetInspection", {"name": name}).internal_note == NOTE
        assert not ground.trusted("GetInspection", {"name": name}).summary
