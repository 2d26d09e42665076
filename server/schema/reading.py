"""Descriptor set → Schema. Pure: the same bytes always give the same schema, or the same refusal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from server.schema import keeping
from server.schema.classification import Classified, classified
from server.schema.columns import column_type, identifier, snake
from server.schema.compilation import SchemaError
from server.schema.doubts import doubts
from server.schema.file_fields import FileFields
from server.schema.inference import Inferred, inferred
from server.schema.model import (
    Access,
    Audience,
    Behavior,
    Field,
    Index,
    Managed,
    Method,
    OnDelete,
    Operation,
    Resource,
    Schema,
    Service,
)
from server.schema.names import Pattern, PatternError

OWN_PACKAGE = "transom."
SYSTEM_COLUMNS = frozenset({"name", "ctid", "tableoid", "xmin", "xmax", "cmin", "cmax"})
"""Ours and Postgres's own; beside these, a column that begins with an underscore is Transom's."""

RESOURCE_RULES = ("read", "write", "get", "list", "create", "update", "delete", "watch")
FIELD_RULES = ("read", "write")
KEPT_OF_FIELDS = ("index", "unique", "search", "on_delete")
OPERATION = "google.longrunning.Operation"
OPERATIONS_PACKAGE = "google.longrunning"

_IMAGE_EXTENSION = 8042
"""Number of buf's `buf_extension` in a file of an image; its field 1 is `is_import`."""


def read(descriptor: bytes) -> Schema:
    """The schema of a compiled app.

    Raises SchemaError, a line for each fault with file, message, field and reason.
    """
    files = FileDescriptorSet.FromString(descriptor)
    pool = DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return replace(_Reader(pool, files.file).schema(), image=descriptor)


