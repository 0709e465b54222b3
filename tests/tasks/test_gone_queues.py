"""RabbitMQ has lost, or has otherwise, what we need there; and what tries are counted as."""

import asyncio
import contextlib
import json
import time
import uuid

import aio_pika
import pytest
from taskiq import SmartRetryMiddleware
from taskiq.exceptions import SendTaskError
from taskiq.kicker import AsyncKicker

from bridge import errors
from bridge.queues import build_broker

WAIT_S = 40


@pytest.fixture
def own(settings):
    """Settings with names that only this test uses."""
    name = f"gone-{uuid.uuid4().hex[:8]}"
    names = {"taskiq_ml_exchange": f"{name}_x", "taskiq_ml_queue": name}
    soon = {"bridge_retry_first_s": 0.001, "bridge_retry_longest_s": 0.001}
    return settings.model_copy(update=names | soon | {"taskiq_ml_routing_key": name})


@pytest.fixture
async def amqp(own):
    connection = await aio_pika.connect(own.rabbitmq_url)
    async with connection:
        yield await connection.channel()


async def ended(broker, **labels):
    """What became of a task that is sent now."""
    sent = await AsyncKicker("t", broker, labels).kiq()
    async with asyncio.timeout(WAIT_S):
        while not await broker.results.is_result_ready(sent.task_id):
            await asyncio.sleep(0.02)
    return await broker.results.get_result(sent.task_id)


def meets(*met):
    """A shortcut that meets these, try after try: an error, or what gives one; then it is well."""
    left = list(met)

    async def run(message, turn):
        if left:
            error = left.pop(0)
            raise error if isinstance(error, Exception) else await error()
        return "well"

    return run


async def test_who_sends_into_a_queue_that_is_gone_hears_of_it(own, amqp):
    broker = build_broker(own, "inference")
    await broker.startup()
    await amqp.queue_delete(own.taskiq_ml_queue)
    with pytest.raises(SendTaskError) as caught:
        await AsyncKicker("t", broker, {}).kiq()
    assert "has no queue for the task" in str(caught.value.__cause__)
    await broker.shutdown()


async def test_a_delay_queue_that_is_gone_is_made_anew(listening, own, amqp):
    async def delete():
        await amqp.queue_delete(f"{own.taskiq_ml_queue}.delay.1s")
        return errors.ModelUnavailableError("again")

    async with listening(own, meets(errors.ModelUnavailableError("away"), delete)) as broker:
        assert (await ended(broker)).return_value == "well"


async def test_a_delay_queue_of_another_type_is_used_as_it_is(listening, own, amqp, caplog):
    await amqp.declare_queue(
        f"{own.taskiq_ml_queue}.delay.1s",
        durable=True,
        arguments={
            "x-queue-type": "classic",
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": own.taskiq_ml_queue,
            "x-message-ttl": 1000,
        },
    )
    async with listening(own, meets(errors.ModelUnavailableError("away"))) as broker:
        assert (await ended(broker)).return_value == "well"
    assert ".delay.1s is used as it is" in caplog.text


async def test_a_dead_letter_queue_that_is_gone_is_made_anew(listening, own, amqp):
    letters = f"{own.taskiq_ml_queue}.dead_letter"
    async with listening(own, meets()) as broker:
        await amqp.queue_delete(letters)
        nonsense = aio_pika.Message(b"nonsense", delivery_mode=2)
        await amqp.default_exchange.publish(nonsense, routing_key=own.taskiq_ml_queue)
        async with asyncio.timeout(WAIT_S):
            while True:
                with contextlib.suppress(aio_pika.exceptions.ChannelNotFoundEntity):
                    await amqp.reopen()
                    queue = await amqp.get_queue(letters)
                    if (letter := await queue.get(fail=False)) is not None:
                        break
                await asyncio.sleep(0.1)
        assert letter.body == b"nonsense"
        await letter.ack()
        assert (await ended(broker)).return_value == "well"


async def test_a_queue_that_is_used_as_it_is_is_consumed_again_once_it_is_there_again(
    listening, own, amqp
):
    async def make():
        await amqp.declare_queue(own.taskiq_ml_queue, durable=True)  # a classic one

    await make()
    async with listening(own, meets()) as broker:
        assert (await ended(broker)).return_value == "well"
        await amqp.queue_delete(own.taskiq_ml_queue)
        async with asyncio.timeout(WAIT_S):
            while broker.trouble() is None:
                await asyncio.sleep(0.02)
        await asyncio.sleep(1)
        await make()
        async with asyncio.timeout(WAIT_S):
            while broker.trouble() is not None:
                await asyncio.sleep(0.02)
        message = {"task_id": "", "task_name": "t", "labels": {}, "args": [], "kwargs": {}}
        message["task_id"] = uuid.uuid4().hex
        body = aio_pika.Message(json.dumps(message).encode())
        await amqp.default_exchange.publish(body, routing_key=own.taskiq_ml_queue)
        async with asyncio.timeout(WAIT_S):
            while not await broker.results.is_result_ready(message["task_id"]):
                await asyncio.sleep(0.02)


async def test_waiting_for_a_model_does_not_use_up_the_tries_of_other_errors(listening, own):
    own = own.model_copy(update={"bridge_max_retries": 1})
    away = [errors.ModelUnavailableError("away")] * 4
    async with listening(own, meets(*away, errors.TritonBusyError("full"))) as broker:
        assert (await ended(broker)).return_value == "well"
    full = [errors.TritonBusyError("full")] * 2
    async with listening(own, meets(*away, *full)) as broker:
        assert isinstance((await ended(broker)).error, errors.TritonBusyError)


async def test_what_is_handed_back_often_is_nobodys_poison(listening, own):
    own = own.model_copy(update={"bridge_delivery_limit": 3})
    outage = [errors.TritonUnavailableError("down")] * 7
    async with listening(own, meets(*outage)) as broker:
        assert (await ended(broker)).return_value == "well"


async def test_a_deadline_of_the_workers_does_not_begin_anew_with_each_try(listening, own):
    own = own.model_copy(update={"bridge_deadline_s": 3.0})
    began = time.monotonic()
    async with listening(own, meets(*[errors.ModelUnavailableError("away")] * 30)) as broker:
        assert isinstance((await ended(broker)).error, errors.TaskExpiredError)
    assert time.monotonic() - began < WAIT_S / 2


async def test_taskiqs_retries_end_in_the_tasks_own_error(listening, own):
    """They send the task again, and keep its record from being written before the last try."""
    again = SmartRetryMiddleware(default_retry_count=2, default_retry_label=True, default_delay=0)
    wrong = [errors.InvalidInputError("wrong")] * 5
    async with listening(own, meets(*wrong), again) as broker:
        assert isinstance((await ended(broker)).error, errors.InvalidInputError)
    # What comes back by itself is not sent by them as well.
    away = errors.ModelUnavailableError("away")
    async with listening(own, meets(away), again) as broker:
        assert (await ended(broker)).return_value == "well"
        await asyncio.sleep(1.5)
        assert sum((await broker.waiting()).values()) == 0


async def test_a_delay_of_nothing_is_none(listening, own):
    async with listening(own, meets()) as broker:
        assert (await ended(broker, delay=0)).return_value == "well"
