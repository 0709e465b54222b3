"""No message is lost: nonsense, strangers, a full Redis, a redelivery, a stop in the middle."""

import asyncio
import base64
import json
import logging
import uuid

import aio_pika
import msgpack
import numpy as np
import pytest
import redis.asyncio
from taskiq import SimpleRetryMiddleware, SmartRetryMiddleware, TaskiqMiddleware
from taskiq.exceptions import NoResultError

from bridge import errors
from bridge.cancellations import cancel
from bridge.client import BridgeClient
from bridge.embedded.rabbitmq import RabbitMQServer
from bridge.embedded.redis import RedisServer
from bridge.messages import decode_result
from bridge.queues import build_broker, queue_depths
from bridge.settings import Settings

ROWS = [[1.0, 2.0, 3.0, 4.0]]
COMMAND = ["-P", "-m", "taskiq", "worker", "bridge.broker:broker", "bridge.tasks.inference"]


def task(name="ml_inference", args=("double", {"x": ROWS}), **changed):
    return {
        "task_id": uuid.uuid4().hex,
        "task_name": name,
        "labels": {},
        "labels_types": None,
        "args": list(args),
        "kwargs": {},
    } | changed


@pytest.fixture
def own_environment(environment, request):
    """Queues that only this test uses."""
    name = request.node.name[:80].replace("[", "_").replace("]", "")
    names = ("TASKIQ_ML_QUEUE", "TASKIQ_ML_ROUTING_KEY")
    training = ("TASKIQ_ML_TRAINING_QUEUE", "TASKIQ_ML_TRAINING_ROUTING_KEY")
    return environment | dict.fromkeys(names, name) | dict.fromkeys(training, f"{name}_t")


@pytest.fixture
async def own(own_environment, monkeypatch):
    for name, value in own_environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    broker = build_broker(settings, "inference")
    await broker.startup()  # declares
    await broker.shutdown()
    return settings


@pytest.fixture
async def amqp(own):
    connection = await aio_pika.connect(own.rabbitmq_url)
    async with connection:
        yield await connection.channel()


async def publish(amqp, own, *bodies, headers=None):
    exchange = await amqp.get_exchange(own.taskiq_ml_exchange)
    for body in bodies:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        message = aio_pika.Message(data, headers=headers, delivery_mode=2)
        await exchange.publish(message, routing_key=own.taskiq_ml_routing_key)


async def read(own, task_id, timeout_s=20):
    async with (
        redis.asyncio.from_url(own.redis_url.get_secret_value()) as store,
        asyncio.timeout(timeout_s),
    ):
        while (value := await store.get(task_id)) is None:
            await asyncio.sleep(0.01)
    return decode_result(value)


async def dead_letters(amqp, own, count):
    queue = await amqp.get_queue(f"{own.taskiq_ml_queue}.dead_letter")
    letters = []
    async with asyncio.timeout(20):
        while len(letters) < count:
            letter = await queue.get(fail=False)
            if letter is None:
                await asyncio.sleep(0.02)
                continue
            await letter.ack()
            letters.append(letter)
    assert await queue.get(fail=False) is None
    return letters


NONSENSE = [
    b"",
    b"not json",
    b"\xff\xfe\x00",
    b"[" * 50_000,
    json.dumps({"task_id": 5}).encode(),
    json.dumps(task(labels={"n": "x"}, labels_types={"n": 2})).encode(),
    json.dumps(task(labels={"n": "1"}, labels_types={"n": 99})).encode(),
    msgpack.packb([1, 2, 3]),
    *(
        json.dumps(task(task_id=task_id)).encode()
        for task_id in ("", "x" * 257, "a b", "a\n", "bridge:reply:x", "autoclaim:taskiq:taskiq_ml")
    ),
]


async def test_what_is_no_task_is_dead_lettered_with_its_reason(
    amqp, own, own_environment, new_worker
):
    await new_worker([*COMMAND, "--workers", "1"], own_environment)
    good = task()
    await publish(amqp, own, *NONSENSE, headers={"from": "somebody"})
    await publish(amqp, own, good)
    letters = await dead_letters(amqp, own, len(NONSENSE))
    assert sorted(letter.body for letter in letters) == sorted(NONSENSE)
    for letter in letters:
        assert letter.headers["x-bridge-error"] == "MalformedMessageError"
        assert letter.headers["x-bridge-reason"]
        assert letter.headers["x-bridge-queue"] == own.taskiq_ml_queue
        assert letter.headers["x-bridge-attempts"] == 1
        assert letter.headers["x-bridge-time"]
        assert letter.headers["from"] == "somebody"
    assert not (await read(own, good["task_id"])).is_err
    assert (await queue_depths(own))[0].messages == 0


