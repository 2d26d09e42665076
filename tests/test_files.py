"""Files over gRPC with a real S3 server: uploads by signed URL, what is refused, and what harm does."""

from __future__ import annotations

import asyncio
import hashlib
import io
import secrets
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from identity_ground import Caller, Place, Server, asynchronous, cable, place, refused, server
from PIL import Image
from transom.files.v1 import files_pb2 as pb

from deploy.native.stack import Stack
from server.caller import OPERATOR, SYSTEM
from server.engine.content_types import disagreement, media_type
from server.engine.files import downloads, orphans
from server.errors import Exhausted, Invalid, NotFound, Precondition, Refusal, Unavailable
from server.store.file_uploads import Quota
from server.store.objects import Objects
from server.store.signed_links import Since, signed_since

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Place]:
    with place(components) as made:
        yield made


@pytest.fixture(scope="module")
def bucket(at: Place) -> Bucket:
    return Bucket(at)


class Bucket:
    """The bucket as it is, looked at apart from everything under test."""

    def __init__(self, at: Place) -> None:
        env = at.env
        self._name = env["TRANSOM_S3_BUCKET"]
        self._client = boto3.client(
            "s3",
            endpoint_url=at.s3,
            region_name=env["TRANSOM_S3_REGION"],
            aws_access_key_id=env["TRANSOM_S3_ACCESS_KEY"],
            aws_secret_access_key=env["TRANSOM_S3_SECRET_KEY"],
        )

    def read(self, key: str) -> bytes | None:
        try:
            data: bytes = self._client.get_object(Bucket=self._name, Key=key)["Body"].read()
        except ClientError:
            return None
        return data

    def of(self, name: str) -> tuple[bytes | None, bytes | None]:
        """What lies at the place of uploads, and at the place of finished files."""
        id = name.removeprefix("files/")
        kept = self.keys(f"files/{id}")
        assert len(kept) <= 1, "it is kept once"
        return self.read(f"uploads/{id}"), self.read(kept[0]) if kept else None

    def keys(self, prefix: str) -> list[str]:
        """Of all that begin so."""
        found = self._client.list_objects_v2(Bucket=self._name, Prefix=prefix)
        return [one["Key"] for one in found.get("Contents", ())]


def picture(kind: str = "JPEG", color: str = "red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), color).save(out, kind)
    return out.getvalue()


def zipped(name: str = "a.txt") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, "hello")
    return out.getvalue()


JPEG = picture()
PDF = b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n"


async def signed_up(on: Server) -> Caller:
    return on.stubs((await on.sign_ups.sign_up(f"{secrets.token_hex(6)}@example.com", PASSWORD)).token)


