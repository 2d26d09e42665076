"""Google's clients, over gRPC and over REST, pointed at an edge on this machine."""

from __future__ import annotations

import importlib
from typing import Any

import grpc
from google.auth.credentials import AnonymousCredentials
from google.oauth2.credentials import Credentials


class Bearer(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Sends a key with every call: Google's own credentials do so over TLS only."""

    def __init__(self, key: str) -> None:
        self.key = key

    def intercept_unary_unary(self, continuation: Any, call: Any, request: Any) -> Any:
        metadata = [*(call.metadata or ()), ("authorization", f"Bearer {self.key}")]
        return continuation(call._replace(metadata=metadata), request)


def client(module: str, service: str, road: str, edge: str, key: str) -> Any:
    """The client of a service; None where Google has none, or none for this road."""
    kind = getattr(importlib.import_module(module), f"{service}Client", None)
    if kind is None:
        return None
    try:
        transport = kind.get_transport_class("grpc" if road == "gRPC" else "rest")
    except KeyError:
        return None
    if road == "gRPC":
        channel = grpc.intercept_channel(grpc.insecure_channel(edge), Bearer(key))
        return kind(transport=transport(channel=channel, credentials=AnonymousCredentials()))
    return kind(transport=transport(host=edge, url_scheme="http", credentials=Credentials(token=key)))
