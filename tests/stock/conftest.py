"""Two brokers, stock and ours, on queues that only one test uses; and workers for them."""

import asyncio
import json
from contextlib import asynccontextmanager

import aio_pika
import pytest
from redis.asyncio import Redis
from taskiq import TaskiqMessage
from taskiq.receiver import Receiver
from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.exchange import Exchange
from taskiq_aio_pika.queue import Queue
from taskiq_redis import RedisAsyncResultBackend

from bridge.deliveries import Turn
from bridge.embedded.rabbitmq import RabbitMQServer
from bridge.messages import decode_result
from bridge.queues import build_broker, queue_depths
from bridge.settings import Settings

_TIMEOUT_MS = 1000


class Impatient(RabbitMQServer):
    """Takes a delivery away after a second, where others wait for half an hour."""

    def _environment(self):
        variables = super()._environment()
        erlang = variables["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"]
        erlang += " -rabbit channel_tick_interval 500"  # how often it looks, in ms
        return {**variables, "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": erlang}


class Rig:
    """One test's queues on one RabbitMQ."""

    def __init__(self, name, rabbitmq, redis_url):
        self.own = Settings(
            rabbitmq_host="127.0.0.1",
            rabbitmq_port=rabbitmq.port,
            rabbitmq_username=rabbitmq.username,
            rabbitmq_password=rabbitmq.password,
            redis_url=redis_url,
            taskiq_ml_exchange=f"{name}_x",
            taskiq_ml_queue=name,
            taskiq_ml_routing_key=name,
            taskiq_ml_training_queue=f"{name}_t",
            taskiq_ml_training_routing_key=f"{name}_t",
            bridge_drain_timeout_s=1.0,
        )

    def broker(self, kind, *middlewares, pool="inference", queues=(), **stock):
        """A broker of a kind; `queues` and what follows it are stock's."""
        own = self.own
        if kind == "ours":
            broker = build_broker(own, pool)
        else:
            name = own.taskiq_ml_queue if pool == "inference" else own.taskiq_ml_training_queue
            broker = AioPikaBroker(
                own.rabbitmq_url,
                exchange=Exchange(name=own.taskiq_ml_exchange),
                task_queues=[Queue(name=it) for it in queues or (name,)],
                dead_letter_queue=Queue(name=f"{name}.dead_letter"),
                **stock,
            ).with_result_backend(RedisAsyncResultBackend(own.redis_url.get_secret_value()))
        broker.add_middlewares(*middlewares)
        return broker

    def add_shout(self, kind, broker):
        """A task, which ours runs in its intake."""

        @broker.task("shout")
        async def shout(text: str) -> str:
            return text.upper()

        async def shortcut(message: TaskiqMessage, _turn: Turn) -> str:
            return await shout.original_func(*message.args)

        if kind == "ours":
            broker.intake.shortcuts["shout"] = shortcut
        return broker

    async def declared(self, *brokers):
        """Let queues be there before anybody listens."""
        for broker in brokers:
            await broker.startup()
            await broker.shutdown()

    @asynccontextmanager
    async def serving(self, broker, **options):
        """A worker, in this process; yields what stops it."""
        broker.is_worker_process = True
        stop = asyncio.Event()
        receiver = Receiver(broker, run_startup=True, **({"wait_tasks_timeout": 1} | options))
        task = asyncio.create_task(receiver.listen(stop))
        stop.task = task
        try:
            yield stop
        finally:
            stop.set()
            await task
            await broker.shutdown()

    @staticmethod
    def task(task_id, name="shout", args=("hello",), **labels):
        """A task as JSON."""
        fields = {"task_id": task_id, "task_name": name, "labels": labels, "kwargs": {}}
        return json.dumps(fields | {"args": args}).encode()

    async def publish(self, *bodies):
        connection = await aio_pika.connect(self.own.rabbitmq_url)
        async with connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange(self.own.taskiq_ml_exchange)
            for body in bodies:
                await exchange.publish(
                    aio_pika.Message(body, delivery_mode=2),
                    routing_key=self.own.taskiq_ml_routing_key,
                )

    async def taken_from(self, queue, left=0):
        """Wait until a queue has handed out all but so many messages."""
        async with asyncio.timeout(20):
            while {it.name: it.messages for it in await queue_depths(self.own)}[queue] != left:
                await asyncio.sleep(0.05)

    async def taken(self):
        """Wait until the queue has handed everything out."""
        await self.taken_from(self.own.taskiq_ml_queue)
        await asyncio.sleep(1.0)  # and whatever is done about it is done

    async def counts(self):
        """Messages in the queue and in its dead letters, once nobody holds any."""
        await asyncio.sleep(0.2)
        depths = await queue_depths(self.own)
        return depths[0].messages, depths[1].messages

    async def arrivals(self, *queues, count):
        """Task ids as they come, with their queue."""
        connection = await aio_pika.connect(self.own.rabbitmq_url)
        async with connection, asyncio.timeout(30):
            channel = await connection.channel()
            found = []
            while len(found) < count:
                for name in queues:
                    message = await (await channel.get_queue(name)).get(fail=False, no_ack=True)
                    if message is not None:
                        found.append((json.loads(message.body)["task_id"], name))
                await asyncio.sleep(0.02)
            return found

    async def has_record(self, task_id):
        async with Redis.from_url(self.own.redis_url.get_secret_value()) as redis:
            return bool(await redis.exists(task_id))

    async def record(self, task_id):
        """What our side wrote about a task, once it is there."""
        async with (
            Redis.from_url(self.own.redis_url.get_secret_value()) as redis,
            asyncio.timeout(30),
        ):
            while (value := await redis.get(task_id)) is None:
                await asyncio.sleep(0.05)
            return decode_result(value)


@pytest.fixture
def new_rig(redis_server, request):
    """Gives a function that makes a rig on a RabbitMQ."""
    name = request.node.name.replace("[", "_").replace("]", "")[:60]

    def make(rabbitmq, redis_url=None):
        return Rig(name, rabbitmq, redis_url or redis_server.url)

    return make


@pytest.fixture
def rig(new_rig, rabbitmq):
    return new_rig(rabbitmq)


@pytest.fixture(scope="session")
async def impatient_rabbitmq(state):
    async with Impatient(state, consumer_timeout_ms=_TIMEOUT_MS) as server:
        yield server
