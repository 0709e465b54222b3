"""The parts' servers: those of the bridge, with what an examiner needs beside."""

import asyncio
from pathlib import Path

import psutil

from bridge.embedded.rabbitmq import RabbitMQServer, find_rabbitmq_server
from bridge.embedded.redis import RedisServer
from bridge.embedded.workers import WorkerPool

BROKER = "bridge.broker:broker"
_CTL_S = 60.0


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
    """A worker pool that may serve another module's broker."""

    broker = BROKER

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


def _is_worker(process: psutil.Process) -> bool:
    """Not Python's resource tracker, which multiprocessing starts beside it."""
    try:
        return "resource_tracker" not in " ".join(process.cmdline())
    except psutil.Error:
        return False
