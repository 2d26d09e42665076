"""The whole way, as somebody's app makes it: through the edge, on the whole system, from signing up to the mail."""

from __future__ import annotations

import base64
import hashlib
import inspect as stdlib_inspect
import io
import json
import os
import secrets
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import people
import psycopg
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from PIL import Image
from psycopg import sql
from pypdf import PdfReader
from transom.accounts.v1 import accounts_pb2, accounts_pb2_grpc
from transom.files.v1 import files_pb2, files_pb2_grpc

from deploy.native.failover import fail_over, wait_for_replica
from deploy.native.postgres import NODES, replication
from deploy.native.product import healthy
from deploy.native.stack import PROJECT, Stack
from server.schema.compilation import export_shared
from server.schema.model import Schema
from server.schema.reading import read

SERVICE = "inspect.v1.InspectionService"


def until(look: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What `look` answers, once it is true. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)
    return found


def photo() -> bytes:
    """A small JPEG."""
    out = io.BytesIO()
    Image.new("RGB", (320, 240), (180, 90, 40)).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture(scope="module")
def schema(stack: Stack) -> Schema:
    """The schema that is served."""
    return read(Path(stack.env["TRANSOM_DESCRIPTOR"]).read_bytes())


@dataclass(frozen=True)
class Web:
    """A web client: REST through the edge, as one user."""

    http: httpx.Client
    email: str
    user: str

    @property
    def id(self) -> str:
        """The last part of the user's name."""
        return self.user.removeprefix("users/")

    def call(self, method: str, path: str, body: Any = None, status: int = 200, **query: Any) -> Any:
        """The answer's JSON; the status must be the one expected."""
        answer = self.http.request(method, path, json=body, params=query)
        assert answer.status_code == status, answer.text
        return answer.json()


def signed_up(stack: Stack) -> Web:
    """A new user over REST."""
    person = people.signed_up(stack)
    http = httpx.Client(base_url=stack.edge, timeout=20, headers={"authorization": f"Bearer {person.token}"})
    return Web(http, person.email, person.name)


@pytest.fixture(scope="module")
def web(stack: Stack) -> Iterator[Web]:
    user = signed_up(stack)
    yield user
    user.http.close()


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Stubs as an app team generates them, by protoc from the app's protos and nothing else."""
    out, shared = tmp_path_factory.mktemp("stubs"), tmp_path_factory.mktemp("shared")
    export_shared(shared)
    app = PROJECT / "examples" / "inspect" / "proto"
    files = [str(f.relative_to(app)) for f in app.rglob("*.proto")]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{app}", f"-I{PROJECT / 'proto'}", f"-I{shared}"]
    subprocess.run(
        [*protoc, f"--python_out={out}", f"--grpc_python_out={out}", *files, "buf/validate/validate.proto"], check=True
    )
    # Python has a module of the same name as the app's package: the one becomes a package, too.
    stdlib_inspect.__path__ = [str(out / "inspect")]  # type: ignore[attr-defined]
    sys.path.insert(0, str(out))
    try:
        from inspect.v1 import inspection_service_pb2 as pb  # type: ignore[import-not-found]
        from inspect.v1 import inspection_service_pb2_grpc as services  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(out))
    return SimpleNamespace(pb=pb, services=services)


