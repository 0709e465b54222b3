"""Several devices: a process for each, by torch's elastic launcher. In the training process only.

They are those of one machine, or those of several, of which each starts its own.

Enters: a job for more than one device. Leaves: the same lines of report as from one device. The
process that was asked starts one process for each device; all of them do the whole job together,
as Lightning's `ddp` has it, and the first alone reports, exports and writes. They stay in its
process group and die with it, so that killing the group ends all of a machine.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from bridge.errors import (
    BridgeError,
    InvalidTrainingRequestError,
    TrainingCrashedError,
    TrainingFailedError,
    error_class,
)
from bridge.orphans import die_with
from bridge.training.failures import told
from bridge.training.rendezvous import LOOPBACK, Meeting, register
from bridge.training.threads import processors

Report = Callable[[str, dict[str, Any]], None]
Stop = Callable[[], bool]
Work = Callable[[dict[str, Any], Report, Stop], None]
_Failure = tuple[type[BridgeError], str, bool]  # what to raise, and whether it is the reason

_RUN_ID = "slice"  # each has a store of its own
_JOIN_S = 10.0
_LOOK_EVERY_S = 0.2
_LET_SEE_S = 2.0  # in which the launcher sees who died first, if somebody did


def must_launch(world: int) -> bool:
    """Whether processes are to be started for so many devices; in one of those: no."""
    return world > 1 and not distributed.is_torchelastic_launched()


def place() -> tuple[int, int]:
    """This process's number among those that train together, and how many they are."""
    if not distributed.is_torchelastic_launched():
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def leave() -> None:
    """Part from those that train together, at the same time as they do: NCCL waits for them."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def launch(  # noqa: PLR0913 - what, how often, and who is to be asked and told
    work: Work,
    job: dict[str, Any],
    devices: int,
    report: Report,
    stop: Stop = lambda: False,
    *,
    meeting: Meeting | None = None,
) -> None:
    """Do a job in one process for each device of this machine, and wait for them.

    Args:
        work: a function of a module, called in each process with the job, a report, and what
            tells whether to stop.
        job: what it needs, as JSON can carry it.
        devices: how many.
        report: gets what the first process reports, in this process.
        stop: whether they shall stop; asked in this process.
        meeting: where other machines that do the same job are met; None: there are none.

    Raises:
        InvalidTrainingRequestError: this machine has fewer GPUs.
        BridgeError: what the first to fail ended with.
        TrainingCrashedError: one of them was killed; or failed, where another machine may have been
            why.
    """
    found = torch.cuda.device_count()
    if 0 < found < devices:
        raise InvalidTrainingRequestError(
            f"hyperparameters.devices: {devices} were asked for, and this training worker has "
            f"{found}"
        )
    if meeting is None:  # nobody else needs to reach them
        meeting = Meeting.host(LOOPBACK)
    address, interface = meeting.interface
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", interface)
    context = multiprocessing.get_context("spawn")
    lines, stopping = context.SimpleQueue(), context.Event()
    failures: list[_Failure] = []
    listener = threading.Thread(target=_forward, args=(lines, report, failures), daemon=True)
    listener.start()
    threading.Thread(target=_watch, args=(stop, stopping), daemon=True).start()
    try:
        start = elastic_launch(_config(devices, meeting, address), _run)
        start(os.getpid(), work, job, lines, stopping)
    except ChildFailedError as error:
        lines.put(None)
        listener.join(_JOIN_S)
        raise _verdict(failures, error, meeting.nodes) from error
    lines.put(None)
    listener.join()


def _verdict(failures: list[_Failure], error: ChildFailedError, nodes: int) -> BridgeError:
    """What their end means: what one knows of itself, or that it was killed, or else its words."""
    for kind, text, surely in failures:
        if surely:
            return kind(text)
    # The launcher ends with SIGTERM those that are left.
    for one in error.failures.values():
        if one.exitcode < 0 and one.exitcode != -signal.SIGTERM:
            name = signal.Signals(-one.exitcode).name
            return TrainingCrashedError(
                f"the process of device {one.local_rank} was killed by {name}"
            )
    kind = TrainingFailedError if nodes == 1 else TrainingCrashedError
    if failures:
        return kind(failures[0][1])
    first = min(error.failures.values(), key=lambda one: one.timestamp)
    return kind(f"the process of device {first.local_rank} ended with exit code {first.exitcode}")


def _config(devices: int, meeting: Meeting, address: str) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=meeting.nodes,
        max_nodes=meeting.nodes,
        nproc_per_node=devices,
        run_id=_RUN_ID,
        rdzv_backend=register(),
        rdzv_endpoint=f"{meeting.address}:{meeting.port}",
        rdzv_configs=meeting.configuration,
        local_addr=address,
        max_restarts=0,  # the task is redelivered instead
        start_method="spawn",
        monitor_interval=0.1,
    )


def _forward(lines: Any, report: Report, failures: list[_Failure]) -> None:
    while (line := lines.get()) is not None:
        kind, content = line
        if kind == "error":
            known = error_class(content["class"]) or TrainingFailedError
            failures.append((known, content["text"], content["surely"]))
        else:
            report(kind, content)


def _watch(stop: Stop, stopping: Any) -> None:
    while not stop():
        time.sleep(_LOOK_EVERY_S)
    stopping.set()


def _run(parent: int, work: Work, job: dict[str, Any], lines: Any, stopping: Any) -> None:
    """What each process does."""
    die_with(parent)
    rank, _ = place()

    def report(kind: str, content: dict[str, Any]) -> None:
        if rank == 0:
            lines.put((kind, content))

    if not torch.cuda.is_available():
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        torch.set_num_threads(max(1, (job.get("threads") or processors()) // here))
    try:
        work(job, report, stopping.is_set)
    except Exception as error:  # noqa: BLE001 - told, and this process ends
        # From whichever comes first: the launcher ends the others as soon as one has ended. What
        # torch says may come of another's death.
        kind, text = told(error)
        surely = kind is not TrainingFailedError or isinstance(error, BridgeError)
        lines.put(("error", {"class": kind.__name__, "text": text, "surely": surely}))
        with contextlib.suppress(OSError):  # the log is where the disk may be full
            traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
        if not surely and place()[1] > 1:
            time.sleep(_LET_SEE_S)
        # Not by Python's way out: the others may wait for this one in a step of NCCL's, and this
        # one for them in leaving. The launcher ends them.
        os._exit(1)
    leave()
