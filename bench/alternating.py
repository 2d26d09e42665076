"""Clients that send two bodies in turns, which h2load cannot: an update that says what is so already would change nothing.

A closed loop like that of load.py, in this process: every client has a connection of its own and sends its next request
when the last was answered. It speaks as much of HTTP/1.1 (RFC 9112) and HTTP/2 (RFC 9113) as that needs.
"""

from __future__ import annotations

import re
import select
import socket
import struct
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from .cells import Request, Wire, Wrong

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_WINDOW_MAX = (1 << 31) - 1


def run(requests: Sequence[Request], *, seconds: float, count: int, patience: float) -> tuple[list[int], float]:
    """Has one client for each of `requests` send it `count` times, or for `seconds` where that is 0. Answers how long each
    request took (µs, in order of size), and all of them together (s).

    Raises Wrong where a request is not answered with 200 over HTTP/1.1, or reset over HTTP/2 (whose headers are not read:
    the servers count what became of these calls), and after `patience` seconds.
    """
    clients = [(_Http1 if request.wire is Wire.JSON else _Http2)(request) for request in requests]
    poll = select.epoll()
    try:
        for client in clients:
            poll.register(client.socket, select.EPOLLIN)
        by_fd = {client.socket.fileno(): client for client in clients}
        begun = time.monotonic()
        micros: list[int] = []
        for client in clients:
            client.send()
        active = len(clients)
        while active:
            ready = poll.poll(1)
            now = time.monotonic()
            if now - begun > patience:
                raise Wrong(f"{count} requests of each client took longer than {patience:.0f} s")
            for fd, _ in ready:
                client = by_fd[fd]
                if not client.answered():
                    continue
                micros.append(round((time.monotonic() - client.sent_at) * 1e6))
                client.answers += 1
                if client.answers < count if count else now - begun < seconds:
                    client.send()
                else:
                    active -= 1
        return sorted(micros), time.monotonic() - begun
    finally:
        poll.close()
        for client in clients:
            client.socket.close()


class _Client:
    """One connection."""

    def __init__(self, request: Request) -> None:
        assert request.body is not None and request.other is not None
        self.parts = urlsplit(request.url)
        self.path = request.url.removeprefix(f"{self.parts.scheme}://{self.parts.netloc}")
        self.socket = socket.create_connection((self.parts.hostname, self.parts.port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.bodies = (request.body, request.other)
        self.answers = 0
        self.sent_at = 0.0
        self._got = b""

    def send(self) -> None:
        """Sends the next request."""
        self.sent_at = time.monotonic()
        self.socket.sendall(self.next())

    def answered(self) -> bool:
        """Takes what has come; whether the answer is whole."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise Wrong(f"{self.path.partition('?')[0]}: the connection was closed")
        self._got += data
        return self.whole()

    def next(self) -> bytes:
        raise NotImplementedError

    def whole(self) -> bool:
        raise NotImplementedError


class _Http1(_Client):
    def __init__(self, request: Request) -> None:
        super().__init__(request)
        head = [f"{request.method} {self.path} HTTP/1.1", f"host: {self.parts.netloc}"]
        head += [f"{name}: {value}" for name, value in request.headers.items()]
        self._whole = [
            "\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body for body in self.bodies
        ]

    def next(self) -> bytes:
        return self._whole[self.answers % 2]

    def whole(self) -> bool:
        head, found, body = self._got.partition(b"\r\n\r\n")
        if not found:
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            raise Wrong(f"{self.path.partition('?')[0]}: {head[:40]!r}")
        length = _LENGTH.search(head + b"\r\n")
        if length is not None:
            done = len(body) >= int(length[1])
        else:
            done = bool(_CHUNKED.search(head + b"\r\n")) and body.endswith(b"0\r\n\r\n")
        if done:
            self._got = b""
        return done


class _Http2(_Client):
    def __init__(self, request: Request) -> None:
        super().__init__(request)
        headers = {
            ":method": request.method,
            ":scheme": "http",
            ":path": self.path,
            ":authority": self.parts.netloc,
            **request.headers,
        }
        # Literal fields that are never indexed (RFC 7541, 6.2.3): a header block that needs no state.
        self._block = b"".join(b"\x10" + _text(name) + _text(value) for name, value in headers.items())
        window = struct.pack(">HI", 4, _WINDOW_MAX)  # SETTINGS_INITIAL_WINDOW_SIZE
        self.socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, window)
            + _frame(_WINDOW, 0, 0, struct.pack(">I", _WINDOW_MAX - 65535))
        )

    @property
    def _stream(self) -> int:
        return 2 * self.answers + 1

    def next(self) -> bytes:
        head = _frame(_HEADERS, _END_HEADERS, self._stream, self._block)
        return head + _frame(_DATA, _END_STREAM, self._stream, self.bodies[self.answers % 2])

    def whole(self) -> bool:
        ended = False
        while len(self._got) >= 9:
            size = int.from_bytes(self._got[:3], "big")
            if len(self._got) < 9 + size:
                break
            kind, flags, stream = struct.unpack(">BBI", self._got[3:9])
            payload, self._got = self._got[9 : 9 + size], self._got[9 + size :]
            if kind in (_RESET, _GOAWAY):
                raise Wrong(f"{self.path}: the call was reset")
            if kind in (_SETTINGS, _PING) and not flags & _ACK:
                self.socket.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
            if kind in (_DATA, _HEADERS) and stream == self._stream and flags & _END_STREAM:
                ended = True
        return ended


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def _text(text: str) -> bytes:
    """A string literal of HPACK, its length as an integer with a prefix of 7 bits (RFC 7541, 5.1)."""
    data = text.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, out = len(data) - 127, b"\x7f"
    while rest >= 128:
        out += bytes([rest % 128 + 128])
        rest //= 128
    return out + bytes([rest]) + data
