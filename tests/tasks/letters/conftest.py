"""`mlbridge dlq` on real dead letters of this test's own queues; no Triton is needed."""

import asyncio
import json
import os
import uuid

import aio_pika
import pytest
import redis.asyncio
from typer.testing import CliRunner

from bridge import errors
from bridge.cli.app import app
from bridge.queues import build_broker, queue_depths
from bridge.settings import Settings

ROWS = [[1.0, 2.0, 3.0, 4.0]]


def _task(name="ml_inference", args=("double", {"x": ROWS}), **changed):
    return {
        "task_id": uuid.uuid4().hex,
        "task_name": name,
        "labels": {},
        "labels_types": None,
        "args": list(args),
        "kwargs": {},
    } | changed


def _encoded(body):
    return body if isinstance(body, bytes) else json.dumps(body).encode()


async def _publish(amqp, queue, *bodies, **properties):
    for body in bodies:
        message = aio_pika.Message(_encoded(body), delivery_mode=2, **properties)
        await amqp.default_exchange.publish(message, routing_key=queue)


def _without_count(headers):
    """What a sender wrote: RabbitMQ adds its count of deliveries to each."""
    return {name: value for name, value in headers.items() if name != "x-delivery-count"}


@pytest.fixture
def task():
    """Make a task message."""
    return _task


@pytest.fixture
def encoded():
    """Its bytes."""
    return _encoded


@pytest.fixture
def publish():
    """Send messages to a queue by its name."""
    return _publish


@pytest.fixture
def without_count():
    """Headers without RabbitMQ's own count."""
    return _without_count


@pytest.fixture
def own_environment(rabbitmq, redis_server):
    """Queues that only this test uses; there is no Triton."""
    name = f"letters_{uuid.uuid4().hex[:12]}"
    names = ("TASKIQ_ML_QUEUE", "TASKIQ_ML_ROUTING_KEY")
    training = ("TASKIQ_ML_TRAINING_QUEUE", "TASKIQ_ML_TRAINING_ROUTING_KEY")
    return {
        **{k: v for k, v in os.environ.items() if k in {"PATH", "HOME", "LANG", "TMPDIR"}},
        "RABBITMQ_HOST": "127.0.0.1",
        "RABBITMQ_PORT": str(rabbitmq.port),
        "RABBITMQ_USERNAME": rabbitmq.username,
        "RABBITMQ_PASSWORD": rabbitmq.password,
        "REDIS_URL": redis_server.url,
        "TRITON_URL": "127.0.0.1:1",
        "PYTHONUNBUFFERED": "1",
        **dict.fromkeys(names, name),
        **dict.fromkeys(training, f"{name}_t"),
    }


@pytest.fixture
def own(own_environment, monkeypatch):
    for name, value in own_environment.items():
        monkeypatch.setenv(name, value)
    return Settings()


@pytest.fixture
async def store(own):
    async with redis.asyncio.from_url(own.redis_url.get_secret_value()) as store:
        yield store


@pytest.fixture
async def broker(own):
    broker = build_broker(own, "inference")
    await broker.startup()
    yield broker
    await broker.shutdown()


@pytest.fixture
async def amqp(own, broker):
    connection = await aio_pika.connect(own.rabbitmq_url)
    async with connection:
        yield await connection.channel()


@pytest.fixture
def give_up(amqp, broker, own):
    """Send messages and have the broker dead-letter them, as a worker would."""

    async def give_up(*bodies, reason, **properties):
        await _publish(amqp, own.taskiq_ml_queue, *bodies, **properties)
        channel = await amqp.get_underlay_channel()
        for _ in bodies:
            message = await channel.basic_get(own.taskiq_ml_queue)
            await broker.dead_letter(message, reason)
            await channel.basic_ack(message.delivery_tag)

    return give_up


@pytest.fixture
def mlbridge(own):
    async def mlbridge(*arguments, code=0, answer=""):
        def run():
            return CliRunner().invoke(
                app, ["dlq", *map(str, arguments)], input=answer, env={"COLUMNS": "200"}
            )

        result = await asyncio.to_thread(run)
        if isinstance(result.exception, errors.BridgeError):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return mlbridge


@pytest.fixture
def listed(mlbridge):
    async def listed(*filters):
        return json.loads((await mlbridge("list", "--json", *filters)).stdout)["letters"]

    return listed


@pytest.fixture
def depths(own):
    """Messages in the queue, and in that of its dead letters."""

    async def depths():
        queue, letters, *_ = await queue_depths(own)
        return queue.messages, letters.messages

    return depths
