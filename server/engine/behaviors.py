"""Field behaviours (AIP-203), enforced: what a client may not say is cleared, what it must say is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from server.errors import VIOLATIONS_MAX, Violation
from server.schema.columns import is_map
from server.schema.model import Behavior, Resource, Schema


@dataclass(slots=True)
class _Tree:
    """The fields of one message that carry behaviours, and the messages below that do."""

    hidden: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    required: list[FieldDescriptor] = field(default_factory=list)
    immutable: list[str] = field(default_factory=list)
    below: list[tuple[FieldDescriptor, _Tree]] = field(default_factory=list)
    empty: bool = False
    """Nothing here or below carries a behaviour; not known, and taken for no, while the tree is built."""


class Behaviors:
    """The behaviours of a schema's messages, looked up once per message."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._trees: dict[str, _Tree] = {}

    def clear(self, message: Message) -> None:
        """Clears every OUTPUT_ONLY field, nested ones too: what a client says of them is ignored."""
        _clear(message, self._tree(message.DESCRIPTOR))

    def restore(self, message: Message, stored: Message) -> None:
        """Gives every OUTPUT_ONLY field of `message` the value it has in `stored`, and clears it where `stored` has none.

        An item of a repeated field has the values of the stored item that it equals in all the client may set; an entry
        of a map those of its key.
        """
        _restore(message, stored, self._tree(message.DESCRIPTOR))

    def forget(self, message: Message) -> None:
        """Clears every INPUT_ONLY field, nested ones too: it is checked, and never comes back in an answer (AIP-203)."""
        _forget(message, self._tree(message.DESCRIPTOR))

    def missing(self, message: Message, *, stored: bool = False) -> list[Violation]:
        """A violation for every REQUIRED field that is empty, nested ones where their message is there. Of what is
        `stored`, no INPUT_ONLY field is missed."""
        return list(islice(_missing(message, self._tree(message.DESCRIPTOR), "", stored), VIOLATIONS_MAX))

    def changed(self, message: Message, stored: Message) -> list[Violation]:
        """A violation for every IMMUTABLE field that differs, as far as it lies in singular messages that are stored:
        items and entries come and go whole."""
        return list(islice(_changed(message, stored, self._tree(message.DESCRIPTOR), ""), VIOLATIONS_MAX))

    def of(self, field: FieldDescriptor) -> frozenset[Behavior]:
        """The behaviours of a field."""
        return self._schema.behaviors.get(field.full_name, frozenset())

    def hidden(self, resource: Resource) -> frozenset[str]:
        """Top-level fields of a resource that clients cannot set."""
        return frozenset(self._tree(resource.descriptor).hidden)

    def _tree(self, descriptor: Any) -> _Tree:
        tree = self._trees.get(descriptor.full_name)
        if tree is None:
            self._build(descriptor)
            tree = self._trees[descriptor.full_name]
        return tree

    def _build(self, descriptor: Any) -> _Tree:
        known = self._trees.get(descriptor.full_name)
        if known is not None:
            return known
        tree = self._trees[descriptor.full_name] = _Tree()
        resource = self._schema.resources.get(descriptor.full_name)
        for one in descriptor.fields:
            behaviors = self.of(one)
            if Behavior.OUTPUT_ONLY in behaviors or (resource and one.name in resource.managed and one.name != "etag"):
                tree.hidden.append(one.name)
            elif Behavior.REQUIRED in behaviors and not (resource and one.name == resource.name_field):
                tree.required.append(one)
            if Behavior.INPUT_ONLY in behaviors:
                tree.inputs.append(one.name)
            if Behavior.IMMUTABLE in behaviors:
                tree.immutable.append(one.name)
            if one.message_type is not None and not one.message_type.full_name.startswith("google.protobuf."):
                holder = one.message_type.fields_by_name["value"] if is_map(one) else one
                if holder.message_type is not None:
                    below = self._build(holder.message_type)
                    if not below.empty:
                        tree.below.append((one, below))
        tree.empty = not (tree.hidden or tree.inputs or tree.required or tree.immutable or tree.below)
        return tree


