"""Field behaviours (AIP-203), enforced: what a client may not say is cleared, what it must say is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from server.errors import Violation
from server.schema.columns import is_map
from server.schema.model import Behavior, Resource, Schema


@dataclass(slots=True)
class _Tree:
    """The fields of one message that carry behaviours, and the messages below that do."""

    hidden: list[str] = field(default_factory=list)
    required: list[FieldDescriptor] = field(default_factory=list)
    immutable: list[str] = field(default_factory=list)
    below: list[tuple[FieldDescriptor, _Tree]] = field(default_factory=list)
    empty: bool = True


class Behaviors:
    """The behaviours of a schema's messages, looked up once per message."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._trees: dict[str, _Tree] = {}

    def clear(self, message: Message) -> None:
        """Clears every OUTPUT_ONLY field, nested ones too: what a client says of them is ignored."""
        _clear(message, self._tree(message.DESCRIPTOR))

    def restore(self, message: Message, stored: Message) -> None:
        """Gives every OUTPUT_ONLY field of `message`, as far as it lies in singular messages, the value of `stored`."""
        _restore(message, stored, self._tree(message.DESCRIPTOR))

    def missing(self, message: Message) -> list[Violation]:
        """A violation for every REQUIRED field that is empty, nested ones where their message is there."""
        return list(_missing(message, self._tree(message.DESCRIPTOR), ""))

    def changed(self, message: Message, stored: Message) -> list[Violation]:
        """A violation for every IMMUTABLE field, as far as it lies in singular messages, that differs."""
        return list(_changed(message, stored, self._tree(message.DESCRIPTOR), ""))

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
            return known  # a message within itself: whether it is empty is settled by whoever builds it
        tree = self._trees[descriptor.full_name] = _Tree()
        resource = self._schema.resources.get(descriptor.full_name)
        for one in descriptor.fields:
            behaviors = self.of(one)
            if Behavior.OUTPUT_ONLY in behaviors or (resource and one.name in resource.managed and one.name != "etag"):
                tree.hidden.append(one.name)
            elif Behavior.REQUIRED in behaviors and not (resource and one.name == resource.name_field):
                tree.required.append(one)
            if Behavior.IMMUTABLE in behaviors:
                tree.immutable.append(one.name)
            if one.message_type is not None and not one.message_type.full_name.startswith("google.protobuf."):
                holder = one.message_type.fields_by_name["value"] if is_map(one) else one
                if holder.message_type is not None:
                    below = self._build(holder.message_type)
                    if not below.empty or holder.message_type.full_name == descriptor.full_name:
                        tree.below.append((one, below))
        tree.empty = not (tree.hidden or tree.required or tree.immutable or tree.below)
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


def _restore(message: Any, stored: Any, tree: _Tree) -> None:
    for name in tree.hidden:
        one = message.DESCRIPTOR.fields_by_name[name]
        message.ClearField(name)
        if one.is_repeated:
            getattr(message, name).MergeFrom(getattr(stored, name))
        elif not is_empty(stored, one):
            copy_field(message, stored, one)
    for one, below in tree.below:
        if not one.is_repeated and message.HasField(one.name) and stored.HasField(one.name):
            _restore(getattr(message, one.name), getattr(stored, one.name), below)


def _missing(message: Any, tree: _Tree, path: str) -> Iterator[Violation]:
    for one in tree.required:
        if is_empty(message, one):
            yield Violation(path + one.name, "is required", "REQUIRED")
    for one, below in tree.below:
        for name, child in _children(message, one):
            yield from _missing(child, below, f"{path}{name}.")


def _changed(message: Any, stored: Any, tree: _Tree, path: str) -> Iterator[Violation]:
    for name in tree.immutable:
        one = message.DESCRIPTOR.fields_by_name[name]
        here = message.HasField(name) if one.has_presence else True
        there = stored.HasField(name) if one.has_presence else True
        if here != there or getattr(message, name) != getattr(stored, name):
            yield Violation(path + name, "cannot be changed once it is set", "IMMUTABLE")
    for one, below in tree.below:
        if not one.is_repeated and message.HasField(one.name) and stored.HasField(one.name):
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
