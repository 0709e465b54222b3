"""The queues: the only file that builds them.

Enters: settings. Leaves: taskiq brokers, one for each queue, as taskiq's several queues on one
broker lose messages that carry no queue label. What is declared is exactly what a stock
`AioPikaBroker` declares for the same names, so that either side may come first.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import aio_pika
import aiormq.exceptions
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from taskiq import AsyncBroker
from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.exchange import Exchange
from taskiq_aio_pika.queue import Queue, QueueType
from taskiq_redis import RedisStreamBroker

from bridge.errors import QueueError
from bridge.messages import Formatter
from bridge.results import RedisResults
from bridge.settings import Settings

Kind = Literal["inference", "training"]

logger = logging.getLogger("bridge.queues")

_CONNECT_S = 10.0
# A training task runs for long and must wait where another worker can take it.
_TRAINING_PREFETCH = 1
_STREAM_IDLE_MS = {"inference": 60_000, "training": 24 * 3_600_000}
_Refusal = (
    aiormq.exceptions.ChannelPreconditionFailed,
    aiormq.exceptions.ChannelAccessRefused,
)


class RabbitMQBroker(AioPikaBroker):
    """taskiq's RabbitMQ broker that lives with what it finds.

    An exchange or queue that already exists with another type or other arguments is used as it
    is, with a warning that names both and the remedy.
    """

    def __init__(self, settings: Settings, queue: str, routing_key: str, prefetch: int) -> None:
        self._where = settings.rabbitmq_shown
        kind = QueueType(settings.taskiq_ml_queue_type)
        super().__init__(
            url=settings.rabbitmq_url,
            qos=prefetch,
            exchange=Exchange(
                name=settings.taskiq_ml_exchange,
                type=aio_pika.ExchangeType(settings.taskiq_ml_exchange_type),
            ),
            task_queues=[Queue(name=queue, type=kind, routing_key=routing_key)],
            dead_letter_queue=Queue(name=f"{queue}.dead_letter", type=kind),
        )

    async def startup(self) -> None:
        """Connect, and declare what is not there.

        Raises:
            QueueError: RabbitMQ cannot be reached, or refuses the user or the virtual host.
        """
        try:
            await self._agree_on_topology()
            await super().startup()
        except aiormq.exceptions.ProbableAuthenticationError:
            raise QueueError(
                f"RabbitMQ at {self._where} refuses the user: check RABBITMQ_USERNAME, "
                "RABBITMQ_PASSWORD and the user's rights on RABBITMQ_VHOST"
            ) from None
        except (OSError, aiormq.exceptions.AMQPError) as error:
            raise QueueError(
                f"cannot use RabbitMQ at {self._where} ({type(error).__name__}: {error}); check "
                "RABBITMQ_HOST, RABBITMQ_PORT and RABBITMQ_VHOST"
            ) from None

    async def _agree_on_topology(self) -> None:
        """Find what exists otherwise than we would declare it, and leave that alone."""
        connection = await aio_pika.connect(self.url, timeout=_CONNECT_S)
        async with connection:
            if not await self._declared(connection, self._declare_exchange, "exchange"):
                self._exchange = replace(self._exchange, declare=False)
            if not await self._declared(connection, self._declare_letters, "queue"):
                self._dead_letter_queue = replace(self._dead_letter_queue, declare=False)
            if not await self._declared(connection, self._declare_tasks, "queue"):
                queue = self._task_queues[0]
                self._task_queues = [replace(queue, declare=False)]
                channel = await connection.channel()
                found = await channel.get_queue(queue.name)
                await found.bind(self._exchange.name, queue.routing_key)

    async def _declared(
        self,
        connection: aio_pika.abc.AbstractConnection,
        declare: Callable[[aio_pika.abc.AbstractChannel], Awaitable[Any]],
        what: str,
    ) -> bool:
        # A refused declaration closes its channel: each has one of its own.
        try:
            await declare(await connection.channel())
        except _Refusal as refusal:
            logger.warning(
                "RabbitMQ has another %s than this would declare, and it is used as it is (%s). To "
                "get ours, drain and delete it; to keep it without this warning, set "
                "TASKIQ_ML_EXCHANGE_TYPE or TASKIQ_ML_QUEUE_TYPE to what it is.",
                what,
                refusal,
            )
            return False
        return True

    async def _declare_exchange(self, channel: aio_pika.abc.AbstractChannel) -> None:
        await channel.declare_exchange(
            self._exchange.name, self._exchange.type, durable=self._exchange.durable
        )

    async def _declare_letters(self, channel: aio_pika.abc.AbstractChannel) -> None:
        await self._declare_dead_letter_queue(channel)

    async def _declare_tasks(self, channel: aio_pika.abc.AbstractChannel) -> None:
        queue, letters = self._task_queues[0], self._dead_letter_queue
        await channel.declare_queue(
            queue.name,
            durable=queue.durable,
            arguments={
                "x-queue-type": queue.type.value,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": letters.name,
            },
        )


class StreamBroker(RedisStreamBroker):
    """taskiq's Redis Streams broker, for the embedded runtime without RabbitMQ.

    Differs from stock in three ways: a task sent before the first worker came is not skipped, an
    acknowledged entry is deleted (the stream would grow for ever), and a crashed worker's lock
    on the pending entries ends by itself.
    """

    def __init__(self, settings: Settings, queue: str, kind: Kind) -> None:
        super().__init__(
            url=settings.redis_url.get_secret_value(),
            queue_name=queue,
            consumer_id="0",
            xread_block=500,  # milliseconds; also how long a stop may wait
            xread_count=_TRAINING_PREFETCH if kind == "training" else settings.bridge_prefetch,
            idle_timeout=_STREAM_IDLE_MS[kind],
            unacknowledged_lock_timeout=30.0,
        )

    def _ack_generator(self, id: str, queue_name: str) -> Callable[[], Awaitable[None]]:  # noqa: A002 - taskiq's name
        async def acknowledge() -> None:
            async with (
                Redis(connection_pool=self.connection_pool) as redis,
                redis.pipeline(transaction=True) as pipe,
            ):
                pipe.xack(queue_name, self.consumer_group_name, id)
                pipe.xdel(queue_name, id)
                await pipe.execute()

        return acknowledge


def build_broker(settings: Settings, kind: Kind) -> AsyncBroker:
    """A broker for one of the two queues, with our message format and result store.

    Args:
        settings: where queue and results are.
        kind: which queue.
    """
    if kind == "inference":
        queue, routing_key = settings.taskiq_ml_queue, settings.taskiq_ml_routing_key
        prefetch = settings.bridge_prefetch
    else:
        queue = settings.taskiq_ml_training_queue
        routing_key = settings.taskiq_ml_training_routing_key
        prefetch = _TRAINING_PREFETCH
    broker: AsyncBroker = (
        RabbitMQBroker(settings, queue, routing_key, prefetch)
        if settings.bridge_queue == "rabbitmq"
        else StreamBroker(settings, queue, kind)
    )
    return broker.with_result_backend(RedisResults(settings)).with_formatter(Formatter())


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """One queue as it stands: waiting messages and consumers; None: it does not exist yet."""

    name: str
    messages: int | None
    consumers: int | None


async def queue_depths(settings: Settings) -> list[QueueDepth]:
    """How much waits in each queue and its dead letters, and who consumes.

    Raises:
        QueueError: RabbitMQ, or Redis where it is the queue, cannot be reached.
    """
    names = [
        name
        for queue in (settings.taskiq_ml_queue, settings.taskiq_ml_training_queue)
        for name in (queue, f"{queue}.dead_letter")
    ]
    if settings.bridge_queue == "redis-streams":
        return await _stream_depths(settings, names)
    depths = []
    try:
        connection = await aio_pika.connect(settings.rabbitmq_url, timeout=_CONNECT_S)
    except (OSError, aiormq.exceptions.AMQPError) as error:
        raise QueueError(
            f"cannot use RabbitMQ at {settings.rabbitmq_shown} ({type(error).__name__}: {error})"
        ) from None
    async with connection:
        for name in names:
            channel = await connection.channel()
            try:
                found = (await channel.get_queue(name)).declaration_result
                depths.append(QueueDepth(name, found.message_count, found.consumer_count))
            except aiormq.exceptions.ChannelNotFoundEntity:
                depths.append(QueueDepth(name, None, None))
    return depths


async def _stream_depths(settings: Settings, names: list[str]) -> list[QueueDepth]:
    depths = []
    async with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        for name in names:
            try:
                groups = await redis.xinfo_groups(name)
            except ResponseError:  # no such stream
                depths.append(QueueDepth(name, None, None))
            except RedisError as error:
                raise QueueError(f"cannot use Redis at {settings.redis_shown}: {error}") from None
            else:
                consumers = sum(int(group["consumers"]) for group in groups)
                depths.append(QueueDepth(name, await redis.xlen(name), consumers))
    return depths
