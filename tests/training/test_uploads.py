"""Keeping checkpoints beside a training: it never waits, and the newest counts."""

import asyncio
import uuid

import pytest
from redis.asyncio import Redis

from bridge.errors import CheckpointError, LeaseLostError
from bridge.jobs import Asking, Jobs
from bridge.settings import Settings
from bridge.training.checkpoints import Checkpoint, Checkpoints, room
from bridge.training.places import open_checkpoint_store
from bridge.training.sweeper import sweep
from bridge.training.uploads import Uploads


class Slow:
    """Keeps a file once it is let, or fails as it is told to."""

    def __init__(self):
        self.begun, self.kept, self.error = [], [], None
        self.let = asyncio.Event()

    async def __call__(self, file, facts):
        self.begun.append(facts["step"])
        await self.let.wait()
        if self.error is not None:
            raise self.error
        self.kept.append(facts["step"])
        file.unlink()
        return Checkpoint(1, facts)


@pytest.fixture
def slow():
    return Slow()


@pytest.fixture
def save(tmp_path):
    def save(uploads, step):
        file = tmp_path / f"step-{step}.ckpt"
        file.write_bytes(b"state")
        uploads.add(file, {"step": step})
        return file

    return save


async def test_while_one_is_on_its_way_the_newest_of_the_others_waits(slow, save):
    async with Uploads(slow) as uploads:
        save(uploads, 1)
        await asyncio.sleep(0)  # it is on its way
        passed_over, newest = save(uploads, 2), save(uploads, 3)
        assert not passed_over.exists()
        assert uploads.kept is None
        slow.let.set()
        await uploads.finish()
        assert slow.begun == slow.kept == [1, 3]
        assert uploads.kept == {"step": 3}
        assert not newest.exists()


async def test_a_failure_does_not_end_the_training_and_the_last_is_tried_again(slow, save):
    slow.let.set()
    slow.error = CheckpointError("the store is away")
    async with Uploads(slow) as uploads:
        first = save(uploads, 1)
        while not slow.begun:
            await asyncio.sleep(0)
        uploads.check()
        second = save(uploads, 2)
        assert not first.exists()  # a newer one takes its place
        with pytest.raises(CheckpointError, match="the store is away"):
            await uploads.finish()
        assert slow.begun.count(2) >= 1
        assert second.exists()
        slow.error = None
        await uploads.finish()
        assert slow.kept == [2]
        slow.error = ValueError("what nobody thought of")
        save(uploads, 3)
        with pytest.raises(CheckpointError, match="ValueError: what nobody thought of"):
            await uploads.finish()


async def test_who_is_overtaken_hears_of_it(slow, save):
    slow.let.set()
    slow.error = LeaseLostError("another worker has it")
    async with Uploads(slow) as uploads:
        save(uploads, 1)
        with pytest.raises(LeaseLostError):
            await uploads.finish()
        with pytest.raises(LeaseLostError):
            uploads.check()


async def test_one_that_never_ends_is_given_up(slow, save):
    async with Uploads(slow, last_s=0.05) as uploads:
        save(uploads, 1)
        with pytest.raises(CheckpointError, match=r"within 0\.05 s; give CHECKPOINT_ROOT a faster"):
            await uploads.finish()
    assert slow.kept == []


async def test_the_sweep_spares_every_training_that_has_not_ended(redis_server, tmp_path):
    store = open_checkpoint_store(Settings(checkpoint_root=tmp_path))
    paused, waiting, running, ended = tasks = [uuid.uuid4().hex for _ in range(4)]
    for task in tasks:
        file = tmp_path / "file"
        file.write_bytes(b"state")
        await Checkpoints(store, task, "request").keep(1, file, {"step": 1})
    async with Redis.from_url(redis_server.url) as redis:
        jobs = Jobs(redis, f"queue-{uuid.uuid4().hex}", lease_s=60, keep_s=1)
        await jobs.pause(paused)
        for task in (paused, running, ended):
            await jobs.claim(task, Asking("somebody", b"message"))
        await jobs.register(waiting, 0)
        await jobs.forget(ended)
        # As if a week had passed in which nobody wrote a byte: all is older than may be kept.
        await sweep(jobs, store, keep_s=-1)
        assert set(await store.jobs()) == {room(task) for task in (paused, waiting, running)}

        # Nor do their records go: paused for ever, the others far longer than keep_s.
        assert await redis.ttl(f"bridge:job:{paused}") == -1
        assert await redis.ttl(f"bridge:job:{waiting}") > 29 * 86_400
        assert await redis.ttl(f"bridge:job:{running}") > 29 * 86_400
        await jobs.resume(paused)
        assert await redis.ttl(f"bridge:job:{paused}") > 29 * 86_400
        for task in tasks:
            await jobs.forget(task)
        await sweep(jobs, store, keep_s=3600)
        assert len(await store.jobs()) == 3
        await sweep(jobs, store, keep_s=-1)
        assert await store.jobs() == {}
