"""Says who calls. What they may do is for the rules."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

import grpc

from server.caller import NOBODY, Caller
from server.engine.authentication import Authentication as Callers
from server.engine.limits import Limits
from server.errors import Unauthenticated
from server.interceptors.chain import Stream, Unary, drained
from server.services.cookie_rules import DEFAULT, CookieRules
from server.services.cookies import check_page, clear_cookie
from server.services.current import Current, current

ANYBODY = (
    "/transom.accounts.v1.AccountsService/SignUp",
    "/transom.accounts.v1.AccountsService/SignIn",
    "/transom.accounts.v1.AccountsService/RequestSignInCode",
    "/transom.accounts.v1.AccountsService/RequestPasswordReset",
    "/transom.accounts.v1.AccountsService/ResetPassword",
    "/transom.accounts.v1.IdentitiesService/SignInWithIdToken",
    "/transom.accounts.v1.IdentitiesService/StartAuthorization",
    "/transom.accounts.v1.IdentitiesService/CompleteAuthorization",
    "/transom.accounts.v1.PasskeysService/BeginSignIn",
    "/transom.accounts.v1.PasskeysService/FinishSignIn",
    "/transom.accounts.v1.SecondFactorsService/SignInWithSecondFactor",
    "/transom.accounts.v1.AccountDataService/CancelAccountDeletion",
    "/grpc.health.",
    "/grpc.reflection.",
)
"""Beginnings of methods that are served whoever calls: a token is not even looked at, so that a client whose token has
run out can sign in without forgetting it first."""

PERHAPS = "/transom.accounts.v1.AccountsService/VerifyEmail"
"""Served whoever calls, too, but it leaves more to who is signed in: a token is looked at, and one that is not good is
none."""

SIGN_OUT = "/transom.accounts.v1.AccountsService/SignOut"
"""A page cannot forget its cookie by itself: whatever becomes of this call, it does."""


class Authentication:
    """The layer that tells callers by their tokens.

    A token comes in the `authorization` header, or in the cookie of a web page. Browsers send cookies along whoever
    asks them to: what comes with one and is not among the `safe` methods (paths, `/package.Service/Method`) must come
    from a page that may call.
    """

    def __init__(
        self,
        callers: Callers,
        cookies: CookieRules = DEFAULT,
        safe: Collection[str] = (),
        limits: Limits | None = None,
    ) -> None:
        self._callers = callers
        self._limits = limits
        self._cookies = cookies
        self._safe = frozenset(safe)

    def unary(self, method: str, inner: Unary) -> Unary:
        known, found = self._known(method), self._finding(method)

        async def authenticated(request: Any, context: grpc.aio.ServicerContext) -> Any:
            call = current()
            call.cookies = self._cookies
            call.caller = known(call) or await found(call, context)
            return await inner(request, context)

        return authenticated

    def stream(self, method: str, inner: Stream) -> Stream:
        known, found = self._known(method), self._finding(method)

        async def authenticated(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            call = current()
            call.cookies = self._cookies
            call.caller = known(call) or await found(call, context)
            async for answer in drained(inner, request, context):
                yield answer

        return authenticated

    def _known(self, method: str) -> Callable[[Current], Caller | None]:
        """The way of nearly every call: who calls, where that is known without waiting."""
        if method.startswith(ANYBODY):
            return _nobody
        cached = self._callers.cached
        return lambda call: None if call.cookie and call.authorization is None else cached(call.authorization)

    def _finding(self, method: str) -> Callable[[Current, grpc.aio.ServicerContext], Awaitable[Caller]]:
        """The other calls of `method`: who calls, or a refusal."""
        callers, cookies, safe, limits = self._callers, self._cookies, method in self._safe, self._limits

        async def found(call: Current, context: grpc.aio.ServicerContext) -> Caller:
            authorization = call.authorization
            if authorization is None and (token := cookies.token(call.cookie)) is not None:
                call.web, authorization = True, f"Bearer {token}"
                if not safe:
                    check_page()
            cached = callers.cached(authorization)
            if cached is not None:
                return cached
            if limits is not None:
                limits.look(call.address)
            try:
                return await callers.caller(authorization, call.address)
            except Unauthenticated:
                if limits is not None:
                    await limits.count(call.address)
                if method == SIGN_OUT:
                    await clear_cookie(context)
                if method == PERHAPS:
                    return NOBODY
                raise

        return found


def _nobody(call: Current) -> Caller:
    return NOBODY
