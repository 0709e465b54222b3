"""The slices that one worker process runs: begun, watched and ended. No torch.

Enters: a training and its lease; orders of people, of inference on the same GPU and of a worker
that stops. Leaves: the training's result, or None where it goes on in another slice.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

from taskiq.depends.progress_tracker import TaskProgress, TaskState

from bridge.background import cancel_once, end
from bridge.courtesy import until_busy
from bridge.deliveries import Turn as Try
from bridge.errors import (
    BridgeError,
    Fate,
    LeaseLostError,
    TaskCancelledError,
    TaskExpiredError,
    TritonUnavailableError,
    error_text,
)
from bridge.intake import Intake
from bridge.jobs import Jobs
from bridge.observer import Slice
from bridge.results import RedisResults
from bridge.training.golive import PointOfNoReturn
from bridge.training.group import Group
from bridge.training.lease import Lease, Orders
from bridge.training.run import GOES_ON, Training, Turn
from bridge.training.starting import Spare

log = logging.getLogger(__name__)

_NOT_OVER = (LeaseLostError, TritonUnavailableError)  # it goes on elsewhere, or later
_MOST_TEXT = 500
_PUBLISHING_S = 1.0  # between looks at whether a late training is still being published


class Running:
    """Of one process."""

    def __init__(  # noqa: PLR0913 - what a worker has
        self,
        jobs: Jobs,
        intake: Intake,
        results: RedisResults,
        *,
        worker: str,
        at_once: Callable[[], int],
        shared_gpu: str | None = None,
        group: Group | None = None,
        spare: Spare | None = None,
    ) -> None:
        """Nothing runs yet.

        Args:
            jobs: whose turn it is.
            intake: knows who is cancelled, and whom to tell of slices.
            results: where progress goes.
            worker: this process's name.
            at_once: how many trainings run at a time in its pool.
            shared_gpu: name of the GPU that inference may need.
            group: the machines behind this worker.
            spare: the process that it keeps ready.
        """
        self._jobs, self._intake, self._results = jobs, intake, results
        self._worker, self._at_once = worker, at_once
        self._shared_gpu, self._group, self._spare = shared_gpu, group, spare
        # With the task's id: one that was lost may still be ending when it begins here again.
        self._slices: list[tuple[str, Lease, Orders]] = []
        self._stopping = False

    def cancel(self, task_id: str, now: bool) -> None:  # noqa: FBT001 - what listeners get
        """A person cancelled the task."""
        for _, orders in self._of(task_id):
            orders.cancel(now=now)

    def stop(self) -> None:
        """The worker stops: all slices end at a checkpoint, those too that are about to begin."""
        self._stopping = True
        for _, _, orders in self._slices:
            orders.stop.set()

    async def nudge(self, task_id: str) -> None:
        """Somebody may want something of a task."""
        for lease, _ in self._of(task_id):
            lease.nudge.set()

    async def run(
        self, training: Training, lease: Lease, number: int, turn: Try
    ) -> dict[str, Any] | None:
        """Train for one slice, of whose end is told.

        Args:
            training: which.
            lease: on it.
            number: of the slice.
            turn: tells until when somebody wants it.

        Raises:
            TaskCancelledError, TaskExpiredError: it came to that end.
            LeaseLostError: another has it now.
            TrainingError: it failed.
        """
        how: Slice = "failed"
        try:
            result = await self._slice(training, lease, number, turn)
            unfinished: Slice = "paused" if lease.pausing else "continued"
            how = unfinished if result is None else "finished"
        except TaskCancelledError:
            how = "cancelled"
            raise
        except BridgeError as error:
            again = isinstance(error, GOES_ON) and training.goes_on_after(error)
            if again or isinstance(error, _NOT_OVER) or await training.waits_after(error):
                how = "continued"
            goes_on = again or error.fate is not Fate.FAIL
            if goes_on and not isinstance(error, LeaseLostError):  # then it is another's to tell
                await self._hindered(training.task_id, error)
            raise
        finally:
            self._intake.observer.slice_ended(training.request.model_id, how)
        return result

    async def _slice(
        self, training: Training, lease: Lease, number: int, turn: Try
    ) -> dict[str, Any] | None:
        task_id, orders = training.task_id, Orders()
        point = PointOfNoReturn(lease.commit, lease.recall)
        mine = Turn(
            token=lease.token,
            number=number,
            worker=self._worker,
            at_once=self._at_once(),
            stop=orders.stop,
            confirm=lease.confirm,
            point=point,
            group=self._group,
            spare=self._spare,
        )
        running = (task_id, lease, orders)
        self._slices.append(running)
        if self._stopping:  # since it was claimed
            orders.stop.set()
        working = asyncio.create_task(training.go_on(mine, self._saver(training)))
        watching = [asyncio.create_task(lease.keep(orders)), asyncio.create_task(orders.now.wait())]
        giving_way = asyncio.create_task(self._give_way(orders))
        if task_id in self._intake.cancelled:  # while it was claimed
            orders.cancel(now=True)
        try:
            await self._first_of([working, *watching], task_id, turn)
        finally:
            self._slices.remove(running)
            await cancel_once(working)
            await end(giving_way, *watching)
        if orders.cancelled:
            raise TaskCancelledError("the training was cancelled while it ran")
        if lease.lost or working.cancelled():
            raise LeaseLostError("another worker has the training now, or nobody knows who")
        return working.result()

    async def _first_of(self, these: list[asyncio.Task[Any]], task_id: str, turn: Try) -> None:
        """Wait until one of them ends.

        Raises:
            TaskExpiredError: the deadline came first, and before the model was being published.
        """
        left_s = None if turn.left_s == math.inf else max(0.0, turn.left_s)
        while True:
            done, _ = await asyncio.wait(these, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return
            if await self._jobs.expire(task_id):
                raise TaskExpiredError("the task's deadline passed before it was trained")
            left_s = _PUBLISHING_S

    async def _give_way(self, orders: Orders) -> None:
        """Have a slice end at its next checkpoint once inference needs the GPU."""
        await until_busy(self._results.redis, self._shared_gpu)
        log.warning("inference on %s is too slow: the training waits", self._shared_gpu)
        orders.stop.set()

    def _saver(self, training: Training) -> Callable[[dict[str, Any]], Awaitable[None]]:
        task_id, model = training.task_id, training.request.model_id

        async def save(progress: dict[str, Any]) -> None:
            self._intake.observer.progressed(model, progress)
            await self._save(task_id, progress)

        return save

    async def _save(self, task_id: str, progress: dict[str, Any], *, more: bool = False) -> None:
        """Tell whoever follows the task; `more`: than what was told before."""
        try:
            known = await self._results.get_progress(task_id) if more else None
            meta = {**(known.meta or {}), **progress} if known else progress
            await self._results.set_progress(
                task_id, TaskProgress(state=TaskState.STARTED, meta=meta)
            )
        except Exception as error:  # noqa: BLE001  (hours of training outweigh one record)
            log.warning("progress of task %s was not saved: %s", task_id, error)

    async def _hindered(self, task_id: str, error: BridgeError) -> None:
        """Why it waits for another turn, until that one reports."""
        await self._save(task_id, {"hindered": error_text(error, _MOST_TEXT)}, more=True)

    def _of(self, task_id: str) -> list[tuple[Lease, Orders]]:
        return [(lease, orders) for known, lease, orders in self._slices if known == task_id]
