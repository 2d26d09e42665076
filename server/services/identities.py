"""transom.accounts.v1, identities: requests → engine → replies."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from transom.accounts.v1 import accounts_pb2, identities_pb2_grpc
from transom.accounts.v1 import identities_pb2 as pb

from server.engine.authorizations import Brought, Returned
from server.engine.identities import Identities, identity_name
from server.errors import Invalid
from server.services.cookies import renewed
from server.services.current import caller
from server.services.sign_in_answers import answer, place_of
from server.store.identities import StoredIdentity


class IdentitiesService(identities_pb2_grpc.IdentitiesServiceServicer):
    """Sign in with an account elsewhere; list, link and unlink them."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities

    async def SignInWithIdToken(
        self, request: pb.SignInWithIdTokenRequest, context: Any
    ) -> accounts_pb2.SignInResponse:
        place = place_of(request)
        made = await self._identities.sign_in(
            _brought(request), place, display_name=request.display_name, invitation=request.invitation
        )
        return await answer(made, place, context)

    async def StartAuthorization(
        self, request: pb.StartAuthorizationRequest, context: Any
    ) -> pb.StartAuthorizationResponse:
        started = await self._identities.start(request.provider, request.redirect_uri, request.login_hint)
        return pb.StartAuthorizationResponse(
            authorization_uri=started.uri, binding=started.binding, expire_time=_time(started.expire_time)
        )

    async def CompleteAuthorization(
        self, request: pb.CompleteAuthorizationRequest, context: Any
    ) -> accounts_pb2.SignInResponse:
        place = place_of(request)
        return await answer(
            await self._identities.sign_in(_returned(request), place, invitation=request.invitation), place, context
        )

    async def ListIdentities(self, request: pb.ListIdentitiesRequest, context: Any) -> pb.ListIdentitiesResponse:
        return pb.ListIdentitiesResponse(identities=map(self._identity, await self._identities.list(caller())))

    async def LinkIdentity(self, request: pb.LinkIdentityRequest, context: Any) -> pb.LinkIdentityResponse:
        match request.WhichOneof("proof"):
            case "id_token":
                given: Brought | Returned = _brought(request.id_token)
            case "authorization":
                given = _returned(request.authorization)
            case _:
                raise Invalid.field("proof", "is required: id_token or authorization", "REQUIRED")
        linked, token = await self._identities.link(caller(), given, invitation=request.invitation)
        return pb.LinkIdentityResponse(identity=self._identity(linked), token=await renewed(context, token))

    async def UnlinkIdentity(self, request: pb.UnlinkIdentityRequest, context: Any) -> Empty:
        await self._identities.unlink(caller(), request.name)
        return Empty()

    def _identity(self, stored: StoredIdentity) -> pb.Identity:
        return pb.Identity(
            name=identity_name(stored),
            provider=self._identities.provider_of(stored),
            issuer=stored.issuer,
            email=stored.email,
            create_time=_time(stored.create_time),
            seen_time=_time(stored.seen_time),
        )


def _brought(request: pb.SignInWithIdTokenRequest | pb.LinkIdentityRequest.IdToken) -> Brought:
    return Brought(request.provider, request.id_token, request.nonce)


def _returned(request: pb.CompleteAuthorizationRequest | pb.LinkIdentityRequest.Authorization) -> Returned:
    return Returned(request.state, request.code, request.issuer, request.binding)


def _time(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
