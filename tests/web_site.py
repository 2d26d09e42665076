"""An app's own web server: its pages, and under the same origin the API, handed on to the edge."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

PASSED = ("accept", "content-type", "cookie", "origin", "sec-fetch-site", "x-transom-csrf")
"""Headers that are handed on."""


class Site:
    """A site at `origin`; `edge` is where its API is, `pages` are the texts of its pages by path."""

    def __init__(self) -> None:
        self.origin = ""
        self.edge = ""
        self.pages: dict[str, str] = {}

    def answer(self, request: BaseHTTPRequestHandler) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and body."""
        page = self.pages.get(request.path.partition("?")[0])
        if page is not None and request.command == "GET":
            return 200, [("content-type", "text/html; charset=utf-8")], page.encode()
        body = request.rfile.read(int(request.headers.get("content-length", 0)))
        headers = {name: value for name in PASSED if (value := request.headers.get(name))}
        url = f"{self.edge}{request.path}"
        there = httpx.request(request.command, url, content=body, headers=headers, timeout=20, trust_env=False)
        kept = ("content-type", "set-cookie")
        return there.status_code, [h for h in there.headers.multi_items() if h[0].lower() in kept], there.content


@contextmanager
def serving() -> Iterator[Site]:
    """A site without pages yet, until the block ends."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = site.answer(self)
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - http.server names it

        def log_message(self, format: str, *arguments: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.origin = f"http://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
