"""References from resources to files: what may be referred to, who may read a file because of it, and what becomes of references
to a file that is deleted.

Whoever refers to a file holds its row until the reference is committed, and whoever deletes one locks it before it is looked for
references: neither can miss the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from server.caller import Caller
from server.engine import content_types, file_names
from server.engine.access import Access
from server.engine.decisions import Decisions
from server.engine.referring import AFFECTED_MAX, REFERRED_TO
from server.errors import Precondition, Refusal, Stale
from server.schema.model import OnDelete, Resource, Schema
from server.store import file_references
from server.store.changes import Change, Origin, Outcome, ReferredFile, Row
from server.store.file_references import FileReferences, Place
from server.store.records import Records
from server.store.transactions import Transaction

LOOKED_AT = 50
"""Resources of one field, the newest by name, by which it is found out whether somebody may read a file."""


class FileReferrers:
    """What refers to files, in one schema."""

    def __init__(
        self, schema: Schema, decisions: Decisions, access: Access, records: Records, references: FileReferences
    ) -> None:
        self._places = [Place(r, f, one) for r in schema.resources.values() for f in r.fields for one in f.files]
        self._decisions = decisions
        self._access = access
        self._records = records
        self._references = references

    async def shows(self, caller: Caller, name: str) -> bool:
        """Whether the caller may see a field of a resource that refers to the file."""
        found = await self._references.of(self._places, name, LOOKED_AT)
        for place, rows in zip(self._places, found, strict=True):
            for row in rows:
                payload = await self._access.seen(caller, place.resource, row)
                if payload is not None and _refers(self._decisions.parse(place.resource, payload), place, name):
                    return True
        return False

    async def refers(self, name: str) -> bool:
        """Whether any resource refers to the file."""
        return any(await self._references.of(self._places, name, 1))

    async def check(self, caller: Caller, files: Sequence[ReferredFile]) -> None:
        """Raises Precondition where the caller may not read one of the files: whoever reads the resource could, then."""
        if caller.trusted:
            return
        held = await self._references.held([one.id for one in files])
        for one in files:
            file = held.get(one.id)
            if file is None or file.private:
                raise unreferable(one)
            if file.owner != caller.name and not file.public and not await self.shows(caller, one.name):
                raise unreferable(one)

    async def delete(self, caller: Caller, id: str) -> bool:
        """Deletes a file together with the references to it that are to be cleared; False where there is no such file.

        Raises Precondition (REFERRED_TO, TOO_MANY_REFERENCES), and Stale.
        """
        name, origin = f"files/{id}", Origin(caller.name)
        async with self._records.transaction() as transaction:
            if not await file_references.lock(transaction, id):
                return False
            cleared: dict[tuple[str, str], tuple[Resource, Row]] = {}
            for place in self._places:
                rows = await file_references.referring(transaction, place, name, AFFECTED_MAX + 1)
                if rows and place.reference.on_delete is not OnDelete.CLEAR:
                    raise _kept(name, REFERRED_TO, "is referred to by what keeps it.")
                cleared |= {(place.resource.message, row.name): (place.resource, row) for row in rows}
            if len(cleared) > AFFECTED_MAX:
                raise _kept(name, "TOO_MANY_REFERENCES", f"is referred to by more than {AFFECTED_MAX} resources.")
            changes = [self._decisions.detached(resource, row, name, origin) for resource, row in cleared.values()]
            became = await transaction.carry_out(changes)
            for one in became:
                if isinstance(one, Refusal):
                    raise one
                if one is not Outcome.DONE:
                    raise Stale(
                        "Others changed the same at the same time; try again.", reason="CONTENTION", retry_after=0.1
                    )
            await file_references.delete(transaction, id, caller.name)
        return True


async def held(transaction: Transaction, change: Change) -> Refusal | None:
    """Holds the files that a change newly refers to; why it cannot be done, where one is not there or not what its field
    takes."""
    files = await file_references.hold(transaction, [one.id for one in change.files])
    for one in change.files:
        file = files.get(one.id)
        if file is None:
            return unreferable(one)
        if file.state == "PENDING":
            return _untaken(one, "FILE_NOT_UPLOADED", "is not uploaded yet")
        if file.state == "REJECTED":
            return _untaken(one, "FILE_REJECTED", "was rejected")
        kind = content_types.media_type(file.content_type) or content_types.ANYTHING
        if not one.reference.takes(kind):
            return _untaken(one, "FILE_TYPE_NOT_TAKEN", f"is {kind}, which is not taken here")
        most = one.reference.size_bytes_max
        if most and file.size_bytes > most:
            return _untaken(one, "FILE_TOO_LARGE", f"has more than {most} bytes")
    return None


def unreferable(one: ReferredFile) -> Precondition:
    """The refusal of a reference to a file that is not there, or not for this caller."""
    return _untaken(one, "REFERENCE_NOT_FOUND", "does not exist")


def _untaken(one: ReferredFile, reason: str, what: str) -> Precondition:
    return Precondition(
        f"{one.path}: {one.name} {what}.",
        reason=reason,
        metadata={"field": one.path, "name": one.name},
        resource=("transom.dev/File", one.name),
    )


def _kept(name: str, reason: str, what: str) -> Precondition:
    """Says neither what refers to it nor how much that is: the caller may not be allowed to see any of it."""
    return Precondition(f"{name} {what}", reason=reason, metadata={"name": name}, resource=("transom.dev/File", name))


def _refers(message: object, place: Place, name: str) -> bool:
    return any(one == name for _, one in file_names.of(message, place.field, place.reference))
