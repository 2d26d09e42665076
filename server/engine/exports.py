"""Copies of all that belongs to an account, made in the background: one ZIP file each, of one moment.

The file's row is there before its bytes, and the export says which file it is: killed at any step, the next run begins
a new file and removes the one before, or finds that it is whole.
"""

from __future__ import annotations

import base64
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import orjson
from google.protobuf import json_format

from server.caller import SYSTEM, Caller, Kind
from server.engine.access import Access
from server.engine.audit import Audit
from server.engine.files import Files
from server.engine.identity import fresh_id
from server.engine.letters import Letters
from server.errors import NotFound, Stale
from server.schema.model import Resource, Schema
from server.store import account_data as stored
from server.store import mails
from server.store.account_data import Snapshot, StoredAccountData, StoredExport
from server.store.archives import Archive, ArchiveFull, Archives
from server.store.changes import Origin

Statements = list[tuple[str, Sequence[object]]]

_UNFIT = re.compile(r'[<>:"|?*\x00-\x1f\x7f]')
"""Characters that some system does not take in the name of a file."""

ENTRIES_MAX = 20_000
"""Files whose bytes are in one export at most: what is known of entries is in memory until the end."""

README = """This is what belongs to the account {name} at {app}, as it was on {time:%d %B %Y, %H:%M:%S} UTC.

account.json      The account.
sessions.json     Where it is signed in.
identities.json   Accounts elsewhere that sign in to it.
passkeys.json     Its passkeys, without their keys.
audit.json        What it did, and what was done to it.
resources/        What it created: one file for each kind, one resource a line, as JSON, in the order of their names.
                  What the app does not show to the account is not there.
files.json        What is known of its files. `entry` says where the bytes are in here. It is empty for a file whose upload is
                  not complete, that was deleted while this was written, or that did not fit ({most} MiB and {entries} files,
                  the oldest first): a GET of `link` answers where to read it, to who is signed in to the account.
files/            The bytes of its files.
"""


