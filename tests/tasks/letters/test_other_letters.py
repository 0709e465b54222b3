"""Letters of RabbitMQ's making and on Redis Streams; purging; servers that are away."""

import asyncio
import json

import aio_pika
import pytest

from bridge import errors
from bridge.queues import build_broker
from bridge.settings import Settings

UNKNOWN = errors.UnknownTaskError("no task is called 'shout' here")
MALFORMED = errors.MalformedMessageError("neither JSON nor msgpack: [bold]\x1b[2J")


async def test_a_purge_asks_and_takes_what_it_counted(own, mlbridge, give_up, depths, listed, task):
    items = [task("shout") for _ in range(5)]
    await give_up(*items[:2], reason=UNKNOWN)
    await give_up(*items[2:], reason=MALFORMED)
    told = await mlbridge("purge", "--reason", "UnknownTask", answer="n\n", code=1)
    assert f"Throw away 2 dead letters of {own.taskiq_ml_queue}.dead_letter" in told.stderr
    await mlbridge("purge", "--reason", "UnknownTask", code=1)  # nobody answers
    assert await depths() == (0, 5)
    await mlbridge("purge", "--reason", "UnknownTask", answer="y\n")
    assert [letter["task_id"] for letter in await listed()] == [i["task_id"] for i in items[2:]]
    assert json.loads((await mlbridge("purge", "--all", "--yes", "--json")).stdout)["purged"] == 3
    assert await depths() == (0, 0)


@pytest.mark.parametrize("how", ["rejected", "delivery_limit", "expired"])
async def test_letters_that_rabbitmq_made(
    own, monkeypatch, mlbridge, listed, depths, how, task, encoded, publish, without_count
):
    where = f"{own.taskiq_ml_queue}.dead_letter"
    arguments = {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": where,
        "x-delivery-limit": 1,
    }
    connection = await aio_pika.connect(own.rabbitmq_url)
    async with connection:
        amqp = await connection.channel()
        await amqp.declare_queue(where, durable=True, arguments={"x-queue-type": "quorum"})
        queue = await amqp.declare_queue(own.taskiq_ml_queue, durable=True, arguments=arguments)
        item = task(args=("digits", {}))
        lifetime = 0.001 if how == "expired" else None
        await publish(
            amqp, own.taskiq_ml_queue, item, headers={"user": "kept"}, expiration=lifetime
        )
        for _ in range({"rejected": 1, "delivery_limit": 2, "expired": 0}[how]):
            async with asyncio.timeout(20):
                while (message := await queue.get(fail=False)) is None:
                    await asyncio.sleep(0.02)
            await message.reject(requeue=how == "delivery_limit")
        async with asyncio.timeout(20):
            while await depths() != (0, 1):
                await asyncio.sleep(0.02)
        [letter] = await listed("--reason", how, "--model", "digits", "--newer-than", "1h")
        assert letter["task_id"] == item["task_id"]
        assert (letter["reason"], letter["error"]) == (how, None)
        assert letter["origin"] == own.taskiq_ml_queue
        assert how in (await mlbridge("show", item["task_id"])).stdout
        await mlbridge("replay", item["task_id"])
        message = await queue.get(no_ack=True)
        assert message.body == encoded(item)
        assert without_count(message.headers) == {"user": "kept"}


async def test_on_redis_streams(own, monkeypatch, store, mlbridge, listed, task, encoded):
    monkeypatch.setenv("BRIDGE_QUEUE", "redis-streams")
    here = Settings()
    assert "does not exist" in (await mlbridge("list")).stdout
    broker = build_broker(here, "inference")
    await broker.startup()
    items = [task("shout", ["hi"]) for _ in range(30)]
    for item in items:
        await broker.dead_letter(encoded(item), UNKNOWN)
    await broker.dead_letter(b"nonsense", MALFORMED)
    letters = await listed()
    assert [letter["task_id"] for letter in letters] == [*(i["task_id"] for i in items), None]
    assert letters[0]["error"] == "UnknownTaskError"
    assert letters[0]["age_s"] >= 0
    assert (await mlbridge("show", "31", "--raw")).stdout_bytes == b"nonsense"
    await mlbridge("purge", "31", "--yes")
    await store.set(items[0]["task_id"], b'{"is_err": true, "error": null}')
    await store.set(items[1]["task_id"], b'{"is_err": false, "return_value": 1}')
    told = json.loads((await mlbridge("replay", "--all", "--json")).stdout)
    assert (told["replayed"], told["kept"]) == (29, 1)
    assert await store.get(items[0]["task_id"]) is None
    assert [letter["task_id"] for letter in await listed()] == [items[1]["task_id"]]
    entries = await store.xrange(own.taskiq_ml_queue)
    assert sorted(fields[b"data"] for _, fields in entries) == sorted(
        encoded(item) for item in (items[0], *items[2:])
    )
    await store.delete(own.taskiq_ml_queue)
    told = await mlbridge("replay", "--all", "--force", code=1)
    assert "there is no queue" in told.stdout
    assert len(await listed()) == 1
    await broker.shutdown()


@pytest.mark.parametrize(
    ("changed", "command", "told"),
    [
        ({"RABBITMQ_PORT": "1"}, ["list"], "cannot use RabbitMQ at amqp://127.0.0.1:1/"),
        ({"BRIDGE_QUEUE": "redis-streams", "REDIS_URL": "redis://127.0.0.1:1"}, ["list"], "Redis"),
        ({"REDIS_URL": "redis://127.0.0.1:1"}, ["replay", "--all"], "cannot use Redis at redis:"),
    ],
)
async def test_a_server_that_is_away_is_one_sentence(
    monkeypatch, mlbridge, give_up, depths, changed, command, told, task
):
    await give_up(task("shout"), reason=UNKNOWN)
    before = await depths()
    with monkeypatch.context() as patch:
        for name, value in changed.items():
            patch.setenv(name, value)
        with pytest.raises(errors.QueueError, match=told):
            await mlbridge(*command)
    async with asyncio.timeout(20):
        while await depths() != before:
            await asyncio.sleep(0.02)
