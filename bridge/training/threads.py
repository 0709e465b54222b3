"""How many processors a training may use, and how it waits for work. The parent's side; no torch.

Enters: how many trainings a pool runs at a time, what the user has set, and with how many threads
the training began. Leaves: a number, and the variables of OpenMP that say it to the training
process. Left alone, each process takes every processor and has its idle threads turn in circles:
two of them on the same processors then are many times slower, not twice.
"""

import contextlib
import io
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

COUNT = "OMP_NUM_THREADS"

_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
_CGROUP = Path("/sys/fs/cgroup")

logger = logging.getLogger("bridge.training")


def pool_size(arguments: Sequence[str]) -> int:
    """Worker processes of a pool; each trains one model at a time.

    Args:
        arguments: of `taskiq worker`, as `sys.argv` has them; also in the processes it starts.
    """
    from taskiq.cli.worker.args import WorkerArgs  # noqa: PLC0415 - the training process does without

    given = list(arguments[1:])
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        return max(1, WorkerArgs.from_cli(given[1:] if given[:1] == ["worker"] else given).workers)
    return 1  # some other command, with the worker inside


def processors() -> int:
    """Processors that this process may use: by its affinity, and by its container's quota."""
    most = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):  # no cgroup of version 2, or "max": no limit
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        most = min(most, int(quota) // int(period))
    return max(1, most)


def threads_for(at_once: int, fixed: int | None, began_with: int | None) -> int:
    """With how many threads a training computes.

    Sums of floats depend on it in their last bits. So it stays what it was, wherever the training
    goes on, unless the user says otherwise or there are fewer processors.

    Args:
        at_once: trainings that the pool runs at a time.
        fixed: what BRIDGE_TRAINING_THREADS says; OMP_NUM_THREADS overrules it.
        began_with: in the training's first slice; None: this is the first.
    """
    here = processors()
    said = _said(os.environ) or fixed
    if said is None and began_with is not None and began_with <= here:
        return began_with
    threads = said or max(1, here // at_once)
    if began_with not in {None, threads}:
        logger.warning(
            "a training that began with %s threads goes on with %s: the last bits of its weights "
            "may differ from those of a training in one piece",
            began_with,
            threads,
        )
    return threads


def environment(threads: int | None) -> dict[str, str]:
    """All variables of a training process; what the user has set of them stays.

    Args:
        threads: None: as many as there are processors.
    """
    count = {} if threads is None else {COUNT: str(threads)}
    return {**_PASSIVE, **count, **os.environ}


def _said(variables: Mapping[str, str]) -> int | None:
    """OMP_NUM_THREADS: a number, or a list with one for each level of nesting."""
    first = variables.get(COUNT, "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None
