"""transom.accounts.v1: requests → engine → replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.empty_pb2 import Empty
from transom.accounts.v1 import accounts_pb2 as pb
from transom.accounts.v1 import accounts_pb2_grpc

from server.engine.accounts import Accounts
from server.engine.addresses import Addresses
from server.engine.anonymous import Anonymous
from server.engine.mail_codes import MailCodes
from server.engine.new_passwords import NewPasswords
from server.engine.sessions import Sessions
from server.engine.sign_ins import Challenge, Place, SignedIn
from server.engine.sign_ups import Promised, SignUps
from server.errors import Invalid
from server.services.cookies import clear_cookie, renewed
from server.services.current import caller, current
from server.services.sign_in_answers import account_message, answer, place_of, session_message, time_message


@dataclass(frozen=True, slots=True)
class People:
    """What the service asks."""

    accounts: Accounts
    sign_ups: SignUps
    addresses: Addresses
    new_passwords: NewPasswords
    mail_codes: MailCodes
    anonymous: Anonymous
    sessions: Sessions


class AccountsService(accounts_pb2_grpc.AccountsServiceServicer):
    """Sign up, sign in, sign out, and what belongs to an account."""

    def __init__(self, people: People) -> None:
        self._people = people

    async def SignUp(self, request: pb.SignUpRequest, context: Any) -> pb.SignUpResponse:
        place = place_of(request)
        made = await self._people.sign_ups.sign_up(
            request.email,
            request.password,
            display_name=request.display_name,
            invitation=request.invitation,
            place=place,
        )
        return await _signed_up(made, place, context)

    async def SignIn(self, request: pb.SignInRequest, context: Any) -> pb.SignInResponse:
        place = place_of(request)
        made = await self._people.accounts.sign_in(request.email, request.password, place)
        return await answer(made, place, context)

    async def RequestSignInCode(
        self, request: pb.RequestSignInCodeRequest, context: Any
    ) -> pb.RequestSignInCodeResponse:
        requested = await self._people.mail_codes.request(request.email, current().address)
        return pb.RequestSignInCodeResponse(token=requested.token, expire_time=time_message(requested.expire_time))

    async def SignInWithCode(self, request: pb.SignInWithCodeRequest, context: Any) -> pb.SignInResponse:
        place = place_of(request)
        made = await self._people.mail_codes.sign_in(
            request.token, request.code, display_name=request.display_name, place=place
        )
        return await answer(made, place, context)

    async def SignInAnonymously(self, request: pb.SignInAnonymouslyRequest, context: Any) -> pb.SignInResponse:
        place = place_of(request)
        return await answer(await self._people.anonymous.sign_in(place), place, context)

    async def UpgradeAccount(self, request: pb.UpgradeAccountRequest, context: Any) -> pb.SignUpResponse:
        place = place_of(request)
        made = await self._people.anonymous.upgrade(
            caller(),
            request.email,
            request.password,
            display_name=request.display_name,
            invitation=request.invitation,
            place=place,
        )
        return await _signed_up(made, place, context)

    async def SignOut(self, request: pb.SignOutRequest, context: Any) -> Empty:
        await self._people.sessions.sign_out(caller())
        await clear_cookie(context)
        return Empty()

    async def GetMe(self, request: pb.GetMeRequest, context: Any) -> pb.Account:
        return account_message(await self._people.accounts.me(caller()))

    async def UpdateMe(self, request: pb.UpdateMeRequest, context: Any) -> pb.Account:
        if set(request.update_mask.paths) - {"display_name", "displayName", "*"}:
            raise Invalid.field("update_mask", "names something else than display_name", "NOT_CHANGEABLE")
        return account_message(await self._people.accounts.rename(caller(), request.account.display_name))

    async def RequestEmailVerification(self, request: pb.RequestEmailVerificationRequest, context: Any) -> Empty:
        await self._people.addresses.request_verification(caller(), current().address)
        return Empty()

    async def VerifyEmail(self, request: pb.VerifyEmailRequest, context: Any) -> pb.Account:
        proved = await self._people.addresses.prove(caller(), request.word, request.sign_up_token, current().address)
        return account_message(proved)

    async def RequestEmailChange(self, request: pb.RequestEmailChangeRequest, context: Any) -> Empty:
        await self._people.addresses.request_change(
            caller(), request.email, request.current_password, current().address
        )
        return Empty()

    async def ChangePassword(self, request: pb.ChangePasswordRequest, context: Any) -> pb.ChangePasswordResponse:
        token = await self._people.new_passwords.change(
            caller(), request.current_password, request.new_password, current().address
        )
        return pb.ChangePasswordResponse(token=await renewed(context, token))

    async def RequestPasswordReset(self, request: pb.RequestPasswordResetRequest, context: Any) -> Empty:
        await self._people.new_passwords.request_reset(request.email, current().address)
        return Empty()

    async def ResetPassword(self, request: pb.ResetPasswordRequest, context: Any) -> pb.SignInResponse:
        place = place_of(request)
        return await answer(
            await self._people.new_passwords.reset(request.word, request.password, place), place, context
        )

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> pb.ListSessionsResponse:
        sessions, following = await self._people.sessions.list(caller(), request.page_size, request.page_token)
        return pb.ListSessionsResponse(sessions=map(session_message, sessions), next_page_token=following)

    async def RevokeSession(self, request: pb.RevokeSessionRequest, context: Any) -> Empty:
        await self._people.sessions.revoke(caller(), request.name)
        if request.name == caller().session:
            await clear_cookie(context)
        return Empty()

    async def RevokeAllSessions(
        self, request: pb.RevokeAllSessionsRequest, context: Any
    ) -> pb.RevokeAllSessionsResponse:
        ended = await self._people.sessions.revoke_all(caller(), keep_current=request.keep_current)
        if not request.keep_current:
            await clear_cookie(context)
        return pb.RevokeAllSessionsResponse(revoked_count=ended)


async def _signed_up(made: SignedIn | Challenge | Promised, place: Place, context: Any) -> pb.SignUpResponse:
    if isinstance(made, Promised):
        return pb.SignUpResponse(verify=True, sign_up_token=made.token)
    signed_in = await answer(made, place, context)
    return pb.SignUpResponse(account=signed_in.account, session=signed_in.session, token=signed_in.token)
