"""An image that runs: a process in its root, watched from outside.

Enters: a root and what its image remembers. Leaves: whether it is healthy, who it runs as, how it
ends. It is confined as docker-compose.yml confines it.
"""

import asyncio
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil
from dockerfile import Image
from roots import Mount, enter

HEALTHY_S = 180.0
STOPPED_S = 60.0


class TrialError(Exception):
    """An image does not do what it is for."""


def good_codes(stop_signal: str) -> set[int]:
    """Exit codes of a program that was stopped by its signal, and came to its end in order."""
    # Python that Ctrl-C ends says so; who ends by SIGTERM has not heard it.
    return {0, 128 + signal.SIGINT} if stop_signal == "SIGINT" else {0}


class Container:
    """`async with Container(...)`: runs, healthy, and not as root.

    Args:
        name: as it is called in what is said.
        root: its files.
        image: its command, user and health check.
        environment: variables besides the image's.
        volumes: folder of this machine by path in the container; each becomes the property of the
            owner of what it covers, as a new volume does.
        log: where its output goes.

    Raises:
        TrialError: it does not become healthy, runs as root, or ends in another way than it should.
    """

    def __init__(  # noqa: PLR0913 - what a container is made of
        self,
        name: str,
        root: Path,
        image: Image,
        *,
        environment: Mapping[str, str],
        volumes: Mapping[str, Path],
        log: Path,
    ) -> None:
        self.name = name
        self._root, self._image, self._log = root, image, log
        self._environment = {**image.environment, **environment}
        self._mounts = [Mount(source, path, writable=True) for path, source in volumes.items()]
        self._process: subprocess.Popen[bytes] | None = None
        self.started_s = self.stopped_s = 0.0
        self.exit_code: int | None = None

    async def __aenter__(self) -> Self:
        for mount in self._mounts:
            owner = (self._root / mount.target.lstrip("/")).stat()
            subprocess.run(
                ["chown", "-R", f"{owner.st_uid}:{owner.st_gid}", str(mount.source)], check=True
            )
        started = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._enter(self._image.command), stdout=log, stderr=log, start_new_session=True
            )
        try:
            await self._until_healthy()
            self.started_s = time.perf_counter() - started
            self._check_user()
        except BaseException:
            self._process.kill()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        process = self._alive()
        started = time.perf_counter()
        self._first().send_signal(signal.Signals[self._image.stop_signal])
        try:
            self.exit_code = await asyncio.to_thread(process.wait, STOPPED_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise TrialError(f"{self.name} did not stop in {STOPPED_S:.0f} s") from None
        self.stopped_s = time.perf_counter() - started
        if kind is None and self.exit_code not in good_codes(self._image.stop_signal):
            raise TrialError(
                f"{self.name} ended with exit code {self.exit_code} at {self._image.stop_signal}:\n"
                f"{self.tail()}"
            )

    def tail(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-3000:]

    async def _until_healthy(self) -> None:
        deadline = time.monotonic() + HEALTHY_S
        while True:
            self._alive()
            check = await asyncio.create_subprocess_exec(
                *self._enter(self._image.health),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            _, said = await check.communicate()
            if check.returncode == 0:
                return
            if time.monotonic() > deadline:
                why = said.decode(errors="replace")[-500:]
                raise TrialError(f"{self.name} is not healthy: {why}\n{self.tail()}")
            await asyncio.sleep(0.5)

    def _check_user(self) -> None:
        first = self._first()
        for process in [first, *first.children(recursive=True)]:
            with process.oneshot():
                if 0 in {*process.uids(), *process.gids()}:
                    raise TrialError(f"{self.name} runs as root: {process.cmdline()}")

    def _first(self) -> psutil.Process:
        return psutil.Process(self._alive().pid).children()[0]

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise TrialError(f"{self.name} ended:\n{self.tail()}")
        return self._process

    def _enter(self, command: Sequence[str]) -> list[str]:
        return enter(
            self._root,
            command,
            environment=self._environment,
            folder=self._image.folder,
            user=self._image.user,
            mounts=self._mounts,
            confined=True,
        )
