"""An update, from what is there to what would be: what it may speak of, whether it may be, and what its caller sees of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from server.caller import Caller
from server.engine.behaviors import is_empty
from server.engine.refusals import refused
from server.query.rules.scene import Asking
from server.schema.model import Field, Resource
from server.store.changes import Row


class Judge(Protocol):
    """Who judges what it would become; see `server.engine.access.Access`."""

    async def changed(self, caller: Caller, resource: Resource, row: Row, asking: Asking, result: Any) -> None: ...


class Changing:
    """One update that is being judged."""

    __slots__ = ("_asking", "_caller", "_hidden", "_judge", "_resource", "_row", "_veiled")

    def __init__(
        self,
        judge: Judge,
        caller: Caller,
        resource: Resource,
        row: Row,
        asking: Asking | None,
        hidden: Sequence[Field],
        veiled: Sequence[Field] = (),
    ) -> None:
        self._veiled = veiled
        self._judge = judge
        self._caller = caller
        self._resource = resource
        self._row = row
        self._asking = asking
        self._hidden = hidden

    @property
    def hidden(self) -> frozenset[str]:
        """The fields that the caller may not see."""
        return frozenset(field.name for field in self._hidden)

    def kept(self, message: Any, paths: Sequence[str] | None) -> frozenset[str]:
        """The fields that stay as they are, because the caller may not see them. Raises Denied where the update speaks of
        one: by a path of its mask, or by a value."""
        named = {path.partition(".")[0].strip("`") for path in paths or ()}
        for field in self._hidden:
            if field.name in named or not is_empty(message, field.descriptor):
                raise refused(self._caller, self._resource, "update", field.name)
        return frozenset(field.name for field in self._hidden)

    async def check(self, result: Any) -> None:
        """Judges what it would become. Raises Denied or Unauthenticated."""
        if self._asking is not None:
            await self._judge.changed(self._caller, self._resource, self._row, self._asking, result)

    def shown(self, result: Any) -> Any:
        """The result as the caller may see it."""
        if not self._hidden and not self._veiled:
            return result
        copy = type(result)()
        copy.CopyFrom(result)
        for field in self._hidden:
            copy.ClearField(field.name)
        for field in self._veiled:
            copy.snapshot.ClearField(field.name)
        return copy
