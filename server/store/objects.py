"""S3: the bytes of files. The one place that knows boto3."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, BinaryIO, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as NoConnection

from server.errors import Internal, NotFound, Precondition, Unavailable
from server.store.signed_links import Since, signed_since
from server.store.threads import Threads

T = TypeVar("T")

WORKERS = 8
"""Calls to S3 at once."""

WAITING = 64
"""Calls that wait for their turn; above that one is refused."""

PIECE = 1 << 20
"""Bytes that are in memory of an object that is poured."""

LISTED = 1000
"""Objects that one call lists at most: S3's own limit."""

_MISSING = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchUpload"})
_CHANGED = frozenset({"412", "PreconditionFailed", "InvalidPart", "InvalidPartOrder"})


class ObjectMissing(NotFound):
    """There is no such object."""

    reason = "OBJECT_MISSING"


class ObjectChanged(Precondition):
    """The object is not the one that was looked at."""

    reason = "OBJECT_CHANGED"


@dataclass(frozen=True, slots=True)
class Object:
    """What S3 says of an object. `version` changes with its bytes; `sha256` is None where S3 was given none."""

    size_bytes: int
    sha256: bytes | None
    version: str


@dataclass(frozen=True, slots=True)
class SignedPut:
    """Where to PUT, and the headers that must be sent with it."""

    url: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class SignedForm:
    """Where a form is posted, and the fields that it must have before its field `file`."""

    url: str
    fields: dict[str, str]


@dataclass(frozen=True, slots=True)
class Part:
    """One part that has arrived; `tag` changes with its bytes."""

    number: int
    size_bytes: int
    tag: str


@dataclass(frozen=True, slots=True)
class Listed:
    """An object, or an upload in parts that is under way (`upload` is its id), and since when."""

    key: str
    time: datetime
    upload: str = ""


