"""The example app: its protos, its methods, its report, its seed."""

from __future__ import annotations

import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import people
import psycopg
import pytest
from click.testing import CliRunner
from google.protobuf import json_format
from PIL import Image
from pypdf import PdfReader

from deploy.native.stack import Stack
from server.apps.catcher import Catcher
from server.apps.loading import load
from server.cli.key import command as key_command
from server.cli.tasks import command as tasks_command
from server.engine.decisions import Decisions
from server.engine.references import References
from server.engine.seed_reading import Seed, SeedError, read_seed
from server.schema.compilation import compile_app, export_shared
from server.schema.model import Kind, Schema
from server.schema.reading import read

PROJECT = Path(__file__).parents[1]
APP = PROJECT / "examples" / "inspect"
SEED = APP / "seed"
PHOTO_BYTES_MAX = 40_000


@pytest.fixture(scope="module")
def schema() -> Schema:
    schema = read(compile_app(APP))
    load(APP, schema)  # makes the folder importable as transom_app
    return schema


# The protos.


def test_the_protos_pass_lint_and_are_formatted(tmp_path: Path) -> None:
    for part in ("buf.yaml", "proto/transom", "examples/inspect/proto"):
        copied = shutil.copytree if (PROJECT / part).is_dir() else shutil.copy
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        copied(PROJECT / part, tmp_path / part)
    export_shared(tmp_path / ".transom" / "third_party")
    buf = Path(sys.executable).with_name("buf")
    lint = subprocess.run([buf, "lint"], cwd=tmp_path, capture_output=True, text=True)
    assert lint.returncode == 0, lint.stdout + lint.stderr
    unformatted = subprocess.run(
        [buf, "format", "--diff", "examples/inspect/proto"], cwd=tmp_path, capture_output=True, text=True
    )
    assert unformatted.stdout == ""


def test_every_method_is_standard_or_implemented(schema: Schema) -> None:
    app = load(APP, schema)
    assert schema.warnings == ()
    for service in schema.services:
        for method in service.methods:
            if not service.own:
                assert method.kind.standard or method.full_name in app.methods, method.why_custom
    assert {m.name for m in schema.methods() if m.kind is Kind.CUSTOM} == {
        "SubmitInspection",
        "ApproveInspection",
        "RejectInspection",
    }


def test_every_field_and_method_is_explained(schema: Schema) -> None:
    assert all(r.comment for r in schema.resources.values())
    assert all(m.comment for m in schema.methods())


# The seed.


def read_app_seed(schema: Schema, texts: dict[str, str]) -> Seed:
    return read_seed(texts, Decisions(schema, lambda: 1_700_000_000_000_000), References(schema))


@pytest.fixture(scope="module")
def seed(schema: Schema) -> Seed:
    return read_app_seed(schema, {f.name: f.read_text() for f in SEED.glob("*.jsonl")})


def of_type(seed: Seed, plural: str) -> list[Any]:
    return [r.message for r in seed.resources if r.resource.plural == plural]


def test_the_seed_is_as_large_as_it_should_be(seed: Seed) -> None:
    assert {p: len(of_type(seed, p)) for p in ("sites", "inspections", "findings")} == {
        "sites": 3,
        "inspections": 12,
        "findings": 60,
    }
    assert len(seed.accounts) >= 3


def test_every_parent_is_in_the_seed_and_comes_first(seed: Seed) -> None:
    seen = {""}
    for one in seed.resources:
        assert one.pattern.parent_of(one.name) in seen, one.where
        seen.add(one.name)


def test_every_photo_is_a_small_jpeg_and_used(seed: Seed) -> None:
    for file in seed.files:
        data = (SEED / file.path).read_bytes()
        assert len(data) <= PHOTO_BYTES_MAX, file.path
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.format == "JPEG"
    assert {f.name for f in seed.files} == {p for f in of_type(seed, "findings") for p in f.photos}
    assert {f.path for f in seed.files} == {f"photos/{p.name}" for p in (SEED / "photos").iterdir()}


