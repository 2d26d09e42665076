"""Webhooks through the real edge, posted by the real relay and worker, over REST and over gRPC."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from edge_ground import eventually
from roads import Roads
from standardwebhooks import Webhook

from deploy.native.stack import Stack
from server.schema.reading import read

SERVICE = "/transom.webhooks.v1.WebhooksService/"


class Receiver(ThreadingHTTPServer):
    """Keeps what it was sent."""

    def __init__(self) -> None:
        self.posts: list[tuple[dict[str, str], bytes]] = []
        super().__init__(("127.0.0.1", 0), _Hook)


class _Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.posts.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_an_endpoint_is_made_pinged_told_and_told_again(stack: Stack, receiver: Receiver) -> None:
    command = [sys.executable, "-m", "server.cli", "key", "create", "--title", "of webhooks", "--role", "admin"]
    made_key = subprocess.run(command, env={**os.environ, **stack.env}, capture_output=True, text=True)
    assert made_key.returncode == 0, made_key.stderr
    key = made_key.stdout.strip()
    with open(stack.env["TRANSOM_DESCRIPTOR"], "rb") as file:
        roads = Roads(stack.edge, read(file.read()))
    id = f"edge-{secrets.token_hex(4)}"
    name = f"webhookEndpoints/{id}"

    def asked(road: str, method: str, request: dict[str, Any]) -> Any:
        answer = getattr(roads, road)(SERVICE + method if "Webhook" in method else method, request, key)
        assert answer.code == "OK", (method, answer)
        return answer.message

    rest, grpc = "over_rest", "over_grpc"
    try:
        wanted = {"url": f"http://127.0.0.1:{receiver.server_port}/hook", "eventTypes": ["inspect.v1.Site.*"]}
        made = asked(rest, "CreateWebhookEndpoint", {"webhook_endpoint": wanted, "webhook_endpoint_id": id})
        changed = {"name": name, "filter": 'display_name = "Told"', "url": "https://example.com"}
        for road in (rest, grpc):
            told = asked(road, "UpdateWebhookEndpoint", {"webhook_endpoint": changed, "update_mask": "filter"})
            assert (told.url, told.filter, told.secret) == (wanted["url"], changed["filter"], "")
        rotated = asked(grpc, "RotateWebhookEndpointSecret", {"name": name, "overlap": "60s"})
        asked(rest, "PingWebhookEndpoint", {"name": name})
        eventually(lambda: len(receiver.posts) == 1)
        for secret in (made.secret, rotated.secret):
            headers, body = receiver.posts[0]
            assert Webhook(secret).verify(body, headers)["type"] == "transom.webhooks.v1.Ping"
        for title in ("Other", "Told"):
            asked(grpc, "CreateSite", {"site": {"displayName": title, "timeZone": "Europe/Vienna"}})
        eventually(lambda: len(receiver.posts) == 2)
        event = Webhook(rotated.secret).verify(receiver.posts[1][1], receiver.posts[1][0])["data"]
        assert (event["change"], event["resource"]["displayName"]) == ("CREATED", "Told")
        listed = {"parent": name, "state": "DELIVERED"}
        eventually(lambda: len(asked(rest, "ListWebhookDeliveries", listed).deliveries) == 2)
        delivered = asked(grpc, "ListWebhookDeliveries", listed).deliveries[0]
        assert (delivered.response_code, delivered.resource, delivered.attempts) == (204, event["name"], 1)
        asked(rest, "ReplayWebhookDelivery", {"name": delivered.name})
        eventually(lambda: len(receiver.posts) == 3)
        assert receiver.posts[1][0]["webhook-id"] == receiver.posts[2][0]["webhook-id"] == delivered.message_id
        asked(grpc, "PauseWebhookEndpoint", {"name": name})
        for road in (rest, grpc):
            refused = getattr(roads, road)(SERVICE + "PingWebhookEndpoint", {"name": name}, key)
            assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "ENDPOINT_NOT_ACTIVE")
    finally:
        getattr(roads, rest)(SERVICE + "DeleteWebhookEndpoint", {"name": name}, key)
        roads.close()