def is_empty(message: Any, one: FieldDescriptor) -> bool:
    """Whether a field counts as not given: absent, or zero where absence and zero are the same."""
    if one.has_presence:
        return not message.HasField(one.name)
    return not getattr(message, one.name)


def _children(message: Any, one: FieldDescriptor) -> Iterator[tuple[str, Message]]:
    """The messages in a field, with their paths."""
    value = getattr(message, one.name)
    if is_map(one):
        yield from ((f"{one.name}[{key}]", value[key]) for key in value)
    elif one.is_repeated:
        yield from ((f"{one.name}[{i}]", item) for i, item in enumerate(value))
    elif message.HasField(one.name):
        yield one.name, value


def _clear(message: Any, tree: _Tree) -> None:
    for name in tree.hidden:
        message.ClearField(name)
    for one, below in tree.below:
        for _, child in _children(message, one):
            _clear(child, below)


def _forget(message: Any, tree: _Tree) -> None:
    for name in tree.inputs:
        message.ClearField(name)
    for one, below in tree.below:
        for _, child in _children(message, one):
            _forget(child, below)


def _restore(message: Any, stored: Any, tree: _Tree) -> None:
    for name in tree.hidden:
        one = message.DESCRIPTOR.fields_by_name[name]
        message.ClearField(name)
        if not is_empty(stored, one):
            copy_field(message, stored, one)
    for one, below in tree.below:
        if is_map(one):
            here, there = getattr(message, one.name), getattr(stored, one.name)
            for key in here:
                _restore(here[key], there[key] if key in there else type(here[key])(), below)
        elif one.is_repeated:
            _restore_items(getattr(message, one.name), getattr(stored, one.name), below)
        elif message.HasField(one.name):
            _restore(getattr(message, one.name), getattr(stored, one.name), below)


def _restore_items(items: Any, stored: Any, tree: _Tree) -> None:
    known: dict[bytes, deque[Any]] = {}
    for item in stored:
        known.setdefault(_settable(item, tree), deque()).append(item)
    for item in items:
        alike = known.get(_settable(item, tree))
        _restore(item, alike.popleft() if alike else type(item)(), tree)


def _settable(item: Any, tree: _Tree) -> bytes:
    """What a client may set of an item, to compare it by."""
    bare = type(item)()
    bare.CopyFrom(item)
    _clear(bare, tree)
    return bytes(bare.SerializeToString(deterministic=True))


def _missing(message: Any, tree: _Tree, path: str, stored: bool) -> Iterator[Violation]:
    for one in tree.required:
        if is_empty(message, one) and not (stored and one.name in tree.inputs):
            yield Violation(path + one.name, "is required", "REQUIRED")
    for one, below in tree.below:
        for name, child in _children(message, one):
            yield from _missing(child, below, f"{path}{name}.", stored)


def _changed(message: Any, stored: Any, tree: _Tree, path: str) -> Iterator[Violation]:
    for name in tree.immutable:
        one = message.DESCRIPTOR.fields_by_name[name]
        here = message.HasField(name) if one.has_presence else True
        there = stored.HasField(name) if one.has_presence else True
        if here != there or getattr(message, name) != getattr(stored, name):
            yield Violation(path + name, "cannot be changed once it is set", "IMMUTABLE")
    for one, below in tree.below:
        if not one.is_repeated and stored.HasField(one.name):
            yield from _changed(getattr(message, one.name), getattr(stored, one.name), below, f"{path}{one.name}.")


def copy_field(target: Any, source: Any, one: FieldDescriptor) -> None:
    """Gives a field of `target` the value it has in `source`, which must be there."""
    if one.is_repeated:
        target.ClearField(one.name)
        getattr(target, one.name).MergeFrom(getattr(source, one.name))
    elif one.message_type is not None:
        getattr(target, one.name).CopyFrom(getattr(source, one.name))
    else:
        setattr(target, one.name, getattr(source, one.name))
