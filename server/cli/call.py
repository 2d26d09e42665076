"""`transom call`: one call through the edge, JSON in and JSON out."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._chosen import chosen, port_option

if TYPE_CHECKING:
    import grpc
    from google.protobuf.descriptor import MethodDescriptor

    from deploy.native.stack import Stack


@click.command()
@click.argument("method", required=False)
@click.argument("request", default="{}")
@port_option
@click.option(
    "--token",
    envvar="TRANSOM_TOKEN",
    show_envvar=True,
    help="Whose call it is: a session's or a service key's token. Better in the environment: others see arguments.",
)
@click.option(
    "--as", "email", metavar="EMAIL", help="Sign in first; a password that is not in the app's seed is asked."
)
@click.option("--metadata", multiple=True, metavar="NAME:VALUE", help="More metadata; may be given often.")
@click.option("--timeout", default=30.0, show_default=True, help="Seconds the call may take; 0: any time.")
@click.option("-v", "--verbose", is_flag=True, help="Show the metadata that comes back, too.")
def command(
    method: str | None,
    request: str,
    port: int | None,
    token: str | None,
    email: str | None,
    metadata: tuple[str, ...],
    timeout: float,
    verbose: bool,
) -> None:
    """Call a METHOD with a REQUEST in JSON.

    It speaks gRPC with the edge, typed by the app's schema. METHOD is package.Service/Method, or the end of it where
    only one method ends so; without METHOD, all are listed. REQUEST may be @file, or - for standard input. A stream
    of replies is printed as it comes, one object after the other.

    \b
    transom call                                                    what can be called
    transom call GetMe --as ines@example.com
    transom call inspect.v1.InspectionService/ListSites '{"pageSize": 3}' --as ines@example.com
    transom call data.v1.DataService.Watch '{"type": "inspect.v1.Site"}' --as ines@example.com --timeout 0
    TRANSOM_TOKEN=$(transom key create --title try) transom call CreateSite '{"site": {"displayName": "Pier 4"}}'
    """
    import grpc
    from google.protobuf.json_format import MessageToJson, ParseDict, ParseError
    from google.protobuf.message_factory import GetMessageClass

    stack = chosen(port)
    methods = _methods(stack)
    if method is None:
        for path in sorted(methods):
            click.echo(path)
        return
    found = methods[_one(method, methods)]
    try:
        message = ParseDict(json.loads(_text(request)), GetMessageClass(found.input_type)())
    except (ParseError, ValueError) as problem:
        raise click.ClickException(f"the request is no {found.input_type.full_name}: {problem}") from problem
    headers = [_pair(text) for text in metadata]
    with grpc.insecure_channel(stack.edge.removeprefix("http://")) as channel:
        try:
            if email:
                token = _signed_in(channel, methods, stack, email)
            if token:
                headers.append(("authorization", f"Bearer {token}"))
            call = _multi(channel, found)(iter([message]), timeout=timeout or None, metadata=headers)
            for reply in call:
                # What is packed in a reply (a resource that is watched) is of the app's schema, too.
                click.echo(
                    MessageToJson(
                        reply, indent=2, ensure_ascii=False, descriptor_pool=found.containing_service.file.pool
                    )
                )
            if verbose:
                for name, value in (*call.initial_metadata(), *call.trailing_metadata()):
                    click.echo(f"{name}: {value!r}" if isinstance(value, bytes) else f"{name}: {value}", err=True)
        except grpc.RpcError as error:
            _explain(error, port)
            sys.exit(1)


def _methods(stack: Stack) -> dict[str, MethodDescriptor]:
    """All methods that the stack serves, by package.Service/Method."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.protobuf.descriptor_pool import DescriptorPool

    try:
        compiled = stack.place.descriptor.read_bytes()
    except FileNotFoundError:
        raise click.ClickException(f"the stack in {stack.place.state} has no schema yet: transom up") from None
    pool, files = DescriptorPool(), FileDescriptorSet.FromString(compiled).file
    for file in files:
        pool.Add(file)
    services = [s for file in files for s in pool.FindFileByName(file.name).services_by_name.values()]
    return {f"{service.full_name}/{method.name}": method for service in services for method in service.methods}


