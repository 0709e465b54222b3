"""The producer's door: submit, await, follow. Pulls neither torch nor tritonclient.

Enters: model names and numpy arrays. Leaves: numpy arrays, or the task's error, raised. Results
are pushed: one Redis subscription for the client, however many tasks it waits for; a read now
and then covers a connection that broke.

    async with BridgeClient() as client:
        result = await client.infer("digits", {"image": images})
        result.outputs["logits"]
"""

import asyncio
import contextlib
import logging
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from weakref import WeakValueDictionary

import numpy as np
from redis.asyncio import Redis
from redis.exceptions import RedisError
from taskiq import AsyncBroker, TaskiqResult
from taskiq.exceptions import SendTaskError
from taskiq.kicker import AsyncKicker

from bridge.errors import BridgeError, MalformedMessageError, QueueError, ResultTimeoutError
from bridge.messages import CONTENT_TYPE, MSGPACK, decode_result
from bridge.names import check_name
from bridge.queues import Kind, build_broker
from bridge.results import REPLY_TO, decode_push, reply_channel
from bridge.settings import Settings, load_settings
from bridge.tensors import Array, read_raw, wire_form

logger = logging.getLogger("bridge.client")

_REREAD_S = 1.0  # a pushed result that was lost is found by then
_POLL_S = 0.05  # for tasks that somebody else submitted
_RECONNECT_S = 0.5
_SUBSCRIBE_S = 2.0


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """What a model answered. `outputs` are numpy arrays by output name, rows first."""

    model_name: str
    model_version: str
    outputs: dict[str, Array]


class _Waiter:
    """Where the listener leaves what was pushed for one task."""

    __slots__ = ("__weakref__", "arrived", "value")

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.value: bytes | None = None


class TaskHandle:
    """A submitted task. Keep `task_id` to come back to it: `client.handle(task_id)`."""

    def __init__(self, client: "BridgeClient", task_id: str, waiter: _Waiter | None) -> None:
        self.task_id = task_id
        self._client = client
        self._waiter = waiter

    async def result(self, timeout_s: float | None = None) -> Any:
        """Wait for the task's return value.

        Args:
            timeout_s: seconds to wait; None: until it ends.

        Raises:
            BridgeError: the task ended in it (`TaskFailedError` where it is not of our tree).
            ResultTimeoutError: it has not ended yet; it goes on, and can be awaited again.
        """
        try:
            async with asyncio.timeout(timeout_s):
                result = await self._client.wait(self.task_id, self._waiter)
        except TimeoutError:
            raise ResultTimeoutError(
                f"task {self.task_id} has no result after {timeout_s:g} s; it is still queued or "
                "running: are workers up (`mlbridge status`)?"
            ) from None
        if result.error is not None:
            raise result.error
        return result.return_value

    async def progress(self) -> dict[str, Any] | None:
        """What a training task reports: epoch, loss, metric, time left; None before it starts.

        Raises:
            QueueError: Redis cannot be reached.
        """
        return await self._client.progress(self.task_id)


class InferenceHandle(TaskHandle):
    """A submitted inference."""

    async def result(self, timeout_s: float | None = None) -> InferenceResult:
        """Wait for the prediction. Raises as `TaskHandle.result`."""
        return decode_reply(await super().result(timeout_s))


