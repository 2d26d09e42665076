"""What to show somebody whose stack has just come up: where it is, who may sign in, what to try."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .stack import Stack

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def card(stack: Stack, app: Path) -> Iterator[tuple[str, str]]:
    """Pairs of a label and a line; lines of one label follow each other, with the label said once."""
    edge = stack.edge
    yield "API", f"{edge}   REST/JSON, gRPC and gRPC-Web on one port"
    yield "Mails", f"{stack.mailbox}   every mail it sends"
    own = "" if stack.ports["edge"] == 8080 else f"--port {stack.ports['edge']} "
    near = "" if stack.edge_host in LOOPBACK else ", which only this machine can follow"
    yield "S3", f"{stack.env['TRANSOM_S3_ENDPOINT']}   signed URLs of files point here{near}"
    yield "SQL", f".venv/bin/transom psql {own}".rstrip()
    yield "App", str(app)
    people = accounts(app)
    for i, person in enumerate(people[:3]):
        yield "" if i else "Sign in as", f"{person['email']}   password {person['password']}"
    person = people[0] if people else {"email": "you@example.com", "password": "correct horse"}
    verb = "signIn" if people else "signUp"
    who = json.dumps({"email": person["email"], "password": person["password"]})
    host = edge.removeprefix("http://")
    yield "Try", f"curl --json '{who}' {edge}/transom/v1/accounts:{verb}"
    method = f"transom.accounts.v1.AccountsService/{verb[0].upper()}{verb[1:]}"
    yield "", f".venv/bin/buf curl --protocol grpc --http2-prior-knowledge --data '{who}' http://{host}/{method}"
    yield (
        "",
        f".venv/bin/transom call {own}GetMe --as {person['email']}"
        if people
        else f".venv/bin/transom call {own}{method} '{who}'",
    )
    port = "" if stack.ports["edge"] == 8080 else f" PORT={stack.ports['edge']}"
    yield "Then", " · ".join(f"make {word}{port}" for word in ("status", "logs", "down"))


def accounts(app: Path) -> list[dict[str, Any]]:
    """People of the app's seed who can sign in; none if it seeds nobody."""
    try:
        people = [json.loads(line) for line in (app / "seed" / "accounts.jsonl").read_text().splitlines() if line]
    except (OSError, ValueError):
        return []
    return [p for p in people if isinstance(p, dict) and p.get("email") and p.get("password")]
