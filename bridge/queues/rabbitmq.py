"""The queue on RabbitMQ, through taskiq-aio-pika.

What is declared is exactly what a stock `AioPikaBroker` declares for the same names, so that
either side may come first.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import aio_pika
import aiormq.exceptions
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.connection import make_url
from aiormq.abc import DeliveredMessage
from taskiq import AckableMessage, BrokerMessage
from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.exceptions import BaseAioPikaBrokerError
from taskiq_aio_pika.exchange import Exchange
from taskiq_aio_pika.queue import Queue, QueueType

from bridge.errors import BridgeError, QueueError
from bridge.intake import Intake
from bridge.messages import Formatter
from bridge.queues.acks import Acknowledger
from bridge.queues.consumer import Consumer
from bridge.queues.trouble import rabbitmq_trouble
from bridge.results import RedisResults
from bridge.settings import Settings

logger = logging.getLogger("bridge.queues")

_CONNECT_S = 10.0
_PUBLISH_S = 30.0


async def connect(url: str) -> AbstractConnection:
    """A plain connection, for a question; close it. One that fails is closed here.

    Raises:
        OSError, AMQPError: as aio-pika's own `connect`, which leaves a failed one to the
            collector, with a coroutine that nobody awaits.
    """
    connection = aio_pika.Connection(make_url(url))
    try:
        await connection.connect(timeout=_CONNECT_S)
    except BaseException:
        await connection.close()
        raise
    return connection


class _AmqpDelivery:
    """One message of RabbitMQ's."""

    __slots__ = ("_acknowledger", "_broker", "_message", "body", "redelivered")

    def __init__(
        self,
        message: DeliveredMessage,
        broker: "RabbitMQBroker",
        acknowledger: Acknowledger,
    ) -> None:
        self.body: bytes = message.body
        self.redelivered = bool(message.redelivered)
        self._message = message
        self._broker = broker
        self._acknowledger = acknowledger

    async def ack(self) -> None:
        """Acknowledge with one of the next frames."""
        if self._message.delivery_tag is not None:
            self._acknowledger.done(self._message.delivery_tag)

    async def dead_letter(self, reason: BridgeError) -> None:
        """Publish a copy to the dead-letter queue, wait for its confirmation, acknowledge."""
        await self._broker.dead_letter(self._message, reason)
        await self.ack()


