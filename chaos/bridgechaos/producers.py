"""Who submits: our client in msgpack, and a stock-like AMQP producer in JSON; and the load.

Leaves: entries in the ledger's book, confirmed or not. Every wait is bounded: a producer that
hangs is counted, and goes on.
"""

import asyncio
import contextlib
import random
import time
import uuid
from typing import Any, Self

import aiormq
import orjson
from aiormq.exceptions import AMQPError
from pamqp.commands import Basic

from bridge.client import BridgeClient, InferenceHandle
from bridge.errors import BridgeError
from bridge.settings import Settings
from bridge.tensors import Array
from bridgechaos.ledger import Entry, Want
from bridgechaos.models import CRASH, FAIL, FEATURES, MOODY, SLOW, STEADY, rows

SUBMIT_S = 60.0
"""How long a producer waits until it takes a submission for hung."""
_CONFIRM_S = 5.0
_CONNECT_S = 5.0
_AGAIN_S = 0.2
_HEARD_AT_A_TIME = 200
_MOST_ROWS = 4

# Of 1000 submissions; the rest are good ones.
_ODD = {Want.MODEL_ERROR: 8, Want.SHAPE: 4, Want.NO_MODEL: 4, Want.NO_TASK: 3, Want.NONSENSE: 3}
_SLOW = 2


class Book:
    """All submissions of a run."""

    def __init__(self, first_serial: int) -> None:
        """Empty.

        Args:
            first_serial: of its first row; those below belong to other runs.
        """
        self.entries: list[Entry] = []
        self.confirmed = 0
        """Of those that must have a result."""
        self._serial = first_serial

    @property
    def next_serial(self) -> int:
        """The first number that no row has yet."""
        return self._serial

    def open(self, producer: str, want: Want, row_count: int = 1) -> Entry:
        """A new entry with rows of its own."""
        serials = tuple(range(self._serial, self._serial + row_count))
        self._serial += row_count
        entry = Entry(producer, want, serials)
        self.entries.append(entry)
        return entry

    def confirm(self, entry: Entry) -> None:
        """RabbitMQ took it."""
        entry.confirmed = True
        self.confirmed += entry.want.record


def model_and_rows(entry: Entry, dice: random.Random) -> tuple[str, Array]:
    """What its message asks for."""
    if entry.want is Want.MODEL_ERROR:
        return MOODY, rows(entry.serials, FAIL)
    if entry.want is Want.CRASH:
        return MOODY, rows(entry.serials, CRASH)
    if entry.want is Want.SHAPE:
        return STEADY, rows(entry.serials)[:, : FEATURES - 1]
    if entry.want is Want.NO_MODEL:
        return "nobody", rows(entry.serials)
    if dice.random() < _SLOW / 1000:
        return MOODY, rows(entry.serials, SLOW)
    return dice.choice((STEADY, STEADY, MOODY)), rows(entry.serials)