async def test_what_is_no_task_is_let_go(amqp, own, listening, leaving_no, caplog):
    caplog.set_level(logging.CRITICAL, "bridge.intake")  # pytest keeps what is logged
    async with listening(own, None):
        with leaving_no(errors.MalformedMessageError):
            await publish(amqp, own, *NONSENSE)
            await dead_letters(amqp, own, len(NONSENSE))
            await asyncio.sleep(0.2)


async def test_a_task_that_nobody_knows_is_dead_lettered_and_its_caller_hears_of_it(
    amqp, own, own_environment, new_worker
):
    await new_worker([*COMMAND, "--workers", "1"], own_environment)
    stranger = task("os.system", ["true"])
    await publish(amqp, own, stranger)
    result = await read(own, stranger["task_id"])
    assert type(result.error) is errors.UnknownTaskError
    assert "ml_inference, train_model" in str(result.error)
    [letter] = await dead_letters(amqp, own, 1)
    assert json.loads(letter.body) == stranger
    assert letter.headers["x-bridge-error"] == "UnknownTaskError"


def without(name):
    return {key: value for key, value in task().items() if key != name}


async def test_who_waits_for_what_cannot_be_read_hears_of_it(
    amqp, own, own_environment, new_worker
):
    await new_worker([*COMMAND, "--workers", "1"], own_environment)
    not_text = {"labels": {"n": base64.b64encode(b"\xff").decode()}, "labels_types": {"n": 6}}
    broken = {
        "wrong or missing: kwargs": without("kwargs"),
        "wrong or missing: labels": without("labels"),
        "labels have": task(labels={"n": "x" * 2**16}),
        "labels cannot be read": task(**not_text),
    }
    await publish(amqp, own, *broken.values())
    await dead_letters(amqp, own, len(broken))
    for said, message in broken.items():
        result = await read(own, message["task_id"])
        assert type(result.error) is errors.MalformedMessageError
        assert said in str(result.error)


async def test_a_training_is_handed_on_when_its_queue_takes_it(
    amqp, own, own_environment, new_worker
):
    worker = await new_worker([*COMMAND, "--workers", "1"], own_environment)
    queue = await amqp.get_queue(own.taskiq_ml_training_queue)
    where = (own.taskiq_ml_exchange, own.taskiq_ml_training_routing_key)
    await queue.unbind(*where)
    training = task("train_model", ["digits", {}, {}])
    await publish(amqp, own, training)
    async with asyncio.timeout(20):
        while "has no queue for the task" not in worker.log.read_text():
            await asyncio.sleep(0.05)
    await queue.bind(*where)
    async with asyncio.timeout(20):
        while (message := await queue.get(fail=False)) is None:
            await asyncio.sleep(0.05)
    assert json.loads(message.body) == training
    async with redis.asyncio.from_url(own.redis_url.get_secret_value()) as store:
        assert not await store.exists(training["task_id"])


async def test_a_training_is_handed_on_when_redis_takes_it(own_environment, new_worker):
    """Where the queues are Redis Streams."""
    environment = own_environment | {"BRIDGE_QUEUE": "redis-streams"}
    queue, training_queue = environment["TASKIQ_ML_QUEUE"], environment["TASKIQ_ML_TRAINING_QUEUE"]
    worker = await new_worker([*COMMAND, "--workers", "1"], environment)
    training = task("train_model", ["digits", {}, {}])
    async with redis.asyncio.from_url(environment["REDIS_URL"]) as store, asyncio.timeout(20):
        await store.set(training_queue, "no stream")
        await store.xadd(queue, {"data": json.dumps(training)})
        while "cannot use Redis" not in worker.log.read_text():
            await asyncio.sleep(0.05)
        await store.delete(training_queue)
        while not (entries := await store.xrange(training_queue)):
            await asyncio.sleep(0.05)
        assert json.loads(entries[0][1][b"data"]) == training
        assert not await store.exists(training["task_id"])


@pytest.mark.parametrize("args", [[], ["double"], ["double", {}, "1", "more"]])
async def test_wrong_arguments_are_the_callers_error(client, args, settings, amqp, own):
    broken = task(args=args)
    exchange = await amqp.get_exchange(settings.taskiq_ml_exchange)
    message = aio_pika.Message(json.dumps(broken).encode())
    await exchange.publish(message, routing_key=settings.taskiq_ml_routing_key)
    result = await read(settings, broken["task_id"])
    assert isinstance(result.error, errors.InvalidInputError)