class Exports:
    """Makes exports, and removes them when their time is over. `bytes_max` bounds the files in one, together; `life` is how
    long one is kept."""

    def __init__(
        self,
        schema: Schema,
        access: Access,
        data: StoredAccountData,
        files: Files,
        archives: Archives,
        letters: Letters,
        audit: Audit,
        micros: Callable[[], int],
        *,
        app: str,
        url: str,
        bytes_max: int,
        life: timedelta,
    ) -> None:
        self._schema = schema
        self._access = access
        self._data = data
        self._files = files
        self._archives = archives
        self._letters = letters
        self._audit = audit
        self._micros = micros
        self._app = app
        self._url = url.rstrip("/")
        self._bytes_max = bytes_max
        self._life = life

    async def work(self, name: str, origin: Origin) -> Sequence[tuple[str, Sequence[object]]]:
        """Makes the export `name`, where it is still wanted; what to commit then.

        Raises Unavailable where S3 or the database is away, Stale where its file was deleted meanwhile: it is made anew
        then.
        """
        export = await self._data.export(name.removeprefix("exports/"))
        if export is None or export.state != "RUNNING":
            return ()
        if not await self._whole(export.file):
            file = await self._files.promise(export.user_id, _filename(export), "application/zip")
            if file is None:  # the account is on its way out
                return [stored.export_failed(export.id, self._life)]
            before = await self._data.write_to(export.id, file)
            if before is None:  # it was given up in this very moment
                await self._dropped(file)
                return ()
            if before:
                await self._dropped(before)
            try:
                await self._make(export, file)
            except ArchiveFull:
                await self._dropped(file)
                return self._failed(export)
            export = await self._data.export(export.id) or export
        return await self._ready(export, origin)

    async def sweep(self) -> int:
        """Removes exports whose time is over, with their files, and gives up those that took too long; how many it were.
        To be called now and then, by anyone."""
        given_up = await self._data.give_up(self._life)
        over = await self._data.over()
        for export in over:
            if export.file:
                await self._dropped(export.file)
        await self._data.remove([export.id for export in over])
        return given_up + len(over)

    async def _make(self, export: StoredExport, file: str) -> None:
        async with self._archives.begin() as archive:
            async with self._data.snapshot(export.user_id) as snapshot:
                await self._told(archive, snapshot)
            entries = await self._attached(archive, export.user_id)
            await _array(archive, "files.json", self._listed(export.user_id, entries))
            size = await archive.finish()
            if not await self._files.keep(file, archive.file, size):
                raise Stale("The export's file was deleted while it was written.", reason="EXPORT_DELETED")

    async def _told(self, archive: Archive, snapshot: Snapshot) -> None:
        """Writes all but the files."""
        account = await snapshot.account()
        if account is None:
            raise NotFound("There is no such account.", resource=("transom.dev/User", ""))
        caller = Caller(
            kind=Kind.ANONYMOUS if account["anonymous"] else Kind.USER,
            name=f"users/{account['id']}",
            roles=frozenset(account["roles"]),
            verified=account["verified"],
            session_time=time.time(),
        )
        account["name"] = f"users/{account.pop('id')}"
        readme = README.format(
            name=caller.name, app=self._app, time=datetime.now(UTC), most=self._bytes_max >> 20, entries=ENTRIES_MAX
        )
        await self._entry(archive, "README.txt", readme.encode())
        await self._entry(archive, "account.json", _json(account))
        await _array(archive, "sessions.json", snapshot.sessions())
        await _array(archive, "identities.json", snapshot.identities())
        await _array(archive, "passkeys.json", snapshot.passkeys())
        await _array(archive, "audit.json", snapshot.audit())
        for resource in self._schema.resources.values():
            await self._resources(archive, snapshot, resource, caller)

    async def _resources(self, archive: Archive, snapshot: Snapshot, resource: Resource, caller: Caller) -> None:
        """One kind of resources, as the account may see them: rules hide here what they hide elsewhere."""
        async with archive.entry(f"resources/{resource.message}.jsonl"):
            async for rows in snapshot.resources(resource):
                shown = [(row.name, await self._access.seen(caller, resource, row)) for row in rows]
                payloads = [(name, payload) for name, payload in shown if payload is not None]
                await archive.write(partial(self._lines, resource, payloads))

    def _lines(self, resource: Resource, payloads: Sequence[tuple[str, bytes]]) -> bytes:
        parse = self._schema.message_class(resource.message).FromString
        return b"".join(self._line(parse, name, payload) for name, payload in payloads)

    def _line(self, parse: Callable[[bytes], Any], name: str, payload: bytes) -> bytes:
        try:
            told = json_format.MessageToDict(parse(payload), descriptor_pool=self._schema.pool)
        except (TypeError, json_format.Error):  # an Any of a type that this schema does not know
            told = {"name": name, "payload": base64.b64encode(payload).decode()}
        return orjson.dumps(told) + b"\n"

    async def _attached(self, archive: Archive, user: str) -> dict[str, str]:
        """Writes the bytes of files, as far as there is room; the entry of each by its name."""
        room = self._bytes_max
        entries: dict[str, str] = {}
        async for files in self._data.files(user):
            for file in files:
                if file["state"] != "READY" or file["size_bytes"] > room or len(entries) >= ENTRIES_MAX:
                    continue
                entry = f"{file['name']}/{_UNFIT.sub('_', file['filename']) or 'file'}"
                async with archive.entry(entry, packed=False):
                    try:
                        await self._files.pour(file["name"], archive.put)
                    except NotFound:
                        continue  # it was deleted meanwhile: the entry stays empty
                entries[file["name"]] = entry
                room -= file["size_bytes"]
        return entries

    async def _listed(self, user: str, entries: Mapping[str, str]) -> AsyncIterator[list[dict[str, Any]]]:
        """What is known of all files, and where their bytes are."""
        async for files in self._data.files(user):
            for file in files:
                file["entry"] = entries.get(file["name"], "")
                file["link"] = f"{self._url}/transom/v1/{file['name']}:downloadUrl"
            yield files

    async def _whole(self, file: str) -> bool:
        """Whether the file of an earlier run is whole: it died before it could say so."""
        try:
            return bool(file) and (await self._files.get(SYSTEM, file)).ready
        except NotFound:
            return False

    async def _ready(self, export: StoredExport, origin: Origin) -> Statements:
        user = f"users/{export.user_id}"
        last: Statements = [
            stored.export_ready(export.id, export.file, self._life),
            self._audit.statement("export_ready", actor=origin.caller, target=user, details={"export": export.id}),
        ]
        account = await self._data.state(export.user_id)
        if account is not None and account.email and account.delete_time is None:
            letter = self._letters.exported(account.email, datetime.now(UTC) + self._life)
            last += mails.queued(
                fresh_id(self._micros()),
                account.email,
                letter.subject,
                letter.text,
                caller=origin.caller,
                request_id=origin.request_id,
                fleeting=True,
            )
        return last

    def _failed(self, export: StoredExport) -> Statements:
        user = f"users/{export.user_id}"
        return [
            stored.export_failed(export.id, self._life),
            self._audit.statement("export_ready", target=user, outcome="ARCHIVE_FULL", details={"export": export.id}),
        ]

    async def _dropped(self, file: str) -> None:
        with contextlib.suppress(NotFound):
            await self._files.delete(SYSTEM, file)

    @staticmethod
    async def _entry(archive: Archive, name: str, data: bytes) -> None:
        async with archive.entry(name):
            await archive.write(lambda: data)


async def _array(archive: Archive, name: str, rows: AsyncIterator[list[dict[str, Any]]]) -> None:
    """An entry that is a JSON array, an element a line."""
    async with archive.entry(name):
        before = b"["
        async for some in rows:
            await archive.write(partial(_elements, before, some))
            before = b","
        await archive.write(lambda: b"[]\n" if before == b"[" else b"\n]\n")


def _elements(before: bytes, rows: Sequence[dict[str, Any]]) -> bytes:
    return before + b"\n" + b",\n".join(orjson.dumps(row, option=orjson.OPT_UTC_Z) for row in rows)


def _json(told: dict[str, Any]) -> bytes:
    return orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z) + b"\n"


def _filename(export: StoredExport) -> str:
    return f"export-{export.create_time:%Y-%m-%d}-{export.id[:8]}.zip"
