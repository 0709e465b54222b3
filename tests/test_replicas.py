"""The least busy first, the failed last, and back when it is well."""

import asyncio

from bridge import replicas
from bridge.replicas import Replicas


async def yes(server):
    return True


async def test_the_least_busy_comes_first():
    servers = Replicas(["a", "b", "c"], yes)
    with servers.busy("a"), servers.busy("a"), servers.busy("b"):
        assert servers.candidates() == ["c", "b", "a"]
    assert servers.candidates() == ["a", "b", "c"]


async def test_a_failed_server_comes_last_until_it_is_well(monkeypatch):
    monkeypatch.setattr(replicas, "_ASK_EVERY_S", 0.01)
    well = set()

    async def ask(server):
        return server in well

    servers = Replicas(["a", "b"], ask)
    servers.take_out("a")
    servers.take_out("a")
    await asyncio.sleep(0.05)
    with servers.busy("b"):
        assert servers.candidates() == ["b", "a"]
    well.add("a")
    await asyncio.sleep(0.05)
    assert servers.candidates() == ["a", "b"]
    await servers.close()


async def test_a_single_server_is_never_out():
    servers = Replicas(["a"], yes)
    servers.take_out("a")
    assert servers.candidates() == ["a"]
    await servers.close()
