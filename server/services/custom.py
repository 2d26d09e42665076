"""Custom methods: an app's own functions, each call one unit of work."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from google.protobuf.message import DecodeError, Message

from server.apps.declarations import Implements
from server.apps.templates import Templates
from server.apps.work import Accounts, Call, Files, Tasks
from server.engine import bounds
from server.engine.bodies import Body
from server.engine.resources import Resources
from server.errors import Internal, Invalid, Stale, Unimplemented
from server.schema.model import Kind, Method
from server.services.current import current
from server.services.standard import Behavior, calling
from server.services.standard.repeating import Repeating
from server.services.veils import Veils

ATTEMPTS = 5
"""How often a function runs where others change what it read."""

PATIENCE = 5.0
"""Seconds after which it is not run again: each time, it may have waited for a lock."""


class CustomMethods:
    """The behaviours of an app's custom methods."""

    def __init__(
        self,
        resources: Resources,
        files: Files,
        accounts: Accounts,
        repeating: Repeating | None = None,
        *,
        templates: Templates | None = None,
        tasks: Tasks | None = None,
    ) -> None:
        """Without `repeating`, requests have no ids."""
        self._resources = resources
        self._repeating = repeating
        self._files = files
        self._accounts = accounts
        self._templates = templates
        self._tasks = tasks

    def behavior(self, method: Method, implements: Implements) -> Behavior:
        """Runs the function, commits what it gathered, answers what it returned. Where the request has `validate_only`
        (AIP-163), all is done and taken back.
        """
        access = self._resources.access
        veils = self._veils(method)
        request_class = self._resources.schema.message_class(method.request)
        response_class = self._resources.schema.message_class(method.response)

        masked = method.kind is Kind.UPDATE and "update_mask" in method.fields
        body = Body(self._resources.schema, method) if masked else None

        def make(resources: Resources) -> Behavior:
            async def run(data: bytes, _: Any) -> bytes:
                calls, request = calling(), request_class.FromString(data)
                if body is not None and (now := current()).body is not None:
                    # Over REST, too, the mask says what to change; that a message is there is for the engine.
                    paths = body.mask(request, now.body, now.path) or ()
                    request.update_mask.paths[:] = [path for path in paths if not path.endswith(".")]
                self._resources.decisions.behaviors.clear(request)
                self._resources.decisions.check_request(request)
                rehearsal = "validate_only" in method.fields and request.validate_only
                begun = time.monotonic()
                for attempt in range(ATTEMPTS):
                    call = Call(
                        calls,
                        resources,
                        self._files,
                        self._accounts,
                        request,
                        response_class,
                        templates=self._templates,
                        tasks=self._tasks,
                    )
                    answer = await implements.function(call)
                    reply = _reply(method, answer, response_class)
                    for message in veils.within(reply):
                        await call.show(message)
                    data = reply.SerializeToString(deterministic=True)
                    try:
                        await call.commit(rehearsal=rehearsal)
                        return data
                    except Stale:
                        if attempt == ATTEMPTS - 1 or time.monotonic() - begun > PATIENCE:
                            raise
                raise AssertionError("unreachable")

            return run

        # What it answers is the app's own to say, an operation, too.
        repeated = replace(method, operation=None)
        run = self._repeating.behavior(repeated, make) if self._repeating else make(self._resources)

        async def custom(data: bytes, context: Any) -> bytes:
            calls = calling()
            try:
                request = request_class.FromString(data)
            except DecodeError as fault:
                raise Invalid("The request cannot be decoded.", reason="MALFORMED_REQUEST") from fault
            bounds.check(request, len(data))
            await access.call(calls, method, request)
            return await run(data, context)

        return custom

    def _veils(self, method: Method) -> Veils:
        resources, access = self._resources.schema.resources, self._resources.access
        reply = self._resources.schema.message_class(method.response).DESCRIPTOR
        return Veils(reply, {m for m, resource in resources.items() if access.rules(resource).reads})


def unimplemented(method: Method) -> Behavior:
    """Answers that the schema declares a method which nobody wrote."""

    async def missing(data: bytes, _: Any) -> bytes:
        why = f" Its name begins like that of a standard method, but {method.why_custom}." if method.why_custom else ""
        raise Unimplemented(
            f"{method.full_name} is declared in the schema, but the app does not implement it.{why}",
            metadata={"method": method.full_name},
        )

    return missing


def _reply(method: Method, answer: Any, response_class: type[Message]) -> Message:
    """What the function answered, as a message of its own: the app may have kept the one it gave."""
    if answer is None:
        return response_class()
    if not isinstance(answer, Message) or answer.DESCRIPTOR.full_name != method.response:
        raise Internal("Internal error.") from TypeError(
            f"{method.full_name} returned {type(answer)}, not {method.response}"
        )
    reply = response_class()
    reply.CopyFrom(answer)
    return reply
