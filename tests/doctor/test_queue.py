"""What the doctor finds on real RabbitMQs."""

import asyncio

import aio_pika
import httpx
import pytest

from bridge.embedded.ports import free_ports
from bridge.queues import build_broker


async def publish(settings, queue):
    connection = await aio_pika.connect(settings.rabbitmq_url)
    async with connection:
        channel = await connection.channel()
        await channel.default_exchange.publish(aio_pika.Message(b"{}"), routing_key=queue)


@pytest.fixture
def declared(settings_of, plain):
    """Settings, after a worker has declared all that it needs."""

    async def make(**variables):
        settings = settings_of(plain, **variables)
        for kind in ("inference", "training"):
            broker = build_broker(settings, kind)
            await broker.startup()
            await broker.shutdown()
        return settings

    return make


async def test_a_server_that_lets_us_in_without_its_management(found, settings_of, plain):
    closed = free_ports(1)[0]
    settings = settings_of(plain, RABBITMQ_MANAGEMENT_URL=f"http://127.0.0.1:{closed}")
    codes = await found(settings, "rabbitmq", "timeout")
    assert set(codes) == {"ok", "management-absent", "consumer-timeout-unknown"}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"RABBITMQ_PASSWORD": "hidden-wrong"}, "check RABBITMQ_USERNAME, RABBITMQ_PASSWORD"),
        ({"RABBITMQ_VHOST": "nowhere"}, "check RABBITMQ_VHOST"),
        ({"RABBITMQ_PORT": free_ports(1)[0]}, "check RABBITMQ_HOST, RABBITMQ_PORT"),
    ],
    ids=["password", "vhost", "port"],
)
async def test_a_server_that_cannot_be_used(found, settings_of, plain, wrong, told):
    codes = await found(settings_of(plain, **wrong), "rabbitmq", "queues")
    assert set(codes) == {"rabbitmq-unreachable", "not-checked"}
    [error] = codes["rabbitmq-unreachable"]
    assert told in error.what
    assert "hidden-" not in error.what


async def test_queues_that_nobody_has_declared(found, settings_of, plain):
    settings = settings_of(plain)
    codes = await found(settings, "queues")
    assert set(codes) == {"queue-missing"}
    assert len(codes["queue-missing"]) == 5
    assert await found(settings, "queues") == codes  # looking has made none


async def test_queues_as_ours(found, declared):
    codes = await found(await declared(), "queues")
    assert set(codes) == {"ok"}
    assert len(codes["ok"]) == 5


async def test_a_queue_and_an_exchange_of_other_types(found, settings_of, plain):
    settings = settings_of(plain)
    connection = await aio_pika.connect(settings.rabbitmq_url)
    async with connection:
        channel = await connection.channel()
        await channel.declare_queue(settings.taskiq_ml_queue, durable=True)
        await channel.declare_exchange(settings.taskiq_ml_exchange, "direct", durable=True)
    codes = await found(settings, "queues")
    [queue] = codes["queue-differs"]
    assert settings.taskiq_ml_queue in queue.what
    assert "x-queue-type" in queue.what or "x-dead-letter" in queue.what
    [exchange] = codes["exchange-differs"]
    assert "received 'topic' but current is 'direct'" in exchange.what
    ours = settings.model_copy(
        update={"taskiq_ml_queue_type": "classic", "taskiq_ml_exchange_type": "direct"}
    )
    assert "exchange-differs" not in await found(ours, "queues")


async def test_messages_that_nobody_takes_and_dead_letters(found, declared):
    settings = await declared()
    await publish(settings, settings.taskiq_ml_queue)
    await publish(settings, f"{settings.taskiq_ml_queue}.dead_letter")
    codes = await found(settings, "queues")
    assert codes["queue-unserved"][0].what == f"1 wait in {settings.taskiq_ml_queue}"
    assert codes["dead-letters"][0].what == f"1 in {settings.taskiq_ml_queue}.dead_letter"


async def test_redis_streams(found, settings_of, redis_server):
    settings = settings_of(BRIDGE_QUEUE="redis-streams", REDIS_URL=redis_server.url)
    assert set(await found(settings, "rabbitmq", "queues", "timeout")) == {
        "ok",
        "queue-is-redis-streams",
    }


async def test_few_descriptors_and_an_alarm(found, settings_of, managed, managed_rabbitmq):
    settings = settings_of(managed)
    codes = await found(settings, "rabbitmq")
    assert set(codes) == {"ok", "rabbitmq-descriptors"}
    managed_rabbitmq.control("set_disk_free_limit", str(10**15))
    try:
        async with asyncio.timeout(90):  # the API looks every five seconds
            while "rabbitmq-alarm" not in (codes := await found(settings, "rabbitmq")):
                await asyncio.sleep(0.2)
    finally:
        managed_rabbitmq.control("set_disk_free_limit", str(10**6))
    assert codes["rabbitmq-alarm"][0].what.endswith("is short of disk")


@pytest.mark.parametrize(
    ("longest_s", "code"),
    [(60, "consumer-timeout-short"), (40, "consumer-timeout-near"), (20, "ok")],
)
async def test_the_time_that_a_delivery_may_take(found, settings_of, managed, longest_s, code):
    """RabbitMQ's own configuration file says one minute."""
    longest = dict.fromkeys(("BRIDGE_TRAINING_SLICE_S", "BRIDGE_INFER_TIMEOUT_S"), longest_s)
    codes = await found(settings_of(managed, longest), "timeout")
    assert set(codes) == {code}
    assert all(each.what.startswith("60 s for ") for each in codes[code])


async def test_a_user_who_may_not_declare_nor_see_the_management(found, settings_of, managed):
    settings = settings_of(managed)
    boss = (settings.rabbitmq_username, settings.rabbitmq_password.get_secret_value())
    async with httpx.AsyncClient(base_url=settings.management_url, auth=boss, timeout=30) as http:
        user = {"password": "only-looks", "tags": ""}
        (await http.put("/api/users/looker", json=user)).raise_for_status()
        rights = {"configure": "^$", "write": "^$", "read": ".*"}
        (await http.put("/api/permissions/%2F/looker", json=rights)).raise_for_status()
    broker = build_broker(settings, "inference")
    await broker.startup()
    await broker.shutdown()
    looker = settings.model_copy(update={"rabbitmq_username": "looker"})
    looker = looker.model_copy(update={"rabbitmq_password": type(looker.redis_url)("only-looks")})
    codes = await found(looker, "rabbitmq", "queues")
    assert "refuses the user (401)" in codes["management-absent"][0].what
    assert len(codes["queue-not-comparable"]) == 3
