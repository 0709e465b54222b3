"""Who trains: a lease with a fencing token, on a real Redis; each message counts once."""

import asyncio
import uuid

import pytest

from bridge.jobs import Asking, Jobs
from bridge.training.reaper import reap


@pytest.fixture
def jobs(redis):
    return Jobs(redis, f"queue-{uuid.uuid4().hex}", lease_s=0.3, keep_s=60)


@pytest.fixture
def task():
    return uuid.uuid4().hex


def ask(baton=0, priority=0, floor=0, **limit):
    return Asking("somebody", b"message", baton=baton, priority=priority, floor=floor, **limit)


async def test_one_owner_until_the_lease_is_over_and_no_way_back(jobs, task):
    first = await jobs.claim(task, ask())
    assert (first.answer, first.number, first.slices) == ("yours", 1, 1)
    held = await jobs.claim(task, ask())
    assert held.answer == "held"
    assert held.number == first.number
    assert 0 < held.left_ms <= 300
    for _ in range(4):
        await asyncio.sleep(0.15)
        assert await jobs.renew(task, first.number) == ""
    await asyncio.sleep(0.4)
    # Nobody took it: it is still the first one's.
    assert await jobs.renew(task, first.number) == ""
    await asyncio.sleep(0.4)
    second = await jobs.claim(task, ask())
    assert (second.answer, second.number, second.slices) == ("yours", 2, 2)
    assert await jobs.renew(task, first.number) == "lost"
    await jobs.release(task, first.number)  # changes nothing
    assert (await jobs.claim(task, ask())).answer == "held"


async def test_tokens_grow_even_if_redis_forgets(jobs, redis, task):
    claim = await jobs.claim(task, ask(floor=41))
    assert claim.number == 42
    await redis.flushdb()
    assert await jobs.renew(task, 42) == ""  # nobody has a newer one
    assert (await jobs.claim(task, ask())).answer == "held"


async def test_of_several_messages_one_counts(jobs, task):
    first = await jobs.claim(task, ask())
    await jobs.release(task, first.number)
    # The worker died after it had published the continuation (baton 1), before it acknowledged.
    again = await jobs.claim(task, ask(baton=0))
    assert again.answer == "yours"
    assert again.number == 2
    await jobs.release(task, 2)
    assert (await jobs.claim(task, ask(baton=1))).answer == "stale"
    # Two continuations of one slice cannot be; the newest is good, its predecessor too, until then.
    newest = await jobs.claim(task, ask(baton=2))
    assert newest.number == 3
    await jobs.release(task, 3)
    assert (await jobs.claim(task, ask(baton=0))).answer == "stale"
    assert (await jobs.claim(task, ask(baton=2))).answer == "yours"
    await jobs.forget(task)
    assert await jobs.find(task) is None


async def test_pausing_and_resuming(jobs, task):
    await jobs.pause(task)  # before anybody has heard of it
    assert await jobs.find(task) is None  # nor is heard of it, as it may be a slip of the hand
    assert await jobs.all() == []
    assert await jobs.to_be_paused(task)
    assert (await jobs.claim(task, ask())).answer == "paused"
    job = await jobs.find(task)
    assert (job.state, job.pausing) == ("paused", True)
    assert task in [job.task_id for job in await jobs.all()]
    token, message = await jobs.resume(task)
    assert (token, message) == (1, b"message")
    claim = await jobs.claim(task, ask(baton=token))
    assert claim.answer == "yours"
    await jobs.pause(task)
    assert await jobs.renew(task, claim.number) == "pause"
    assert await jobs.resume(task) is None  # it had not stopped yet
    assert not await jobs.to_be_paused(task)
    assert await jobs.renew(task, claim.number) == ""


async def test_a_higher_priority_goes_first_once_a_turn(jobs):
    low, high = uuid.uuid4().hex, uuid.uuid4().hex
    await jobs.register(high, 5)
    assert (await jobs.claim(low, ask())).answer == "yield"
    # Its message did not come between: it is not in the queue, and nobody waits for it for ever.
    claim = await jobs.claim(low, ask())
    assert claim.answer == "yours"
    await jobs.release(low, claim.number)
    other = await jobs.claim(high, ask(priority=5))
    assert other.answer == "yours"
    again = await jobs.claim(low, ask(baton=1))  # it trains: another worker need not wait
    assert again.answer == "yours"
    await jobs.release(low, again.number)
    await jobs.release(high, other.number)
    assert (await jobs.claim(low, ask(baton=again.number))).answer == "yield"
    await jobs.forget(high)
    assert (await jobs.claim(low, ask(baton=again.number))).answer == "yours"
    await jobs.forget(low)