# ── The journey ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_journey_over_rest(stack: Stack, web: Web) -> None:
    site = web.call("POST", "/v1/sites", {"displayName": "Quay 7", "timeZone": "Europe/Berlin"})
    manager = signed_up(stack)
    assert manager.http.get(f"/v1/{site['name']}").status_code == 404
    member = {"user": manager.user, "role": "MANAGER"}
    web.call("POST", f"/v1/{site['name']}/members", member, memberId=manager.id)
    inspection = web.call(
        "POST",
        f"/v1/{site['name']}/inspections",
        {"title": "Fenders", "inspector": web.user, "scheduledTime": "2026-11-23T08:00:00Z"},
    )
    assert inspection["state"] == "DRAFT"

    picture = photo()
    announced = web.call(
        "POST",
        "/transom/v1/files:createUpload",
        {
            "filename": "fender.jpg",
            "contentType": "image/jpeg",
            "sizeBytes": str(len(picture)),
            "sha256": _b64(picture),
        },
    )
    put = httpx.put(announced["uploadUrl"], content=picture, headers=announced["uploadHeaders"])
    assert put.status_code == 200, put.text
    uploaded = web.call("POST", f"/transom/v1/{announced['file']['name']}:complete", {})
    assert uploaded["state"] == "UPLOADED"
    ready = until(
        lambda: file if (file := web.call("GET", f"/transom/v1/{uploaded['name']}"))["state"] == "READY" else None
    )
    assert {"thumbnail", "medium"} <= {variant["name"] for variant in ready["variants"]}

    finding = {"title": "Rubber torn", "severity": "HIGH", "photos": [ready["name"]], "labels": {"part": "fender"}}
    made = web.call("POST", f"/v1/{inspection['name']}/findings", finding)
    assert made["photos"] == [ready["name"]]
    submitted = web.call("POST", f"/v1/{inspection['name']}:submit", {})
    assert submitted["state"] == "SUBMITTED"

    report = until(lambda: web.call("GET", f"/v1/{inspection['name']}")["report"])
    link = web.call("GET", f"/transom/v1/{report}:downloadUrl")
    pdf = PdfReader(io.BytesIO(httpx.get(link["url"]).content))
    text = "".join(page.extract_text() for page in pdf.pages)
    assert "Quay 7" in text
    assert "Rubber torn" in text
    assert any(page.images for page in pdf.pages), "the photo is in the report"

    mail = until(
        lambda: [m for m in httpx.get(f"{stack.mailbox}/mails").json() if manager.email in m["to"] and m["attachments"]]
    )
    assert len(mail) == 1
    assert mail[0]["attachments"][0]["content_type"] == "application/pdf"
    assert manager.call("POST", f"/v1/{inspection['name']}:approve", {})["state"] == "APPROVED"
    manager.http.close()


def test_the_journey_over_grpc(stack: Stack, stubs: SimpleNamespace) -> None:
    with grpc.insecure_channel(stack.edge.removeprefix("http://")) as channel:
        accounts = accounts_pb2_grpc.AccountsServiceStub(channel)
        email = people.signed_up(stack).email
        made = accounts.SignIn(accounts_pb2.SignInRequest(email=email, password=people.PASSWORD, device="Pixel 9"))
        who = (("authorization", f"Bearer {made.token}"),)
        app, pb = stubs.services.InspectionServiceStub(channel), stubs.pb

        site = app.CreateSite(
            pb.CreateSiteRequest(site={"display_name": "Mast 12", "time_zone": "Europe/Oslo"}), metadata=who
        )
        [member] = app.ListMembers(pb.ListMembersRequest(parent=site.name), metadata=who).members
        assert (member.user, member.role) == (made.account.name, member.MANAGER)
        request = pb.CreateInspectionRequest(parent=site.name, inspection_id="guy-wires")
        request.inspection.title = "Guy wires"
        request.inspection.inspector = made.account.name
        request.inspection.scheduled_time.GetCurrentTime()
        inspection = app.CreateInspection(request, metadata=who)
        assert inspection.name == f"{site.name}/inspections/guy-wires"

        files, picture = files_pb2_grpc.FilesServiceStub(channel), photo()
        upload = files.CreateUpload(
            files_pb2.CreateUploadRequest(filename="w.jpg", content_type="image/jpeg", size_bytes=len(picture)),
            metadata=who,
        )
        assert httpx.put(upload.upload_url, content=picture, headers=dict(upload.upload_headers)).status_code == 200
        file = files.CompleteUpload(files_pb2.CompleteUploadRequest(name=upload.file.name), metadata=who)

        create = pb.CreateFindingRequest(parent=inspection.name)
        create.finding.title, create.finding.severity = "Wire frayed", create.finding.MEDIUM
        create.finding.photos.append(file.name)
        finding = app.CreateFinding(create, metadata=who)
        update = pb.UpdateFindingRequest(finding=finding, update_mask={"paths": ["resolved"]})
        update.finding.resolved = True
        update.finding.title = "not in the mask"
        resolved = app.UpdateFinding(update, metadata=who)
        assert (resolved.resolved, resolved.title) == (True, "Wire frayed")
        listed = app.ListFindings(pb.ListFindingsRequest(parent=inspection.name), metadata=who)
        assert [f.name for f in listed.findings] == [finding.name]

        app.SubmitInspection(pb.SubmitInspectionRequest(name=inspection.name), metadata=who)
        get = pb.GetInspectionRequest(name=inspection.name)
        assert until(lambda: app.GetInspection(get, metadata=who).report)
        until(lambda: [m for m in httpx.get(f"{stack.mailbox}/mails").json() if email in m["to"] and m["attachments"]])
        approved = app.ApproveInspection(pb.ApproveInspectionRequest(name=inspection.name), metadata=who)
        assert approved.state == approved.APPROVED
        accounts.SignOut(accounts_pb2.SignOutRequest(), metadata=who)
        until(lambda: _code_of(lambda: app.GetInspection(get, metadata=who)) is grpc.StatusCode.UNAUTHENTICATED, 10)


