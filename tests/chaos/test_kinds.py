"""A fault that cannot be had is refused; one that hits nobody says so."""

import asyncio
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from bridgechaos import faults
from bridgechaos.faults import Scene
from bridgechaos.kinds import NoSuchFaultError, kinds, targets
from bridgechaos.plan import Fault
from bridgechaos.proxy import Link

ROOT = Path(__file__).parent.parent.parent


def stack(*, training=False, disk=None):
    school = SimpleNamespace(no_small_disk=disk) if training else None
    links = {"worker-1-redis": None}
    models = SimpleNamespace(no_small_disk=disk)
    return SimpleNamespace(pools={"worker-1": None}, links=links, school=school, models=models)


def test_every_kind_can_be_done():
    assert kinds(training=True) == sorted(faults._ACTS)
    assert set(targets(stack(training=True))) == set(kinds(training=True))
    assert set(targets(stack())) == set(kinds(training=False)) < set(kinds(training=True))


def test_only_some():
    assert targets(stack(), ("cut", "redis full")) == {
        "cut": ["worker-1-redis"],
        "redis full": ["redis"],
    }


@pytest.mark.parametrize(
    ("here", "kind", "said"),
    [
        (stack(), "redis kiled", "there are: blackholed, crashing model"),
        (stack(), "training killed", "nobody trains without --training"),
        (stack(training=True, disk="only root may"), "disk full", "disk full .only root may"),
    ],
)
def test_what_cannot_be_had_is_refused(here, kind, said):
    with pytest.raises(NoSuchFaultError, match=f"no fault here is called {kind}; .*{said}"):
        targets(here, ("cut", kind))


@pytest.mark.parametrize("more", [[], ["--one-at-a-time"]])
def test_the_command_refuses_an_unknown_kind_before_it_starts_anything(more):
    command = [sys.executable, "-P", "chaos/run.py", "--only", "redis kiled", *more]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 2
    assert "redis kiled" in ran.stderr
    assert "redis killed" in ran.stderr
    assert "starting RabbitMQ" not in ran.stderr


@pytest.mark.parametrize("kind", ["cut", "blackholed", "half-open"])
async def test_a_link_that_nobody_uses_hits_nobody(kind):
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with server, Link("link", server.sockets[0].getsockname()[1]) as link:
        links = SimpleNamespace(links={"link": link}, link_locks={"link": asyncio.Lock()})
        scene = Scene(links, poison=None)
        fault = Fault(0, 0.0, kind, "link", 0.1, 0.5)
        assert not await scene.inject(fault)
        _, writer = await asyncio.open_connection("127.0.0.1", link.port)
        await asyncio.sleep(0.1)
        assert await scene.inject(fault)
        writer.close()
