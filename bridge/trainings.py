"""What a producer can do with a training that it has submitted: pause it, and have it go on.

Enters: task ids. Leaves: wishes in Redis, which workers hear, and the message that continues.
"""

import contextlib

from redis.asyncio import Redis

from bridge.channels import REDIS_LOST
from bridge.jobs import Job, Jobs
from bridge.labels import continued
from bridge.queues import Broker
from bridge.queues.reach import using_redis
from bridge.settings import Settings


class Trainings:
    """All trainings of one Redis and one queue."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        """Nothing is asked yet.

        Args:
            redis: where results are; not closed here.
            settings: for how long what is kept.
        """
        self._redis = redis
        self._where = settings.redis_shown
        self._jobs = Jobs.of(redis, settings)

    async def is_known(self, task_id: str) -> bool:
        """Whether it has a result, or its message is, or was, in the queue.

        One that was only registered may never have come there: its caller may have died.
        """
        with using_redis(self._where):
            return bool(await self._redis.exists(task_id)) or await self._jobs.was_sent(task_id)

    async def register(self, task_id: str, priority: int) -> None:
        """Let workers know of a training before its message comes to one, if we may."""
        with contextlib.suppress(*REDIS_LOST):
            await self._jobs.register(task_id, priority)

    async def sent(self, task_id: str) -> None:
        """It is in the queue. Where Redis is away, who sends it again sends a second message."""
        with contextlib.suppress(*REDIS_LOST):
            await self._jobs.sent(task_id)

    async def withdraw(self, task_id: str) -> None:
        """It was not submitted after all, unless by somebody else under the same key."""
        with contextlib.suppress(*REDIS_LOST):
            await self._jobs.withdraw(task_id)

    async def pause(self, task_id: str) -> bool:
        """Have it stop at its next checkpoint, and wait; False: it has ended already."""
        with using_redis(self._where):
            if await self._redis.exists(task_id):
                return False
            await self._jobs.pause(task_id)
            return True

    async def resume(self, task_id: str, broker: Broker) -> bool:
        """Have it go on; False: it has ended already.

        Args:
            task_id: checked by the caller.
            broker: of the training queue, started.
        """
        with using_redis(self._where):
            if await self._redis.exists(task_id):
                return False
            passed = await self._jobs.resume(task_id)
        if passed is not None:
            baton, body = passed
            message = continued(broker.formatter.loads(body), baton)
            await broker.kick(broker.formatter.dumps(message))
            with contextlib.suppress(*REDIS_LOST):  # then a worker sends it again, for nothing
                await self._jobs.handed_on(task_id, baton)
        return True

    async def find(self, task_id: str) -> Job | None:
        """What is known of one that has not ended."""
        with using_redis(self._where):
            return await self._jobs.find(task_id)

    async def all(self) -> list[Job]:
        """Those that have not ended, of highest priority first."""
        with using_redis(self._where):
            return await self._jobs.all()
