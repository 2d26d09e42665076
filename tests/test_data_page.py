"""What docs/data.md shows of lists, searches and aggregates is what a real server behind a real edge answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from door_ground import Door, door
from google.protobuf import json_format
from identity_ground import Place
from library_ground import database
from transom.data.v1 import data_pb2, data_pb2_grpc

from deploy.native.stack import PROJECT, Stack
from server.engine import aggregates, lists
from server.query import groups, words
from server.schema.compilation import compile_app
from server.schema.reading import read
from server.store import query_lane
from server.store.slow_lists import SLOW_SECONDS

SECTIONS = ("Lists", "Searching", "Counting and sums")

SERVICE = """
service LibraryService {
  rpc ListBooks(ListBooksRequest) returns (ListBooksResponse) {
    option (google.api.http) = {get: "/v1/{parent=shelves/*}/books"};
  }
  rpc SearchBooks(SearchBooksRequest) returns (SearchBooksResponse) {
    option (google.api.http) = {get: "/v1/books:search"};
  }
  rpc CreateBook(CreateBookRequest) returns (Book) {
    option (google.api.http) = {
      post: "/v1/{parent=shelves/*}/books"
      body: "book"
    };
  }
}
message CreateBookRequest {
  string parent = 1;
  Book book = 2;
  string book_id = 3;
}
"""

BOOKS: dict[str, dict[str, Any]] = {
    "classics/alice": {"title": "Alice", "state": "OPEN", "pages": 95},
    "classics/bartleby": {"title": "Bartleby", "state": "LENT", "pages": 104},
    "classics/moby": {
        "title": "Moby Dick",
        "summary": "A white whale.",
        "state": "OPEN",
        "pages": 635,
        "tags": ["whales"],
    },
    "crime/moonstone": {"title": "The Moonstone", "state": "OPEN", "pages": 528},
}


@pytest.fixture(scope="module")
def page() -> dict[str, str]:
    text = (PROJECT / "docs" / "data.md").read_text()
    found = re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return {title: body for title, body in found if title in ("Filters", *SECTIONS)}


@pytest.fixture(scope="module")
def running(components: Stack, page: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """The page's own messages, served; everybody may read and write."""
    app = tmp_path_factory.mktemp("library")
    file = app / "proto" / "library" / "v1" / "library.proto"
    file.parent.mkdir(parents=True)
    imports = ("google/api/annotations", "google/api/resource", "transom/schema/v1/options")
    imports += tuple(f"google/protobuf/{name}" for name in ("duration", "field_mask", "struct", "timestamp"))
    head = 'syntax = "proto3";\npackage library.v1;\n' + "".join(f'import "{name}.proto";\n' for name in imports)
    messages = "\n".join(
        block for title in ("Filters", *SECTIONS) for block in re.findall(r"```proto\n(.*?)```", page[title], re.DOTALL)
    )
    rules = '\n    read: "true"\n    write: "true"'
    messages = messages.replace(
        "option (transom.schema.v1.resource) = {", f"option (transom.schema.v1.resource) = {{{rules}", 1
    )
    file.write_text(head + messages + SERVICE)
    with database(components, read(compile_app(app))) as at:
        place = Place(at.postgres, at.replica, at.redis, components.env["TRANSOM_S3_ENDPOINT"], components.env)
        with door(place, tmp_path_factory.mktemp("door"), {"TRANSOM_LIMIT_ADDRESS": ""}, app=app) as made:
            for name, fields in BOOKS.items():
                shelf, _, id = name.partition("/")
                answer = httpx.post(
                    f"{made.edge}/v1/shelves/{shelf}/books",
                    params={"bookId": id},
                    json=fields,
                    trust_env=False,
                    timeout=20,
                )
                assert answer.is_success, answer.text
            at.wait_replica()
            yield made


def same(promised: Any, answered: Any) -> bool:
    """Whether an answer is as promised, but for what is empty; `…` stands for any text."""
    if promised == "…":
        return isinstance(answered, str) and answered != ""
    if isinstance(promised, dict) and isinstance(answered, dict):
        told = {key: value for key, value in answered.items() if key in promised or not _empty(value)}
        return promised.keys() == told.keys() and all(same(promised[key], told[key]) for key in promised)
    if isinstance(promised, list) and isinstance(answered, list):
        return len(promised) == len(answered) and all(map(same, promised, answered))
    return bool(promised == answered)


def _empty(value: Any) -> bool:
    return not value or str(value).endswith("_UNSPECIFIED")


@pytest.mark.parametrize("section", SECTIONS)
def test_what_is_promised_is_answered(section: str, page: dict[str, str], running: Door) -> None:
    examples = re.findall(r"```sh\n(.*?)```\n```json\n(.*?)```", page[section], re.DOTALL)
    assert examples
    for command, promised in examples:
        env = {**os.environ, "EDGE": running.edge, "no_proxy": "*"}
        run = subprocess.run(["bash", "-euc", command], env=env, capture_output=True, text=True, timeout=30)
        assert run.stdout, run.stderr
        answered = json.loads(run.stdout)
        assert same(json.loads(promised), answered), f"{command}\n{json.dumps(answered, indent=2)}"


def test_the_bounds_are_those_of_the_code(page: dict[str, str]) -> None:
    for section, numbers in {
        "Lists": (lists.SKIP_MAX, lists.TOTAL_MAX, query_lane.SECONDS, SLOW_SECONDS),
        "Searching": (words.WORDS_MOST, words.LENGTH_MOST),
        "Counting and sums": (
            groups.GROUP_BY_MOST,
            groups.AGGREGATIONS_MOST,
            aggregates.ROWS_MAX,
            aggregates.GROUPS_MAX,
            query_lane.SECONDS,
        ),
    }.items():
        for number in numbers:
            assert re.search(rf"(?<![\d,.]){number:,}(?![\d,]|\.\d)", page[section]), (section, number)


def test_the_aggregate_is_the_same_over_grpc(page: dict[str, str], running: Door) -> None:
    [[asked, promised]] = re.findall(r"-d '(\{.*?\})'\n```\n```json\n(.*?)```", page["Counting and sums"], re.DOTALL)
    with grpc.insecure_channel(running.edge.removeprefix("http://")) as channel:
        stub = data_pb2_grpc.DataServiceStub(channel)
        answer = stub.Aggregate(json_format.Parse(asked, data_pb2.AggregateRequest()), timeout=20)
        assert same(json.loads(promised), json_format.MessageToDict(answer))
        with pytest.raises(grpc.RpcError) as refused:
            stub.Aggregate(data_pb2.AggregateRequest(type="library.example.com/Car", group_by=["name"]), timeout=20)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