class _Reader:
    """One reading. Faults are gathered, so that an author sees all at once."""

    def __init__(self, pool: DescriptorPool, files: Iterable[FileDescriptorProto]) -> None:
        self.pool = pool
        self.files = list(files)
        self.faults: list[str] = []
        self.warnings: list[str] = []
        self.comments: dict[str, str] = {}
        self._extended = any(f.name == "google/protobuf/descriptor.proto" for f in self.files)
        self._filed = FileFields(
            lambda field: self.extension(field, "transom.schema.v1.field"),
            lambda field: self.extension(field, "google.api.resource_reference"),
            self._behaviors,
        )

    def schema(self) -> Schema:
        resources: dict[str, Resource] = {}
        served = [f for f in self.files if not is_imported(f) or (f.package == OPERATIONS_PACKAGE and self._operates())]
        for file in served:
            self.comments.update(_comments(file))
        for file in served:
            if not file.package.startswith(OWN_PACKAGE):
                for message in _messages(self.pool.FindFileByName(file.name).message_types_by_name.values()):
                    if resource := self._resource(file.name, message):
                        resources[resource.message] = resource
        for message, option in self._inferred(served):
            if message.full_name not in resources:
                where = f"{message.file.name}: {message.full_name}"
                self.warnings.append(f"{where}: has no google.api.resource: taken for {' or '.join(option.pattern)}")
                if resource := self._stored(where, message, option):
                    resources[resource.message] = resource
        resources = _with_tables(resources)
        self._check_unique(resources.values())
        keeping.with_lifetimes(resources, self._answers("Undelete", served), self._answers("Delete", served))
        keeping.with_revisions(resources)
        self._refer(resources)
        for resource in resources.values():
            said = self.extension(resource.descriptor, "transom.schema.v1.resource")
            for fault in keeping.contradictions(resource, said):
                where = f"{resource.descriptor.file.name}: {resource.message}"
                self.faults.append(f"{where}: (transom.schema.v1.resource).{fault}")
        for file in served:
            if not file.package.startswith(OWN_PACKAGE):
                for message in _messages(self.pool.FindFileByName(file.name).message_types_by_name.values()):
                    if message.full_name not in resources:
                        self._check_unruled(f"{file.name}: {message.full_name}", message)
        services = tuple(
            self._service(service, resources, own=file.package.startswith((OWN_PACKAGE, OPERATIONS_PACKAGE)))
            for file in served
            for service in self.pool.FindFileByName(file.name).services_by_name.values()
        )
        if self.faults:
            raise SchemaError("\n".join(self.faults))
        behaviors = {
            field.full_name: found
            for file in self.files
            for message in _messages(self.pool.FindFileByName(file.name).message_types_by_name.values())
            for field in message.fields
            if (found := self._behaviors(field))
        }
        references = {
            field.full_name: found.type
            for resource in resources.values()
            for message in _messages([resource.descriptor])
            for field in message.fields
            if (found := self.extension(field, "google.api.resource_reference")) is not None and found.type
        }
        terms: dict[str, tuple[tuple[str, str], ...]] = {}
        for file in sorted(served, key=lambda f: f.name):
            written = self.extension(self.pool.FindFileByName(file.name), "transom.schema.v1.terms") or ()
            terms[file.package] = (*terms.get(file.package, ()), *((t.name, t.means) for t in written))
        schema = Schema(self.pool, resources, services, behaviors, references=references, terms=terms)
        own = (f for f in served if not f.package.startswith(OWN_PACKAGE))
        return replace(schema, warnings=(*self.warnings, *doubts(schema, own)))

    def _operates(self) -> bool:
        """Whether a method of the app answers an Operation: then the service of operations is served, too."""
        return any(
            method.output_type.full_name == OPERATION
            for file in self.files
            if not is_imported(file)
            for service in self.pool.FindFileByName(file.name).services_by_name.values()
            for method in service.methods
        )

    def _inferred(self, files: Iterable[FileDescriptorProto]) -> Iterable[tuple[Descriptor, Inferred]]:
        """The messages that a Get answers by name though they are not annotated, with what their annotation would say."""
        for file in files:
            for service in self.pool.FindFileByName(file.name).services_by_name.values():
                for method in service.methods if not file.package.startswith(OWN_PACKAGE) else ():
                    found = inferred(method, self._http(method))
                    if found and self.extension(found[0], "google.api.resource") is None:
                        yield found

    def _answers(self, verb: str, files: Iterable[FileDescriptorProto]) -> frozenset[str]:
        """The messages that methods of this verb answer in the end."""
        methods = (
            method
            for file in files
            for service in self.pool.FindFileByName(file.name).services_by_name.values()
            for method in service.methods
            if method.name.startswith(verb)
        )
        return frozenset(answer.full_name for m in methods if (answer := self._operation(m)[1]) is not None)

    def _refer(self, resources: dict[str, Resource]) -> None:
        """Reads, in place, which references are checked: what they lead to is known by now."""
        for name, resource in resources.items():
            # Of several versions of an API that call a resource the same, its own.
            near = (r for r in resources.values() if r.table_schema == resource.table_schema)
            types = {r.type: r.message for r in (*resources.values(), *near)}
            fields = []
            for field in resource.fields:
                option = self.extension(field.descriptor, "transom.schema.v1.field")
                referred = self.extension(field.descriptor, "google.api.resource_reference")
                try:
                    found = keeping.reference(field.descriptor, option, referred, types)
                    if found and found.on_delete is OnDelete.CLEAR and Behavior.REQUIRED in field.behaviors:
                        raise keeping.Unkept("on_delete: the field is REQUIRED: it cannot be cleared")
                    # What a revision shows keeps no file: it may long be gone from the resource.
                    revised = resource.snapshot_of and field.name == "snapshot"
                    files = () if revised else self._filed.of(field)
                    fields.append(replace(field, reference=found, files=files))
                except keeping.Unkept as fault:
                    self.faults.append(
                        f"{resource.descriptor.file.name}: {name}.{field.name}: (transom.schema.v1.field).{fault}"
                    )
            resources[name] = replace(resource, fields=tuple(fields))

    def options(self, descriptor: Any) -> Any:
        """The options of a descriptor, re-read with this pool's own classes: only these know its extensions."""
        options = descriptor.GetOptions()
        if not self._extended:
            return options
        kind = message_factory.GetMessageClass(self.pool.FindMessageTypeByName(options.DESCRIPTOR.full_name))
        return kind.FromString(options.SerializeToString())

    def extension(self, descriptor: Any, name: str) -> Any:
        """The value of an option, or None where it is not set or not known to this schema."""
        try:
            extension = self.pool.FindExtensionByName(name)
        except KeyError:
            return None
        options = self.options(descriptor)
        if extension.is_repeated:
            return list(options.Extensions[extension])
        return options.Extensions[extension] if options.HasExtension(extension) else None

    def _resource(self, file: str, message: Descriptor) -> Resource | None:
        option = self.extension(message, "google.api.resource")
        if option is None:
            return None
        return self._stored(f"{file}: {message.full_name}", message, option)

    def _stored(self, where: str, message: Descriptor, option: Any) -> Resource | None:
        name_field = option.name_field or "name"
        holder = message.fields_by_name.get(name_field)
        if holder is None or holder.type != FieldDescriptor.TYPE_STRING or holder.is_repeated:
            # Such messages are described as resources, but not kept as ones (AIP-122 wants a string field `name`).
            self.warnings.append(f"{where}: not stored: it has no string field {name_field!r}")
            return None
        patterns = []
        for text in option.pattern:
            if text == "*":
                continue
            try:
                patterns.append(Pattern(text))
            except PatternError as fault:
                self.faults.append(f"{where}: google.api.resource: pattern {fault}")
        if not patterns:
            if not option.pattern:
                self.faults.append(f"{where}: google.api.resource: has no pattern")
            return None
        singular = option.singular or option.type.rpartition("/")[2][:1].lower() + option.type.rpartition("/")[2][1:]
        plural = option.plural or patterns[0].collection
        fields = tuple(self._fields(where, message, name_field))
        managed = frozenset(m for m in Managed if self._manages(message, m))
        said = self.extension(message, "transom.schema.v1.resource")
        for m in Managed:
            if m in message.fields_by_name and m not in managed:
                self.warnings.append(f"{where}.{m}: not kept by Transom: its type is not the standard one (AIP-148)")
        retention, indexes, revisions = self._kept(where, message, said, fields)
        return Resource(
            message=message.full_name,
            type=option.type,
            patterns=tuple(patterns),
            singular=singular,
            plural=plural,
            name_field=name_field,
            fields=fields,
            managed=managed,
            table_schema=_table_schema(message.file.package),
            table_name=identifier(snake(plural)),
            descriptor=message,
            comment=self.comments.get(message.full_name, ""),
            rules=_written(said, RESOURCE_RULES),
            outlives_owner=bool(getattr(said, "outlives_owner", False)),
            hot=bool(getattr(said, "hot", False)),
            retention=retention,
            expires=bool(getattr(said, "expires", False)),
            revisions=revisions,
            indexes=indexes,
        )

    def _kept(
        self, where: str, message: Descriptor, said: Any, fields: Iterable[Field]
    ) -> tuple[int, tuple[Index, ...], int]:
        """For how long what is deleted is kept, the indexes, how many revisions."""
        try:
            options = [(f, self.extension(f.descriptor, "transom.schema.v1.field")) for f in fields]
            revisions = said.revisions if said is not None else 0
            if not 0 <= revisions <= keeping.REVISIONS_MAX:
                raise keeping.Unkept(f"revisions: must be 1 to {keeping.REVISIONS_MAX}")
            return keeping.retention(said), tuple(keeping.indexes(said, message, options)), revisions
        except keeping.Unkept as fault:
            self.faults.append(f"{where}: (transom.schema.v1.resource).{fault}")
            return 0, (), 0

    def _fields(self, where: str, message: Descriptor, name_field: str) -> Iterable[Field]:
        taken = set(SYSTEM_COLUMNS)
        for field in message.fields:
            behaviors = self._behaviors(field)
            if field.name == name_field:
                column, kind, default = "name", "text", None
            else:
                column = identifier(field.name)
                if column in taken or column.startswith("_"):
                    column = identifier(f"_f{field.number}_{field.name}")
                kind, default = column_type(field)
            taken.add(column)
            if Behavior.REQUIRED in behaviors and Behavior.OUTPUT_ONLY in behaviors:
                self.warnings.append(
                    f"{where}.{field.name}: is both REQUIRED and OUTPUT_ONLY: clients need not give it"
                )
            option = self.extension(field, "transom.schema.v1.field")
            search = bool(option is not None and option.search)
            if search and field.type != FieldDescriptor.TYPE_STRING:
                self.faults.append(f"{where}.{field.name}: (transom.schema.v1.field).search: the field is no string")
            initial = self._initial(where, field)
            yield Field(
                field.number,
                field.name,
                field,
                behaviors,
                column,
                kind,
                default,
                initial,
                _written(option, FIELD_RULES),
                search,
            )

    def _initial(self, where: str, field: FieldDescriptor) -> Any:
        rules = self.extension(field, "transom.schema.v1.field")
        if rules is None or not rules.initial:
            return None
        oneof = field.containing_oneof
        if oneof is not None and len(oneof.fields) > 1:
            self.faults.append(
                f"{where}.{field.name}: (transom.schema.v1.field).initial: it is one of {oneof.name!r}, of which a client may "
                "choose another"
            )
            return None
        try:
            value = _value(field, rules.initial)
            assert field.containing_type is not None
            # What is out of the field's range raises here.
            setattr(message_factory.GetMessageClass(field.containing_type)(), field.name, value)
        except (ValueError, KeyError):
            self.faults.append(
                f"{where}.{field.name}: (transom.schema.v1.field).initial: {rules.initial!r} is no value of the field"
            )
            return None
        return value

    def _behaviors(self, field: FieldDescriptor) -> frozenset[Behavior]:
        values = self.extension(field, "google.api.field_behavior") or ()
        if not values:
            return frozenset()
        names = self.pool.FindEnumTypeByName("google.api.FieldBehavior").values_by_number
        known = {b.name: b for b in Behavior}
        return frozenset(known[n] for v in values if v in names and (n := names[v].name) in known)

    @staticmethod
    def _manages(message: Descriptor, managed: Managed) -> bool:
        field = message.fields_by_name.get(managed)
        if field is None or field.is_repeated:
            return False
        if managed in (Managed.UID, Managed.ETAG):
            return field.type == FieldDescriptor.TYPE_STRING
        return (
            field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type.full_name == "google.protobuf.Timestamp"
        )

    def _check_unique(self, resources: Iterable[Resource]) -> None:
        tables: dict[tuple[str, str], str] = {}
        patterns: dict[tuple[str, str], str] = {}
        for resource in resources:
            table = (resource.table_schema, resource.table_name)
            if table in tables:
                self.faults.append(
                    f"{resource.descriptor.file.name}: {resource.message}: would share the table {'.'.join(table)} with "
                    f"{tables[table]}: give them different plurals"
                )
            tables[table] = resource.message
            for pattern in resource.patterns:
                key = (resource.table_schema, pattern.text)
                if key in patterns:
                    self.faults.append(
                        f"{resource.descriptor.file.name}: {resource.message}: google.api.resource: pattern "
                        f"{pattern.text!r} is that of {patterns[key]} too"
                    )
                patterns[key] = resource.message

    def _check_unruled(self, where: str, message: Descriptor) -> None:
        """A fault for each rule that nothing would ask: one that is not there must not look as if it were."""
        for name, _ in _written(self.extension(message, "transom.schema.v1.resource"), RESOURCE_RULES):
            self.faults.append(f"{where}: (transom.schema.v1.resource).{name}: is asked of resources, and this is none")
        for field in message.fields:
            option = self.extension(field, "transom.schema.v1.field")
            rules = [name for name, _ in _written(option, (*FIELD_RULES, *KEPT_OF_FIELDS))]
            if option is not None and option.HasField("file"):
                rules.append("file")
            if field.full_name in self._filed.read:  # references to files are looked at in what a resource holds, too
                rules = [rule for rule in rules if rule not in ("on_delete", "file")]
            for name in rules:
                self.faults.append(
                    f"{where}.{field.name}: (transom.schema.v1.field).{name}: is asked of the fields of a resource: write it "
                    "at the one that holds this message"
                )

    def _service(self, service: Any, resources: dict[str, Resource], own: bool) -> Service:
        methods = tuple(self._method(m, resources, own) for m in service.methods)
        return Service(service.full_name, methods, own)

    def _method(self, method: MethodDescriptor, resources: dict[str, Resource], own: bool) -> Method:
        http = self._http(method)
        references = {
            f.name: r.type
            for f in method.input_type.fields
            if (r := self.extension(f, "google.api.resource_reference")) is not None and r.type
        }
        operation, answer = self._operation(method)
        found = classified(method, resources, references, operation, answer, own=own)
        safe = found.safe or method.GetOptions().idempotency_level == 1 or (bool(http) and http[0][0] == "get")
        return Method(
            path=f"/{method.containing_service.full_name}/{method.name}",
            name=method.name,
            kind=found.kind,
            request=method.input_type.full_name,
            response=method.output_type.full_name,
            client_streaming=method.client_streaming,
            server_streaming=method.server_streaming,
            safe=safe,
            answer=answer.full_name if answer else method.output_type.full_name,
            resource=found.resource,
            resource_field=found.resource_field,
            id_field=found.id_field,
            items_field=found.items_field,
            requests_field=found.requests_field,
            each=_each(method, found),
            operation=operation,
            fields=frozenset(f.name for f in method.input_type.fields),
            http=http,
            bodies=self._bodies(method),
            access=self._access(method),
            references=references,
            why_custom=found.why_custom,
            comment=self.comments.get(method.full_name, ""),
        )

    def _operation(self, method: MethodDescriptor) -> tuple[Operation | None, Descriptor | None]:
        """What an Operation that the method answers says of itself, and the message that the method answers in the end."""
        if method.output_type.full_name != OPERATION:
            return None, method.output_type
        said = self.extension(method, "google.longrunning.operation_info")
        package = method.containing_service.file.package
        response = self._message(said.response_type, package) if said else None
        metadata = self._message(said.metadata_type, package) if said else None
        if response is None:
            return Operation("", metadata.full_name if metadata else ""), None
        return Operation(response.full_name, metadata.full_name if metadata else ""), response

    def _message(self, name: str, package: str) -> Descriptor | None:
        """A message by its full name, or by that within the package (AIP-151)."""
        for full in (f"{package}.{name}", name):
            try:
                return self.pool.FindMessageTypeByName(full)
            except KeyError:
                continue
        return None

    def _access(self, method: MethodDescriptor) -> Access | None:
        option = self.extension(method, "transom.schema.v1.method")
        if option is None:
            return None
        who = option.WhichOneof("who")
        if who == "allow":
            return Access(audience={1: Audience.PUBLIC, 2: Audience.SIGNED_IN}.get(option.allow))
        return Access(role=option.role, rule=option.rule)

    def _http(self, method: MethodDescriptor) -> tuple[tuple[str, str], ...]:
        rule = self.extension(method, "google.api.http")
        if rule is None:
            return ()
        out = []
        for one in (rule, *rule.additional_bindings):
            verb = one.WhichOneof("pattern")
            if verb == "custom":
                out.append((one.custom.kind.lower(), one.custom.path))
            elif verb:
                out.append((verb, getattr(one, verb)))
        return tuple(out)

    def _bodies(self, method: MethodDescriptor) -> tuple[str, ...]:
        rule = self.extension(method, "google.api.http")
        bodies = [one.body for one in (rule, *rule.additional_bindings)] if rule is not None else []
        return tuple(dict.fromkeys(body for body in bodies if body))


