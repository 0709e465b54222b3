"""Processes that must not outlive the one that started them. Linux.

Left behind, they hold what it had open: RabbitMQ goes on delivering to a worker that is dead for as
long as an orphan has its connection, which is until a heartbeat is missed, two minutes later. And
worker processes without their main process have nobody who could stop them: they would consume
beside the pool that is started in their place, and keep its port.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.util import register_after_fork

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with(parent: int, by: int = signal.SIGKILL) -> None:
    """Have the kernel end this process when the thread that started it ends, however it does."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, by) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the line above
        os.kill(os.getpid(), by)


def stop_with_main_process() -> None:
    """Have this worker process stop, as a SIGTERM has it, when its main process was killed."""
    main = multiprocessing.parent_process()
    if main is None or main.pid is None or sys.platform != "linux":  # no process of taskiq's making
        return
    if multiprocessing.get_start_method() != "forkserver":  # that has another parent
        die_with(main.pid, signal.SIGTERM)


def leave_none() -> None:
    """Have processes that `multiprocessing` forks from this one from now on end with it.

    Those of taskiq's process pool would wait for work for ever.
    """
    register_after_fork(leave_none, _watch_parent)


def _watch_parent(_: object) -> None:
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # not `die_with`: a thread that forked may end long before its process
        os._exit(1)
