"""Files that resources refer to, over the whole system: who may read them, what refers to them, what becomes of both."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
from people import signed_up
from PIL import Image

from deploy.native.stack import Stack


@dataclass
class Person:
    """Somebody over REST."""

    http: httpx.Client
    user: str

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = self.http.request(method, path, json=body)
        return answer.status_code, answer.json()

    def made(self, path: str, body: Any) -> Any:
        status, answer = self.ask("POST", path, body)
        assert status == 200, answer
        return answer

    def reason(self, method: str, path: str, body: Any = None) -> str:
        status, answer = self.ask(method, path, body)
        return next((d["reason"] for d in answer["error"]["details"] if "reason" in d), "") if status != 200 else "OK"

    def uploaded(self, data: bytes, content_type: str, **more: Any) -> str:
        asked = {"contentType": content_type, "sizeBytes": str(len(data)), **more}
        upload = self.made("/transom/v1/files:createUpload", asked)
        httpx.put(upload["uploadUrl"], content=data, headers=upload["uploadHeaders"]).raise_for_status()
        name = str(upload["file"]["name"])
        self.made(f"/transom/v1/{name}:complete", {})
        return name


@pytest.fixture(scope="module")
def trio(stack: Stack) -> Iterator[list[Person]]:
    found = []
    for _ in range(3):
        one = signed_up(stack)
        http = httpx.Client(base_url=stack.edge, timeout=20, headers={"authorization": f"Bearer {one.token}"})
        found.append(Person(http, one.name))
    yield found
    for person in found:
        person.http.close()


def picture(color: str = "red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), color).save(out, "JPEG")
    return out.getvalue()


def test_a_file_is_read_by_who_may_see_what_refers_to_it(stack: Stack, trio: list[Person]) -> None:
    ann, bob, eve = trio
    site = ann.made("/v1/sites", {"displayName": "Quay", "timeZone": "Europe/Berlin"})["name"]
    ann.made(f"/v1/{site}/members?memberId={bob.user[6:]}", {"user": bob.user, "role": "VIEWER"})
    inspection = ann.made(
        f"/v1/{site}/inspections",
        {"title": "Fenders", "inspector": ann.user, "scheduledTime": "2026-11-23T08:00:00Z"},
    )["name"]
    photo, other = ann.uploaded(picture(), "image/jpeg"), eve.uploaded(picture("blue"), "image/jpeg")
    text = ann.uploaded(b"hello", "text/plain")
    look, findings = f"/transom/v1/{photo}", f"/v1/{inspection}/findings"
    for sentence, person, expected in [
        ("its owner", ann, "OK"), ("nobody else, while nothing refers to it", bob, "RESOURCE_NOT_FOUND"),
    ]:  # fmt: skip
        assert (person.ask("GET", look)[0] == 200) == (expected == "OK"), sentence

    base = {"title": "Rubber torn", "severity": "HIGH"}
    for sentence, photos, reason in [
        ("somebody else's, which its writer could read then", [other], "REFERENCE_NOT_FOUND"),
        ("one that is not there", ["files/none"], "REFERENCE_NOT_FOUND"),
        ("one of a type that is not taken", [text], "FILE_TYPE_NOT_TAKEN"),
    ]:
        assert ann.reason("POST", findings, base | {"photos": photos}) == reason, sentence
    pending = ann.made("/transom/v1/files:createUpload", {"contentType": "image/jpeg", "sizeBytes": "9"})["file"][
        "name"
    ]
    assert ann.reason("POST", findings, base | {"photos": [pending]}) == "FILE_NOT_UPLOADED"

    finding = ann.made(findings, base | {"photos": [photo]})["name"]
    for sentence, person, status in [("a viewer of the site", bob, 200), ("nobody else", eve, 404)]:
        assert person.ask("GET", look)[0] == status, sentence
        assert person.ask("GET", f"{look}:downloadUrl")[0] in (status, 400), sentence  # it may be processed still
    assert ann.reason("DELETE", look) == "REFERRED_TO"
    assert bob.ask("DELETE", look)[0] == 404  # to read is not to delete
    with bob.http.stream("GET", f"{look}:watch", headers={"accept": "application/x-ndjson"}, timeout=30) as answer:
        told = (json.loads(line) for line in answer.iter_lines() if line)
        assert (next(told)["change"], next(told)["synced"]) == ("CURRENT", True)
        assert ann.ask("DELETE", f"/v1/{site}/members/{bob.user[6:]}")[0] == 200
        assert bob.ask("GET", look)[0] == 404, "who may not see the finding any more does not see its photo"
        # Nor do they hear of it: each event asks anew, and so does the clock.
        with psycopg.connect(stack.env["TRANSOM_POSTGRES"], autocommit=True) as database:
            database.execute(
                "insert into transom.events (resource_type, verb, name, payload, caller, owner)"
                " values ('transom.files.v1.File', 'ready', %s, '', 'system', %s)",
                [photo, ann.user],
            )
        removed = next(one for one in told if one["change"] not in ("CHANGE_UNSPECIFIED", "UPDATED"))
        assert removed["change"] == "REMOVED" and not removed.get("file")

    assert ann.ask("DELETE", f"/v1/{finding}")[0] == 200
    assert ann.reason("DELETE", look) == "OK"

    # A reference that is to be cleared does not keep a file.
    report = ann.uploaded(b"hello", "text/plain")
    with psycopg.connect(stack.env["TRANSOM_POSTGRES"], autocommit=True) as database:
        [table] = database.execute(
            "select table_schema || '.' || table_name from information_schema.columns"
            " where column_name = 'report' and table_name not like 'pg%' limit 1"
        ).fetchone() or ["?"]
        database.execute(f"update {table} set report = %s where name = %s", [report, inspection])  # type: ignore[arg-type]
    assert ann.reason("DELETE", f"/transom/v1/{report}") == "OK"
    assert not ann.ask("GET", f"/v1/{inspection}")[1].get("report")


def test_a_public_file_is_read_by_everybody_at_one_address(stack: Stack, trio: list[Person]) -> None:
    ann, bob, _ = trio
    data = b"opening hours"
    public = ann.uploaded(data, "text/plain", filename='hours & "Tage" ä.txt', visibility="PUBLIC")
    private = ann.uploaded(data, "text/plain", filename="diary.txt")
    path = bob.ask("GET", f"/transom/v1/{public}")[1]["publicPath"]
    assert path == f"/{public}/hours%20%26%20%22Tage%22%20%C3%A4.txt"
    with httpx.Client(base_url=stack.edge) as nobody:
        answer = nobody.get(path)
        assert (answer.status_code, answer.content) == (302, b"")
        assert answer.headers["cache-control"] == "public, max-age=300"
        read = nobody.get(answer.headers["location"])
        assert (read.status_code, read.content) == (200, data)
        assert read.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert read.headers["content-disposition"].endswith("filename*=UTF-8''hours%20%26%20%22Tage%22%20%C3%A4.txt")
        # A moment later it is the same URL: who has the bytes need not read them again.
        again = nobody.get(path).headers["location"]
        assert again == answer.headers["location"]
        assert nobody.get(again, headers={"if-none-match": read.headers["etag"]}).status_code == 304
        assert nobody.get(again, headers={"range": "bytes=2-4"}).content == data[2:5]
        head = nobody.head(path, follow_redirects=True)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(data)))
        for sentence, asked in [
            ("one that is private", f"/{private}/diary.txt"),
            ("one that is not there", "/files/none/x.txt"),
            ("a form of it that there is not", f"/{public}/thumbnail/x.txt"),
        ]:
            answer = nobody.get(asked)
            assert (answer.status_code, "location" in answer.headers) == (404, False), sentence
