"""What was given up is sent again, and nothing is lost on the way."""

import asyncio
import json
import signal
import sys

import aio_pika
import msgpack

from bridge import errors
from bridge.client import BridgeClient
from bridge.queues import build_broker

COMMAND = ["-P", "-m", "taskiq", "worker", "bridge.broker:broker", "bridge.tasks.inference"]
SHOP = """
from bridge.broker import broker


@broker.task("shout")
async def shout(text: str) -> str:
    return text.upper()
"""
UNKNOWN = errors.UnknownTaskError("no task is called 'shout' here")
MALFORMED = errors.MalformedMessageError("neither JSON nor msgpack: [bold]\x1b[2J")


async def test_a_replay_brings_the_caller_its_result(
    own, own_environment, mlbridge, depths, new_worker, tmp_path, task, publish
):
    """The cause: a worker without the user's own module of tasks."""
    async with BridgeClient(own) as client:
        broker = build_broker(own, "inference")
        await broker.startup()
        worker = await new_worker([*COMMAND, "--workers", "1"], own_environment)
        message = task("shout", ["hi"])
        connection = await aio_pika.connect(own.rabbitmq_url)
        async with connection:
            channel = await connection.channel()
            await publish(channel, own.taskiq_ml_queue, message)
            assert type((await client.wait(message["task_id"])).error) is errors.UnknownTaskError
        await worker.stop()
        (tmp_path / "shop.py").write_text(SHOP)
        await new_worker([*COMMAND[1:], "shop", "--workers", "1"], own_environment, cwd=tmp_path)
        dry = await mlbridge("replay", "--all", "--dry-run")
        assert "would replay 1" in dry.stdout
        assert (await client.wait(message["task_id"])).error is not None
        assert await depths() == (0, 1)
        assert "replayed 1" in (await mlbridge("replay", message["task_id"])).stdout
        async with asyncio.timeout(20):
            result = await client.wait(message["task_id"])
        assert result.return_value == "HI"
        assert await depths() == (0, 0)
        await broker.shutdown()


async def test_what_is_sent_again_is_what_was_sent(
    amqp, own, mlbridge, give_up, publish, without_count
):
    body = b'{"spaced":  "as it was", "task_id": "x y"}\n'
    headers = {"user": "kept", "number": 5, "x-death": "not a list", "CC": [own.taskiq_ml_queue]}
    properties = {"headers": headers, "content_type": "application/json", "message_id": "m"}
    await publish(amqp, f"{own.taskiq_ml_queue}.dead_letter", body, **properties, priority=3)
    queue = await amqp.get_queue(own.taskiq_ml_queue)
    assert (await queue.purge()).message_count == 1  # the copy
    await give_up(body, reason=MALFORMED, headers={"user": "kept", "number": 5})
    told = await mlbridge("replay", "--all")
    assert "2 of these cannot be read as tasks" in told.stderr
    queue = await amqp.get_queue(own.taskiq_ml_queue)
    assert queue.declaration_result.message_count == 2
    first, second = await queue.get(), await queue.get()
    for letter in (first, second):
        await letter.ack()
        assert letter.body == body
        assert without_count(letter.headers) == {"user": "kept", "number": 5}
        assert letter.delivery_mode == 2
    assert (first.content_type, first.message_id, first.priority) == ("application/json", "m", 3)


async def test_a_task_that_has_a_result_is_left_alone(own, store, mlbridge, give_up, depths, task):
    done, failed = task("shout"), task("shout")
    await give_up(done, failed, reason=UNKNOWN)
    answer = b'{"is_err": false, "return_value": "done"}'
    await store.set(done["task_id"], answer)
    await store.set(failed["task_id"], msgpack.packb({"is_err": True, "error": {}}))
    told = json.loads((await mlbridge("replay", "--all", "--json")).stdout)
    assert (told["replayed"], told["kept"], told["failed"]) == (1, 1, 0)
    assert told["letters"][0]["note"] == "already has a result"
    assert told["letters"][0]["task_id"] == done["task_id"]
    assert await store.get(done["task_id"]) == answer
    assert await store.get(failed["task_id"]) is None
    assert await depths() == (1, 1)
    await mlbridge("replay", "--all", "--force")
    assert await store.get(done["task_id"]) is None
    assert await depths() == (2, 0)


async def test_a_replay_of_a_part(mlbridge, give_up, depths, listed, task):
    items = [task("shout") for _ in range(6)]
    await give_up(*items[:3], reason=UNKNOWN)
    await give_up(*items[3:], reason=errors.InvalidInputError("wrong"))
    await mlbridge("replay", "--reason", "wrong", "--limit", "1")
    told = await mlbridge("replay", items[0]["task_id"], "5", "nobody", code=1)
    assert "no dead letter is called nobody" in told.stderr
    left = [letter["task_id"] for letter in await listed()]
    assert left == [items[i]["task_id"] for i in (1, 2, 4)]
    assert await depths() == (3, 3)


async def test_a_queue_that_is_gone_keeps_its_letters(
    amqp, own, mlbridge, give_up, listed, task, publish
):
    items = [task("shout") for _ in range(100)]
    await give_up(*items[:50], reason=UNKNOWN)
    await publish(amqp, f"{own.taskiq_ml_queue}.dead_letter", *items[50:], message_id="same")
    await amqp.queue_delete(own.taskiq_ml_queue)
    told = json.loads((await mlbridge("replay", "--all", "--json", code=1)).stdout)
    assert told["failed"] == 100
    assert told["letters"][0]["note"] == f"there is no queue {own.taskiq_ml_queue}"
    ids = [letter["task_id"] for letter in await listed("--limit", "0")]
    assert ids == [item["task_id"] for item in items]


async def test_a_replay_that_is_killed_loses_nothing(
    amqp, own, own_environment, depths, mlbridge, task, publish
):
    items = [task("shout", ["hi"]) for _ in range(8000)]
    ids = {item["task_id"] for item in items}
    where = f"{own.taskiq_ml_queue}.dead_letter"
    await asyncio.gather(*(publish(amqp, where, item) for item in items))
    command = [sys.executable, "-P", "-m", "bridge", "dlq", "replay", "--all"]
    queue = await amqp.get_queue(own.taskiq_ml_queue)

    async def replayed():
        return (await amqp.declare_queue(queue.name, passive=True)).declaration_result.message_count

    for number in (signal.SIGKILL, signal.SIGINT):
        before = await replayed()
        process = await asyncio.create_subprocess_exec(
            *command, env=own_environment, stdout=asyncio.subprocess.PIPE
        )
        while await replayed() < before + 200:
            await asyncio.sleep(0.001)
        process.send_signal(number)
        output, _ = await process.communicate()
        assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}[number]
        if number == signal.SIGINT:
            assert b"then it ended early" in output
        async with asyncio.timeout(20):
            while sum(await depths()) < len(items):
                await asyncio.sleep(0.05)
        assert (await depths())[1] > 0
    await mlbridge("replay", "--all")
    assert (await depths())[1] == 0
    found = set()
    async with asyncio.timeout(20), queue.iterator(no_ack=True) as messages:
        async for message in messages:
            found.add(json.loads(message.body)["task_id"])
            if found == ids:
                break
