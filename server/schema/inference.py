"""Resources that a schema serves without saying so: messages that a Get answers by name, but that lack google.api.resource.

Older APIs have them (AIP-123 came later). What a resource is called is then told by the path of its Get over REST:
`/v1/{name=sites/*/rooms/*}` is a name like `sites/{site}/rooms/{room}`. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

_NAMED = re.compile(r"/[^{}:]*\{name=([^{}:]+)\}")
"""The path of a Get: a version, then the name, and no verb behind it."""


@dataclass(frozen=True, slots=True)
class Inferred:
    """What google.api.resource would say."""

    type: str
    pattern: Sequence[str]
    name_field: str = ""
    singular: str = ""
    plural: str = ""


def inferred(method: MethodDescriptor, paths: Sequence[tuple[str, str]]) -> tuple[Descriptor, Inferred] | None:
    """The message that `method` answers, and what its annotation would say; None where the method is no Get that tells.

    `paths` are verb and template of the method's REST bindings.
    """
    message, request = method.output_type, method.input_type
    if method.name != f"Get{message.name}" or method.server_streaming or method.client_streaming:
        return None
    if not (_is_name(message) and _is_name(request)) or message.file.package != method.containing_service.file.package:
        return None
    templates = [found[1] for verb, path in paths if verb == "get" and (found := _NAMED.fullmatch(path))]
    patterns = [pattern for template in templates if (pattern := _pattern(template))]
    if not patterns or len(patterns) != len(paths):
        return None
    return message, Inferred(f"{message.file.package}/{message.name}", patterns)


def _is_name(message: Descriptor) -> bool:
    field = message.fields_by_name.get("name")
    return field is not None and field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated


def _pattern(template: str) -> str:
    """`sites/*/rooms/*` → `sites/{site}/rooms/{room}`; empty where a collection has no name, or an id several segments."""
    segments = template.split("/")
    out: list[str] = []
    for before, segment in zip(["*", *segments], segments, strict=False):
        if segment == "**" or (segment == before == "*"):
            return ""
        variable = f"{{{_singular(before)}}}"
        if segment == "*" and variable in out:
            return ""
        out.append(variable if segment == "*" else segment)
    return "/".join(out)


def _singular(collection: str) -> str:
    word = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", collection).lower().replace("-", "_")
    for ending, single in (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("s", "")):
        if word.endswith(ending):
            return word[: -len(ending)] + single
    return word
