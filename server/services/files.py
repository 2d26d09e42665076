"""transom.files.v1: requests → engine → replies."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from transom.files.v1 import files_pb2 as pb
from transom.files.v1 import files_pb2_grpc

from server.engine.files import PUBLIC_CACHED, Disposition, File, Files
from server.errors import Invalid
from server.services.current import caller

_DISPOSITIONS = {
    pb.GetDownloadUrlRequest.DISPOSITION_UNSPECIFIED: Disposition.USUAL,
    pb.GetDownloadUrlRequest.INLINE: Disposition.INLINE,
    pb.GetDownloadUrlRequest.ATTACHMENT: Disposition.ATTACHMENT,
}


LOCATION = "x-transom-location"
"""The header that leads to a public file; the edge makes a redirect of it (edge/rest.lua)."""


class FilesService(files_pb2_grpc.FilesServiceServicer):
    """Upload, look, list, download, delete."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def CreateUpload(self, request: pb.CreateUploadRequest, context: Any) -> pb.CreateUploadResponse:
        upload = await self._files.create_upload(
            caller(),
            request.filename,
            request.content_type,
            request.size_bytes,
            request.sha256,
            public=public(request.visibility),
        )
        return pb.CreateUploadResponse(
            file=file_message(upload.file),
            upload_url=upload.url,
            upload_headers=upload.headers,
            expire_time=_time(upload.expire_time),
        )

    async def CreateUploadForm(self, request: pb.CreateUploadFormRequest, context: Any) -> pb.CreateUploadFormResponse:
        form = await self._files.create_upload_form(
            caller(),
            request.filename,
            request.content_type,
            request.size_bytes_max,
            public=public(request.visibility),
        )
        return pb.CreateUploadFormResponse(
            file=file_message(form.file),
            form_url=form.url,
            form_fields=form.fields,
            expire_time=_time(form.expire_time),
        )

    async def CreateMultipartUpload(
        self, request: pb.CreateMultipartUploadRequest, context: Any
    ) -> pb.CreateMultipartUploadResponse:
        upload = await self._files.create_multipart_upload(
            caller(),
            request.filename,
            request.content_type,
            request.size_bytes,
            request.part_size_bytes,
            request.sha256,
            public=public(request.visibility),
        )
        return pb.CreateMultipartUploadResponse(
            file=file_message(upload.file),
            part_size_bytes=upload.part_size_bytes,
            part_count=upload.part_count,
            expire_time=_time(upload.expire_time),
        )

    async def SignUploadParts(self, request: pb.SignUploadPartsRequest, context: Any) -> pb.SignUploadPartsResponse:
        asked = [(part.number, part.sha256) for part in request.parts]
        signed, until = await self._files.sign_upload_parts(caller(), request.name, asked)
        return pb.SignUploadPartsResponse(
            parts=[
                pb.SignUploadPartsResponse.Part(number=number, upload_url=one.url, upload_headers=one.headers)
                for (number, _), one in zip(asked, signed, strict=True)
            ],
            expire_time=_time(until),
        )

    async def ListUploadParts(self, request: pb.ListUploadPartsRequest, context: Any) -> pb.ListUploadPartsResponse:
        parts, following, size, count = await self._files.list_upload_parts(
            caller(), request.name, request.page_size, request.page_token
        )
        return pb.ListUploadPartsResponse(
            parts=[
                pb.ListUploadPartsResponse.Part(number=part.number, size_bytes=part.size_bytes, etag=part.tag)
                for part in parts
            ],
            next_page_token=following,
            part_size_bytes=size,
            part_count=count,
        )

    async def CompleteUpload(self, request: pb.CompleteUploadRequest, context: Any) -> pb.File:
        return file_message(await self._files.complete_upload(caller(), request.name))

    async def GetFile(self, request: pb.GetFileRequest, context: Any) -> pb.File:
        return file_message(await self._files.get(caller(), request.name))

    async def ListFiles(self, request: pb.ListFilesRequest, context: Any) -> pb.ListFilesResponse:
        files, following = await self._files.list(caller(), request.page_size, request.page_token)
        return pb.ListFilesResponse(files=map(file_message, files), next_page_token=following)

    async def DeleteFile(self, request: pb.DeleteFileRequest, context: Any) -> Empty:
        await self._files.delete(caller(), request.name)
        return Empty()

    async def GetDownloadUrl(self, request: pb.GetDownloadUrlRequest, context: Any) -> pb.GetDownloadUrlResponse:
        how = _DISPOSITIONS.get(request.disposition)
        if how is None:
            raise Invalid.field("disposition", "is not known", "ENUM_VALUE_UNKNOWN")
        url, until = await self._files.download_url(caller(), request.name, request.variant, how)
        return pb.GetDownloadUrlResponse(url=url, expire_time=_time(until))

    async def GetPublicFile(self, request: pb.GetPublicFileRequest, context: Any) -> Empty:
        url = await self._files.public_url(request.file, request.variant, "HEAD" if request.head else "GET")
        caching = f"public, max-age={int(PUBLIC_CACHED.total_seconds())}"
        await context.send_initial_metadata(((LOCATION, url), ("cache-control", caching)))
        return Empty()


def file_message(file: File) -> pb.File:
    """The file as clients see it."""
    return pb.File(
        name=file.name,
        owner=file.owner,
        filename=file.filename,
        content_type=file.content_type,
        size_bytes=file.size_bytes,
        sha256=file.sha256 or b"",
        state=pb.File.State.Value(file.state),
        create_time=_time(file.create_time),
        complete_time=_time(file.complete_time) if file.complete_time else None,
        visibility=pb.File.PUBLIC if file.public else pb.File.PRIVATE,
        rejection=pb.File.Rejection(reason=file.rejection[0], message=file.rejection[1]) if file.rejection else None,
        variants=[
            pb.File.Variant(
                name=one.name,
                content_type=one.content_type,
                size_bytes=one.size_bytes,
                width=one.width,
                height=one.height,
                sha256=one.sha256,
            )
            for one in file.variants
        ],
        metadata=_metadata(file),
        public_path=file.public_path,
        process_time=_time(file.process_time) if file.process_time else None,
    )


def _metadata(file: File) -> pb.File.Metadata | None:
    if not file.metadata:
        return None
    known = dict(file.metadata)
    duration = known.pop("duration", None)
    told = pb.File.Metadata(**known)
    if duration:
        lasting = Duration()
        lasting.FromTimedelta(timedelta(seconds=duration))
        told.duration.CopyFrom(lasting)
    return told


def public(visibility: int) -> bool:
    """Whether everybody may read a file of this visibility. Raises Invalid where there is none of that number."""
    if visibility not in pb.File.Visibility.values():
        raise Invalid.field("visibility", "is not known", "ENUM_VALUE_UNKNOWN")
    return bool(visibility == pb.File.PUBLIC)


def _time(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
