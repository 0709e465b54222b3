"""The whole system on one machine: servers and worker pools, started, watched and stopped.

Enters: settings. Leaves: a running stack, as a list of parts and as settings that point at it.
What already answers where the settings say is used as it is; only what is missing is started.
"""

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from pydantic import SecretStr

from bridge.background import all_or_nothing
from bridge.embedded.dashboard import DashboardServer
from bridge.embedded.parts import (
    Part,
    PartState,
    dashboard_runs,
    rabbitmq_runs,
    redis_runs,
    triton_runs,
)
from bridge.embedded.ports import free_ports
from bridge.embedded.rabbitmq import RabbitMQServer, find_rabbitmq_server
from bridge.embedded.redis import RedisServer
from bridge.embedded.state import StateFolder
from bridge.embedded.supervision import Supervision
from bridge.embedded.triton import TritonServer
from bridge.embedded.variables import absolute, as_variables, no_files
from bridge.embedded.workers import WorkerKind, WorkerPool
from bridge.errors import RuntimeStartError
from bridge.settings import Settings, bracketed

__all__ = ["Part", "PartState", "QueueChoice", "Stack"]


class QueueChoice(StrEnum):
    """Where tasks wait."""

    AUTO = "auto"
    RABBITMQ = "rabbitmq"
    REDIS_STREAMS = "redis-streams"


_FOLDERS = {"MODEL_REPOSITORY", "DATASET_ROOT", "CHECKPOINT_ROOT", "BRIDGE_WORK_ROOT"}


