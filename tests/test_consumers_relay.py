"""The relay against a real Postgres and a real RabbitMQ: order, crashes, takeover, retention."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from consumers_ground import Ground, Tap, asynchronous, cut_off, eventually
from prometheus_client import CollectorRegistry

from consumers import relay as relays
from consumers import topology
from consumers.keeping import ROW_BYTES, Keeping
from consumers.relay import Relay, RelayMetrics, replay
from deploy.native.stack import Stack


@pytest.fixture
def ground(components: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    monkeypatch.setattr(topology, "SETTLE", 0)  # only the tests that kill the broker need the queues on disk
    with Ground.on(components, tmp_path) as ground:
        yield ground


@asynccontextmanager
async def relaying(ground: Ground, amqp: str | None = None, **options: Keeping) -> AsyncIterator[Relay]:
    """A relay in this process, stopped at the end."""
    relay = Relay(ground.postgres, amqp or ground.amqp, [], RelayMetrics(CollectorRegistry()), **options)
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        relay.stop.set()
        await asyncio.wait_for(task, 10)


def in_order_of_first_copies(positions: list[int]) -> bool:
    """Whether every event came, each for the first time after its predecessor."""
    seen = list(dict.fromkeys(positions))
    return seen == list(range(1, len(seen) + 1))


@asynchronous
async def test_order_holds_under_concurrent_writers_and_nothing_in_flight_is_skipped(ground: Ground) -> None:
    names = [f"things/{i}" for i in range(5)]
    ground.execute("create table thing (name text primary key, version int not null)")
    for name in names:
        ground.execute("insert into thing values (%s, 0)", [name])
    change = """
        with changed as (update thing set version = version + 1 where name = %s returning name, version)
        insert into transom.events (resource_type, verb, name, payload)
        select 'test.v1.Thing', 'updated', name, convert_to(version::text, 'UTF8') from changed"""

    def write(seed: int) -> None:
        choice = random.Random(seed)
        with psycopg.connect(ground.postgres) as connection:
            for _ in range(40):
                connection.execute(change, [choice.choice(names)])
                time.sleep(choice.random() * 0.004)
                connection.rollback() if choice.random() < 0.2 else connection.commit()
                connection.execute("notify transom_events")
                connection.commit()

    tap = await Tap.on(ground.amqp)
    with psycopg.connect(ground.postgres) as slow:
        slow.execute(  # takes the lowest id and commits last
            "insert into transom.events (resource_type, verb, name, payload)"
            " values ('test.v1.Thing', 'updated', 'slow', '')"
        )
        async with relaying(ground):
            writers = [threading.Thread(target=write, args=[seed]) for seed in range(6)]
            for writer in writers:
                writer.start()
            await asyncio.gather(*(asyncio.to_thread(writer.join) for writer in writers))
            others = ground.value("select count(*) from transom.events")
            await tap.until(others)
            assert "slow" not in {event.name for event in tap.events}
            slow.commit()
            await tap.until(others + 1)
    await tap.close()

    assert tap.events[-1].name == "slow"
    assert [event.position for event in tap.events] == list(range(1, others + 2)), "dense, increasing, no copies"
    for name in names:
        versions = [int(event.payload) for event in tap.events if event.name == name]
        assert versions == list(range(1, len(versions) + 1)), "for one resource: in commit order"
    assert ground.rows("select numbered, published from transom.relay") == [(others + 1, others + 1)]


@asynchronous
async def test_kill_9_in_the_middle_loses_nothing(ground: Ground) -> None:
    count = 4000
    tap = await Tap.on(ground.amqp)
    ground.events(count)
    kills = 0
    while ground.value("select published from transom.relay") < count:
        before = len(tap.events)
        relay = ground.start("relay")
        # Killed as soon as something has arrived: between the first publish and the last confirm of some batch.
        await eventually(lambda before=before, relay=relay: len(tap.events) > before or relay.poll() is not None)
        if kills < 2:
            relay.send_signal(signal.SIGKILL)
            relay.wait()
            kills += 1
        else:
            await eventually(lambda: ground.value("select published from transom.relay") == count)
    await eventually(lambda: len({event.id for event in tap.events}) == count)
    await tap.close()
    assert kills == 2
    assert in_order_of_first_copies([event.position for event in tap.events])


@asynchronous
async def test_of_two_relays_one_is_active_and_the_other_takes_over(ground: Ground) -> None:
    tap = await Tap.on(ground.amqp)
    relays = {port: ground.start("relay", metrics_port=port) for port in ground.ports(2)}

    def active() -> list[int]:
        return [port for port in relays if ground.metric(port, "transom_relay_active") == 1]

    await eventually(lambda: len(active()) == 1)
    ground.events(10)
    await tap.until(10)
    [first] = active()
    relays.pop(first).kill()
    ground.events(10)
    await tap.until(20)
    assert len(active()) == 1
    await eventually(lambda: ground.metric(active()[0], "transom_outbox_events") == 0)
    assert [event.position for event in tap.events] == list(range(1, 21))
    await tap.close()


@asynchronous
async def test_a_relay_that_is_asked_to_stop_leaves_at_once_and_cleanly(ground: Ground) -> None:
    relay = ground.start("relay")
    ground.events(1)
    await eventually(lambda: ground.value("select published from transom.relay") == 1)
    relay.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(relay.wait, 10) == 0


@asynchronous
async def test_events_wait_in_the_outbox_while_the_broker_is_away(ground: Ground) -> None:
    tap = await Tap.on(ground.amqp)
    async with cut_off(ground.amqp) as (amqp, line), relaying(ground, amqp):
        ground.events(5)
        await tap.until(5)
        await line.cut()
        ground.events(700)
        await eventually(lambda: ground.value("select numbered from transom.relay") >= 705)
        assert ground.value("select published from transom.relay") == 5
        await line.mend()
        await tap.until(705)
    await tap.close()
    assert in_order_of_first_copies([event.position for event in tap.events])


@asynchronous
async def test_positions_are_given_while_the_broker_says_nothing(ground: Ground) -> None:
    async with cut_off(ground.amqp) as (amqp, line), relaying(ground, amqp):
        ground.events(1)
        await eventually(lambda: ground.value("select published from transom.relay") == 1)
        line.hold()
        for numbered in (2, 3):  # the first is sent, and its confirm waited for
            ground.events(1)
            await eventually(lambda n=numbered: ground.value("select numbered from transom.relay") == n)
        assert ground.value("select published from transom.relay") == 1
        await line.mend()
        await eventually(lambda: ground.value("select published from transom.relay") == 3)


@asynchronous
async def test_a_relay_whose_database_connection_is_lost_steps_down_and_comes_back(ground: Ground) -> None:
    tap = await Tap.on(ground.amqp)
    async with relaying(ground):
        ground.events(3)
        await tap.until(3)
        ended = ground.value(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity"
            " where datname = current_database() and application_name = 'transom-relay'"
        )
        assert ended == 1
        ground.events(3)
        await tap.until(6)
    await tap.close()
    assert in_order_of_first_copies([event.position for event in tap.events])


@asynchronous
async def test_published_events_past_their_time_are_deleted_and_no_others(ground: Ground) -> None:
    ground.events(20)
    ground.execute("update transom.events set create_time = create_time - interval '8 days' where id <= 10")
    ground.execute(
        "insert into transom.inbox values ('h', 'old', clock_timestamp() - interval '31 days'), ('h', 'new', default)"
    )
    async with relaying(ground, keeping=Keeping(events=7, inbox=30)):
        await eventually(lambda: ground.value("select count(*) from transom.events") == 10)
        await eventually(lambda: ground.value("select count(*) from transom.inbox") == 1)
    assert ground.value("select min(position) from transom.events") == 11
    assert ground.rows("select trimmed, kept_bytes from transom.relay") == [(10, 10 * ROW_BYTES)]


@asynchronous
async def test_the_oldest_go_where_the_log_is_larger_than_it_may_be_and_no_unpublished_ones(ground: Ground) -> None:
    ground.events(20)
    async with cut_off(ground.amqp) as (amqp, line):
        await line.cut()
        async with relaying(ground, amqp, keeping=Keeping(bytes=5 * ROW_BYTES)):
            await eventually(lambda: ground.value("select numbered from transom.relay") == 20)
        assert ground.value("select count(*) from transom.events") == 20, "the broker has none of them"
        await line.mend()
        async with relaying(ground, amqp, keeping=Keeping(bytes=5 * ROW_BYTES)):
            await eventually(lambda: ground.value("select published from transom.relay") == 20)
        async with relaying(ground, amqp, keeping=Keeping(bytes=5 * ROW_BYTES)):
            await eventually(lambda: ground.value("select count(*) from transom.events") == 5)
    assert ground.rows("select trimmed, kept_bytes from transom.relay") == [(15, 5 * ROW_BYTES)]
    assert ground.value("select min(position) from transom.events") == 16


@asynchronous
async def test_a_relay_that_hangs_is_taken_over_from(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "HUNG", 1.0)
    active, goes_on = threading.Event(), threading.Event()

    async def hang() -> None:
        async with relaying(ground):
            await eventually(lambda: ground.value("select numbered from transom.relay") == 1)
            active.set()
            goes_on.wait(60)  # nothing of this loop runs

    tap = await Tap.on(ground.amqp)
    ground.events(1)
    hung = threading.Thread(target=asyncio.run, args=[hang()])
    hung.start()
    await asyncio.to_thread(active.wait)
    try:
        async with relaying(ground):
            ground.events(2)
            await tap.until(3)
    finally:
        goes_on.set()
        await asyncio.to_thread(hung.join)
    await tap.close()
    assert in_order_of_first_copies([event.position for event in tap.events])


@asynchronous
async def test_a_large_backlog_is_read_in_bounded_batches(ground: Ground) -> None:
    tap = await Tap.on(ground.amqp)
    ground.execute(
        "insert into transom.events (resource_type, verb, name, payload)"
        " select 'test.v1.Thing', 'created', 'big/' || n, convert_to(repeat('x', 3000000), 'UTF8')"
        " from generate_series(1, 12) n"
    )
    async with relaying(ground):
        await tap.until(12)
    await tap.close()
    assert [event.position for event in tap.events] == list(range(1, 13))


@asynchronous
async def test_past_events_can_be_published_again(ground: Ground) -> None:
    tap = await Tap.on(ground.amqp)
    ground.events(6)
    ground.execute("update transom.events set create_time = create_time - interval '2 hours' where id <= 2")
    async with relaying(ground):
        await tap.until(6)
        await eventually(lambda: ground.value("select published from transom.relay") == 6)
        assert replay(ground.postgres, timedelta(hours=1)) == 4
        await tap.until(10)
        await eventually(lambda: ground.value("select published from transom.relay") == 6)
    await tap.close()
    assert [event.position for event in tap.events] == [1, 2, 3, 4, 5, 6, 3, 4, 5, 6]
