"""Uploaded files on their way to READY or REJECTED: with real Postgres, S3 and RabbitMQ, and whatever is killed between."""

from __future__ import annotations

import asyncio
import hashlib
import io
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from consumers_ground import Ground, asynchronous, eventually
from PIL import Image
from prometheus_client import CollectorRegistry
from transom.events.v1.event_pb2 import Event
from transom.files.v1 import files_pb2 as pb

from consumers import file_processing, tasks, topology
from consumers.file_processing import FileProcessing
from consumers.inbox import Inbox
from consumers.processing import child
from consumers.processing.contents import Job, Refused, Result
from consumers.relay import Relay, RelayMetrics
from consumers.runner import Runner, RunnerMetrics
from consumers.workshop import Workshop
from deploy.native.stack import Stack
from server.apps import Event as AppEvent
from server.apps import Rejected, Upload, Work, on, on_upload
from server.apps.declarations import MARK
from server.caller import Caller, Kind
from server.engine.files import File
from server.engine.files.known import HASHED_MAX
from server.errors import Invalid, NotFound, Precondition
from server.schema.compilation import SchemaError
from server.store.objects import Objects

ANN = Caller(Kind.USER, "users/ann")
WHERE = b"Leica of Ann"


@pytest.fixture(scope="module")
def ground(components: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    settled, topology.SETTLE = topology.SETTLE, 0
    with Ground.on(components, tmp_path_factory.mktemp("processing")) as ground:
        yield ground
    topology.SETTLE = settled


def photo(size: tuple[int, int] = (400, 300)) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = WHERE.decode()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.new("RGB", size, "red").save(out, "JPEG", exif=exif)
    return out.getvalue()


PHOTO, SMALL = photo(), photo((60, 40))
BROKEN = PHOTO[:600]


async def here(folder: Path, job: Job) -> Result:
    """Processes in this process: quick, where it is not the process that is under test."""
    try:
        return child.processed(folder, job)
    except Refused as refused:
        return Result(reason=refused.reason, message=refused.message)


def put(url: str, data: bytes, headers: dict[str, str]) -> None:
    urllib.request.urlopen(urllib.request.Request(url, data, headers, method="PUT"), timeout=10).close()


async def uploaded(
    shop: Workshop, data: bytes = PHOTO, content_type: str = "image/jpeg", *, public: bool = False
) -> File:
    upload = await shop.parts.files.create_upload(ANN, "beam.jpg", content_type, len(data), public=public)
    await asyncio.to_thread(put, upload.url, data, upload.headers)
    return await shop.parts.files.complete_upload(ANN, upload.file.name)


async def run(shop: Workshop, name: str, *checks: Any, process: Any = here, id: str = "") -> None:
    """One run of the handler, with its commit."""
    settings = shop.parts.settings.model_copy(update={"files_processed": "all" if checks else "media"})
    handler = FileProcessing(shop.parts.processing, [getattr(one, MARK) for one in checks], settings, process).handler
    event = Event(id=id or name, name=name)
    work = shop.work(event)
    extra = await handler.run(event, work)
    await work.commit(extra=[*extra, Inbox.record(handler.name, event.id)])


async def content(shop: Workshop, name: str, variant: str = "") -> bytes:
    url, _ = await shop.parts.files.download_url(ANN, name, variant)
    return await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read())


def events(ground: Ground, name: str) -> list[str]:
    return [verb for (verb,) in ground.rows("select verb from transom.events where name = %s order by id", [name])]


@asynccontextmanager
async def working(ground: Ground, *functions: Any) -> AsyncIterator[Workshop]:
    """A worker that processes files and runs these functions of an app, and a relay that feeds it, in this process."""
    async with ground.workshop() as shop:
        own = tasks.handlers([getattr(one, MARK) for one in functions], ground.schema, shop.parts.files)
        handlers = [FileProcessing(shop.parts.processing, [], shop.parts.settings).handler, *own]
        metrics = CollectorRegistry()
        runner = Runner(ground.amqp, Inbox(shop.parts.pool), shop.work, handlers, RunnerMetrics(metrics))
        addresses = [(handler.name, handler.key) for handler in handlers]
        relay = Relay(ground.postgres, ground.amqp, addresses, RelayMetrics(CollectorRegistry()))
        running = [asyncio.create_task(runner.run()), asyncio.create_task(relay.run())]
        try:
            yield shop
        finally:
            runner.stop.set()
            relay.stop.set()
            await asyncio.gather(*running)


