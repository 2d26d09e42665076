"""Tasks over REST, through the real edge, on the whole system: asked for, watched, had by nobody else."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from people import signed_in, signed_up

from deploy.native.stack import Stack


def client(stack: Stack, token: str) -> httpx.Client:
    return httpx.Client(base_url=f"{stack.edge}/transom/v1/", headers={"authorization": f"Bearer {token}"}, timeout=30)


@pytest.fixture(scope="module")
def ines(stack: Stack) -> Iterator[httpx.Client]:
    with client(stack, signed_in(stack, "ines@example.com", "inspect-ines").token) as one:
        yield one


@pytest.fixture(scope="module")
def ann(stack: Stack) -> Iterator[httpx.Client]:
    """Somebody else."""
    with client(stack, signed_up(stack).token) as one:
        yield one


@pytest.fixture(scope="module")
def inspection(stack: Stack, ines: httpx.Client) -> str:
    """One of a site that ines is a member of."""
    sites = ines.get(f"{stack.edge}/v1/sites").json()["sites"]
    found = [i for s in sites for i in ines.get(f"{stack.edge}/v1/{s['name']}/inspections").json()["inspections"]]
    return str(found[0]["name"])


def enqueued(client: httpx.Client, **asked: Any) -> dict[str, Any]:
    answer = client.post(f"{client.base_url}tasks:enqueue", json={"handler": "draft_report", **asked})
    assert answer.status_code == 200, answer.text
    task: dict[str, Any] = answer.json()
    return task


def refused(answer: httpx.Response) -> tuple[int, str]:
    details = answer.json()["error"]["details"]
    return answer.status_code, next(d["reason"] for d in details if d["@type"].endswith("ErrorInfo"))


def test_a_report_is_asked_for_watched_and_had(ines: httpx.Client, inspection: str) -> None:
    task = enqueued(ines, payload={"inspection": inspection})
    assert task["payload"] == {"inspection": inspection}
    told = []
    with ines.stream("GET", f"{task['name']}:watch", headers={"accept": "text/event-stream"}) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: "):
                told.append(json.loads(line.removeprefix("data: "))["task"])
    assert told[-1]["state"] == "SUCCEEDED", told  # and the stream ended by itself
    assert told[-1]["progress"] == 1
    waited = ines.post(f"{task['name']}:wait", json={"timeout": "20s"}).json()
    assert waited["result"] == told[-1]["result"]
    file = ines.get(waited["result"]["file"]).json()
    assert file["contentType"] == "application/pdf"
    assert task["name"] in [
        one["name"] for one in ines.get("tasks", params={"handler": "draft_report"}).json()["tasks"]
    ]


def test_a_task_is_its_callers_own(ines: httpx.Client, ann: httpx.Client, inspection: str) -> None:
    name = enqueued(ines, payload={"inspection": inspection}, delay="3600s")["name"]
    for answer in (
        ann.get(name),
        ann.get(f"{name}:watch"),
        *(ann.post(f"{name}:{verb}", json={}) for verb in ("wait", "cancel", "retry")),
    ):
        assert refused(answer) == (404, "NOT_FOUND")
    assert ann.get("tasks").json().get("tasks", []) == []
    assert ines.post(f"{name}:wait", json={"timeout": "0.1s"}).json()["state"] == "QUEUED"
    assert ines.post(f"{name}:cancel", json={}).json()["state"] == "CANCELLED"
    assert refused(ines.post(f"{name}:cancel", json={})) == (400, "TASK_ENDED")
    theirs = enqueued(ann, payload={"inspection": inspection})["name"]  # no member of that site
    ended = ann.post(f"{theirs}:wait", json={}).json()
    assert (ended["state"], ended.get("result"), ended.get("error", "")) == ("DISCARDED", None, "")


def test_what_is_no_task_to_ask_for_is_refused(ines: httpx.Client) -> None:
    key = secrets.token_hex(4)
    first = enqueued(ines, uniqueKey=key, delay="3600s")
    assert enqueued(ines, uniqueKey=key, payload={"other": 1})["name"] == first["name"]
    assert first["uniqueKey"] == key
    for asked, why in (
        ({"handler": "none"}, (404, "TASK_UNKNOWN")),
        ({"handler": "draft_report", "priority": 3}, (400, "INVALID_REQUEST")),
        ({"handler": "draft_report", "delay": "-1s"}, (400, "INVALID_REQUEST")),
        ({"handler": "draft_report", "delay": "99999999s"}, (400, "INVALID_REQUEST")),
        ({"handler": "draft_report", "uniqueKey": "k" * 101}, (400, "INVALID_REQUEST")),
        ({"handler": "draft_report", "payload": "x" * 70_000}, (400, "INVALID_REQUEST")),
    ):
        assert refused(ines.post(f"{ines.base_url}tasks:enqueue", json=asked)) == why, asked
    assert refused(ines.get("tasks/none")) == (404, "NOT_FOUND")
    ines.post(f"{first['name']}:cancel", json={})
