"""Finds and removes what a server may leave when it, or its owner, is killed.

Shared by the owner and by its keeper. Knows nothing of particular servers but Triton's two
habits: shared-memory segments under a prefix of ours, and a scratch folder in /tmp.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK_VARIABLE = "MLBRIDGE_STATE"
"""In the environment of every child and so of all its descendants: `<state>/<room>`. Unlike a
process group it survives `setsid`, and unlike a process id it is never reused."""

BIRTH_FILE = "born"
"""In a state folder, empty: its time is when the folder was made."""

_CLOCK_SLACK_S = 2.0  # start times are computed from the boot time, which may be rounded
_FIRST_LOAD_S = 5.0
_POLL_S = 0.02


@dataclass(frozen=True)
class Session:
    """A session that we started: for programs that overwrite their environment."""

    leader: int
    started: float

    @classmethod
    def of(cls, pid: int) -> "Session | None":
        """The session whose leader is `pid`; None if that process has ended already."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return None


def find_processes(mark: str, sessions: Iterable[Session] = ()) -> list[psutil.Process]:
    """Every living process that bears `mark` or belongs to one of `sessions`.

    Args:
        mark: `<state>`, for all of its rooms, or `<state>/<room>`.
        sessions: those started under that mark. The members of a session whose id now belongs
            to a younger leader are left alone: the id was reused.
    """
    by_id = {session.leader: session for session in sessions}
    return [process for process in _others() if _is_ours(process, mark, by_id)]


def end_processes(mark: str, sessions: Iterable[Session] = (), *, grace_s: float = 0.0) -> None:
    """End all that `find_processes` finds; returns when none is left, or after 10 s.

    Args:
        mark: as for `find_processes`.
        sessions: as for `find_processes`.
        grace_s: how long after SIGTERM they have before SIGKILL; 0 kills at once.
    """
    sessions = list(sessions)
    if grace_s > 0:
        asked = find_processes(mark, sessions)
        for process in asked:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        psutil.wait_procs(asked, timeout=grace_s)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = find_processes(mark, sessions)
        if not found:
            return
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(_POLL_S)


def remove_shared_memory(prefix: str) -> None:
    """Remove the segments in /dev/shm whose name begins with `prefix`."""
    for segment in Path("/dev/shm").glob(f"{prefix}*"):  # noqa: S108  # where Linux keeps them
        segment.unlink(missing_ok=True)


def remove_scratch(since: float) -> None:
    """Remove the empty /tmp/python_env_* folders of Triton servers that were killed.

    Triton's Python backend makes one when it loads its first model, at a fixed place whatever
    TMPDIR says, and removes it at its end. The folder does not tell whose it is: any that a
    living Triton may have made stays.

    Args:
        since: seconds since the epoch; older folders are not ours.
    """
    made: dict[Path, float] = {}
    for folder in Path("/tmp").glob("python_env_??????"):  # noqa: S108  # Triton's choice
        with contextlib.suppress(OSError):
            status = folder.stat()
            if status.st_uid == os.getuid():
                made[folder] = status.st_ctime
    for folder in set(made) - _in_use(made):
        if made[folder] >= since - _CLOCK_SLACK_S:
            with contextlib.suppress(OSError):  # not empty: in use after all
                folder.rmdir()


def _in_use(made: dict[Path, float]) -> set[Path]:
    """Those of the scratch folders, with their times, that a living Triton may have made."""
    used: set[Path] = set()
    for process in psutil.process_iter():
        start = _start_of_triton(process)
        if start is None:
            continue
        later = {path for path, time_s in made.items() if time_s >= start - _CLOCK_SLACK_S}
        # Most load a model when they start; one that did not may have made any later folder.
        used |= {path for path in later if made[path] <= start + _FIRST_LOAD_S} or later
    return used


def _start_of_triton(process: psutil.Process) -> float | None:
    try:
        if process.name() == "tritonserver" and process.status() != psutil.STATUS_ZOMBIE:
            return float(process.create_time())
    except psutil.Error:
        pass  # gone, or not ours to look at
    return None


def remove_state(folder: Path, sessions: Iterable[Session] = (), *, grace_s: float) -> None:
    """Remove a whole state folder and all that was started under it."""
    end_processes(folder.name, sessions, grace_s=grace_s)
    remove_shared_memory(folder.name)
    with contextlib.suppress(FileNotFoundError):  # killed before it had made anything
        remove_scratch((folder / BIRTH_FILE).stat().st_mtime)
    shutil.rmtree(folder, ignore_errors=True)


def _others() -> Iterator[psutil.Process]:
    me = os.getpid()
    return (process for process in psutil.process_iter() if process.pid != me)


def _is_ours(process: psutil.Process, mark: str, sessions: dict[int, Session]) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        bears = process.environ().get(MARK_VARIABLE, "")
        if bears == mark or bears.startswith(mark + "/"):
            return True
    except psutil.NoSuchProcess:
        return False
    except (psutil.AccessDenied, OSError):
        pass  # another user's, or one that hides: the session decides
    return _in_session(process, sessions)


def _in_session(process: psutil.Process, sessions: dict[int, Session]) -> bool:
    try:
        session = sessions.get(os.getsid(process.pid))
        if session is None or process.create_time() < session.started - _CLOCK_SLACK_S:
            return False
        leader = psutil.Process(session.leader)
        return bool(abs(leader.create_time() - session.started) <= _CLOCK_SLACK_S)
    except psutil.NoSuchProcess as error:
        # A session outlives its leader, and its id is not reused as long as it does.
        return bool(error.pid != process.pid)
    except OSError:
        return False
