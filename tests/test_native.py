"""A stack on this machine: what its supervisor promises. Most of it with two light servers, redis and mail."""

from __future__ import annotations

import json
import os
import signal
import smtplib
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from redis import from_url

from deploy.native import health, mailbox
from deploy.native import stack as stacks
from deploy.native.machine import birth
from deploy.native.place import Place
from deploy.native.stack import PROJECT, Stack, StackError

LIGHT = ("redis", "mail")


def until(true: Callable[[], bool], what: str, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def pids(stack: Stack) -> dict[str, int]:
    return {p["name"]: p["pid"] for p in stack.status()["processes"]}


def told(stack: Stack, name: str) -> dict[str, Any]:
    return next(p for p in stack.status()["processes"] if p["name"] == name)


def redis(stack: Stack, command: str) -> bytes:
    password = stack.env["TRANSOM_REDIS"].partition(":")[2].partition("@")[0].strip("/:")
    with socket.create_connection(("127.0.0.1", stack.ports["redis"]), 2) as connection:
        connection.sendall(f"AUTH {password}\r\n{command}\r\n".encode())
        time.sleep(0.05)
        return connection.recv(1000)


@pytest.fixture
def light(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path / "8080", parts=LIGHT)
    stack.start()
    try:
        yield stack
    finally:
        stack.clean()


def test_a_plan_from_before_edges_had_hosts_is_understood(tmp_path: Path) -> None:
    plan = {"edge_port": 8080, "app": str(PROJECT), "parts": LIGHT, "home": str(tmp_path)}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert (Stack.of(tmp_path).edge_port, Stack.of(tmp_path).edge_host) == (8080, "127.0.0.1")


def test_a_second_start_finds_all_running_and_changes_nothing(light: Stack) -> None:
    before = pids(light)
    assert light.start() is False
    assert pids(light) == before


def test_a_killed_process_is_started_again(light: Stack) -> None:
    before = told(light, "redis")
    os.kill(before["pid"], signal.SIGKILL)
    until(lambda: told(light, "redis")["restarts"] == 1 and told(light, "redis")["state"] == "ready", "redis again")
    assert told(light, "redis")["pid"] != before["pid"]
    assert told(light, "mail")["restarts"] == 0
    assert b"+PONG" in redis(light, "PING")


def test_a_stack_outlives_its_supervisor_and_the_next_one_takes_over(light: Stack) -> None:
    before = pids(light)
    redis(light, "SET kept yes")
    os.kill(light.status()["pid"], signal.SIGKILL)
    until(lambda: light.status()["phase"] == "abandoned", "the supervisor gone")
    assert pids(light) == before

    assert light.start() is True

    assert pids(light) == before
    assert b"yes" in redis(light, "GET kept")
    os.kill(before["redis"], signal.SIGKILL)  # a process it did not start itself is watched all the same
    until(lambda: told(light, "redis")["restarts"] == 1, "redis again")


def test_what_an_abandoned_stack_left_running_can_be_stopped(light: Stack) -> None:
    before = pids(light)
    os.kill(light.status()["pid"], signal.SIGKILL)
    until(lambda: light.status()["phase"] == "abandoned", "the supervisor gone")
    assert light.stop() is True
    until(lambda: all(birth(pid) is None for pid in before.values()), "everything gone")
    assert light.stop() is False


def test_a_changed_app_is_served_by_the_next_start_and_a_refused_one_is_not(tmp_path: Path) -> None:
    proto = tmp_path / "app" / "proto" / "a.proto"
    proto.parent.mkdir(parents=True)
    proto.write_text('syntax = "proto3";\npackage a.v1;\nmessage First {}\n')
    with Stack(tmp_path / "8080", app=tmp_path / "app", parts=("redis", "schema")).running() as stack:
        supervisor, redis_before = stack.status()["pid"], pids(stack)["redis"]
        assert stack.start() is False

        proto.write_text(proto.read_text() + "message Second {}\n")
        said: list[dict[str, Any]] = []
        assert stack.start(report=lambda status: said.extend(status["processes"])) is True
        assert b"Second" in stack.place.descriptor.read_bytes()
        assert pids(stack)["redis"] == redis_before
        assert stack.status()["pid"] == supervisor
        assert {p["name"] for p in said if p["state"] in ("ready", "done") and not p.get("adopted")} == {"schema"}
        assert stack.start() is False

        proto.write_text(proto.read_text() + "message {\n")
        with pytest.raises(StackError, match=r"(?s)^schema: ended with 1.*a\.proto:5.*goes on running"):
            stack.start()
        assert stack.status()["phase"] == "ready"
        assert b"Second" in stack.place.descriptor.read_bytes()
        os.kill(redis_before, signal.SIGKILL)  # what was adopted is watched
        until(lambda: told(stack, "redis")["restarts"] == 1, "redis again")


def test_an_app_tells_its_processes_what_the_stack_does_not_know_better(tmp_path: Path) -> None:
    proto = tmp_path / "app" / "proto" / "a.proto"
    proto.parent.mkdir(parents=True)
    proto.write_text('syntax = "proto3";\npackage a.v1;\nmessage First {}\n')
    file = tmp_path / "app" / ".env"
    file.write_text(
        "# ours\n\nTRANSOM_SIGN_UP=invite\nexport TRANSOM_PUBLIC_URL = 'http://a.example'\nTRANSOM_REDIS=ours\n"
    )
    with Stack(tmp_path / "8080", app=tmp_path / "app", parts=("redis", "schema")).running() as stack:
        assert (stack.env["TRANSOM_SIGN_UP"], stack.env["TRANSOM_PUBLIC_URL"]) == ("invite", "http://a.example")
        assert stack.env["TRANSOM_REDIS"] != "ours"

        file.write_text("TRANSOM_SIGN_UP=closed\n")
        assert stack.start() is True  # with what is told now
        assert stack.env["TRANSOM_SIGN_UP"] == "closed"
        assert stack.start() is False

        file.write_text("TRANSOM_SIGN_UP=open\nsecret words\n")
        with pytest.raises(StackError, match=r"\.env:2: is not TRANSOM_NAME=value$"):
            stack.start()
        assert stack.status()["phase"] == "ready"
        file.unlink()


def test_a_start_on_a_taken_port_leaves_no_stack_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        stack = Stack(tmp_path / str(port), edge_port=port, parts=LIGHT)
        with pytest.raises(StackError, match=f"port {port} is taken"):
            stack.start()
    assert list(tmp_path.iterdir()) == []


def test_stacks_live_side_by_side(light: Stack, tmp_path: Path) -> None:
    with Stack(tmp_path / "9090", parts=LIGHT).running() as other:
        assert light.ports.base != other.ports.base
        redis(light, "SET whose mine")
        assert b"mine" not in redis(other, "GET whose")
    assert not other.place.state.exists()
    assert b"mine" in redis(light, "GET whose")


def test_an_attached_stack_goes_with_its_starter_even_by_sigkill(tmp_path: Path) -> None:
    state = tmp_path / "8080"
    code = (
        "import sys, time; from pathlib import Path; from deploy.native.stack import Stack\n"
        f"Stack(Path({str(state)!r}), parts={LIGHT!r}).start(attached=True); print('up', flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=PROJECT)
    assert starter.stdout
    assert starter.stdout.readline() == b"up\n"
    running = pids(Stack(state))
    starter.kill()
    starter.wait()
    until(lambda: all(birth(pid) is None for pid in running.values()), "everything gone")
    until(lambda: not state.exists(), "its state removed")


def test_a_start_that_fails_says_which_part_and_why_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "app" / "proto").mkdir(parents=True)
    (tmp_path / "app" / "proto" / "broken.proto").write_text('syntax = "proto3";\nmessage Unfinished {\n')
    stack = Stack(tmp_path / "8080", app=tmp_path / "app", parts=("redis", "schema"))
    with pytest.raises(StackError, match=r"(?s)^schema: ended with 1.*broken\.proto:2"):
        stack.start()
    assert stack.status()["phase"] == "failed"
    assert list(stack.place.run.glob("*.json")) == []


def test_status_for_scripts(light: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    from server.cli.status import command

    monkeypatch.setattr(stacks, "HOME", light.place.state.parent)
    result = CliRunner().invoke(command, ["--json", "--port", "8080"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (said["healthy"], said["phase"]) == (True, "ready")
    assert [p["name"] for p in said["processes"]] == ["redis", "mail"]
    assert set(said["processes"][0]) == {"name", "address", "health", "pid", "uptime", "restarts"}

    light.stop()
    result = CliRunner().invoke(command, ["--json", "--port", "8080"])
    assert result.exit_code == 1
    assert {p["health"] for p in json.loads(result.stdout)["processes"]} == {"stopped"}


def test_passwords_are_for_their_owner_alone_and_in_no_log(light: Stack) -> None:
    file = light.place.state / "secrets.json"
    assert file.stat().st_mode & 0o077 == 0
    logs = b"".join(log.read_bytes() for log in light.place.logs.iterdir()) + light.place.status.read_bytes()
    assert not [word for word in json.loads(file.read_text()).values() if word.encode() in logs]


def test_the_mail_catcher_shows_what_it_took(light: Stack) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "Transom <t@example.com>", "Ö <o@example.com>", "Bericht – fertig"
    mail.set_content("Grüße\n")
    mail.add_attachment(b"%PDF-1.4", maintype="application", subtype="pdf", filename="bericht.pdf")
    with smtplib.SMTP("127.0.0.1", light.ports["smtp"]) as smtp:
        smtp.send_message(mail)

    with urllib.request.urlopen(f"{light.mailbox}/mails") as reply:
        (found,) = json.load(reply)
    assert (found["to"], found["subject"], found["text"]) == (["o@example.com"], "Bericht – fertig", "Grüße\n")
    assert found["attachments"] == [{"filename": "bericht.pdf", "content_type": "application/pdf", "size": 8}]
    with urllib.request.urlopen(f"{light.mailbox}/mails/{found['id']}") as reply:
        assert b"bericht.pdf" in reply.read()
    with urllib.request.urlopen(f"{light.mailbox}/") as reply:
        assert "Bericht – fertig" in reply.read().decode()


def test_the_mail_catcher_keeps_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "KEPT", 3)
    box = mailbox.Mailbox(tmp_path)
    names = [box.put("a@example.com", ["b@example.com"], f"Subject: {i}\r\n\r\n".encode()) for i in range(5)]
    assert [mail["id"] for mail in box.mails()] == names[:1:-1]
    assert box.raw(names[0]) is None


def test_the_replica_streams_and_says_how_far_behind_it_is(components: Stack) -> None:
    found = health.examine(components)
    assert found.good
    assert found.replication is not None
    assert (found.replication.primary, found.replication.streaming) == ("postgres-1", True)
    assert not found.replication.synchronous


@pytest.mark.parametrize(
    ("folder", "has"),
    [
        ("/work/app/.transom/8080/postgres", True),
        ("/" + "a" * 85, False),  # too long for the kernel, with the name
        ("/home/Zoë/app", False),  # not every program means the same bytes by that
        ("/home/a,b/app", False),  # two hosts, to libpq
        ("/home/o'neil/app", False),
        ("relative/app", False),
    ],
)
def test_a_socket_is_where_its_path_is_good_for_every_program(folder: str, has: bool, tmp_path: Path) -> None:
    assert (Place(tmp_path).socket(Path(folder), ".s.PGSQL.65535") is not None) == has


def test_processes_of_the_same_machine_come_by_sockets_and_by_ports_where_there_are_none(
    components: Stack, tmp_path: Path
) -> None:
    near, sockets = components.topology.nearby(), components.topology.postgres.sockets
    for name, follows in (("TRANSOM_POSTGRES", False), ("TRANSOM_REPLICA", True)):
        for folder, host in ((sockets, sockets), (str(tmp_path), "127.0.0.1")):
            with psycopg.connect(near[name].replace(f"{sockets},", f"{folder},"), connect_timeout=3) as database:
                assert database.info.host == host, "the roads in their order"
                assert database.execute("select pg_is_in_recovery()").fetchone() == (follows,)
    assert stat.S_IMODE(Path(sockets).stat().st_mode) == 0o700
    assert near["TRANSOM_REDIS"].startswith("unix://")
    with from_url(near["TRANSOM_REDIS"]) as keys:
        assert keys.ping()
