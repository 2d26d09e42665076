"""A request of legal size cannot hold a server up by what it holds."""

from __future__ import annotations

import pytest

from deploy.native.stack import PROJECT
from server.engine import bounds
from server.engine.behaviors import Behaviors
from server.engine.validation import Validation
from server.errors import VIOLATIONS_MAX, Invalid
from server.schema.compilation import compile_app
from server.schema.model import Schema
from server.schema.reading import read


@pytest.fixture(scope="module")
def schema() -> Schema:
    return read(compile_app(PROJECT / "examples" / "inspect"))


@pytest.mark.parametrize(("messages", "refused"), [(4_990, False), (5_001, True), (300_000, True)])
def test_the_messages_of_a_request_are_counted(schema: Schema, messages: int, refused: bool) -> None:
    request = schema.message_class("inspect.v1.CreateInspectionRequest")()
    for _ in range(messages):
        request.inspection.checks.add(text="a long enough line")
    size = request.ByteSize()
    if refused:
        with pytest.raises(Invalid, match="5000 messages"):
            bounds.check(request, size)
    else:
        bounds.check(request, size)


def test_no_more_violations_are_gathered_than_are_told(schema: Schema) -> None:
    request = schema.message_class("inspect.v1.CreateInspectionRequest")()
    for _ in range(8_000):
        request.inspection.checks.add()
    assert len(Behaviors(schema).missing(request)) <= VIOLATIONS_MAX
    assert 1 <= len(Validation().violations(request)) <= VIOLATIONS_MAX
    for check in request.inspection.checks:
        check.text = "x" * 10_000
    assert len(Validation().violations(request)) == 1, "of a large one, the first"
