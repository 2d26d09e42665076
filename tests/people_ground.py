"""People with accounts, who call the whole system through its edge, without asyncio."""

from __future__ import annotations

import functools
import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import psycopg
from argon2 import PasswordHasher
from edge_ground import eventually
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from deploy.native.stack import Stack
from server.engine.tokens import SESSION, digest, new_id, new_token

PASSWORD = "correct horse battery"


@dataclass(frozen=True)
class Refused:
    """A refusal: its canonical code, its reason, the fields it names, what else it says."""

    code: str
    reason: str
    fields: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()

    def __eq__(self, other: object) -> bool:
        """What is not said of the other is not compared."""
        if not isinstance(other, Refused):
            return NotImplemented
        mine, others = (self.code, self.reason, self.fields), (other.code, other.reason, other.fields)
        return mine == others and (not other.metadata or self.metadata == other.metadata)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Client:
    """Somebody with a token, or nobody."""

    stack: Stack
    token: str = ""
    user: str = ""
    """Name of the account."""
    email: str = ""

    @property
    def id(self) -> str:
        return self.user.partition("/")[2]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The answer to a call over REST; a Refused where it was."""
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        url = f"{self.stack.edge}/transom/v1/{path}"
        # There is no TLS here, and to read the world's certificates for every call takes longer than the call.
        answer = httpx.request(method, url, json=body, headers=headers, timeout=20, trust_env=False, verify=False)
        said = json.loads(answer.content)
        if answer.is_success:
            return said
        assert "psycopg" not in answer.text and "Traceback" not in answer.text  # nothing internal leaks
        details = {d["@type"].rpartition(".")[2]: d for d in said["error"]["details"]}
        info = details["ErrorInfo"]
        fields = tuple(v["field"] for v in details.get("BadRequest", {}).get("fieldViolations", ()))
        return Refused(said["error"]["status"], info["reason"], fields, tuple(sorted(info.get("metadata", {}).items())))

    def post(self, path: str, **body: Any) -> Any:
        """The answer to a POST over REST; a Refused where it was."""
        return self.call("POST", path, body)

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def grpc(self, stub: Callable[[Any], Any], method: str, request: Any) -> Any:
        """The answer to a call over gRPC; a Refused where it was."""
        metadata = (("authorization", f"Bearer {self.token}"),) if self.token else ()
        with grpc.insecure_channel(self.stack.edge.removeprefix("http://")) as channel:
            try:
                return getattr(stub(channel), method)(request, metadata=metadata, timeout=20)
            except grpc.RpcError as error:
                status, info, bad = Status(), ErrorInfo(), BadRequest()
                status.ParseFromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])
                for detail in status.details:
                    detail.Unpack(info)
                    detail.Unpack(bad)
                fields = tuple(violation.field for violation in bad.field_violations)
                return Refused(error.code().name, info.reason, fields, tuple(sorted(info.metadata.items())))

    def signed_in(self, token: str) -> Client:
        """The same person, with another token."""
        return Client(self.stack, token, self.user, self.email)


@dataclass(frozen=True)
class People:
    """Makes accounts where they are kept: how people sign up is none of these tests' business."""

    stack: Stack

    @property
    def nobody(self) -> Client:
        return Client(self.stack)

    def person(self, *, password: bool = True, anonymous: bool = False, verified: bool = False) -> Client:
        """A new account, signed in a moment ago."""
        id = new_id()
        email = None if anonymous else f"{secrets.token_hex(6)}@example.com"
        self.sql(
            "insert into transom.users (id, email, email_key, display_name, password_hash, verified, anonymous)"
            " values (%s, %s, %s, %s, %s, %s, %s)",
            *(id, email, email, "", _hashed() if password and not anonymous else None, verified, anonymous),
        )
        return self.session(Client(self.stack, "", f"users/{id}", email or ""))

    def session(self, of: Client, *, proved: str = "0 seconds") -> Client:
        """Another session of an account, which proved so long ago who it is."""
        token = new_token(SESSION)
        self.sql(
            "insert into transom.sessions (id, user_id, token_hash, device, create_time, expire_time, proof_time)"
            " values (%(id)s, %(user)s, %(hash)s, 'test', now() - %(ago)s::interval, now() + interval '1 hour',"
            " now() - %(ago)s::interval)",
            id=new_id(),
            user=of.id,
            hash=digest(token),
            ago=proved,
        )
        return of.signed_in(token)

    def sql(self, statement: str, *values: Any, **named: Any) -> list[tuple[Any, ...]]:
        """Rows of a statement."""
        with psycopg.connect(self.stack.env["TRANSOM_POSTGRES"], autocommit=True) as connection:
            cursor = connection.execute(statement, named or values)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def meanwhile(self, of: Client, call: Callable[[], Any], statement: str, *values: Any) -> Any:
        """The answer to `call`, where `statement` is run at the last moment: as it waits for the account, which the
        statement's transaction holds."""
        with psycopg.connect(self.stack.env["TRANSOM_POSTGRES"]) as connection, ThreadPoolExecutor(1) as calling:
            connection.execute("select 1 from transom.users where id = %s for no key update", [of.id])
            answer = calling.submit(call)
            waiting = "select count(*) from pg_stat_activity where %s = any(pg_blocking_pids(pid))"
            eventually(lambda: answer.done() or self.sql(waiting, connection.info.backend_pid) == [(1,)])
            connection.execute(statement, values)  # type: ignore[arg-type]
            connection.commit()
            return answer.result()

    def noted(self, target: Client, action: str) -> list[tuple[str, dict[str, str]]]:
        """Outcomes and details of what the audit log says was done to an account, oldest first."""
        rows = self.sql(
            "select outcome, details from transom.audit where target = %s and action = %s order by id",
            target.user,
            action,
        )
        return [(outcome, details) for outcome, details in rows]

    def refusal_noted(self, target: Client, action: str) -> tuple[str, dict[str, str]]:
        """The last refusal that the audit log says; it is written a moment after the call."""
        found: list[tuple[str, dict[str, str]]] = []

        def there() -> bool:
            found[:] = [entry for entry in self.noted(target, action) if entry[0] != "ok"]
            return bool(found)

        eventually(there)
        return found[-1]


@functools.cache
def _hashed() -> str:
    return PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1).hash(PASSWORD)