def test_grpc_web_speaks_on_the_same_port(stack: Stack) -> None:
    message = accounts_pb2.SignInRequest(email="ines@example.com", password="inspect-ines")
    body = b"\0" + struct.pack("!I", message.ByteSize()) + message.SerializeToString()
    answer = httpx.post(
        f"{stack.edge}/transom.accounts.v1.AccountsService/SignIn",
        content=body,
        headers={"content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
    )
    assert answer.status_code == 200
    kind, length = answer.content[0], struct.unpack("!I", answer.content[1:5])[0]
    assert kind == 0
    made = accounts_pb2.SignInResponse.FromString(answer.content[5 : 5 + length])
    assert made.token.startswith("tss_")
    assert b"grpc-status:0" in answer.content[5 + length :].replace(b" ", b"")


@pytest.mark.parametrize("version", ["grpc-v1", "grpc-v1alpha"])
def test_tools_find_everything_by_reflection(stack: Stack, schema: Schema, version: str) -> None:
    curl = [Path(sys.executable).with_name("buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
    curl += ["--reflect-protocol", version]
    listed = subprocess.run([*curl, "--list-methods", stack.edge], capture_output=True, text=True, check=True).stdout
    assert {m.path[1:] for m in schema.methods()} <= set(listed.split())
    url = f"{stack.edge}/transom.accounts.v1.AccountsService/SignUp"
    body = json.dumps({"email": f"{secrets.token_hex(6)}@example.com", "password": "correct horse battery"})
    made = subprocess.run([*curl, "-d", body, url], capture_output=True, text=True, check=True).stdout
    answer = json.loads(made)
    assert answer.pop("signUpToken").startswith("tsw_") and answer == {"verify": True}


# ── Refusals ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Refusal:
    """One thing that is refused, said over both roads."""

    says: str
    rest: tuple[str, str, Any]
    method: str
    request: dict[str, Any]
    http_status: int
    code: grpc.StatusCode
    reason: str
    field: str = ""


REFUSALS = [
    Refusal(
        "what is not there",
        ("GET", "/v1/sites/nowhere", None),
        "GetSite",
        {"name": "sites/nowhere"},
        404,
        grpc.StatusCode.NOT_FOUND,
        "NOT_FOUND",
    ),
    Refusal(
        "a missing field",
        ("POST", "/v1/sites", {"timeZone": "Europe/Berlin"}),
        "CreateSite",
        {"site": {"timeZone": "Europe/Berlin"}},
        400,
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "site.display_name",
    ),
    Refusal(
        "a broken constraint",
        ("POST", "/v1/sites", {"displayName": "x" * 500, "timeZone": "Europe/Berlin"}),
        "CreateSite",
        {"site": {"displayName": "x" * 500, "timeZone": "Europe/Berlin"}},
        400,
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "site.display_name",
    ),
    Refusal(
        "a page token of nobody's",
        ("GET", "/v1/sites?pageToken=bm8", None),
        "ListSites",
        {"pageToken": "bm8"},
        400,
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "page_token",
    ),
    Refusal(
        "a name that is taken",
        ("POST", "/v1/sites?siteId=taken", {"displayName": "T", "timeZone": "Europe/Berlin"}),
        "CreateSite",
        {"siteId": "taken", "site": {"displayName": "T", "timeZone": "Europe/Berlin"}},
        409,
        grpc.StatusCode.ALREADY_EXISTS,
        "ALREADY_EXISTS",
    ),
    Refusal(
        "an etag of long ago",
        ("PATCH", "/v1/sites/taken?updateMask=description", {"description": "d", "etag": "1"}),
        "UpdateSite",
        {"site": {"name": "sites/taken", "description": "d", "etag": "1"}, "updateMask": "description"},
        409,
        grpc.StatusCode.ABORTED,
        "STALE_ETAG",
    ),
    Refusal(
        "a site with members",
        ("DELETE", "/v1/sites/taken", None),
        "DeleteSite",
        {"name": "sites/taken"},
        400,
        grpc.StatusCode.FAILED_PRECONDITION,
        "HAS_CHILDREN",
    ),
]


@pytest.fixture(scope="module")
def taken(web: Web) -> str:
    """The name of a public site, with a member, as every site has."""
    site = {"displayName": "T", "timeZone": "Europe/Berlin", "public": True}
    return str(web.call("POST", "/v1/sites", site, siteId="taken")["name"])


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda r: r.says)
def test_a_refusal_says_the_same_on_both_roads(
    stack: Stack, schema: Schema, web: Web, taken: str, refusal: Refusal
) -> None:
    verb, path, body = refusal.rest
    answer = web.http.request(verb, path, json=body)
    assert answer.status_code == refusal.http_status, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["status"]) == (refusal.http_status, refusal.code.name)
    said = _details(error["details"])
    assert said["ErrorInfo"]["reason"] == refusal.reason
    assert said["ErrorInfo"]["domain"] == "transom.dev"
    if refusal.field:
        assert refusal.field in [v["field"] for v in said["BadRequest"]["fieldViolations"]]

    with grpc.insecure_channel(stack.edge.removeprefix("http://")) as channel:
        call = _caller(channel, schema, web)
        with pytest.raises(grpc.RpcError) as raised:
            call(f"/{SERVICE}/{refusal.method}", refusal.request)
    assert raised.value.code() is refusal.code
    status = status_pb2.Status.FromString(dict(raised.value.trailing_metadata())["grpc-status-details-bin"])
    assert status.message == error["message"]
    spoken = _details([json_format.MessageToDict(d) for d in status.details])
    for kind in ("ErrorInfo", "BadRequest", "ResourceInfo"):
        assert _plain(spoken.get(kind)) == _plain(said.get(kind)), kind


def test_every_declared_rpc_is_implemented(stack: Stack, schema: Schema, web: Web) -> None:
    with grpc.insecure_channel(stack.edge.removeprefix("http://")) as channel:
        throwaway = signed_up(stack)  # some of them end the session that calls
        call = _caller(channel, schema, throwaway)
        for method in schema.methods():
            code = _code_of(lambda method=method: call(method.path, {}))
            assert code not in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), (
                method.path
            )


