"""Posts to URLs that strangers gave: only to addresses that may be posted to, within bounds, following nobody.

A name is looked up once, all its addresses are checked, and the connection goes to one that was checked, with the name in TLS
and Host: whatever the name leads to later, nothing else is reached. Redirects are answers like others.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpcore

SECONDS = 15.0
"""A whole post takes at most so long, the look-up of the name included."""
CONNECT_SECONDS = 5.0
SNIPPET = 1000
"""Bytes of an answer that are kept; no more than READ_MAX are read."""
READ_MAX = 16 << 10
CONNECTIONS = 64
"""Connections at most, and those that are kept for the next post to the same host, for KEPT_SECONDS."""
KEPT_SECONDS = 15.0

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# What is given to hosts of the Internet; a NAT64 of one's own (64:ff9b:1::/48), site-local and whatever comes are not.
_GLOBAL = (ipaddress.IPv6Network("2000::/3"), _NAT64)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a post."""

    code: int
    """0 where there is no answer."""
    error: str
    """Why there is none: TIMEOUT, ADDRESS_NOT_ALLOWED, NAME_UNKNOWN, TLS_FAILED, CONNECTION_FAILED, PROTOCOL_ERROR."""
    said: str
    seconds: float
    retry_after: float | None = None
    """Seconds to wait, where it says so."""


class NotAllowed(httpcore.ConnectError):
    """The address is none that may be posted to."""


class UnknownName(httpcore.ConnectError):
    """The name has no address."""


def may_reach(address: str, allowed: Iterable[Network]) -> bool:
    """Whether one may post to an address: a global one that is one host's, or one of the networks allowed."""
    try:
        found: Address = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    inner = _within(found)
    if any(one.version == network.version and one in network for network in allowed for one in (found, inner)):
        return True
    meant = {inner} if found in _NAT64 else {found, inner}  # itself it counts as reserved
    if found.version == 6 and not any(found in network for network in _GLOBAL):
        return False
    return all(one.is_global and not one.is_multicast and not one.is_reserved for one in meant)


def _within(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for; else itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address.teredo is not None:
            return address.teredo[1]
        if address in _NAT64 or int(address) >> 32 == 0:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked."""

    def __init__(self, allowed: Sequence[Network], *, anywhere: bool) -> None:
        self._allowed = allowed
        self._anywhere = anywhere
        self._backend = httpcore.AnyIOBackend()
        # Of their own: names that are never answered keep nothing else of the process waiting.
        self._names = ThreadPoolExecutor(CONNECTIONS, "webhook-names")

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._names, lambda: socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
            )
        except (OSError, UnicodeError) as error:
            raise UnknownName(str(error)) from error
        addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
        # All of them: a name that leads to one of ours, too, is not to be trusted with its others.
        if not addresses or not all(self._may(one) for one in addresses):
            raise NotAllowed(f"{host} may not be posted to")
        lost: Exception | None = None
        for address in addresses[:3]:
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                lost = error
        assert lost is not None
        raise lost

    def forget(self) -> None:
        """Looks up nothing more."""
        self._names.shutdown(wait=False, cancel_futures=True)

    def _may(self, address: str) -> bool:
        if self._anywhere:
            return may_reach(address, self._allowed)
        found = ipaddress.ip_address(address.partition("%")[0])
        return any(found.version == network.version and found in network for network in self._allowed)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise NotAllowed("nothing is posted to sockets")

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


class WebhookPosts:
    """Posts. `allowed` are networks that may be posted to though they are private, and without TLS."""

    def __init__(
        self, allowed: Sequence[Network] = (), *, seconds: float = SECONDS, tls: ssl.SSLContext | None = None
    ) -> None:
        self._seconds = seconds
        self._backends = {scheme: _Checked(allowed, anywhere=scheme == "https") for scheme in ("https", "http")}
        self._pools = {
            scheme: httpcore.AsyncConnectionPool(
                ssl_context=tls or ssl.create_default_context(),
                max_connections=CONNECTIONS,
                max_keepalive_connections=CONNECTIONS,
                keepalive_expiry=KEPT_SECONDS,
                network_backend=backend,
            )
            for scheme, backend in self._backends.items()
        }

    async def aclose(self) -> None:
        """Closes what is kept open."""
        for pool in self._pools.values():
            await pool.aclose()
        for backend in self._backends.values():
            backend.forget()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Posts, once; never raises for what becomes of it."""
        start = time.monotonic()
        code, error, said, late = 0, "", b"", None
        try:
            async with asyncio.timeout(self._seconds):
                pool = self._pools[url.partition(":")[0].lower()]
                async with pool.stream(
                    "POST",
                    url,
                    headers=list(headers.items()),
                    content=body,
                    extensions={"timeout": {"connect": CONNECT_SECONDS, "read": self._seconds, "write": self._seconds}},
                ) as response:
                    code = response.status
                    late = retry_after(_header(response.headers, b"retry-after"))
                    try:
                        async for part in response.aiter_stream():
                            said += part
                            if len(said) > READ_MAX:
                                break  # the connection is not used again
                    except (httpcore.ProtocolError, httpcore.NetworkError, httpcore.TimeoutException):
                        pass  # the status was there
        except NotAllowed:
            error = "ADDRESS_NOT_ALLOWED"
        except UnknownName:
            error = "NAME_UNKNOWN"
        except (TimeoutError, httpcore.TimeoutException):
            error = "" if code else "TIMEOUT"
        except httpcore.ConnectError as lost:
            tls = isinstance(lost.__context__, ssl.SSLError) or "SSL" in str(lost) or "certificate" in str(lost)
            error = "TLS_FAILED" if tls else "CONNECTION_FAILED"
        except httpcore.NetworkError:
            error = "CONNECTION_FAILED"
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol, KeyError, ValueError):
            error = "PROTOCOL_ERROR"
        text = said[:SNIPPET].decode(errors="replace").replace("\0", "\ufffd")
        return Answer(0 if error else code, error, text, time.monotonic() - start, late)


def retry_after(given: str) -> float | None:
    """Seconds that a Retry-After asks for, as a number or a date; None where it says neither."""
    if given.isascii() and given.isdecimal() and len(given) <= 9:
        return float(given)
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    return next((value.decode("latin-1").strip() for key, value in headers if key.lower() == name), "")
