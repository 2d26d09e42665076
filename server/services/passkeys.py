"""transom.accounts.v1, passkeys: requests → engine → replies."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import MessageToDict
from google.protobuf.json_format import ParseError as Unreadable
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from transom.accounts.v1 import accounts_pb2, passkeys_pb2_grpc
from transom.accounts.v1 import passkeys_pb2 as pb
from webauthn.helpers import bytes_to_base64url

from server.engine.passkeys import Asked, Passkeys
from server.errors import Invalid
from server.services.cookies import renewed
from server.services.current import caller
from server.services.sign_in_answers import answer, place_of
from server.store.passkeys import StoredPasskey

CREDENTIAL_BYTES = 16 << 10
"""Size of a credential: nearly all of it is the attestation, and we ask for none."""


class PasskeysService(passkeys_pb2_grpc.PasskeysServiceServicer):
    """Register, sign in, list, rename, remove."""

    def __init__(self, passkeys: Passkeys) -> None:
        self._passkeys = passkeys

    async def BeginRegistration(
        self, request: pb.BeginRegistrationRequest, context: Any
    ) -> pb.BeginRegistrationResponse:
        asked = await self._passkeys.begin_registration(caller())
        return pb.BeginRegistrationResponse(options=_struct(asked), expire_time=_time(asked.expire_time))

    async def FinishRegistration(
        self, request: pb.FinishRegistrationRequest, context: Any
    ) -> pb.FinishRegistrationResponse:
        made, token = await self._passkeys.finish_registration(caller(), _credential(request.credential), request.title)
        return pb.FinishRegistrationResponse(passkey=_passkey(made), token=await renewed(context, token))

    async def BeginSignIn(self, request: pb.BeginSignInRequest, context: Any) -> pb.BeginSignInResponse:
        asked = await self._passkeys.begin_sign_in()
        return pb.BeginSignInResponse(options=_struct(asked), expire_time=_time(asked.expire_time))

    async def FinishSignIn(self, request: pb.FinishSignInRequest, context: Any) -> accounts_pb2.SignInResponse:
        place = place_of(request)
        return await answer(await self._passkeys.finish_sign_in(_credential(request.credential), place), place, context)

    async def ListPasskeys(self, request: pb.ListPasskeysRequest, context: Any) -> pb.ListPasskeysResponse:
        return pb.ListPasskeysResponse(passkeys=map(_passkey, await self._passkeys.list(caller())))

    async def UpdatePasskey(self, request: pb.UpdatePasskeyRequest, context: Any) -> pb.Passkey:
        other = [path for path in request.update_mask.paths if path not in ("title", "*")]
        if other:
            raise Invalid.field("update_mask", "names what cannot be changed: only title can", "IMMUTABLE_FIELD")
        return _passkey(await self._passkeys.rename(caller(), request.passkey.name, request.passkey.title))

    async def DeletePasskey(self, request: pb.DeletePasskeyRequest, context: Any) -> Empty:
        await self._passkeys.delete(caller(), request.name)
        return Empty()


def _credential(given: Struct) -> Mapping[str, Any]:
    if not given.fields:
        raise Invalid.field("credential", "is required", "REQUIRED")
    if given.ByteSize() > CREDENTIAL_BYTES:
        raise Invalid.field("credential", f"is larger than {CREDENTIAL_BYTES} bytes", "TOO_LONG")
    try:
        credential: dict[str, Any] = MessageToDict(given)
    except (ValueError, Unreadable):  # numbers that JSON has not
        raise Invalid.field("credential", "is no JSON", "PASSKEY_INVALID") from None
    return credential


def _struct(asked: Asked) -> Struct:
    options = Struct()
    options.update(asked.options)
    return options


def _passkey(stored: StoredPasskey) -> pb.Passkey:
    return pb.Passkey(
        name=f"passkeys/{stored.id}",
        title=stored.title,
        credential_id=bytes_to_base64url(stored.credential_id),
        backed_up=stored.backed_up,
        create_time=_time(stored.create_time),
        last_sign_in_time=_time(stored.seen_time) if stored.seen_time else None,
    )


def _time(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
