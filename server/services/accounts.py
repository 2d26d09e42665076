"""transom.accounts.v1: requests → engine → replies."""

from __future__ import annotations

from typing import Any

from google.protobuf.empty_pb2 import Empty
from transom.accounts.v1 import accounts_pb2 as pb
from transom.accounts.v1 import accounts_pb2_grpc

from server.engine.accounts import Accounts
from server.services.current import caller
from server.services.sign_in_answers import account_message, answer, place_of, session_message


class AccountsService(accounts_pb2_grpc.AccountsServiceServicer):
    """Sign up, sign in, sign out."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def SignUp(self, request: pb.SignUpRequest, context: Any) -> pb.SignUpResponse:
        place = place_of(request)
        made = await self._accounts.sign_up(
            request.email, request.password, display_name=request.display_name, place=place
        )
        signed_in = await answer(made, place, context)
        return pb.SignUpResponse(account=signed_in.account, session=signed_in.session, token=signed_in.token)

    async def SignIn(self, request: pb.SignInRequest, context: Any) -> pb.SignInResponse:
        place = place_of(request)
        return await answer(await self._accounts.sign_in(request.email, request.password, place), place, context)

    async def SignOut(self, request: pb.SignOutRequest, context: Any) -> Empty:
        await self._accounts.sign_out(caller())
        return Empty()

    async def GetMe(self, request: pb.GetMeRequest, context: Any) -> pb.Account:
        return account_message(await self._accounts.me(caller()))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> pb.ListSessionsResponse:
        sessions, following = await self._accounts.list_sessions(caller(), request.page_size, request.page_token)
        return pb.ListSessionsResponse(sessions=map(session_message, sessions), next_page_token=following)

    async def RevokeSession(self, request: pb.RevokeSessionRequest, context: Any) -> Empty:
        await self._accounts.revoke_session(caller(), request.name)
        return Empty()
