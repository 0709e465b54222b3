"""Cancelled, expired or published: one of them, decided once, whoever comes first or dies."""

import asyncio
import time
import uuid

import pytest
import redis as blocking_redis

from bridge.cancellations import cancel, cancelled_record
from bridge.cli import cancel as command
from bridge.errors import (
    LeaseLostError,
    RepositoryWriteError,
    TaskCancelledError,
    TaskExpiredError,
    TooLateError,
)
from bridge.jobs import Asking, Jobs
from bridge.messages import decode_result
from bridge.repository import ModelRepository
from bridge.settings import Settings
from bridge.training.golive import PointOfNoReturn
from bridge.training.lease import Lease
from bridge.training.request import parse_request
from bridge.training.run import Training, Turn

CNN = {"architecture": "cnn"}


@pytest.fixture
def task_id():
    return uuid.uuid4().hex


@pytest.fixture
def jobs(redis):
    return Jobs(redis, f"queue-{uuid.uuid4().hex}", lease_s=60, keep_s=60)


@pytest.fixture
async def lease(jobs, task_id):
    claim = await jobs.claim(task_id, Asking("somebody", b"message"))
    return Lease(jobs, task_id, claim.number, 60)


@pytest.fixture
def publish(settings, fake_triton, trainings, lease, task_id):
    """Brings a trained model live, as a worker with the lease does."""
    del trainings

    async def publish():
        request = parse_request("few", CNN, {}, settings)
        training = Training(request, task_id, settings, fake_triton)
        turn = Turn(lease.token, point=PointOfNoReturn(lease.commit, lease.recall))
        return await training.go_on(turn, ignore)

    return publish


@pytest.fixture
def versions(settings):
    return lambda: ModelRepository(settings.model_repository).versions("few")


async def ignore(_record):
    pass


def at(monkeypatch, triton, method, do, *, candidate):
    """Do something when Triton is asked for the candidate, or for the model itself."""
    asked = getattr(triton, method)

    async def first(name, *arguments, **named):
        if (".candidate-" in name) == candidate:
            await do()
        return await asked(name, *arguments, **named)

    monkeypatch.setattr(triton, method, first)


async def test_what_is_cancelled_before_it_is_not_published(
    publish, redis, task_id, fake_triton, monkeypatch, versions
):
    async def cancel_it():
        cancelled.append(await cancel(redis, task_id, 60))

    cancelled = []
    at(monkeypatch, fake_triton, "infer", cancel_it, candidate=True)
    with pytest.raises(TaskCancelledError):
        await publish()
    assert cancelled == [True, False]  # Triton is asked twice
    assert versions() == []
    assert fake_triton.served == {}
    assert isinstance(decode_result(await redis.get(task_id)).error, TaskCancelledError)


async def test_what_is_published_is_not_cancelled(
    publish, redis, task_id, fake_triton, monkeypatch, versions
):
    async def cancel_it():
        with pytest.raises(TooLateError, match=r"too late to cancel .* is being published"):
            await cancel(redis, task_id, 60)

    at(monkeypatch, fake_triton, "load", cancel_it, candidate=False)
    assert (await publish())["model_version"] == "1"
    assert versions() == [1]
    assert await redis.get(task_id) is None
    assert await redis.zscore("bridge:cancelled", task_id) is None


async def test_what_expires_before_it_is_not_published(publish, jobs, task_id, versions):
    assert await jobs.expire(task_id)
    with pytest.raises(TaskExpiredError):
        await publish()
    assert versions() == []


async def test_what_is_published_does_not_expire(publish, jobs, task_id):
    await publish()
    assert not await jobs.expire(task_id)


async def test_what_could_not_be_published_can_be_cancelled_again(
    publish, redis, task_id, monkeypatch, versions
):
    def full(*_arguments):
        raise RepositoryWriteError("no room")

    monkeypatch.setattr(ModelRepository, "publish", full)
    with pytest.raises(RepositoryWriteError):
        await publish()
    assert versions() == []
    assert await cancel(redis, task_id, 60)


async def test_who_hangs_before_it_publishes_takes_it_back(
    publish, redis_server, lease, task_id, fake_triton, monkeypatch, versions
):
    """Another worker finds nothing published, and the task is cancelled, while this one hangs."""
    put = ModelRepository.publish

    def late(*arguments):
        with blocking_redis.Redis.from_url(redis_server.url) as other:
            other.hdel(f"bridge:job:{task_id}", "publishing")
            other.set(task_id, cancelled_record())
        return put(*arguments)

    monkeypatch.setattr(ModelRepository, "publish", late)
    with pytest.raises(TaskCancelledError):
        await publish()
    assert versions() == []
    assert fake_triton.served == {}


async def test_only_the_owner_decides_and_a_successor_finds_what_it_left(jobs, task_id, redis):
    short = Jobs(redis, f"queue-{uuid.uuid4().hex}", lease_s=0.1, keep_s=60)
    first = await short.claim(task_id, Asking("somebody", b"message"))
    assert await short.commit(task_id, first.number) == "yours"
    await asyncio.sleep(0.3)
    second = await short.claim(task_id, Asking("another", b"message"))
    assert second.answer == "yours"
    with pytest.raises(LeaseLostError):
        await Lease(short, task_id, first.number, 1).commit()
    await short.recall(task_id, first.number)  # changes nothing
    with pytest.raises(TooLateError):
        await cancel(redis, task_id, 60)
    await short.recall(task_id, second.number)
    assert await cancel(redis, task_id, 60)
    assert await short.commit(task_id, second.number) == "ended"


async def test_the_command_says_which(lease, jobs, redis, redis_server, task_id, monkeypatch):
    await jobs.commit(task_id, lease.token)
    ended, waiting = uuid.uuid4().hex, uuid.uuid4().hex
    await redis.set(ended, b"a result", ex=60)
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    assert await command._cancel([task_id, ended, waiting], now=False) == {
        task_id: "too late: it is being published",
        ended: "has ended already",
        waiting: "cancelled; no training of this id is known (right for an inference)",
    }


@pytest.mark.usefixtures("trainings")
@pytest.mark.parametrize("published", [True, False])
async def test_after_a_workers_death_the_next_ends_it_as_it_was_decided(
    pool, redis, redis_server, task_id, make_fake_triton, published
):
    """Its deadline has passed meanwhile. What is in the repository succeeds, all else expires."""
    settings, model = Settings(), f"decided-{task_id[:8]}"
    jobs = Jobs(redis, settings.taskiq_ml_training_queue, lease_s=0.1, keep_s=60)
    claim = await jobs.claim(task_id, Asking("dead", b"message"))
    assert await jobs.commit(task_id, claim.number) == "yours"
    request = ("few", {**CNN, "model_id": model}, {})
    if published:
        triton = make_fake_triton(settings.model_repository)
        training = Training(parse_request(*request, settings), task_id, settings, triton)
        await training.go_on(Turn(), ignore)
    with pytest.raises(TooLateError):
        await pool.client.handle(task_id).cancel()
    labels = {"deadline": time.time() - 5}
    await pool.client._connections.send("training", "train_model", request, labels, task_id)
    await pool.start()
    handle = pool.client.handle(task_id)
    if published:
        assert (await handle.result(120))["model_version"] == "1"
    else:
        with pytest.raises(TaskExpiredError):
            await handle.result(120)
    assert pool.versions(model) == [1] * published
    assert not await handle.cancel()
