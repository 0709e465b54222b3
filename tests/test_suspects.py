"""Who may have crashed a model is tried alone, whichever worker has him; on a real Redis."""

import asyncio
import uuid

import pytest
from redis.asyncio import Redis

from bridge import crashes
from bridge.crashes import repair, report, turn_of_suspect
from bridge.errors import AwaitingTurnError, BackendCrashedError


@pytest.fixture
def model():
    return uuid.uuid4().hex


async def test_one_at_a_time_for_each_model(redis, redis_server, model):
    there, most = 0, 0

    async def suspect(connection):
        nonlocal there, most
        while True:
            try:
                async with turn_of_suspect(connection, model):
                    there += 1
                    most = max(most, there)
                    await asyncio.sleep(0.02)
                    there -= 1
            except AwaitingTurnError:
                await asyncio.sleep(0.01)
            else:
                return

    async with Redis.from_url(redis_server.url) as other_worker:
        await asyncio.gather(*(suspect(it) for it in (redis, other_worker) * 5))
    assert most == 1
    async with turn_of_suspect(redis, model), turn_of_suspect(redis, uuid.uuid4().hex):
        pass  # another model's suspects have a turn of their own


async def test_one_of_many_that_come_together_has_the_turn(redis, model):
    came = 0

    async def suspect():
        nonlocal came
        try:
            async with turn_of_suspect(redis, model):
                came += 1
                await over.wait()
        except AwaitingTurnError:
            return

    over = asyncio.Event()
    suspects = [asyncio.create_task(suspect()) for _ in range(300)]
    async with asyncio.timeout(30):
        while sum(it.done() for it in suspects) + came < 300:
            await asyncio.sleep(0.02)
    over.set()
    await asyncio.gather(*suspects)
    assert came == 1
    assert not await redis.exists(f"bridge:suspect:{model}")


async def test_who_gets_no_turn_goes_back_to_the_queue_at_once(redis, model):
    async with turn_of_suspect(redis, model):
        with pytest.raises(AwaitingTurnError, match="other tasks that may be to blame"):
            async with turn_of_suspect(redis, model):
                pytest.fail("two at a time")
    async with turn_of_suspect(redis, model):
        pass


async def test_a_worker_that_was_killed_does_not_keep_its_turn(redis, model, monkeypatch):
    monkeypatch.setattr(crashes, "_TURN_S", 0.3)
    left = turn_of_suspect(redis, model)
    await left.__aenter__()
    async with asyncio.timeout(30):
        while await redis.exists(f"bridge:suspect:{model}"):
            await asyncio.sleep(0.02)
    async with turn_of_suspect(redis, model):
        pass
    await left.__aexit__(None, None, None)  # too late: it takes nobody's turn away
    assert not await redis.exists(f"bridge:suspect:{model}")


async def test_there_is_no_turn_until_the_model_is_loaded_again(redis, model):
    with pytest.raises(BackendCrashedError):
        async with turn_of_suspect(redis, model):
            raise BackendCrashedError("it died")
    with pytest.raises(AwaitingTurnError):
        async with turn_of_suspect(redis, model):
            pytest.fail("tried on a dead model")

    class Triton:
        async def reload(self, name):
            return name == model

    repairing = asyncio.create_task(repair(redis, Triton()))
    try:
        async with asyncio.timeout(30):
            while await redis.exists(f"bridge:dead:{model}"):
                await report(redis, model)  # it may not listen yet
                await asyncio.sleep(0.1)
    finally:
        repairing.cancel()
        await asyncio.gather(repairing, return_exceptions=True)
    async with turn_of_suspect(redis, model):
        pass


async def test_an_error_gives_the_turn_back(redis, model):
    with pytest.raises(ZeroDivisionError):
        async with turn_of_suspect(redis, model):
            raise ZeroDivisionError
    assert not await redis.exists(f"bridge:suspect:{model}")


async def test_without_redis_there_are_no_turns(model):
    async with (
        Redis.from_url("redis://127.0.0.1:1/0") as nowhere,
        turn_of_suspect(nowhere, model),
        turn_of_suspect(nowhere, model),
    ):
        pass
