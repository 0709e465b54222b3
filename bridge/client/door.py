"""The client itself: connects, submits, and gives handles of what was submitted."""

import asyncio
import contextlib
import math
import time
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError
from taskiq import TaskiqResult
from taskiq.exceptions import SendTaskError
from taskiq.kicker import AsyncKicker

from bridge.cancellations import cancel
from bridge.client.arrays import InferenceResult, receive_reply, send_inputs
from bridge.client.handles import InferenceHandle, TaskHandle, left_of
from bridge.client.replies import Replies, Waiter
from bridge.errors import BridgeError, NoPayloadStoreError, QueueError, ShapeError
from bridge.jobs import Job
from bridge.labels import DEADLINE, PRIORITY, SENT_AT
from bridge.messages import CONTENT_TYPE, MSGPACK
from bridge.names import check_task_id
from bridge.payloads import TAKES_REFERENCES, Payloads, open_payloads
from bridge.queues import Broker, Kind, build_broker
from bridge.queues.reach import using_redis
from bridge.queues.trouble import redis_trouble
from bridge.references import StoredTensor, own_keys
from bridge.results import REPLY_TO
from bridge.settings import Settings, load_settings
from bridge.tensors import Array, raw_view
from bridge.trainings import Trainings

_KEYS = uuid.UUID("6b1f5f5e-8d0c-4d0e-9c53-6a0d5c9b7a11")  # the namespace of idempotency keys
_CLOSE_S = 5.0  # RabbitMQ that is out of memory says no goodbye to who published
_CONNECTIONS = 50  # to Redis, for who cancels or trains many at a time; waiting takes two
_LEAST_SENDING_S = 5.0  # a task may be sent that shall expire sooner


