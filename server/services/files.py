"""transom.files.v1: requests → engine → replies."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from transom.files.v1 import files_pb2 as pb
from transom.files.v1 import files_pb2_grpc

from server.engine.files import File, Files
from server.services.current import caller


class FilesService(files_pb2_grpc.FilesServiceServicer):
    """Upload, look, list, download, delete."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def CreateUpload(self, request: pb.CreateUploadRequest, context: Any) -> pb.CreateUploadResponse:
        upload = await self._files.create_upload(
            caller(), request.filename, request.content_type, request.size_bytes, request.sha256
        )
        return pb.CreateUploadResponse(
            file=_file(upload.file),
            upload_url=upload.url,
            upload_headers=upload.headers,
            expire_time=_time(upload.expire_time),
        )

    async def CompleteUpload(self, request: pb.CompleteUploadRequest, context: Any) -> pb.File:
        return _file(await self._files.complete_upload(caller(), request.name))

    async def GetFile(self, request: pb.GetFileRequest, context: Any) -> pb.File:
        return _file(await self._files.get(caller(), request.name))

    async def ListFiles(self, request: pb.ListFilesRequest, context: Any) -> pb.ListFilesResponse:
        files, following = await self._files.list(caller(), request.page_size, request.page_token)
        return pb.ListFilesResponse(files=map(_file, files), next_page_token=following)

    async def DeleteFile(self, request: pb.DeleteFileRequest, context: Any) -> Empty:
        await self._files.delete(caller(), request.name)
        return Empty()

    async def GetDownloadUrl(self, request: pb.GetDownloadUrlRequest, context: Any) -> pb.GetDownloadUrlResponse:
        url, until = await self._files.download_url(caller(), request.name)
        return pb.GetDownloadUrlResponse(url=url, expire_time=_time(until))


def _file(file: File) -> pb.File:
    return pb.File(
        name=file.name,
        owner=file.owner,
        filename=file.filename,
        content_type=file.content_type,
        size_bytes=file.size_bytes,
        sha256=file.sha256 or b"",
        state=pb.File.READY if file.ready else pb.File.PENDING,
        create_time=_time(file.create_time),
        complete_time=_time(file.complete_time) if file.complete_time else None,
    )


def _time(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