@pytest.mark.parametrize("label", ["soon", "-1", "nan", "inf", ""])
@pytest.mark.parametrize("name", ["timeout", "deadline"])
async def test_a_label_that_is_no_time_is_the_callers_error(client, settings, amqp, name, label):
    broken = task(labels={name: label})
    exchange = await amqp.get_exchange(settings.taskiq_ml_exchange)
    message = aio_pika.Message(json.dumps(broken).encode())
    await exchange.publish(message, routing_key=settings.taskiq_ml_routing_key)
    result = await read(settings, broken["task_id"])
    assert isinstance(result.error, errors.InvalidLabelError)
    assert f"label '{name}'" in str(result.error)


async def take_and_drop(own, count):
    """What a worker does that is killed."""
    connection = await aio_pika.connect(own.rabbitmq_url)
    async with connection:
        queue = await (await connection.channel()).get_queue(own.taskiq_ml_queue)
        for _ in range(count):
            assert await queue.get()


async def save_first(own, done):
    async with redis.asyncio.from_url(own.redis_url.get_secret_value()) as store:
        await store.set(done["task_id"], b'{"is_err": false, "return_value": "the first"}')


async def test_a_redelivered_task_that_has_a_result_is_not_run_again(
    amqp, own, own_environment, new_worker
):
    done, not_done = task(), task()
    await publish(amqp, own, done, not_done)
    # A worker that took both, saved one result, and was killed before it acknowledged.
    await take_and_drop(own, 2)
    await save_first(own, done)
    await new_worker([*COMMAND, "--workers", "1"], own_environment)
    assert (await read(own, not_done["task_id"])).return_value["outputs"]["y"]
    async with asyncio.timeout(20):
        while (await queue_depths(own))[0].messages:
            await asyncio.sleep(0.05)
    assert (await read(own, done["task_id"])).return_value == "the first"


async def test_middlewares_hear_of_a_result_whose_worker_was_killed_before_they_did(
    amqp, own, listening
):
    """A pipeline's next step is sent by `post_save`."""
    done, heard = task("t"), asyncio.Queue()

    class Middleware(TaskiqMiddleware):
        def post_save(self, message, result):
            heard.put_nowait((message.task_id, result.return_value))

    await publish(amqp, own, done)
    await take_and_drop(own, 1)
    await save_first(own, done)
    async with listening(own, None, Middleware()), asyncio.timeout(20):
        assert await heard.get() == (done["task_id"], "the first")
        while (await queue_depths(own))[0].messages:
            await asyncio.sleep(0.05)


async def test_middlewares_hear_of_a_task_that_expired_in_the_queue(amqp, own, listening):
    """A pipeline's last step, for which its caller waits, fails with the first in `on_error`."""
    late, heard = task("t", labels={"deadline": 1}), asyncio.Queue()

    class Middleware(TaskiqMiddleware):
        def on_error(self, message, result, exception):
            heard.put_nowait((message.task_id, type(exception)))
            result.error = NoResultError()  # as one does that has sent the task again

    await publish(amqp, own, late)
    async with listening(own, None, Middleware()), asyncio.timeout(20):
        assert await heard.get() == (late["task_id"], errors.TaskExpiredError)
        assert isinstance((await read(own, late["task_id"])).error, errors.TaskExpiredError)


async def test_middlewares_hear_of_a_task_that_was_cancelled_between_two_tries(
    amqp, own, listening
):
    """Who cancels writes its record; who waits for the last step of its pipeline hears nothing."""
    cancelled, heard = task("t"), asyncio.Queue()

    class Middleware(TaskiqMiddleware):
        def on_error(self, message, result, exception):
            heard.put_nowait((message.task_id, type(exception)))

    await publish(amqp, own, cancelled)
    await take_and_drop(own, 1)
    async with redis.asyncio.from_url(own.redis_url.get_secret_value()) as store:
        assert await cancel(store, cancelled["task_id"], 60)
    async with listening(own, None, Middleware()), asyncio.timeout(20):
        assert await heard.get() == (cancelled["task_id"], errors.TaskCancelledError)
        while (await queue_depths(own))[0].messages:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("middleware", [SimpleRetryMiddleware, SmartRetryMiddleware])
async def test_a_task_that_expired_in_the_queue_is_not_sent_again(amqp, own, listening, middleware):
    """With BRIDGE_DEADLINE_S it would run then, for nobody."""
    late, sent = task("t", labels={"deadline": 1, "retry_on_error": "true"}), []

    class Middleware(TaskiqMiddleware):
        def post_send(self, message):
            sent.append(message.task_id)

    await publish(amqp, own, late)
    async with listening(own, None, Middleware(), middleware(default_retry_label=True)):
        assert isinstance((await read(own, late["task_id"])).error, errors.TaskExpiredError)
    assert not sent


