"""One child process: started, watched until it is ready, and ended with all its descendants."""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from bridge.embedded.leftovers import Session, end_processes
from bridge.embedded.state import StateFolder
from bridge.errors import RuntimeStartError

_POLL_S = 0.05
_TAIL_BYTES = 8_192
_TAIL_LINES = 15
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "HOME", "USER", "LD_LIBRARY_PATH")
_PASSED_ON_PREFIXES = ("CUDA_", "NVIDIA_", "OMP_")


def clean_environment() -> dict[str, str]:
    """What a server needs of our environment; passwords and its own variables stay out."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }


class Process:
    """A program in a session of its own, its output in a log file in its room.

    Args:
        state: the state folder, whose keeper watches over the process.
        room: the server's folder in it; processes of one room end together.
        name: as errors and logs call it.
    """

    def __init__(self, state: StateFolder, room: Path, name: str) -> None:
        self.name = name
        self.log_path = room / f"{name}.log"
        self._state = state
        self._room = room
        self._process: asyncio.subprocess.Process | None = None
        self._session: Session | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Of the program itself, also after its end; None before the first start."""
        return None if self._process is None else self._process.pid

    @property
    def returncode(self) -> int | None:
        """None as long as it runs; negative is the number of the signal that ended it."""
        return None if self._process is None else self._process.returncode

    @property
    def started_at(self) -> float | None:
        """Seconds since the epoch at the latest start; None before the first."""
        return None if self._session is None else self._session.started

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the program; it is not ready yet.

        Args:
            command: the program's path and its arguments.
            environment: all of its variables; the state folder adds its own.

        Raises:
            RuntimeStartError: the program is not there or cannot be executed.
        """
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self._room,
                    env={**environment, **self._state.environment(self._room)},
                    start_new_session=True,
                )
            except OSError as error:
                raise RuntimeStartError(f"cannot start {self.name}: {error}") from error
        self._session = self._state.watch_over(self._process.pid)

    async def wait_ready(
        self, probe: Callable[[], Awaitable[bool]], *, timeout_s: float, remedy: str
    ) -> None:
        """Wait until `probe` is true.

        Args:
            probe: asks the server; raises RuntimeStartError to give up at once.
            timeout_s: how long it may take, in seconds.
            remedy: what a person can do, as one sentence.

        Raises:
            RuntimeStartError: the program ended, or is not ready in time. Its text holds the
                remedy and the last lines of the log.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            if not self.running:
                raise RuntimeStartError(
                    f"{self.name} ended with code {self.returncode} while it started. {remedy}"
                    f"{self.described_tail()}"
                )
            if await probe() and self.running:  # else another answered on our port
                return
            if loop.time() > deadline:
                raise RuntimeStartError(
                    f"{self.name} was not ready within {timeout_s:g} s. {remedy}"
                    f"{self.described_tail()}"
                )
            await asyncio.sleep(_POLL_S)

    async def wait(self) -> int:
        """Wait for the program's end; returns its code."""
        if self._process is None:
            return 0
        return await self._process.wait()

    async def stop(self, *, timeout_s: float) -> None:
        """Ask the program to end; after `timeout_s` seconds kill it. Then end the rest of it."""
        if self._process is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), timeout_s)
            except asyncio.CancelledError:
                await self.kill()
                raise
        await self.kill()

    async def kill(self) -> None:
        """End the program, and all that it started, by SIGKILL."""
        if self._process is None:
            return
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        sessions = [] if self._session is None else [self._session]
        mark = f"{self._state.name}/{self._room.name}"
        await asyncio.to_thread(end_processes, mark, sessions)
        await self._process.wait()

    def log_since_start(self) -> bytes:
        """What the program wrote since its latest start."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read()

    def log_tail(self) -> str:
        """The last lines of the log."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(max(0, self.log_path.stat().st_size - _TAIL_BYTES))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-_TAIL_LINES:])

    def described_tail(self) -> str:
        """The log's tail as an error's text ends with it."""
        tail = self.log_tail()
        return f"\nIts last lines:\n{tail}" if tail else " It wrote nothing."