def http(
    method: str, url: str, data: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers, whatever the status."""
    request = urllib.request.Request(url, data, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read(), {key.lower(): value for key, value in answer.headers.items()}
    except urllib.error.HTTPError as error:
        return error.code, error.read(), {key.lower(): value for key, value in error.headers.items()}


async def announce(
    client: Caller, data: bytes, content_type: str = "image/jpeg", **more: Any
) -> pb.CreateUploadResponse:
    more = {"filename": "photo.jpg", "size_bytes": len(data), **more}
    return await client.files("CreateUpload", pb.CreateUploadRequest(content_type=content_type, **more))


async def put(upload: pb.CreateUploadResponse, data: bytes, **other: str) -> int:
    headers = {**dict(upload.upload_headers), **{key.replace("_", "-"): value for key, value in other.items()}}
    return (await asyncio.to_thread(http, "PUT", upload.upload_url, data, headers))[0]


async def complete(client: Caller, name: str) -> pb.File:
    return await client.files("CompleteUpload", pb.CompleteUploadRequest(name=name))


def over(at: Place, name: str) -> None:
    """From now on the URL of the upload is over, and so is every call that was under way when it was completed."""
    at.sql(
        "update transom.files set upload_expire_time = now() - interval '1 hour', process_time = now() - interval '1 hour' "
        "where id = %s",
        name[6:],
    )


async def downloaded(client: Caller, name: str) -> bytes:
    link = await client.files("GetDownloadUrl", pb.GetDownloadUrlRequest(name=name))
    return (await asyncio.to_thread(http, "GET", link.url))[1]


def held(patch: pytest.MonkeyPatch, objects: Objects, step: str) -> tuple[asyncio.Event, asyncio.Event]:
    """Whether the next call of that name has come; and what lets it go on."""
    real, there, go = getattr(objects, step), asyncio.Event(), asyncio.Event()

    async def waits(*asked: Any) -> Any:
        there.set()
        await go.wait()
        return await real(*asked)

    patch.setattr(objects, step, waits)
    return there, go


async def uploaded(client: Caller, data: bytes = JPEG, content_type: str = "image/jpeg", **more: Any) -> pb.File:
    upload = await announce(client, data, content_type, **more)
    assert await put(upload, data) == 200
    return await complete(client, upload.file.name)


# ------------------------------------------------------------------------------------------------ the usual life


@asynchronous
async def test_the_life_of_a_file(at: Place, bucket: Bucket) -> None:
    async with server(at) as on:
        ann = await signed_up(on)
        sha256 = hashlib.sha256(JPEG).digest()
        upload = await announce(ann, JPEG, sha256=sha256, filename="Füße 🙂.jpg")
        file = upload.file
        assert file.state == pb.File.PENDING and not file.HasField("complete_time")
        assert upload.expire_time.ToSeconds() - file.create_time.ToSeconds() == 3600
        assert (await refused(ann.files("GetDownloadUrl", pb.GetDownloadUrlRequest(name=file.name))))[:2] == (
            "FAILED_PRECONDITION", "UPLOAD_INCOMPLETE",
        )  # fmt: skip

        assert await put(upload, JPEG) == 200
        ready = await complete(ann, file.name)
        assert ready.state == pb.File.READY and ready.HasField("complete_time") and ready.sha256 == sha256
        assert bucket.of(file.name) == (None, JPEG)  # nothing is left of the upload
        assert await complete(ann, file.name) == ready
        assert await ann.files("GetFile", pb.GetFileRequest(name=file.name)) == ready
        assert list((await ann.files("ListFiles", pb.ListFilesRequest())).files) == [ready]

        link = await ann.files("GetDownloadUrl", pb.GetDownloadUrlRequest(name=file.name))
        assert 0 <= link.expire_time.ToSeconds() - time.time() - 895 <= 5
        status, body, headers = await asyncio.to_thread(http, "GET", link.url)
        assert (status, body, headers["content-type"]) == (200, JPEG, "image/jpeg")
        assert headers["content-disposition"] == (
            "inline; filename=\"F__e _.jpg\"; filename*=UTF-8''F%C3%BC%C3%9Fe%20%F0%9F%99%82.jpg"
        )
        assert (await asyncio.to_thread(http, "GET", link.url.split("?")[0]))[0] == 403  # the signature is the key

        await ann.files("DeleteFile", pb.DeleteFileRequest(name=file.name))
        assert bucket.of(file.name) == (None, None)
        assert (await asyncio.to_thread(http, "GET", link.url))[0] == 404
        for method, request in [
            ("GetFile", pb.GetFileRequest), ("DeleteFile", pb.DeleteFileRequest),
            ("CompleteUpload", pb.CompleteUploadRequest), ("GetDownloadUrl", pb.GetDownloadUrlRequest),
        ]:  # fmt: skip
            assert (await refused(ann.files(method, request(name=file.name))))[0] == "NOT_FOUND", method
        assert not (await ann.files("ListFiles", pb.ListFilesRequest())).files


@dataclass(frozen=True)
class Announcement:
    sentence: str
    request: dict[str, Any]
    fields: tuple[str, ...]


GOOD = {"filename": "a.jpg", "content_type": "image/jpeg", "size_bytes": 10}
REFUSED_ANNOUNCEMENTS = [
    Announcement("nothing is given", {}, ("content_type", "size_bytes")),
    Announcement("it is empty", GOOD | {"size_bytes": 0}, ("size_bytes",)),
    Announcement("it is less than empty", GOOD | {"size_bytes": -5}, ("size_bytes",)),
    Announcement("it is above the limit", GOOD | {"size_bytes": (100 << 20) + 1}, ("size_bytes",)),
    Announcement("its type is none", GOOD | {"content_type": "jpeg"}, ("content_type",)),
    Announcement("its type has a line break", GOOD | {"content_type": "image/jpeg\r\nx: y"}, ("content_type",)),
    Announcement("its type has a NUL", GOOD | {"content_type": "image/jp\0eg"}, ("content_type",)),
    Announcement("its type goes on for ever", GOOD | {"content_type": "image/" + "x" * 200}, ("content_type",)),
    Announcement("its checksum is too short", GOOD | {"sha256": b"x" * 31}, ("sha256",)),
    Announcement("its name is a path", GOOD | {"filename": "../etc/passwd"}, ("filename",)),
    Announcement("its name is a path of Windows", GOOD | {"filename": "a\\b"}, ("filename",)),
    Announcement("its name is a folder", GOOD | {"filename": ".."}, ("filename",)),
    Announcement("its name has a NUL", GOOD | {"filename": "a\0.jpg"}, ("filename",)),
    Announcement("its name has a line break", GOOD | {"filename": "a\r\nSet-Cookie: x"}, ("filename",)),
    Announcement("its name turns around", GOOD | {"filename": "a\u202egpj.exe"}, ("filename",)),
    Announcement("its name has 256 characters", GOOD | {"filename": "é" * 256}, ("filename",)),
]


@asynchronous
async def test_an_announcement_is_refused_with_its_fields_and_leaves_nothing(at: Place) -> None:
    async with server(at) as on:
        ann = await signed_up(on)
        before = at.sql("select count(*) from transom.files")
        for case in REFUSED_ANNOUNCEMENTS:
            answer = await refused(ann.files("CreateUpload", pb.CreateUploadRequest(**case.request)))
            assert answer == ("INVALID_ARGUMENT", "INVALID_REQUEST", case.fields), case.sentence
        assert at.sql("select count(*) from transom.files") == before


@asynchronous
async def test_s3_refuses_every_put_but_the_announced_one(at: Place, bucket: Bucket) -> None:
    async with server(at) as on:
        ann = await signed_up(on)
        other = picture(color="blue")
        assert len(other) == len(JPEG)
        checked = await announce(ann, JPEG, sha256=hashlib.sha256(JPEG).digest())
        plain = await announce(ann, JPEG)
        for sentence, upload, data, headers in [
            ("more bytes", plain, JPEG + b"x", {"content_length": str(len(JPEG) + 1)}),
            ("fewer bytes", plain, JPEG[:-1], {"content_length": str(len(JPEG) - 1)}),
            ("another type", plain, JPEG, {"content_type": "text/html"}),
            ("other bytes than the checksum's", checked, other, {}),
            ("another checksum", checked, other, {"x_amz_checksum_sha256": "A" * 43 + "="}),
        ]:
            assert await put(upload, data, **headers) in (400, 403), sentence
        for upload in (checked, plain):
            assert (await refused(complete(ann, upload.file.name)))[:2] == ("FAILED_PRECONDITION", "UPLOAD_MISSING")
            assert bucket.of(upload.file.name) == (None, None)
            assert await put(upload, JPEG) == 200  # and after all that, the right one
            assert (await complete(ann, upload.file.name)).state == pb.File.READY


@asynchronous
async def test_what_arrived_must_be_what_was_announced(at: Place, bucket: Bucket) -> None:
    """Whoever holds the bucket's credentials can put anything there; here the checks stand alone."""
    async with server(at) as on:
        ann = await signed_up(on)
        other = picture(color="blue")
        html = b"<html><script>alert(1)</script></html>"
        for sentence, data, announced, reason in [
            ("another size", JPEG + b"x", {}, "SIZE_MISMATCH"),
            ("another checksum", other, {"sha256": hashlib.sha256(JPEG).digest()}, "CHECKSUM_MISMATCH"),
            ("a page that says it is a picture", html.ljust(len(JPEG)), {}, "CONTENT_TYPE_MISMATCH"),
            ("a PNG that says it is a JPEG", picture("PNG")[: len(JPEG)].ljust(len(JPEG)), {}, "CONTENT_TYPE_MISMATCH"),
        ]:
            upload = await announce(ann, JPEG, **announced)
            await on.objects.write(f"uploads/{upload.file.name[6:]}", data, "image/jpeg")
            answer = await refused(complete(ann, upload.file.name))
            assert answer[:2] == ("FAILED_PRECONDITION", reason), sentence
            assert (await ann.files("GetFile", pb.GetFileRequest(name=upload.file.name))).state == pb.File.PENDING
            assert bucket.of(upload.file.name)[1] is None, sentence
            assert await put(upload, JPEG) == 200  # the URL is still good for the right bytes
            assert (await complete(ann, upload.file.name)).state == pb.File.READY


@asynchronous
async def test_a_put_after_completion_changes_nothing_and_is_swept(at: Place, bucket: Bucket) -> None:
    async with server(at) as on:
        ann = await signed_up(on)
        upload = await announce(ann, JPEG)
        name = upload.file.name
        await put(upload, JPEG)
        await complete(ann, name)
        other = picture(color="blue")
        assert await put(upload, other) == 200  # the URL is still good
        assert bucket.of(name) == (other, JPEG)
        link = await ann.files("GetDownloadUrl", pb.GetDownloadUrlRequest(name=name))
        assert (await asyncio.to_thread(http, "GET", link.url))[1] == JPEG
        await on.files.sweep()
        assert bucket.of(name) == (other, JPEG)  # not before the URL is over: it could be put again
        over(at, name)
        assert await on.files.sweep() >= 1
        assert bucket.of(name) == (None, JPEG)
        assert (await complete(ann, name)).state == pb.File.READY
        assert at.sql("select upload_expire_time from transom.files where id = %s", name[6:]) == [(None,)]


@asynchronous
async def test_completions_at_once_all_succeed_alike(at: Place, bucket: Bucket) -> None:
    async with server(at) as one, server(at) as two:
        token = (await one.sign_ups.sign_up(f"{secrets.token_hex(6)}@example.com", PASSWORD)).token
        upload = await announce(one.stubs(token), JPEG)
        await put(upload, JPEG)
        done = await asyncio.gather(*(complete(on.stubs(token), upload.file.name) for on in (one, two) * 4))
        assert all(file == done[0] for file in done) and done[0].state == pb.File.READY
        assert bucket.of(upload.file.name) == (None, JPEG)


@asynchronous
async def test_a_completion_that_comes_late_changes_no_byte(
    at: Place, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers complete at once; before the second looks, and before it copies, the first is done and the client sends other
    bytes to its URL, which is still good."""
    other = picture(color="blue")
    async with server(at) as one, server(at) as two:
        token = (await one.sign_ups.sign_up(f"{secrets.token_hex(6)}@example.com", PASSWORD)).token
        for step, answers in [("look", True), ("beginning", False), ("copy", False)]:
            upload = await announce(one.stubs(token), JPEG)
            name = upload.file.name
            await put(upload, JPEG)
            with monkeypatch.context() as patch:
                there, go = held(patch, two.objects, step)
                late = asyncio.create_task(complete(two.stubs(token), name))
                await there.wait()
                done = await complete(one.stubs(token), name)
                assert await put(upload, other) == 200
                go.set()
                if answers:
                    assert await late == done
                else:
                    assert (await refused(late))[:2] == ("FAILED_PRECONDITION", "UPLOAD_CHANGED"), step
            assert await downloaded(one.stubs(token), name) == JPEG, step
            assert bucket.of(name)[1] == JPEG, "and nothing is left of the other"


@asynchronous
async def test_a_copy_that_s3_carries_out_late_changes_no_byte_and_is_swept(
    at: Place, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process asks for a copy and dies; S3 carries it out when the file is complete and other bytes lie at its URL."""
    other, real = picture(color="blue"), Objects.copy
    async with server(at) as on:
        ann = await signed_up(on)
        upload = await announce(ann, JPEG)
        name = upload.file.name
        await put(upload, JPEG)
        sent: list[tuple[Any, ...]] = []

        async def dies(*asked: Any) -> None:
            sent.append(asked)
            raise Unavailable("The process is gone.")

        with monkeypatch.context() as patch:
            patch.setattr(on.objects, "copy", dies)
            assert (await refused(complete(ann, name)))[0] == "UNAVAILABLE"
        assert (await complete(ann, name)).state == pb.File.READY
        assert await put(upload, other) == 200
        [(source, _, target, content_type)] = sent
        await real(on.objects, source, (await on.objects.look(source)).version, target, content_type)
        assert await downloaded(ann, name) == JPEG
        await on.files.sweep()
        assert len(bucket.keys(f"files/{name[6:]}")) == 2, "not before whoever was at it is over"
        over(at, name)
        await on.files.sweep()
        assert bucket.of(name) == (None, JPEG)


@asynchronous
async def test_a_deletion_beats_a_completion_under_way(at: Place, bucket: Bucket) -> None:
    async with server(at) as on:
        ann = await signed_up(on)
        for _ in range(5):
            upload = await announce(ann, JPEG)
            name = upload.file.name
            await put(upload, JPEG)
            completing = asyncio.create_task(complete(ann, name))
            await ann.files("DeleteFile", pb.DeleteFileRequest(name=name))
            await asyncio.gather(completing, return_exceptions=True)
            assert (await refused(ann.files("GetFile", pb.GetFileRequest(name=name))))[0] == "NOT_FOUND"
            at.sql(
                "update transom.files set delete_time = now() - interval '1 day', "
                "upload_expire_time = now() - interval '1 day' where id = %s",
                name[6:],
            )
            await on.files.sweep()
            assert bucket.of(name) == (None, None)
            assert at.sql("select 1 from transom.files where id = %s", name[6:]) == []


# --------------------------------------------------------------------------------------------------- who may what


@asynchronous
async def test_who_may_what(at: Place, bucket: Bucket) -> None:
    async with server(at) as on:
        ann, bob, nobody = await signed_up(on), await signed_up(on), on.stubs()
        _, token = await on.keys.create(OPERATOR, "a consumer", "service")
        tool = on.stubs(token)
        file = await uploaded(ann)
        upload = await announce(ann, JPEG)
        pending = upload.file
        look, link = pb.GetFileRequest(name=file.name), pb.GetDownloadUrlRequest(name=file.name)
        finish, drop = pb.CompleteUploadRequest(name=pending.name), pb.DeleteFileRequest(name=file.name)
        for sentence, client in [("its owner", ann), ("a key", tool)]:
            assert await client.files("GetFile", look) == file, sentence
            assert (await client.files("GetDownloadUrl", link)).url, sentence
        public = await uploaded(ann, visibility=pb.File.PUBLIC)
        assert await bob.files("GetFile", pb.GetFileRequest(name=public.name)) == public
        for sentence, client, method, request, code in [
            ("a stranger does not look", nobody, "GetFile", look, "UNAUTHENTICATED"),
            ("a stranger gets no URL", nobody, "GetDownloadUrl", link, "UNAUTHENTICATED"),
            ("a stranger does not list", nobody, "ListFiles", pb.ListFilesRequest(), "UNAUTHENTICATED"),
            ("a stranger does not upload", nobody, "CreateUpload", pb.CreateUploadRequest(**GOOD), "UNAUTHENTICATED"),
            ("a stranger does not delete", nobody, "DeleteFile", drop, "UNAUTHENTICATED"),
            ("a stranger completes nothing", nobody, "CompleteUpload", finish, "UNAUTHENTICATED"),
            ("Bob does not look: no resource that he may see refers to it", bob, "GetFile", look, "NOT_FOUND"),
            ("Bob gets no URL", bob, "GetDownloadUrl", link, "NOT_FOUND"),
            ("Bob does not delete it", bob, "DeleteFile", drop, "NOT_FOUND"),
            ("Bob does not complete it", bob, "CompleteUpload", finish, "NOT_FOUND"),
            ("there is no such file", ann, "GetFile", pb.GetFileRequest(name="files/nothing"), "NOT_FOUND"),
            ("that is no name", ann, "GetFile", pb.GetFileRequest(name="files/a/b"), "INVALID_ARGUMENT"),
            ("nor is that", ann, "GetFile", pb.GetFileRequest(name="files/\0"), "INVALID_ARGUMENT"),
            ("nor nothing", ann, "GetFile", pb.GetFileRequest(), "INVALID_ARGUMENT"),
        ]:  # fmt: skip
            assert (await refused(client.files(method, request)))[0] == code, sentence
        assert not (await bob.files("ListFiles", pb.ListFilesRequest())).files
        assert bucket.of(file.name)[1] == JPEG
        await put(upload, JPEG)
        assert (await complete(tool, pending.name)).owner == file.owner
        await tool.files("DeleteFile", pb.DeleteFileRequest(name=file.name))
        assert bucket.of(file.name) == (None, None)


@asynchronous
async def test_keys_and_admins_do_with_files_what_their_scopes_say(at: Place, bucket: Bucket) -> None:
    async with server(at) as on:
        ann, ada = await signed_up(on), await signed_up(on)
        [[admin]] = at.sql(
            "update transom.users set roles = '{admin}', scopes = '{transom.admin.v1.User:get}'"
            " where id = (select id from transom.users order by create_time desc limit 1) returning 'users/' || id"
        )
        file, own, copy, adas_copy = [await uploaded(ann) for _ in range(4)]
        pending = (await announce(ann, JPEG)).file
        at.sql("update transom.files set private = true where 'files/' || id = any(%s)", [copy.name, adas_copy.name])
        at.sql("update transom.files set owner = %s where 'files/' || id = any(%s)", admin, [own.name, adas_copy.name])
        requests = {
            "get": [
                ("GetFile", pb.GetFileRequest(name=file.name)),
                ("GetDownloadUrl", pb.GetDownloadUrlRequest(name=file.name)),
                ("ListFiles", pb.ListFilesRequest()),
            ],
            "create": [
                ("CreateUpload", pb.CreateUploadRequest(**GOOD)),
                ("CompleteUpload", pb.CompleteUploadRequest(name=pending.name)),
            ],
            "delete": [("DeleteFile", pb.DeleteFileRequest(name=file.name))],
        }

        async def key(role: str, *scopes: str) -> Caller:
            made, token = await on.keys.create(OPERATOR, "a tool", role)
            at.sql("update transom.keys set scopes = %s where id = %s", list(scopes), made.id)
            return on.stubs(token)

        one = "transom.files.v1.File:{}".format
        tools = {action: await key("service", "inspect.v1.Site:*", one(action)) for action in requests}
        for has, tool in tools.items():
            for action, calls in requests.items():
                for method, request in calls:
                    if has != action:
                        answer = await refused(tool.files(method, request))
                        assert answer[:2] == ("PERMISSION_DENIED", "SCOPE_MISSING"), (has, method)
        assert bucket.of(file.name)[1] == JPEG
        assert await tools["get"].files("GetFile", requests["get"][0][1]) == file
        assert (await tools["create"].files("CreateUpload", requests["create"][0][1])).file.name
        assert (await refused(tools["create"].files("CompleteUpload", requests["create"][1][1])))[1] == "UPLOAD_MISSING"
        await tools["delete"].files("DeleteFile", requests["delete"][0][1])
        assert bucket.of(file.name) == (None, None)

        # The copy of an account: no service key's, an admin's who may get exports, and always its owner's.
        look, drop = pb.GetFileRequest(name=copy.name), pb.DeleteFileRequest(name=copy.name)
        everything = await on.keys.create(OPERATOR, "a consumer", "service")
        for sentence, client in [
            ("a service key", on.stubs(everything[1])),
            ("one with its scope", await key("service", "transom.accounts.v1.Export:get", one("*"))),
            ("an admin's without it", await key("admin", one("*"))),
        ]:
            for method, request in (("GetFile", look), ("DeleteFile", drop)):
                assert (await refused(client.files(method, request)))[0] == "NOT_FOUND", sentence
        exporting = await key("admin", one("get"), "transom.accounts.v1.Export:get")
        assert (await exporting.files("GetFile", look)).name == copy.name
        answer = await refused(ada.files("GetFile", pb.GetFileRequest(name=own.name)))
        assert answer[:2] == ("PERMISSION_DENIED", "SCOPE_MISSING")
        assert (await ada.files("GetFile", pb.GetFileRequest(name=adas_copy.name))).name == adas_copy.name
        assert (await refused(ada.files("GetFile", look)))[0] == "NOT_FOUND"


@asynchronous
async def test_files_come_in_pages_bound_to_the_caller(at: Place) -> None:
    async with server(at) as on:
        ann, bob = await signed_up(on), await signed_up(on)
        names = [(await announce(ann, JPEG)).file.name for _ in range(5)]
        seen, token = [], ""
        while True:
            page = await ann.files("ListFiles", pb.ListFilesRequest(page_size=2, page_token=token))
            seen += [file.name for file in page.files]
            if not (token := page.next_page_token):
                break
            assert (await refused(bob.files("ListFiles", pb.ListFilesRequest(page_token=token))))[2] == ("page_token",)
        assert seen == names[::-1]


@asynchronous
async def test_an_owner_has_a_bounded_number_of_unfinished_uploads(at: Place) -> None:
    async with server(at) as on:
        ann = await signed_up(on)
        owner = (await announce(ann, JPEG)).file.owner
        at.sql(
            "insert into transom.files (id, owner, filename, content_type, size_bytes, state) "
            "select %s || n, %s, '', 'text/plain', 1, 'PENDING' from generate_series(1, 999) n",
            secrets.token_hex(8), owner,
        )  # fmt: skip
        answer = await refused(ann.files("CreateUpload", pb.CreateUploadRequest(**GOOD)))
        assert answer[:2] == ("RESOURCE_EXHAUSTED", "TOO_MANY_UPLOADS")
        await (await signed_up(on)).files("CreateUpload", pb.CreateUploadRequest(**GOOD))  # of this owner only


@asynchronous
async def test_a_browser_of_any_origin_may_put_and_get(at: Place) -> None:
    async with server(at) as on:
        await on.objects.prepare()
        await on.objects.prepare()  # again, for nothing
        upload = await announce(await signed_up(on), JPEG, sha256=hashlib.sha256(JPEG).digest())
        asked = {
            "Origin": "https://app.example.com",
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": "content-type,x-amz-checksum-sha256",
        }
        status, _, headers = await asyncio.to_thread(http, "OPTIONS", upload.upload_url, None, asked)
        assert status in (200, 204) and "PUT" in headers["access-control-allow-methods"]
        assert "x-amz-checksum-sha256" in headers["access-control-allow-headers"].lower()


# ------------------------------------------------------------------------------------- forms, parts, links, quotas


async def posted(form: pb.CreateUploadFormResponse, data: bytes, **other: str) -> int:
    """The status of the form, posted as a browser does."""
    boundary = secrets.token_hex(12)
    fields = {**dict(form.form_fields), **{key.replace("_", "-"): value for key, value in other.items()}}
    lines = [f'--{boundary}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    body = "".join([*lines, head]).encode() + data + f"\r\n--{boundary}--\r\n".encode()
    kind = {"content-type": f"multipart/form-data; boundary={boundary}"}
    return (await asyncio.to_thread(http, "POST", form.form_url, body, kind))[0]


@asynchronous
async def test_a_form_takes_what_it_says_and_nothing_else(at: Place, bucket: Bucket) -> None:
    async with server(at) as on:
        ann = await signed_up(on)
        ask = pb.CreateUploadFormRequest(filename="photo.jpg", content_type="image/jpeg", size_bytes_max=len(JPEG) + 9)
        form = await ann.files("CreateUploadForm", ask)
        assert form.file.state == pb.File.PENDING and form.file.size_bytes == len(JPEG) + 9
        for sentence, data, other in [
            ("more than it takes", JPEG + b"x" * 10, {}),
            ("another type", JPEG, {"Content_Type": "text/html"}),
            ("another place", JPEG, {"key": "files/other"}),
            ("a policy of one's own", JPEG, {"policy": "e30="}),
        ]:
            assert await posted(form, data, **other) >= 400, sentence
        assert await refused(complete(ann, form.file.name)) == ("FAILED_PRECONDITION", "UPLOAD_MISSING", ())
        assert await posted(form, JPEG) == 201
        done = await complete(ann, form.file.name)
        assert (done.state, done.size_bytes) == (pb.File.READY, len(JPEG))
        assert bucket.of(done.name) == (None, JPEG)
        for field, value in [("size_bytes_max", -1), ("content_type", "jpeg"), ("size_bytes_max", 1 << 40)]:
            wrong = pb.CreateUploadFormRequest()
            wrong.CopyFrom(ask)
            setattr(wrong, field, value)
            assert (await refused(ann.files("CreateUploadForm", wrong)))[2] == (field,)


@asynchronous
async def test_a_large_file_comes_in_parts_several_at_once_and_goes_on_where_it_was(at: Place, bucket: Bucket) -> None:
    data = JPEG + secrets.token_bytes((11 << 20) - len(JPEG))
    pieces = [data[:5242880], data[5242880:10485760], data[10485760:]]
    async with server(at) as on, server(at) as other:
        ann = await signed_up(on)
        ask = pb.CreateMultipartUploadRequest(
            filename="tower.jpg", content_type="image/jpeg", size_bytes=len(data), part_size_bytes=5 << 20
        )
        upload = await ann.files("CreateMultipartUpload", ask)
        name = upload.file.name
        assert (upload.part_size_bytes, upload.part_count) == (5 << 20, 3)
        wanted = pb.SignUploadPartsRequest(
            name=name,
            parts=[{"number": n + 1, "sha256": hashlib.sha256(piece).digest()} for n, piece in enumerate(pieces)],
        )
        # Two servers begin it at once: it is one upload.
        signed, again = await asyncio.gather(
            ann.files("SignUploadParts", wanted), other.stubs(ann.token).files("SignUploadParts", wanted)
        )
        ids = {part.upload_url.partition("uploadId=")[2].partition("&")[0] for part in (*signed.parts, *again.parts)}
        assert len(ids) == 1

        async def sent(number: int, piece: bytes) -> int:
            part = signed.parts[number - 1]
            return (await asyncio.to_thread(http, "PUT", part.upload_url, piece, dict(part.upload_headers)))[0]

        assert await sent(3, pieces[2][:-1] + b"?") == 400  # not the bytes that were announced
        assert await asyncio.gather(sent(3, pieces[2]), sent(1, pieces[0])) == [200, 200]
        assert (await refused(complete(ann, name)))[:2] == ("FAILED_PRECONDITION", "PARTS_MISSING")
        first = await ann.files("ListUploadParts", pb.ListUploadPartsRequest(name=name, page_size=1))
        rest = await ann.files(
            "ListUploadParts", pb.ListUploadPartsRequest(name=name, page_size=5, page_token=first.next_page_token)
        )
        assert [(part.number, part.size_bytes) for part in (*first.parts, *rest.parts)] == [
            (1, 5242880), (3, len(pieces[2])),
        ]  # fmt: skip
        assert rest.part_count == 3 and not rest.next_page_token
        bob = await signed_up(on)
        assert (await refused(bob.files("SignUploadParts", wanted)))[0] == "NOT_FOUND"
        assert (await refused(bob.files("ListUploadParts", pb.ListUploadPartsRequest(name=name))))[0] == "NOT_FOUND"

        assert await sent(2, pieces[1]) == 200
        done = await asyncio.gather(*(complete(ann, name) for _ in range(3)), return_exceptions=True)
        assert any(isinstance(one, pb.File) and one.state == pb.File.READY for one in done)
        assert (await complete(ann, name)).state == pb.File.READY
        assert bucket.of(name) == (None, data)
        assert await sent(2, pieces[1]) >= 400  # nothing can be sent there any more
        assert (await refused(ann.files("SignUploadParts", wanted)))[1] == "UPLOAD_COMPLETE"

        # A completion that was killed after S3 had put all together is finished by the next.
        at.sql("update transom.files set state = 'PENDING', complete_time = null where id = %s", name[6:])
        assert (await complete(ann, name)).state == pb.File.READY

        # One that is given up leaves nothing.
        given_up = await ann.files("CreateMultipartUpload", ask)
        signed = await ann.files(
            "SignUploadParts", pb.SignUploadPartsRequest(name=given_up.file.name, parts=[{"number": 1}])
        )
        assert await sent(1, pieces[0]) == 200
        await ann.files("DeleteFile", pb.DeleteFileRequest(name=given_up.file.name))
        assert await sent(1, pieces[0]) >= 400

        whole = (await announce(ann, JPEG)).file.name
        asked = pb.SignUploadPartsRequest(name=whole, parts=[{"number": 1}])
        assert (await refused(ann.files("SignUploadParts", asked)))[1] == "NOT_MULTIPART"
        for sentence, parts in [
            ("none", []), ("one twice", [{"number": 1}, {"number": 1}]), ("one that is not there", [{"number": 4}]),
            ("a checksum too short", [{"number": 1, "sha256": b"x"}]), ("too many", [{"number": 1}] * 101),
        ]:  # fmt: skip
            pending = await ann.files("CreateMultipartUpload", ask)
            asked = pb.SignUploadPartsRequest(name=pending.file.name, parts=parts)
            assert (await refused(ann.files("SignUploadParts", asked)))[0] == "INVALID_ARGUMENT", sentence


@asynchronous
async def test_an_owner_has_so_many_files_and_bytes(at: Place, bucket: Bucket) -> None:
    async with server(at) as on:
        ann, bob = await signed_up(on), await signed_up(on)
        on.files._quota = Quota(files=3, bytes=3 * len(JPEG))
        kept = [await uploaded(ann) for _ in range(2)]
        small = [announce(ann, b"x", "text/plain") for _ in range(4)]
        answers = await asyncio.gather(*small, return_exceptions=True)
        assert sum(isinstance(one, pb.CreateUploadResponse) for one in answers) == 1, "two at once do not both fit"
        assert (await refused(announce(ann, b"x", "text/plain")))[:2] == ("RESOURCE_EXHAUSTED", "FILE_QUOTA_EXCEEDED")
        await announce(bob, JPEG)  # whose own there are
        await ann.files("DeleteFile", pb.DeleteFileRequest(name=kept[0].name))
        assert (await refused(announce(ann, JPEG * 2)))[1] == "FILE_QUOTA_EXCEEDED"
        await announce(ann, JPEG)
        on.files._quota = Quota(files=1)
        for _ in range(2):  # keys and admins have none, whichever way their files come
            await on.files.upload_direct(replace(SYSTEM, name="keys/1"), "a.txt", "text/plain", b"words")
        # What is counted is what there is, whatever happened.
        assert at.sql(
            "select owner, count(*), sum(size_bytes)::bigint from transom.files where state <> 'DELETING'"
            " and not private and owner <> 'system' group by owner order by owner"
        ) == at.sql("select owner, files, bytes from transom.file_usage order by owner")


@asynchronous
async def test_a_link_leads_to_what_was_asked_for(at: Place) -> None:
    async with server(at) as on:
        ann = await signed_up(on)
        file = await uploaded(ann)
        page = await uploaded(ann, b"<b>hi</b>", "text/html", filename="a.html")
        shown = pb.GetDownloadUrlRequest.INLINE

        async def headers(**asked: Any) -> dict[str, str]:
            link = await ann.files("GetDownloadUrl", pb.GetDownloadUrlRequest(**asked))
            return (await asyncio.to_thread(http, "GET", link.url))[2]

        saved = await headers(name=file.name, disposition=pb.GetDownloadUrlRequest.ATTACHMENT)
        assert saved["content-disposition"].startswith("attachment") and "immutable" in saved["cache-control"]
        assert (await headers(name=page.name))["content-disposition"].startswith("attachment")
        for asked, told in [
            ({"name": page.name, "disposition": shown}, ("INVALID_ARGUMENT", ("disposition",))),
            ({"name": file.name, "variant": "huge"}, ("NOT_FOUND", ())),
            ({"name": file.name, "disposition": 9}, ("INVALID_ARGUMENT", ("disposition",))),
        ]:
            answer = await refused(ann.files("GetDownloadUrl", pb.GetDownloadUrlRequest(**asked)))
            assert (answer[0], answer[2]) == told, asked
        link = await ann.files("GetDownloadUrl", pb.GetDownloadUrlRequest(name=file.name))
        status, body, told = await asyncio.to_thread(http, "GET", link.url, None, {"Range": "bytes=2-4"})
        assert (status, body) == (206, JPEG[2:5])
        again = await asyncio.to_thread(http, "GET", link.url, None, {"If-None-Match": told["etag"]})
        assert again[0] == 304


def test_a_public_file_stays_at_its_url_for_days() -> None:
    now = datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC)
    days = [now + timedelta(hours=hour) for hour in range(24 * 9)]
    began = [downloads._began("abc", day) for day in days]
    assert len(set(began)) in (3, 4) and {b - a for a, b in pairwise(sorted(set(began)))} == {downloads.PUBLIC_SAME}
    for day, since in zip(days, began, strict=True):
        assert timedelta(minutes=15) <= day - since < downloads.PUBLIC_LIFE - timedelta(days=3)
    assert downloads._began("abd", now) != began[0], "not all files are read anew at once"
    # It is signed as everybody else signs.
    told = {"config": Config(signature_version="s3v4"), "endpoint_url": "https://s3.example:443"}
    client = boto3.client("s3", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="s", **told)
    asked = {"Bucket": "b", "Key": "files/1", "ResponseContentDisposition": "inline; filename*=UTF-8''%C3%A4 +/.txt"}
    for method, call in [("GET", "get_object"), ("HEAD", "head_object")]:
        url = client.generate_presigned_url(call, Params=asked, ExpiresIn=60)
        query = dict(parse_qsl(urlsplit(url).query))
        at = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        anew = dict(parse_qsl(urlsplit(signed_since(url, "s", Since(at, method))).query))
        assert anew == query


# ------------------------------------------------------------------------------------------------------- from tasks


@asynchronous
async def test_a_task_keeps_a_file_once_however_often_it_runs(at: Place, bucket: Bucket) -> None:
    at.sql("insert into transom.users (id, display_name) values ('somebody', '')")
    async with server(at) as one, server(at) as two:
        owner = "users/somebody"
        runs = [on.files.store("event-1", "report.pdf", "application/pdf", PDF + b"%" * n, owner)
                for n, on in enumerate((one, two, one))]  # fmt: skip
        made = await asyncio.gather(*runs)
        assert len({file.name for file in made}) == 1 and all(file == made[0] for file in made)
        assert made[0].ready and made[0].owner == owner and "event-1" not in made[0].name
        kept = bucket.of(made[0].name)[1]
        assert kept is not None and hashlib.sha256(kept).digest() == made[0].sha256 and len(kept) == made[0].size_bytes
        assert await two.files.read(made[0].name) == kept
        assert await one.files.store("event-1", "x.pdf", "application/pdf", b"%PDF-other", owner) == made[0]
        assert (await one.files.store("event-2", "report.pdf", "application/pdf", PDF, owner)).name != made[0].name

        with pytest.raises(Precondition, match="may be read at once"):
            await one.files.read(made[0].name, most=3)
        with pytest.raises(NotFound):
            await one.files.read("files/nothing")
        with pytest.raises(Invalid):
            await one.files.store("event-3", "a/b", "application/pdf", PDF, owner)

        # What is made for an account that is gone, or about to go, is the system's.
        assert (await one.files.store("event-4", "r.pdf", "application/pdf", PDF, "users/gone")).owner == "system"
        at.sql("update transom.users set delete_time = now() where id = 'somebody'")
        assert (await one.files.store("event-5", "r.pdf", "application/pdf", PDF, owner)).owner == "system"

        # After a deletion the word is free: a new run makes a new file.
        await one.files.delete(SYSTEM, made[0].name)
        again = await one.files.store("event-1", "report.pdf", "application/pdf", PDF, owner)
        assert again.name != made[0].name and bucket.of(again.name)[1] == PDF


# ---------------------------------------------------------------------------------------------------------- harm


@asynchronous
async def test_without_s3_file_calls_are_refused_and_nothing_is_lost(at: Place, bucket: Bucket) -> None:
    async with cable(at.s3) as (wire, s3), server(at, s3=s3) as on:
        ann = await signed_up(on)
        kept, doomed = await uploaded(ann), await uploaded(ann)
        upload = await announce(ann, JPEG)
        await put(upload, JPEG)
        await wire.cut()
        start = time.monotonic()
        assert (await refused(complete(ann, upload.file.name)))[:2] == ("UNAVAILABLE", "FILES_UNAVAILABLE")
        with pytest.raises(Unavailable):
            await on.files.read(kept.name)
        with pytest.raises(Unavailable):
            await on.files.store("event-9", "report.pdf", "application/pdf", PDF, "system")
        assert time.monotonic() - start < 10
        # What needs no bytes goes on; a deletion is kept and done later.
        assert await ann.files("GetFile", pb.GetFileRequest(name=kept.name)) == kept
        await announce(ann, JPEG)
        await ann.files("DeleteFile", pb.DeleteFileRequest(name=doomed.name))
        assert (await refused(ann.files("GetFile", pb.GetFileRequest(name=doomed.name))))[0] == "NOT_FOUND"
        assert bucket.of(doomed.name)[1] == JPEG
        at.sql(
            "update transom.files set delete_time = now() - interval '1 day', "
            "upload_expire_time = now() - interval '1 day' where id = %s",
            doomed.name[6:],
        )
        with pytest.raises(Unavailable):
            await on.files.sweep()
        await wire.mend()
        assert (await complete(ann, upload.file.name)).state == pb.File.READY
        assert (await on.files.store("event-9", "report.pdf", "application/pdf", PDF, "system")).ready
        await on.files.sweep()
        assert bucket.of(doomed.name) == (None, None)
        assert at.sql("select 1 from transom.files where id = %s", doomed.name[6:]) == []


@asynchronous
async def test_uploads_that_nobody_finished_are_swept(at: Place, bucket: Bucket) -> None:
    async with server(at) as on:
        ann = await signed_up(on)
        upload, young = await announce(ann, JPEG), await announce(ann, JPEG)
        await put(upload, JPEG)
        id = upload.file.name[6:]
        at.sql(
            "update transom.files set create_time = now() - interval '25 hours', "
            "upload_expire_time = now() - interval '24 hours' where id = %s",
            id,
        )
        await on.files.sweep()  # marks it: nobody can complete it any more
        assert (await refused(complete(ann, upload.file.name)))[0] == "NOT_FOUND"
        assert bucket.of(upload.file.name)[0] == JPEG  # a completion may still be copying
        at.sql("update transom.files set delete_time = now() - interval '11 minutes' where id = %s", id)
        await asyncio.gather(on.files.sweep(), on.files.sweep())  # several at once do no harm
        assert bucket.of(upload.file.name) == (None, None)
        assert at.sql("select 1 from transom.files where id = %s", id) == []
        assert (await ann.files("GetFile", pb.GetFileRequest(name=young.file.name))).state == pb.File.PENDING


@asynchronous
async def test_bytes_that_no_row_knows_of_are_swept_when_they_are_old(
    at: Place, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server(at) as on:
        ann = await signed_up(on)
        kept = await uploaded(ann)
        # Other tests' files lie in the same bucket: only these are looked at, one at a time.
        monkeypatch.setattr(orphans, "LOOKS", ((kept.name, False), ("files/left-", False), ("files/left-", True)))
        monkeypatch.setattr(orphans, "LOOKED_AT", 1)

        async def swept() -> int:
            """By two workers in turn: each goes on where the other was, through two objects and three uploads."""
            at.sql("update transom.orphan_search set look = 0, key = '', upload = ''")
            workers = [on.files, other.files]
            return sum([await workers[n % 2].sweep_orphans() for n in range(2 + 3 + 4)])

        left = ["files/left-behind", "files/left-too"]
        async with server(at) as other:
            for key in left:
                await on.objects.write(key, JPEG, "image/jpeg")
            uploads = [await on.objects.begin_parts(key, "a/b") for key in (*left, left[1])]
            assert await swept() == 0
            assert bucket.read(left[0]) == JPEG  # it is young: its row may be on its way
            monkeypatch.setattr(orphans, "AGE", timedelta(seconds=-5))
            assert await swept() == 5
            assert [bucket.read(key) for key in left] == [None, None]
            assert await on.objects.under_way("files/left-", ("", ""), 10) == ([], None) and len(set(uploads)) == 3
            assert bucket.of(kept.name)[1] == JPEG


@asynchronous
async def test_too_many_calls_to_a_hanging_s3_are_refused_at_once(at: Place) -> None:
    async with cable(at.s3) as (wire, s3), server(at, s3=s3) as on:
        ann = await signed_up(on)
        file = await uploaded(ann)
        wire.hold()
        start = time.monotonic()
        reads = [asyncio.create_task(on.files.read(file.name)) for _ in range(100)]
        refusals = 0
        while refusals < 100 - 8 - 64:
            done, _ = await asyncio.wait(reads, timeout=5, return_when=asyncio.FIRST_COMPLETED)
            refusals = sum(isinstance(read.exception(), Exhausted) for read in done)
            reads = list(reads)
            await asyncio.sleep(0.01)
            assert time.monotonic() - start < 5
        await wire.mend()
        wire._whole.set()
        answers = await asyncio.gather(*reads, return_exceptions=True)
        assert sum(answer == JPEG for answer in answers) == 72
        assert all(isinstance(answer, Refusal) for answer in answers if answer != JPEG)


@asynchronous
async def test_an_url_leads_to_the_public_endpoint(at: Place) -> None:
    async with cable(at.s3) as (_, s3), server(at, s3=s3) as on:
        upload = await announce(await signed_up(on), JPEG)
        assert urlunsplit((*urlsplit(upload.upload_url)[:2], "", "", "")) == at.s3 != s3


# ------------------------------------------------------------------------------------------------ content types


SNIFFED = [
    ("a picture is a picture", "image/jpeg", JPEG, None),
    ("under an old name too", "image/jpg", JPEG, None),
    ("a picture is not another", "image/png", JPEG, "image/jpeg"),
    ("nor a document", "application/pdf", JPEG, "image/jpeg"),
    ("nor text", "text/plain", JPEG, "image/jpeg"),
    ("a document is a document", "application/pdf", PDF, None),
    ("bytes that nobody knows are no picture", "image/jpeg", b"hello", "unknown"),
    ("nor a rare one", "image/x-rare", b"hello", "unknown"),
    ("nor a film", "video/mp4", b"hello", "unknown"),
    ("nor a document, say", "application/pdf", b"hello", "unknown"),
    ("nor a zip", "application/zip", b"hello", "unknown"),
    ("but they are text", "text/plain", b"hello", None),
    ("and JSON", "application/json", b"{}", None),
    ("and an app's own", "application/vnd.acme.plan", b"\x00\x01plan", None),
    ("and bytes", "application/octet-stream", b"\x00\x01", None),
    ("bytes may be anything", "application/octet-stream", JPEG, None),
    ("a table of BMWs is no bitmap", "text/csv", b"BMW,3,2019\nAudi,1,2020\n", None),
    ("text cut inside a letter is text", "text/csv", ("BM" + "é" * 5000).encode()[:8191], None),
    ("a program is no text", "text/plain", b"MZ\x90\x00" + b"\0" * 100, "application/x-msdownload"),
    ("a zip is a zip", "application/zip", zipped(), None),
    ("a container by another name", "application/vnd.android.package-archive", zipped("classes.dex"), None),
    ("an office document is a zip", "application/vnd.oasis.opendocument.text", zipped("content.xml"), None),
    ("a zip is no picture", "image/png", zipped(), "application/zip"),
    (
        "a film of Apple's is of one family",
        "video/quicktime",
        b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom",
        None,
    ),
    ("a drawing is text with a mark", "image/svg+xml", b'<?xml version="1.0"?><svg xmlns="x"/>', None),
    ("without it, it is none", "image/svg+xml", b"<html></html>", "unknown"),
]


@pytest.mark.parametrize(("sentence", "declared", "first", "seen"), SNIFFED, ids=[case[0] for case in SNIFFED])
def test_bytes_against_their_declaration(sentence: str, declared: str, first: bytes, seen: str | None) -> None:
    assert disagreement(declared, first) == seen


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        ("image/jpeg", "image/jpeg"),
        ("Image/JPEG", "image/jpeg"),
        ("text/plain; charset=utf-8", "text/plain"),
        ('text/plain; name="a b"', "text/plain"),
        ("application/vnd.acme+json;v=1", "application/vnd.acme+json"),
        ("", None),
        ("text", None),
        ("text/", None),
        ("text/plain;", None),
        ("text/plain, text/html", None),
        ("text/plain; charset=utf-8\r\n", None),
        ("text/pläin", None),
    ],
)
def test_media_types(declared: str, kind: str | None) -> None:
    assert media_type(declared) == kind
