"""What is declared, and what is done about what is there already."""

import logging

import aio_pika
import pytest
from taskiq.kicker import AsyncKicker
from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.exchange import Exchange
from taskiq_aio_pika.queue import Queue

from bridge import errors
from bridge.queues import build_broker, queue_depths


@pytest.fixture
def own(settings, request):
    """Settings with names that only this test uses."""
    name = request.node.name[:60].replace("[", "_").replace("]", "")
    return settings.model_copy(
        update={
            "taskiq_ml_exchange": f"{name}_x",
            "taskiq_ml_queue": name,
            "taskiq_ml_routing_key": name,
            "taskiq_ml_training_queue": f"{name}_t",
            "taskiq_ml_training_routing_key": f"{name}_t",
        }
    )


async def sent_and_waiting(own):
    """Messages in the inference queue after one task was sent through our broker."""
    broker = build_broker(own, "inference")
    await broker.startup()
    try:
        await AsyncKicker("ml_inference", broker, {}).kiq("double", {})
    finally:
        await broker.shutdown()
    return (await queue_depths(own))[0].messages


async def test_queues_are_declared_durable_and_quorum_with_their_dead_letters(own):
    assert await sent_and_waiting(own) == 1
    depths = {depth.name: depth.messages for depth in await queue_depths(own)}
    assert depths == {
        own.taskiq_ml_queue: 1,
        f"{own.taskiq_ml_queue}.dead_letter": 0,
        own.taskiq_ml_training_queue: None,
        f"{own.taskiq_ml_training_queue}.dead_letter": None,
    }


@pytest.mark.parametrize("ours_first", [True, False])
async def test_a_stock_broker_of_the_same_names_comes_first_or_second(own, ours_first, caplog):
    stock = AioPikaBroker(
        own.rabbitmq_url,
        exchange=Exchange(name=own.taskiq_ml_exchange),
        task_queues=[Queue(name=own.taskiq_ml_queue)],
        dead_letter_queue=Queue(name=f"{own.taskiq_ml_queue}.dead_letter"),
    )
    first, second = build_broker(own, "inference"), stock
    if not ours_first:
        first, second = second, first
    with caplog.at_level(logging.WARNING, "bridge"):
        await first.startup()
        await second.startup()
    await second.shutdown()
    await first.shutdown()
    assert not [record for record in caplog.records if record.name.startswith("bridge")]


@pytest.mark.parametrize("what", ["exchange", "queue", "arguments"])
async def test_what_exists_otherwise_is_used_as_it_is_with_a_warning(own, what, caplog):
    connection = await aio_pika.connect(own.rabbitmq_url)
    async with connection:
        channel = await connection.channel()
        if what == "exchange":
            await channel.declare_exchange(own.taskiq_ml_exchange, "direct", durable=True)
        elif what == "queue":
            await channel.declare_queue(own.taskiq_ml_queue, durable=True)
        else:
            arguments = {"x-queue-type": "quorum", "x-delivery-limit": 5}
            await channel.declare_queue(own.taskiq_ml_queue, durable=True, arguments=arguments)
    with caplog.at_level(logging.WARNING, "bridge"):
        assert await sent_and_waiting(own) == 1
    warning = "\n".join(record.getMessage() for record in caplog.records)
    assert "used as it is" in warning
    assert "inequivalent arg" in warning
    assert "TASKIQ_ML_EXCHANGE_TYPE" in warning


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"rabbitmq_port": 1}, "check RABBITMQ_HOST, RABBITMQ_PORT"),
        ({"rabbitmq_username": "nobody"}, "refuses the user: check RABBITMQ_USERNAME"),
        ({"rabbitmq_vhost": "nowhere"}, "RABBITMQ_VHOST"),
    ],
)
async def test_an_unreachable_rabbitmq_is_one_clear_error(settings, changed, text):
    broker = build_broker(settings.model_copy(update=changed), "inference")
    with pytest.raises(errors.QueueError, match=text) as caught:
        await broker.startup()
    assert settings.rabbitmq_password.get_secret_value() not in str(caught.value)
    await broker.shutdown()
