"""A full disk, where one can be had: a small tmpfs of our own, which only root may mount."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_SIZE = "size=32m"


def mount(folder: Path) -> str | None:
    """Put a small file system over an empty folder; returns why not, or None.

    Args:
        folder: of the state folder, which is removed at the end; call `unmount` before.
    """
    if os.geteuid() != 0:
        return "only root may mount a small disk; run it as root to have this fault"
    command = ["mount", "-t", "tmpfs", "-o", _SIZE, "bridgechaos", str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return ran.stderr.strip() if ran.returncode else None


def unmount(folder: Path) -> None:
    """Take it away, whoever still has files open there."""
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=False)  # noqa: S603, S607


@asynccontextmanager
async def filled(folder: Path) -> AsyncIterator[None]:
    """As long as the block lasts, no byte more fits."""
    ballast = folder / ".ballast"
    await asyncio.to_thread(_fill, ballast)
    try:
        yield
    finally:
        ballast.unlink()


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
