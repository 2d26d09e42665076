"""What keys may be limited to: scopes are checked against the schema, and a key with some can do nothing else."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from identity_ground import Place, asynchronous, place, server

from deploy.native.stack import PROJECT, Stack
from server.engine.scopes import MOST, Scopes, written
from server.errors import Invalid
from server.schema.compilation import compile_app
from server.schema.reading import read


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Place]:
    with place(components) as made:
        yield made


@pytest.fixture(scope="module")
def descriptor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scopes") / "descriptor.binpb"
    path.write_bytes(compile_app(PROJECT / "examples" / "inspect"))
    return path


@pytest.fixture(scope="module")
def scopes(descriptor: Path) -> Scopes:
    return Scopes(read(descriptor.read_bytes()))


@pytest.mark.parametrize(
    "good",
    [
        "inspect.v1.Site:get",
        "inspect.v1.Inspection:*",
        "*:list",
        "*:*",
        "inspect.v1.InspectionService:SubmitInspection",
        "transom.admin.v1.User:invite",
        "transom.admin.v1.Key:*",
    ],
)
def test_a_scope_that_there_is(scopes: Scopes, good: str) -> None:
    assert scopes.checked([good, good]) == (good,)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("inspect.v1.Sight:get", "there is no"),
        ("v1.Site:get", "did you mean inspect.v1.Site?"),
        ("inspect.v1.Site:read", "there are create, delete, get, list, update, watch"),
        ("inspect.v1.InspectionService:Submit", "has no action"),
        ("*:dance", "has no action"),
        ("inspect.v1.Site", "is not <message>:<action>"),
        ("inspect.v1.Site:", "is not <message>:<action>"),
        (":get", "is not <message>:<action>"),
        ("", "is not <message>:<action>"),
        ("inspect.v1.Site:get:list", "has no action"),
        ("inspect.v1.*:get", "there is no"),
        ("inspect.v1.Site.Status:get", "there is no"),
    ],
)
def test_a_scope_that_there_is_not(scopes: Scopes, wrong: str, says: str) -> None:
    with pytest.raises(Invalid) as refusal:
        scopes.checked(["inspect.v1.Site:get", wrong])
    [violation] = refusal.value.violations
    assert violation.field == "scopes[1]" and says in violation.description


def test_there_are_only_so_many(scopes: Scopes) -> None:
    with pytest.raises(Invalid):
        scopes.checked(["*:get"] * (MOST + 1))


def test_scopes_are_written_shortly() -> None:
    assert written("inspect.v1.Site:get, list") == ["inspect.v1.Site:get", "inspect.v1.Site:list"]
    assert written("inspect.v1.Site") == ["inspect.v1.Site"]


@asynchronous
async def test_a_key_is_limited_by_the_command(at: Place, descriptor: Path, tmp_path: Path) -> None:
    def transom_key(*words: str, schema: Path = descriptor) -> subprocess.CompletedProcess[str]:
        env = {
            **os.environ,
            "TRANSOM_POSTGRES": at.postgres,
            "TRANSOM_REDIS": at.redis,
            "TRANSOM_DESCRIPTOR": str(schema),
        }
        return subprocess.run(
            [sys.executable, "-c", "from server.cli.key import command; command(prog_name='transom key')", *words],
            cwd=PROJECT, env=env, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip

    both = ("--scope", "inspect.v1.Site:get,list", "--scope", "inspect.v1.Inspection:*")
    made = await asyncio.to_thread(transom_key, "create", "--title", "import", *both)
    assert made.returncode == 0, made.stderr
    async with server(at) as on:
        for _ in range(2):  # from Postgres, then from the copy in Redis
            on.authentication.begin()
            caller = await on.authentication.caller(f"Bearer {made.stdout.strip()}")
            assert caller.scopes == {"inspect.v1.Site:get", "inspect.v1.Site:list", "inspect.v1.Inspection:*"}
            assert caller.in_scope("inspect.v1.Site", "list") and caller.in_scope("inspect.v1.Inspection", "delete")
            assert not caller.in_scope("inspect.v1.Site", "delete") and not caller.in_scope("inspect.v1.Finding", "get")
    listed = await asyncio.to_thread(transom_key, "list")
    assert "inspect.v1.Site:get inspect.v1.Site:list inspect.v1.Inspection:*" in listed.stdout
    before = at.sql("select count(*) from transom.keys")
    for words, schema in (
        (("--scope", "inspect.v1.Sight:get"), descriptor),
        (("--scope", "inspect.v1.Site:get"), tmp_path / "none"),
    ):
        wrong = await asyncio.to_thread(transom_key, "create", "--title", "x", *words, schema=schema)
        assert wrong.returncode == 1 and "Traceback" not in wrong.stderr, wrong.stderr
        assert "scopes" in wrong.stderr and not wrong.stdout
    assert at.sql("select count(*) from transom.keys") == before
