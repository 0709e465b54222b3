"""The rights of docs/security.md are enough, and no more than that."""

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest
from aio_pika import Message
from aiormq.exceptions import ChannelAccessRefused
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError
from taskiq import TaskiqResult
from taskiq.depends.progress_tracker import TaskProgress, TaskState

from bridge.cancellations import cancel
from bridge.client import BridgeClient
from bridge.courtesy import is_busy
from bridge.crashes import report, turn_of_suspect
from bridge.errors import QueueError, TooLateError
from bridge.jobs import Asking, Jobs
from bridge.messages import decode_result, encode_result
from bridge.payloads import open_payloads
from bridge.queues import build_broker, queue_depths
from bridge.queues.topology import connect
from bridge.results import RedisResults

DATA = {"x": ("UINT8", (3,), b"123")}
RESULT = encode_result(TaskiqResult(is_err=False, return_value=7, execution_time=0.0))


@pytest.fixture(scope="module")
async def queues(environment, settings_of):
    """A worker has started once: what it declares is there."""
    broker = build_broker(settings_of(environment), "inference")
    training = build_broker(settings_of(environment), "training")
    for it in (broker, training):
        await it.startup()
        await it.shutdown()


async def test_a_producer_sends_and_may_do_nothing_else(queues, caller, settings_of):
    settings = settings_of(caller)
    before = {depth.name: depth.messages for depth in await queue_depths(settings)}
    async with BridgeClient(settings) as client:
        await client.submit("double", {"x": np.ones((1, 4), np.float32)})
        with pytest.raises(QueueError, match=r"security\.md"):  # its topic is the other queue's
            await client.train("digits", {"architecture": "cnn"})
    async with await connect(settings.rabbitmq_url) as connection:
        # A refusal closes its channel: each has one of its own.
        channels = [await connection.channel() for _ in range(3)]
        queue = await channels[2].get_queue("taskiq_ml")
        for forbidden in (
            lambda: channels[0].declare_queue("taskiq_ml.mine"),
            lambda: channels[1].default_exchange.publish(Message(b"{}"), "taskiq_ml"),
            queue.get,
        ):
            with pytest.raises(ChannelAccessRefused):
                await forbidden()
    after = {depth.name: depth.messages for depth in await queue_depths(settings)}
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {"taskiq_ml"}  # not even that, where a worker was quick


async def test_a_producer_before_the_first_worker_is_told_so(caller, settings_of):
    settings = settings_of(caller, TASKIQ_ML_QUEUE="taskiq_ml_of_nobody")
    with pytest.raises(QueueError, match="start a worker first"):
        async with BridgeClient(settings):
            pass


async def test_the_workers_redis_user_may_do_what_a_worker_does(environment, settings_of):
    settings = settings_of(environment, BRIDGE_PAYLOAD_URL=environment["REDIS_URL"])
    results = RedisResults(settings)
    await results.save("of-the-worker", b"{}", "token")
    assert await results.is_result_ready("of-the-worker")
    assert (await results.redis.info("memory"))["used_memory"]
    await results.set_progress("of-the-worker", TaskProgress(state=TaskState.STARTED, meta={}))
    await results.shutdown()
    payloads = open_payloads(settings)
    stored = await payloads.put("output", DATA)
    assert (await payloads.get("output", stored))["x"].data == b"123"
    payloads.discard([stored["x"].reference.key])
    await payloads.close()


async def test_the_workers_redis_user_saves_hears_of_cancellations_and_tells_of_crashes(
    environment, users_redis, settings_of
):
    results = RedisResults(settings_of(environment))
    await results.save("a-saved-task", RESULT, "listener")
    assert await results.is_result_ready("a-saved-task")
    async with Redis.from_url(users_redis.url) as admin:
        [(_, others)] = await admin.pubsub_numsub("bridge:cancel")
        results.cancellations.start()
        async with asyncio.timeout(30):
            while (await admin.pubsub_numsub("bridge:cancel"))[0][1] <= others:
                await asyncio.sleep(0.02)
        assert await cancel(admin, "a-cancelled-task", 100)
        async with asyncio.timeout(30):
            while "a-cancelled-task" not in results.cancellations:
                await asyncio.sleep(0.02)
        async with admin.pubsub() as heard:
            await heard.subscribe("bridge:crashed")
            assert (await heard.get_message(timeout=10))["type"] == "subscribe"
            async with turn_of_suspect(results.redis, "a-model"):
                assert await results.redis.exists("bridge:suspect:a-model")
            assert not await results.redis.exists("bridge:suspect:a-model")
            await report(results.redis, "a-model")
            assert (await heard.get_message(timeout=10))["data"] == b"a-model"
    with pytest.raises(ResponseError, match=r"(?i)perm|acl|can't run this command"):
        await cancel(results.redis, "another-task", 100)
    assert not await results.is_result_ready("another-task")
    await results.shutdown()


