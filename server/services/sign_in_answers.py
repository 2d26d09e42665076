"""What every way to sign in reads from its request, and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol

from google.protobuf.timestamp_pb2 import Timestamp
from transom.accounts.v1 import accounts_pb2 as pb

from server.engine.account import Account, Session
from server.engine.sign_ins import Challenge, Place, SignedIn
from server.services.cookies import check_page, set_cookie
from server.services.current import current


class Asking(Protocol):
    """A request that signs in."""

    device: str
    remember: bool
    web: bool


def place_of(request: Asking) -> Place:
    """Where the session shall live that `request` asks for. Raises Denied for a page that may have none."""
    place = Place(device=request.device, remember=request.remember, web=request.web, address=current().address)
    check_place(place)
    return place


def check_place(place: Place) -> None:
    """Raises Denied where the session would live in a page that may have none. To be called before anything is used up."""
    if place.web:
        check_page()


async def answer(made: SignedIn | Challenge, place: Place, context: Any) -> pb.SignInResponse:
    """The answer to a sign-in that has succeeded, or that waits for a second factor."""
    if isinstance(made, Challenge):
        return pb.SignInResponse(
            challenge=pb.Challenge(token=made.token, methods=made.methods, expire_time=time_message(made.expire_time))
        )
    token = made.token
    if place.web:
        await set_cookie(context, token, made.session.expire_time)
        token = ""
    return pb.SignInResponse(account=account_message(made.account), session=session_message(made.session), token=token)


def account_message(account: Account) -> pb.Account:
    """An account as the API shows it."""
    return pb.Account(
        name=account.name,
        email=account.email,
        display_name=account.display_name,
        create_time=time_message(account.create_time),
        verified=account.verified,
        anonymous=account.anonymous,
        roles=account.roles,
        password_set=account.password_set,
    )


def session_message(session: Session) -> pb.Session:
    """A session as the API shows it."""
    return pb.Session(
        name=session.name,
        user=session.user,
        device=session.device,
        create_time=time_message(session.create_time),
        expire_time=time_message(session.expire_time),
        current=session.current,
        seen_time=time_message(session.seen_time),
        proof=session.proof,
        address=session.address,
        web=session.web,
    )


def time_message(time: datetime) -> Timestamp:
    """A time as the API shows it."""
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
