"""The commands: what they say of apps that are broken, which stack they mean, and what they do on one."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from consumers_ground import Ground
from transom.events.v1.event_pb2 import Event

from consumers import topology
from deploy.native.stack import Stack
from server.cli.__main__ import main as transom

PROJECT = Path(__file__).parents[1]

SCHEMA = """
syntax = "proto3";
package reading.v1;
import "google/api/annotations.proto";
import "google/api/resource.proto";
message Shelf {
  option (google.api.resource) = {type: "reading.example/Shelf", pattern: "shelves/{shelf}"};
  string name = 1;
}
message Book {
  option (google.api.resource) = {type: "reading.example/Book", pattern: "BOOKS"};
  string name = 1;
  int32 pages = 2;
}
message GetBookRequest { string name = 1; }
message BurnBookRequest { string name = 1; }
service ReadingService {
  rpc GetBook(GetBookRequest) returns (Book) { option (google.api.http) = {get: "GET"}; }
  rpc BurnBook(BurnBookRequest) returns (Book) { option (google.api.http) = {post: "BURN"}; }
}
"""
BOOKS = "shelves/{shelf}/books/{book}"
GET = "/v1/{name=shelves/*/books/*}"


def app(
    folder: Path, *, books: str = BOOKS, get: str = GET, burn: str = f"{GET}:burn", place: str = "reading/v1"
) -> Path:
    """An app that is good, but for what is given."""
    file = folder / "proto" / place / "reading.proto"
    file.parent.mkdir(parents=True)
    file.write_text(SCHEMA.replace("BOOKS", books).replace("GET", get).replace('"BURN"', f'"{burn}"'))
    (folder / "methods.py").write_text(
        "from server.apps import Call, method\n\n\n"
        '@method("reading.v1.ReadingService.BurnBook")\nasync def burn(call: Call):\n    return await call.get("")\n'
    )
    return folder


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(transom, [str(w) for w in words])


# ─────────────────────────────────────────────────────────────────────────────────────────────────────────── check


@pytest.mark.parametrize("folder", [".", "other"])
def test_a_good_app_is_good(tmp_path: Path, folder: str) -> None:
    good = run("check", "--strict", app(tmp_path / folder))
    assert good.exit_code == 0 and "warning" not in good.output, good.output
    assert run("check", "--strict", "--app", PROJECT / "examples/inspect").exit_code == 0


@pytest.mark.parametrize(
    ("broken", "warning"),
    [
        (
            {"books": "shelf/{shelf}/books/{book}", "get": "/v1/{name=shelf/*/books/*}", "burn": "/v1/burn"},
            "pattern 'shelf/{shelf}/books/{book}': no resource is called 'shelf/{shelf}'; is it below 'shelves/{shelf}'?",
        ),
        ({"get": "/v1/{name=shelf/*/books/*}"}, "get '/v1/{name=shelf/*/books/*}': {name=shelf/*/books/*} can never be"),
        ({"get": "/v1/{name}"}, "get '/v1/{name}': {name=*} can never be 'shelves/{shelf}/books/{book}'"),
        ({"burn": "/v1/{name=books/*}:burn"}, "reading.v1.ReadingService.BurnBook: google.api.http: post"),
        ({"place": "other"}, "other/reading.proto: its package is reading.v1: the file belongs in the folder proto/reading/v1"),
    ],
    ids=lambda p: p if isinstance(p, str) else "",
)  # fmt: skip
def test_what_is_hardly_meant_is_told(tmp_path: Path, broken: dict[str, str], warning: str) -> None:
    app(tmp_path, **broken)
    told = run("check", tmp_path)
    assert told.exit_code == 0 and told.output.count("warning: ") == 1 and warning in told.output, told.output
    assert run("check", "--strict", tmp_path).exit_code == 1


@pytest.mark.parametrize(
    ("books", "get"),
    [
        ("projects/{project}/books/{book}", "/v1/{name=projects/*/books/*}"),
        (BOOKS, "/v1/{name=**}"),
        (BOOKS, "/v1/{name=shelves/lost/books/*}"),
        (BOOKS, "/v1/{name=*/*/books/*}"),
    ],
)
def test_what_may_be_meant_is_not(tmp_path: Path, books: str, get: str) -> None:
    assert "warning" not in run("check", app(tmp_path, books=books, get=get, burn="/v1/burn")).output


def test_the_seed_is_checked(tmp_path: Path) -> None:
    app(tmp_path)
    seed = tmp_path / "seed"
    seed.mkdir()
    rows = [{"name": "shelves/a/books/b", "pages": 3}, {"name": "shelves/a/books/c", "pages": "many"}, {"name": "x/y"}]
    (seed / "books.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = run("check", tmp_path)
    assert told.exit_code == 1
    assert "books.jsonl:2: " in told.output and "books.jsonl:3: name: 'x/y' fits no pattern" in told.output
    (seed / "books.jsonl").write_text(json.dumps(rows[0]))
    assert run("check", "--strict", tmp_path).exit_code == 0


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("\n\nx = (1,\n", "methods.py:3: '(' was never closed"),
        ("import nosuch\n", "methods.py:1: ModuleNotFoundError: No module named 'nosuch'"),
        ("from . import deeper\n", "deeper.py:2: ZeroDivisionError: division by zero"),
        ("import json\n\njson.loads('{')\n", "methods.py:3: JSONDecodeError: Expecting property name"),
    ],
)
def test_code_that_does_not_import_is_told_in_a_line(tmp_path: Path, code: str, line: str) -> None:
    app(tmp_path)
    (tmp_path / "methods.py").write_text(code)
    (tmp_path / "deeper.py").write_text("\n1 / 0\n")
    told = run("check", tmp_path)
    assert told.exit_code == 1
    assert told.output.splitlines()[-1].startswith(line) and "Traceback" not in told.output, told.output


def test_a_database_that_is_away_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("build", app(tmp_path), "--descriptor", tmp_path / "d.binpb")
    monkeypatch.setenv("TRANSOM_DESCRIPTOR", str(tmp_path / "d.binpb"))
    monkeypatch.setenv("TRANSOM_POSTGRES", "postgresql://nobody:hush@127.0.0.1:1/nothing")
    monkeypatch.setenv("TRANSOM_AMQP", "amqp://nobody:hush@127.0.0.1:1/")
    for words in (["migrate"], ["replay", "--hours", "1"], ["dead"]):
        told = run(*words)
        assert told.exit_code == 1 and told.output.startswith("Error: the ") and "hush" not in told.output
        assert len(told.output.splitlines()) == 1


def test_nothing_is_cut_off_a_terminal(tmp_path: Path) -> None:
    name = "/".join(f"parts/{{part{i}}}" for i in range(1, 20))
    assert any(name in line for line in run("check", app(tmp_path, books=name, get="/v1/x")).output.splitlines())


# ───────────────────────────────────────────────────────────────────────────────────────────────── which app, which stack


def test_an_app_is_named_either_way(tmp_path: Path) -> None:
    one, other = app(tmp_path / "one"), app(tmp_path / "other")
    for words in ([one], ["--app", one], [one, "--app", one]):
        assert f"{one}: good" in run("check", *words).output
        assert run("build", *words, "--descriptor", tmp_path / "d.binpb").exit_code == 0
    for command in ("check", "build", "seed"):
        assert "two apps" in run(command, one, "--app", other).output


def test_which_stack_is_asked_where_there_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deploy.native import stack
    from server.cli import _chosen

    monkeypatch.setattr(stack, "HOME", tmp_path)
    monkeypatch.chdir(PROJECT)
    monkeypatch.delenv("TRANSOM_POSTGRES", raising=False)

    def started(port: int) -> None:
        folder = tmp_path / str(port)
        folder.mkdir()
        plan = {"edge_port": port, "edge_host": "127.0.0.1", "app": str(PROJECT / "examples/inspect"), "parts": []}
        (folder / "plan.json").write_text(json.dumps({**plan, "home": str(tmp_path)}))

    with pytest.raises(click.ClickException, match="no stack was ever started on port 8080"):
        _chosen.chosen(None)
    started(28900)
    assert _chosen.chosen(None).edge_port == 28900
    started(9100)
    commands = (
        ["status"], ["key", "list"], ["seed"], ["migrate"], ["psql"], ["env"], ["dead"], ["replay", "--hours", "1"]
    )  # fmt: skip
    for words in commands:
        told = run(*words)
        assert told.exit_code == 1, told.output
        assert "two stacks: 9100 (examples/inspect), 28900 (examples/inspect); say --port" in told.output, words
    shutil.rmtree(tmp_path / "9100")
    assert _chosen.chosen(None).edge_port == 28900


# ────────────────────────────────────────────────────────────────────────────────────────────────────────── on a stack


TASKS = """
from server.apps import Event, Work, on