def test_the_seed_keeps_the_rules_of_the_methods(seed: Seed) -> None:
    states = {"DRAFT": 0, "SUBMITTED": 0, "APPROVED": 0, "REJECTED": 0}
    for inspection in of_type(seed, "inspections"):
        state = inspection.State.Name(inspection.state)
        states[state] += 1
        findings = [f for f in of_type(seed, "findings") if f.name.startswith(f"{inspection.name}/")]
        assert findings
        assert inspection.HasField("submit_time") == (state != "DRAFT")
        assert bool(inspection.reviewer) == inspection.HasField("review_time") == (state in ("APPROVED", "REJECTED"))
        assert bool(inspection.reject_reason) == (state == "REJECTED")
        if state == "APPROVED":
            assert not [f for f in findings if f.severity == f.CRITICAL and not f.resolved]
    assert all(states.values())


def test_inspectors_and_managers_are_members(seed: Seed) -> None:
    parts = {(m.name.split("/")[1], m.user, m.Role.Name(m.role)) for m in of_type(seed, "members")}
    for inspection in of_type(seed, "inspections"):
        site = inspection.name.split("/")[1]
        assert (site, inspection.inspector, "INSPECTOR") in parts
        assert any(s == site and role == "MANAGER" for s, _, role in parts)
        if inspection.reviewer:
            assert (site, inspection.reviewer, "MANAGER") in parts


ACCOUNT = '{"name": "users/a", "email": "a@example.com", "password": "long enough"}'
SITE = '{"name": "sites/s", "displayName": "S"}'

REFUSED = [
    ("sites.jsonl", "{", "sites.jsonl:1: is not JSON"),
    ("sites.jsonl", f"{SITE}\n\n[]", "sites.jsonl:3: is not a JSON object"),
    ("sites.jsonl", '{"displayName": "S"}', "sites.jsonl:1: name: is required"),
    ("sites.jsonl", '{"name": "site/s"}', "sites.jsonl:1: name: 'site/s' fits no pattern"),
    ("sites.jsonl", '{"name": "sites/S!", "displayName": "S"}', "sites.jsonl:1: name: must be 1 to "),
    ("sites.jsonl", '{"name": "sites/s"}', "sites.jsonl:1: display_name: is required"),
    ("sites.jsonl", '{"name": "sites/s", "displayName": "S", "colour": "red"}', "sites.jsonl:1: "),
    (
        "sites.jsonl",
        '{"name": "sites/s", "displayName": "S", "location": {"latitude": 91}}',
        "sites.jsonl:1: location: ",
    ),
    ("sites.jsonl", '{"name": "sites/s", "displayName": 7}', "sites.jsonl:1: "),
    ("sites.jsonl", f"{SITE}\n{SITE}", "sites.jsonl:2: name: sites/s is at sites.jsonl:1 already"),
    (
        "members.jsonl",
        '{"name": "sites/s/members/m", "user": "users/x", "role": "VIEWER"}',
        "members.jsonl:1: user: users/x is not in accounts.jsonl",
    ),
    (
        "members.jsonl",
        '{"name": "sites/s/members/{x}", "user": "users/a", "role": "VIEWER"}',
        "members.jsonl:1: name: users/x is not in accounts.jsonl",
    ),
    (
        "members.jsonl",
        '{"name": "sites/s/members/{a}", "user": "users/a"}',
        "members.jsonl:1: role: is required",
    ),
    (
        "findings.jsonl",
        '{"name": "sites/s/inspections/i/findings/f", "title": "F", "severity": "LOW", "photos": ["files/x"]}',
        "findings.jsonl:1: photos[0]: files/x is not in files.jsonl",
    ),
    (
        "findings.jsonl",
        '{"name": "sites/s/inspections/i/findings/f", "title": "F", "severity": "TERRIBLE"}',
        "findings.jsonl:1: Failed to parse severity field",
    ),
    ("accounts.jsonl", '{"name": "users/b", "email": "b@example.com"}', "accounts.jsonl:1: password: is required"),
    (
        "accounts.jsonl",
        '{"name": "users/b/c", "email": "b", "password": "p"}',
        "accounts.jsonl:1: name: must look like",
    ),
    ("files.jsonl", '{"name": "files/f", "path": "../x.jpg", "owner": "users/a"}', "files.jsonl:1: path: leads out"),
    ("files.jsonl", '{"name": "files/f", "path": "x.jpg", "owner": "users/z"}', "files.jsonl:1: owner: users/z is not"),
    (
        "files.jsonl",
        '{"name": "files/f", "path": "x", "owner": "users/a"}',
        "files.jsonl:1: contentType: cannot be told",
    ),
]


