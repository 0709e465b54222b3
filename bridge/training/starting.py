"""Starts training processes, ends them, and has one ready before it is needed. No torch.

Enters: the variables that a process begins with. Leaves: a `Child` that has loaded torch, or is
about to, and waits for its job. Loading takes seconds, in which nothing is trained: a process that
was started ahead has them behind it.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bridge.training.folders import scratch_folder
from bridge.training.room import free_memory

AHEAD_S = 15.0
"""Before the end of a slice, to have a process ready for the next."""

_LEAST_FREE_BYTES = 2_000_000_000  # it takes a third of that
_LINE_BYTES = 16 * 1024 * 1024  # a plan with very many labels

logger = logging.getLogger("bridge.training")


@dataclass(frozen=True, slots=True)
class Child:
    """A training process."""

    process: Process
    lines: asyncio.StreamReader
    """What it reports."""
    held: ExitStack
    """What goes with it: the pipe that this comes from, and its temporary files."""

    async def end(self) -> None:
        """Kill its whole group, if anything of it is left, and reap it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        # Killed processes end at once; a cancellation meanwhile must not leave a zombie.
        await asyncio.shield(asyncio.create_task(self._reap()))

    async def dismiss(self) -> None:
        """End one that had no job, and has thus started nothing."""
        if self.process.returncode is None:
            await self.end()
        else:  # perhaps long ago: its number may be another's by now
            self.held.close()

    async def _reap(self) -> None:
        await self.process.wait()
        self.held.close()


async def start(variables: dict[str, str], log: Path | None = None) -> Child:
    """Start one, which takes its job from its standard input.

    Args:
        variables: all that it has, but for TMPDIR: libraries remember it from when they are
            loaded, and what they leave there must go with the process.
        log: gets what it prints until its job names a place. None: that is lost.

    Raises:
        OSError: the machine has no room for another process.
        CheckpointError: it has none for temporary files.
    """
    held = ExitStack()
    try:
        scratch = held.enter_context(scratch_folder())
        reading, writing = os.pipe()
        with ExitStack() as ours:
            ours.callback(os.close, writing)  # once the process's is closed too, the stream ends
            lines = asyncio.StreamReader(limit=_LINE_BYTES)
            pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(reading, "rb", buffering=0)
            )
            held.callback(pipe.close)
            output = DEVNULL if log is None else ours.enter_context(log.open("ab"))
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the project's root may be the working folder, and has a folder `triton`
                "-u",  # it may be killed as soon as it has told of an error
                "-m",
                "bridge.training.child",
                str(writing),
                str(os.getpid()),
                stdin=PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(writing,),
                env={**variables, "TMPDIR": str(scratch)},
                start_new_session=True,  # so that it can be ended with all that it started
            )
    except BaseException:
        held.close()
        raise
    return Child(process, lines, held)


class Spare:
    """At most one process that waits for its job."""

    def __init__(self, *, kept: bool = False) -> None:
        """There is none before `prepare`.

        Args:
            kept: False: there never is one.
        """
        self._kept = kept
        self._starting: tuple[asyncio.Task[Child], dict[str, str]] | None = None

    def prepare(self, variables: dict[str, str]) -> None:
        """Start one for who needs just these, if there is none, and memory enough."""
        if self._starting is not None or not self._kept:
            return
        if free_memory() < _LEAST_FREE_BYTES:
            logger.info("memory is short: no training process is kept ready")
            return
        self._starting = asyncio.create_task(start(variables)), variables

    async def take(self, variables: dict[str, str]) -> Child | None:
        """The one that waits; None: there is none, or it had other variables, and has ended."""
        child, its_own = await self._started()
        if child is None:
            return None
        if child.process.returncode is not None:
            logger.info("the training process kept ready had ended (%s)", child.process.returncode)
        elif variables == its_own:
            return child
        await child.dismiss()
        return None

    def retire(self) -> None:
        """There will be no other."""
        self._kept = False

    async def close(self) -> None:
        """End it, and retire."""
        self.retire()
        child, _ = await self._started()
        if child is not None:
            await child.dismiss()

    async def _started(self) -> tuple[Child | None, dict[str, str]]:
        """The one that there is, which is the caller's now, and its variables."""
        if self._starting is None:
            return None, {}
        (starting, variables), self._starting = self._starting, None
        try:
            return await starting, variables
        except asyncio.CancelledError:
            # It has been cancelled with us, or was done just before: then nobody else has it.
            if not starting.cancelled() and starting.exception() is None:
                await starting.result().dismiss()
            raise
        except Exception as error:  # noqa: BLE001  (who needs one starts it, and will be told)
            logger.info("no training process could be kept ready: %s", error)
            return None, {}
