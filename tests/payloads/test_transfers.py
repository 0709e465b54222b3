"""Bounds and order of transfers, with a store in memory that can be held up."""

import asyncio

import numpy as np
import pytest

from bridge import errors
from bridge.payloads.transfers import Budget, Payloads
from bridge.references import Reference, StoredTensor
from bridge.settings import Settings


class MemoryStore:
    """Keeps payloads in a dict; `slow` is awaited before each transfer."""

    def __init__(self):
        self.kept = {}
        self.deletions = []
        self.busy = self.most_busy = 0
        self.broken = set()
        self.closed = False

    async def put(self, key, data):
        await self._work()
        if len(data) in self.broken:
            raise errors.PayloadStoreError("broken")
        self.kept[key] = bytes(data)

    async def get(self, key, size):
        await self._work()
        return self.kept.get(key)

    async def delete(self, keys):
        self.deletions.append(list(keys))
        await asyncio.sleep(0.01)
        for key in keys:
            self.kept.pop(key, None)

    async def sweep(self, now):
        return 0

    async def close(self):
        self.closed = True

    async def _work(self):
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        await asyncio.sleep(0.001)
        self.busy -= 1


@pytest.fixture
def store():
    return MemoryStore()


def payloads_of(store, **changed):
    return Payloads(store, Settings(**changed))


def tensors_of(*sizes):
    return {str(i): ("UINT8", (size,), bytes(size)) for i, size in enumerate(sizes)}


async def test_transfers_go_side_by_side_within_bounds(store):
    payloads = payloads_of(store)
    stored = await payloads.put("input", tensors_of(*range(1, 101)))
    assert 2 <= store.most_busy <= 16
    assert len(await payloads.get("input", stored)) == 100
    assert store.most_busy <= 16


async def test_one_failure_leaves_nothing_behind(store):
    payloads = payloads_of(store)
    store.broken.add(7)
    with pytest.raises(errors.PayloadStoreError, match=r"^input '7': broken$"):
        await payloads.put("input", tensors_of(*range(40)))
    await payloads.close()
    assert store.kept == {}
    assert store.closed


async def test_a_cancelled_upload_leaves_nothing_behind(store):
    payloads = payloads_of(store)
    upload = asyncio.create_task(payloads.put("input", tensors_of(*range(40))))
    await asyncio.sleep(0.002)
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    await payloads.close()
    assert store.kept == {}


async def test_deletions_gather(store):
    payloads = payloads_of(store)
    payloads.discard([])
    assert store.deletions == []
    for i in range(2500):
        payloads.discard([str(i)])
    await payloads.close()
    assert [len(keys) for keys in store.deletions] == [1000, 1000, 500]


async def test_what_is_too_large_is_neither_sent_nor_asked_for(store):
    payloads = payloads_of(store, bridge_payload_max_bytes=10)
    with pytest.raises(errors.PayloadTooLargeError, match=r"input '0': 11 bytes; .* allows 10"):
        await payloads.put("input", tensors_of(11))
    stored = {"x": StoredTensor("UINT8", (11,), Reference("k", 11, "0"))}
    with pytest.raises(errors.PayloadTooLargeError, match=r"output 'x': .* 11 bytes; .* allows 10"):
        await payloads.get("output", stored)
    with pytest.raises(errors.PayloadTooLargeError, match="input 'x'"):
        async with payloads.held(stored):
            pass
    assert store.most_busy == 0


async def test_only_so_much_is_held_in_memory(store):
    payloads = payloads_of(store, bridge_payload_memory_bytes=100)
    stored = await payloads.put("input", tensors_of(*[30] * 30))
    held = most = 0

    async def use(name):
        nonlocal held, most
        async with payloads.held({name: stored[name]}) as tensors:
            held += len(tensors[name].data)
            most = max(most, held)
            await asyncio.sleep(0.001)
            held -= len(tensors[name].data)

    await asyncio.gather(*(use(name) for name in stored))
    assert 60 <= most <= 100


async def test_the_line_is_fair_and_survives_who_leaves_it():
    budget, order = Budget(10), []

    async def use(name, size, hold_s=0.01):
        async with budget.hold(size):
            order.append(name)
            await asyncio.sleep(hold_s)

    tasks = [asyncio.create_task(use(*a)) for a in [("a", 8), ("b", 99), ("c", 1), ("d", 2)]]
    await asyncio.sleep(0.001)
    assert order == ["a"]  # c would fit, but b was first
    tasks[1].cancel()
    await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["a", "c", "d"]
    async with asyncio.timeout(1), budget.hold(10):  # nothing has leaked
        pass


async def test_who_asks_for_all_gets_it_alone():
    budget = Budget(10)
    async with asyncio.timeout(1):
        async with budget.hold(99):
            pass
        async with budget.hold(10):
            pass


async def test_an_array_is_not_copied_on_its_way_to_the_store(store):
    seen = []

    async def put(key, data):
        seen.append(data)

    store.put = put
    array = np.arange(1000, dtype=np.float32)
    from bridge.tensors import raw_view  # noqa: PLC0415 - what this test is about

    datatype, data = raw_view(array)
    await payloads_of(store).put("input", {"x": (datatype, array.shape, data)})
    assert np.shares_memory(np.frombuffer(seen[0], np.float32), array)
