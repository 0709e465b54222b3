"""What is broken: RabbitMQ, Redis, Triton and worker pools, with a proxy on each way between them.

Leaves: a running `Stack`, all of which vanishes with the block. Each part has a lock: who breaks
it holds it until the part is back, so that faults of one part come one after the other, and those
of different parts overlap.
"""

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
from pydantic import SecretStr
from redis.asyncio import Redis

from bridge.background import all_or_nothing
from bridge.crashes import repair
from bridge.embedded.server import Server
from bridge.embedded.state import StateFolder
from bridge.embedded.triton import TritonServer
from bridge.embedded.workers import WorkerKind
from bridge.errors import InferenceFailedError, RuntimeStartError, TritonError
from bridge.settings import Settings
from bridge.tensors import Tensor
from bridge.triton_client import TritonClient
from bridgechaos.lessons import School
from bridgechaos.models import MOODY, STEADY, Models, rows
from bridgechaos.proxy import Link
from bridgechaos.servers import BROKER, DurableRedis, Pool, Rabbit

PRODUCERS = "producers"
TRAINING = ("training-1", "training-2")
_SUPERVISE_S = 1.0
# RabbitMQ 3.10 loses a quorum queue whose node is killed within a second of its declaration.
_DECLARED_S = 3.0
_PROBE_S = 2.0
_SICK_S = 20.0

logger = logging.getLogger("bridge.chaos")


class Part:
    """Something that can break, and the lock of who breaks it."""

    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self.server = server
        self.lock = asyncio.Lock()

    async def restart(self) -> None:
        """Kill it and start it again, once nobody else breaks it."""
        async with self.lock:
            await self.revive()

    async def revive(self) -> None:
        """Sweep away what is left of it and start it, as often as it takes.

        What only starts when others are up is started again, as a supervisor would.
        """
        while True:
            await self.server.kill()
            try:
                await self.server.start()
            except RuntimeStartError as error:
                logger.info("%s does not start yet: %s", self.name, str(error)[:200])
                await asyncio.sleep(_SUPERVISE_S)
            else:
                return


def why_ended(task: asyncio.Task[None]) -> str:
    """Why a task that should not end has ended."""
    return "cancelled" if task.cancelled() else repr(task.exception())


