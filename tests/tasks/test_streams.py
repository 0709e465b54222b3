"""The queue on Redis Streams, on a real Redis: what is in whose hands."""

import asyncio
import functools
import json
import uuid

import pytest

from bridge.errors import ModelUnavailableError, Outcome, TritonUnavailableError

IDLE_MS = 600
WAIT_S = 30


@pytest.fixture
def own(settings):
    return settings.model_copy(
        update={"bridge_queue": "redis-streams", "taskiq_ml_queue": f"s-{uuid.uuid4().hex[:8]}"}
    )


@pytest.fixture
def stream(own):
    return own.taskiq_ml_queue


@pytest.fixture
def listening(listening):
    """Entries go to others soon."""
    return functools.partial(listening, idle_ms=IDLE_MS)


def hanging():
    """A shortcut that never ends, and what is set once it has begun."""
    begun = asyncio.Event()

    async def hang(message, turn):
        begun.set()
        await asyncio.Event().wait()

    return hang, begun


def noting():
    """A shortcut that does no more, and the ids that it was given."""
    runs = []

    async def run(message, turn):
        runs.append(message.task_id)

    return run, runs


async def add(redis, stream):
    task_id = uuid.uuid4().hex
    message = {"task_id": task_id, "task_name": "t", "labels": {}, "args": [], "kwargs": {}}
    await redis.xadd(stream, {b"data": json.dumps(message).encode()})
    return task_id


async def until_ended(redis, stream, *task_ids):
    async with asyncio.timeout(WAIT_S):
        while await redis.exists(*task_ids) < len(task_ids) or await redis.xlen(stream):
            await asyncio.sleep(0.05)


async def test_what_a_dead_worker_had_comes_back_though_nothing_new_comes(
    listening, redis, own, stream
):
    run, runs = noting()
    task_id = await add(redis, stream)
    await redis.xgroup_create(stream, "taskiq", id="0")
    taken = await redis.xreadgroup("taskiq", "dead", {stream: ">"})
    assert taken
    async with listening(own, run):
        await until_ended(redis, stream, task_id)
    assert runs == [task_id]


async def test_what_a_busy_worker_has_stays_his(listening, redis, own, stream):
    runs = []

    async def run(message, turn):
        runs.append(message.task_id)
        await asyncio.sleep(IDLE_MS / 1000 * 12)  # others have looked twice by then

    async with listening(own, run), listening(own, run):
        task_ids = [await add(redis, stream) for _ in range(3)]
        await until_ended(redis, stream, *task_ids)
    assert sorted(runs) == sorted(task_ids)


async def test_what_is_handed_back_is_somebodys_soon_and_does_not_count(
    listening, redis, own, stream
):
    own = own.model_copy(update={"bridge_delivery_limit": 1})
    runs = []

    async def run(message, turn):
        runs.append(message.task_id)
        if len(runs) < 3:
            raise TritonUnavailableError("it is away")

    async with listening(own, run) as broker:
        task_id = await add(redis, stream)
        await until_ended(redis, stream, task_id)
        assert (await broker.results.get_result(task_id)).error is None
    assert runs == [task_id] * 3


async def test_what_a_worker_that_stops_had_not_begun_is_anothers_at_once(
    listening, redis, own, stream
):
    own = own.model_copy(update={"bridge_drain_timeout_s": 0.2})
    (hang, begun), (run, runs) = hanging(), noting()
    task_ids = [await add(redis, stream) for _ in range(5)]
    async with listening(own, hang) as broker:
        broker.idle_timeout = 3_600_000
        await asyncio.wait_for(begun.wait(), WAIT_S)
    async with listening(own, run) as broker:
        broker.idle_timeout = 3_600_000
        await until_ended(redis, stream, *task_ids)
    assert sorted(runs) == sorted(task_ids)


