"""Constraints are asked for wherever a message has any, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.engine.validation import Validation
from server.schema.compilation import compile_app
from server.schema.model import Schema
from server.schema.reading import read

FILE = """
syntax = "proto3";
package bound.v1;
import "buf/validate/validate.proto";
import "google/protobuf/timestamp.proto";
message Free {
  string name = 1; google.protobuf.Timestamp at = 2; Free again = 3; map<string, Free> by = 4; oneof one { int32 a = 5; }
}
message InField { string name = 1 [(buf.validate.field).string.max_len = 2]; }
message InMessage {
  option (buf.validate.message).cel = {id: "short" message: "is long" expression: "this.name.size() <= 2"};
  string name = 1;
}
message InOneof { oneof one { option (buf.validate.oneof).required = true; string name = 1; } }
message InItems { repeated string names = 1 [(buf.validate.field).repeated.items.string.max_len = 2]; }
message Deep { Free free = 1; Deeper deeper = 2; }
message Deeper { Deep above = 1; map<string, InField> by = 2; }
"""


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Schema:
    app: Path = tmp_path_factory.mktemp("bound")
    file = app / "proto/bound/v1/bound.proto"
    file.parent.mkdir(parents=True)
    file.write_text(FILE)
    return read(compile_app(app))


@pytest.mark.parametrize(
    ("message", "said", "wrong"),
    [
        ("Free", {"name": "long", "again": {"again": {"a": 3}}}, []),
        ("InField", {"name": "long"}, ["name"]),
        ("InField", {"name": "l"}, []),
        ("InMessage", {"name": "long"}, [""]),
        ("InOneof", {}, ["one"]),
        ("InItems", {"names": ["a", "long"]}, ["names[1]"]),
        ("Deep", {"deeper": {"by": {"k": {"name": "long"}}}}, ["deeper.by[k].name"]),
        ("Deeper", {"above": {"deeper": {"by": {"k": {"name": "long"}}}}}, ["above.deeper.by[k].name"]),
    ],
)
def test_what_is_violated_is_found_however_deep(
    schema: Schema, message: str, said: dict[str, object], wrong: list[str]
) -> None:
    validation = Validation()
    for _ in range(2):  # the first looks at the type, the second remembers
        found = validation.violations(schema.message_class(f"bound.v1.{message}")(**said))
        assert [v.field for v in found] == wrong