@on("test.v1.Thing", "counted")
async def read_it(event: Event, work: Work) -> None:
    await work.get(event.name)
"""


@pytest.fixture
def ground(components: Stack, tmp_path: Path) -> Iterator[Ground]:
    with Ground.on(components, tmp_path) as ground:
        ground.env["TRANSOM_APP"] = str(tmp_path)
        (tmp_path / "tasks.py").write_text(TASKS)
        ground.queues.add(topology.queue_of("read_it"))
        yield ground


def on_stack(components: Stack, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command as a process of its own, where `components` is the only stack, on port 28900."""
    link = home / "28900"
    if not link.is_symlink():
        link.symlink_to(components.place.state)
    program = (
        "import sys; from pathlib import Path; from deploy.native import stack; stack.HOME = Path(sys.argv.pop(1));"
        "from server.cli.__main__ import main; main(prog_name='transom')"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("TRANSOM_")}
    return subprocess.run(
        [sys.executable, "-c", program, str(home), *words], cwd=PROJECT, env=env, capture_output=True, text=True, timeout=60
    )  # fmt: skip


def test_psql_opens_the_primary(components: Stack, tmp_path: Path) -> None:
    query = "select current_database(), current_user, pg_is_in_recovery()"
    told = on_stack(components, tmp_path, "psql", "-A", "-t", "-c", query)
    assert (told.returncode, told.stdout.strip()) == (0, "transom|transom|f"), told.stderr
    assert on_stack(components, tmp_path, "psql", "--port", "28900", "-c", "select nonsense").returncode == 1


