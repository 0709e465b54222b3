"""The two worker pools, as taskiq's own command line starts them."""

import os
import re
import sys
from collections.abc import Mapping
from typing import Literal

from bridge.embedded.server import Server
from bridge.embedded.state import StateFolder
from bridge.errors import RuntimeStartError
from bridge.settings import load_settings

WorkerKind = Literal["inference", "training"]

_MARGIN_S = 5
"""So much longer than a worker's own drain timeout taskiq waits before it gives up."""

_LISTENING = b"Listening started."
_DIED = b"is dead. Scheduling reload."
_OWN_ERROR = re.compile(rb"^bridge\.errors\.(\w+: .*)$", re.MULTILINE)


def worker_command(
    kind: WorkerKind, workers: int, *, drain_timeout_s: float, run: str = "taskiq worker"
) -> list[str]:
    """The command of a worker pool.

    `-P` keeps the working folder off sys.path: a folder named `triton` there breaks torch.

    Args:
        kind: which queue it serves.
        workers: number of processes.
        drain_timeout_s: what the workers' BRIDGE_DRAIN_TIMEOUT_S will be.
        run: a module that takes `taskiq worker`'s arguments.
    """
    module, flags = {
        "inference": ("bridge.broker:broker", ["bridge.tasks.inference"]),
        # One training at a time in a process: it takes the whole device.
        "training": (
            "bridge.broker:training_broker",
            ["bridge.tasks.training", "--max-async-tasks", "1"],
        ),
    }[kind]
    return [
        *(sys.executable, "-P", "-m", *run.split(), module, *flags),
        *("--workers", str(workers)),
        *("--wait-tasks-timeout", str(drain_timeout_s + _MARGIN_S)),
    ]


class WorkerPool(Server):
    """One pool; ready when each of its processes listens on its queue.

    Args:
        state: where its log lies.
        kind: which queue it serves.
        workers: number of processes.
        environment: settings that overrule those of this process; a variable with the value
            None is taken away.
    """

    name = "worker"
    start_timeout_s = 120.0
    remedy = "Its log says why."

    def __init__(
        self,
        state: StateFolder,
        kind: WorkerKind,
        workers: int,
        environment: Mapping[str, str | None],
    ) -> None:
        super().__init__(state, f"{kind}-worker")
        self.workers = workers
        self._kind = kind
        self._variables = environment
        settings = load_settings()
        drain_s = environment.get("BRIDGE_DRAIN_TIMEOUT_S") or settings.bridge_drain_timeout_s
        self._drain_timeout_s = float(drain_s)
        self.stop_timeout_s = self._drain_timeout_s + _MARGIN_S + 10.0

    def _command(self) -> list[str]:
        return worker_command(self._kind, self.workers, drain_timeout_s=self._drain_timeout_s)

    def _environment(self) -> dict[str, str]:
        # Unlike a server, a worker may run what the user has installed, with its variables.
        merged = {**os.environ, **self._variables}
        return {name: value for name, value in merged.items() if value is not None}

    async def _answers(self) -> bool:
        log = self.process.log_since_start()
        if log.count(_DIED) >= self.workers:  # taskiq would start them again for ever
            raise RuntimeStartError(self._reason(log))
        return log.count(_LISTENING) >= self.workers

    def _reason(self, log: bytes) -> str:
        """The sentence of our own error at a traceback's end says enough; else the log's tail."""
        told = _OWN_ERROR.findall(log)
        if told:
            return f"{self.room.name} does not start: {told[-1].decode(errors='replace')}"
        return f"{self.room.name} does not start. {self.remedy}{self.process.described_tail()}"