async def test_who_kills_his_workers_is_dead_lettered(listening, redis, own, stream):
    own = own.model_copy(update={"bridge_delivery_limit": 2})

    async def run(message, turn):
        pytest.fail("it is run once more")

    task_id = await add(redis, stream)
    await redis.xgroup_create(stream, "taskiq", id="0")
    await redis.xreadgroup("taskiq", "dead-1", {stream: ">"})
    (pending,) = await redis.xpending_range(stream, "taskiq", "-", "+", 1)
    await redis.xclaim(stream, "taskiq", "dead-2", 0, [pending["message_id"]])
    async with listening(own, run) as broker:
        await until_ended(redis, stream, task_id)
        error = (await broker.results.get_result(task_id)).error
    assert error.outcome is Outcome.DEAD_LETTERED
    ((_, letter),) = await redis.xrange(f"{stream}.dead_letter")
    assert letter[b"x-bridge-error"] == b"PoisonousMessageError"


async def test_an_entry_that_is_no_task_harms_nobody(listening, redis, own, stream):
    async def run(message, turn):
        pass

    async with listening(own, run):
        await redis.xadd(stream, {b"nonsense": b"1"})
        task_id = await add(redis, stream)
        await until_ended(redis, stream, task_id)
    ((_, letter),) = await redis.xrange(f"{stream}.dead_letter")
    assert letter[b"x-bridge-error"] == b"MalformedMessageError"


async def test_a_stream_that_is_gone_is_made_anew(listening, redis, own, stream, caplog):
    async def run(message, turn):
        pass

    async with listening(own, run):
        await until_ended(redis, stream, await add(redis, stream))
        await redis.delete(stream)
        async with asyncio.timeout(WAIT_S):
            while "trying again" not in caplog.text:
                await asyncio.sleep(0.05)
        await until_ended(redis, stream, await add(redis, stream))


async def test_a_deadline_of_the_workers_counts_from_when_it_was_added(
    listening, redis, own, stream
):
    own = own.model_copy(update={"bridge_deadline_s": 0.5})

    async def run(message, turn):
        pytest.fail("nobody wants it any more")

    task_id = await add(redis, stream)
    await asyncio.sleep(0.6)
    async with listening(own, run) as broker:
        await until_ended(redis, stream, task_id)
        error = (await broker.results.get_result(task_id)).error
    assert error.outcome is Outcome.EXPIRED


async def test_who_has_one_in_hand_leaves_the_next_to_others(listening, redis, own, stream):
    own = own.model_copy(update={"bridge_prefetch": 1})
    (hang, begun), (run, runs) = hanging(), noting()
    own = own.model_copy(update={"bridge_drain_timeout_s": 0.2})
    await add(redis, stream)
    async with listening(own, hang):
        await asyncio.wait_for(begun.wait(), WAIT_S)
        second = await add(redis, stream)
        await asyncio.sleep(1.5)  # he looks for more every half a second
        async with listening(own, run) as broker:
            broker.idle_timeout = 3_600_000
            async with asyncio.timeout(WAIT_S):
                while second not in runs:
                    await asyncio.sleep(0.05)


async def test_who_takes_over_one_leaves_the_next_to_others(listening, redis, own, stream):
    own = own.model_copy(update={"bridge_prefetch": 1, "bridge_drain_timeout_s": 0.2})
    hang, begun = hanging()
    await add(redis, stream)
    await redis.xgroup_create(stream, "taskiq", id="0")
    assert await redis.xreadgroup("taskiq", "dead", {stream: ">"})
    await asyncio.sleep(IDLE_MS / 1000)
    await add(redis, stream)
    async with listening(own, hang):
        await asyncio.wait_for(begun.wait(), WAIT_S)
        await asyncio.sleep(0.2)
        assert (await redis.xpending(stream, "taskiq"))["pending"] == 1


async def test_hundreds_of_tries_are_no_deeper_than_one(listening, redis, own, stream):
    soon = {"bridge_retry_first_s": 0.0001, "bridge_retry_longest_s": 0.0001}
    own = own.model_copy(update={**soon, "bridge_max_retries": 6})
    tries = []

    async def run(message, turn):
        tries.append(turn.attempt)
        if turn.attempt < 300:
            raise ModelUnavailableError("away")

    async with listening(own, run) as broker:
        task_id = await add(redis, stream)
        await until_ended(redis, stream, task_id)
        assert (await broker.results.get_result(task_id)).error is None
    assert tries == list(range(1, 301))
