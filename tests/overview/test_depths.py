"""Queues are asked about together: RabbitMQ may be far away."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import aiormq.exceptions

from bridge.names import DEAD_LETTERS
from bridge.queues import QueueDepth, depths, queue_depths
from bridge.queues.tiers import TIERS_S, tier_name
from bridge.settings import Settings

ASKED = 2 * (2 + len(TIERS_S))


class FarRabbitMQ:
    """Answers nobody before all have asked."""

    def __init__(self, waiting):
        self._waiting = waiting
        self._all = asyncio.Barrier(ASKED)
        self.transport = SimpleNamespace(connection=self)

    async def channel(self, *, publisher_confirms):
        assert not publisher_confirms  # a round trip for nothing
        return self

    async def queue_declare(self, name, *, passive):
        assert passive
        await self._all.wait()
        if name not in self._waiting:
            raise aiormq.exceptions.ChannelNotFoundEntity
        return SimpleNamespace(message_count=self._waiting[name], consumer_count=1)

    async def close(self):
        pass


async def test_all_queues_are_asked_about_at_a_time(monkeypatch):
    settings = Settings()
    queue, training = settings.taskiq_ml_queue, settings.taskiq_ml_training_queue
    late = [tier_name(queue, tier) for tier in TIERS_S[:2]]
    server = FarRabbitMQ({queue: 7, training: 2, late[0]: 3, late[1]: 4})

    @asynccontextmanager
    async def reach(_):
        yield server

    monkeypatch.setattr(depths, "reach_rabbitmq", reach)
    async with asyncio.timeout(5):
        found = await queue_depths(settings)
    assert found == [
        QueueDepth(queue, 7, 1),
        QueueDepth(f"{queue}{DEAD_LETTERS}", None, None),
        QueueDepth(training, 2, 1),
        QueueDepth(f"{training}{DEAD_LETTERS}", None, None),
        QueueDepth(f"{queue}.delay", 7, None),
    ]
