"""A worker that stops while a task that was cancelled has no record yet."""

import asyncio
import json
from types import SimpleNamespace

from bridge.embedded.redis import RedisServer
from bridge.queues import build_broker
from bridge.settings import Settings


async def test_a_stop_does_not_wait_for_the_record_of_a_cancelled_task(state):
    body = {"task_id": "a", "task_name": "t", "labels": {}, "args": [], "kwargs": {}}
    delivery = SimpleNamespace(
        body=json.dumps(body).encode(),
        redelivered=False,
        deliveries=1,
        attempt=1,
        sent_at=None,
        crashes=0,
        waits=0,
    )
    begun = asyncio.Event()

    async def saves_its_checkpoint(message, turn):
        begun.set()
        await asyncio.Event().wait()

    async with RedisServer(state) as redis:
        settings = Settings(redis_url=redis.url, bridge_drain_timeout_s=0.2)
        broker = build_broker(settings, "training")
        broker.intake.shortcuts["t"] = saves_its_checkpoint
        broker.intake.self_stopping.add("t")
        taking = asyncio.create_task(broker.intake.take(delivery))
        await begun.wait()
        await broker.intake.cancelled._told("a")
        await redis.kill()
        draining = asyncio.create_task(broker.intake.drain())
        done, _ = await asyncio.wait([draining], timeout=10)
        taking.cancel()
        await asyncio.wait([draining, taking])
        await broker.results.shutdown()
        assert done