def _each(method: MethodDescriptor, found: Classified) -> Method | None:
    """One request of a batch, as a method of its own."""
    one = found.each
    if one is None:
        return None
    request = method.input_type.fields_by_name[found.requests_field].message_type
    return Method(
        path=f"/{method.containing_service.full_name}/{method.name}",
        name=method.name,
        kind=one.kind,
        request=request.full_name,
        response=one.resource.message if one.resource else "",
        answer=one.resource.message if one.resource else "",
        resource=one.resource,
        resource_field=one.resource_field,
        id_field=one.id_field,
        fields=frozenset(f.name for f in request.fields),
    )


def _table_schema(package: str) -> str:
    """The Postgres schema of a proto package; names that Postgres or Transom keeps for itself get a word in front."""
    name = snake(package) or "app"
    kept = name in ("transom", "information_schema") or name.startswith("pg_")
    return identifier(f"app_{name}" if kept else name)


def _with_tables(resources: dict[str, Resource]) -> dict[str, Resource]:
    """The resources, each with a table of its own where that can be.

    `entityTypes` may be a collection of agents and one of sessions, of two messages: of those that would share a table,
    the one with the shortest name has it, and the tables of the others are called after their messages.
    """
    found = dict(resources)
    taken = set()
    for message in sorted(resources, key=lambda m: (len(m), m)):
        resource = resources[message]
        if (resource.table_schema, resource.table_name) in taken:
            name = message.removeprefix(f"{resource.descriptor.file.package}.")
            found[message] = resource = replace(resource, table_name=identifier(snake(name)))
        taken.add((resource.table_schema, resource.table_name))
    return found


