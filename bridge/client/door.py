"""The client itself: submits, and gives handles of what was submitted."""

import asyncio
import math
import time
import uuid
from collections.abc import Mapping
from typing import Any, Self

from taskiq import TaskiqResult

from bridge.cancellations import cancel
from bridge.client.arrays import InferenceResult, receive_reply, send_inputs
from bridge.client.connections import Connections
from bridge.client.handles import InferenceHandle, TaskHandle, left_of
from bridge.client.replies import Waiter
from bridge.errors import NoPayloadStoreError, QueueError, ShapeError
from bridge.jobs import Job
from bridge.labels import DEADLINE, PRIORITY
from bridge.names import check_task_id
from bridge.queues.reach import using_redis
from bridge.queues.trouble import redis_trouble
from bridge.references import StoredTensor, own_keys
from bridge.settings import Settings, load_settings
from bridge.tensors import Array, raw_view
from bridge.trainings import Trainings

_KEYS = uuid.UUID("6b1f5f5e-8d0c-4d0e-9c53-6a0d5c9b7a11")  # the namespace of idempotency keys
_LEAST_SENDING_S = 5.0  # a task may be sent that shall expire sooner


class BridgeClient:
    """Submits tasks and waits for their results. One for a process; safe for many coroutines."""

    def __init__(self, settings: Settings | None = None) -> None:
        """Nothing is connected before `async with`.

        Args:
            settings: where queue and Redis are; by default what the environment says.
        """
        self._settings = settings or load_settings()
        self._connections = Connections(self._settings)
        self._trainings = Trainings(self._connections.redis, self._settings)

    async def __aenter__(self) -> Self:
        await self._connections.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; tasks that were submitted go on."""
        await self._connections.close()

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
        self._connections.check_loop()
        entries = await send_inputs(inputs, self._connections.payloads)
        try:
            args = (model_id, entries, version)
            kicked = await self._connections.send("inference", "ml_inference", args, deadline)
        except BaseException:
            if self._connections.payloads is not None:
                self._connections.payloads.discard(own_keys(entries))
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
        self._connections.check_loop()
        if self._connections.payloads is None:
            raise NoPayloadStoreError("set BRIDGE_PAYLOAD_URL, for clients and workers, to upload")
        datatype, data = raw_view(array)
        if not len(data):
            raise ShapeError("an array without elements needs no store: give it to the task itself")
        tensors = {datatype: (datatype, array.shape, data)}
        return (await self._connections.payloads.put("array", tensors, shared=True))[datatype]

    async def read_reply(self, reply: dict[str, Any], *, keep: bool = False) -> InferenceResult:
        """The return value of `ml_inference` with numpy arrays in place of what was sent.

        Args:
            reply: what `handle(task_id).result()` gave for an inference.
            keep: leave large outputs in the payload store until they expire.

        Raises:
            PayloadError: a large output cannot be had from the payload store.
        """
        self._connections.check_loop()
        result = await receive_reply(reply, self._connections.payloads)
        if self._connections.payloads is not None and not keep:
            self._connections.payloads.discard(own_keys(reply["outputs"]))
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
        self._connections.check_loop()
        task_id = uuid.uuid4().hex
        if idempotency_key is not None:
            task_id = uuid.uuid5(_KEYS, idempotency_key).hex
            if await self._trainings.is_known(task_id):
                return self.handle(task_id)
        args = (dataset_id, model_config, hyperparameters or {})
        await self._trainings.register(task_id, priority)
        try:
            kicked = await self._connections.send(
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
        self._connections.check_loop()
        return await self._trainings.pause(check_task_id(task_id))

    async def resume(self, task_id: str) -> bool:
        """Have a paused training go on; False if it has ended already. Errors as `pause`."""
        return await self._trainings.resume(
            check_task_id(task_id), self._connections.broker("training")
        )

    async def job(self, task_id: str) -> Job | None:
        """What is known of a training that has not ended."""
        self._connections.check_loop()
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

    async def wait(
        self, task_id: str, waiter: Waiter | None = None, *, once: bool = False
    ) -> TaskiqResult[Any]:
        """Wait until any task has a result, and return all of it.

        Args:
            task_id: of the task.
            waiter: where its result will be pushed, if this client submitted it.
            once: only look whether it has one.

        Raises:
            TimeoutError: it has none, and was to be looked for once.
        """
        self._connections.check_loop()
        return await self._connections.replies.wait(task_id, waiter, once=once)

    def trouble(self) -> QueueError | None:
        """Why results cannot be read, as far as the last read told; None: they can."""
        failure = self._connections.replies.trouble
        return None if failure is None else redis_trouble(failure, self._settings.redis_shown)

    async def cancel(self, task_id: str, *, now: bool = False) -> bool:
        """Have a task not run, or stop running; False if it has ended already.

        A training saves a checkpoint first, for up to half a minute, unless it shall end `now`.

        Raises:
            QueueError: Redis cannot be reached.
            InvalidNameError: not a task's id.
            TooLateError: its model is being published.
        """
        self._connections.check_loop()
        keep_s = self._settings.bridge_result_ttl_s
        with using_redis(self._settings.redis_shown):
            return await cancel(self._connections.redis, check_task_id(task_id), keep_s, now=now)

    async def progress(self, task_id: str) -> dict[str, Any] | None:
        """A task's last progress report, or None."""
        broker = self._connections.broker("training")
        with using_redis(self._settings.redis_shown):
            progress = await broker.result_backend.get_progress(task_id)
        return progress.meta if progress else None