@pytest.mark.parametrize(("file", "text", "told"), REFUSED, ids=[told for _, _, told in REFUSED])
def test_a_bad_seed_is_refused_with_file_line_and_field(schema: Schema, file: str, text: str, told: str) -> None:
    texts = {"accounts.jsonl": ACCOUNT} | {file: text}
    with pytest.raises(SeedError) as refused:
        read_app_seed(schema, texts)
    assert any(line.startswith(told) for line in str(refused.value).splitlines()), refused.value


def test_all_faults_of_a_seed_are_told_at_once(schema: Schema) -> None:
    with pytest.raises(SeedError) as refused:
        read_app_seed(schema, {"sites.jsonl": '{"name": "sites/a"}\n{"name": "sites/b"}'})
    assert len(str(refused.value).splitlines()) == 2


# The report.


@dataclass(frozen=True)
class Rendering:
    """Makes reports of messages given as ProtoJSON."""

    schema: Schema

    def message(self, name: str, fields: dict[str, Any]) -> Any:
        return json_format.ParseDict(fields, self.schema.message_class(f"inspect.v1.{name}")())

    def pdf(
        self,
        findings: Sequence[dict[str, Any]] = (),
        photos: dict[str, Any] | None = None,
        site: dict[str, Any] | None = None,
        **inspection: Any,
    ) -> bytes:
        name = "sites/s/inspections/i"
        told = {"title": "Walk", "inspector": "users/a", "submitTime": "2026-11-05T15:42:00Z", **inspection}
        report = importlib.import_module("transom_app.report").Report(
            site=self.message("Site", {"name": "sites/s", "displayName": "Works", **(site or {})}),
            inspection=self.message("Inspection", {"name": name, **told}),
            findings=[
                self.message("Finding", {"name": f"{name}/findings/f{i:03}", "title": "Crack", "severity": "LOW", **f})
                for i, f in enumerate(findings)
            ],
            inspector="ines@example.com",
            managers=["max@example.com"],
            photos=photos or {},
        )
        return bytes(report.pdf())


@pytest.fixture(scope="module")
def rendering(schema: Schema) -> Rendering:
    return Rendering(schema)


@pytest.fixture(scope="module")
def reduced(schema: Schema) -> Callable[[bytes], Any]:
    function: Callable[[bytes], Any] = importlib.import_module("transom_app.photos").reduced
    return function


def text_of(pdf: bytes) -> str:
    return " ".join(" ".join(page.extract_text() for page in PdfReader(io.BytesIO(pdf)).pages).split())


