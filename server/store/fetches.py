"""Rows by their names, of any tables: what is asked for in one turn is one exchange with Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from server.errors import Refusal, Unavailable
from server.store import binary
from server.store.changes import Row
from server.store.gathering import Gathering
from server.store.pipeline import Result, Step

Key = tuple[str, str]
"""The message and the name of a resource."""
Run = Callable[[Sequence[Step]], Awaitable[list[Result]]]

TOGETHER = 256
"""Questions that share an exchange at most."""


class Fetches:
    """Asks one Postgres server for rows. `statements` are the statements that fetch by names, by message; `run` carries
    statements out as one transaction; `lanes` is how many such transactions may be under way."""

    def __init__(self, statements: Mapping[str, bytes], run: Run, lanes: int) -> None:
        self._statements = statements
        self._run = run
        self._asking: Gathering[Sequence[Key], list[Row | None]] = Gathering(
            self._answer, size=TOGETHER, lanes=lanes, light=True
        )

    def ask(self, keys: Sequence[Key]) -> asyncio.Future[list[Row | None]]:
        """The rows of these keys, in their order; None where there is none."""
        return self._asking.ask(keys)

    async def _answer(self, questions: list[Sequence[Key]]) -> list[list[Row | None] | Exception]:
        wanted: dict[str, dict[str, None]] = {}
        for keys in questions:
            for message, name in keys:
                # Nothing is called what no text of Postgres can hold; and asking for it would fail for all who ask along.
                if "\0" not in name:
                    wanted.setdefault(message, {})[name] = None
        found = await self._found(wanted) if wanted else {}
        return [_picked(keys, found) for keys in questions]

    async def _found(self, wanted: Mapping[str, Iterable[str]]) -> dict[str, dict[str, Row] | Refusal]:
        """The rows of each table by name. Where Postgres refuses all together each table is asked alone."""
        steps = [Step(self._statements[message], [binary.text_array(list(names))]) for message, names in wanted.items()]
        try:
            return dict(zip(wanted, map(rows_of, await self._run(steps)), strict=True))
        except Refusal as refusal:
            if len(steps) == 1 or isinstance(refusal, Unavailable):
                raise
        found: dict[str, dict[str, Row] | Refusal] = {}
        for message, step in zip(wanted, steps, strict=True):
            try:
                [result] = await self._run([step])
                found[message] = rows_of(result)
            except Refusal as refusal:
                found[message] = refusal
        return found


def rows_of(result: Result) -> dict[str, Row]:
    """What a statement that fetches by names found, by name."""
    value = result.get_value
    found: dict[str, Row] = {}
    for i in range(result.ntuples):
        name = (value(i, 0) or b"").decode()
        found[name] = Row(name, value(i, 1) or b"", binary.int8(value(i, 2)), (value(i, 3) or b"").decode())
    return found


def _picked(keys: Sequence[Key], found: Mapping[str, dict[str, Row] | Refusal]) -> list[Row | None] | Exception:
    rows: list[Row | None] = []
    for message, name in keys:
        table = found.get(message)
        if isinstance(table, Refusal):
            return table
        rows.append(table.get(name) if table is not None else None)
    return rows
