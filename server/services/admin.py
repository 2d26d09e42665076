"""transom.admin.v1: requests → engine → replies."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from transom.admin.v1 import admin_pb2 as pb
from transom.admin.v1 import admin_pb2_grpc

from server.engine.admins import CHANGEABLE, Admins, Change, User
from server.engine.explanations import Explanations
from server.engine.keys import Keys
from server.errors import Invalid
from server.services.current import caller, current
from server.services.explanation_messages import explanation_message
from server.services.sign_in_answers import session_message, time_message
from server.store.audit import StoredEntry, Wanted
from server.store.keys import StoredKey

_ALIASES = {"scopes.allowed": "scopes"}
_SHOWN = frozenset(field.name for field in pb.User.DESCRIPTOR.fields)


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Accounts, keys, and what was done."""

    def __init__(self, admins: Admins, keys: Keys, explanations: Explanations) -> None:
        self._admins = admins
        self._keys = keys
        self._explanations = explanations

    async def ListUsers(self, request: pb.ListUsersRequest, context: Any) -> pb.ListUsersResponse:
        users, following = await self._admins.list(
            caller(), request.page_size, request.page_token, email=request.email, role=request.role
        )
        return pb.ListUsersResponse(users=map(_user, users), next_page_token=following)

    async def GetUser(self, request: pb.GetUserRequest, context: Any) -> pb.User:
        return _user(await self._admins.get(caller(), request.name))

    async def UpdateUser(self, request: pb.UpdateUserRequest, context: Any) -> pb.User:
        user = request.user
        change = Change(
            paths=_paths(request),
            display_name=user.display_name,
            disabled=user.disabled,
            roles=tuple(user.roles),
            scopes=_allowed(user),
            etag=user.etag,
        )
        return _user(await self._admins.update(caller(), user.name, change))

    async def RevokeUserSessions(
        self, request: pb.RevokeUserSessionsRequest, context: Any
    ) -> pb.RevokeUserSessionsResponse:
        return pb.RevokeUserSessionsResponse(sessions=await self._admins.revoke_sessions(caller(), request.name))

    async def RemoveUserSecondFactor(self, request: pb.RemoveUserSecondFactorRequest, context: Any) -> Empty:
        await self._admins.remove_second_factor(caller(), request.name)
        return Empty()

    async def InviteUser(self, request: pb.InviteUserRequest, context: Any) -> Empty:
        await self._admins.invite(caller(), request.email, request.roles)
        return Empty()

    async def ImpersonateUser(self, request: pb.ImpersonateUserRequest, context: Any) -> pb.ImpersonateUserResponse:
        made = await self._admins.impersonate(caller(), request.name, request.reason, current().address)
        return pb.ImpersonateUserResponse(session=session_message(made.session), token=made.token)

    async def ListAuditEntries(self, request: pb.ListAuditEntriesRequest, context: Any) -> pb.ListAuditEntriesResponse:
        wanted = Wanted(
            actor=request.actor,
            target=request.target,
            action=request.action,
            since=_time("start_time", request.start_time) if request.HasField("start_time") else None,
            until=_time("end_time", request.end_time) if request.HasField("end_time") else None,
        )
        entries, following = await self._admins.audit_entries(caller(), wanted, request.page_size, request.page_token)
        return pb.ListAuditEntriesResponse(audit_entries=map(_entry, entries), next_page_token=following)

    async def CreateKey(self, request: pb.CreateKeyRequest, context: Any) -> pb.CreateKeyResponse:
        wanted = request.service_key
        key, token = await self._keys.create(caller(), wanted.title, wanted.role or "service", _allowed(wanted))
        return pb.CreateKeyResponse(service_key=_key(key), token=token)

    async def ListKeys(self, request: pb.ListKeysRequest, context: Any) -> pb.ListKeysResponse:
        return pb.ListKeysResponse(keys=map(_key, await self._keys.list(caller())))

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Any) -> Empty:
        await self._keys.revoke(caller(), request.name)
        return Empty()

    async def ExplainAccess(self, request: pb.ExplainAccessRequest, context: Any) -> pb.ExplainAccessResponse:
        age = request.session_age.seconds + request.session_age.nanos / 1e9
        found = await self._explanations.explain(caller(), request.caller, request.action, request.resource_name, age)
        return explanation_message(found)


def _paths(request: pb.UpdateUserRequest) -> frozenset[str]:
    """What is to be changed; without a mask, what of it is set (AIP-134). Raises Invalid for what is no field."""
    given = [_ALIASES.get(path, path) for path in request.update_mask.paths]
    if not given:
        given = [field.name for field, _ in request.user.ListFields()]
    elif "*" in given:
        given = list(CHANGEABLE)
    wrong = [path for path in given if path not in _SHOWN]
    if wrong:
        raise Invalid.field("update_mask", f"{wrong[0][:100]!r} is no field of a user", "INVALID_PATH")
    return frozenset(given) & frozenset(CHANGEABLE)


def _allowed(given: pb.User | pb.Key) -> tuple[str, ...] | None:
    return tuple(given.scopes.allowed) if given.HasField("scopes") else None


def _user(user: User) -> pb.User:
    return pb.User(
        name=user.name,
        email=user.email,
        verified=user.verified,
        display_name=user.display_name,
        anonymous=user.anonymous,
        roles=user.roles,
        scopes=_scopes(user.scopes),
        disabled=user.disabled_time is not None,
        disable_time=_maybe(user.disabled_time),
        delete_time=_maybe(user.delete_time),
        create_time=time_message(user.create_time),
        seen_time=_maybe(user.seen_time),
        ways=user.ways,
        etag=user.etag,
    )


def _key(key: StoredKey) -> pb.Key:
    return pb.Key(
        name=f"keys/{key.id}",
        title=key.title,
        role=key.role,
        scopes=_scopes(key.scopes),
        create_time=time_message(key.create_time),
    )


def _entry(entry: StoredEntry) -> pb.AuditEntry:
    return pb.AuditEntry(
        name=f"auditEntries/{entry.id}",
        time=time_message(entry.time),
        actor=entry.actor,
        impersonator=entry.impersonator,
        action=entry.action,
        target=entry.target,
        outcome=entry.outcome,
        address=entry.address,
        device=entry.device,
        request_id=entry.request_id,
        details=entry.details,
    )


def _scopes(allowed: Sequence[str] | None) -> pb.Scopes | None:
    return None if allowed is None else pb.Scopes(allowed=allowed)


def _maybe(time: datetime | None) -> Timestamp | None:
    return None if time is None else time_message(time)


def _time(field: str, given: Timestamp) -> datetime:
    try:
        return given.ToDatetime(tzinfo=UTC)
    except ValueError as fault:
        raise Invalid.field(field, "is not a time between the years 1 and 9999") from fault
