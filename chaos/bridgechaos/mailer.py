"""A stock-like producer: JSON, publisher confirms, the same message again until confirmed."""

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import Coroutine, Sequence
from typing import Any, Self, TypeVar

import aiormq
import orjson
from aiormq.exceptions import AMQPError
from pamqp.commands import Basic

from bridge.settings import Settings
from bridgechaos.book import model_and_rows
from bridgechaos.entries import Entry, Want

T = TypeVar("T")
_CONFIRM_S = 5.0
_CONNECT_S = 5.0
_AGAIN_S = 0.2


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
        return await self._deliver(entry, self._written(entry), self._inference_key, patience_s)

    async def send_training(
        self, entry: Entry, ask: Sequence[Any], patience_s: float, *, astray: bool
    ) -> bool:
        """As `send`: a training with these arguments; `astray`: to the queue of inferences."""
        entry.task_id = uuid.uuid4().hex
        key = self._inference_key if astray else self._settings.taskiq_ml_training_routing_key
        body = orjson.dumps(_message(entry.task_id, "train_model", ask))
        return await self._deliver(entry, body, key, patience_s)

    @property
    def _inference_key(self) -> str:
        return self._settings.taskiq_ml_routing_key

    async def _deliver(self, entry: Entry, body: bytes, key: str, patience_s: float) -> bool:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                await self._publish(body, key)
            except (
                Exception,
                asyncio.CancelledError,
            ) as error:  # aiormq: at times Exception itself
                if _cancelling():  # while it hung up, the cancellation may have been swallowed
                    raise asyncio.CancelledError from error
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
        name = "nobodys_task" if entry.want is Want.NO_TASK else "ml_inference"
        return orjson.dumps(_message(entry.task_id, name, [model, {"x": x.tolist()}]))

    async def _publish(self, body: bytes, key: str) -> None:
        channel = await self._connected()
        try:
            await _within(
                _CONFIRM_S,
                channel.basic_publish(
                    body,
                    exchange=self._settings.taskiq_ml_exchange,
                    routing_key=key,
                    properties=Basic.Properties(content_type="application/json", delivery_mode=2),
                    mandatory=True,
                ),
            )
        except BaseException:
            await self._drop(channel)
            raise

    async def _connected(self) -> Any:
        async with self._connecting:
            if self._channel is None or self._channel.is_closed:
                await self._drop(self._channel)
                self._connection, self._channel = await _within(_CONNECT_S, self._connect())
            return self._channel

    async def _connect(self) -> tuple[Any, Any]:
        connection = await aiormq.connect(self._settings.rabbitmq_url)
        try:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        except BaseException:
            await _hang_up(connection)
            raise
        return connection, channel

    async def _drop(self, channel: Any) -> None:
        """Forget a connection that may be dead, unless there is a new one already."""
        if channel is not self._channel:
            return
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            await _hang_up(connection)


async def _hang_up(connection: Any) -> None:
    with contextlib.suppress(AMQPError, OSError, RuntimeError, asyncio.CancelledError):
        await _within(_AGAIN_S, connection.close())


async def _within(timeout_s: float, call: Coroutine[Any, Any, T]) -> T:
    """Wait for it, but not for longer, whatever becomes of it: aiormq loses cancellations.

    Raises:
        TimeoutError: it was not over.
    """
    task = asyncio.create_task(call)
    try:
        await asyncio.wait({task}, timeout=timeout_s)
    finally:
        task.cancel()
    if not task.done():
        raise TimeoutError
    return task.result()


def _message(task_id: str | None, name: str, args: Sequence[Any]) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "task_name": name,
        "labels": {},
        "labels_types": None,
        "args": args,
        "kwargs": {},
    }


def _cancelling() -> bool:
    """Whether it is we who are cancelled: aiormq cancels futures that we wait for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
