"""The parts of a stack while they run: started, watched, started again, and stopped.

Enters: servers that are to run. Leaves: parts, whose state is told at each change. Must not know
what a part is for, but that workers end first.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from bridge.background import cancel_once
from bridge.embedded.parts import Part, PartState
from bridge.embedded.server import Server
from bridge.embedded.workers import WorkerPool
from bridge.errors import RuntimeStartError

_MAX_RESTARTS = 3
_RESTART_WINDOW_S = 60.0


class Supervision:
    """Keeps parts running.

    Args:
        on_change: called with a part whenever its state changes.
    """

    def __init__(self, on_change: Callable[[Part], None] | None = None) -> None:
        self.parts: list[Part] = []
        self._on_change = on_change

    async def start(
        self, name: str, server: Server, address: str, metrics: str | None = None
    ) -> None:
        """Start a part of our own, and keep it in mind even where that fails.

        Args:
            name: of the part, for people.
            server: what is started.
            address: where it will answer, for people.
            metrics: the URL of its figures, if it has any.

        Raises:
            RuntimeStartError: it does not start.
        """
        part = Part(name, address, PartState.STARTING, server, metrics)
        self.parts.append(part)
        await self._bring_up(part, server)

    def add_found(self, name: str, address: str) -> None:
        """Name a part that ran already; it is neither watched nor stopped."""
        part = Part(name, address, PartState.FOUND)
        self.parts.append(part)
        self._report(part, PartState.FOUND)

    async def watch(self, stop: asyncio.Event) -> None:
        """Keep our own parts running until `stop` is set.

        Raises:
            RuntimeStartError: a part ended once too often, or does not start again.
        """
        own = [self._supervise(part, part.server) for part in self.parts if part.server]
        stopping = asyncio.ensure_future(stop.wait())
        watching = [asyncio.ensure_future(supervision) for supervision in own]
        try:
            done, _ = await asyncio.wait([stopping, *watching], return_when="FIRST_COMPLETED")
            for task in done - {stopping}:
                task.result()
        finally:
            await cancel_once(stopping, *watching)

    async def stop(self) -> None:
        """End our own parts, workers first."""
        pools = [part for part in self.parts if isinstance(part.server, WorkerPool)]
        servers = [part for part in self.parts if part.server and part not in pools]
        for group in (pools, servers):
            await asyncio.gather(*(self._stop_part(part) for part in group))

    async def _bring_up(self, part: Part, server: Server) -> None:
        self._report(part, part.state)
        try:
            await server.start()
        except RuntimeStartError:
            self._report(part, PartState.FAILED)
            raise
        self._report(part, PartState.RUNNING)

    async def _supervise(self, part: Part, server: Server) -> None:
        ends: deque[float] = deque(maxlen=_MAX_RESTARTS + 1)
        while True:
            code = await server.process.wait()
            ends.append(time.monotonic())
            if len(ends) > _MAX_RESTARTS and ends[-1] - ends[0] < _RESTART_WINDOW_S:
                self._report(part, PartState.FAILED)
                raise RuntimeStartError(
                    f"{part.name} ended {len(ends)} times within {_RESTART_WINDOW_S:g} s, at last "
                    f"with code {code}.{server.process.described_tail()}"
                )
            part.state = PartState.RESTARTING
            await server.kill()  # what its end has left: descendants, shared memory
            await self._bring_up(part, server)

    async def _stop_part(self, part: Part) -> None:
        if part.server is not None:
            await part.server.stop()
            if part.state is not PartState.FAILED:
                self._report(part, PartState.STOPPED)

    def _report(self, part: Part, state: PartState) -> None:
        part.state = state
        if self._on_change is not None:
            self._on_change(part)