async def test_a_full_redis_keeps_nobody_from_their_result(
    amqp, own, own_environment, new_worker, state, monkeypatch
):
    async with RedisServer(state) as server:
        environment = own_environment | {"REDIS_URL": server.url}
        monkeypatch.setenv("REDIS_URL", server.url)
        here = Settings()
        worker = await new_worker([*COMMAND, "--workers", "1"], environment)
        async with redis.asyncio.from_url(server.url) as store:
            await store.config_set("maxmemory", "1")
            waiting = [task() for _ in range(50)]
            await publish(amqp, own, *waiting)
            async with asyncio.timeout(20):
                while "Redis did not take" not in worker.log.read_text():
                    await asyncio.sleep(0.05)
            assert "it is full: docs/runbook.md, RedisNearLimit" in worker.log.read_text()
            assert await store.dbsize() == 0
            await store.config_set("maxmemory", "0")
            for item in waiting:
                assert not (await read(here, item["task_id"])).is_err
        assert await worker.stop() == 0
    assert (await queue_depths(own))[0].messages == 0


async def test_a_stop_in_the_middle_loses_nothing(amqp, own, own_environment, new_worker):
    tasks = [task() for _ in range(3000)]
    await publish(amqp, own, *tasks)
    worker = await new_worker([*COMMAND, "--workers", "1"], own_environment)
    await read(own, tasks[0]["task_id"])
    assert await worker.stop() == 0
    ids = [item["task_id"] for item in tasks]
    async with redis.asyncio.from_url(own.redis_url.get_secret_value()) as store:
        saved = sum(value is not None for value in await store.mget(ids))
    left = (await queue_depths(own))[0].messages
    assert saved + left == len(tasks)
    await new_worker([*COMMAND, "--workers", "2"], own_environment)
    for task_id in ids:
        assert not (await read(own, task_id)).is_err


async def test_callers_of_one_client_each_get_their_own(client):
    arrays = [np.full((1 + i % 8, 4), i, np.float32) for i in range(500)]
    results = await asyncio.gather(*(client.infer("double", {"x": array}) for array in arrays))
    for array, result in zip(arrays, results, strict=True):
        np.testing.assert_array_equal(result.outputs["y"], array * 2)


async def test_a_client_whose_redis_connection_is_cut_still_hears(worker, settings):
    async with BridgeClient(settings) as client:
        await client.infer("double", {"x": ROWS})
        async with redis.asyncio.from_url(settings.redis_url.get_secret_value()) as store:
            for kind in ("pubsub", "normal"):
                await store.client_kill_filter(_type=kind, skipme=True)
        result = await client.infer("double", {"x": ROWS}, timeout_s=20)
        assert result.outputs["y"].tolist() == [[2, 4, 6, 8]]


async def test_consumption_comes_back_when_its_queue_was_deleted(
    amqp, own, own_environment, new_worker
):
    worker = await new_worker([*COMMAND, "--workers", "1"], own_environment)
    before, after = task(), task()
    await publish(amqp, own, before)
    assert not (await read(own, before["task_id"])).is_err
    await (await amqp.get_queue(own.taskiq_ml_queue)).delete(if_unused=False, if_empty=False)
    async with asyncio.timeout(20):
        while "again" not in worker.log.read_text():
            await asyncio.sleep(0.05)
    await publish(amqp, own, after)
    assert not (await read(own, after["task_id"])).is_err


async def test_a_restarted_rabbitmq_is_consumed_again_and_loses_nothing(
    environment, new_worker, state, monkeypatch
):
    async with RabbitMQServer(state) as server:
        there = environment | {
            "RABBITMQ_PORT": str(server.port),
            "RABBITMQ_USERNAME": server.username,
            "RABBITMQ_PASSWORD": server.password,
        }
        for name, value in there.items():
            monkeypatch.setenv(name, value)
        here = Settings()
        worker = await new_worker([*COMMAND, "--workers", "1"], there)
        tasks = [task() for _ in range(400)]
        for part in (tasks[:200], tasks[200:]):
            connection = await aio_pika.connect(here.rabbitmq_url)
            async with connection:
                await publish(await connection.channel(), here, *part)
            async with BridgeClient(here) as client:
                await client.infer("double", {"x": ROWS}, timeout_s=40)
                restarting = asyncio.create_task(server.restart())
                calls = [client.infer("double", {"x": ROWS}, timeout_s=60) for _ in range(20)]
                await asyncio.gather(restarting, *calls)
        for item in tasks:
            assert not (await read(here, item["task_id"], timeout_s=40)).is_err
        assert await worker.stop() == 0
        async with asyncio.timeout(10):
            while (await queue_depths(here))[0].messages:
                await asyncio.sleep(0.1)