def picture(width: int = 640, height: int = 480, format: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(out, format, **options)
    return out.getvalue()


def test_a_report_tells_what_was_found(rendering: Rendering) -> None:
    finding = {
        "title": "Open crack",
        "severity": "CRITICAL",
        "description": "Growing since April.",
        "location": {"latitude": 53.5, "longitude": 9.25},
        "floor": -1,
        "measurement": {"value": 1.8, "unit": "mm", "limit": 0.3},
        "dueTime": "2026-11-13T16:00:00Z",
        "expectedEffort": "5400s",
        "labels": {"trade": "concrete"},
    }
    pdf = rendering.pdf(
        [finding, {"title": "Lamp dark", "statement": "It was never lit.", "resolved": True}],
        site={"timeZone": "Europe/Berlin", "address": {"regionCode": "DE", "locality": "Hamburg"}},
        title="Principal inspection",
        summary="Safe for traffic.",
        airTemperature=0,
        checks=[{"text": "Bearings free", "outcome": "PASSED"}],
    )
    text = text_of(pdf)
    for told in (
        *("Principal inspection", "Works", "ines@example.com", "max@example.com", "Hamburg, DE", "Safe for traffic."),
        *("05 November 2026, 16:42 CET", "0 °C", "Bearings free", "passed"),
        *("1. Open crack", "Critical", "Growing since April.", "floor -1, 53.50000, 9.25000"),
        *("Measured: 1.8 mm (limit 0.3 mm)", "mend by 13 Nov 2026", "takes about 1 h 30 min", "trade: concrete"),
        *("2. Lamp dark", "“It was never lit.”", "resolved", "sites/s/inspections/i", "1 / 1"),
    ):
        assert told in text, told


def test_the_worst_finding_comes_first(rendering: Rendering) -> None:
    text = text_of(rendering.pdf([{"title": s, "severity": s} for s in ("LOW", "CRITICAL", "MEDIUM", "HIGH")]))
    places = [text.index(told) for told in ("1. CRITICAL", "2. HIGH", "3. MEDIUM", "4. LOW")]
    assert places == sorted(places)


def test_the_same_inspection_gives_the_same_bytes(rendering: Rendering) -> None:
    assert rendering.pdf([{"title": "Crack"}]) == rendering.pdf([{"title": "Crack"}])


def test_photos_are_embedded(rendering: Rendering, reduced: Callable[[bytes], Any]) -> None:
    photos = {f"files/p{i}": reduced(picture(600 + i, 400)) for i in range(3)}
    pages = PdfReader(io.BytesIO(rendering.pdf([{"photos": list(photos)}], photos))).pages
    embedded = [image.image.size for page in pages for image in page.images if image.image]
    assert sorted(embedded) == [(600, 400), (601, 400), (602, 400)]


def test_a_photo_that_cannot_be_read_is_told(rendering: Rendering) -> None:
    text = text_of(rendering.pdf([{"photos": ["files/broken", "files/left-out"]}], {"files/broken": None}))
    assert "files/broken could not be read" in text and "files/left-out is in the app" in text


def test_a_signature_is_printed_and_a_broken_one_does_no_harm(rendering: Rendering) -> None:
    import base64

    good, broken = picture(200, 60, "PNG"), b"\x89PNG\r\n\x1a\nnothing more"
    signed = rendering.pdf(signature=base64.b64encode(good).decode())
    assert [i.image.size for i in PdfReader(io.BytesIO(signed)).pages[0].images if i.image] == [(200, 60)]
    assert rendering.pdf(signature=base64.b64encode(broken).decode()).startswith(b"%PDF")


def test_long_reports_get_pages_and_numbers(rendering: Rendering) -> None:
    findings = [{"title": f"Finding {i}", "description": "Something was seen here. " * 40} for i in range(40)]
    pdf = rendering.pdf(findings)
    pages = PdfReader(io.BytesIO(pdf)).pages
    assert len(pages) > 8
    for number, page in enumerate(pages, 1):
        assert f"{number} / {len(pages)}" in page.extract_text()


SCRIPTS = {
    "Polish": "Łódź źdźbło",
    "Greek": "Ελληνικά",
    "Cyrillic": "Кириллица",
    "Arabic": "مرحبا بالعالم",
    "Hebrew": "שלום",
    "Hindi": "नमस्ते क्षत्रिय",
    "Thai": "สวัสดี",
    "Chinese": "检查 漢字",
    "emoji": "🚧⚠️🔥👷🏽‍♀️🇦🇹",
    "symbols": "→ ± ² Ω ∅ ✓ ½ ℃",
    "controls": "a\u0000b\u0007c\td\u2028e\u202ef\ufeffg",
    "combining": "Z\u0301\u0323a\u0308\u0300" * 10,
    "unassigned": "\U000e01ef\uffff\ue000",
    "a word without end": "W" * 190,
    "an emoji without end": "🚧" * 190,
    "dots without end": "." * 190,
    "euros without end": "€" * 190,
    "Arabic with dots without end": "مرحبا" + "-" * 180,
    "white space": " \n\n \t ",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_any_text_can_be_set(rendering: Rendering, script: str) -> None:
    text = SCRIPTS[script]
    pdf = rendering.pdf(
        [{"title": text, "description": text * 20, "statement": text, "labels": {"k": text[:100]}, "photos": [text]}],
        site={"displayName": text[:120], "contact": {"displayName": text[:100]}},
        title=text,
        summary=text * 20,
        checks=[{"text": text}],
    )
    assert len(PdfReader(io.BytesIO(pdf)).pages) >= 1


def test_text_can_be_found_in_the_document(rendering: Rendering) -> None:
    assert "Żółć Ελληνικά Кириллица" in text_of(rendering.pdf(summary="Żółć Ελληνικά Кириллица"))


# Photos.


def test_a_photo_is_scaled_down(reduced: Callable[[bytes], Any]) -> None:
    photo = reduced(picture(4000, 3000))
    assert (photo.width, photo.height) == (1000, 750)
    with Image.open(io.BytesIO(photo.jpeg)) as opened:
        assert opened.format == "JPEG" and opened.size == (1000, 750)


def test_a_photo_is_turned_upright(reduced: Callable[[bytes], Any]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the picture is at the right side of what is stored
    photo = reduced(picture(640, 480, exif=exif))
    assert (photo.width, photo.height) == (480, 640)
    seeded = reduced((SEED / "photos" / "fire-extinguisher.jpg").read_bytes())
    assert seeded.height > seeded.width


def test_a_transparent_picture_gets_a_white_ground(reduced: Callable[[bytes], Any]) -> None:
    out = io.BytesIO()
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(out, "PNG")
    with Image.open(io.BytesIO(reduced(out.getvalue()).jpeg)) as opened:
        assert opened.getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize(
    "data",
    [b"", b"not a picture", picture()[:600], b"%PDF-1.4", picture(20_000, 20_000, "PNG")],
    ids=["nothing", "text", "cut off", "another format", "far too many pixels"],
)
def test_what_is_no_readable_picture_is_none(reduced: Callable[[bytes], Any], data: bytes) -> None:
    assert reduced(data) is None


# The methods and the seed, in the running system.


class Browser:
    """Speaks JSON to the edge, as somebody."""

    def __init__(self, edge: str, email: str, password: str = "") -> None:
        self._edge = edge
        self._headers: dict[str, str] = {}
        given = {"email": email, "password": password or f"inspect-{email[:-12]}"}
        signed_in = self("POST", "/transom/v1/accounts:signIn", given)
        self._headers = {"authorization": f"Bearer {signed_in['token']}"}

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        """The answer; of a refusal, its status and the reason, e.g. `FAILED_PRECONDITION WRONG_STATE`."""
        request = urllib.request.Request(
            self._edge + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"} | self._headers,
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as refused:
            told = json.load(refused)["error"]
            reason = next(d["reason"] for d in told["details"] if d["@type"].endswith("ErrorInfo"))
            return f"{told['status']} {reason}"


# From each state, what each move answers.
MOVES = [
    ("DRAFT", "submit", {}, "SUBMITTED"),
    ("DRAFT", "approve", {}, "FAILED_PRECONDITION WRONG_STATE"),
    ("DRAFT", "reject", {"reason": "No."}, "FAILED_PRECONDITION WRONG_STATE"),
    ("DRAFT", "submit", {"etag": "0"}, "ABORTED STALE_ETAG"),
    ("SUBMITTED", "submit", {}, "FAILED_PRECONDITION WRONG_STATE"),
    ("SUBMITTED", "approve", {}, "APPROVED"),
    ("SUBMITTED", "approve", {"etag": "0"}, "ABORTED STALE_ETAG"),
    ("SUBMITTED", "reject", {"reason": "No."}, "REJECTED"),
    ("SUBMITTED", "reject", {}, "INVALID_ARGUMENT INVALID_REQUEST"),
    ("APPROVED", "submit", {}, "FAILED_PRECONDITION WRONG_STATE"),
    ("APPROVED", "approve", {}, "FAILED_PRECONDITION WRONG_STATE"),
    ("APPROVED", "reject", {"reason": "No."}, "FAILED_PRECONDITION WRONG_STATE"),
    ("REJECTED", "submit", {}, "SUBMITTED"),
    ("REJECTED", "approve", {}, "FAILED_PRECONDITION WRONG_STATE"),
    ("REJECTED", "reject", {"reason": "No."}, "FAILED_PRECONDITION WRONG_STATE"),
]
WAY: dict[str, list[tuple[str, dict[str, str]]]] = {
    "DRAFT": [],
    "SUBMITTED": [("submit", {})],
    "APPROVED": [("submit", {}), ("approve", {})],
    "REJECTED": [("submit", {}), ("reject", {"reason": "No."})],
}


@pytest.fixture(scope="module")
def max_(stack: Stack) -> Browser:
    return Browser(stack.edge, "max@example.com")


@pytest.fixture(scope="module")
def site(max_: Browser) -> str:
    return str(max_("POST", "/v1/sites", {"displayName": "A site of the tests"})["name"])


def begun(max_: Browser, site: str, **fields: Any) -> str:
    fields = {"title": "A walk", "inspector": "users/somebody", "summary": "Nothing was found.", **fields}
    return str(max_("POST", f"/v1/{site}/inspections", fields)["name"])


@pytest.mark.parametrize(("state", "move", "body", "comes"), MOVES, ids=[f"{s} {m} {c}" for s, m, _, c in MOVES])
def test_an_inspection_moves(max_: Browser, site: str, state: str, move: str, body: Any, comes: str) -> None:
    name = begun(max_, site)
    for step, with_ in WAY[state]:
        max_("POST", f"/v1/{name}:{step}", with_)
    before = max_("GET", f"/v1/{name}")
    assert before["state"] == state
    answer = max_("POST", f"/v1/{name}:{move}", body)
    after = max_("GET", f"/v1/{name}")
    if isinstance(answer, str):
        assert answer == comes and after["state"] == state
        return
    assert answer["state"] == after["state"] == comes
    assert bool(after.get("reviewTime")) == bool(after["reviewer"]) == (comes in ("APPROVED", "REJECTED"))
    assert after["rejectReason"] == ("No." if comes == "REJECTED" else "")


def test_what_found_nothing_needs_a_summary(max_: Browser, site: str) -> None:
    name = begun(max_, site, summary="")
    assert max_("POST", f"/v1/{name}:submit", {}) == "FAILED_PRECONDITION NO_SUMMARY"
    max_("POST", f"/v1/{name}/findings", {"title": "Crack", "severity": "LOW"})
    assert max_("POST", f"/v1/{name}:submit", {})["state"] == "SUBMITTED"


def test_nothing_is_approved_while_people_are_in_danger(max_: Browser, site: str) -> None:
    name = begun(max_, site)
    finding = max_("POST", f"/v1/{name}/findings", {"title": "Crack", "severity": "CRITICAL"})["name"]
    max_("POST", f"/v1/{name}:submit", {})
    assert max_("POST", f"/v1/{name}:approve", {}) == "FAILED_PRECONDITION CRITICAL_OPEN"
    max_("PATCH", f"/v1/{finding}?updateMask=resolved", {"resolved": True})
    assert max_("POST", f"/v1/{name}:approve", {})["state"] == "APPROVED"


def test_the_state_cannot_be_written(max_: Browser, site: str) -> None:
    name = begun(max_, site, state="APPROVED", report="files/x")
    max_("PATCH", f"/v1/{name}?updateMask=state,title", {"state": "APPROVED", "title": "Another"})
    after = max_("GET", f"/v1/{name}")
    assert (after["state"], after["report"], after["title"]) == ("DRAFT", "", "Another")


def test_what_a_team_made_outlives_the_account_that_made_it(stack: Stack, max_: Browser) -> None:
    founder = people.signed_up(stack)
    founding = Browser(stack.edge, founder.email, people.PASSWORD)
    site = founding("POST", "/v1/sites", {"displayName": "Founded"})["name"]
    max_id = max_("GET", "/transom/v1/accounts/me")["name"].removeprefix("users/")
    founding("POST", f"/v1/{site}/members?memberId={max_id}", {"user": f"users/{max_id}", "role": "MANAGER"})
    inspection = begun(founding, site)
    founding("POST", f"/v1/{inspection}/findings", {"title": "Crack", "severity": "LOW"})

    founding("POST", "/transom/v1/accounts:delete", {"password": people.PASSWORD})
    deadline = time.monotonic() + 60
    with psycopg.connect(stack.env["TRANSOM_POSTGRES"], autocommit=True) as database:
        looked = "select purge_time is not null from transom.users where id = %s"
        while database.execute(looked, [founder.id]).fetchone() == (False,):
            assert time.monotonic() < deadline, "the account's data are not looked through"
            time.sleep(0.1)
    assert founding("GET", f"/v1/{site}") == "UNAUTHENTICATED TOKEN_INVALID"
    assert max_("GET", f"/v1/{inspection}")["inspector"] == "users/somebody"
    assert len(max_("GET", f"/v1/{inspection}/findings")["findings"]) == 1
    assert len(max_("GET", f"/v1/{site}/members")["members"]) == 2
    assert max_("DELETE", f"/v1/{site}/members/{founder.id}") == {}


def test_the_seed_is_served_and_loading_it_again_changes_nothing(stack: Stack, max_: Browser) -> None:
    paths = ["/v1/sites", *(f"/v1/sites/{s}/members" for s in ("harbour-bridge", "mill-waterworks"))]
    before = [max_("GET", path) for path in paths]
    env = {**os.environ, **stack.env}
    again = subprocess.run([sys.executable, "-m", "server.cli", "seed"], env=env, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "new: 0 accounts, 0 sites, 0 inspections, 0 members, 0 findings" in again.stdout
    assert [max_("GET", path) for path in paths] == before
    members = before[1]["members"]
    assert len(members) == 3 and all(not m["user"].endswith("/max") for m in members), (
        "references lead to real accounts"
    )
    assert all(m["name"] == f"sites/harbour-bridge/members/{m['user'].removeprefix('users/')}" for m in members)


def test_an_app_without_a_seed_is_told(stack: Stack, tmp_path: Path) -> None:
    env = {**os.environ, **stack.env, "TRANSOM_APP": str(tmp_path)}
    run = subprocess.run([sys.executable, "-m", "server.cli", "seed"], env=env, capture_output=True, text=True)
    assert run.returncode == 1 and "there is no seed" in run.stderr


def test_managers_are_reminded_of_what_is_overdue_by_a_schedule_that_operators_run(stack: Stack) -> None:
    scope = ["--scope", "transom.schedules.v1.Schedule:get,list,run"]
    key = CliRunner().invoke(key_command, ["create", "--title", "t", "--role", "admin", *scope], env=stack.env)
    operator = {"authorization": f"Bearer {key.stdout.strip()}"}
    url = f"{stack.edge}/transom/v1/schedules"
    [schedule] = httpx.get(url, headers=operator).json()["schedules"]
    assert (schedule["cron"], schedule["timeZone"], schedule["state"]) == ("0 7 * * MON-FRI", "Europe/Berlin", "ACTIVE")
    assert len(schedule["nextTimes"]) == 5 and schedule["name"] == "schedules/remind_overdue"
    for headers, status in (({}, 401), ({"authorization": f"Bearer {people.signed_up(stack).token}"}, 403)):
        assert httpx.get(url, headers=headers).status_code == status
    assert httpx.post(f"{url}/remind_overdue:pause", headers=operator, json={}).status_code == 403
    ran = httpx.post(f"{url}/remind_overdue:run", headers=operator, json={})
    assert ran.status_code == 200 and ran.json()["run"].startswith("schedules/remind_overdue/ticks/")
    task = ran.json()["task"]
    assert httpx.get(f"{url}/remind_overdue", headers=operator).json()["lastTask"] == task
    mail = Catcher(stack.mailbox).wait(to="max@example.com", subject="overdue at", within=30)
    assert mail.text.startswith("Dear Max") and "by now this should be mended" in mail.text
    assert mail.html.count("<tr>") == mail.text.count("\n- ") > 0
    # The run is a task as any: who may see tasks sees how it went.
    assert httpx.get(f"{stack.edge}/transom/v1/{task}", headers=operator).status_code == 403
    found = CliRunner().invoke(tasks_command, ["show", task.removeprefix("tasks/")], env=stack.env)
    assert "schedule.remind_overdue" in found.output and "succeeded" in found.output, found.output
