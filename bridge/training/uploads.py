"""Keeps checkpoints while the training goes on. The parent's side; no torch.

Enters: files, as the training process reports them. The store may be slow, or away: of those that
wait, the newest counts, and the process is never kept waiting.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bridge.background import end
from bridge.errors import CheckpointError, LeaseLostError
from bridge.training.checkpoints import Checkpoint

_LAST_S = 600.0  # for the last one of a slice; with the slice below RabbitMQ's consumer_timeout

Facts = dict[str, Any]
Keep = Callable[[Path, Facts], Awaitable[Checkpoint]]

log = logging.getLogger("bridge.training")


class Uploads:
    """Of one slice. Leaving the block ends what still goes on."""

    def __init__(self, keep: Keep, last_s: float = _LAST_S) -> None:
        """Nothing is kept before the block is entered.

        Args:
            keep: see `Checkpoints.keep`.
            last_s: seconds that `finish` waits at most.
        """
        self.kept: Facts | None = None
        """Of the newest that is kept."""
        self._keep, self._last_s = keep, last_s
        self._waiting: tuple[Path, Facts] | None = None
        self._failed: tuple[Path, Facts] | None = None
        self._lost: LeaseLostError | None = None
        self._error: CheckpointError | None = None
        self._wake, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()

    async def __aenter__(self) -> Self:
        self._working = asyncio.create_task(self._work())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await end(self._working)

    def add(self, file: Path, facts: Facts) -> None:
        """Keep a file soon; one that still waits is given up for it."""
        _give_up(self._waiting)
        _give_up(self._failed)
        self._waiting, self._failed = (file, facts), None
        self._idle.clear()
        self._wake.set()

    def check(self) -> None:
        """See whether it makes sense to go on.

        Raises:
            LeaseLostError: somebody with a newer token has written.
        """
        if self._lost is not None:
            raise self._lost

    async def finish(self) -> None:
        """Wait until the newest is kept; one that could not be is tried once more.

        Raises:
            LeaseLostError: somebody with a newer token has written.
            CheckpointError: it cannot be kept, or not in time.
        """
        self.check()
        again, self._failed = self._failed, None
        if again is not None and again[0].exists():
            self.add(*again)
        try:
            async with asyncio.timeout(self._last_s):
                await self._idle.wait()
        except TimeoutError:
            raise CheckpointError(
                f"the last checkpoint was not uploaded within {self._last_s:g} s; give CHECKPOINT_"
                "ROOT a faster store, or train a smaller network"
            ) from None
        self.check()
        if self._error is not None:
            raise self._error

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting is not None:
                (file, facts), self._waiting = self._waiting, None
                await self._try(file, facts)
            self._idle.set()

    async def _try(self, file: Path, facts: Facts) -> None:
        try:
            self.kept = (await self._keep(file, facts)).facts
        except LeaseLostError as error:
            self._lost = error
        except Exception as error:  # noqa: BLE001 - of whatever kind, the training goes on
            log.warning("the training goes on without a new checkpoint: %s", error)
            self._error = _told(error)
            if self._waiting is None:
                self._failed = (file, facts)
            else:
                _give_up((file, facts))
        else:
            self._error = None


def _give_up(entry: tuple[Path, Facts] | None) -> None:
    if entry is not None:
        entry[0].unlink(missing_ok=True)


def _told(error: Exception) -> CheckpointError:
    if isinstance(error, CheckpointError):
        return error
    return CheckpointError(f"cannot keep a checkpoint: {type(error).__name__}: {error}")