class Stack:
    """Parts by name, links by name, and direct ways to them that never break."""

    def __init__(self, state: StateFolder, *, training: bool) -> None:
        """Nothing runs yet."""
        self.models = Models(state.room("models"), small_disk=training)
        self.school = School(state.room("school")) if training else None
        """What is trained here."""
        self.mark = state.name
        """In the environment of every process of every part."""
        self.rabbitmq = Rabbit(state)
        self.redis_server = DurableRedis(state)
        self.triton = TritonServer(state, self.models.repository)
        self.parts: dict[str, Part] = {
            name: Part(name, server)
            for name, server in (
                ("rabbitmq", self.rabbitmq),
                ("redis", self.redis_server),
                ("triton", self.triton),
            )
        }
        self.links: dict[str, Link] = {}
        self.link_locks: dict[str, asyncio.Lock] = {}
        self.redis: Redis = Redis.from_url(self.redis_server.url, socket_timeout=5)
        """Straight to Redis, past every link."""
        self.unexpected: list[str] = []
        """Parts that ended although nobody broke them."""
        self.sick_since: float | None = None
        """When a model was first found dead in a Triton that runs."""
        self.helpers: dict[str, asyncio.Task[None]] = {}
        """Who looks after it, as long as it runs."""
        self.serials = 1
        """Rows numbered so far, over all runs on this stack."""
        self._state = state

    def close(self) -> None:
        """Take away what is not a plain folder."""
        self.models.close()
        if self.school is not None:
            self.school.close()

    @property
    def pools(self) -> dict[str, Pool]:
        """The worker pools by name."""
        found = {name: part.server for name, part in self.parts.items()}
        return {name: server for name, server in found.items() if isinstance(server, Pool)}

    @property
    def helpers_ended(self) -> dict[str, str]:
        """Those who do not look after it any more, and why."""
        return {name: why_ended(task) for name, task in self.helpers.items() if task.done()}

    @property
    def servers(self) -> list[Server]:
        """All parts' servers, workers last."""
        return [part.server for part in self.parts.values()]

    async def open_links(self, owner: str, stack: contextlib.AsyncExitStack) -> Settings:
        """Make a link from `owner` to each server; returns settings that lead through them."""
        ports = {
            "rabbitmq": self.rabbitmq.port,
            "redis": self.redis_server.port,
            "triton": self.triton.grpc_port,
        }
        links = {kind: Link(f"{owner}-{kind}", port) for kind, port in ports.items()}
        for link in links.values():
            await stack.enter_async_context(link)
            if not (owner == PRODUCERS and link is links["triton"]):  # they never speak to it
                self.links[link.name] = link
                self.link_locks[link.name] = asyncio.Lock()
        return self.settings(links["rabbitmq"].port, links["redis"].port, links["triton"].port)

    def settings(self, rabbitmq_port: int, redis_port: int, triton_port: int) -> Settings:
        """The bridge's settings; what else can be set still comes from the environment."""
        redis_url = self.redis_server.url.replace(self.redis_server.address, "{}")
        return Settings().model_copy(
            update={
                "bridge_queue": "rabbitmq",
                "rabbitmq_host": "127.0.0.1",
                "rabbitmq_port": rabbitmq_port,
                "rabbitmq_username": self.rabbitmq.username,
                "rabbitmq_password": SecretStr(self.rabbitmq.password),
                "rabbitmq_vhost": "/",
                "rabbitmq_tls": False,
                "redis_url": SecretStr(redis_url.format(f"127.0.0.1:{redis_port}")),
                "triton_url": f"127.0.0.1:{triton_port}",
            }
        )

    @property
    def direct(self) -> Settings:
        """Settings that lead past every link."""
        return self.settings(self.rabbitmq.port, self.redis_server.port, self.triton.grpc_port)

    def add_pool(
        self, name: str, kind: WorkerKind, settings: Settings, *, broker: str = BROKER, **more: str
    ) -> None:
        """A pool of one worker process; it is not started here."""
        variables = {
            "BRIDGE_QUEUE": "rabbitmq",
            "RABBITMQ_HOST": settings.rabbitmq_host,
            "RABBITMQ_PORT": str(settings.rabbitmq_port),
            "RABBITMQ_USERNAME": settings.rabbitmq_username,
            "RABBITMQ_PASSWORD": settings.rabbitmq_password.get_secret_value(),
            "RABBITMQ_VHOST": settings.rabbitmq_vhost,
            "RABBITMQ_TLS": "false",
            "REDIS_URL": settings.redis_url.get_secret_value(),
            "TRITON_URL": settings.triton_url,
            "TRITON_ADMIN_KEY": self.triton.admin_key,
            "MODEL_REPOSITORY": str(self.models.repository),
            "PYTHONUNBUFFERED": "1",
            **more,
        }
        pool = Pool(self._state, kind, variables)
        pool.broker = broker
        self.parts[name] = Part(name, pool)

    async def repair(self) -> None:
        """What training workers do besides training: reload models that crashed."""
        async with TritonClient([self.triton.address], self.triton.admin_key) as client:
            await repair(self.redis, client)

    async def supervise(self) -> None:
        """Start again what ended by itself, and remember that it did; until cancelled."""
        while True:
            await asyncio.sleep(_SUPERVISE_S)
            await self._look_after_models()
            for part in self.parts.values():
                if part.lock.locked() or part.server.process.running:
                    continue
                code = part.server.process.returncode
                self.unexpected.append(f"{part.name} ended with code {code}")
                async with part.lock:
                    await part.revive()

    async def _look_after_models(self) -> None:
        """Restart Triton when a model's process died: it does not start such a process again."""
        part = self.parts["triton"]
        if part.lock.locked():
            return
        if not await self._dead_model():
            self.sick_since = None
            return
        self.sick_since = self.sick_since or time.monotonic()
        if time.monotonic() - self.sick_since > _SICK_S:
            await part.restart()
            self.sick_since = None

    async def _dead_model(self) -> bool:
        row = Tensor.from_array(rows([0]))  # 0 is nobody's row
        async with TritonClient([self.triton.address]) as client:
            for model in (STEADY, MOODY):
                try:
                    await client.infer(model, {"x": row}, timeout_s=_PROBE_S)
                except InferenceFailedError:
                    return True
                except TritonError:
                    continue  # busy, paused or away: not what this is about
        return False

    def save_logs(self, folder: Path) -> None:
        """Copy what every part wrote to where it outlives them."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in self.parts.items():
            shutil.copyfile(part.server.process.log_path, folder / f"{name}.log")

    def processes(self) -> Iterator[psutil.Process]:
        """Every process of every part."""
        for server in self.servers:
            with contextlib.suppress(psutil.NoSuchProcess):
                main = psutil.Process(server.pid)
                yield main
                yield from main.children(recursive=True)


@asynccontextmanager
async def open_stack(
    *, workers: int = 2, training: bool = False, broker: str = BROKER, **more: str
) -> AsyncIterator[tuple[Stack, Settings]]:
    """Start everything; yields it, with the settings of producers.

    Args:
        workers: inference pools, of one process each.
        training: two training pools as well, as one alone never loses a training to another.
        broker: whose broker the inference pools serve; another than ours to see it found out.
        **more: variables of the pools.
    """
    async with StateFolder() as state, contextlib.AsyncExitStack() as exits:
        stack = Stack(state, training=training)
        exits.callback(stack.close)
        exits.push_async_callback(stack.redis.aclose)
        settings = await stack.open_links(PRODUCERS, exits)
        names = [f"worker-{number}" for number in range(1, workers + 1)]
        for name in names:
            own = await stack.open_links(name, exits)
            stack.add_pool(name, "inference", own, broker=broker, **more)
        if stack.school is not None:
            for name in TRAINING:
                own = await stack.open_links(name, exits)
                stack.add_pool(name, "training", own, **stack.school.variables, **more)
        try:
            await all_or_nothing(server.start() for server in stack.servers[:3])
            await all_or_nothing(server.start() for server in stack.servers[3:])
            await asyncio.sleep(_DECLARED_S)
            async with _looked_after(stack):
                yield stack, settings
        finally:  # nothing of theirs is kept: no need to ask them to end in order
            await asyncio.gather(*(server.kill() for server in stack.servers))


@asynccontextmanager
async def _looked_after(stack: Stack) -> AsyncIterator[None]:
    stack.helpers = {
        "the supervisor": asyncio.create_task(stack.supervise()),
        "who reloads crashed models": asyncio.create_task(stack.repair()),
    }
    try:
        yield
    finally:
        for task in stack.helpers.values():
            task.cancel()
        await asyncio.gather(*stack.helpers.values(), return_exceptions=True)