class Objects:
    """One bucket of S3.

    Calls run in WORKERS threads and raise Unavailable where S3 does not
    answer. `public_endpoint` is what clients reach: signed URLs lead there.
    """

    def __init__(
        self, *, endpoint: str, public_endpoint: str | None, region: str, bucket: str, access_key: str, secret_key: str
    ) -> None:
        session = boto3.session.Session()  # one: it reads once what it knows of S3

        def client(url: str) -> Any:
            return session.client(
                "s3",
                endpoint_url=url,
                region_name=region,
                aws_access_key_id=access_key,
                aws_secret_access_key=secret_key,
                config=Config(
                    signature_version="s3v4",
                    s3={"addressing_style": "path"},
                    connect_timeout=2,
                    read_timeout=20,
                    retries={"total_max_attempts": 2, "mode": "standard"},
                    max_pool_connections=WORKERS,
                    # Otherwise boto3 signs a CRC of its own into URLs, which no client would send.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
            )

        self._client = client(endpoint)
        self._signer = client(public_endpoint) if public_endpoint and public_endpoint != endpoint else self._client
        self._bucket = bucket
        self._secret_key = secret_key
        self._threads = Threads("objects", workers=WORKERS, waiting=WAITING, full="Too many file calls at this moment.")

    async def prepare(self) -> None:
        """Makes the bucket where it is missing, and lets browsers of any origin PUT, POST and GET by signed URL."""
        await self._run(self._prepare)

    def signed_put(
        self, key: str, content_type: str, size_bytes: int, sha256: bytes | None, life: timedelta
    ) -> SignedPut:
        """Allows whoever holds it to PUT exactly this much of this type, and these bytes where `sha256` is given."""
        parameters = {"Bucket": self._bucket, "Key": key, "ContentType": content_type, "ContentLength": size_bytes}
        headers = {"content-type": content_type, "content-length": str(size_bytes)}
        if sha256 is not None:
            headers["x-amz-checksum-sha256"] = parameters["ChecksumSHA256"] = base64.b64encode(sha256).decode()
        return SignedPut(self._signed("put_object", parameters, life), headers)

    def signed_post(self, key: str, content_type: str, size_bytes_max: int, life: timedelta) -> SignedForm:
        """Allows whoever holds it to post a form with at most so much of this type, and at least one byte."""
        fields = {"Content-Type": content_type, "success_action_status": "201"}
        with _translated():
            signed = self._signer.generate_presigned_post(
                self._bucket,
                key,
                Fields=dict(fields),
                Conditions=[
                    *({name: value} for name, value in fields.items()),
                    ["content-length-range", 1, size_bytes_max],
                ],
                ExpiresIn=int(life.total_seconds()),
            )
        return SignedForm(signed["url"], signed["fields"])

    async def signed_parts(
        self, key: str, upload: str, parts: Sequence[tuple[int, int, bytes | None]], life: timedelta
    ) -> list[SignedPut]:
        """Allows whoever holds them to PUT these parts, each a number, exactly this many bytes, and a SHA-256 or None. In a
        thread: a hundred take as long as many calls."""
        return await self._run(lambda: [self._signed_part(key, upload, *part, life) for part in parts])

    def _signed_part(
        self, key: str, upload: str, number: int, size_bytes: int, sha256: bytes | None, life: timedelta
    ) -> SignedPut:
        parameters: dict[str, Any] = {
            "Bucket": self._bucket,
            "Key": key,
            "UploadId": upload,
            "PartNumber": number,
            "ContentLength": size_bytes,
        }
        headers = {"content-length": str(size_bytes)}
        if sha256 is not None:
            headers["x-amz-checksum-sha256"] = parameters["ChecksumSHA256"] = base64.b64encode(sha256).decode()
        return SignedPut(self._signed("upload_part", parameters, life), headers)

    def signed_get(
        self,
        key: str,
        content_type: str,
        disposition: str,
        life: timedelta,
        *,
        caching: str = "",
        since: Since | None = None,
    ) -> str:
        """A URL that anybody may read the object from, as this type and with this Content-Disposition and, where it is given,
        Cache-Control, for this long from now; or as `since` says: then it is the same each time."""
        parameters = {
            "Bucket": self._bucket,
            "Key": key,
            "ResponseContentType": content_type,
            "ResponseContentDisposition": disposition,
        } | ({"ResponseCacheControl": caching} if caching else {})
        url = self._signed("get_object", parameters, life)
        return signed_since(url, self._secret_key, since) if since is not None else url

    async def look(self, key: str) -> Object:
        """What there is. Raises ObjectMissing."""
        head = await self._run(lambda: self._client.head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED"))
        checksum = head.get("ChecksumSHA256")
        return Object(head["ContentLength"], base64.b64decode(checksum) if checksum else None, head["ETag"])

    async def beginning(self, key: str, version: str, size_bytes: int) -> bytes:
        """The first `size_bytes` bytes of that version. Raises ObjectMissing, ObjectChanged."""
        return await self._run(
            lambda: self._client.get_object(
                Bucket=self._bucket, Key=key, IfMatch=version, Range=f"bytes=0-{size_bytes - 1}"
            )["Body"].read(size_bytes)
        )

    async def read(self, key: str, most: int) -> bytes:
        """All bytes of an object, but never more than `most`. Raises ObjectMissing."""
        return await self._run(lambda: self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read(most))

    async def write(self, key: str, data: bytes, content_type: str) -> None:
        """Writes an object, in place of what is there."""
        await self._run(
            lambda: self._client.put_object(Bucket=self._bucket, Key=key, Body=data, ContentType=content_type)
        )

    async def write_from(self, key: str, data: BinaryIO, content_type: str) -> bytes:
        """Writes an object of all that is in a file, at most 5 GiB, in place of what is there; its SHA-256. The file must
        not be touched meanwhile."""
        return await self._run(partial(self._write_from, key, data, content_type))

    async def pour(self, key: str, into: Callable[[bytes], object]) -> None:
        """Gives all bytes of an object to `into`, in pieces, in a thread. Raises ObjectMissing."""
        await self._run(partial(self._pour, key, into))

    async def copy(self, source: str, version: str, target: str, content_type: str) -> None:
        """Copies that version of `source` within S3. Raises ObjectMissing, ObjectChanged."""
        await self._run(
            lambda: self._client.copy_object(
                Bucket=self._bucket,
                Key=target,
                CopySource={"Bucket": self._bucket, "Key": source},
                CopySourceIfMatch=version,
                MetadataDirective="REPLACE",
                ContentType=content_type,
            )
        )

    async def begin_parts(self, key: str, content_type: str) -> str:
        """Begins an upload in parts; its id. The object is there once it is finished."""
        begun = await self._run(
            lambda: self._client.create_multipart_upload(Bucket=self._bucket, Key=key, ContentType=content_type)
        )
        return str(begun["UploadId"])

    async def parts(self, key: str, upload: str, after: int, limit: int) -> list[Part]:
        """At most `limit` parts that have arrived, with numbers above `after`, in order. Raises ObjectMissing where the upload
        is not under way (any more)."""
        found = await self._run(
            lambda: self._client.list_parts(
                Bucket=self._bucket, Key=key, UploadId=upload, PartNumberMarker=after, MaxParts=limit
            )
        )
        return [Part(part["PartNumber"], part["Size"], part["ETag"]) for part in found.get("Parts", ())]

    async def finish_parts(self, key: str, upload: str, parts: Sequence[Part]) -> None:
        """Makes the object of these parts: from then on no more can be sent. Raises ObjectMissing where the upload is not under
        way (any more), ObjectChanged where a part is not the one that was looked at."""
        told = [{"PartNumber": part.number, "ETag": part.tag} for part in parts]
        await self._run(
            lambda: self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": told}
            )
        )

    async def abort_parts(self, key: str, upload: str) -> None:
        """Removes the parts of an upload; one that is not under way counts as removed."""
        with suppress(ObjectMissing):
            await self._run(lambda: self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload))

    async def listed(self, prefix: str, after: str, limit: int) -> list[Listed]:
        """At most `limit` objects whose keys begin so and come after this one, in order."""
        found = await self._run(
            lambda: self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, StartAfter=after, MaxKeys=limit)
        )
        return [Listed(one["Key"], one["LastModified"]) for one in found.get("Contents", ())]

    async def under_way(
        self, prefix: str, after: tuple[str, str], limit: int
    ) -> tuple[list[Listed], tuple[str, str] | None]:
        """At most `limit` uploads in parts under way whose keys begin so, and after what to go on; None at the end. What a server
        goes on after is its own: some order them by key, others by upload."""
        markers = {name: told for name, told in zip(("KeyMarker", "UploadIdMarker"), after, strict=True) if told}
        found = await self._run(
            lambda: self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=prefix, MaxUploads=limit, **markers)
        )
        following = found.get("NextKeyMarker") or "", found.get("NextUploadIdMarker") or ""
        listed = [Listed(one["Key"], one["Initiated"], one["UploadId"]) for one in found.get("Uploads", ())]
        return listed, following if found.get("IsTruncated") and any(following) else None

    async def delete(self, *keys: str) -> None:
        """Deletes objects; those that are not there count as deleted."""
        for key in keys:
            await self._run(partial(self._client.delete_object, Bucket=self._bucket, Key=key))

    async def clear(self, prefix: str, but: str = "") -> None:
        """Deletes all objects whose keys begin so, but for one."""
        after = ""
        while found := await self.listed(prefix, after, LISTED):
            await self.delete(*(one.key for one in found if one.key != but))
            after = found[-1].key

    def close(self) -> None:
        """Ends the threads and connections."""
        self._threads.close()
        self._client.close()

    async def _run(self, work: Callable[[], T]) -> T:
        with _translated():
            return await self._threads.run(work)

    def _signed(self, method: str, parameters: dict[str, Any], life: timedelta) -> str:
        with _translated():
            url: str = self._signer.generate_presigned_url(
                method, Params=parameters, ExpiresIn=int(life.total_seconds())
            )
            return url

    def _write_from(self, key: str, data: BinaryIO, content_type: str) -> bytes:
        data.seek(0)
        hashed = hashlib.sha256()
        while piece := data.read(PIECE):
            hashed.update(piece)
        data.seek(0)
        self._client.put_object(Bucket=self._bucket, Key=key, Body=data, ContentType=content_type)
        return hashed.digest()

    def _pour(self, key: str, into: Callable[[bytes], object]) -> None:
        with closing(self._client.get_object(Bucket=self._bucket, Key=key)["Body"]) as body:
            while piece := body.read(PIECE):
                into(piece)

    def _prepare(self) -> None:
        try:
            self._client.head_bucket(Bucket=self._bucket)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            try:
                self._client.create_bucket(Bucket=self._bucket)
            except (self._client.exceptions.BucketAlreadyOwnedByYou, self._client.exceptions.BucketAlreadyExists):
                pass  # another process was faster
        rule = {
            "AllowedOrigins": ["*"],  # the signature is the permission, not the page
            "AllowedMethods": ["GET", "HEAD", "PUT", "POST"],
            "AllowedHeaders": ["*"],
            "ExposeHeaders": ["ETag", "Content-Length", "Content-Disposition"],
            "MaxAgeSeconds": 3600,
        }
        self._client.put_bucket_cors(Bucket=self._bucket, CORSConfiguration={"CORSRules": [rule]})


@contextmanager
def _translated() -> Iterator[None]:
    """Speaks our errors in place of botocore's."""
    try:
        yield
    except ClientError as refused:
        code = refused.response.get("Error", {}).get("Code", "")
        status = refused.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        if code in _MISSING:
            raise ObjectMissing("There are no such bytes.") from refused
        if code in _CHANGED:
            raise ObjectChanged("The bytes changed meanwhile.") from refused
        if status >= 500 or status == 429:
            raise _away() from refused
        raise Internal("The file store refused a call.") from refused
    except (NoConnection, HTTPClientError, IncompleteReadError) as away:  # no connection, no answer, or half of one
        raise _away() from away
    except BotoCoreError as broken:
        raise Internal("The file store could not be called.") from broken


def _away() -> Unavailable:
    return Unavailable("The file store is away for now.", reason="FILES_UNAVAILABLE", retry_after=2.0)
