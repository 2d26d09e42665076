"""transom.accounts.v1: requests → engine → replies."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from transom.accounts.v1 import accounts_pb2 as pb
from transom.accounts.v1 import accounts_pb2_grpc

from server.engine.accounts import Account, Accounts, Session
from server.services.current import caller


class AccountsService(accounts_pb2_grpc.AccountsServiceServicer):
    """Sign up, sign in, sign out."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def SignUp(self, request: pb.SignUpRequest, context: Any) -> pb.SignUpResponse:
        made = await self._accounts.sign_up(
            request.email,
            request.password,
            display_name=request.display_name,
            device=request.device,
            remember=request.remember,
        )
        return pb.SignUpResponse(account=_account(made.account), session=_session(made.session), token=made.token)

    async def SignIn(self, request: pb.SignInRequest, context: Any) -> pb.SignInResponse:
        made = await self._accounts.sign_in(
            request.email, request.password, device=request.device, remember=request.remember
        )
        return pb.SignInResponse(account=_account(made.account), session=_session(made.session), token=made.token)

    async def SignOut(self, request: pb.SignOutRequest, context: Any) -> Empty:
        await self._accounts.sign_out(caller())
        return Empty()

    async def GetMe(self, request: pb.GetMeRequest, context: Any) -> pb.Account:
        return _account(await self._accounts.me(caller()))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> pb.ListSessionsResponse:
        sessions, following = await self._accounts.list_sessions(caller(), request.page_size, request.page_token)
        return pb.ListSessionsResponse(sessions=map(_session, sessions), next_page_token=following)

    async def RevokeSession(self, request: pb.RevokeSessionRequest, context: Any) -> Empty:
        await self._accounts.revoke_session(caller(), request.name)
        return Empty()


def _account(account: Account) -> pb.Account:
    return pb.Account(
        name=account.name,
        email=account.email,
        display_name=account.display_name,
        create_time=_time(account.create_time),
    )


def _session(session: Session) -> pb.Session:
    return pb.Session(
        name=session.name,
        user=session.user,
        device=session.device,
        create_time=_time(session.create_time),
        expire_time=_time(session.expire_time),
        current=session.current,
    )


def _time(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
