"""Several devices: a process for each, by torch's elastic launcher. In the training process only.

Enters: a job for more than one device. Leaves: the same lines of report as from one device. The
process that was asked starts one process for each device; all of them do the whole job together,
as Lightning's `ddp` has it, and the first alone reports, exports and writes. They stay in its
process group and die with it, so that killing the group ends them all.
"""

import multiprocessing
import os
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from bridge.errors import (
    BridgeError,
    InvalidTrainingRequestError,
    TrainingFailedError,
    error_class,
)
from bridge.training.child import die_with
from bridge.training.failures import told
from bridge.training.rendezvous import LOOPBACK, register
from bridge.training.threads import processors

Report = Callable[[str, dict[str, Any]], None]
Stop = Callable[[], bool]
Work = Callable[[dict[str, Any], Report, Stop], None]

_INTERFACE = "lo"
_JOIN_S = 10.0
_LOOK_EVERY_S = 0.2


def must_launch(devices: int) -> bool:
    """Whether processes are to be started for so many devices; in one of those: no."""
    return devices > 1 and not distributed.is_torchelastic_launched()


def place() -> tuple[int, int]:
    """This process's number among those that train together, and how many they are."""
    if not distributed.is_torchelastic_launched():
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def launch(
    work: Work, job: dict[str, Any], devices: int, report: Report, stop: Stop = lambda: False
) -> None:
    """Do a job in one process for each device, and wait for them.

    Args:
        work: a function of a module, called in each process with the job, a report, and what
            tells whether to stop.
        job: what it needs, as JSON can carry it.
        devices: how many.
        report: gets what the first process reports, in this process.
        stop: whether they shall stop; asked in this process.

    Raises:
        InvalidTrainingRequestError: this machine has fewer GPUs.
        BridgeError: what the first to fail ended with.
        TrainingFailedError: one of them died.
    """
    found = torch.cuda.device_count()
    if 0 < found < devices:
        raise InvalidTrainingRequestError(
            f"hyperparameters.devices: {devices} were asked for, and this training worker has "
            f"{found}"
        )
    # On one machine nobody else needs to reach them.
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", _INTERFACE)
    context = multiprocessing.get_context("spawn")
    lines, stopping = context.SimpleQueue(), context.Event()
    failure: list[BridgeError] = []
    listener = threading.Thread(target=_forward, args=(lines, report, failure), daemon=True)
    listener.start()
    threading.Thread(target=_watch, args=(stop, stopping), daemon=True).start()
    try:
        elastic_launch(_config(devices), _run)(os.getpid(), work, job, lines, stopping)
    except ChildFailedError as error:
        lines.put(None)
        listener.join(_JOIN_S)
        if failure:
            raise failure[0] from error
        first = min(error.failures.values(), key=lambda one: one.timestamp)
        raise TrainingFailedError(
            f"the process of device {first.local_rank} ended with exit code {first.exitcode}"
        ) from error
    lines.put(None)
    listener.join()


def _config(devices: int) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend=register(),
        rdzv_endpoint=LOOPBACK,
        local_addr=LOOPBACK,
        max_restarts=0,  # the task is redelivered instead
        start_method="spawn",
        monitor_interval=0.1,
    )


def _forward(lines: Any, report: Report, failure: list[BridgeError]) -> None:
    while (line := lines.get()) is not None:
        kind, content = line
        if kind == "error":
            failure.append((error_class(content["class"]) or TrainingFailedError)(content["text"]))
        else:
            report(kind, content)


def _watch(stop: Stop, stopping: Any) -> None:
    while not stop():
        time.sleep(_LOOK_EVERY_S)
    stopping.set()


def _run(parent: int, work: Work, job: dict[str, Any], lines: Any, stopping: Any) -> None:
    """What each process does."""
    die_with(parent)
    rank, world = place()

    def report(kind: str, content: dict[str, Any]) -> None:
        if rank == 0:
            lines.put((kind, content))

    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, (job.get("threads") or processors()) // world))
    try:
        work(job, report, stopping.is_set)
    except Exception as error:
        # From whichever comes first: the launcher ends the others as soon as one has ended. What
        # another's death causes tells nothing.
        kind, text = told(error)
        if kind is not TrainingFailedError or isinstance(error, BridgeError):
            lines.put(("error", {"class": kind.__name__, "text": text}))
        raise
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
