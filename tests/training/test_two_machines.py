"""Two machines train together: the second has a network, a name, processes and files of its own.

It is a set of Linux namespaces, joined to this machine by a cable (a veth pair) that can be pulled.
Datasets are copies there; checkpoints are what both can reach, a bucket.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import uuid

import psutil
import pytest

from bridge.training.board import GONE_S

WAIT_S = 240  # processes that load torch, on a machine that may be busy
CUT_SHORT = "only root may make network namespaces: run it as root, or nothing crosses a network"
HOSTNAME = "second-machine"


class Machine:
    """The second machine; `ours` and `its` are the addresses of both ends of the cable."""

    def __init__(self):
        self._name = f"mlb{secrets.token_hex(3)}"  # a network interface's has 15 characters at most
        net = f"198.18.{secrets.randbelow(256)}"  # RFC 2544: for tests of networks
        host = 4 * secrets.randbelow(63)
        self.ours, self.its = f"{net}.{host + 1}", f"{net}.{host + 2}"

    def begin(self):
        """Raises CalledProcessError where that is not allowed."""
        name = self._name
        _ip("netns", "add", name)
        _ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        _ip("address", "add", f"{self.ours}/30", "dev", f"{name}a")
        _ip("-n", name, "address", "add", f"{self.its}/30", "dev", f"{name}b")
        for link in ("lo", f"{name}b"):
            _ip("-n", name, "link", "set", link, "up")
        self.plug()

    def plug(self):
        _ip("link", "set", f"{self._name}a", "up")

    def unplug(self):
        _ip("link", "set", f"{self._name}a", "down")

    def end(self):
        _ip("netns", "delete", self._name)  # and its end of the cable, and so ours

    async def start(self, environment, log):
        """A training node there, in processes that see no others."""
        command = (
            *("ip", "netns", "exec", self._name),
            *("unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("sh", "-c", f'hostname {HOSTNAME} && exec "$0" "$@"'),
            *(sys.executable, "-P", "-m", "bridge", "training-node", "--head", self.ours),
        )
        with log.open("wb") as output:
            return await asyncio.create_subprocess_exec(
                *command,
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )


def _ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def machine():
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip(f"{CUT_SHORT}; and Debian's iproute2 is needed")
    machine = Machine()
    try:
        machine.begin()
    except subprocess.CalledProcessError as error:
        machine.end()
        pytest.skip(f"{CUT_SHORT}: {error.stderr.strip()}")
    yield machine
    machine.end()


@contextlib.asynccontextmanager
async def door(address, port):
    """What listens on a port of 127.0.0.1 is reached at an address of ours, too."""
    passing = set()

    async def serve(reader, writer):
        passing.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.CancelledError):
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))

    server = await asyncio.start_server(serve, address, port)
    try:
        yield
    finally:
        server.close()
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing)


async def _pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@pytest.fixture
async def servers(machine, redis_server, s3_server):
    """Redis and the bucket, for both machines; gives what both need to find them."""
    store = int(s3_server.endpoint.rpartition(":")[2])
    async with door(machine.ours, redis_server.port), door(machine.ours, store):
        yield {
            "REDIS_URL": redis_server.url.replace("127.0.0.1", machine.ours),
            "CHECKPOINT_ROOT": f"s3://{s3_server.bucket}/{uuid.uuid4().hex}",
            **{name: value for name, value in s3_server.variables.items() if "_URL" not in name},
            "BRIDGE_PAYLOAD_ENDPOINT": s3_server.endpoint.replace("127.0.0.1", machine.ours),
            "BRIDGE_TRAINING_GROUP": f"group-{uuid.uuid4().hex[:8]}",
            "BRIDGE_CHECKPOINT_EVERY_S": "0.2",
            "OMP_NUM_THREADS": "1",
        }


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("architectures_of_a_user")
async def test_the_cable_is_pulled_and_the_machine_hangs(
    pool, machine, servers, dataset_root, tmp_path
):
    pool.environment.update(servers)
    head = await pool.start(BRIDGE_TRAINING_ADDRESS=machine.ours)
    log = tmp_path / "node.log"
    shutil.copytree(dataset_root, tmp_path / "its-datasets")
    node = await machine.start({**servers, "DATASET_ROOT": str(tmp_path / "its-datasets")}, log)
    try:
        await _says(log, f"node {HOSTNAME}:1 of group")
        handle = await pool.client.train(
            "few",
            {"architecture": "slow", "model_id": "far"},
            {"epochs": 15, "batch_size": 24, "num_nodes": 2},
        )
        step = await _checkpoint_after(handle, 0)
        machine.unplug()
        await _lost(pool, head, 1)
        machine.plug()

        step = await _checkpoint_after(handle, step)
        everything = psutil.Process(node.pid).children(recursive=True)
        for process in everything:
            process.suspend()
        await _lost(pool, head, 2)
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

        result = await handle.result(2 * WAIT_S)
        assert result["metrics"]["epochs"] == 15
        assert pool.versions("far") == [1]
        assert log.read_text().count("joining task") == 3
    finally:
        os.killpg(node.pid, signal.SIGKILL)
        await node.wait()


async def _says(log, text):
    async with asyncio.timeout(WAIT_S):
        while text not in log.read_text():
            await asyncio.sleep(0.1)


async def _checkpoint_after(handle, step):
    """Wait until a checkpoint was saved beyond a step; returns its own."""
    async with asyncio.timeout(WAIT_S):
        while True:
            saved = (await handle.progress() or {}).get("checkpoint") or {"step": 0}
            if saved["step"] > step:
                return saved["step"]
            await asyncio.sleep(0.05)


async def _lost(pool, head, times):
    """Wait until the head has missed its node so often."""
    async with asyncio.timeout(GONE_S + WAIT_S):
        while pool.log(head).count(f"from its checkpoint: node {HOSTNAME}:1 is gone") < times:
            await asyncio.sleep(0.2)
