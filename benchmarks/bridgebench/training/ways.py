"""Both ways to train: through the queue, and by hand. Leaves: seconds and metrics of each."""

import asyncio
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.client import BridgeClient
from bridge.embedded.workers import WorkerPool
from bridgebench.ground import Ground
from bridgebench.scenarios.run import Run
from bridgebench.training.works import Sizes, Work, write_datasets

_SCRIPT = Path(__file__).with_name("by_hand.py")
_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Trained:
    """One training that came to its end."""

    whole_s: float
    """By hand: from the start of the process to its end. Ours: from the call to the live model."""
    train_s: float
    """Of that, what Lightning's loop took."""
    accuracy: float
    loss: float
    slices: int = 1
    timings: dict[str, float] | None = None


class Pool:
    """A training worker on a queue of its own, and a client for it."""

    def __init__(self, run: Run, name: str, datasets: Path, **variables: str) -> None:
        """Nothing is started yet.

        Args:
            run: on whose servers.
            name: of the queue.
            datasets: where they lie.
            **variables: the worker's, beside where everything is.
        """
        ground: Ground = run.ground
        self.datasets = datasets
        self.worker: WorkerPool = ground.training_workers(
            DATASET_ROOT=str(datasets),
            CHECKPOINT_ROOT=str(ground.state.room(f"checkpoints-{name}")),
            TASKIQ_ML_TRAINING_QUEUE=name,
            TASKIQ_ML_TRAINING_ROUTING_KEY=name,
            **variables,
        )
        queue = {"taskiq_ml_training_queue": name, "taskiq_ml_training_routing_key": name}
        self.client = BridgeClient(ground.settings.model_copy(update=queue))

    async def train(self, work: Work) -> Trained:
        """One training, from the call to its result."""
        began = time.monotonic()
        handle = await self.client.train(work.name, work.model_config, work.hyperparameters)
        result: dict[str, Any] = await handle.result(_TIMEOUT_S)
        whole_s = time.monotonic() - began
        metrics, timings = result["metrics"], result["timings"]
        return Trained(
            whole_s,
            timings["train_s"],
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
    made = {name: Pool(run, name, datasets, **variables) for name, variables in each.items()}
    async with run.working(*(pool.worker for pool in made.values())):
        for pool in made.values():
            await pool.client.__aenter__()
        try:
            yield made
        finally:
            for pool in made.values():
                await pool.client.__aexit__(None, None, None)


async def train_by_hand(folder: Path, datasets: Path, work: Work, *, checkpoints: bool) -> Trained:
    """One training by the script, in a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    asked = work.by_hand(datasets, folder / "weights.pt", checkpoints=checkpoints)
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", str(_SCRIPT), json.dumps(asked)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    whole_s = time.monotonic() - began
    if process.returncode != 0:
        raise RuntimeError(f"the script by hand failed:\n{errors.decode()[-2000:]}")
    said = json.loads(output)
    return Trained(whole_s, said["train_s"], said["accuracy"], said["loss"])
