"""Starts the training process, listens to it, and ends it. The parent's side; no torch.

Enters: a request and an empty folder. Leaves: an `Outcome`, with files in the folder. Whatever
happens, the process and all that it started are gone afterwards.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.errors import TrainingFailedError, error_class
from bridge.repository import Signature
from bridge.training.request import TrainingRequest

Progress = dict[str, Any]

_LOG_FILE = "child.log"
_LINE_BYTES = 16 * 1024 * 1024  # a plan with very many labels
_SHOWN_LINES = 12
_SHOWN_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Plan:
    """What the model will take and give; known before training begins."""

    signature: Signature


@dataclass(frozen=True, slots=True)
class Outcome:
    """A trained and exported model; its files lie in the folder that was given."""

    plan: Plan
    result: dict[str, Any]
    """`metrics`, `parity`, `dataset_hash`, `columns`, `target`, `task`, `rows`, `hyperparameters`
    (as used), `training_s`, `libraries`."""


@contextmanager
def work_folder(root: Path, task_id: str) -> Iterator[Path]:
    """A new folder for one delivery of a task, removed at the end.

    What an earlier delivery of the same task left is removed first: its worker is dead, or is
    about to lose to this one. So is what any other worker left that was killed.
    """
    # Hashed, as a task's id can be any text that a producer likes.
    task = hashlib.sha256(task_id.encode()).hexdigest()[:20]
    for leftover in root.glob(f"work-{task}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    root.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(root)
    folder = root / f"work-{task}-{uuid.uuid4().hex[:8]}"
    hidden = root / f".{folder.name}"  # until it is held
    hidden.mkdir()
    with _held(hidden):
        hidden.rename(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(root: Path) -> None:
    for folder in root.glob("work-*"):
        with contextlib.suppress(OSError), _held(folder):  # BlockingIOError: its worker lives
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock a folder; the kernel lets go of it when the process dies, however it dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


async def train_in_process(
    request: TrainingRequest,
    folder: Path,
    dataset_root: Path,
    *,
    on_plan: Callable[[Plan], None],
    on_progress: Callable[[Progress], Awaitable[None]],
) -> Outcome:
    """Train in a new process. Cancelling this coroutine kills it.

    Args:
        request: what to train.
        folder: empty; gets what `bridge.training.child` documents.
        dataset_root: where the dataset lies.
        on_plan: called before training begins; what it raises ends the process.
        on_progress: called with each progress record; so does it.

    Raises:
        TrainingError: what the process reported, or `TrainingFailedError` if it died.
    """
    job = {
        "request": request.model_dump(mode="json"),
        "dataset_root": str(dataset_root),
        "folder": str(folder),
        "parent_pid": os.getpid(),
    }
    log_file = folder / _LOG_FILE
    process, lines, pipe = await _start(log_file)
    try:
        await _send(process, job)
        outcome = await _listen(lines, on_plan, on_progress)
        status = await process.wait()
    finally:
        pipe.close()
        await _end(process)
    if outcome is None or status != 0:
        raise TrainingFailedError(_epitaph(status, log_file))
    return outcome


async def _start(
    log_file: Path,
) -> tuple[asyncio.subprocess.Process, asyncio.StreamReader, asyncio.BaseTransport]:
    """The process, and the pipe on which it reports."""
    reading, writing = os.pipe()
    stream = asyncio.StreamReader(limit=_LINE_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reading, "rb", buffering=0)
    )
    try:
        with log_file.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the project's root may be the working folder, and has a folder `triton`
                "-m",
                "bridge.training.child",
                str(writing),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(writing,),
                start_new_session=True,  # so that it can be ended with all that it started
            )
    except BaseException:
        transport.close()
        raise
    finally:
        os.close(writing)  # ours; once the process's is closed too, the stream ends
    return process, stream, transport


async def _send(process: asyncio.subprocess.Process, job: dict[str, Any]) -> None:
    assert process.stdin is not None  # noqa: S101  (it was asked for)
    # It may be dead already; the listening will tell.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(json.dumps(job).encode())
        await process.stdin.drain()
        process.stdin.close()


async def _listen(
    lines: asyncio.StreamReader,
    on_plan: Callable[[Plan], None],
    on_progress: Callable[[Progress], Awaitable[None]],
) -> Outcome | None:
    """Follow the process until it ends its reports; None if it gave no result."""
    plan: Plan | None = None
    while text := await lines.readline():
        line = json.loads(text)
        kind = line.pop("kind")
        if kind == "progress":
            await on_progress(line)
        elif kind == "plan":
            plan = Plan(Signature.from_json(line["signature"]))
            on_plan(plan)
        elif kind == "error":
            raise (error_class(line["class"]) or TrainingFailedError)(line["message"])
        elif plan is not None:
            return Outcome(plan, line)
    return None


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the process's whole group, if anything of it is left, and reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # Killed processes end at once; a cancellation meanwhile must not leave a zombie.
    await asyncio.shield(asyncio.create_task(process.wait()))


def _epitaph(status: int, log_file: Path) -> str:
    if status < 0:
        how = f"was killed by {signal.Signals(-status).name}"
        if -status == signal.SIGKILL:
            how += " (the machine may have run out of memory)"
    else:
        how = f"ended with status {status}"
    with contextlib.suppress(OSError):
        tail = log_file.read_bytes()[-_SHOWN_BYTES:].decode(errors="replace").splitlines()
        shown = "\n".join(tail[-_SHOWN_LINES:])
        return f"the training process {how} before it had a model; its last words:\n{shown}"
    return f"the training process {how} before it had a model"
