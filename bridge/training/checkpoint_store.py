"""What a store of checkpoints must do. No torch.

A store knows names and bytes, one room of them for each task, and nothing of tokens or steps:
those are `checkpoints`'. The stores are in `checkpoint_folder` and `checkpoint_bucket`; `places`
says which one the settings name.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies in a task's room under one name."""

    name: str
    modified: float
    """Unix time, by the store's clock."""
    size: int
    """Bytes."""


class CheckpointStore(Protocol):
    """Files by task and name; each is there whole, or not at all.

    Every method raises `CheckpointError` where the store cannot be reached, is full or refuses us.
    """

    @property
    def shown(self) -> str:
        """Where it is, as a person may see it."""
        ...

    async def entries(self, job: str) -> list[Entry]:
        """What lies in a task's room, in any order; nothing where there is no such room."""
        ...

    async def jobs(self) -> dict[str, float]:
        """All rooms, and when something was last written there: Unix time."""
        ...

    async def read(self, job: str, name: str) -> bytes:
        """Something small.

        Raises:
            FileNotFoundError: it is not there.
        """
        ...

    async def fetch(self, job: str, name: str, into: Path) -> Path:
        """Something large, as a local file: the store's own, or a copy in the folder `into`.

        Raises:
            FileNotFoundError: it is not there.
        """
        ...

    async def write(self, job: str, name: str, data: bytes) -> None:
        """Keep something small, in place of what had the name."""
        ...

    async def put(self, job: str, name: str, file: Path) -> None:
        """Keep a file. It may be moved: it need not be there afterwards."""
        ...

    async def delete(self, job: str, names: list[str]) -> None:
        """Delete in this order; what is not there is passed over."""
        ...