@asynchronous
async def test_a_photo_is_ready_a_moment_after_it_was_uploaded(ground: Ground) -> None:
    told: dict[tuple[str, str], Any] = {}

    @on("transom.files.v1.File", "ready")
    async def tell_ready(event: AppEvent, work: Work) -> None:
        told[event.verb, event.name] = event.resource

    @on("transom.files.v1.File", "rejected")
    def tell_rejected(event: AppEvent, work: Work) -> None:
        told[event.verb, event.name] = event.resource

    @on("transom.files.v1.File", "deleted")
    async def tell_deleted(event: AppEvent, work: Work) -> None:
        told[event.verb, event.name] = event.resource

    async with working(ground, tell_ready, tell_rejected, tell_deleted) as shop:
        files = shop.parts.files
        made = await uploaded(shop)
        assert made.state == "UPLOADED" and not made.variants
        broken = await uploaded(shop, BROKEN)
        both = [made.name, broken.name]
        await eventually(lambda: all(len(events(ground, name)) == 2 for name in both))
        ready, rejected = [await files.get(ANN, name) for name in both]
        assert ready.state == "READY" and ready.process_time and ready.sha256 and ready.size_bytes == len(PHOTO)
        assert dict(ready.metadata) == {"width": 300, "height": 400, "detected_content_type": "image/jpeg"}
        assert [v.name for v in ready.variants] == ["large", "medium", "medium_jpeg", "small", "thumbnail"]
        for variant in ready.variants:
            data = await content(shop, made.name, variant.name)
            assert len(data) == variant.size_bytes and WHERE not in data
        assert rejected.state == "REJECTED" and rejected.rejection and rejected.rejection[0] == "IMAGE_UNREADABLE"
        with pytest.raises(Precondition) as refused:
            await files.download_url(ANN, broken.name)
        assert refused.value.reason == "FILE_REJECTED"
        assert events(ground, made.name) == ["uploaded", "ready"]
        assert events(ground, broken.name) == ["uploaded", "rejected"]
        # And the app's own functions are told so.
        await files.delete(ANN, made.name)
        await eventually(lambda: len(told) == 3)
        assert told["rejected", broken.name].rejection.reason == "IMAGE_UNREADABLE"
        assert told["ready", made.name] is None or told["ready", made.name].state == pb.File.READY
        assert told["deleted", made.name] is None


@asynchronous
async def test_what_is_not_processed_is_ready_at_once(ground: Ground) -> None:
    async with ground.workshop() as shop:
        made = await uploaded(shop, b"just words", "text/plain")
        assert made.state == "READY" and events(ground, made.name) == ["ready"]


@asynchronous
async def test_a_public_photo_does_not_say_where_it_was_taken(ground: Ground) -> None:
    async with ground.workshop() as shop:
        made = await uploaded(shop, public=True)
        with pytest.raises(NotFound):
            await shop.parts.files.public_url(made.name.removeprefix("files/"))
        await run(shop, made.name)
        ready = await shop.parts.files.get(ANN, made.name)
        data = await content(shop, made.name)
        assert WHERE not in data and len(data) == ready.size_bytes < len(PHOTO)
        await shop.parts.files.public_url(made.name.removeprefix("files/"))
        private = await uploaded(shop)
        assert await shop.work(Event()).read_file(private.name, "medium") == PHOTO, "there are no variants yet"
        await run(shop, private.name)
        assert (await shop.work(Event()).read_file(private.name, "medium"))[:4] == b"RIFF"
        assert await content(shop, private.name) == PHOTO, "what is private is what was sent"


class Killed(Exception):
    """The process is gone."""