def encode_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Numpy arrays as raw bytes; nested lists as they are, for the model's dtype to be applied.

    Raises:
        InvalidInputError: an array has a dtype that no model takes.
    """
    return {
        name: wire_form(value) if isinstance(value, np.ndarray) else value
        for name, value in inputs.items()
    }


def decode_reply(reply: dict[str, Any]) -> InferenceResult:
    """The return value of `ml_inference` with numpy arrays in place of what was sent."""
    return InferenceResult(
        model_name=reply["model_name"],
        model_version=reply["model_version"],
        outputs={
            name: read_raw(value) if isinstance(value, dict) else np.asarray(value)
            for name, value in reply["outputs"].items()
        },
    )


class BridgeClient:
    """Submits tasks and waits for their results. One for a process; safe for many coroutines."""

    def __init__(self, settings: Settings | None = None) -> None:
        """Nothing is connected before `async with`.

        Args:
            settings: where queue and Redis are; by default what the environment says.
        """
        self._settings = settings or load_settings()
        self._token = secrets.token_urlsafe(16)
        self._brokers: dict[Kind, AsyncBroker] = {}
        # A handle keeps its waiter alive; with the handle, what was pushed for it goes too.
        self._waiters: WeakValueDictionary[str, _Waiter] = WeakValueDictionary()
        self._redis: Redis = Redis.from_url(self._settings.redis_url.get_secret_value())
        self._listener: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()

    async def __aenter__(self) -> Self:
        try:
            await self._redis.ping()
            for kind in ("inference", "training"):
                broker = build_broker(self._settings, kind)
                self._brokers[kind] = broker
                await broker.startup()
        except RedisError as error:
            await self.close()
            raise QueueError(
                f"cannot use Redis at {self._settings.redis_shown} ({error}); check REDIS_URL"
            ) from None
        except BaseException:
            await self.close()
            raise
        self._listener = asyncio.create_task(self._listen())
        with contextlib.suppress(TimeoutError):  # a Redis user without channels: reads will do
            async with asyncio.timeout(_SUBSCRIBE_S):
                await self._subscribed.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; tasks that were submitted go on."""
        if self._listener:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener
        for broker in self._brokers.values():
            with contextlib.suppress(OSError, RuntimeError):
                await broker.shutdown()
        await self._redis.aclose()

    async def infer(
        self,
        model_id: str,
        inputs: Mapping[str, Any],
        *,
        version: str | None = None,
        timeout_s: float | None = 60.0,
    ) -> InferenceResult:
        """Submit one inference and wait for it. Arguments and errors as `submit` and `result`."""
        handle = await self.submit(model_id, inputs, version=version)
        return await handle.result(timeout_s)

    async def submit(
        self, model_id: str, inputs: Mapping[str, Any], *, version: str | None = None
    ) -> InferenceHandle:
        """Put one inference into the queue.

        Args:
            model_id: the model's name in Triton.
            inputs: a numpy array of the model's dtype, or a nested list, for each input; rows
                first.
            version: a served version; None for the newest.

        Returns:
            A handle, once the queue has confirmed the task.

        Raises:
            QueueError: the queue did not take it.
            InvalidInputError: an array has a dtype that no model takes.
        """
        args = (model_id, encode_inputs(inputs), version)
        task_id, waiter = await self._kick("inference", "ml_inference", args)
        return InferenceHandle(self, task_id, waiter)

    async def train(
        self,
        dataset_id: str,
        model_config: dict[str, Any],
        hyperparameters: dict[str, Any] | None = None,
    ) -> TaskHandle:
        """Put one training into the queue.

        Args:
            dataset_id: a dataset under DATASET_ROOT.
            model_config: `{"architecture": "cnn", ...}`; see docs/training.md.
            hyperparameters: `{"epochs": 10, ...}`; all have defaults.

        Returns:
            A handle; its result holds metrics, `model_name` and `model_version`.

        Raises:
            QueueError: the queue did not take it.
        """
        args = (dataset_id, model_config, hyperparameters or {})
        return TaskHandle(self, *await self._kick("training", "train_model", args))

    def handle(self, task_id: str) -> TaskHandle:
        """The handle of a task that was submitted before, here or elsewhere.

        Raises:
            InvalidNameError: not a task's id.
        """
        return TaskHandle(self, check_name("task_id", task_id), None)

    async def wait(self, task_id: str, waiter: _Waiter | None = None) -> TaskiqResult[Any]:
        """Wait until the task has a result, and return all of it.

        Args:
            task_id: of any task.
            waiter: where its result will be pushed, if this client submitted it.
        """
        pause_s = _REREAD_S
        if waiter is None:
            waiter, pause_s = _Waiter(), 0.0  # may have ended long ago: read at once
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await waiter.arrived.wait()
            value: Any = waiter.value or await self._read(task_id)
            if value is not None:
                return decode_result(value)
            waiter.arrived.clear()
            pause_s = pause_s or _POLL_S

    async def progress(self, task_id: str) -> dict[str, Any] | None:
        """A task's last progress report, or None."""
        try:
            progress = await self._brokers["training"].result_backend.get_progress(task_id)
        except RedisError as error:
            raise QueueError(f"cannot read from Redis: {error}") from None
        return progress.meta if progress else None

    async def _read(self, task_id: str) -> bytes | None:
        try:
            value: Any = await self._redis.get(task_id)
        except (RedisError, OSError):
            return None  # Redis is away: whoever waits goes on waiting, within the time it gave
        return value  # type: ignore[no-any-return] # redis-py types answers as str | bytes

    async def _kick(self, kind: Kind, task_name: str, args: tuple[Any, ...]) -> tuple[str, _Waiter]:
        task_id, waiter = uuid.uuid4().hex, _Waiter()
        self._waiters[task_id] = waiter  # before the task can possibly end
        labels = {REPLY_TO: self._token}
        if kind == "inference":  # tensors; a training's result stays readable to stock clients
            labels[CONTENT_TYPE] = MSGPACK
        kicker: AsyncKicker[Any, Any] = AsyncKicker(task_name, self._brokers[kind], labels)
        try:
            await kicker.with_task_id(task_id).kiq(*args)
        except SendTaskError as error:
            cause = error.__cause__
            if isinstance(cause, BridgeError):
                raise cause from None
            raise QueueError(f"the queue did not take the task: {cause!r}") from cause
        return task_id, waiter

    async def _listen(self) -> None:
        """Hand pushed results to their waiters; after each (re)connection let all look again."""
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=False) as pubsub:
                    await pubsub.subscribe(reply_channel(self._token))
                    async for message in pubsub.listen():
                        if message["type"] == "subscribe":
                            self._subscribed.set()
                            for waiter in list(self._waiters.values()):
                                waiter.arrived.set()
                        elif message["type"] == "message":
                            self._hand_over(message["data"])
            except (RedisError, OSError) as error:
                logger.warning("lost the connection for results, trying again: %s", error)
                await asyncio.sleep(_RECONNECT_S)

    def _hand_over(self, data: bytes) -> None:
        try:
            task_id, value = decode_push(data)
        except MalformedMessageError as error:
            logger.warning("ignored a pushed message: %s", error)
            return
        waiter = self._waiters.get(task_id)
        if waiter is not None:
            waiter.value = value
            waiter.arrived.set()
