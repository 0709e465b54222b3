"""One worker's hold on one training, and what its people want of it meanwhile. No torch."""

import asyncio
import logging
import os
import socket
from dataclasses import dataclass, field

import psutil

from bridge.channels import REDIS_LOST, until_answered
from bridge.errors import LeaseLostError, TaskCancelledError, TaskExpiredError
from bridge.jobs import Jobs

_RENEWALS = 3  # in the time of a lease
_GRACE_S = 30.0  # for the checkpoint of a training that is cancelled

logger = logging.getLogger("bridge.training")


@dataclass(slots=True)
class Orders:
    """To one running slice."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Save a checkpoint, and end."""
    now: asyncio.Event = field(default_factory=asyncio.Event)
    """End without one."""
    cancelled: bool = False

    def cancel(self, *, now: bool) -> None:
        """Somebody cancelled the task."""
        self.cancelled = True
        self.stop.set()
        if now:
            self.now.set()
        else:
            asyncio.get_running_loop().call_later(_GRACE_S, self.now.set)


class Lease:
    """A training that is ours for as long as nobody has a newer token."""

    def __init__(self, jobs: Jobs, task_id: str, token: int, lease_s: float) -> None:
        """It has been claimed already.

        Args:
            jobs: where.
            task_id: of the training.
            token: what `Jobs.claim` gave.
            lease_s: for how long it lasts.
        """
        self.token = token
        self.nudge = asyncio.Event()
        """Set: somebody may want something."""
        self.lost = self.pausing = False
        self._jobs, self._task_id, self._lease_s = jobs, task_id, lease_s

    async def keep(self, orders: Orders) -> None:
        """Renew it, and pass on what people want; returns once it is lost.

        While Redis is away the training goes on: nobody else can claim it either.
        """
        while True:
            try:
                wanted = await self._jobs.renew(self._task_id, self.token)
            except REDIS_LOST as error:
                logger.warning("the lease of %s is not renewed: %s", self._task_id, error)
            else:
                if wanted == "lost":
                    self.lost = True
                    return
                if wanted == "pause":
                    self.pausing = True
                    orders.stop.set()
            self.nudge.clear()
            try:
                async with asyncio.timeout(self._lease_s / _RENEWALS):
                    await self.nudge.wait()
            except TimeoutError:
                continue

    async def confirm(self) -> None:
        """Make sure that it is still ours; waits for a Redis that is away.

        Raises:
            LeaseLostError: it is not.
        """
        wanted = await until_answered(
            lambda: self._jobs.renew(self._task_id, self.token), f"who trains {self._task_id}"
        )
        if wanted == "lost":
            raise LeaseLostError("another worker has the training now")

    async def commit(self) -> None:
        """Decide that the model is published now, unless the task has come to another end.

        Waits for a Redis that is away.

        Raises:
            LeaseLostError: another worker has the training, or has published it.
            TaskExpiredError, TaskCancelledError: it has.
        """
        answer = await until_answered(
            lambda: self._jobs.commit(self._task_id, self.token),
            f"whether {self._task_id} may be published",
        )
        if answer == "lost":
            raise LeaseLostError("another worker has the training now")
        if answer == "expired":
            raise TaskExpiredError("the task's deadline passed before its model was published")
        if answer == "ended":
            raise TaskCancelledError("the task was ended before its model was published")

    async def recall(self) -> None:
        """Nothing was published."""
        await self._jobs.recall(self._task_id, self.token)


def worker_name() -> str:
    """Of this process, as others read it; a container has a host's name of its own."""
    return f"{socket.gethostname()}:{os.getpid()}"


async def is_orphan(jobs: Jobs, task_id: str) -> bool:
    """Whether the worker that holds a task was a process of this machine, and is no more."""
    job = await jobs.find(task_id)
    return is_dead_neighbour(job.worker if job is not None else "")


def is_dead_neighbour(worker: str) -> bool:
    """Whether a worker, by its name, was a process of this machine, and is no more."""
    host, _, pid = worker.rpartition(":")
    return host == socket.gethostname() and pid.isdigit() and not _lives(int(pid))


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
