"""Producers that have never heard of this package: a stock taskiq broker, and plain AMQP."""

import asyncio
import base64
import json
import uuid

import aio_pika
import pytest
import redis.asyncio
from taskiq.kicker import AsyncKicker
from taskiq.serializers import JSONSerializer
from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.queue import Queue
from taskiq_redis import RedisAsyncResultBackend

ROWS = [[1.0, 2.0, 3.0, 4.0]]


@pytest.fixture
async def stock(settings, worker):
    broker = AioPikaBroker(
        settings.rabbitmq_url,
        task_queues=[Queue(name="taskiq_ml")],
        dead_letter_queue=Queue(name="taskiq_ml.dead_letter"),
    ).with_result_backend(
        RedisAsyncResultBackend(settings.redis_url.get_secret_value(), serializer=JSONSerializer())
    )
    await broker.startup()
    yield broker
    await broker.shutdown()


async def test_a_stock_taskiq_producer_is_served(stock):
    task = await AsyncKicker("ml_inference", stock, {}).kiq("double", {"x": ROWS})
    result = await task.wait_result(timeout=20)
    assert not result.is_err
    assert result.return_value == {
        "model_name": "double",
        "model_version": "1",
        "outputs": {"y": [[2.0, 4.0, 6.0, 8.0]]},
    }


async def test_a_stock_taskiq_producer_gets_the_error(stock):
    task = await AsyncKicker("ml_inference", stock, {}).kiq("double", {"z": ROWS})
    result = await task.wait_result(timeout=20)
    assert result.is_err
    assert type(result.error).__name__ == "SurplusInputError"
    assert "no input 'z'" in str(result.error)


async def publish(settings, body, headers=None):
    connection = await aio_pika.connect(settings.rabbitmq_url)
    async with connection:
        exchange = await (await connection.channel()).get_exchange("taskiq")
        await exchange.publish(
            aio_pika.Message(json.dumps(body).encode(), headers=headers), routing_key="taskiq_ml"
        )


async def read(settings, task_id):
    async with redis.asyncio.from_url(settings.redis_url.get_secret_value()) as store:
        async with asyncio.timeout(20):
            while (value := await store.get(task_id)) is None:
                await asyncio.sleep(0.01)
        assert 0 < await store.ttl(task_id) <= settings.bridge_result_ttl_s
    return json.loads(value)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (ROWS, [[2.0, 4.0, 6.0, 8.0]]),
        (
            {"datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]},
            {"datatype": "FP32", "shape": [1, 4], "data": [2.0, 4.0, 6.0, 8.0]},
        ),
        (
            {"datatype": "FP32", "shape": [1, 4], "raw": "AACAPwAAAEAAAEBAAACAQA=="},
            {"datatype": "FP32", "shape": [1, 4], "raw": "AAAAQAAAgEAAAMBAAAAAQQ=="},
        ),
    ],
    ids=["lists", "data", "base64"],
)
async def test_the_json_of_any_amqp_client_is_served(settings, worker, sent, expected):
    task_id = str(uuid.uuid4())
    body = {
        "task_id": task_id,
        "task_name": "ml_inference",
        "labels": {},
        "args": ["double", {"x": sent}],
        "kwargs": {},
    }
    await publish(settings, body)
    result = await read(settings, task_id)
    assert result["is_err"] is False
    assert result["return_value"]["outputs"] == {"y": expected}


async def test_keyword_arguments_and_labels_do(settings, worker):
    task_id = uuid.uuid4().hex
    body = {
        "task_id": task_id,
        "task_name": "ml_inference",
        "labels": {"trace": "abc"},
        "labels_types": None,
        "args": [],
        "kwargs": {"model_id": "double", "input_data": {"x": ROWS}, "version": "1"},
    }
    await publish(settings, body, headers={"task_name": "ml_inference"})
    result = await read(settings, task_id)
    assert result["return_value"]["outputs"] == {"y": [[2.0, 4.0, 6.0, 8.0]]}
    assert result["labels"]["trace"] == "abc"


async def test_an_error_is_named_for_clients_without_python(settings, worker):
    task_id = uuid.uuid4().hex
    body = {
        "task_id": task_id,
        "task_name": "ml_inference",
        "labels": {},
        "args": ["double", {"x": [[1, 2]]}],
        "kwargs": {},
    }
    await publish(settings, body)
    result = await read(settings, task_id)
    assert result["is_err"] is True
    assert result["error"]["exc_type"] == "ShapeError"
    assert "takes shape [-1, 4], got [1, 2]" in result["error"]["exc_message"][0]


async def next_training(settings):
    """Take the next message of the training queue, within less than a worker tries to send it."""
    connection = await aio_pika.connect(settings.rabbitmq_url)
    async with connection:
        queue = await (await connection.channel()).get_queue("taskiq_ml_training")
        async with asyncio.timeout(20):
            while (message := await queue.get(fail=False)) is None:
                await asyncio.sleep(0.05)
        await message.ack()
    return message


async def test_train_model_on_the_inference_queue_is_handed_on_whole(settings, worker):
    task_id = uuid.uuid4().hex
    args = ["digits", {"architecture": "cnn"}, {"epochs": 1}]
    body = {
        "task_id": task_id,
        "task_name": "train_model",
        "labels": {"trace": "abc", "priority": "3"},
        "labels_types": {"priority": 2},
        "args": args,
        "kwargs": {},
    }
    await publish(settings, body)
    message = await next_training(settings)
    handed = json.loads(message.body)
    assert handed["task_id"] == task_id
    assert handed["task_name"] == "train_model"
    assert handed["args"] == args
    assert handed["labels"]["trace"] == "abc"
    assert int(handed["labels"]["priority"]) == 3
    assert message.headers["trace"] == "abc"


@pytest.mark.parametrize(
    ("label", "kind"),
    [("nan", 4), ("-inf", 4), (base64.b64encode(b"[1, 2]").decode(), 6), ("True", 5)],
    ids=["not a number", "infinity", "bytes, as taskiq-pipelines sends them", "truth"],
)
async def test_labels_of_every_type_are_handed_on_as_they_came(settings, worker, label, kind):
    """RabbitMQ ends the connection of whoever writes NaN: all that was to be sent waited."""
    body = {
        "task_id": uuid.uuid4().hex,
        "task_name": "train_model",
        "labels": {"of its own": label},
        "labels_types": {"of its own": kind},
        "args": [],
        "kwargs": {},
    }
    await publish(settings, body)
    message = await next_training(settings)
    handed = json.loads(message.body)
    assert handed | {"labels": {"of its own": str(handed["labels"]["of its own"])}} == body
