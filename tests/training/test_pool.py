"""The training pool on real servers: jobs take turns, and people steer them."""

import asyncio
import os
import signal
import time
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from bridge.embedded.ports import free_ports
from bridge.errors import TaskCancelledError, TaskExpiredError

LONG = {"epochs": 100_000, "batch_size": 8}
CNN = {"architecture": "cnn"}


async def until(check, most_s=60):
    """What `check` gives, once it gives something."""
    deadline = time.monotonic() + most_s
    while time.monotonic() < deadline:
        found = await check()
        if found:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {most_s} s")


async def progressed(handle, **wanted):
    """The first progress report with at least these figures."""

    async def look():
        report = await handle.progress()
        enough = report and all((report.get(key) or 0) >= least for key, least in wanted.items())
        return report if enough else None

    return await until(look)


async def in_state(client, handle, state):
    async def look():
        job = await client.job(handle.task_id)
        return job if job is not None and job.state == state else None

    return await until(look)


@pytest.mark.timeout(400)  # each of at least four slices loads torch
async def test_two_jobs_on_one_worker_take_turns(pool):
    await pool.start(BRIDGE_TRAINING_SLICE_S="1")
    handles = {
        name: await pool.client.train("few", {**CNN, "model_id": f"turns-{name}"}, LONG)
        for name in "ab"
    }
    order = []

    async def four_turns():
        for name, handle in handles.items():
            report = await handle.progress()
            if report and "slice" in report and (name, report["slice"]) not in order:
                order.append((name, report["slice"]))
        return len(order) >= 4

    await until(four_turns, 240)
    assert order[:4] == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    for handle in handles.values():
        assert await handle.cancel(now=True)
        await until(lambda handle=handle: gone(pool.client, handle))
        assert not await handle.pause()


async def test_pause_resume_priority_and_cancel(pool):
    await pool.start(BRIDGE_CHECKPOINT_EVERY_S="0.5")
    low = await pool.client.train("few", {**CNN, "model_id": "low"}, LONG, idempotency_key="x")
    again = await pool.client.train("few", {**CNN, "model_id": "low"}, LONG, idempotency_key="x")
    assert again.task_id == low.task_id
    await progressed(low, step=1)
    assert await low.pause()
    await in_state(pool.client, low, "paused")
    at = (await low.progress())["step"]

    # Its worker is free for others meanwhile.
    other = await pool.client.train("few", {**CNN, "model_id": "other"}, {"epochs": 1})
    await other.result(60)
    assert (await low.progress())["step"] == at

    # Of those that wait, the one with the higher priority is next.
    blocker = await pool.client.train("few", {**CNN, "model_id": "blocker"}, LONG)
    await progressed(blocker, step=1)
    assert await low.resume()
    high = await pool.client.train("few", {**CNN, "model_id": "high"}, {"epochs": 1}, priority=9)
    assert await blocker.pause()
    await high.result(60)
    assert (await pool.client.job(low.task_id)).state in {"queued", "running"}

    report = await progressed(low, slice=2, step=at + 1)
    assert report["checkpoint"]["step"] >= at - 1
    assert await low.cancel()
    with pytest.raises(TaskCancelledError):
        await low.result(10)
    assert not await low.cancel()
    assert await blocker.cancel(now=True)
    await until(lambda: gone(pool.client, low))
    assert pool.versions("low") == pool.versions("blocker") == []
    assert pool.versions("high") == [1]


async def gone(client, handle):
    return await client.job(handle.task_id) is None


async def test_a_stopped_worker_hands_its_training_on(pool):
    worker = await pool.start(BRIDGE_CHECKPOINT_EVERY_S="1000")
    handle = await pool.client.train("few", {**CNN, "model_id": "drained"}, LONG)
    report = await progressed(handle, step=20)
    assert report["checkpoint"] is None
    worker.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(worker.wait(), 30) == 0
    assert (await in_state(pool.client, handle, "queued")).slices == 1
    await pool.start()
    resumed = await progressed(handle, slice=2, step=21)
    assert resumed["checkpoint"]["step"] >= report["step"]
    await handle.cancel(now=True)


