"""The parts' servers: those of the bridge, with what an examiner needs beside."""

import asyncio
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import psutil

from bridge.embedded.rabbitmq import RabbitMQServer, find_rabbitmq_server
from bridge.embedded.redis import RedisServer
from bridge.embedded.state import StateFolder
from bridge.embedded.workers import WorkerKind, WorkerPool

BROKER = "bridge.broker:broker"
_CTL_S = 60.0
_TOLD = re.compile(
    rb"(?:Started process|Process) worker-\d+ (?:restarted )?with pid (?P<pid>\d+)"
    rb"|(?P<listens>Listening started\.)|(?P<dead>is dead\. Scheduling reload\.)"
)


class Rabbit(RabbitMQServer):
    """A node that can be asked what lies where, and looks often enough to know."""

    def _environment(self) -> dict[str, str]:
        variables = super()._environment()
        erlang = variables["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"]
        erlang += " -rabbit quorum_tick_interval 500"  # how old its counts may be, in ms
        return {**variables, "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": erlang}

    async def queues(self) -> dict[str, tuple[int, int]]:
        """Messages of every queue, whoever made it: ready, and delivered but unacknowledged.

        Raises:
            RuntimeError: the node does not answer.
        """
        program = find_rabbitmq_server().with_name("rabbitmqctl")
        variables = super()._environment()
        del variables["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"], variables["RABBITMQ_DIST_PORT"]
        columns = ("name", "messages_ready", "messages_unacknowledged")
        process = await asyncio.create_subprocess_exec(
            *(program, "--quiet", "list_queues", "--no-table-headers", *columns),
            env=variables,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(_CTL_S):
                said, _ = await process.communicate()
        except TimeoutError:
            raise RuntimeError("rabbitmqctl did not end") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise RuntimeError(f"rabbitmqctl: {said.decode(errors='replace')}")
        lines = (line.split("\t") for line in said.decode().splitlines())
        return {name: (int(ready), int(unacked)) for name, ready, unacked in lines}


class DurableRedis(RedisServer):
    """Confirms a write when it is on disk: with `everysec` a kill may take what was confirmed."""

    def _command(self) -> list[str]:
        command = super()._command()
        with Path(command[-1]).open("a") as config:
            config.write("appendfsync always\n")
        return command


class Pool(WorkerPool):
    """A worker pool of one process that may serve another module's broker."""

    broker = BROKER

    def __init__(self, state: StateFolder, kind: WorkerKind, variables: Mapping[str, str]) -> None:
        """As `WorkerPool`."""
        super().__init__(state, kind, 1, variables)
        self.killed: set[int] = set()
        """Ids of its worker processes that were ended on purpose."""

    def _command(self) -> list[str]:
        return [self.broker if part == BROKER else part for part in super()._command()]

    @property
    def children(self) -> list[psutil.Process]:
        """Its worker processes, as far as they live."""
        try:
            children = psutil.Process(self.pid).children() if self.process.running else []
        except psutil.NoSuchProcess:
            return []
        return [child for child in children if _is_worker(child)]

    @property
    def starts(self) -> int:
        """How often one of its processes has begun to listen."""
        return self.process.log_since_start().count(b"Listening started.")

    def died(self) -> list[int]:
        """Ids of worker processes that ended though nobody ended them, since its first start."""
        return died_by_themselves(self.process.log_path.read_bytes(), self.killed)


def died_by_themselves(log: bytes, killed: Collection[int]) -> list[int]:
    """Ids of processes that had begun to listen, and are dead.

    One that dies before that may do so because what it needs is away.

    Args:
        log: of a pool of one process.
        killed: ids of those that were ended on purpose.
    """
    found: list[int] = []
    pid, listens = 0, False
    for line in _TOLD.finditer(log):
        if line["pid"]:
            pid, listens = int(line["pid"]), False
        elif line["listens"]:
            listens = True
        elif listens and pid not in killed:
            found.append(pid)
    return found


def _is_worker(process: psutil.Process) -> bool:
    """Not Python's resource tracker, which multiprocessing starts beside it."""
    try:
        return "resource_tracker" not in " ".join(process.cmdline())
    except psutil.Error:
        return False