class Mailer:
    """A stock-like producer: JSON, publisher confirms, the same message again until confirmed."""

    def __init__(self, settings: Settings, seed: int = 0) -> None:
        """Nothing is connected before the first message."""
        self._settings = settings
        self._dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._connection: Any = None
        self._channel: Any = None
        self._connecting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._drop(self._channel)

    async def send(self, entry: Entry, patience_s: float) -> bool:
        """Publish until it is confirmed; False if it was not within `patience_s` seconds.

        Its id is in the entry from the start. A message that was taken without its confirmation
        arriving is sent twice.
        """
        entry.task_id = uuid.uuid4().hex
        body = self._written(entry)
        deadline = time.monotonic() + patience_s
        while True:
            try:
                await self._publish(body)
            except (AMQPError, OSError, RuntimeError, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and _cancelling():
                    raise
                entry.why = type(error).__name__
                if time.monotonic() + _AGAIN_S > deadline:
                    return False
                await asyncio.sleep(_AGAIN_S)
            else:
                return True

    def _written(self, entry: Entry) -> bytes:
        if entry.want is Want.NONSENSE:
            return f"no task: {entry.task_id}".encode()
        model, x = model_and_rows(entry, self._dice)
        message: dict[str, Any] = {
            "task_id": entry.task_id,
            "task_name": "nobodys_task" if entry.want is Want.NO_TASK else "ml_inference",
            "labels": {},
            "labels_types": None,
            "args": [model, {"x": x.tolist()}],
            "kwargs": {},
        }
        return orjson.dumps(message)

    async def _publish(self, body: bytes) -> None:
        channel = await self._connected()
        try:
            async with asyncio.timeout(_CONFIRM_S):
                await channel.basic_publish(
                    body,
                    exchange=self._settings.taskiq_ml_exchange,
                    routing_key=self._settings.taskiq_ml_routing_key,
                    properties=Basic.Properties(content_type="application/json", delivery_mode=2),
                    mandatory=True,
                )
        except BaseException:
            await self._drop(channel)
            raise

    async def _connected(self) -> Any:
        async with self._connecting:
            if self._channel is None or self._channel.is_closed:
                await self._drop(self._channel)
                async with asyncio.timeout(_CONNECT_S):
                    self._connection = await aiormq.connect(self._settings.rabbitmq_url)
                    self._channel = await self._connection.channel(
                        publisher_confirms=True, on_return_raises=True
                    )
            return self._channel

    async def _drop(self, channel: Any) -> None:
        """Forget a connection that may be dead, unless there is a new one already."""
        if channel is not self._channel:
            return
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(AMQPError, OSError, RuntimeError, asyncio.CancelledError):
                async with asyncio.timeout(_AGAIN_S):
                    await connection.close()


def _cancelling() -> bool:
    """Whether it is we who are cancelled: aiormq cancels futures that we wait for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Listener:
    """Waits for results of our client's tasks, as its callers do."""

    def __init__(self) -> None:
        """Nobody is heard yet."""
        self._tasks: set[asyncio.Task[None]] = set()

    def hear(self, entry: Entry, handle: InferenceHandle) -> None:
        """Note how it ends, unless enough are waited for."""
        if len(self._tasks) < _HEARD_AT_A_TIME:
            task = asyncio.create_task(self._hear(entry, handle))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self, timeout_s: float) -> int:
        """Wait a little for the last ones; returns how many never heard."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        left = [task for task in self._tasks if not task.done()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return len(left)

    @staticmethod
    async def _hear(entry: Entry, handle: InferenceHandle) -> None:
        try:
            await handle.result()
        except BridgeError as error:
            entry.told = type(error).__name__
        else:
            entry.told = ""


class Load:
    """Several producers, at one pace, until so many tasks were submitted."""

    def __init__(self, book: Book, seed: int, tasks: int, per_s: float) -> None:
        """Nothing is sent before `run`.

        Args:
            book: of the run.
            seed: of what is sent.
            tasks: how many, by all together.
            per_s: how many in a second, at most.
        """
        self.listener = Listener()
        self.hung = 0
        """Submissions of our client that were not over in time."""
        self.odd: list[str] = []
        """Errors of our client that are not of the bridge's tree."""
        self._book = book
        self._seed = seed
        self._left = tasks
        self._pause_s = 1 / per_s
        self._next = 0.0

    async def run(self, clients: list[BridgeClient], mailers: list[Mailer], lanes: int) -> None:
        """Submit all.

        Args:
            clients: ours.
            mailers: stock-like ones.
            lanes: how many submissions each of them may have out.
        """
        self._next = time.monotonic()
        producers = [*((f"client-{i}", it) for i, it in enumerate(clients, 1))]
        stock = [*((f"stock-{i}", it) for i, it in enumerate(mailers, 1))]
        await asyncio.gather(
            *(self._client(name, it, lane) for name, it in producers for lane in range(lanes)),
            *(self._stock(name, it, lane) for name, it in stock for lane in range(lanes)),
        )

    async def _ticket(self) -> bool:
        """Wait for one's turn; False when all is sent. Time lost in an outage stays lost."""
        if self._left <= 0:
            return False
        self._left -= 1
        now = time.monotonic()
        self._next = max(self._next + self._pause_s, now - 1.0)
        await asyncio.sleep(max(0.0, self._next - now))
        return True

    async def _client(self, name: str, client: BridgeClient, lane: int) -> None:
        dice = random.Random(f"{self._seed}-{name}-{lane}")  # noqa: S311 - repeatable
        while await self._ticket():
            want = _drawn(dice)
            want = Want.SUCCESS if want.letter else want  # what our client cannot send
            entry = self._book.open(name, want, dice.randint(1, _MOST_ROWS))
            model, x = model_and_rows(entry, dice)
            try:
                async with asyncio.timeout(SUBMIT_S):
                    handle = await client.submit(model, {"x": x})
            except BridgeError as error:
                entry.why = f"{type(error).__name__}: {error}"[:200]
            except TimeoutError:
                entry.why = "hung"
                self.hung += 1
            except Exception as error:  # noqa: BLE001 - one that a caller must not see
                entry.why = f"not of the bridge's tree: {error!r}"[:200]
                self.odd.append(f"submit raised {error!r}"[:200])
            else:
                entry.task_id = handle.task_id
                self._book.confirm(entry)
                self.listener.hear(entry, handle)

    async def _stock(self, name: str, mailer: Mailer, lane: int) -> None:
        dice = random.Random(f"{self._seed}-{name}-{lane}")  # noqa: S311 - repeatable
        while await self._ticket():
            entry = self._book.open(name, _drawn(dice), dice.randint(1, _MOST_ROWS))
            if await mailer.send(entry, SUBMIT_S):
                self._book.confirm(entry)


def _drawn(dice: random.Random) -> Want:
    at = dice.randrange(1000)
    for want, share in _ODD.items():
        if at < share:
            return want
        at -= share
    return Want.SUCCESS