def _value(field: FieldDescriptor, text: str) -> Any:
    """The value that `text` says for a singular scalar or enum field. Raises ValueError or KeyError where it says none."""
    if field.is_repeated or field.message_type is not None:
        raise ValueError(field.name)
    if field.enum_type is not None:
        return field.enum_type.values_by_name[text].number
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return text if field.type == FieldDescriptor.TYPE_STRING else text.encode()
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return {"true": True, "false": False}[text]
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return float(text)
    return int(text)


def _written(option: Any, names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """The rules that an option has, by what they are for."""
    return () if option is None else tuple((name, getattr(option, name)) for name in names if getattr(option, name))


def is_imported(file: FileDescriptorProto) -> bool:
    """Whether the file was only imported, by what buf says of it; Google's and protobuf's own are, where it says nothing."""
    for field in _unknown(file):
        if field.field_number == _IMAGE_EXTENSION and isinstance(field.data, bytes):
            return any(f.field_number == 1 and f.data for f in _unknown(Empty.FromString(field.data)))
    return file.package.startswith(("google.api", "google.protobuf", "google.rpc", "google.type", "buf.validate"))


def _unknown(message: Message) -> list[Any]:
    fields: Any = UnknownFieldSet(message)  # iterable, though its stub does not say so
    return list(fields)


def _messages(messages: Iterable[Descriptor]) -> Iterable[Descriptor]:
    """The messages and all that are nested in them."""
    for message in messages:
        yield message
        yield from _messages(message.nested_types)


def _comments(file: FileDescriptorProto) -> dict[str, str]:
    """Leading comment of every message, field, service and method, by full name."""
    names: dict[tuple[int, ...], str] = {}

    def walk(message: Any, path: tuple[int, ...], full: str) -> None:
        names[path] = full
        for i, field in enumerate(message.field):
            names[(*path, 2, i)] = f"{full}.{field.name}"
        for i, nested in enumerate(message.nested_type):
            walk(nested, (*path, 3, i), f"{full}.{nested.name}")

    for i, message in enumerate(file.message_type):
        walk(message, (4, i), f"{file.package}.{message.name}")
    for i, service in enumerate(file.service):
        names[(6, i)] = f"{file.package}.{service.name}"
        for j, method in enumerate(service.method):
            names[(6, i, 2, j)] = f"{file.package}.{service.name}.{method.name}"
    return {
        names[tuple(place.path)]: place.leading_comments.strip()
        for place in file.source_code_info.location
        if place.leading_comments and tuple(place.path) in names
    }
