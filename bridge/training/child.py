"""The training process: `python -P -m bridge.training.child FD PARENT`, see `starting`.

Enters: lines on standard input: one JSON job, perhaps long after torch is loaded, later perhaps
"stop". Leaves: lines of JSON on the inherited descriptor FD, as libraries print to standard output
and error what they like, and files in the job's folder: checkpoints, `version/` (what a version is
made of) and `probe.npz` (real rows and torch's answers to them). Exits 0 after a `result` line, or
a `sliced` one; otherwise an `error` line tells why, unless it was killed.

It is a process of its own so that it can be killed at any moment, and its memory, on the GPU
too, is really free afterwards.
"""

import contextlib
import ctypes
import importlib
import io
import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from bridge.orphans import die_with
from bridge.training.failures import told

BUSY, WAITING = "mlbridge-train", "mlbridge-spare"
"""What the system calls this process: with a job, and before it has one."""

_PR_SET_NAME = 15  # linux/prctl.h


def main() -> int:
    """Do one job; returns the exit status."""
    die_with(int(sys.argv[2]))
    _be_called(WAITING, 1000)
    # Unbuffered: a buffer's lock would be held by the waiting thread when Python ends.
    orders = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 - for as long as it lives
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as lines:

        def report(kind: str, content: dict[str, Any]) -> None:
            lines.write(json.dumps({"kind": kind, **content}, allow_nan=False) + "\n")
            lines.flush()

        try:
            # Only now torch is loaded: the parent's death is already being watched for.
            work = importlib.import_module("bridge.training.job").work
            job = json.loads(orders.readline())
            _begin(job)
            stop = threading.Event()
            threading.Thread(target=_hear, args=(orders, stop), daemon=True).start()
            work(job, Path(job["folder"]), report, stop.is_set)
        except Exception as error:  # noqa: BLE001  (the parent must hear of it)
            with contextlib.suppress(OSError):  # the log is where the disk may be full
                traceback.print_exc()
            kind, text = told(error)
            report("error", {"class": kind.__name__, "message": text})  # and then it is killed
            return 1
    return 0


def _begin(job: dict[str, Any]) -> None:
    """What it prints goes where the job has it."""
    _be_called(BUSY, 500)
    with Path(job["log"]).open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def _hear(orders: io.FileIO, stop: threading.Event) -> None:
    """Wait for the parent's word."""
    for line in orders:
        if line.strip() == b"stop":
            stop.set()


def _be_called(name: str, oom_score_adj: int) -> None:
    """What people see who look at `ps` or `top`, and the kernel where memory runs out.

    Args:
        name: at most 15 bytes.
        oom_score_adj: it takes whoever has most memory, and counts this one as if it had so many
            thousandths of the machine's, or the container's, more.
    """
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
    with contextlib.suppress(OSError):  # no procfs, or a sandbox that forbids it
        Path("/proc/self/oom_score_adj").write_text(str(oom_score_adj))


if __name__ == "__main__":
    sys.exit(main())