async def test_what_nobody_owns_is_handed_on(jobs, task):
    published = []

    async def publish(message, baton):
        published.append((message, baton))

    claim = await jobs.claim(task, ask())
    reaper = asyncio.create_task(reap(jobs, publish, every_s=0.2))
    await asyncio.sleep(0.2)
    assert published == []
    async with asyncio.timeout(5):
        while not published:
            await asyncio.sleep(0.05)
    assert published == [(b"message", 2)]
    assert await jobs.renew(task, claim.number) == "lost"
    await asyncio.sleep(0.6)
    assert len(published) == 1
    successor = await jobs.claim(task, ask(baton=2))
    assert successor.answer == "yours"
    await jobs.release(task, successor.number)
    assert (await jobs.claim(task, ask(baton=0))).answer == "stale"  # the one that was late
    reaper.cancel()
    await jobs.forget(task)


async def test_what_was_resumed_is_not_lost_if_its_message_is_not_sent(jobs, task):
    """The caller dies, or RabbitMQ is away, when all messages of before are stale already."""
    claim = await jobs.claim(task, ask())
    await jobs.release(task, claim.number)
    await jobs.pause(task)
    assert (await jobs.claim(task, ask(baton=claim.number))).answer == "paused"
    token, _ = await jobs.resume(task)
    assert (await jobs.claim(task, ask(baton=claim.number))).answer == "stale"
    published = asyncio.Queue()

    async def publish(body, baton):
        published.put_nowait((body, baton))

    reaping = asyncio.create_task(reap(jobs, publish, every_s=0.1))
    body, baton = await asyncio.wait_for(published.get(), 10)
    while await jobs.overdue(-1):
        await asyncio.sleep(0.01)
    reaping.cancel()
    assert (body, baton) == (b"message", token + 1)
    assert (await jobs.claim(task, ask(baton=baton))).answer == "yours"


async def test_what_was_resumed_and_sent_is_owed_no_more(jobs, task):
    claim = await jobs.claim(task, ask())
    await jobs.release(task, claim.number)
    await jobs.pause(task)
    await jobs.claim(task, ask(baton=claim.number))
    token, _ = await jobs.resume(task)
    assert await jobs.overdue(-1) == [task]
    await jobs.handed_on(task, token - 1)  # of another message
    assert await jobs.overdue(-1) == [task]
    await jobs.handed_on(task, token)
    assert await jobs.overdue(-1) == []


async def test_who_is_lost_with_a_task_counts_until_one_gets_further(jobs, task):
    async def claim(floor=0):
        claim = await jobs.claim(task, ask(baton=baton, floor=floor, limit=3))
        return claim.answer, claim.number

    async def lose(number):
        """Its worker dies; a message that counts its deliveries anew takes its place."""
        await jobs.release(task, number, died=True)
        token, _ = await jobs.hand_on(task)
        return token

    baton = 0
    for _ in range(2):
        answer, number = await claim()
        assert answer == "yours"
        baton = await lose(number)
    answer, number = await claim()
    await jobs.release(task, number)  # as one does who lives
    for floor in (number, number, number):  # its checkpoint stays, and nobody gets further
        answer, number = await claim(floor)
        assert answer == "yours"
        baton = await lose(number)
    assert (await claim(floor))[0] == "poisonous"
    assert (await claim(number))[0] == "yours"  # the last one had got further


async def test_what_has_ended_is_swept_up(jobs, redis, task):
    """Redis may be away when its record is to be forgotten, or somebody pauses it just then."""
    running, waiting = f"{task}-running", f"{task}-waiting"
    for name in (task, running, waiting):
        claim = await jobs.claim(name, ask())
        if name != running:
            await jobs.release(name, claim.number)
    for name in (task, running):
        await redis.set(name, b"a result")
    await jobs.sweep()
    assert await jobs.find(task) is None
    assert {job.task_id for job in await jobs.all()} == {running, waiting}
    await asyncio.sleep(0.4)  # its lease is over
    await jobs.sweep()
    assert [job.task_id for job in await jobs.all()] == [waiting]


async def test_only_what_was_sent_need_not_be_sent_again(jobs, task):
    await jobs.sent(task)  # of which nothing is known: it has ended
    assert await jobs.find(task) is None
    await jobs.register(task, 0)
    assert not await jobs.was_sent(task)
    await jobs.sent(task)
    assert await jobs.was_sent(task)
    await jobs.withdraw(task)  # somebody who could not send it; another could
    assert await jobs.find(task) is not None
    await jobs.forget(task)
    await jobs.register(task, 0)
    await jobs.withdraw(task)
    assert await jobs.find(task) is None