class RabbitMQBroker(AioPikaBroker):
    """taskiq's RabbitMQ broker that lives with what it finds.

    An exchange or queue that already exists with another type or other arguments is used as it
    is, with a warning that names both and the remedy.
    """

    def __init__(self, settings: Settings, queue: str, routing_key: str, prefetch: int) -> None:
        self._acknowledger: Acknowledger | None = None
        self._handed_on: asyncio.Queue[AckableMessage] = asyncio.Queue()
        self._drain_timeout_s = settings.bridge_drain_timeout_s
        self._where = settings.rabbitmq_shown
        results = RedisResults(settings)
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
            reconnect_interval=1,  # aio-pika's own default of 5 s is long for a caller
        )
        self.result_backend = results
        self.formatter = Formatter()
        self.intake = Intake(self, results)

    async def kick(self, message: BrokerMessage) -> None:
        """Publish, and wait for RabbitMQ's confirmation; a restart of RabbitMQ is waited out.

        A confirmation that was lost with the connection makes a second message of the same id:
        the task may run twice, its result is one.

        Raises:
            QueueError: RabbitMQ did not confirm within 30 seconds, has no queue for it, or refuses
                the user.
        """
        deadline = time.monotonic() + _PUBLISH_S
        pause_s = 0.1
        while True:
            try:
                await super().kick(message)
            except aiormq.exceptions.DeliveryError as error:
                raise QueueError(
                    f"RabbitMQ at {self._where} has no queue for the task, or the queue refuses it "
                    f"({type(error).__name__}): is it bound to {self._exchange.name!r}?"
                ) from None
            except aiormq.exceptions.ChannelAccessRefused as error:
                raise rabbitmq_trouble(error, self._where) from None
            except (aiormq.exceptions.AMQPError, OSError, RuntimeError) as error:
                if time.monotonic() + pause_s > deadline:
                    raise QueueError(
                        f"RabbitMQ at {self._where} did not take the task within {_PUBLISH_S:g} s "
                        f"({type(error).__name__}): is it up?"
                    ) from None
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 1.0)
            else:
                return

    async def listen(self) -> AsyncGenerator[AckableMessage, None]:
        """Consume: the intake deals with each delivery, taskiq's receiver gets what is left.

        Yields:
            Messages of tasks that have no shortcut.
        """
        if self.read_channel is None:
            raise QueueError("start the broker before listening")
        await self.read_channel.set_qos(prefetch_count=self._qos)
        consumer = Consumer(self.read_channel, self._task_queues[0], self._declare, self._receive)
        consuming = asyncio.create_task(consumer.run())
        try:
            while True:
                yield await self._handed_on.get()
        finally:
            consuming.cancel()
            await asyncio.gather(consuming, return_exceptions=True)
            await consumer.cancel()
            left = await self.intake.drain(self._drain_timeout_s)
            if left:
                logger.warning("%d tasks did not end in time; they will be delivered again", left)
            if self._acknowledger is not None:
                await self._acknowledger.flush()

    async def _declare(self) -> None:
        if self.read_channel is not None:
            await self._declare_queues(self.read_channel)

    async def _receive(self, message: DeliveredMessage) -> None:
        """Deal with one delivery; runs as a task of its own."""
        channel = message.channel
        if self._acknowledger is None or self._acknowledger.channel is not channel:
            # The first delivery, or the first after a reconnection.
            self._acknowledger = Acknowledger(channel, together=max(1, self._qos // 4))
        if message.delivery_tag is not None:
            self._acknowledger.delivered(message.delivery_tag)
        delivery = _AmqpDelivery(message, self, self._acknowledger)
        if not await self.intake.take(delivery):
            self._handed_on.put_nowait(AckableMessage(data=delivery.body, ack=delivery.ack))

    async def dead_letter(self, message: DeliveredMessage, reason: BridgeError) -> None:
        """Publish a copy with the reason in its headers, confirmed, to the dead-letter queue."""
        if self.write_channel is None:
            raise QueueError("start the broker before dead-lettering")
        properties = message.header.properties
        headers = dict(properties.headers or {})
        delivered_before = headers.get("x-delivery-count")
        headers |= {
            "x-bridge-reason": str(reason)[:1000],
            "x-bridge-error": type(reason).__name__,
            "x-bridge-queue": self._task_queues[0].name,
            "x-bridge-time": datetime.now(UTC),
            "x-bridge-attempts": delivered_before + 1 if isinstance(delivered_before, int) else 1,
        }
        await self.write_channel.default_exchange.publish(
            aio_pika.Message(
                message.body,
                headers=headers,
                content_type=properties.content_type,
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            ),
            routing_key=self._dead_letter_queue.name,
        )

    async def startup(self) -> None:
        """Connect, and declare what is not there.

        Raises:
            QueueError: RabbitMQ cannot be reached, or refuses the user or the virtual host.
        """
        try:
            await self._agree_on_topology()
            await super().startup()
        except (OSError, aiormq.exceptions.AMQPError, BaseAioPikaBrokerError) as error:
            raise rabbitmq_trouble(error, self._where) from None

    async def _agree_on_topology(self) -> None:
        """Find what exists otherwise than we would declare it, and leave that alone."""
        connection = await connect(str(self.url))
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
                # A producer's user need not have the right: what a worker bound stays bound.
                with contextlib.suppress(aiormq.exceptions.ChannelAccessRefused):
                    await found.bind(self._exchange.name, queue.routing_key)

    async def _declared(
        self,
        connection: AbstractConnection,
        declare: Callable[[AbstractChannel], Awaitable[Any]],
        what: str,
    ) -> bool:
        # A refused declaration closes its channel: each has one of its own.
        try:
            await declare(await connection.channel())
        except aiormq.exceptions.ChannelAccessRefused as refusal:
            logger.info("may not declare the %s, which is used as it is: %s", what, refusal)
            return False
        except aiormq.exceptions.ChannelPreconditionFailed as refusal:
            logger.warning(
                "RabbitMQ has another %s than this would declare, and it is used as it is (%s). To "
                "get ours, drain and delete it; to keep it without this warning, set "
                "TASKIQ_ML_EXCHANGE_TYPE or TASKIQ_ML_QUEUE_TYPE to what it is.",
                what,
                refusal,
            )
            return False
        return True

    async def _declare_exchange(self, channel: AbstractChannel) -> None:
        await channel.declare_exchange(
            self._exchange.name, self._exchange.type, durable=self._exchange.durable
        )

    async def _declare_letters(self, channel: AbstractChannel) -> None:
        await self._declare_dead_letter_queue(channel)

    async def _declare_tasks(self, channel: AbstractChannel) -> None:
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
