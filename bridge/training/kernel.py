"""What a training's processes ask of Linux: to end with their worker, and to be told apart."""

import contextlib
import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # linux/prctl.h


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the worker dies, however it dies."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the line above
        os.kill(os.getpid(), signal.SIGKILL)


def be_called(name: str, oom_score_adj: int) -> None:
    """What people see who look at `ps` or `top`, and the kernel where memory runs out.

    Args:
        name: at most 15 bytes.
        oom_score_adj: it takes whoever has most memory, and counts this one as if it had so many
            thousandths of the machine's, or the container's, more.
    """
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
    with contextlib.suppress(OSError):  # no procfs, or a sandbox that forbids it
        Path("/proc/self/oom_score_adj").write_text(str(oom_score_adj))