def dies_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the process dies right after call number `step`, from 0, to S3."""
    calls = 0

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(real)
        async def call(*given: Any) -> Any:
            nonlocal calls
            answer = await real(*given)
            calls += 1
            if calls == step + 1:
                raise Killed
            return answer

        return call

    for name in ("pour", "write_from", "delete"):
        monkeypatch.setattr(Objects, name, dying(getattr(Objects, name)))


@pytest.mark.parametrize(("data", "end"), [(SMALL, "READY"), (BROKEN, "REJECTED")])
@asynchronous
async def test_killed_at_any_step_it_ends_the_same(ground: Ground, data: bytes, end: str) -> None:
    async with ground.workshop() as shop:
        step, died = 0, True
        while died:
            made = await uploaded(shop, data, public=True)
            with pytest.MonkeyPatch.context() as patch:
                dies_after(step, patch)
                try:
                    await run(shop, made.name)
                    died = False
                except Killed:
                    pass
            if died:
                assert (await shop.parts.files.get(ANN, made.name)).state == "UPLOADED"
                await run(shop, made.name)
            now = await shop.parts.files.get(ANN, made.name)
            assert now.state == end and events(ground, made.name) == ["uploaded", end.lower()]
            if end == "READY":
                assert WHERE not in await content(shop, made.name)
                assert len(await content(shop, made.name, "thumbnail")) == now.variants[-1].size_bytes
            step += 1
    assert step == (8 if end == "READY" else 4), "every call was the last one once"


@asynchronous
async def test_what_a_public_photo_lost_does_not_come_back(ground: Ground) -> None:
    """S3 carries out a copy, of the very bytes that were sent, when they were processed already."""
    async with ground.workshop() as shop:
        files, objects = shop.parts.files, shop.parts.processing._objects
        upload = await files.create_upload(ANN, "beam.jpg", "image/jpeg", len(PHOTO), public=True)
        name, id = upload.file.name, upload.file.name.removeprefix("files/")
        await asyncio.to_thread(put, upload.url, PHOTO, upload.headers)
        await files.complete_upload(ANN, name)
        [copied] = await objects.listed(f"files/{id}", "", 10)
        await run(shop, name)
        await asyncio.to_thread(put, upload.url, PHOTO, upload.headers)
        version = (await objects.look(f"uploads/{id}")).version
        await objects.copy(f"uploads/{id}", version, copied.key, "image/jpeg")
        now, data = await files.get(ANN, name), await content(shop, name)
        assert WHERE not in data and now.sha256 == hashlib.sha256(data).digest()
        ground.execute(
            "update transom.files set upload_expire_time = now() - interval '1 day', process_time = now() - interval '1 day' "
            "where id = %s",
            [id],
        )
        await files.sweep()
        [left] = [*await objects.listed(f"files/{id}", "", 10), *await objects.listed(f"uploads/{id}", "", 10)]
        assert await objects.read(left.key, 1 << 20) == data, "what was sent is gone"


async def in_parts(shop: Workshop, data: bytes, content_type: str, announced: bytes, *, public: bool = False) -> File:
    files, hashed = shop.parts.files, hashlib.sha256(announced).digest() if announced else b""
    begun = await files.create_multipart_upload(ANN, "a", content_type, len(data), 0, hashed, public=public)
    [part], _ = await files.sign_upload_parts(ANN, begun.file.name, [(1, b"")])
    await asyncio.to_thread(put, part.url, data, part.headers)
    return await files.complete_upload(ANN, begun.file.name)


@asynchronous
async def test_the_checksum_of_what_came_in_parts_is_that_of_the_whole(ground: Ground) -> None:
    text = b"sent in parts"
    async with ground.workshop() as shop:
        for sentence, data, kind, announced, end in [
            ("as announced, of a type that is looked at", SMALL, "image/jpeg", SMALL, "READY"),
            ("another", SMALL, "image/jpeg", PHOTO, "CHECKSUM_MISMATCH"),
            ("as announced, of a type that is not", text, "text/plain", text, "READY"),
            ("another", text, "text/plain", b"x", "CHECKSUM_MISMATCH"),
            ("not announced, of a type that is looked at", SMALL, "image/jpeg", b"", "READY"),
        ]:
            made = await in_parts(shop, data, kind, announced)
            assert made.state == "UPLOADED", sentence
            await run(shop, made.name)
            now = await shop.parts.files.get(ANN, made.name)
            assert (now.rejection[0] if now.rejection else now.state) == end, sentence
            assert end != "READY" or now.sha256 == hashlib.sha256(data).digest(), sentence
        assert (await in_parts(shop, text, "text/plain", b"")).state == "READY", "nobody asks for it"

        # What is written anew for everybody is not what was announced: killed after that, it is READY all the same.
        made = await in_parts(shop, SMALL, "image/jpeg", SMALL, public=True)
        with pytest.MonkeyPatch.context() as patch:
            dies_after(6, patch)
            with pytest.raises(Killed):
                await run(shop, made.name)
        await run(shop, made.name)
        now, data = await shop.parts.files.get(ANN, made.name), await content(shop, made.name)
        assert WHERE not in data and now.sha256 == hashlib.sha256(data).digest()

        # Too large to be looked at: it is read where a checksum was announced.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(file_processing, "BYTES_MAX", 10)
            for announced, end in [(SMALL, "READY"), (b"x", "CHECKSUM_MISMATCH"), (b"", "READY")]:
                made = await in_parts(shop, SMALL, "image/jpeg", announced)
                await run(shop, made.name)
                now = await shop.parts.files.get(ANN, made.name)
                assert (now.rejection[0] if now.rejection else now.state) == end
                assert bool(now.sha256) == bool(announced)
        with pytest.raises(Invalid):
            await shop.parts.files.create_multipart_upload(ANN, "a", "a/b", HASHED_MAX + 1, 0, bytes(32))


@asynchronous
async def test_processed_twice_at_once_it_is_ready_once(ground: Ground) -> None:
    async with ground.workshop() as shop:
        made = await uploaded(shop)
        await asyncio.gather(run(shop, made.name, id="one"), run(shop, made.name, id="two"))
        await run(shop, made.name, id="three")
        assert events(ground, made.name) == ["uploaded", "ready"]


@asynchronous
async def test_a_file_that_is_deleted_meanwhile_leaves_nothing(ground: Ground) -> None:
    async with ground.workshop() as shop:
        made = await uploaded(shop)

        async def deleted(folder: Path, job: Job) -> Result:
            await shop.parts.files.delete(ANN, made.name)
            return await here(folder, job)

        await run(shop, made.name, process=deleted)
        gone = await uploaded(shop)
        await shop.parts.files.delete(ANN, gone.name)
        await run(shop, gone.name)
        assert events(ground, made.name) == events(ground, gone.name) == ["uploaded", "deleted"]
        ground.execute("update transom.files set delete_time = now() - interval '1 day', upload_expire_time = null")
        await shop.parts.files.sweep()
        objects = shop.parts.processing._objects
        assert not await objects.listed(f"variants/{made.name.removeprefix('files/')}/", "", 10)


@asynchronous
async def test_an_app_looks_at_every_upload_and_may_refuse_it(ground: Ground) -> None:
    seen: list[Upload] = []

    @on_upload
    async def looks(upload: Upload) -> None:
        assert upload.path.read_bytes() == b"EICAR"
        seen.append(upload)

    @on_upload
    def scans(upload: Upload) -> None:
        if b"EICAR" in upload.path.read_bytes():
            raise Rejected("VIRUS_FOUND", "There is a virus in it: " + "x" * 1000)

    async with ground.workshop() as shop:
        made = await uploaded(shop, b"EICAR", "text/plain")
        ground.execute("update transom.files set state = 'UPLOADED' where id = %s", [made.name.removeprefix("files/")])
        await run(shop, made.name, looks, scans)
        assert [(upload.name, upload.owner, upload.size_bytes) for upload in seen] == [(made.name, ANN.name, 5)]
        refused = await shop.parts.files.get(ANN, made.name)
        assert refused.rejection and refused.rejection[0] == "VIRUS_FOUND" and len(refused.rejection[1]) == 500
        with pytest.raises(SchemaError, match="TRANSOM_FILES_PROCESSED"):
            FileProcessing(shop.parts.processing, [getattr(scans, MARK)], shop.parts.settings)


@asynchronous
async def test_what_cannot_be_processed_for_a_day_is_refused(ground: Ground) -> None:
    async with ground.workshop() as shop:
        made = await uploaded(shop)
        await shop.parts.processing.sweep()
        assert events(ground, made.name) == ["uploaded"]
        ground.execute("update transom.files set complete_time = now() - interval '25 hours'")
        await shop.parts.processing.sweep()
        await shop.parts.processing.sweep()
        assert events(ground, made.name) == ["uploaded", "uploaded"]
        ground.execute(
            "update transom.files set rejection = rejection || jsonb_build_object('told', now() - interval '25 hours')"
        )
        await shop.parts.processing.sweep()
        await shop.parts.processing.sweep()
        assert events(ground, made.name) == ["uploaded"] * 3, (
            "its event may be parked by now: it is told again, once a day"
        )
        await run(shop, made.name)
        now = await shop.parts.files.get(ANN, made.name)
        assert now.rejection and now.rejection[0] == "PROCESSING_FAILED"


@asynchronous
async def test_a_file_too_large_to_look_at_is_ready_only_where_nothing_asks_for_it(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_processing, "BYTES_MAX", 100)
    async with ground.workshop() as shop:
        private, public = await uploaded(shop), await uploaded(shop, public=True)
        await run(shop, private.name)
        await run(shop, public.name)
        assert (await shop.parts.files.get(ANN, private.name)).state == "READY"
        refused = await shop.parts.files.get(ANN, public.name)
        assert refused.rejection and refused.rejection[0] == "TOO_LARGE_TO_PROCESS"
