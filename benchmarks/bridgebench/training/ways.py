"""Both ways to train: through the queue, and by hand. Leaves: seconds and metrics of each."""

import asyncio
import contextlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bridge.client import BridgeClient
from bridge.embedded.state import StateFolder
from bridge.embedded.workers import WorkerPool
from bridge.training.child import WAITING
from bridgebench.ground import Ground
from bridgebench.processes import cpu_with_ended_s
from bridgebench.scenarios.run import Run
from bridgebench.training.works import Sizes, Work, write_datasets

_SCRIPT = Path(__file__).with_name("by_hand.py")
_TIMEOUT_S = 1800.0
_READY_S = 60.0
_STILL_S = 1.0


@dataclass(frozen=True, slots=True)
class Trained:
    """One training that came to its end."""

    whole_s: float
    """By hand: from the start of the process to its end. Ours: from the call to the live model."""
    train_s: float
    """Of that, what Lightning's loop took."""
    cpu_s: float
    """User and system time of the whole; of ours that of worker and training process."""
    accuracy: float
    loss: float
    slices: int = 1
    timings: dict[str, float] | None = None


class Pool:
    """A training worker on a queue of its own, and a client for it."""

    def __init__(self, run: Run, name: str, datasets: Path, variables: dict[str, str]) -> None:
        """Nothing is started yet.

        Args:
            run: on whose servers.
            name: of the queue.
            datasets: where they lie.
            variables: the worker's, beside where everything is.
        """
        ground: Ground = run.ground
        self.datasets, self._models = datasets, ground.models.repository
        self.worker: WorkerPool = ground.training_workers(
            DATASET_ROOT=str(datasets),
            CHECKPOINT_ROOT=str(ground.state.room(f"checkpoints-{name}")),
            TASKIQ_ML_TRAINING_QUEUE=name,
            TASKIQ_ML_TRAINING_ROUTING_KEY=name,
            **variables,
        )
        queue = {"taskiq_ml_training_queue": name, "taskiq_ml_training_routing_key": name}
        self._keeps_spare = ground.settings.bridge_training_spare
        self.client = BridgeClient(ground.settings.model_copy(update=queue))

    async def rest(self) -> bool:
        """Wait until it keeps a process ready that has loaded torch; False: it does not.

        So it is where memory is short, or BRIDGE_TRAINING_SPARE is false.
        """
        before: tuple[int, float] | None = None
        until = time.monotonic() + _READY_S
        while self._keeps_spare and time.monotonic() < until:
            now = self._spare()
            if now is not None and now == before:
                return True
            before = now
            await asyncio.sleep(_STILL_S)
        self._keeps_spare = False  # the next time nobody waits for it
        return False

    def _spare(self) -> tuple[int, float] | None:
        """Id and CPU seconds of the process that it keeps ready; they stand still once it waits."""
        for process in psutil.Process(self.worker.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name() == WAITING:
                    times = process.cpu_times()
                    return process.pid, times.user + times.system
        return None

    async def train(self, work: Work) -> Trained:
        """One training, from the call to its result."""
        worker = psutil.Process(self.worker.pid)
        began, cpu_s = time.monotonic(), cpu_with_ended_s(worker)
        handle = await self.client.train(work.name, work.model_config, work.hyperparameters)
        result: dict[str, Any] = await handle.result(_TIMEOUT_S)
        whole_s = time.monotonic() - began
        card = self._models / work.name / result["model_version"] / "card.json"
        published = time.time() - await asyncio.to_thread(lambda: card.stat().st_mtime)
        metrics, timings = result["metrics"], {**result["timings"], "publish_s": published}
        return Trained(
            whole_s,
            timings["train_s"],
            cpu_with_ended_s(worker) - cpu_s,
            metrics["accuracy"],
            metrics["loss"],
            result["slices"],
            timings,
        )


@asynccontextmanager
async def pools(run: Run, sizes: Sizes, **each: dict[str, str]) -> AsyncIterator[dict[str, Pool]]:
    """Workers by the names of their queues, which run during the block, and the datasets.

    Args:
        run: on whose servers.
        sizes: of the datasets.
        **each: variables of each worker.
    """
    datasets = run.ground.state.room("datasets")
    await asyncio.to_thread(write_datasets, datasets, sizes)
    made = {
        name: Pool(run, name, datasets, variables | threads(sizes))
        for name, variables in each.items()
    }
    async with run.working(*(pool.worker for pool in made.values())):
        for pool in made.values():
            await pool.client.__aenter__()
        try:
            yield made
        finally:
            for pool in made.values():
                await pool.client.__aexit__(None, None, None)


def threads(sizes: Sizes) -> dict[str, str]:
    """As variables of a process that trains."""
    return {"OMP_NUM_THREADS": str(sizes.threads)}


async def train_by_hand(
    work: Work, sizes: Sizes, state: StateFolder, datasets: Path, *, checkpoints: bool
) -> Trained:
    """One training by the script, in a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    room = state.room("by-hand")
    asked = work.by_hand(datasets, room / "weights.pt", checkpoints=checkpoints)
    began, cpu_s = time.monotonic(), _ended_cpu_s()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", str(_SCRIPT), json.dumps(asked)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # Marked as the state's, so that it ends with it.
        env={**os.environ, **state.environment(room), **threads(sizes)},
    )
    output, errors = await process.communicate()
    whole_s = time.monotonic() - began
    if process.returncode != 0:
        raise RuntimeError(f"the script by hand failed:\n{errors.decode()[-2000:]}")
    said = json.loads(output)
    shutil.rmtree(room)
    cpu_s = _ended_cpu_s() - cpu_s
    return Trained(whole_s, said["train_s"], cpu_s, said["accuracy"], said["loss"])


def _ended_cpu_s() -> float:
    """Of children that were waited for; servers are not among them."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
