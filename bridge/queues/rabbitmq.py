"""The queue on RabbitMQ, through taskiq-aio-pika.

What is declared is exactly what a stock `AioPikaBroker` declares for the same names, so that
either side may come first.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Self

import aio_pika
import aiormq.exceptions
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractRobustChannel
from aio_pika.robust_connection import RobustConnection
from aiormq.abc import DeliveredMessage
from taskiq import AckableMessage, BrokerMessage
from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.exceptions import BaseAioPikaBrokerError
from taskiq_aio_pika.exchange import Exchange
from taskiq_aio_pika.queue import Queue, QueueType

from bridge.background import end
from bridge.deliveries import Appetite
from bridge.errors import BridgeError, QueueError
from bridge.intake import Intake
from bridge.labels import DELAY, delay_of
from bridge.names import DEAD_LETTERS
from bridge.queues.acks import Acknowledger
from bridge.queues.amqp import AmqpDelivery, letter_of
from bridge.queues.consumer import Consumer
from bridge.queues.depths import ready_messages
from bridge.queues.handed_on import WatchingFormatter, hand_on
from bridge.queues.headers import bear_with_headers, copied
from bridge.queues.lost import is_lost
from bridge.queues.plain import REPLY_S
from bridge.queues.tiers import Tiers, copy_of, early
from bridge.queues.topology import CONNECT_S, find, see_to_queues
from bridge.queues.trouble import not_taken, rabbitmq_trouble
from bridge.results import RedisResults
from bridge.settings import Settings
from bridge.stopping import told_to_stop

logger = logging.getLogger("bridge.queues")

_PUBLISH_S = 30.0
_AGAIN_S = 1.0
_UNKNOWN_APPETITE = 100  # as many as taskiq runs at a time by default


class RabbitMQBroker(AioPikaBroker):
    """taskiq's RabbitMQ broker that lives with what it finds.

    An exchange or queue that already exists with another type or other arguments is used as it
    is, with a warning that names both and the remedy.
    """

    def __init__(self, settings: Settings, queue: str, routing_key: str, prefetch: int) -> None:
        bear_with_headers()
        self.appetite: Appetite | None = None
        self._prefetch = 1
        self._acknowledger: Acknowledger | None = None
        self._handed_on: asyncio.Queue[AckableMessage] = asyncio.Queue()
        self._with_taskiq = 0
        self._restored = -_AGAIN_S
        self._consumer: Consumer | None = None
        self._connections: list[RobustConnection] = []
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
            dead_letter_queue=Queue(name=f"{queue}{DEAD_LETTERS}", type=kind),
            reconnect_interval=1,  # aio-pika's own default of 5 s is long for a caller
            timeout=CONNECT_S,  # or one attempt at a server that is silent is the last
            connection_class=self._connection,
        )
        self.result_backend = self.results = results
        self.formatter = WatchingFormatter(
            settings.bridge_max_message_bytes, settings.bridge_max_read_bytes
        )
        self.intake = Intake(self, results, settings)
        self._tiers = Tiers(queue, kind)

    async def kick(self, message: BrokerMessage) -> None:
        """Publish, and wait for RabbitMQ's confirmation; a restart of RabbitMQ is waited out.

        The label `delay` has it wait for so many seconds first.

        A confirmation that was lost with the connection makes a second message of the same id:
        the task may run twice, its result is one. A task that was not confirmed in time may run.

        Raises:
            InvalidLabelError: `delay` is no number of seconds.
            QueueError: RabbitMQ did not confirm within 30 seconds, has no queue for it, a full one,
                or refuses the user.
        """
        # taskiq-aio-pika makes headers of all labels, a stranger's where a task is handed on.
        message = message.model_copy(update={"labels": copied(message.labels)})
        delay_s = delay_of(message.labels)
        begin_at = time.time() + delay_s if delay_s else None
        message.labels.pop(DELAY, None)  # ours to see to; of none at all taskiq makes an error
        lost: BaseException = TimeoutError()
        pause_s = 0.1
        try:
            # Around all of it: short of memory, RabbitMQ takes a message and says nothing.
            async with asyncio.timeout(_PUBLISH_S):
                while (failure := await self._publish(message, begin_at)) is not None:
                    lost = failure
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, 1.0)
        except TimeoutError:
            raise QueueError(
                f"RabbitMQ at {self._where} did not take the task within {_PUBLISH_S:g} s "
                f"({type(lost).__name__}): is it up, and not out of memory or disk?"
            ) from None

    async def _publish(
        self, message: BrokerMessage, begin_at: float | None
    ) -> BaseException | None:
        """Publish once; an error says that the connection was lost, or the channel."""
        try:
            if begin_at is None:
                await self._writing()
                await super().kick(message)
            else:
                names = {"task_id": message.task_id, "task_name": message.task_name}
                delayed = aio_pika.Message(message.message, headers=names | message.labels)
                await self._hold(delayed, begin_at)
        except aiormq.exceptions.DeliveryError as error:
            raise not_taken(error, self._where, self._exchange.name) from None
        except aiormq.exceptions.ChannelAccessRefused as error:
            raise rabbitmq_trouble(error, self._where) from None
        except (Exception, asyncio.CancelledError) as error:
            if not is_lost(error):
                raise
            return error
        return None

    async def _hold(self, message: aio_pika.Message, begin_at: float) -> None:
        connection, channel = await self._writing()
        await self._tiers.hold(connection, channel.default_exchange, message, begin_at)

    async def _writing(self) -> tuple[AbstractConnection, AbstractChannel]:
        """What to publish on. A closed channel is opened again: aio-pika tries that once only."""
        connection, channel = self.write_conn, self.write_channel
        if connection is None or channel is None:
            raise QueueError("not connected to RabbitMQ: not started yet, or shut down")
        now = time.monotonic()
        if (
            channel.is_closed
            and isinstance(channel, AbstractRobustChannel)
            and now > self._restored + _AGAIN_S  # not once for each of many who send
        ):
            self._restored = now
            async with asyncio.timeout(REPLY_S):
                await channel.restore()
        return connection, channel

    def with_queue(self, queue: Queue) -> Self:
        """Refuse.

        Raises:
            QueueError: of several queues on one broker taskiq loses messages without a label.
        """
        raise QueueError(
            f"a broker of the bridge serves one queue: build another for {queue.name!r}, with "
            "TASKIQ_ML_QUEUE and TASKIQ_ML_ROUTING_KEY of its own"
        )

    def with_queues(self, *queues: Queue) -> Self:
        """Refuse, as `with_queue`."""
        return self.with_queue(queues[0] if queues else self._task_queues[0])

    async def listen(self) -> AsyncGenerator[AckableMessage, None]:
        """Consume: the intake deals with each delivery, taskiq's receiver gets what is left.

        Yields:
            Messages of tasks that have no shortcut.
        """
        if not isinstance(self.read_channel, AbstractRobustChannel):
            raise QueueError("start the broker before listening")
        self.intake.start()
        consumer = self._consumer = Consumer(
            self.read_channel,
            self._task_queues[0],
            prefetch=self._wanted,
            room=self._room,
            declare=self._declare,
            receive=self._receive,
        )
        consuming = asyncio.create_task(consumer.run())
        try:
            while True:
                yield await self._handed_on.get()
        finally:
            await end(consuming)
            await consumer.cancel()
            await self.intake.drain()
            if self._acknowledger is not None:
                await self._acknowledger.flush()

    def trouble(self) -> str | None:
        """Why no deliveries come; None: they do."""
        if self._consumer is not None and self._consumer.consuming:
            return None
        if self.appetite is not None and self.appetite() == 0:
            return "paused: nothing that waits could be served"
        return f"not consuming {self._task_queues[0].name!r} from RabbitMQ at {self._where}"

    async def waiting(self) -> dict[str, int]:
        """Messages that no worker has in hand, by queue."""
        name = self._task_queues[0].name
        found = None if self.write_conn is None else await ready_messages(self.write_conn, name)
        return {} if found is None else {name: found}

    async def _declare(self) -> None:
        if self.read_conn is not None:
            await self._see_to_queues(self.read_conn)

    async def _see_to_queues(self, connection: AbstractConnection) -> None:
        await see_to_queues(
            connection, self._exchange, self._task_queues[0], self._dead_letter_queue
        )

    def _wanted(self) -> int:
        """How many messages to have in hand now."""
        hungry = self.appetite() if self.appetite is not None else self._qos
        if hungry is None:
            hungry = _UNKNOWN_APPETITE
        elif hungry:
            hungry += self._with_taskiq
        self._prefetch = min(hungry, self._qos)
        if self._acknowledger is not None:
            self._acknowledger.together = max(1, self._prefetch // 4)
        return self._prefetch

    def _room(self) -> int:
        """How many messages may come beside those in hand: a full prefetch beside a full one."""
        in_hand = 0 if self._acknowledger is None else self._acknowledger.in_hand
        return 2 * self._qos - in_hand

    async def _receive(self, message: DeliveredMessage) -> None:
        """Deal with one delivery; runs as a task of its own."""
        channel = message.channel
        if self._acknowledger is None or self._acknowledger.channel is not channel:
            # The first delivery, or the first after a reconnection.
            self._acknowledger = Acknowledger(channel, together=max(1, self._prefetch // 4))
        if message.delivery_tag is not None:
            self._acknowledger.delivered(message.delivery_tag)
        delivery = AmqpDelivery(message, self, self._acknowledger)
        begin_at = early(message)
        if begin_at is not None:
            await self._hold_again(message, delivery, begin_at)
            return
        if await self.intake.take(delivery):
            return

        async def ack() -> None:
            self._with_taskiq -= 1
            await delivery.ack()

        self._with_taskiq += 1
        self._handed_on.put_nowait(hand_on(delivery.body, ack, self.intake.fail))

    async def _hold_again(
        self, message: DeliveredMessage, delivery: AmqpDelivery, begin_at: float
    ) -> None:
        try:
            await self._hold(copy_of(message, {}), begin_at)
            await delivery.ack()
        except (Exception, asyncio.CancelledError) as error:
            if told_to_stop(error):
                raise
            logger.exception("a message that came too early will be delivered again")
            await asyncio.sleep(_AGAIN_S)
            await delivery.hand_back()

    async def delay(
        self, message: DeliveredMessage, wait_s: float, counts: Mapping[str, int]
    ) -> None:
        """Publish a copy, confirmed, that comes back after a while, with `counts` in its headers.

        Raises:
            QueueError: RabbitMQ does not take it.
        """
        connection, channel = await self._writing()
        exchange = channel.default_exchange
        await self._tiers.publish(connection, exchange, message, wait_s=wait_s, counts=counts)

    async def dead_letter(self, message: DeliveredMessage, reason: BridgeError) -> None:
        """Publish a copy with the reason in its headers, confirmed, to the dead-letter queue.

        Raises:
            DeliveryError: RabbitMQ does not take it.
        """
        connection, channel = await self._writing()
        letter = letter_of(message, reason, self._task_queues[0].name)
        publish, name = channel.default_exchange.publish, self._dead_letter_queue.name
        try:
            await publish(letter, routing_key=name)
        except aiormq.exceptions.DeliveryError:  # somebody deleted it
            await self._see_to_queues(connection)
            await publish(letter, routing_key=name)

    async def startup(self) -> None:
        """Connect, and declare what is not there.

        Raises:
            QueueError: RabbitMQ cannot be reached, or refuses the user or the virtual host.
        """
        try:
            await self._find()
            await super().startup()
            await self._mind_returns()
        except (OSError, aiormq.exceptions.AMQPError, BaseAioPikaBrokerError) as error:
            raise rabbitmq_trouble(error, self._where) from None

    async def shutdown(self) -> None:
        """Disconnect, also where this is cut short as RabbitMQ says no goodbye."""
        try:
            await super().shutdown()
        finally:
            self.write_conn = self.write_channel = None  # or who sends would wait for its return
            while self._connections:
                await self._connections.pop().close()  # of what is closed, nothing; else 2 s

    def _connection(self, *arguments: Any, **named: Any) -> RobustConnection:
        """A new one, not connected; who is cancelled while he connects it leaves it trying."""
        connection = RobustConnection(*arguments, **named)
        self._connections.append(connection)
        return connection

    async def _mind_returns(self) -> None:
        """Make it an error that no queue takes a message, which taskiq's channel passes over."""
        channel: Any = self.write_channel  # its types leave it out
        channel.on_return_raises = True  # for those that follow when this one is closed
        (await channel.get_underlay_channel()).on_return_raises = True

    async def _find(self) -> None:
        """Leave alone what exists otherwise than we would declare it."""
        found = await find(
            str(self.url), self._exchange, self._task_queues[0], self._dead_letter_queue
        )
        self._exchange, queue, self._dead_letter_queue = found
        self._task_queues = [queue]
