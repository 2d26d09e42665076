"""envoy.yaml at the top level, filled in for one app and one place.

The file is the configuration and its manual. What differs from place to place stands in it between `# >>> name` and
`# <<<`; rendering replaces these parts and leaves every other line, comments too, as it is. Filled in with the
defaults for examples/inspect it gives the file itself.
"""

from __future__ import annotations

import ipaddress
import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge import failures
from edge.yaml_text import yaml_text
from server.schema.model import Method, Schema
from server.schema.reading import read

TEMPLATE = Path(__file__).parents[1] / "envoy.yaml"
SCRIPT = Path(__file__).with_name("rest.lua")
"""What the edge does of itself between REST and gRPC."""

EVERYWHERE = "0.0.0.0"  # noqa: S104 - the edge is the one part that is there for the world
ANY = "*"
"""Every web origin."""
DEFAULT_SERVERS = (("127.0.0.1", 50051), ("127.0.0.1", 50052), ("127.0.0.1", 50053))

IGNORED_PARAMETERS = ("alt", "fields", "key", "prettyPrint", "quotaUser", "xgafv")
"""System parameters that Google's clients append to any REST call; known as `$alt` and as `alt`."""

HTTP_BODY = "google.api.HttpBody"
"""What is sent as it is, in messages or whole."""

FILES = "transom.files.v1.DirectFilesService"
FILES_SECONDS = 120
"""Longest time of one of its calls: a file is in a server's memory for as long, however slowly its client reads."""

_TOLD = "  response_headers_to_add: *told"

_FILES = (
    "  route:",
    "    cluster: servers",
    "    timeout: 0s",
    f"    max_stream_duration: {{max_stream_duration: {FILES_SECONDS}s}}",
    "    idle_timeout: 60s",
    "    priority: HIGH",
    "    retry_policy: *cautious",
)
"""As the route of streams, but of a bounded time."""

_PART = re.compile(r"^( *)# >>> (\w+)\n(?:.*\n)*?^ *# <<<$", re.MULTILINE)


def render(
    descriptor: bytes,
    descriptor_path: str,
    *,
    edge_port: int = 8080,
    edge_host: str = EVERYWHERE,
    admin_port: int = 9901,
    servers: Sequence[tuple[str, int]] = DEFAULT_SERVERS,
    origins: Sequence[str] = (ANY,),
    request_bytes: int = 1 << 20,
    deadline: float = 30.0,
) -> str:
    """The text of Envoy's configuration for the app that `descriptor` describes.

    `descriptor_path` is where Envoy will find those same bytes. `servers` are
    addresses, or host names that are resolved again and again. `origins` are
    the web origins whose pages may call, with cookies; `*` alone, or none, for
    any, without. `deadline` is in seconds, for one call that does not stream.

    Raises SchemaError where the descriptor is not a schema, ValueError where
    origins are named beside `*`.
    """
    schema = read(descriptor)
    methods = schema.methods()
    parts = {
        "admin": yaml_text({"socket_address": {"address": "127.0.0.1", "port_value": admin_port}}),
        "listener": yaml_text({"socket_address": {"address": edge_host, "port_value": edge_port}}),
        "failures": failures.mappers(),
        "origins": yaml_text(_origins(origins)),
        "welcome": yaml_text({"inline_string": _welcome(schema)}),
        "deadline": yaml_text({"timeout": _seconds(deadline)}),
        "held": yaml_text({"request_body_buffer_limit": request_bytes}),
        "rest": f"inline_string: |\n{textwrap.indent(SCRIPT.read_text(), '  ')}",
        "arrival": yaml_text({"max_stream_duration": _seconds(2 * deadline)}),
        "routes": _routes(schema),
        "schema": yaml_text({"proto_descriptor": descriptor_path, "services": [s.name for s in schema.services]}),
        "ignored": yaml_text({"ignored_query_parameters": _ignored(methods)}),
        "translated": yaml_text({"max_request_body_size": request_bytes}),
        "buffered": yaml_text({"max_request_bytes": request_bytes}),
        "servers": yaml_text(_endpoints(servers)),
    }
    return _filled(TEMPLATE.read_text(), parts)