async def test_who_cancels_needs_no_more_than_the_page_says(users_redis):
    page = (Path(__file__).parent.parent.parent / "docs" / "security.md").read_text()
    rights = re.search(r"a client that may needs `([^`]+)` besides", page)[1].split()
    clients = re.search(r"ACL SETUSER bridge-client on >CLIENT-PASSWORD (.+)", page)[1].split()
    async with Redis.from_url(users_redis.url) as admin:
        await admin.execute_command("ACL", "SETUSER", "who", "on", ">any", *clients, *rights)
        user = f"redis://who:any@127.0.0.1:{users_redis.port}/0"
        async with Redis.from_url(user) as redis:
            assert await cancel(redis, "a-task-of-theirs", 100)
            assert not await cancel(redis, "a-task-of-theirs", 100)
            await admin.hset("bridge:job:published", "publishing", "1")
            with pytest.raises(TooLateError):
                await cancel(redis, "published", 100)
            await admin.delete("bridge:job:published")
        await admin.execute_command("ACL", "DELUSER", "who")


async def test_the_training_workers_redis_user_may_do_what_one_does(users_redis):
    async with Redis.from_url(users_redis.url_of("bridge-training")) as redis:
        assert (await redis.info("memory"))["used_memory"]
        jobs = Jobs(redis, "queue", lease_s=1, keep_s=60)
        await jobs.register("a-training", 1)
        claim = await jobs.claim("a-training", Asking("worker", b"message"))
        assert claim.answer == "yours"
        assert await jobs.renew("a-training", claim.number) == ""
        assert await jobs.commit("a-training", claim.number) == "yours"
        assert not await jobs.expire("a-training")
        await jobs.recall("a-training", claim.number)
        await jobs.release("a-training", claim.number)
        await jobs.pause("a-training")
        assert (await jobs.claim("a-training", Asking("worker", b"message"))).answer == "paused"
        assert await jobs.resume("a-training") == (2, b"message")
        assert await jobs.overdue(1) == []
        await jobs.handed_on("a-training", 2)
        assert [job.task_id for job in await jobs.all()] == ["a-training"]
        await jobs.forget("a-training")
        assert not await is_busy(redis, "gpu")


@pytest.mark.parametrize("user", ["environment", "caller"])
async def test_nobody_lists_or_empties_redis(request, settings_of, user):
    settings = settings_of(request.getfixturevalue(user))
    async with Redis.from_url(settings.redis_connect_url) as redis:
        for forbidden in (
            redis.keys,
            redis.flushall,
            redis.config_get,
            redis.acl_list,
            redis.flushdb,
            lambda: redis.publish("another:channel", b""),
        ):
            with pytest.raises(NoPermissionError):
                await forbidden()


async def test_how_full_redis_is_workers_see_and_callers_do_not(environment, caller, settings_of):
    async with Redis.from_url(settings_of(environment).redis_connect_url) as redis:
        assert (await redis.info("memory"))["used_memory"]
    async with Redis.from_url(settings_of(caller).redis_connect_url) as redis:
        with pytest.raises(NoPermissionError):
            await redis.info("memory")


async def test_a_callers_redis_user_hears_and_reads_but_does_not_write(
    queues, environment, caller, settings_of
):
    results = RedisResults(settings_of(environment))
    async with BridgeClient(settings_of(caller)) as client:
        waiter = client._connections.replies.expect("a-task")
        await results.save("a-task", RESULT, client._connections.replies.token)
        async with asyncio.timeout(30):
            await waiter.arrived.wait()  # only a push, or a lost connection, sets it
        assert decode_result(waiter.value).return_value == 7
        assert (await client.wait("a-task")).return_value == 7
        for forbidden in (
            lambda: client._connections.redis.set("a-task", b""),
            lambda: client._connections.redis.delete("a-task"),
            lambda: client._connections.redis.publish("bridge:reply:a", b""),
        ):
            with pytest.raises(NoPermissionError):
                await forbidden()
    await results.shutdown()


async def test_a_caller_without_channels_reads_its_results(
    queues, environment, caller, users_redis, redis_door, settings_of
):
    results = RedisResults(settings_of(environment))
    url = users_redis.url_of("no-channels", redis_door.port)
    async with BridgeClient(settings_of(caller, REDIS_URL=url)) as client:
        waiting = asyncio.create_task(client.wait("unheard"))
        await results.save("unheard", RESULT, client._connections.replies.token)
        assert (await waiting).return_value == 7
    await results.shutdown()