class Stack:
    """`async with Stack(settings) as stack:`; all of it is up when the block begins.

    Args:
        settings: where to look for what runs already, and everything else that workers read.
        private: use nothing that runs already, and keep models, datasets and checkpoints in
            the state folder: they vanish with the stack.
        queue: AUTO takes RabbitMQ where one answers or is installed, else Redis Streams.
        workers: inference worker processes; `ML_WORKER_COUNT` by default, 0 for none.
        training_workers: training worker processes; 0 for none.
        dashboard: have a Taskiq Dashboard, and tell it of tasks.
        on_change: called with a part whenever its state changes.
    """

    def __init__(  # noqa: PLR0913  # each a choice of `mlbridge up`
        self,
        settings: Settings,
        *,
        private: bool = False,
        queue: QueueChoice = QueueChoice.AUTO,
        workers: int | None = None,
        training_workers: int = 1,
        dashboard: bool = False,
        on_change: Callable[[Part], None] | None = None,
    ) -> None:
        self.settings = self._given = absolute(settings)
        self._supervision = Supervision(on_change)
        self.parts = self._supervision.parts
        self._private = private
        self._queue = queue
        self._workers = settings.ml_worker_count if workers is None else workers
        self._training_workers = training_workers
        self._dashboard = dashboard
        self._state = StateFolder()

    @property
    def folder(self) -> Path:
        """The state folder; it vanishes with the stack."""
        return self._state.path

    @property
    def environment(self) -> dict[str, str]:
        """Every setting as a variable, for a process that serves this stack.

        Triton's admin key is left out: only training workers get it.
        """
        return as_variables(self.settings) | {"PYTHONUNBUFFERED": "1"}

    @property
    def client_environment(self) -> dict[str, str]:
        """The variables by which another terminal, with our environment, reaches this stack."""
        given, ours = as_variables(self._given), as_variables(self.settings)
        # Folders too, as the other terminal may be in another one.
        return {k: v for k, v in ours.items() if k in _FOLDERS or given.get(k) != v}

    async def __aenter__(self) -> Self:
        await self._state.__aenter__()
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def watch(self, stop: asyncio.Event) -> None:
        """Keep our own parts running until `stop` is set.

        A part that ends is started again on its port and data, at most 3 times in 60 seconds.

        Raises:
            RuntimeStartError: a part ended once too often, or does not start again.
        """
        await self._supervision.watch(stop)

    async def _start(self) -> None:
        self._use_folders()
        use_rabbitmq = await self._wants_rabbitmq()
        servers: list[Awaitable[None]] = [self._start_redis(), self._start_triton()]
        if use_rabbitmq:
            servers.append(self._start_rabbitmq())
        if self._dashboard:
            servers.append(self._start_dashboard())
        queue = QueueChoice.RABBITMQ if use_rabbitmq else QueueChoice.REDIS_STREAMS
        self._point_at(bridge_queue=queue.value)
        await all_or_nothing(servers)
        await all_or_nothing(
            self._start_workers(kind, count)
            for kind, count in self._worker_counts().items()
            if count > 0
        )
        pools = [part.metrics.removesuffix("/metrics") for part in self.parts if part.metrics]
        self._point_at(bridge_worker_urls=",".join(pools))

    def _worker_counts(self) -> dict[WorkerKind, int]:
        return {"inference": self._workers, "training": self._training_workers}

    def _use_folders(self) -> None:
        root = self._state.path if self._private else Path()
        names = ("model_repository", "dataset_root", "checkpoint_root")
        given = {name: getattr(self.settings, name) for name in names}
        folders = {
            name: (root / name if self._private else place).resolve()
            for name, place in given.items()
            if self._private or isinstance(place, Path)  # else it is a bucket
        }
        for name, folder in folders.items():
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RuntimeStartError(
                    f"cannot make the folder {folder} ({error.strerror}): set {name.upper()} to "
                    f"one that can be written, or run this in another folder"
                ) from None
        self._point_at(**folders)

    async def _wants_rabbitmq(self) -> bool:
        if self._queue is not QueueChoice.AUTO:
            return self._queue is QueueChoice.RABBITMQ
        if not self._private:
            if self.settings.bridge_queue == "redis-streams":
                return False
            if await rabbitmq_runs(self.settings):
                return True
        try:
            find_rabbitmq_server()
        except RuntimeStartError:
            return False
        return True

    async def _start_rabbitmq(self) -> None:
        if not self._private and await rabbitmq_runs(self.settings):
            self._supervision.add_found("rabbitmq", self.settings.rabbitmq_shown)
            return
        server = RabbitMQServer(self._state)
        await self._supervision.start("rabbitmq", server, server.address)
        self._point_at(
            rabbitmq_host="127.0.0.1",
            rabbitmq_port=server.port,
            rabbitmq_username=server.username,
            rabbitmq_password=SecretStr(server.password),
            rabbitmq_vhost="/",
            rabbitmq_tls=False,
            **no_files("rabbitmq"),
        )

    async def _start_redis(self) -> None:
        if not self._private and await redis_runs(self.settings):
            self._supervision.add_found("redis", self.settings.redis_shown)
            return
        server = RedisServer(self._state)
        await self._supervision.start("redis", server, server.address)
        payloads = self.settings.payload_connect_url or ""
        kept = payloads.startswith("rediss:")  # a payload store may need them
        self._point_at(redis_url=SecretStr(server.url), **({} if kept else no_files("redis")))

    async def _start_triton(self) -> None:
        if not self._private and await triton_runs(self.settings):
            self._supervision.add_found("triton", self.settings.triton_url)
            return
        server = TritonServer(
            self._state, self.settings.model_repository, traces_url=self.settings.traces_url
        )
        await self._supervision.start("triton", server, server.address)
        self._point_at(
            triton_url=server.address,
            triton_admin_key=SecretStr(server.admin_key),
            triton_tls=False,
            **no_files("triton"),
        )

    async def _start_dashboard(self) -> None:
        url = self.settings.taskiq_dashboard_url
        if url is not None and not self._private and await dashboard_runs(url):
            self._supervision.add_found("dashboard", url)
            return
        server = DashboardServer(self._state)
        await self._supervision.start("dashboard", server, server.url)
        self._point_at(
            taskiq_dashboard_url=server.url, taskiq_dashboard_token=SecretStr(server.token)
        )

    async def _start_workers(self, kind: WorkerKind, count: int) -> None:
        environment: dict[str, str | None] = {**self.environment, "TRITON_ADMIN_KEY": None}
        key = self.settings.triton_admin_key
        if kind == "training" and key is not None:
            environment["TRITON_ADMIN_KEY"] = key.get_secret_value()
        queue = {
            "inference": self.settings.taskiq_ml_queue,
            "training": self.settings.taskiq_ml_training_queue,
        }[kind]
        host, port = self._metrics_address(kind)
        environment |= {"BRIDGE_METRICS_HOST": host, "BRIDGE_METRICS_PORT": str(port)}
        pool = WorkerPool(self._state, kind, count, environment)
        metrics = f"http://{bracketed(host)}:{port}/metrics"
        await self._supervision.start(f"{kind} worker", pool, f"{count} on {queue}", metrics)

    def _metrics_address(self, kind: WorkerKind) -> tuple[str, int]:
        """Each pool has a port of its own; the inference pool the one that is set."""
        given = self._given.bridge_metrics_port if kind == "inference" else None
        told = "bridge_metrics_host" in self._given.model_fields_set
        host = self._given.bridge_metrics_host if told else "127.0.0.1"
        return host, given or free_ports(1)[0]

    async def _stop(self) -> None:
        """End all parts, workers first, and remove the state folder; whatever happens."""
        try:
            await self._supervision.stop()
        finally:
            # Also ends what a second Ctrl-C kept us from stopping in order.
            self._state.close()

    def _point_at(self, **changes: Any) -> None:
        self.settings = self.settings.model_copy(update=changes)