def _filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with its parts replaced. Raises ValueError where template and parts do not name the same ones."""
    found = {match[2] for match in _PART.finditer(template)}
    if found != set(parts):
        raise ValueError(f"{TEMPLATE.name}: parts that differ from what is rendered: {sorted(found ^ set(parts))}")

    def fill(match: re.Match[str]) -> str:
        indent, name = match[1], match[2]
        return f"{indent}# >>> {name}\n{textwrap.indent(parts[name], indent)}{indent}# <<<"

    return _PART.sub(fill, template)


def _routes(schema: Schema) -> str:
    """For each service routes of its streams and one of its safe methods; what is left over changes something."""
    lines = []
    for service in schema.services:
        streams = [m for m in service.methods if m.client_streaming or m.server_streaming]
        told = [m for m in streams if m.server_streaming and m.response != HTTP_BODY]
        watched = [m for m in told if m.safe and not m.client_streaming]
        safe = [m for m in service.methods if m.safe and m not in streams]
        for methods, route, more in (
            (watched, "watch", [_TOLD]),
            ([m for m in told if m not in watched], "stream", [_TOLD]),
            ([m for m in streams if m not in told], "stream", []),
        ):
            if methods:
                lines += [
                    _match(service.name, methods),
                    *(_FILES if service.name == FILES else [f"  route: *{route}"]),
                    "  typed_per_filter_config: *unbuffered",
                    *more,
                ]
        if safe:
            lines += [_match(service.name, safe), "  route: *safe"]
    return "".join(f"{line}\n" for line in lines)


def _match(service: str, methods: Iterable[Method]) -> str:
    names = "|".join(sorted(m.name for m in methods))
    # Broken at the bars, as YAML's double quotes allow, so that a line can be read.
    wrapped = textwrap.wrap(names.replace("|", "| "), 90, break_long_words=False, break_on_hyphens=False)
    text = "\\\n    ".join(line.replace("| ", "|") for line in wrapped)
    return f'- match: {{safe_regex: {{regex: "/{service.replace(".", "[.]")}/({text})"}}}}'


def _ignored(methods: Iterable[Method]) -> list[str]:
    """The parameters to ignore: those with a `$` always, others where no request has a field of that name."""
    fields = {field for method in methods for field in method.fields}
    fields |= {re.sub(r"_(.)", lambda m: m[1].upper(), field) for field in fields}
    plain = [name for name in IGNORED_PARAMETERS if name not in fields]
    # Envoy compares names as they come; clients write `$` both plainly and escaped.
    return [*plain, *(f"{sign}{name}" for sign in ("$", "$.", "%24", "%24.") for name in IGNORED_PARAMETERS)]


def _welcome(schema: Schema) -> str:
    """The JSON that GET / answers. `%` begins a command to Envoy; a proto name has none."""
    names = [s.name for s in schema.services]
    return json.dumps({"services": names, "health": "/healthz", "reflection": "grpc.reflection.v1.ServerReflection"})


def _origins(origins: Sequence[str]) -> dict[str, Any]:
    """The policy's part that says whose pages may call. Who calls with a cookie is named, always: Envoy would give `*`
    leave for every origin by its name, and any page could use its reader's session."""
    named = tuple(origins) or (ANY,)
    if ANY in named:
        if len(named) > 1:
            raise ValueError("origins: either * or names")
        return {"allow_origin_string_match": [{"exact": ANY}]}
    return {"allow_origin_string_match": [{"exact": o} for o in named], "allow_credentials": True}


def _endpoints(servers: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """The cluster's part that says where its servers are."""
    static = all(_is_ip(host) for host, _ in servers)
    # A name stands for all its addresses, which are asked for every 5 s: servers come and go behind it.
    kind = {"type": "STATIC"} if static else {"type": "STRICT_DNS", "dns_lookup_family": "V4_PREFERRED"}
    return {
        **kind,
        "load_assignment": {
            "cluster_name": "servers",
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}
                        for host, port in servers
                    ]
                }
            ],
        },
    }


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _seconds(value: float) -> str:
    return f"{value:g}s"
