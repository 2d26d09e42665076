"""`python -m bench.watch`: how soon, and at what cost, a change reaches those who watch, beside bare streams of grpc.aio.

The whole system as `make up` starts it, without its edge in between. So many watchers of one collection, three accounts in turn,
are spread over the API servers, and an inspection is changed through the edge again and again: the next time when all have
heard of the one before.
A delivery's time is from when the write was sent until a watcher has its message; CPU is that of all processes of the
system over all deliveries, the write among them. Then the same number of streams at as many bare servers, which send a message of
the same size to all streams when they are told to: what one process that reads so many streams, and grpc.aio, take for
themselves. And the same as browsers do it: server-sent events through the edge, on a connection for each.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import grpc
import httpx
import uvloop
from transom.data.v1 import data_pb2

from deploy.native.stack import EVERYTHING, PROJECT, Stack

from .children import free_ports, running, wait_until
from .cpu import used
from .watch_bare import STREAM, TELL

WATCH = "/transom.data.v1.DataService/Watch"
SITE, TYPE = "sites/mill-waterworks", "inspect.v1.Inspection"
PEOPLE = ("ines", "tomasz", "max")
STREAMS = 90
"""Of one connection: the edge allows 100."""
SECONDS = 30.0
"""Until a message that does not come is not waited for."""


@dataclass
class Crowd:
    """Those who watch, and how many have heard of what is written now."""

    size: int
    mark: bytes = b""
    heard: list[float] = field(default_factory=list)
    ready: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    bytes: int = 0

    async def read(self, stream: AsyncIterator[bytes], first: Callable[[bytes], bool]) -> None:
        """One watcher: ready once `first` is true of a message, then hears marks."""
        begun = False
        async for message in stream:
            if not begun and first(message):
                begun = True
                self.ready += 1
                self.changed.set()
            elif self.mark and self.mark in message:
                self.heard.append(time.monotonic())
                self.bytes = len(message)
                if len(self.heard) >= self.size:
                    self.changed.set()

    async def until(self, true: Callable[[], bool]) -> None:
        """Returns once it is true."""
        async with asyncio.timeout(SECONDS):
            while not true():
                self.changed.clear()
                await self.changed.wait()


@dataclass(frozen=True, slots=True)
class Found:
    """What one system did."""

    times: Sequence[float]
    """Of each delivery, in seconds, sorted."""
    cpu: Mapping[str, float]
    """µs of each role for one delivery."""
    bytes: int

    def at(self, share: float) -> float:
        """Milliseconds within which that share was delivered."""
        return 1000 * self.times[min(len(self.times) - 1, int(share * len(self.times)))]


@click.command()
@click.option("--watchers", default="1,100,2000", show_default=True, help="How many, several with commas.")
@click.option("--writes", default=20, show_default=True, type=click.IntRange(1, 1000))
def main(watchers: str, writes: int) -> None:
    """Measure the fan-out of changes to watchers."""
    with TemporaryDirectory(prefix="transom-bench-") as folder:
        Path(folder).chmod(0o755)  # Postgres does not run as root, and has to get there
        app = PROJECT / "examples" / "inspect"
        with Stack(Path(folder) / "state", app=app, parts=EVERYTHING).running() as stack:
            click.echo(f"{'watchers':>8} {'':10} {'p50 ms':>8} {'p99 ms':>8} {'CPU µs a delivery':>18}")
            for count in map(int, watchers.split(",")):
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    found = runner.run(_transom(stack, count, writes))
                _report(count, "Transom", found)
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    _report(count, "over REST", runner.run(_transom(stack, count, writes, rest=True)))
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    bare = runner.run(_bare(stack, count, writes, found.bytes, Path(folder)))
                _report(count, "bare", bare)
                servers, other = found.cpu["API servers"], bare.cpu["servers"]
                click.echo(f"{'':8} the API servers take {servers / other:.1f} times what bare ones do")


def _report(count: int, name: str, found: Found) -> None:
    shares = ", ".join(f"{role} {cpu:.0f}" for role, cpu in found.cpu.items() if cpu >= 0.5)
    whole = sum(found.cpu.values())
    click.echo(f"{count:8} {name:10} {found.at(0.5):8.1f} {found.at(0.99):8.1f} {whole:18.0f}  {shares}")


async def _transom(stack: Stack, count: int, writes: int, *, rest: bool = False) -> Found:
    async with httpx.AsyncClient(base_url=stack.edge, timeout=SECONDS) as client:
        tokens = [await _signed_in(client, person) for person in PEOPLE]
        request = data_pb2.WatchRequest(type=TYPE, parent=SITE).SerializeToString()

        def synced(message: bytes) -> bool:
            return b'"synced":true' in message if rest else bool(data_pb2.WatchResponse.FromString(message).synced)

        async def write(mark: str) -> None:
            answer = await client.patch(f"/v1/{watched}", json={"title": mark}, headers=headers)
            answer.raise_for_status()

        headers = {"authorization": f"Bearer {tokens[0]}"}
        me = (await client.get("/transom/v1/accounts/me", headers=headers)).json()["name"]
        watched = f"{SITE}/inspections/bench-{secrets.token_hex(4)}"
        body = {"title": "Watched", "inspector": me}
        made = await client.post(
            f"/v1/{SITE}/inspections?inspection_id={watched.rpartition('/')[2]}", json=body, headers=headers
        )
        made.raise_for_status()
        addresses = [f"127.0.0.1:{stack.ports[name]}" for name in stack.api_servers]
        roots: dict[str, list[int]] = {}
        for told in stack.status()["processes"]:
            if told["pid"] and not told["step"]:
                roots.setdefault("API servers" if told["name"] in stack.api_servers else told["name"], []).append(
                    told["pid"]
                )
        async with AsyncExitStack() as opened:
            if rest:
                streams: Sequence[AsyncIterator[bytes]] = [
                    _over_rest(stack.ports["edge"], tokens, number) for number in range(count)
                ]
            else:
                streams = await opened.enter_async_context(_over_grpc(addresses, WATCH, request, tokens, count))
            crowd = await opened.enter_async_context(_crowd(streams, synced))
            return await _measured(crowd, writes, write, roots)


async def _bare(stack: Stack, count: int, writes: int, size: int, folder: Path) -> Found:
    ports = free_ports(len(stack.api_servers))
    api = stack.topology.programs(("api-1",))[0].env
    env = {name: api[name] for name in ("PATH", "GRPC_EXPERIMENTS") if name in api}
    with ExitStack() as servers:
        pids = [
            servers.enter_context(
                running([sys.executable, "-m", "bench.watch_bare", str(port)], folder / f"bare-{port}.log", env)
            )
            for port in ports
        ]
        addresses = [f"127.0.0.1:{port}" for port in ports]
        for address in addresses:
            with grpc.insecure_channel(address) as probe:
                ready = grpc.channel_ready_future(probe)
                wait_until(ready.done, "the bare servers are there")
        async with (
            _over_grpc(addresses, STREAM, b"", [""], count) as streams,
            _crowd(streams, lambda _: True) as crowd,
        ):
            channels = [grpc.aio.insecure_channel(address) for address in addresses]

            async def write(mark: str) -> None:
                body = mark.encode() + b"\xab" * max(0, size - len(mark))
                await asyncio.gather(*(channel.unary_unary(TELL)(body) for channel in channels))

            try:
                return await _measured(crowd, writes, write, {"servers": pids})
            finally:
                await asyncio.gather(*(channel.close() for channel in channels))


async def _signed_in(client: httpx.AsyncClient, person: str) -> str:
    body = {"email": f"{person}@example.com", "password": f"inspect-{person}"}
    answer = await client.post("/transom/v1/accounts:signIn", json=body)
    answer.raise_for_status()
    return str(answer.json()["token"])


@asynccontextmanager
async def _crowd(streams: Sequence[AsyncIterator[bytes]], first: Callable[[bytes], bool]) -> AsyncIterator[Crowd]:
    """A watcher for each stream, all of them ready."""
    crowd = Crowd(len(streams))
    readers = [asyncio.create_task(crowd.read(stream, first)) for stream in streams]
    try:
        await crowd.until(lambda: crowd.ready >= crowd.size or any(reader.done() for reader in readers))
        for reader in readers:
            if reader.done():
                reader.result()
        yield crowd
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


@asynccontextmanager
async def _over_grpc(
    addresses: Sequence[str], method: str, request: bytes, tokens: Sequence[str], count: int
) -> AsyncIterator[Sequence[AsyncIterator[bytes]]]:
    channels: list[grpc.aio.Channel] = []
    own = [("grpc.use_local_subchannel_pool", 1)]
    per = max(1, min(STREAMS, -(-count // len(addresses))))
    for number in range(-(-count // per)):
        channels.append(grpc.aio.insecure_channel(addresses[number % len(addresses)], options=own))
    told = [[("authorization", f"Bearer {token}")] for token in tokens]
    try:
        yield [
            aiter(channels[number // per].unary_stream(method)(request, metadata=told[number % len(told)]))
            for number in range(count)
        ]
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def _over_rest(port: int, tokens: Sequence[str], number: int) -> AsyncIterator[bytes]:
    """The lines of an event stream, on a connection of its own, as a browser has it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            f"GET /transom/v1/data:watch?type={TYPE}&parent={SITE} HTTP/1.1\r\nhost: bench\r\naccept: text/event-stream\r\n"
            f"authorization: Bearer {tokens[number % len(tokens)]}\r\n\r\n".encode()
        )
        while line := await reader.readline():
            yield line
    finally:
        writer.close()


async def _measured(
    crowd: Crowd, writes: int, write: Callable[[str], Awaitable[None]], roots: Mapping[str, Sequence[int]]
) -> Found:
    times: list[float] = []
    run = secrets.token_hex(3)
    before: Mapping[str, float] = {}
    for number in range(writes + 2):
        if number == 2:  # the first two open connections and fill caches
            times, before = [], used(roots)
        mark = f"bench-{run}-{number:04}"
        crowd.heard, crowd.mark = [], mark.encode()
        start = time.monotonic()
        await write(mark)
        await crowd.until(lambda: len(crowd.heard) >= crowd.size)
        times += [heard - start for heard in crowd.heard]
    after = used(roots)
    cpu = {role: (after[role] - before[role]) / len(times) * 1e6 for role in roots}
    return Found(sorted(times), cpu, crowd.bytes)


if __name__ == "__main__":
    main()