class BridgeClient:
    """Submits tasks and waits for their results. One for a process; safe for many coroutines."""

    def __init__(self, settings: Settings | None = None) -> None:
        """Nothing is connected before `async with`.

        Args:
            settings: where queue and Redis are; by default what the environment says.
        """
        self._settings = settings or load_settings()
        self._brokers: dict[Kind, Broker] = {}
        # redis-py's usual pool refuses a hundred-first call instead of letting it wait.
        self._redis: Redis = Redis.from_pool(
            BlockingConnectionPool.from_url(
                self._settings.redis_connect_url, max_connections=_CONNECTIONS
            )
        )
        self._replies = Replies(self._redis)
        self._payloads: Payloads | None = None
        self._trainings = Trainings(self._redis, self._settings)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        try:
            self._payloads = open_payloads(self._settings)
            await self._redis.ping()
            for kind in ("inference", "training"):
                broker = self._brokers[kind] = build_broker(self._settings, kind)
                await broker.startup()
            await self._replies.start()
        except RedisError as error:
            await self.close()
            raise redis_trouble(error, self._settings.redis_shown) from None
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; tasks that were submitted go on."""
        await self._replies.close()
        while self._brokers:
            _, broker = self._brokers.popitem()
            with contextlib.suppress(OSError, RuntimeError):  # an OSError: TimeoutError
                async with asyncio.timeout(_CLOSE_S):
                    await broker.shutdown()
        if self._payloads is not None:
            await self._payloads.close()
        await self._redis.aclose()
        self._loop = None

    async def infer(
        self,
        model_id: str,
        inputs: Mapping[str, Any],
        *,
        version: str | None = None,
        timeout_s: float | None = 60.0,
    ) -> InferenceResult:
        """Submit one inference and wait for it. Arguments and errors as `submit` and `result`.

        `timeout_s` bounds all of it: sending, waiting, and fetching large outputs.
        """
        began = time.monotonic()
        handle = await self._submit(model_id, inputs, version, timeout_s, within_s=timeout_s)
        return await handle.result(left_of(timeout_s, began))

    async def submit(
        self,
        model_id: str,
        inputs: Mapping[str, Any],
        *,
        version: str | None = None,
        timeout_s: float | None = None,
    ) -> InferenceHandle:
        """Put one inference into the queue.

        An array of more than BRIDGE_PAYLOAD_THRESHOLD_BYTES goes into the payload store, if
        BRIDGE_PAYLOAD_URL names one; the worker deletes it when the task has ended.

        Args:
            model_id: the model's name in Triton.
            inputs: for each input, rows first: a numpy array of the model's dtype, a nested list,
                or what `upload` returned. Arrays must not change until this returns.
            version: a served version; None for the newest.
            timeout_s: seconds after which nobody wants the answer any more, wherever the task then
                is: it ends as `TaskExpiredError`. None: it waits for as long as it takes. The
                clocks of caller and worker must agree. Sending takes no longer either, where this
                is more than five seconds.

        Returns:
            A handle, once the queue has confirmed the task.

        Raises:
            QueueError: the queue did not take it, or not in time.
            MessageTooLargeError: the queue would not take it.
            InvalidInputError: an array has a dtype that no model takes.
            PayloadError: the payload store did not take an array.
        """
        within_s = None if timeout_s is None else max(timeout_s, _LEAST_SENDING_S)
        return await self._submit(model_id, inputs, version, timeout_s, within_s=within_s)

    async def _submit(
        self,
        model_id: str,
        inputs: Mapping[str, Any],
        version: str | None,
        timeout_s: float | None,
        *,
        within_s: float | None,
    ) -> InferenceHandle:
        if within_s is not None and not within_s > 0:
            raise QueueError(f"the task was not sent: its caller waits for {within_s:g} s only")
        deadline = {} if timeout_s in {None, math.inf} else {DEADLINE: time.time() + timeout_s}
        try:
            async with asyncio.timeout(within_s) as limit:
                return await self._send(model_id, inputs, version, deadline)
        except TimeoutError:
            if not limit.expired():
                raise
            raise QueueError(
                f"the task was not taken within {within_s:g} s: are the queue's server and the "
                "payload store up? If it comes there yet, it expires"
            ) from None

    async def _send(
        self,
        model_id: str,
        inputs: Mapping[str, Any],
        version: str | None,
        deadline: Mapping[str, float],
    ) -> InferenceHandle:
        self._check_loop()
        entries = await send_inputs(inputs, self._payloads)
        try:
            args = (model_id, entries, version)
            kicked = await self._kick("inference", "ml_inference", args, deadline)
        except BaseException:
            if self._payloads is not None:
                self._payloads.discard(own_keys(entries))
            raise
        return InferenceHandle(self, *kicked)

    async def upload(self, array: Array) -> StoredTensor:
        """Put an array into the payload store once, to be an input of any number of tasks.

        No task deletes it: it can be used until it expires (BRIDGE_PAYLOAD_TTL_S).

        Args:
            array: rows first; of any size but 0.

        Raises:
            NoPayloadStoreError: BRIDGE_PAYLOAD_URL is not set.
            PayloadError: the store did not take it.
            InvalidInputError: its dtype is one that no model takes, or it has no elements.
        """
        self._check_loop()
        if self._payloads is None:
            raise NoPayloadStoreError("set BRIDGE_PAYLOAD_URL, for clients and workers, to upload")
        datatype, data = raw_view(array)
        if not len(data):
            raise ShapeError("an array without elements needs no store: give it to the task itself")
        tensors = {datatype: (datatype, array.shape, data)}
        return (await self._payloads.put("array", tensors, shared=True))[datatype]

    async def read_reply(self, reply: dict[str, Any], *, keep: bool = False) -> InferenceResult:
        """The return value of `ml_inference` with numpy arrays in place of what was sent.

        Args:
            reply: what `handle(task_id).result()` gave for an inference.
            keep: leave large outputs in the payload store until they expire.

        Raises:
            PayloadError: a large output cannot be had from the payload store.
        """
        self._check_loop()
        result = await receive_reply(reply, self._payloads)
        if self._payloads is not None and not keep:
            self._payloads.discard(own_keys(reply["outputs"]))
        return result

    async def train(
        self,
        dataset_id: str,
        model_config: dict[str, Any],
        hyperparameters: dict[str, Any] | None = None,
        *,
        priority: int = 0,
        idempotency_key: str | None = None,
    ) -> TaskHandle:
        """Put one training into the queue.

        Args:
            dataset_id: a dataset under DATASET_ROOT.
            model_config: `{"architecture": "cnn", ...}`; see docs/training.md.
            hyperparameters: `{"epochs": 10, ...}`; all have defaults.
            priority: 0 to 255; a higher one has the next turn.
            idempotency_key: any text; who sends the same again, within BRIDGE_RESULT_TTL_S of its
                end, gets the handle of the same task.

        Returns:
            A handle; its result holds metrics, `model_name` and `model_version`.

        Raises:
            QueueError: the queue did not take it.
        """
        self._check_loop()
        task_id = uuid.uuid4().hex
        if idempotency_key is not None:
            task_id = uuid.uuid5(_KEYS, idempotency_key).hex
            if await self._trainings.is_known(task_id):
                return self.handle(task_id)
        args = (dataset_id, model_config, hyperparameters or {})
        await self._trainings.register(task_id, priority)
        try:
            kicked = await self._kick(
                "training", "train_model", args, {PRIORITY: priority}, task_id
            )
        except BaseException:
            await self._trainings.withdraw(task_id)
            raise
        if idempotency_key is not None:
            await self._trainings.sent(task_id)
        return TaskHandle(self, *kicked)

    async def pause(self, task_id: str) -> bool:
        """Have a training stop at its next checkpoint, and wait; False if it has ended already.

        Raises:
            QueueError: Redis cannot be reached.
            InvalidNameError: not a task's id.
        """
        self._check_loop()
        return await self._trainings.pause(check_task_id(task_id))

    async def resume(self, task_id: str) -> bool:
        """Have a paused training go on; False if it has ended already. Errors as `pause`."""
        return await self._trainings.resume(check_task_id(task_id), self._broker("training"))

    async def job(self, task_id: str) -> Job | None:
        """What is known of a training that has not ended."""
        self._check_loop()
        return await self._trainings.find(task_id)

    def handle(self, task_id: str) -> TaskHandle:
        """The handle of any task that was submitted before, here or elsewhere.

        Its result is the task's return value as it was sent. `inference` gives arrays.

        Raises:
            InvalidNameError: not a task's id.
        """
        return TaskHandle(self, check_task_id(task_id), None)

    def inference(self, task_id: str) -> InferenceHandle:
        """The handle of an inference that was submitted before, here or elsewhere.

        Raises:
            InvalidNameError: not a task's id.
        """
        return InferenceHandle(self, check_task_id(task_id), None)

    async def wait(self, task_id: str, waiter: Waiter | None = None) -> TaskiqResult[Any]:
        """Wait until any task has a result, and return all of it.

        Args:
            task_id: of the task.
            waiter: where its result will be pushed, if this client submitted it.
        """
        self._check_loop()
        return await self._replies.wait(task_id, waiter)

    def trouble(self) -> QueueError | None:
        """Why results cannot be read, as far as the last read told; None: they can."""
        failure = self._replies.trouble
        return None if failure is None else redis_trouble(failure, self._settings.redis_shown)

    async def cancel(self, task_id: str, *, now: bool = False) -> bool:
        """Have a task not run, or stop running; False if it has ended already.

        A training saves a checkpoint first, for up to half a minute, unless it shall end `now`.

        Raises:
            QueueError: Redis cannot be reached.
            InvalidNameError: not a task's id.
            TooLateError: its model is being published.
        """
        self._check_loop()
        keep_s = self._settings.bridge_result_ttl_s
        with using_redis(self._settings.redis_shown):
            return await cancel(self._redis, check_task_id(task_id), keep_s, now=now)

    async def progress(self, task_id: str) -> dict[str, Any] | None:
        """A task's last progress report, or None."""
        with using_redis(self._settings.redis_shown):
            progress = await self._broker("training").result_backend.get_progress(task_id)
        return progress.meta if progress else None

    def _check_loop(self) -> None:
        """What is of another loop waits there for ever, and what is told to it is lost."""
        if self._loop not in (None, asyncio.get_running_loop()):
            raise QueueError(
                "the client was opened in another event loop, or before a fork: open one in each, "
                "or send this call to that loop by `asyncio.run_coroutine_threadsafe`"
            )

    def _broker(self, kind: Kind) -> Broker:
        self._check_loop()
        try:
            return self._brokers[kind]
        except KeyError:
            raise QueueError(
                "the client is not connected: use it within `async with BridgeClient() as client:`"
            ) from None

    async def _kick(
        self,
        kind: Kind,
        task_name: str,
        args: tuple[Any, ...],
        labels: Mapping[str, Any] = MappingProxyType({}),
        task_id: str | None = None,
    ) -> tuple[str, Waiter]:
        task_id, broker = task_id or uuid.uuid4().hex, self._broker(kind)
        waiter = self._replies.expect(task_id)  # before the task can possibly end
        labels = {**labels, REPLY_TO: self._replies.token, SENT_AT: round(time.time(), 3)}
        if kind == "inference":  # tensors; a training's result stays readable to stock clients
            labels[CONTENT_TYPE] = MSGPACK
            if self._payloads is not None:
                labels[TAKES_REFERENCES] = "1"
        kicker: AsyncKicker[Any, Any] = AsyncKicker(task_name, broker, labels)
        try:
            await kicker.with_task_id(task_id).kiq(*args)
        except SendTaskError as error:
            cause = error.__cause__
            if isinstance(cause, BridgeError):
                raise cause from None
            raise QueueError(f"the queue did not take the task: {cause!r}") from cause
        return task_id, waiter
