"""gRPC on the wire: grpcio's core, driven by the event loop itself.

grpc.aio serves from a thread of its own that polls the core and wakes the event loop for what it finds, and spends several
tasks and futures on every call: two thirds of what a call costs by it. Here the loop watches the very descriptors that the
core waits on, and reads what has happened when something has: one thread, one task a call. What is served is the same core,
HTTP/2 and all (docs/performance.md has both, measured).

It leans on `grpc._cython.cygrpc`, which grpcio keeps to itself, so grpcio is pinned and `tests/test_wire.py` asks of every
version what is relied on. Where the core polls in another way (not Linux), grpc.aio serves; so it does where
`TRANSOM_WIRE=aio` says so.
"""