async def test_what_a_killed_worker_had_goes_on_before_its_lease_ends(pool):
    settings = {"BRIDGE_TRAINING_LEASE_S": "600", "BRIDGE_CHECKPOINT_EVERY_S": "0.5"}
    worker = await pool.start(**settings)
    handle = await pool.client.train("few", {**CNN, "model_id": "orphan"}, LONG)
    await progressed(handle, step=50)
    for process in pool.processes(worker):
        process.kill()
    await worker.wait()
    await pool.start(**settings)
    await progressed(handle, slice=2)
    await handle.cancel(now=True)


async def test_who_comes_back_too_late_loses(pool):
    settings = {"BRIDGE_TRAINING_LEASE_S": "2", "BRIDGE_CHECKPOINT_EVERY_S": "1"}
    first = await pool.start(**settings)
    handle = await pool.client.train(
        "few", {**CNN, "model_id": "fought-for"}, {"epochs": 60, "batch_size": 8}
    )
    report = await progressed(handle, step=50)
    pids = pool.stop_processes(first)  # as a machine that hangs: its connections stay open
    await pool.start(**settings)
    taken = await progressed(handle, slice=2, step=report["step"] + 1)
    assert taken["worker"] != report["worker"]
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    result = await handle.result(180)
    assert pool.versions("fought-for") == [1]
    assert result["slices"] == 2
    await until(lambda: asyncio.sleep(0, "another worker has" in pool.log(first)), 20)
    assert (await handle.result(1))["model_version"] == "1"


async def test_what_is_trained_waits_for_a_repository_that_takes_no_files(pool):
    """It failed after a few tries, and hours of training with it."""
    blocked = Path(pool.environment["MODEL_REPOSITORY"]) / ".publish.lock"
    blocked.unlink(missing_ok=True)
    blocked.mkdir()  # nobody can publish, root neither
    [port] = free_ports(1)
    await pool.start(BRIDGE_MAX_RETRIES="0", BRIDGE_METRICS_PORT=str(port))
    handle = await pool.client.train("few", {**CNN, "model_id": "no-room"}, {"epochs": 1})

    async def hindered():
        return ((await handle.progress()) or {}).get("hindered")

    try:
        assert "cannot publish" in await until(hindered)
        assert (await in_state(pool.client, handle, "queued")).slices == 1
    finally:
        blocked.rmdir()
    assert (await handle.result(90))["slices"] == 2
    assert pool.versions("no-room") == [1]
    page = (await asyncio.to_thread(httpx.get, f"http://127.0.0.1:{port}/metrics")).text
    turns = [line for line in page.splitlines() if line.startswith("bridge_training_slices_total")]
    assert not [line for line in turns if 'outcome="failed"' in line]
    assert [line for line in turns if 'outcome="continued"' in line]


async def test_training_gives_way_to_inference_and_goes_on(pool, redis_server):
    gpu = f"gpu-{os.getpid()}"
    await pool.start(BRIDGE_SHARED_GPU=gpu, BRIDGE_CHECKPOINT_EVERY_S="1000")
    handle = await pool.client.train("few", {**CNN, "model_id": "polite"}, LONG)
    await progressed(handle, step=20)
    async with Redis.from_url(redis_server.url) as redis:
        await redis.set(f"bridge:busy:{gpu}", "1", ex=300)  # as an inference worker would
        await in_state(pool.client, handle, "queued")
        at = (await handle.progress())["step"]
        await redis.delete(f"bridge:busy:{gpu}")
    report = await progressed(handle, slice=2, step=at + 1)
    assert report["checkpoint"]["step"] >= at
    await handle.cancel(now=True)


async def test_a_training_ends_at_its_own_deadline_only(pool):
    await pool.start(BRIDGE_DEADLINE_S="0.001")  # is for inference
    request = ("few", {**CNN, "model_id": "short-of-time"}, LONG)
    ends = time.time() + 15
    task_id, _ = await pool.client._connections.send(
        "training", "train_model", request, {"deadline": ends}
    )
    handle = pool.client.handle(task_id)
    with pytest.raises(TaskExpiredError):
        await handle.result(60)
    assert time.time() > ends - 0.5
    await until(lambda: gone(pool.client, handle))
    assert pool.versions("short-of-time") == []
