"""What becomes of a message: what stock taskiq loses, and our broker brings to an end."""

import asyncio
import logging

import numpy as np
import pytest
from taskiq import TaskiqMessage, TaskiqMiddleware
from taskiq.formatters.json_formatter import JSONFormatter
from taskiq.kicker import AsyncKicker
from taskiq.serializers import PickleSerializer
from taskiq_redis import RedisAsyncResultBackend

from bridge.embedded.redis import RedisServer
from bridge.messages import CONTENT_TYPE, MSGPACK, Formatter
from bridge.queues import build_broker

KINDS = ["stock", "ours"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_result_that_cannot_be_saved(kind, new_rig, rabbitmq, state):
    """1: stock acknowledges, and the result is gone; ours goes back to the queue."""
    async with RedisServer(state) as redis:
        rig = new_rig(rabbitmq, redis.url)
        await rig.declared(rig.broker(kind))
        async with rig.serving(rig.add_shout(kind, rig.broker(kind))):
            await redis.kill()
            await rig.publish(rig.task("unsaved"))
            await rig.taken()
        assert await rig.counts() == ((0, 0) if kind == "stock" else (1, 0))


@pytest.mark.parametrize("kind", KINDS)
async def test_what_cannot_be_run(kind, rig):
    """2: stock acknowledges nonsense and unknown tasks; ours dead-letters them."""
    await rig.declared(rig.broker(kind))
    async with rig.serving(rig.add_shout(kind, rig.broker(kind))):
        await rig.publish(b"nonsense", rig.task("stranger", "nobodys_task"))
        await rig.taken()
    assert await rig.counts() == ((0, 0) if kind == "stock" else (0, 2))


OWN_ERROR = RuntimeError("a middleware's own error")


def broken(hook, error=OWN_ERROR):
    """A middleware whose hook fails."""

    def fail(*_arguments):
        raise error

    return type("Broken", (TaskiqMiddleware,), {hook: fail})()


def users_task(broker):
    """A task that taskiq's own receiver runs, on our broker too."""

    @broker.task("whisper")
    async def whisper(text: str) -> str:
        if text == "fail":
            raise LookupError(text)
        return text.lower()

    return broker


@pytest.mark.parametrize("hook", ["pre_execute", "post_execute"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_middleware_that_fails(kind, hook, rig):
    """3: stock leaves the message unacknowledged, and nobody hears; ours comes to an end."""
    await rig.declared(rig.broker(kind))
    task_id = f"{kind}-{hook}"
    async with rig.serving(rig.add_shout(kind, rig.broker(kind, broken(hook)))):
        await rig.publish(rig.task(task_id))
        await rig.taken()
    assert await rig.has_record(task_id) == (kind == "ours")
    assert await rig.counts() == ((1, 0) if kind == "stock" else (0, 0))


@pytest.mark.parametrize("hook", ["pre_execute", "post_execute", "on_error"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_middleware_that_fails_around_a_users_task(kind, hook, rig):
    """3, where taskiq's receiver runs the task on our broker too; the next one is served."""
    await rig.declared(rig.broker(kind))
    ids = [f"{kind}-{hook}-{number}" for number in range(3)]
    async with rig.serving(users_task(rig.broker(kind, broken(hook)))):
        await rig.publish(*(rig.task(task_id, "whisper", ["fail"]) for task_id in ids))
        await rig.taken()
    if kind == "stock":
        assert not any([await rig.has_record(task_id) for task_id in ids])
        assert await rig.counts() == (3, 0)
        return
    for task_id in ids:
        assert "a middleware's own error" in str((await rig.record(task_id)).error)
    assert await rig.counts() == (0, 0)


class UsersError(Exception):
    """Of a task that fails."""


async def test_a_users_task_that_fails_is_let_go(rig, leaving_no, caplog):
    """Ours: stock waits for the collector, which there comes often."""
    caplog.set_level(logging.CRITICAL, "taskiq")  # pytest keeps what is logged
    await rig.declared(rig.broker("ours"))
    broker = rig.broker("ours")

    @broker.task("stumble")
    async def stumble(number: int) -> None:
        raise UsersError(number)

    async with rig.serving(broker):
        with leaving_no(UsersError):
            await rig.publish(*(rig.task(f"stumble-{it}", "stumble", [it]) for it in range(5)))
            for number in range(5):
                await rig.record(f"stumble-{number}")
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("hook", ["pre_execute", "post_execute"])
async def test_a_middleware_that_is_cancelled_around_a_users_task(hook, rig):
    """3, ours, where a library cancels who waits for a lost connection, as aiormq does."""
    await rig.declared(rig.broker("ours"))
    async with rig.serving(users_task(rig.broker("ours", broken(hook, asyncio.CancelledError())))):
        await rig.publish(rig.task(f"cut-{hook}", "whisper", ["Hello"]))
        assert "raised by a middleware" in str((await rig.record(f"cut-{hook}")).error)
        await rig.taken()
    assert await rig.counts() == (0, 0)


async def test_a_middleware_that_is_cancelled_after_a_shortcut_decides_nothing(rig):
    await rig.declared(rig.broker("ours"))
    cut = broken("post_execute", asyncio.CancelledError())
    async with rig.serving(rig.add_shout("ours", rig.broker("ours", cut))):
        await rig.publish(rig.task("cut"))
        assert (await rig.record("cut")).error is None
        await rig.taken()
    assert await rig.counts() == (0, 0)


async def test_a_middleware_that_fails_around_a_users_task_on_redis_streams(rig):
    """3, ours, without RabbitMQ."""
    rig.own = rig.own.model_copy(update={"bridge_queue": "redis-streams"})
    producer = rig.broker("ours")
    await producer.startup()
    async with rig.serving(users_task(rig.broker("ours", broken("pre_execute")))):
        kicker = AsyncKicker("whisper", producer, {}).with_task_id("streamed")
        await kicker.kiq("hello")
        assert "a middleware's own error" in str((await rig.record("streamed")).error)
        await rig.taken()
    await producer.shutdown()


async def test_a_task_that_was_acknowledged_before_a_middleware_failed(rig):
    """3, ours: not acknowledged twice, for which RabbitMQ would close the channel."""
    await rig.declared(rig.broker("ours"))
    async with rig.serving(users_task(rig.broker("ours", broken("post_execute")))) as worker:
        for number in range(3):
            task_id = f"early-{number}"
            await rig.publish(rig.task(task_id, "whisper", ack_type="when_received"))
            assert "a middleware's own error" in str((await rig.record(task_id)).error)
        assert not worker.task.done()
    assert await rig.counts() == (0, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_label_that_makes_no_sense(kind, rig):
    """Like 3, and any producer can do it: stock raises outside of the task; ours dead-letters."""
    await rig.declared(rig.broker(kind))
    async with rig.serving(users_task(rig.broker(kind))):
        await rig.publish(rig.task(f"{kind}-senseless", "whisper", ack_type="at some time"))
        await rig.taken()
    assert await rig.counts() == ((1, 0) if kind == "stock" else (0, 1))


def test_an_array_as_an_argument():
    """13: stock makes lists or text of it, or fails; ours sends bytes."""
    message = TaskiqMessage(
        task_id="1", task_name="t", labels={CONTENT_TYPE: MSGPACK}, args=[b"\xff\x00"], kwargs={}
    )
    with pytest.raises(ValueError, match="utf"):
        JSONFormatter().dumps(message)
    formatter = Formatter()
    assert formatter.loads(formatter.dumps(message).message).args == [b"\xff\x00"]
    message.args = [np.arange(3)]
    with pytest.raises((ValueError, TypeError)):
        JSONFormatter().dumps(message)
    assert formatter.loads(formatter.dumps(message).message).args == [[0, 1, 2]]


def test_how_results_are_read(rig):
    """14: stock unpickles what lies in Redis, and keeps it for ever; ours does neither."""
    stock = RedisAsyncResultBackend(rig.own.redis_url.get_secret_value())
    ours = build_broker(rig.own, "inference").results
    assert isinstance(stock.serializer, PickleSerializer)
    assert stock.result_ex_time is None
    assert not isinstance(ours.serializer, PickleSerializer)
    assert ours.result_ex_time == rig.own.bridge_result_ttl_s