def test_env_is_for_a_shell(components: Stack, tmp_path: Path) -> None:
    told = on_stack(components, tmp_path, "env")
    assert told.returncode == 0, told.stderr
    shown = subprocess.run(["sh", "-c", f"{told.stdout}\nenv"], env={}, capture_output=True, text=True).stdout
    for name, value in components.env.items():
        if name != "TRANSOM_DESCRIPTOR":  # which lies below the link here
            assert f"{name}={value}\n" in shown.replace(str(tmp_path / "28900"), str(components.place.state))


def test_replay_tells_how_many(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ground.env.items():
        monkeypatch.setenv(name, value)
    assert run("replay", "--hours", "0").exit_code == 2 and run("replay", "--hours", "8761").exit_code == 2
    ground.events(3)
    relay = ground.start("relay")
    until = time.monotonic() + 30
    while ground.value("select published from transom.relay") < 3:
        assert time.monotonic() < until and relay.poll() is None, ground.log("relay")
        time.sleep(0.05)
    assert "3 events will be published again" in run("replay", "--hours", "1").output


def test_events_are_shown_and_followed_also_past_a_lost_connection(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ground.env.items():
        monkeypatch.setenv(name, value)

    def numbered() -> None:  # as the relay does it
        ground.execute(
            "with given as (update transom.events set position = id where position is null returning position)"
            " update transom.relay set numbered = (select max(position) from given)"
        )
        ground.execute("notify transom_positions")

    words = [sys.executable, "-m", "server.cli", "events", "tail", "-f", "--json", "-n", "2", "--name", "things/*"]
    ground.events(3)
    numbered()
    # Who runs the tests in the background has SIGINT ignored, and so would this.
    heeding = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    follow = subprocess.Popen(
        words, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=heeding
    )
    assert follow.stdout is not None
    try:

        def next_position() -> int:
            assert follow.stdout is not None
            return int(json.loads(follow.stdout.readline())["position"])

        assert (next_position(), next_position()) == (2, 3)
        ground.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'transom events'"
        )
        ground.execute(
            "insert into transom.events (resource_type, verb, name, payload) values ('t', 'v', 'other/1', '')"
        )
        ground.events(1)
        numbered()
        assert next_position() == 5, "what is not wanted is left out, nothing is told twice"
        follow.send_signal(signal.SIGINT)
        assert follow.wait(20) == 0
    finally:
        follow.kill()
    shown = run("events", "tail", "--after", "1", "--type", "test.v1.Thing", "--verb", "created").output.splitlines()
    assert [line.split()[0] for line in shown] == ["2", "3", "5"]
    [line] = run(
        "events", "tail", "-n", "1", "--json", "--resource", "--since", "1h", "--name", "things/3"
    ).output.splitlines()
    assert json.loads(line)["resource"] == {} and json.loads(line)["type"] == "test.v1.Thing"
    ground.execute("update transom.relay set trimmed_time = now() - interval '30 minutes'")
    assert "is kept" in run("events", "tail", "--since", "1h").output
    assert "is kept" not in run("events", "tail", "--since", "20m").output
    assert run("events", "tail", "--resource").exit_code == 2


@pytest.mark.parametrize("process", ["relay", "work"])
def test_a_consumer_tells_in_a_line_what_does_not_import(ground: Ground, process: str) -> None:
    (ground.folder / "tasks.py").write_text("import nosuch\n")
    assert ground.start(process).wait(30) == 1
    log = ground.log(process)
    assert "tasks.py:1: ModuleNotFoundError: No module named 'nosuch'" in log and "Traceback" not in log


def test_what_tasks_gave_up_is_shown_and_put_back(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ground.env.items():
        monkeypatch.setenv(name, value)
    empty = run("dead")
    assert (empty.exit_code, empty.output.strip()) == (0, "nothing is parked"), empty.output

    ground.start("work")
    queue = topology.queue_of("read_it")
    until = time.monotonic() + 30

    def waited(true: object) -> bool:
        assert time.monotonic() < until, ground.log("work")
        time.sleep(0.05)
        return bool(true)

    while not waited("made new queues" in ground.log("work")):
        pass
    event = Event(
        id=str(uuid.uuid4()), resource_type="test.v1.Thing", verb="counted", name="things/lost", request_id="r1"
    )
    ground.send(queue, event.SerializeToString(), {"transom-attempts": 8, "transom-first-time": 1_700_000_000})
    ground.send(topology.DEAD, b"\xff", {"transom-handler": "went\x1b[31m"})
    while not waited(ground.waiting(topology.DEAD) == 2):
        pass
    for _ in range(3):  # looking changes nothing
        told = run("dead")
        assert told.exit_code == 0, told.output
        assert "read_it  things/lost counted" in told.output and f"event     {event.id}  test.v1.Thing" in told.output
        assert "attempts  9, first 2023-11-14 22:13:20Z" in told.output and "request   r1" in told.output
        assert "reason    NotFound: " in told.output and "Traceback" not in told.output and "\x1b" not in told.output
    assert ground.waiting(topology.DEAD) == 2

    back = run("dead", "--replay")
    assert back.exit_code == 1 and "1 put back" in back.output and "stays: there is no task went" in back.output
    while not waited('"attempts":1,' in ground.log("work")):  # it is tried again, from the beginning
        pass
    [(body, headers)] = ground.parked()
    assert body == b"\xff" and headers["transom-handler"].startswith("went")
