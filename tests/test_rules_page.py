"""The tutorial of docs/rules.md, done literally: its files are saved, its commands run, its answers compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.native.stack import PROJECT, Stack

PARTS = ("postgres", "redis", "s3", "schema", "migrate", "seed", "api", "envoy")
"""What the tutorial needs."""

CAUGHT_UP = """
import os, sys, time, psycopg
with psycopg.connect(os.environ["TRANSOM_POSTGRES"]) as primary:
    position = primary.execute("select pg_current_wal_lsn()::text").fetchone()
with psycopg.connect(os.environ["TRANSOM_REPLICA"], autocommit=True) as replica:
    until = time.monotonic() + 20
    while replica.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", position).fetchone() != (True,):
        time.monotonic() < until or sys.exit("the replica does not catch up")
        time.sleep(0.01)
"""
"""Waits until the replica has what others wrote: people who type are slower than it, this test need not be."""


@pytest.fixture(scope="module")
def tutorial() -> str:
    page = (PROJECT / "docs" / "rules.md").read_text()
    [text] = re.findall(r"^## A first schema, in ten minutes\n(.*?)^## ", page, re.DOTALL | re.MULTILINE)
    return str(text)


@pytest.fixture(scope="module")
def app(tutorial: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the tutorial makes."""
    beside = tmp_path_factory.mktemp("beside")
    beside.chmod(0o755)
    here = beside / "transom"
    here.mkdir()
    [make] = re.findall(r"^```sh\n(mkdir .*?)^```", tutorial, re.DOTALL | re.MULTILINE)
    subprocess.run(["bash", "-c", make], cwd=here, check=True)
    for name, kind in (("teams.proto", "proto"), ("accounts.jsonl", "json")):
        [path] = re.findall(rf"`\.\./([^`]*/{name})`", tutorial)
        [content] = re.findall(rf"^```{kind}\n(.*?)^```", tutorial, re.DOTALL | re.MULTILINE)
        (beside / path).write_text(content)
    return beside / "teams"


@pytest.fixture(scope="module")
def stack(app: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    folder.chmod(0o755)
    with Stack(folder / "state", app=app, parts=PARTS).running() as stack:
        yield stack


def test_what_is_written_is_understood(app: Path) -> None:
    check = [str(Path(sys.executable).with_name("transom")), "check", "--strict", str(app)]
    told = subprocess.run(check, cwd=PROJECT, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr


def test_what_is_promised_is_answered(tutorial: str, stack: Stack) -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```(?:\n+```text\n(.*?)^```)?", tutorial, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 6
    script = "".join(f"{commands}\necho ---\n" for commands, _ in blocks)
    script = re.sub(r"(?m)^api=.*$", f"api={stack.edge}", script)
    script = re.sub(r"(?m)^as\(\) \{", r'as() { "$PYTHON" -c "$CAUGHT_UP";', script)
    env = {**os.environ, **stack.env, "PYTHON": sys.executable, "CAUGHT_UP": CAUGHT_UP}
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], env=env, capture_output=True, text=True, timeout=60
    )
    answers = run.stdout.split("---\n")
    for (commands, promised), answered in zip(blocks, answers, strict=False):
        assert answered == promised, f"{commands}\n{run.stderr}"
    assert run.returncode == 0, run.stderr
