"""What all embedded servers have in common: start, readiness, stop, kill, restart."""

from abc import ABC, abstractmethod
from typing import ClassVar, Self

from bridge.embedded.process import Process
from bridge.embedded.state import StateFolder


class Server(ABC):
    """One server, on ports and data that stay the same over `restart`.

    `async with SomeServer(state) as server:`; ready when the block begins, and gone, with all
    that it started, when it ends. Start-up that fails leaves nothing running.
    """

    name: ClassVar[str]
    start_timeout_s: ClassVar[float] = 60.0
    stop_timeout_s: float = 10.0
    remedy: ClassVar[str] = "See the log."

    def __init__(self, state: StateFolder, name: str | None = None) -> None:
        self._state = state
        self.room = state.room(name or self.name)
        self.process = Process(state, self.room, self.room.name)

    @property
    def pid(self) -> int | None:
        """Of the server's main process."""
        return self.process.pid

    @abstractmethod
    def _command(self) -> list[str]:
        """The program and its arguments; raises RuntimeStartError if it is not installed."""

    @abstractmethod
    def _environment(self) -> dict[str, str]:
        """The program's environment."""

    @abstractmethod
    async def _answers(self) -> bool:
        """Whether the server is ready."""

    async def _before_start(self) -> None:  # noqa: B027  # a hook: most need nothing
        """What must be there before the program starts."""

    async def _after_end(self) -> None:  # noqa: B027  # a hook: most leave nothing
        """What remains to be removed after the program's end."""

    async def start(self) -> None:
        """Start the server and wait until it is ready.

        Raises:
            RuntimeStartError: it is not installed, ended, or was not ready in time; the text
                says what to do. Nothing of it runs any more.
        """
        try:
            command = self._command()
            await self._before_start()
            await self.process.start(command, self._environment())
            await self.process.wait_ready(
                self._answers, timeout_s=self.start_timeout_s, remedy=self.remedy
            )
        except BaseException:
            await self.kill()
            raise

    async def stop(self) -> None:
        """End the server in order, within `stop_timeout_s` seconds, by force after that."""
        await self.process.stop(timeout_s=self.stop_timeout_s)
        await self._after_end()

    async def kill(self) -> None:
        """End the server by SIGKILL, as a crash would."""
        await self.process.kill()
        await self._after_end()

    async def restart(self) -> None:
        """Stop, if it runs, and start again on the same ports and data."""
        await self.stop()
        await self.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
