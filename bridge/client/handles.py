"""What a caller holds of a task that was submitted."""

import asyncio
import time
from typing import TYPE_CHECKING, Any

from bridge.client.arrays import InferenceResult
from bridge.client.replies import Waiter
from bridge.errors import BridgeError, ResultTimeoutError
from bridge.references import own_keys

if TYPE_CHECKING:
    from bridge.client.door import BridgeClient

_LOOK_S = 1.0  # for one look at Redis


def left_of(timeout_s: float | None, began: float) -> float | None:
    """What is left of so many seconds that began then (of `time.monotonic`); None: no end."""
    return None if timeout_s is None else max(0.0, round(timeout_s - time.monotonic() + began, 2))


class TaskHandle:
    """A submitted task. Keep `task_id` to come back to it: `client.handle(task_id)`."""

    def __init__(self, client: "BridgeClient", task_id: str, waiter: Waiter | None) -> None:
        self.task_id = task_id
        self._client = client
        self._waiter = waiter

    async def result(self, timeout_s: float | None = None) -> Any:
        """Wait for the task's return value.

        Args:
            timeout_s: seconds to wait; 0: look once whether it has ended; None: until it ends.

        Raises:
            BridgeError: the task ended in it (`TaskFailedError` where it is not of our tree).
            ResultTimeoutError: it has not ended yet; it goes on, and can be awaited again. Or, of a
                task from elsewhere, there is no such task, or its record has expired.
        """
        once = timeout_s is not None and timeout_s <= 0
        try:
            async with asyncio.timeout(_LOOK_S if once else timeout_s):
                result = await self._client.wait(self.task_id, self._waiter, once=once)
        except TimeoutError:
            raise ResultTimeoutError(
                f"task {self.task_id} has no result after {timeout_s:g} s; {self._why()}"
            ) from None
        if result.error is not None:
            try:
                raise result.error
            finally:
                del result  # else the error would hold itself, and the caller's arrays
        return result.return_value

    def _why(self) -> str:
        trouble = self._client.trouble()
        if trouble is not None:
            return f"Redis could not be asked: {trouble}"
        why = "it is still queued or running: are workers up (`mlbridge status`)?"
        if self._waiter is None:  # not submitted here: all that is known is its id
            why += " Or no task has this id, or its record has expired (BRIDGE_RESULT_TTL_S)"
        return why

    async def cancel(self, *, now: bool = False) -> bool:
        """Have the task not run, or stop running.

        Its record then is `TaskCancelledError`, which whoever waits for it gets. A training saves
        a checkpoint first, for up to half a minute, unless it shall end `now`.

        Returns:
            False if it has ended already.

        Raises:
            QueueError: Redis cannot be reached.
            TooLateError: its model is being published.
        """
        return await self._client.cancel(self.task_id, now=now)

    async def pause(self) -> bool:
        """Have a training stop at its next checkpoint, and wait until it is resumed.

        Returns:
            False if it has ended already.

        Raises:
            QueueError: Redis cannot be reached.
        """
        return await self._client.pause(self.task_id)

    async def resume(self) -> bool:
        """Have a paused training go on. Returns and raises as `pause`."""
        return await self._client.resume(self.task_id)

    async def progress(self) -> dict[str, Any] | None:
        """What a training reports: see docs/training.md; None before it starts.

        Raises:
            QueueError: Redis cannot be reached.
        """
        return await self._client.progress(self.task_id)


class InferenceHandle(TaskHandle):
    """A submitted inference. Come back to it by its `task_id`: `client.inference(task_id)`."""

    _read: InferenceResult | None = None  # what was deleted from the store as it was read

    async def result(
        self, timeout_s: float | None = None, *, keep: bool = False
    ) -> InferenceResult:
        """Wait for the prediction.

        Args:
            timeout_s: seconds to wait, and to fetch large outputs; 0: look once whether it has
                ended; None: as long as it takes.
            keep: leave large outputs in the payload store until they expire, for others to read.

        Raises:
            BridgeError: as `TaskHandle.result`; or the task is no inference.
            PayloadError: a large output cannot be had from the payload store.
        """
        if self._read is None:
            began = time.monotonic()
            reply = await super().result(timeout_s)
            if not isinstance(reply, dict) or "outputs" not in reply:
                raise BridgeError(
                    f"task {self.task_id} is no inference: read its result by `client.handle`"
                )
            try:
                async with asyncio.timeout(left_of(timeout_s, began)) as limit:
                    result = await self._client.read_reply(reply, keep=keep)
            except TimeoutError:
                if not limit.expired():
                    raise
                raise ResultTimeoutError(
                    f"task {self.task_id} has ended, but its outputs could not be fetched from "
                    f"the payload store within {timeout_s:g} s; they can be awaited again"
                ) from None
            if keep or not own_keys(reply["outputs"]):
                return result
            self._read = result
        return self._read
