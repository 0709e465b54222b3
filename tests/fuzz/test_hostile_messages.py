"""Hostile messages and headers against a live worker.

None may crash or stall it, none may vanish: each has a result or lies in the dead-letter queue.
"""

import asyncio
import json
import random
from collections import Counter

import hostile
import psutil
import pytest
import redis.asyncio

from bridge import errors
from bridge.messages import Formatter, decode_result, read_labels

COUNT, GOOD_EVERY, AT_ONCE = 10_000, 25, 250


@pytest.fixture
async def store(own):
    async with redis.asyncio.from_url(own.redis_url.get_secret_value()) as store:
        yield store


async def publish(channel, own, messages):
    for start in range(0, len(messages), AT_ONCE):
        sent = [
            channel.basic_publish(
                body,
                exchange=own.taskiq_ml_exchange,
                routing_key=own.taskiq_ml_routing_key,
                properties=properties,
            )
            for body, properties in messages[start : start + AT_ONCE]
        ]
        await asyncio.gather(*sent)


def result_id(own, body):
    """Under which key a message has a result; None where it has no id."""
    try:
        message = Formatter(most_read=own.bridge_max_read_bytes).loads(body)
        read_labels(message)
    except errors.MalformedMessageError as error:
        return error.task_id
    except errors.MessageTooLargeError:
        return None
    return message.task_id


async def taken(channel, queue):
    """All that lies in a queue."""
    found = []
    while (message := await channel.basic_get(queue, no_ack=True)).delivery_tag:
        found.append(message)
    return found


async def settled(channel, own, store, bodies):
    """Wait until each message is accounted for.

    Returns:
        What lay in the dead-letter queue, and the ids of tasks that have a result or were handed
        on to the training queue.
    """
    ids = {body: result_id(own, body) for body in bodies}
    letters, handed_on = [], set()
    async with asyncio.timeout(60):
        while True:
            letters += await taken(channel, f"{own.taskiq_ml_queue}.dead_letter")
            training = await taken(channel, own.taskiq_ml_training_queue)
            handed_on |= {Formatter().loads(message.body).task_id for message in training}
            ended = handed_on | {key.decode() async for key in store.scan_iter(count=1000)}
            lying = {bytes(letter.body) for letter in letters}
            if all(body in lying or ids[body] in ended for body in bodies):
                return letters, ended
            await asyncio.sleep(0.2)


async def left(channel, queue):
    return (await channel.queue_declare(queue, passive=True)).message_count


async def check_good(store, good):
    for body in good:
        result = decode_result(await store.get(json.loads(body)["task_id"]))
        [row] = json.loads(body)["args"][1]["x"]
        assert result.return_value["outputs"]["y"] == [[2 * number for number in row]]


def rows(pick, number):
    made = hostile.task(pick, args=["double", {"x": [[number, 1.0, 2.0, 3.0]]}])
    return json.dumps(made).encode()


async def test_ten_thousand_hostile_messages_are_each_accounted_for(live, own, channel, store):
    pick = random.Random(20)  # noqa: S311 - the same each time
    kinds = list(hostile.hostile_headers(own.taskiq_ml_queue.encode()).values())
    messages, good = [], []
    for number in range(COUNT):
        messages.append((hostile.hostile(pick), pick.choice(kinds) if number % 5 == 0 else None))
        if number % GOOD_EVERY == 0:
            good.append(rows(pick, float(number)))
            messages.append((good[-1], None))
    messages.append((b"{" * (own.bridge_max_read_bytes + 1), None))
    parent = psutil.Process(live.process.pid)
    before = {child.pid for child in parent.children(recursive=True)}
    await publish(channel, own, messages[: COUNT // 5])
    early = sum(psutil.Process(pid).memory_info().rss for pid in before)
    await publish(channel, own, messages[COUNT // 5 :])
    bodies = [body for body, _ in messages]
    letters, ended = await settled(channel, own, store, bodies)
    assert {child.pid for child in parent.children(recursive=True)} == before
    late = sum(psutil.Process(pid).memory_info().rss for pid in before)
    assert late < early + 200 * 2**20
    assert await live.stop() == 0
    assert await left(channel, own.taskiq_ml_queue) == 0  # nor was any unacknowledged
    await check_good(store, good)
    assert "MessageTooLargeError" in {
        it.header.properties.headers["x-bridge-error"] for it in letters
    }
    # Nothing came twice, and nothing that nobody sent.
    assert Counter(bytes(letter.body) for letter in letters) <= Counter(bodies)
    assert ended <= {result_id(own, body) for body in bodies}


async def test_headers_decide_nothing_and_stop_nobody(live, own, channel, store):
    pick = random.Random(21)  # noqa: S311 - the same each time
    kinds = hostile.hostile_headers(own.taskiq_ml_queue.encode())
    good = [rows(pick, float(number)) for number in range(len(kinds))]
    nonsense = [f"no task: {name}".encode() for name in kinds]
    await publish(channel, own, list(zip(nonsense, kinds.values(), strict=True)))
    await publish(channel, own, list(zip(good, kinds.values(), strict=True)))
    # A label that would send copies back here, were it a header of what is handed on.
    labels = {"CC": [own.taskiq_ml_routing_key], "delay": "1", "big": "x" * 60_000}
    training = json.dumps(hostile.task(pick, "train_model", labels=labels)).encode()
    await publish(channel, own, [(training, None)])
    letters, _ = await settled(channel, own, store, [*nonsense, *good, training])
    await check_good(store, good)
    assert await live.stop() == 0
    assert await left(channel, own.taskiq_ml_queue) == 0
    assert await taken(channel, own.taskiq_ml_training_queue) == []
    letters += await taken(channel, f"{own.taskiq_ml_queue}.dead_letter")
    assert sorted(bytes(letter.body) for letter in letters) == sorted(nonsense)
    found = {bytes(it.body).decode()[9:]: it.header.properties.headers for it in letters}
    for headers in found.values():
        assert headers["x-bridge-error"] == "MalformedMessageError"
        assert headers["x-bridge-reason"].startswith("cannot be read as JSON or msgpack")
        # Who forges this only has fewer tries of its own task.
        assert headers["x-bridge-attempts"] in (1, 99)
    assert {name for name, headers in found.items() if "x-bridge-headers" in headers} == {
        "a date that is none",
        "a timestamp that is none",
        "a name that is no text",
        "a value that is no text",
        "a content type that is no text",
        "a number beyond single precision",
        "deep",
        "many",
        "as long as a frame",
    }
    assert "CC" not in found["copies"]
