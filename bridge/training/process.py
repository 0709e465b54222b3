"""Starts the training process, listens to it, and ends it. The parent's side; no torch.

Enters: a request and an empty folder. Leaves: an `Outcome`, with files in the folder, or word that
it is not trained yet. Whatever happens, the process and all that it started are gone afterwards.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bridge.errors import (
    MachineMemoryError,
    TrainingCrashedError,
    TrainingFailedError,
    TrainingMemoryError,
    error_class,
)
from bridge.repository import Signature
from bridge.training.failures import LESS_MEMORY
from bridge.training.hindrances import starting_a_process, working_in
from bridge.training.published import Ancestor
from bridge.training.request import TrainingRequest
from bridge.training.room import kernel_kills
from bridge.training.starting import AHEAD_S, Spare, start
from bridge.training.threads import environment

Progress = dict[str, Any]

LOG_FILE = "child.log"
"""What the process and its libraries print, in its folder."""

_SHOWN_LINES = 12
_SHOWN_BYTES = 4096
_LOOK_EVERY_S = 0.5
_SILENT_S = 1800.0  # it reports each second, or each minute; only one batch may take long
_FOR_CHILD = (
    "length_s",
    "checkpoint_every_s",
    "limit_s",
    "finished",
    "dataset_hash",
    "begun",
    "threads",
    "meet",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the model will take and give; known before training begins."""

    signature: Signature
    columns: tuple[str, ...]
    """What the inputs are made of, in order."""
    target: str
    """What is predicted; several columns with commas between them."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A trained and exported model; its files lie in the folder that was given."""

    plan: Plan
    result: dict[str, Any]
    """`metrics`, `parity`, `dataset_hash`, `columns`, `target`, `task`, `rows`, `threads`,
    `hyperparameters` (as used), `training_s`, `timings`, `libraries`; `variant`, where one was
    asked for."""


@dataclass(frozen=True, slots=True)
class Piece:
    """How much of a training one process does."""

    length_s: float = 1e9
    """After which it saves and ends."""
    checkpoint_every_s: float = 1e9
    limit_s: float | None = None
    """Seconds that the whole training may take."""
    memory_bytes: int | None = None
    """What the process and all that it starts may have in memory."""
    resume: Path | None = None
    """A checkpoint to go on from."""
    finished: bool = False
    """It is that of a trained network."""
    dataset_hash: str | None = None
    """What the data were when that was saved; other data are refused."""
    ancestor: Ancestor | None = None
    """What it begins with, where that is a published version."""
    begun: dict[str, Any] | None = None
    """What the first slice said of the weights that it began with."""
    threads: int | None = None
    """With how many it computes; None: as many as there are processors."""
    meet: dict[str, Any] | None = None
    """Where other machines are met: `address`, this one's `rank`, and the `port` if it knows it."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: it saves and ends at once."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who hears what the process reports. What they raise ends it."""

    plan: Callable[[Plan], None]
    """Called before training begins."""
    progress: Callable[[Progress], Awaitable[None]]
    checkpoint: Callable[[Path, dict[str, Any]], Awaitable[None]]
    """Gets a file, which it may move, and its facts: see `bridge.training.checkpoints`."""
    meeting: Callable[[int, str], Awaitable[None]] | None = None
    """Gets the port where the first of several machines waits, and what its data are."""


async def train_in_process(  # noqa: PLR0913 - what, where, how much of it, who hears, in which
    request: TrainingRequest,
    folder: Path,
    dataset_root: Path,
    piece: Piece,
    listeners: Listeners,
    *,
    spare: Spare | None = None,
) -> Outcome | None:
    """Train in a process of its own. Cancelling this coroutine kills it.

    Args:
        request: what to train.
        folder: empty; gets what `bridge.training.child` documents.
        dataset_root: where the dataset lies.
        piece: how much of it.
        listeners: who hears of it.
        spare: perhaps it is ready; it is made ready for the next. None: none is.

    Returns:
        None: it is not trained yet, and its last checkpoint says how far it is.

    Raises:
        TrainingError: what the process reported; if it died, or could not be started,
            `TrainingCrashedError`, or `TrainingMemoryError` if that was for its memory;
            `CheckpointError`, if it has nowhere to work.
    """
    job = {
        "request": request.model_dump(mode="json"),
        "dataset_root": str(dataset_root),
        "folder": str(folder),
        "log": str(folder / LOG_FILE),
        "resume": piece.resume and str(piece.resume),
        "ancestor": piece.ancestor and piece.ancestor.to_json(),
        **{name: getattr(piece, name) for name in _FOR_CHILD},
    }
    return await _train(job, folder, piece, listeners, spare or Spare())


