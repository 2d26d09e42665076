"""Data → YAML to be read by people: a value that fits stands on one line, a larger one is broken into a block.

PyYAML's writer knows either all or nothing of this, and names anchors by itself.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

WIDTH = 140

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*|[A-Za-z][A-Za-z0-9_./;, -]*[A-Za-z0-9_./;-]")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


class Alias(str):
    """A reference to an anchor: `Alias("safe")` is written `*safe`."""


@dataclass(frozen=True, slots=True)
class Anchored:
    """A value with an anchor: `Anchored("safe", value)` is written `&safe value`, on one line."""

    name: str
    value: Any


def yaml_text(value: Any, width: int = WIDTH) -> str:
    """The value as YAML, ending in a newline. The outermost mapping or sequence is always a block."""
    return "".join(f"{line}\n" for line in _block(value, width))


def _block(value: Any, width: int) -> list[str]:
    lines: list[str] = []
    if isinstance(value, dict):
        for key, inner in value.items():
            flow = f"{_scalar(key)}: {_flow(inner)}"
            if _simple(inner) or len(flow) <= width:
                lines.append(flow)
            elif isinstance(inner, list) and all(_simple(i) for i in inner):
                lines += [f"{_scalar(key)}: [", *_packed(inner, width - 2), "]"]
            elif isinstance(inner, dict):
                lines += [f"{_scalar(key)}:", *(f"  {line}" for line in _block(inner, width - 2))]
            else:
                lines += [f"{_scalar(key)}:", *_block(inner, width)]
    else:
        for inner in value:
            flow = f"- {_flow(inner)}"
            if _simple(inner) or len(flow) <= width:
                lines.append(flow)
            else:
                first, *more = _block(inner, width - 2)
                lines += [f"- {first}", *(f"  {line}" for line in more)]
    return lines


def _packed(values: list[Any], width: int) -> list[str]:
    """Scalars, as many on a line as fit."""
    lines = [""]
    for value in values:
        text = f"{_scalar(value)},"
        if lines[-1] and len(lines[-1]) + len(text) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {text}".strip()
    return [f"  {line}" for line in lines]


def _flow(value: Any) -> str:
    if isinstance(value, Anchored):
        return f"&{value.name} {_flow(value.value)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(v) for v in value) + "]"
    return _scalar(value)


def _simple(value: Any) -> bool:
    return not isinstance(value, dict | list) or not value


def _scalar(value: Any) -> str:
    if isinstance(value, Alias):
        return f"*{value}"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS and "," not in value:
        return value
    if isinstance(value, str) and '"' in value and "'" not in value and value.isprintable():
        return f"'{value}'"
    return json.dumps(value, ensure_ascii=False)