def _one(wanted: str, methods: dict[str, MethodDescriptor]) -> str:
    wanted = wanted.strip("/")
    if wanted in methods:
        return wanted
    ends = [path for path in methods if path.replace("/", ".").endswith(f".{wanted.replace('/', '.')}")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise click.ClickException(f"{wanted} may be {' or '.join(sorted(ends))}")
    import difflib

    close = difflib.get_close_matches(wanted, [*methods, *(p.rpartition("/")[2] for p in methods)], n=3)
    meant = f"; is it {' or '.join(close)}?" if close else "; `transom call` lists what there is"
    raise click.ClickException(f"no method {wanted}{meant}")


def _multi(channel: grpc.Channel, method: MethodDescriptor) -> Any:
    """A callable for the method, whatever streams: a unary call is a stream of one."""
    from google.protobuf.message_factory import GetMessageClass

    return channel.stream_stream(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )


def _signed_in(channel: grpc.Channel, methods: dict[str, MethodDescriptor], stack: Stack, email: str) -> str:
    from google.protobuf.message_factory import GetMessageClass

    from deploy.native.card import accounts

    known = {person["email"]: person["password"] for person in accounts(stack.app)}
    password = known.get(email) or click.prompt(f"Password of {email}", hide_input=True, err=True)
    method = methods["transom.accounts.v1.AccountsService/SignIn"]
    request = GetMessageClass(method.input_type)(email=email, password=password)
    reply = next(iter(_multi(channel, method)(iter([request]), timeout=30)))
    return str(reply.token)


def _text(request: str) -> str:
    if request == "-":
        return sys.stdin.read()
    return Path(request[1:]).read_text() if request.startswith("@") else request


def _pair(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise click.BadParameter(f"{text!r} is not name:value", param_hint="--metadata")
    return name.strip().lower(), value.strip()


def _explain(error: grpc.RpcError, port: int | None) -> None:
    """Prints a refusal with its details (AIP-193), readably."""
    from google.rpc import error_details_pb2, status_pb2

    code, message = error.code(), error.details()
    click.echo(f"{click.style(code.name, fg='red', bold=True)}  {message}", err=True)
    trailers = error.trailing_metadata() or ()
    packed = dict(trailers).get("grpc-status-details-bin", b"")
    request = ""
    for detail in status_pb2.Status.FromString(packed).details:
        for line in _lines(detail, error_details_pb2):
            click.echo(f"  {line}", err=True)
        if detail.Is(error_details_pb2.RequestInfo.DESCRIPTOR):
            request = error_details_pb2.RequestInfo.FromString(detail.value).request_id
    if code.name in ("INTERNAL", "UNKNOWN"):
        stack = f" --port {port}" if port else ""
        which = f" -n 1000 | grep {shlex.quote(request)}" if request else ""
        click.echo(f"the server's log has more: transom logs api{stack}{which}", err=True)


def _lines(detail: Any, known: Any) -> list[str]:
    name = detail.type_url.rpartition(".")[2]
    kind = getattr(known, name, None)
    if kind is None:
        return [f"({detail.type_url})"]
    found = kind.FromString(detail.value)
    if name == "ErrorInfo":
        about = "".join(f", {key}={value}" for key, value in sorted(found.metadata.items()))
        return [f"reason  {found.reason} ({found.domain}){about}"]
    if name == "BadRequest":
        return [f"field   {v.field}: {v.description}" for v in found.field_violations]
    if name == "RetryInfo":
        return [f"retry   in {found.retry_delay.ToTimedelta().total_seconds():g} s"]
    if name == "ResourceInfo":
        return [f"about   {found.resource_type} {found.resource_name}".rstrip()]
    if name == "RequestInfo":
        return [f"request {found.request_id}"]
    return [f"{name} {str(found).strip()}"]
