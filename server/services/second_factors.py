"""transom.accounts.v1, second factors: requests → engine → replies."""

from __future__ import annotations

from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from transom.accounts.v1 import accounts_pb2, second_factors_pb2_grpc
from transom.accounts.v1 import second_factors_pb2 as pb

from server.engine.second_factors import Given, SecondFactors
from server.services.cookies import renewed
from server.services.current import caller, current
from server.services.sign_in_answers import answer, check_place


class SecondFactorsService(second_factors_pb2_grpc.SecondFactorsServiceServicer):
    """Enroll, confirm, remove, and sign in with it."""

    def __init__(self, second_factors: SecondFactors) -> None:
        self._second_factors = second_factors

    async def GetSecondFactor(self, request: pb.GetSecondFactorRequest, context: Any) -> pb.SecondFactor:
        found = await self._second_factors.get(caller())
        if found.confirm_time is None:
            return pb.SecondFactor(state=pb.SecondFactor.PENDING if found.pending else pb.SecondFactor.NONE)
        since = Timestamp()
        since.FromDatetime(found.confirm_time)
        return pb.SecondFactor(
            state=pb.SecondFactor.ACTIVE, confirm_time=since, recovery_codes_left=found.recovery_codes_left
        )

    async def EnrollAuthenticator(
        self, request: pb.EnrollAuthenticatorRequest, context: Any
    ) -> pb.EnrollAuthenticatorResponse:
        enrolment = await self._second_factors.enroll(caller())
        return pb.EnrollAuthenticatorResponse(secret=enrolment.secret, uri=enrolment.uri)

    async def ConfirmAuthenticator(
        self, request: pb.ConfirmAuthenticatorRequest, context: Any
    ) -> pb.ConfirmAuthenticatorResponse:
        codes, token = await self._second_factors.confirm(caller(), request.code, current().address)
        return pb.ConfirmAuthenticatorResponse(recovery_codes=codes, token=await renewed(context, token))

    async def RemoveAuthenticator(self, request: pb.RemoveAuthenticatorRequest, context: Any) -> Empty:
        await self._second_factors.remove(caller(), Given(request.code, request.recovery_code), current().address)
        return Empty()

    async def RegenerateRecoveryCodes(
        self, request: pb.RegenerateRecoveryCodesRequest, context: Any
    ) -> pb.RegenerateRecoveryCodesResponse:
        codes = await self._second_factors.regenerate(
            caller(), Given(request.code, request.recovery_code), current().address
        )
        return pb.RegenerateRecoveryCodesResponse(recovery_codes=codes)

    async def SignInWithSecondFactor(
        self, request: pb.SignInWithSecondFactorRequest, context: Any
    ) -> accounts_pb2.SignInResponse:
        given = Given(request.code, request.recovery_code)
        address = current().address
        made, place = await self._second_factors.sign_in(request.challenge_token, given, address, check_place)
        return await answer(made, place, context)
