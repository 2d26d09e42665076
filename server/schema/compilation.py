"""An app's proto files → one FileDescriptorSet, by `buf build`.

Google's and Bufbuild's shared protos come out of the Python wheels that carry
them: no registry is asked.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from server.schema.proto_text import proto_text

OWN = Path(__file__).parents[2] / "proto" / "transom"
"""Transom's own API, compiled into every app's descriptor set."""

_MISNAMED = {"google/longrunning/operations_proto.proto": "google/longrunning/operations.proto"}
"""Files that the wheel carries under another path than the one they are imported by."""

ALWAYS = ("google/rpc/status.proto", "google/rpc/error_details.proto")
"""Not imported by anybody, but the edge's transcoder needs them to write errors as JSON."""


class SchemaError(Exception):
    """The app's protos do not compile or cannot be served; the text says where and why, a line each."""


def shared_protos() -> Iterator[tuple[str, bytes]]:
    """Import path and text of every proto file that apps may import without carrying it."""
    for file in distribution("googleapis-common-protos").files or ():
        if file.suffix == ".proto":
            yield _MISNAMED.get(str(file), str(file)), Path(str(file.locate())).read_bytes()
    yield "buf/validate/validate.proto", _validate_proto()


def export_shared(folder: Path, leaving_out: frozenset[str] = frozenset()) -> None:
    """Writes the shared protos below `folder`, but for the import paths named."""
    for path, text in shared_protos():
        if path not in leaving_out:
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(text)


def compile_app(app: Path) -> bytes:
    """The FileDescriptorSet of the app in folder `app`, with comments, its imports and Transom's own API.

    Raises SchemaError with the compiler's words (file:line:column:reason) where the protos do not compile.
    """
    source = app / "proto"
    files = sorted(str(p.relative_to(source)) for p in source.rglob("*.proto"))
    if not files:
        raise SchemaError(f"{source}: no .proto files")
    with tempfile.TemporaryDirectory(prefix="transom-schema-") as temporary:
        work = Path(temporary)
        shutil.copytree(source, work / "app", ignore=lambda _, names: [n for n in names if n.startswith(".")])
        own = {f"transom/{p.relative_to(OWN)}" for p in OWN.rglob("*.proto")}
        for path in own:
            if path not in files:
                target = work / "transom" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(OWN / Path(path).relative_to("transom"), target)
        export_shared(work / "shared", leaving_out=frozenset(files))
        (work / "buf.yaml").write_text("version: v2\nmodules:\n  - path: app\n  - path: transom\n  - path: shared\n")
        wanted = [*(work / "app").iterdir(), work / "transom" / "transom", *(work / "shared" / p for p in ALWAYS)]
        command = [buf(), "build", str(work), "-o", "-#format=binpb"]
        for place in wanted:
            if place.exists():
                command += ["--path", str(place)]
        run = subprocess.run(command, capture_output=True, cwd=work)
        if run.returncode:
            said = run.stderr.decode(errors="replace").strip().replace(f"{work}/app/", "").replace("app/", "", 1)
            raise SchemaError(said or f"buf exited with {run.returncode}")
        return run.stdout


def buf() -> str:
    """The buf of this very environment, which need not be on the PATH."""
    beside = Path(sys.executable).with_name("buf")
    return str(beside) if beside.exists() else "buf"


def _validate_proto() -> bytes:
    # protovalidate ships generated code without its .proto: print it back from the descriptor.
    from protovalidate._gen.buf.validate import validate_pb

    return proto_text(FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary())).encode()
