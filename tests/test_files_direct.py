"""Small files through the edge, over REST and gRPC, and processed by the workers of the running system."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, cast

import grpc
import httpx
import people
import pytest
from click.testing import CliRunner
from google.api.httpbody_pb2 import HttpBody
from PIL import Image
from transom.files.v1 import direct_pb2 as pb
from transom.files.v1 import direct_pb2_grpc, files_pb2

from deploy.native.stack import Stack
from server.caller import Caller, Kind
from server.cli.files import command
from server.errors import Exhausted
from server.services.current import CURRENT, Current
from server.services.files_direct import DirectFilesService

SCRIPT = b"<script>alert(1)</script>"


def photo(size: tuple[int, int] = (60, 40)) -> bytes:
    out = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(out, "JPEG", quality=95)
    return out.getvalue()


PHOTO = photo()
NOTHING = "CHANGE_UNSPECIFIED"


@pytest.fixture(scope="module")
def ann(stack: Stack) -> Iterator[httpx.Client]:
    """Somebody who is signed in, over REST."""
    token = people.signed_up(stack).token
    with httpx.Client(base_url=f"{stack.edge}/transom/v1/", headers={"authorization": f"Bearer {token}"}) as client:
        yield client


def sent(client: httpx.Client, data: bytes, content_type: str = "image/jpeg", **query: str) -> httpx.Response:
    return client.post(
        f"{client.base_url}files:upload", content=data, headers={"content-type": content_type}, params=query
    )


def reason(answer: httpx.Response) -> tuple[int, str]:
    details = answer.json()["error"]["details"]
    return answer.status_code, next(d["reason"] for d in details if d["@type"].endswith("ErrorInfo"))


def settled(client: httpx.Client, name: str) -> dict[str, Any]:
    """The file, once the workers have looked at it."""
    deadline = time.monotonic() + 30
    while (file := client.get(name).json())["state"] == "UPLOADED":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return file


def test_a_photo_is_sent_through_the_edge_processed_and_read_there(ann: httpx.Client) -> None:
    made = sent(ann, PHOTO, filename="Füße.jpg")
    assert made.status_code == 200, made.text
    file = made.json()
    assert (file["state"], file["filename"], file["sizeBytes"]) == ("UPLOADED", "Füße.jpg", str(len(PHOTO)))
    file = settled(ann, file["name"])
    assert file["state"] == "READY" and file["metadata"]["width"] == 60
    assert "thumbnail" in [variant["name"] for variant in file["variants"]]
    read = ann.get(f"{file['name']}:download")
    assert read.content == PHOTO and read.headers["content-type"] == "image/jpeg"
    assert "inline" in read.headers["content-disposition"] and read.headers["x-content-type-options"] == "nosniff"
    assert (
        read.headers["etag"] == f'"{hashlib.sha256(PHOTO).hexdigest()}"'
        and "immutable" in read.headers["cache-control"]
    )
    small = ann.get(f"{file['name']}:download", params={"variant": "thumbnail"})
    assert small.headers["content-type"] == "image/webp" and small.content[:4] == b"RIFF"
    assert small.headers["content-disposition"].endswith("-thumbnail.webp")
    assert reason(ann.get(f"{file['name']}:download", params={"variant": "huge"})) == (404, "VARIANT_MISSING")


def test_what_is_no_picture_is_refused_by_the_workers(ann: httpx.Client) -> None:
    file = settled(ann, sent(ann, PHOTO[: len(PHOTO) // 2]).json()["name"])
    assert file["state"] == "REJECTED" and file["rejection"]["reason"] == "IMAGE_UNREADABLE"
    assert reason(ann.get(f"{file['name']}:download")) == (400, "FILE_REJECTED")


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b'{"a": 1, "a": 2, unfinished', "application/x-notes"),
        (b'"', "text/plain"),
        (b"\xff\x00" * 700_000, "application/octet-stream"),
        (photo((1500, 1500)), "image/jpeg"),
    ],
)
def test_bytes_arrive_as_they_were_sent(ann: httpx.Client, data: bytes, content_type: str) -> None:
    """JSON that is none, what needs several pieces, what is more than a message may be."""
    made = sent(ann, data, content_type)
    assert made.status_code == 200, made.text
    assert ann.get(f"{made.json()['name']}:download").content == data


def test_what_could_run_is_never_shown_at_the_apps_own_origin(ann: httpx.Client) -> None:
    name = sent(ann, SCRIPT, "text/html", filename="page.html").json()["name"]
    read = ann.get(f"{name}:download")
    assert read.content == SCRIPT and read.headers["content-type"] == "application/octet-stream"
    assert read.headers["content-disposition"].startswith("attachment")
    assert read.headers["content-security-policy"] == "sandbox"


def test_what_is_refused_over_rest(ann: httpx.Client, stack: Stack) -> None:
    assert reason(sent(ann, PHOTO, "image/png")) == (400, "CONTENT_TYPE_MISMATCH")
    assert sent(ann, b"", "text/plain").status_code == 400
    assert sent(ann, PHOTO, "image/jpeg", filename="../etc").status_code == 400
    assert sent(ann, bytes((16 << 20) + 1), "application/octet-stream").status_code in (400, 413)
    with httpx.Client(base_url=f"{stack.edge}/transom/v1/") as nobody:
        assert sent(nobody, PHOTO).status_code == 401
    with httpx.Client(
        base_url=f"{stack.edge}/transom/v1/", headers={"authorization": f"Bearer {people.signed_up(stack).token}"}
    ) as bob:
        name = sent(ann, b"mine", "text/plain").json()["name"]
        assert bob.get(f"{name}:download").status_code == 404


def pieces(data: bytes, size: int = 100_000, **first: Any) -> Iterator[pb.UploadFileRequest]:
    for at in range(0, len(data), size):
        body = HttpBody(content_type="text/plain", data=data[at : at + size])
        yield pb.UploadFileRequest(content=body, **first) if at == 0 else pb.UploadFileRequest(content=body)


def test_over_grpc_in_pieces_with_a_checksum(ann: httpx.Client, stack: Stack) -> None:
    call = (("authorization", ann.headers["authorization"]),)
    data = b"words " * 500_000
    with grpc.insecure_channel(stack.edge.removeprefix("http://")) as channel:
        stub = direct_pb2_grpc.DirectFilesServiceStub(channel)
        sha256 = hashlib.sha256(data).digest()
        file = stub.UploadFile(pieces(data, filename="words.txt", sha256=sha256), metadata=call)
        assert (file.state, file.size_bytes, file.sha256) == (files_pb2.File.READY, len(data), sha256)
        read = list(stub.DownloadFile(pb.DownloadFileRequest(name=file.name), metadata=call))
        assert b"".join(piece.data for piece in read) == data and len(read) > 1
        for wrong, code in (
            (pieces(data, sha256=bytes(32)), grpc.StatusCode.FAILED_PRECONDITION),
            (pieces(b"x" * (17 << 20), 1_000_000), grpc.StatusCode.INVALID_ARGUMENT),
            (iter(()), grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                stub.UploadFile(wrong, metadata=call)
            assert refused.value.code() == code


def test_one_caller_keeps_two_files_of_a_server_in_memory() -> None:
    """Whoever does not read on keeps their own places, not those of others."""
    service = DirectFilesService(cast(Any, None))

    def enter(who: str) -> str:
        call = Current()
        call.caller = Caller(Kind.USER, who)
        return Context().run(lambda: (CURRENT.set(call), service._enter())[1])

    ann = [enter("users/ann"), enter("users/ann")]
    with pytest.raises(Exhausted):
        enter("users/ann")
    for who in ("ben", "cy", "dan"):
        assert [enter(f"users/{who}"), enter(f"users/{who}")]
    with pytest.raises(Exhausted):
        enter("users/eve")
    service._leave(ann.pop())
    assert enter("users/eve")


@contextmanager
def watched(client: httpx.Client, name: str, last: str = "") -> Iterator[Iterator[dict[str, Any]]]:
    """What a watch of a file tells, as an EventSource reads it: each message, with the id of its event."""
    headers = {"accept": "text/event-stream", **({"last-event-id": last} if last else {})}
    with client.stream("GET", f"{name}:watch", headers=headers, timeout=30) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream"), answer.read()

        def events() -> Iterator[dict[str, Any]]:
            id = last
            for line in answer.iter_lines():
                id = line.removeprefix("id: ") if line.startswith("id: ") else id
                if line.startswith("data: "):
                    yield {"id": id, **json.loads(line.removeprefix("data: "))}

        yield events()


def change(told: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """The next that tells a change."""
    return next(one for one in told if one["change"] != NOTHING)


def announced(client: httpx.Client, data: bytes) -> dict[str, Any]:
    body = {"contentType": "image/jpeg", "sizeBytes": str(len(data))}
    answer = client.post(f"{client.base_url}files:createUpload", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def arrive(client: httpx.Client, upload: dict[str, Any], data: bytes) -> None:
    assert httpx.put(upload["uploadUrl"], content=data, headers=upload["uploadHeaders"]).status_code == 200
    assert client.post(f"{upload['file']['name']}:complete", json={}).status_code == 200


def test_a_file_is_watched_from_its_announcement_to_its_end(ann: httpx.Client) -> None:
    upload = announced(ann, PHOTO)
    name = upload["file"]["name"]
    with watched(ann, name) as told:
        first = next(told)
        assert (first["change"], first["file"]["state"]) == ("CURRENT", "PENDING")
        assert next(told)["synced"] is True
        arrive(ann, upload, PHOTO)
        states: list[dict[str, Any]] = []
        while not states or states[-1]["file"]["state"] == "UPLOADED":
            states.append(change(told))
        ready = states[-1]
        assert {one["change"] for one in states} == {"UPDATED"} and ready["file"]["state"] == "READY"
        assert ready["file"] == ann.get(name).json()
        # Who goes on after the last is told nothing of it again; who goes on after the first is told what it is now.
        with watched(ann, name, last=ready["id"]) as more:
            synced = next(more)
            assert (synced["change"], synced["synced"]) == (NOTHING, True)
        with watched(ann, name, last=first["id"]) as more:
            assert (change(more)["file"], next(more)["synced"]) == (ready["file"], True)
        assert ann.delete(name).status_code == 200
        gone = change(told)
        assert (gone["change"], gone["file"]["state"]) == ("DELETED", "READY")
    assert reason(ann.get(f"{name}:watch", headers={"last-event-id": gone["id"]}))[0] == 404


def counted(stack: Stack, metric: str) -> float:
    """The sum of a metric over the servers and the workers."""
    total = 0.0
    for process in (*stack.api_servers, "work"):
        text = httpx.get(f"http://127.0.0.1:{stack.ports[f'{process}-metrics']}/metrics").text
        total += sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(metric))
    return total


def test_why_a_file_was_rejected_is_told_shown_and_counted(
    ann: httpx.Client, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = ('transom_files_total{change="rejected"}', "transom_file_processing_seconds_count{", "transom_file_bytes")
    before = [counted(stack, metric) for metric in metrics]
    upload = announced(ann, PHOTO[: len(PHOTO) // 2])
    with watched(ann, upload["file"]["name"]) as told:
        next(told)
        arrive(ann, upload, PHOTO[: len(PHOTO) // 2])
        while (now := change(told))["file"]["state"] == "UPLOADED":
            pass
        assert now["file"]["rejection"]["reason"] == "IMAGE_UNREADABLE"
    assert all(counted(stack, metric) > was for metric, was in zip(metrics, before, strict=True))
    monkeypatch.setenv("TRANSOM_POSTGRES", stack.env["TRANSOM_POSTGRES"])
    name = upload["file"]["name"]
    listed = CliRunner().invoke(command, ["list", "--state", "rejected", "--owner", now["file"]["owner"]]).output
    assert name in listed and "IMAGE_UNREADABLE" in listed
    assert name not in CliRunner().invoke(command, ["list", "--state", "ready"]).output
    shown = CliRunner().invoke(command, ["show", name]).output
    assert "rejected   IMAGE_UNREADABLE: " in shown and "announced" in shown
    assert CliRunner().invoke(command, ["show", "files/none"]).exit_code == 1


def test_who_may_not_read_a_file_may_not_watch_it(ann: httpx.Client, stack: Stack) -> None:
    mine, other = (announced(ann, PHOTO)["file"]["name"] for _ in range(2))
    with httpx.Client(base_url=str(ann.base_url)) as nobody:
        assert nobody.get(f"{mine}:watch").status_code == 401
    token = {"authorization": f"Bearer {people.signed_up(stack).token}"}
    with httpx.Client(base_url=str(ann.base_url), headers=token) as bob:
        assert bob.get(f"{mine}:watch").status_code == 404
        assert reason(ann.get(f"{mine}:watch", params={"resume_token": "x"}))[0] == 400
        with watched(ann, other) as told:
            id = next(told)["id"]
        assert ann.get(f"{mine}:watch", params={"resume_token": id}).status_code == 400
        # A stream ends with the session.
        public = bob.post(
            f"{bob.base_url}files:createUpload",
            json={"contentType": "image/png", "sizeBytes": "9", "visibility": "PUBLIC"},
        ).json()["file"]["name"]
        with watched(bob, public) as told:
            assert (next(told)["change"], next(told)["synced"]) == ("CURRENT", True)
            assert bob.post(f"{bob.base_url}accounts:signOut", json={}).status_code == 200
            last = list(told)[-1]
            assert last["error"]["code"] == grpc.StatusCode.UNAUTHENTICATED.value[0]