# ── Harm ────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def callers(
    stack: Stack, schema: Schema, web: Web, site: str, kinds: Sequence[str]
) -> Iterator[tuple[list[str], list[str]]]:
    """Clients that call without a pause while the block lasts: what was answered so far, and what failed."""
    stop = threading.Event()
    answered: list[str] = []
    failures: list[str] = []

    def call_on(kind: str) -> None:
        with (
            grpc.insecure_channel(stack.edge.removeprefix("http://")) as channel,
            httpx.Client(base_url=stack.edge, headers=dict(web.http.headers), timeout=20) as http,
        ):
            call = _caller(channel, schema, web)
            while not stop.is_set():
                try:
                    if kind == "grpc read":
                        call(f"/{SERVICE}/GetSite", {"name": site})
                    elif kind == "rest read":
                        http.get(f"/v1/{site}").raise_for_status()
                    elif kind == "grpc write":
                        id, member = _member()
                        call(f"/{SERVICE}/CreateMember", {"parent": site, "memberId": id, "member": member})
                    else:
                        id, member = _member()
                        http.post(f"/v1/{site}/members?memberId={id}", json=member).raise_for_status()
                    answered.append(kind)
                except Exception as error:
                    failures.append(repr(error))

    threads = [threading.Thread(target=call_on, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    try:
        yield answered, failures
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def pid_of(stack: Stack, name: str) -> int | None:
    """The process as the supervisor knows it."""
    [told] = [p for p in stack.status()["processes"] if p["name"] == name]
    return told["pid"]


def test_nobody_notices_a_server_that_is_killed(stack: Stack, schema: Schema, web: Web, taken: str) -> None:
    with callers(stack, schema, web, taken, ["grpc read", "rest read"] * 3) as (answered, failures):
        until(lambda: len(answered) > 200)
        victim = pid_of(stack, "api-2")
        os.kill(victim, signal.SIGKILL)
        killed_at = len(answered)
        until(lambda: len(answered) > killed_at + 2000)
        until(lambda: pid_of(stack, "api-2") not in (None, victim))
        back_at = len(answered)
        until(lambda: len(answered) > back_at + 500)
    assert failures == []


def test_nobody_notices_a_rolling_restart(stack: Stack, schema: Schema, web: Web, taken: str) -> None:
    kinds = ["grpc read", "rest read", "grpc write", "rest write"]
    with callers(stack, schema, web, taken, kinds) as (answered, failures):
        until(lambda: set(answered) == set(kinds))
        for name in stack.api_servers:
            leaving = pid_of(stack, name)
            os.kill(leaving, signal.SIGTERM)
            until(lambda name=name, leaving=leaving: pid_of(stack, name) not in (None, leaving))
            until(lambda: _healthy(stack) == len(stack.api_servers))
    assert failures == []


def test_a_write_that_was_acknowledged_survives_the_server_that_took_it(stack: Stack, web: Web, taken: str) -> None:
    made: list[str] = []
    stop = threading.Event()

    def write_on() -> None:
        with httpx.Client(base_url=stack.edge, headers=dict(web.http.headers), timeout=20) as http:
            while not stop.is_set():
                id, member = _member()
                answer = http.post(f"/v1/{taken}/members?memberId={id}", json=member)
                if answer.status_code == 200:
                    made.append(answer.json()["name"])

    threads = [threading.Thread(target=write_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for name in (stack.api_servers[0], stack.api_servers[-1]):
            before, victim = len(made), pid_of(stack, name)
            until(lambda before=before: len(made) > before + 50)
            os.kill(victim, signal.SIGKILL)
            until(lambda name=name, victim=victim: pid_of(stack, name) not in (None, victim))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    there: set[str] = set()
    token = ""
    while True:
        page = web.call("GET", f"/v1/{taken}/members", pageSize=1000, pageToken=token)
        there |= {m["name"] for m in page["members"]}
        token = page["nextPageToken"]
        if not token:
            break
    assert set(made) <= there
    events = psycopg.connect(stack.env["TRANSOM_POSTGRES"]).execute(
        "select name from transom.events where name = any(%s) and verb = 'created'", [made]
    )
    assert sorted(row[0] for row in events) == sorted(made), "each with its event, once"


def killed(stack: Stack) -> None:
    """The primary crashes, and is started again."""
    leader = stack.topology.postgres.leader
    victim = pid_of(stack, leader)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    until(lambda: pid_of(stack, leader) not in (None, victim))


def switched(stack: Stack) -> None:
    """The replica takes the place of a primary that runs."""
    former = stack.topology.postgres.leader
    assert fail_over(stack.topology.postgres, stack.place) != former


def lost(stack: Stack) -> None:
    """The primary crashes, and the replica takes its place; commits waited for the replica."""
    postgres = stack.topology.postgres
    wait_for_replica(postgres, wanted=True)
    until(lambda: replication(stack.env["TRANSOM_POSTGRES"]).synchronous)  # type: ignore[union-attr]
    former = postgres.leader
    victim = pid_of(stack, former)
    assert victim is not None
    new = next(name for name in NODES if name != former)
    postgres.lead(new)  # so that nobody starts the former one again as a primary
    os.kill(victim, signal.SIGKILL)
    assert fail_over(postgres, stack.place) == new


def streaming(stack: Stack) -> bool:
    """Whether the primary has a replica."""
    now = replication(stack.env["TRANSOM_POSTGRES"])
    return now is not None and now.streaming


def test_writes_that_wait_for_a_replica_that_is_away_can_be_let_go(stack: Stack, web: Web, taken: str) -> None:
    postgres = stack.topology.postgres
    wait_for_replica(postgres, wanted=True)
    until(lambda: replication(stack.env["TRANSOM_POSTGRES"]).synchronous)  # type: ignore[union-attr]
    replica = next(name for name in NODES if name != postgres.leader)
    with postgres.superuser(replica) as database:
        receiver = database.execute("select pid from pg_stat_wal_receiver").fetchone()
    assert receiver is not None
    os.kill(receiver[0], signal.SIGSTOP)  # it receives nothing, and nobody starts it again
    try:
        with httpx.Client(base_url=stack.edge, headers=dict(web.http.headers), timeout=60) as http:
            id, member = _member()
            answers: list[int] = []
            path = f"/v1/{taken}/members?memberId={id}"
            writing = threading.Thread(target=lambda: answers.append(http.post(path, json=member).status_code))
            writing.start()
            with psycopg.connect(stack.env["TRANSOM_POSTGRES"], autocommit=True) as database:
                waits = "select 1 from pg_stat_activity where wait_event = 'SyncRep'"
                until(lambda: database.execute(waits).fetchone())
            assert not answers
            wait_for_replica(postgres, wanted=False)
            writing.join(30)
            assert answers == [200]
    finally:
        os.kill(receiver[0], signal.SIGCONT)
        wait_for_replica(postgres, wanted=False)
    until(lambda: streaming(stack))


@pytest.mark.parametrize("harm", [killed, switched, lost], ids=lambda harm: harm.__name__)
def test_acknowledged_writes_survive_the_primary(
    harm: Callable[[Stack], None], stack: Stack, web: Web, taken: str
) -> None:
    made: list[str] = []
    refused: list[httpx.Response] = []
    read: list[tuple[float, int]] = []
    stop = threading.Event()

    def write_on() -> None:
        with httpx.Client(base_url=stack.edge, headers=dict(web.http.headers), timeout=20) as http:
            while not stop.is_set():
                id, member = _member()
                try:
                    answer = http.post(f"/v1/{taken}/members?memberId={id}", json=member)
                except httpx.TimeoutException:
                    continue  # nobody has said that it is done
                if answer.status_code == 200:
                    made.append(answer.json()["name"])
                else:
                    refused.append(answer)

    def read_on() -> None:  # as somebody who has written nothing lately, and so may read the replica
        while not stop.is_set():
            try:
                answer = reader.http.get(f"/v1/{taken}")
            except httpx.TimeoutException:
                read.append((time.monotonic(), 504))
            else:
                read.append((time.monotonic(), answer.status_code))

    reader = signed_up(stack)
    servers = [pid_of(stack, name) for name in stack.api_servers]
    threads = [threading.Thread(target=work) for work in (write_on, write_on, write_on, read_on)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(made) > 50)
        begun = time.monotonic()
        harm(stack)
        until(lambda: streaming(stack), 60)
        before = len(made)
        until(lambda: len(made) > before + 50)
        back = time.monotonic()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        reader.http.close()
        wait_for_replica(stack.topology.postgres, wanted=False)
    for answer in refused:
        assert answer.status_code == 503, answer.text
        error = answer.json()["error"]
        assert error["status"] == "UNAVAILABLE"
        assert "RetryInfo" in _details(error["details"]), error
    meanwhile = [status for when, status in read if begun < when < back]
    assert set(meanwhile) <= {200, 503}
    assert meanwhile.count(200) > 0.8 * len(meanwhile), "the replica answers"
    assert [pid_of(stack, name) for name in stack.api_servers] == servers, "no server fell with it"
    there: set[str] = set()
    token = ""
    while True:
        page = web.call("GET", f"/v1/{taken}/members", pageSize=1000, pageToken=token)
        there |= {m["name"] for m in page["members"]}
        token = page["nextPageToken"]
        if not token:
            break
    assert set(made) <= there
    with psycopg.connect(stack.env["TRANSOM_POSTGRES"]) as db:
        events = db.execute(
            "select name from transom.events where name = any(%s) and verb = 'created'", [made]
        ).fetchall()
    assert sorted(name for (name,) in events) == sorted(made), "each with its event, once"
    until(lambda: _readers(stack) >= set(stack.api_servers))  # the promoted one is no longer read as a replica


def _readers(stack: Stack) -> set[str]:
    """Who is connected to what is the replica now."""
    postgres = stack.topology.postgres
    with postgres.superuser(next(name for name in NODES if name != postgres.leader)) as database:
        found = database.execute("select application_name from pg_stat_activity where usename = 'transom'").fetchall()
    return {name for (name,) in found}


def test_a_locked_row_keeps_nobody_from_signing_in(stack: Stack, schema: Schema, web: Web) -> None:
    site = web.call("POST", "/v1/sites", {"displayName": "Lock", "timeZone": "Europe/Berlin"})
    inspection = web.call(
        "POST",
        f"/v1/{site['name']}/inspections",
        {"title": "Gates", "inspector": web.user, "scheduledTime": "2026-11-23T08:00:00Z"},
    )
    web.call("POST", f"/v1/{inspection['name']}/findings", {"title": "Rust", "severity": "LOW"})
    said: list[httpx.Response] = []

    def submit() -> None:
        url = f"{stack.edge}/v1/{inspection['name']}:submit"
        said.append(httpx.post(url, json={}, headers=dict(web.http.headers), timeout=30))

    threads = [threading.Thread(target=submit) for _ in range(40)]
    with psycopg.connect(stack.env["TRANSOM_POSTGRES"]) as db:
        resource = schema.resources["inspect.v1.Inspection"]
        table = sql.Identifier(resource.table_schema, resource.table_name)
        lock = sql.SQL("select 1 from {} where name = %s for update").format(table)
        assert db.execute(lock, [inspection["name"]]).fetchone()
        for thread in threads:
            thread.start()
        time.sleep(1)  # now all connections for units of work wait for the row
        body = {"email": web.email, "password": "correct horse battery"}
        for _ in range(6):
            answer = httpx.post(f"{stack.edge}/transom/v1/accounts:signIn", json=body, timeout=20)
            assert answer.status_code == 200, answer.text
            assert answer.elapsed.total_seconds() < 2
        db.rollback()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in said} <= {200, 400, 409, 503}
    assert [answer.status_code for answer in said].count(200) == 1, "submitted once"


def test_one_request_id_goes_all_the_way(stack: Stack, web: Web) -> None:
    mine = f"journey-{secrets.token_hex(8)}"
    answer = web.http.post(
        "/v1/sites", json={"displayName": "Traced", "timeZone": "Europe/Berlin"}, headers={"x-request-id": mine}
    )
    assert answer.headers["x-request-id"] == mine
    logs = Path(stack.place.logs)
    until(lambda: any(mine in (logs / f"{name}.log").read_text() for name in stack.api_servers), 10)
    until(lambda: mine in (logs / "envoy.log").read_text(), 20)  # it writes when its buffer is full, or now and then


# ── What the tests say it with ──────────────────────────────────────────────────────────────────────────────────


def _member() -> tuple[str, dict[str, str]]:
    """Somebody new as a member: the id, and the member."""
    id = f"m{secrets.token_hex(8)}"
    return id, {"user": f"users/{id}", "role": "VIEWER"}


def _b64(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _caller(channel: grpc.Channel, schema: Schema, web: Web) -> Callable[[str, dict[str, Any]], Any]:
    """Calls any method by its path and a JSON request, as the web client's user."""
    methods = {m.path: m for m in schema.methods()}
    who = (("authorization", web.http.headers["authorization"]),)

    def call(path: str, request: dict[str, Any]) -> Any:
        method = methods[path]
        message = json_format.ParseDict(request, schema.message_class(method.request)())
        stub = channel.unary_unary(
            path,
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=schema.message_class(method.response).FromString,
        )
        return stub(message, metadata=who, timeout=20)

    return call


def _details(details: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {d["@type"].rpartition(".")[2]: d for d in details}


def _plain(detail: dict[str, Any] | None) -> Any:
    """Without what is empty: the edge prints fields of default value, protobuf's own JSON does not."""
    if isinstance(detail, dict):
        return {k: _plain(v) for k, v in detail.items() if v not in ("", {}, [])}
    return [_plain(d) for d in detail] if isinstance(detail, list) else detail


def _healthy(stack: Stack) -> int:
    """Servers that the edge sends calls to."""
    return len(healthy(stack.ports["envoy-admin"]))


def _code_of(call: Callable[[], Any]) -> grpc.StatusCode:
    """How a call ends."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


_ = error_details_pb2  # registers the details' types, so that they can be printed