async def _train(
    job: dict[str, Any], folder: Path, piece: Piece, listeners: Listeners, spare: Spare
) -> Outcome | None:
    log_file = folder / LOG_FILE
    with working_in(folder, "BRIDGE_WORK_ROOT"):
        log_file.touch()
    kills = kernel_kills()
    variables = environment(piece.threads)
    with starting_a_process():
        child = await spare.take(variables) or await start(variables, log_file)
    begun = asyncio.Event()
    sending = asyncio.create_task(_send(child.process, job, piece.stop, begun))
    limiting = asyncio.create_task(_limit(child.process.pid, piece.memory_bytes))
    ahead_s = max(0.0, piece.length_s - AHEAD_S)
    ahead = asyncio.get_running_loop().call_later(ahead_s, spare.prepare, variables)
    try:
        done, outcome = await _listen(child.lines, folder, listeners, begun)
        status = await child.process.wait()
    finally:
        ahead.cancel()
        sending.cancel()
        limiting.cancel()
        await child.end()
        spare.prepare(variables)  # most trainings need the same
    if limiting.done() and not limiting.cancelled():
        raise TrainingMemoryError(limiting.result())
    if piece.stop.is_set() and not begun.is_set():
        return None
    if not done or status != 0:
        if status == -signal.SIGKILL and kernel_kills() > kills:
            raise MachineMemoryError(
                f"{_epitaph(status, log_file)}\nThe machine, or its container, had no memory left; "
                f"{LESS_MEMORY}, train less at a time, or give it more"
            )
        raise TrainingCrashedError(_epitaph(status, log_file))
    return outcome


async def _send(
    process: asyncio.subprocess.Process,
    job: dict[str, Any],
    stop: asyncio.Event,
    begun: asyncio.Event,
) -> None:
    """Say what to do, and when to stop; what has not begun has nothing to save."""
    assert process.stdin is not None  # noqa: S101  (it was asked for)
    # It may be dead already; the listening will tell.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, ProcessLookupError):
        process.stdin.write(json.dumps(job).encode() + b"\n")
        await process.stdin.drain()
        await stop.wait()
        if not begun.is_set():
            os.killpg(process.pid, signal.SIGKILL)
        process.stdin.write(b"stop\n")
        await process.stdin.drain()


async def _limit(pid: int, memory_bytes: int | None) -> str:
    """Kill the process once it has more memory than it may; returns what to say then."""
    while memory_bytes is None or (found := _memory_of(pid)) <= memory_bytes:  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_EVERY_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return (
        f"the training process had {found:,} bytes in memory; BRIDGE_TRAINING_MEMORY_BYTES allows "
        f"{memory_bytes:,}; {LESS_MEMORY}, or raise it"
    )


def _memory_of(pid: int) -> int:
    try:
        process = psutil.Process(pid)
        return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
    except psutil.Error:  # it has just ended
        return 0


async def _listen(
    lines: asyncio.StreamReader, folder: Path, listeners: Listeners, begun: asyncio.Event
) -> tuple[bool, Outcome | None]:
    """Follow the process until it ends its reports; whether it came to an end, and what it made."""
    plan: Plan | None = None
    while text := await _line(lines):
        line = json.loads(text)
        kind = line.pop("kind")
        if kind == "progress":
            await listeners.progress(line)
        elif kind == "meeting" and listeners.meeting is not None:
            await listeners.meeting(line["port"], line["dataset_hash"])
        elif kind == "plan":
            signature = Signature.from_json(line["signature"])
            plan = Plan(signature, tuple(line["columns"]), line["target"])
            listeners.plan(plan)
            begun.set()
        elif kind == "checkpoint":
            await listeners.checkpoint(folder / line.pop("file"), line)
        elif kind == "error":
            raise (error_class(line["class"]) or TrainingFailedError)(line["message"])
        elif kind == "sliced":
            return True, None
        elif plan is not None:
            return True, Outcome(plan, line)
    return False, None


async def _line(lines: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(_SILENT_S):
            return await lines.readline()
    except TimeoutError:
        raise TrainingCrashedError(
            f"the training process said nothing for {_SILENT_S / 60:g} minutes, and was killed"
        ) from None


def _epitaph(status: int, log_file: Path) -> str:
    if status < 0:
        how = f"was killed by {signal.Signals(-status).name}"
    else:
        how = f"ended with status {status}"
    with contextlib.suppress(OSError):
        tail = log_file.read_bytes()[-_SHOWN_BYTES:].decode(errors="replace").splitlines()
        shown = "\n".join(tail[-_SHOWN_LINES:]) or "(none)"
        return f"the training process {how} before it had a model; its last words:\n{shown}"
    return f"the training process {how} before it had a model"
